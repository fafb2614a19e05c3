"""The token: held so that it is never shown, and kept out of what the client logs."""

from __future__ import annotations

import logging
from typing import Any

HIDDEN = "(token)"


class Secret:
    """A string that no repr, copy, pickle or checkpoint holds; `Secret(None)` is empty."""

    __slots__ = ("_value",)

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "None" if self._value is None else HIDDEN

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Secret, (None,)

    def reveal(self) -> str | None:
        """The string itself, for the client alone."""
        return self._value

    def hide(self, text: str) -> str:
        """The text without the token."""
        return text.replace(self._value, HIDDEN) if self._value else text


class _Filter(logging.Filter):
    """dwave-cloud-client logs its configuration, the token in it: rewritten here, on every logger of the client."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # the caller's bad format: logging reports it
            return True
        if any(token in text for token in self.known):
            for token in self.known:
                text = text.replace(token, HIDDEN)
            record.msg, record.args = text, None
        if record.exc_info and record.exc_info[1] is not None:
            shown = logging.Formatter().formatException(record.exc_info)
            if any(token in shown for token in self.known):
                record.exc_info, record.exc_text = None, None
        return True


_FILTER = _Filter()


def guard(token: str | None) -> None:
    """Keep this token out of the logs of the client, and of what it talks through, from now on."""
    if token:
        _FILTER.known.add(token)
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("dwave", "urllib3", "requests"):
            logger = logging.getLogger(name)
            if _FILTER not in logger.filters:
                logger.addFilter(_FILTER)


class quiet:
    """Inside, the client's configuration is read without a word: its token is not known yet."""

    def __enter__(self) -> None:
        self._loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
        self._loggers = [one for one in self._loggers if one.name.startswith("dwave.cloud") and not one.disabled]
        for one in self._loggers:
            one.disabled = True

    def __exit__(self, *exception: object) -> None:
        for one in self._loggers:
            one.disabled = False
