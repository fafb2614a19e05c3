"""The command line: from arguments to a command, from an error to a line."""

from __future__ import annotations

import io
import os
import re
import select
import sys
from contextlib import redirect_stderr
from importlib.metadata import version
from itertools import dropwhile, takewhile

import tyro

from qsample.cli.errors import EXPECTED, line_of
from qsample.cli.evaluate import Evaluate
from qsample.cli.ranks import is_rank, run_ranks
from qsample.cli.recipes import Recipes, recipe_of
from qsample.cli.sample import Sample
from qsample.cli.samplers import Samplers
from qsample.cli.study.command import Study
from qsample.cli.train import Train
from qsample.support.interrupts import Stopped
from qsample.support.optional import DISTRIBUTION
from qsample.testing.sapi.command import Sapi

Command = Train | Study | Evaluate | Sample | Samplers | Recipes | Sapi


def _parse(arguments: list[str] | None) -> Command:
    """The command asked for; a ValueError with the point of tyro's boxed complaint otherwise."""
    commands = {
        "train": Train,
        "study": Study,
        "evaluate": Evaluate,
        "sample": Sample,
        "samplers": Samplers,
        "recipes": Recipes,
        "sapi": Sapi,
    }
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            command = tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog="qsample")
            if isinstance(command, Train) and (command.resume or command.recipe):
                given = sys.argv[1:] if arguments is None else arguments
                return _with_defaults(command, given[given.index("train") + 1 :])
            return command
    except SystemExit as stop:
        if not stop.code:
            print(end="", flush=True)
            raise  # it was --help
    raise ValueError(f"{_point(complaint.getvalue())} (qsample --help says more)")


def _with_defaults(command: Train, flags: list[str]) -> Train:
    """The command again: the defaults are the flags of the run it resumes, else its recipe's."""
    default = command.former() if command.resume else command
    names_data = any(flag.split("=")[0] in ("--data", "--recipe") for flag in flags)
    if default is command and command.resume and not names_data:
        # a folder mistyped would begin another run, on the default data
        raise ValueError(
            f"no checkpoint at {command.out} to resume: name the run's folder by --out, "
            "or begin a run without --resume"
        )
    if default is command and command.recipe is not None:
        default = recipe_of(command)
    return tyro.cli(Train, args=flags, default=default, prog="qsample train")


def _point(complaint: str) -> str:
    """The first paragraph in tyro's box, which is drawn in Unicode or in ASCII."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaint).splitlines()[1:]
    lines = [re.sub(r"^[│|]|[│|]$", "", line).strip() for line in plain]
    # a rule ends a paragraph as an empty line does
    rule = re.compile(r"[╰]?[─-]{3,}[╯]?")
    lines = ["" if rule.fullmatch(line) else line for line in lines]
    paragraph = takewhile(bool, dropwhile(lambda line: not line, lines))
    return re.sub(r"Error parsing __\S+: ", "", " ".join(paragraph))


def _nobody_reads() -> bool:
    """Whether the pipe of stdout has lost its reader, such as `head`; what is left goes nowhere."""
    stdout = sys.stdout.fileno()
    poll = select.poll()
    poll.register(stdout, 0)
    if not poll.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)
    return True


def main(arguments: list[str] | None = None) -> None:
    """The `qsample` command: expected errors are one line on stderr, exit code 2."""
    command = None
    try:
        if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
            print(f"qsample {version(DISTRIBUTION)}", flush=True)
            return
        command = _parse(arguments)
        if isinstance(command, Train) and command.ranks != 1 and not is_rank():
            code = run_ranks(sys.argv[1:] if arguments is None else arguments, command.ranks)
            if code:
                raise SystemExit(code)
            return
        command()
        print(end="", flush=True)  # else an error of stdout would come after all of this
    except KeyboardInterrupt as error:
        stopped = str(error) or "interrupted"
        remedy = ""
        if isinstance(command, Train):
            remedy = "; resume with the same command and --resume"
        elif isinstance(command, Study):
            remedy = "; the same command goes on"
        print(f"\nqsample: {stopped}{remedy}", file=sys.stderr)
        raise SystemExit(130) from None
    except Stopped as error:
        print(f"\nqsample: {error}; go on with --resume", file=sys.stderr, flush=True)
        # all is on the disk; a busy machine takes seconds to tear Python down
        if arguments is None:
            os._exit(128 + error.number)
        raise SystemExit(error.code) from None
    except EXPECTED as error:
        if isinstance(error, BrokenPipeError) and hasattr(select, "poll") and _nobody_reads():
            raise SystemExit(141) from None  # as of a process that SIGPIPE ends
        line = line_of(error)
        if line is None:
            raise
        print(f"qsample: error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
