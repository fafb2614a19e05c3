"""Optional parts of the install: one way to say which extra brings what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

DISTRIBUTION = "qsample-torch"
"""What pip calls this project; the package `qsample` of PyPI is another project's."""


def install_line(extra: str) -> str:
    """The command that adds an extra to an installed qsample, from a wheel or from a clone."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """A place for imports that stand on an extra.

    Args:
        extra: Name of the extra in pyproject.toml.
        what: What needs it, as the user named it.

    Raises:
        ImportError: An import inside failed; one line with what needs which extra and how to
            install it.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what}: {error}; {install_line(extra)} brings it") from None
