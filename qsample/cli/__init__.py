"""The command line: qsample train, study, evaluate, sample, samplers, recipes, sapi, --version."""

from __future__ import annotations

import os
import sys


def main(arguments: list[str] | None = None) -> None:
    """The `qsample` command: expected errors are one line on stderr, exit code 2.

    It is loaded here, for torch takes seconds to load, and Ctrl-C must end those quietly too.
    """
    try:
        from qsample.cli.command import main as command
    except KeyboardInterrupt:
        print("\nqsample: interrupted", file=sys.stderr, flush=True)
        # Python would end by the signal where code that it runs from a string was interrupted
        if arguments is None:
            os._exit(130)
        raise SystemExit(130) from None
    command(arguments)
