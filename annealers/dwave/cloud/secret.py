"""The token: held so that nothing shows it, and kept out of what the client logs and raises."""

from __future__ import annotations

import base64
import html
import itertools
import json
import logging
import re
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from qsample.support.faces import public

E = TypeVar("E", bound=BaseException)
HIDDEN = "(token)"
PIECE = (
    12  # number of characters of a secret in a row that are hidden too: messages cut values short
)
LONGEST = 20_000  # number of characters up to which a text is searched for pieces
FOREIGN = ("dwave", "requests", "urllib3", "http", "ssl", "pydantic")  # whose frames hold headers

# What a file or a shell leaves around a token: white space, a byte order mark (also read as
# Latin-1), NULs, quotes.
_AROUND = re.compile(r"^(?:\s|[\ufeff\u200b\0]|\xef\xbb\xbf)+|(?:\s|[\ufeff\u200b\0])+$")
# Arguments of D-Wave's client that may hold a password.
SECRET_ARGUMENTS = ("token", "headers", "proxy", "defaults", "client_cert_key")


class Spoken(str):
    """A string for the client alone, whose repr hides it.

    What shows a frame or a header shows `(token)`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __copy__(self) -> Spoken:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Spoken:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (HIDDEN,)


@public("qsample.annealers.dwave")
class Secret:
    """A value that no repr, copy, pickle or checkpoint holds; `Secret(None)` is empty."""

    __slots__ = ("_known", "_parts", "_pieces", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value.reveal() if isinstance(value, Secret) else _spoken(value)
        self._known: tuple[str, ...] | None = None
        self._pieces: frozenset[str] | None = None
        self._parts: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return "None" if self._value is None else HIDDEN

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Secret, (None,)

    def reveal(self) -> Any:
        """The value itself, for the client alone."""
        return self._value

    def token(self) -> Secret:
        """The token in it: without what a file or a shell left around it. Empty is None.

        Raises:
            ValueError: no text, or one with characters that no token has; the message tells which,
                not the token.
        """
        value = self._value
        if value is None:
            return self
        if not isinstance(value, str | bytes):
            raise ValueError(f"expected the token as a string; got {type(value).__name__}")
        text = Spoken(value.decode(errors="replace") if isinstance(value, bytes) else value)
        text = Spoken(_AROUND.sub("", text))
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = Spoken(_AROUND.sub("", text[1:-1]))
        for place, character in enumerate(text):
            if not "!" <= character <= "~":
                name = f"U+{ord(character):04X}"
                raise ValueError(
                    f"the token has a character that no token has, {name} at position {place}: "
                    "copy it again"
                )
        token = Secret(text or None)
        token._known = (*self.spellings, *token.spellings)  # as it was given, too
        return token

    @property
    def spellings(self) -> tuple[str, ...]:
        """How messages may write it, longest first."""
        if self._known is None:
            written = {way for text in _texts(self._value) for way in _ways(text)}
            self._known = tuple(sorted(map(Spoken, written), key=len, reverse=True))
        return self._known

    @property
    def pieces(self) -> frozenset[str]:
        """Every `PIECE` characters in a row of a spelling."""
        if self._pieces is None:
            ways = self.spellings
            self._pieces = frozenset(
                way[i : i + PIECE] for way in ways for i in range(len(way) - PIECE + 1)
            )
        return self._pieces

    @property
    def parts(self) -> tuple[str, ...]:
        """Pieces that do not overlap: every piece of twice the length holds a whole one."""
        if self._parts is None:
            ways = self.spellings
            parts = {
                way[i : i + PIECE] for way in ways for i in range(0, len(way) - PIECE + 1, PIECE)
            }
            self._parts = tuple(parts)
        return self._parts

    def hide(self, text: str) -> str:
        """The text without the secret, in any spelling, whole or in large pieces."""
        return hidden(text, [self])


def _spoken(value: Any) -> Any:
    """The value with every string in it hidden from reprs."""
    if isinstance(value, str):
        return Spoken(value)
    if isinstance(value, Mapping):
        return {key: _spoken(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_spoken(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _texts(value: Any) -> Iterator[str]:
    """The strings of a value that are long enough to be secrets."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        text = str.__str__(value)
        texts = {text, text.strip("\"' \t\r\n\0\ufeff")}
        for user, password in re.findall(r"//([^/@\s:]*):?([^/@\s]*)@", text):
            texts |= {f"{user}:{password}", password or user}
        for line in text.splitlines():  # of headers
            texts.add(line.partition(": ")[2].strip())
        yield from (text for text in texts if len(text) > 3)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _ways(text: str) -> Iterator[str]:
    """The ways in which messages may write a text: quoted, escaped, in hexadecimal, in base 64."""
    raw = text.encode(errors="replace")
    yield text
    for written in (
        repr(text),
        ascii(text),
        repr(raw)[1:],
        json.dumps(text),
        json.dumps(text, ensure_ascii=False),
    ):
        yield written[1:-1]
    yield from (html.escape(text), raw.hex(), raw.hex().upper())
    yield from (
        urllib.parse.quote(text),
        urllib.parse.quote(text, safe=""),
        urllib.parse.quote_plus(text),
    )
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode().rstrip("=")
        for shift in (1, 2):  # inside something longer, such as "user:password"
            yield encode(b"\0" * shift + raw).decode().rstrip("=")[shift + 1 : -1]


def hidden(text: str, secrets: Iterable[Secret], *, fine: bool = True) -> str:
    """The text with every spelling of the secrets, and every piece of one, replaced.

    Args:
        text: the text.
        secrets: what is hidden in it.
        fine: whether every piece of `PIECE` characters is hidden, for which each text is searched
            long; else every piece of twice as many.
    """
    # whole spellings
    secrets = list(secrets)
    for secret in secrets:
        for way in secret.spellings:
            text = text.replace(way, HIDDEN)
    # pieces: each character that is in one is hidden
    if len(text) > LONGEST:
        return text
    if not fine and not any(part in text for secret in secrets for part in secret.parts):
        return text
    pieces = frozenset[str]().union(*(secret.pieces for secret in secrets))
    shown = [True] * len(text)
    for i in range(len(text) - PIECE + 1):
        if text[i : i + PIECE] in pieces:
            shown[i : i + PIECE] = [False] * PIECE
    if all(shown):
        return text
    # each run of hidden characters becomes one word
    parts = []
    for visible, run in itertools.groupby(range(len(text)), key=shown.__getitem__):
        parts.append("".join(text[i] for i in run) if visible else HIDDEN)
    return "".join(parts)


def sealed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of D-Wave's client, what may hold a password in a `Secret`."""
    return {
        name: Secret(value) if value is not None and _is_secret(name, value) else value
        for name, value in arguments.items()
    }


def _is_secret(name: str, value: Any) -> bool:
    """Whether an argument may hold a password: by its name, or as an address with a user in it."""
    if name in SECRET_ARGUMENTS:
        return True
    return isinstance(value, str) and re.search(r"//[^/\s]*@", value) is not None


def without_password(url: str) -> str:
    """An address without the user and password in it."""
    return re.sub(r"//[^/\s]*@", "//", url)


# ---- errors ----------------


def cleaned(error: E, secrets: Iterable[Secret] = ()) -> E:
    """The error, in place, without frames of the client and without a secret in its words.

    Frames of what the client talks through go, too. An error of ours says all in its line: what it
    was raised from, and through, goes. Raise what this returns.
    """
    from qsample.annealers.dwave.cloud.errors import DeviceError

    known = list(secrets) or _FILTER.known
    seen = set[int]()
    chain: list[BaseException] = [error]  # with causes and contexts, yet to be cleaned
    if isinstance(error, DeviceError):
        error.__cause__ = error.__context__ = None
        error.__traceback__ = None
    while chain:
        link = chain.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        chain += [other for other in (link.__cause__, link.__context__) if other is not None]
        link.__traceback__ = _ours(link.__traceback__)
        texts = [arg for arg in link.args if isinstance(arg, str)]
        if any(hidden(text, known) != text for text in texts):
            link.args = tuple(
                hidden(arg, known) if isinstance(arg, str) else arg for arg in link.args
            )
    return error


def _ours(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback up to the first frame of the client's."""
    entry = traceback
    while entry is not None and entry.tb_next is not None:
        module = entry.tb_next.tb_frame.f_globals.get("__name__", "")
        if module.split(".")[0] in FOREIGN:
            entry.tb_next = None
        entry = entry.tb_next
    return traceback


# ---- logs ----------------


class _Filter(logging.Filter):
    """Rewrites what the client logs, on every logger of it: its configuration, the token in it."""

    def __init__(self) -> None:
        super().__init__()
        self.known: list[Secret] = []

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # the caller's bad format: logging reports it
            return True
        cleaned = hidden(text, self.known, fine=False)
        if cleaned != text:
            record.msg = cleaned
            record.args = None
        # as text: a handler may show the locals of its frames
        if record.exc_info and record.exc_info[1] is not None:
            shown = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
            record.exc_text = hidden(shown, self.known)
        if record.stack_info:
            record.stack_info = hidden(record.stack_info, self.known)
        return True


_FILTER = _Filter()
_LOADING = threading.RLock()


def guard(*secrets: Secret) -> None:
    """Keep these out of the logs of the client, and of what it talks through, from now on."""
    known = {secret.spellings for secret in _FILTER.known}
    for secret in secrets:
        if secret.reveal() is not None and secret.spellings not in known:
            _FILTER.known.append(secret)
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("dwave", "urllib3", "requests"):
            logger = logging.getLogger(name)
            if _FILTER not in logger.filters:
                logger.addFilter(_FILTER)


def after_fork() -> None:
    """In a forked child: a thread of the parent may have held the lock."""
    global _LOADING
    _LOADING = threading.RLock()


class quiet:
    """Inside, the client logs nothing: its configuration is read, and its token not known yet.

    One thread at a time.
    """

    def __enter__(self) -> None:
        _LOADING.acquire()
        self._loggers = []
        for name in list(logging.root.manager.loggerDict):
            logger = logging.getLogger(name)
            if name.startswith("dwave.cloud") and not logger.disabled:
                logger.disabled = True
                self._loggers.append(logger)

    def __exit__(self, *exception: object) -> None:
        for logger in self._loggers:
            logger.disabled = False
        _LOADING.release()
