"""The token is hidden in every spelling: in messages, warnings, logs, frames, files and copies."""

import base64
import copy
import dataclasses
import html
import io
import json
import logging
import os
import pickle
import pprint
import traceback
import urllib.parse
import warnings

import pytest

from qsample.annealers import Corrected, DWave, Gibbs
from tests.support.seeds import generator
from tests.support.solver_api import cell, connect

pytest.importorskip("dwave.cloud")
pytest.importorskip("dwave.system")
from qsample.annealers.dwave import DeviceError, Fallback  # noqa: E402
from qsample.annealers.dwave.cloud.job import Connection  # noqa: E402
from qsample.annealers.dwave.cloud.secret import HIDDEN, Secret, Spoken, cleaned  # noqa: E402
from qsample.testing.sapi import Chip, SolverServer  # noqa: E402
from tests.support.thinning import thinned  # noqa: E402

pytestmark = pytest.mark.usefixtures("isolated")
TOKEN = "DEV-7f%c3+a9&b/=\"d1'0e\\5x<2>"  # awkward in URLs, in JSON, in reprs and in HTML
AROUND = [
    "{}\n",
    "{}\r\n",
    "  {}\t",
    "\ufeff{}",
    "'{}'",
    '"{}"\n',
    "\n'{} '\r\n",
    "{}\0",
    "\u200b{}",
]


def spellings(token):
    raw = token.encode()
    yield from (
        token,
        repr(token)[1:-1],
        ascii(token)[1:-1],
        repr(raw)[2:-1],
        json.dumps(token)[1:-1],
    )
    yield from (
        urllib.parse.quote(token),
        urllib.parse.quote(token, safe=""),
        urllib.parse.quote_plus(token),
    )
    yield from (html.escape(token), raw.hex(), base64.b64encode(raw).decode().rstrip("="))
    yield base64.urlsafe_b64encode(raw).decode().rstrip("=")
    yield base64.b64encode(b"user:" + raw).decode()[8:-4]
    yield token[3:20]  # a message that was cut short
    yield token[-14:]


def shows(text, token=TOKEN):
    return [way for way in spellings(token) if way in text]


def told(error):
    """All that an error says: words, arguments, chain, frames with their locals."""
    text, seen, chain = io.StringIO(), set(), [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += [link.__cause__, link.__context__]
        print(repr(link), link, link.args, getattr(link, "__notes__", ""), vars(link), file=text)
        print("".join(traceback.format_exception_only(link)), file=text)
        for frame in traceback.TracebackException.from_exception(link, capture_locals=True).stack:
            if "/tests/" not in frame.filename:  # where the token is in plain view
                print(frame.filename, frame.name, frame.line, frame.locals, file=text)
    return text.getvalue()


@pytest.fixture(scope="module")
def server():
    with SolverServer("chimera-1", chip=Chip(beta=3.0, sweeps=8)) as server:
        server.token = TOKEN
        yield server


@pytest.fixture(params=["argument", "client", "environment", "file", "bytes"])
def given(request, monkeypatch, tmp_path):
    """A token on its way to `DWave`: a function of the token that returns settings."""

    def arguments(token):
        if request.param == "environment":
            token = token.replace("\0", "")
            monkeypatch.setenv("DWAVE_API_TOKEN", token)
            return {"token": None}
        if request.param == "file":
            path = tmp_path / "dwave.conf"
            written = token.replace("\n", "").replace("\r", "").replace("%", "%%")
            path.write_text(f"[defaults]\n[mine]\ntoken = {written}\n")
            return {"token": None, "client": {"config_file": str(path), "profile": "mine"}}
        if request.param == "client":
            return {"token": None, "client": {"token": token}}
        return {"token": token.encode() if request.param == "bytes" else token}

    return arguments


def made(server, given, token, **more):
    settings = given(token)
    client = {"endpoint": server.endpoint} | settings.get("client", {})
    return DWave(
        **({"timeout": 20.0, "backoff": 0.01, "retries": 0} | settings | {"client": client} | more)
    )


@pytest.mark.parametrize("around", thinned(AROUND, 3))
def test_what_lies_around_a_token_is_dropped(server, around, given):
    with made(server, given, around.format(TOKEN)) as sampler:
        device = sampler.state.device(sampler)
        assert isinstance(device, Connection) and device.session.token.reveal() == TOKEN


@pytest.mark.parametrize("around", AROUND[:1])
def test_a_token_is_not_shown(server, given, around, caplog, tmp_path, capsys):
    """Refused, lost, with a fallback, and where it works: in everything that can be looked at."""
    caplog.set_level(1)
    token = around.format(TOKEN)
    server.token, right = "another", server.token
    try:
        with (
            made(server, given, token) as sampler,
            pytest.raises(DeviceError, match="refused the token") as caught,
        ):
            sampler.sample(cell(), 1)
    finally:
        server.token = right
    seen = [told(caught.value)]
    away = {"client": {"endpoint": "http://127.0.0.1:9/", "http_retry_total": 0}, "token": token}
    with DWave(**away, retries=0, fallback=Gibbs(2)) as sampler, pytest.warns(Fallback) as warned:
        sampler.sample(cell(), 1)
    seen += [str(item.message) for item in warned]
    files = {"ledger": tmp_path / "l", "record": tmp_path / "r", "cache": tmp_path / "c"}
    with made(server, given, token, **files) as sampler:
        sampler.sample(cell(), 5, generator=generator())
        both = Corrected(sampler, Gibbs(1))
        for item in (sampler, copy.deepcopy(sampler), both, pickle.loads(pickle.dumps(sampler))):
            seen += [
                repr(item),
                str(item),
                str(vars(item)),
                pprint.pformat(item),
                str(pickle.dumps(item)),
            ]
            seen += [str(dataclasses.asdict(item)), str(dataclasses.astuple(item))]
        seen += [repr(dataclasses.replace(sampler, retries=1)), str(sampler.state_dict())]
        connection = sampler.state.opened.connection
        assert connection is not None
        seen += [
            str(vars(sampler.state)),
            str(vars(connection.session)),
            repr(connection.session.client.config),
        ]
    seen += [path.read_text() for path in tmp_path.glob("[lr]")] + [
        caplog.text,
        *capsys.readouterr(),
    ]
    for record in caplog.records:
        seen += [str(record.msg), str(record.args), str(record.exc_text), str(record.exc_info)]
    assert not [(shows(text), text[:400]) for text in seen if shows(text)]
    assert "dwave.cloud" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": -1.0},
        {"budget": "1"},
        {"gauges": -1},
        {"record": "a", "replay": "a"},
        {"no_such_setting": 1},
        {"fallback": "gibbs"},
        {"reverse": [(0, 0)]},
        {"client": [TOKEN]},
    ],
)
@pytest.mark.parametrize("token", [TOKEN, TOKEN.encode(), {"token": TOKEN}, [TOKEN]])
def test_a_constructor_that_fails_shows_no_token(wrong, token):
    """Nor do the frames of ours that it fails in."""
    with pytest.raises((ValueError, TypeError, DeviceError)) as caught:
        DWave(**({"token": token} | wrong))
    assert not shows(told(caught.value).replace(repr(wrong), ""))


@pytest.mark.parametrize(
    "token", ["DEV-12\n34567890abcdef", "DEV-tokén-1234567890", "DEV 1234567890", ["x" * 20], 7]
)
def test_what_is_no_token_is_refused_unseen(server, token):
    with connect(server, token=token) as sampler, pytest.raises(DeviceError) as caught:
        sampler.sample(cell(), 1)
    message = str(caught.value)
    assert "copy it again" in message or "expected the token as a string" in message
    assert str(token) not in told(caught.value).replace(repr([token]), "") or token == 7


@pytest.mark.parametrize("text", ["token = {}\n[a\n", "[a]\ntoken = {}\n", "[a]\n[a]\ntoken = {}"])
def test_a_config_file_that_cannot_be_read(server, tmp_path, text):
    """The parser repeats the line, and the token is in it."""
    path = tmp_path / "dwave.conf"
    path.write_text(text.format(TOKEN))
    with connect(server, token=None, client={"config_file": str(path)}) as sampler:
        with pytest.raises(DeviceError, match="configuration cannot be read") as caught:
            sampler.sample(cell(), 1)
    assert not shows(told(caught.value))


@pytest.mark.parametrize(
    "more",
    [
        {"headers": {"X-Other-Key": "s3cret/" + TOKEN[:16]}},
        {"headers": "X-Other-Key: s3cret/abcdefgh"},
        {"proxy": "http://user:s3cret-abcdefgh@127.0.0.1:9"},
        {"defaults": {"token": "s3cret-abcdefgh"}},
        {"endpoint": "http://user:s3cret-abcdefgh@127.0.0.1:9/"},
    ],
)
def test_other_secrets_of_the_client(server, more, caplog):
    """Passwords of headers, of a proxy and of an address are hidden as the token is."""
    caplog.set_level(1)
    client = {"endpoint": "http://127.0.0.1:9/", "http_retry_total": 0} | more
    with connect(server, client=client, retries=0, timeout=3.0) as sampler:
        seen = [
            repr(sampler),
            str(vars(sampler)),
            str(dataclasses.asdict(sampler)),
            str(pickle.dumps(sampler)),
        ]
        with pytest.raises(DeviceError) as caught:
            sampler.sample(cell(), 1)
    seen += [told(caught.value).replace(str(more), ""), caplog.text]
    assert not [text for text in seen if "s3cret" in text]


def test_a_service_that_repeats_the_token(server, monkeypatch):
    """Its words are shown, the token in them is not."""
    from qsample.testing.sapi.parameters import Refusal
    from qsample.testing.sapi.routes import Routes

    def refuse(*_):
        raise Refusal(400, f"bad request of {TOKEN}: {urllib.parse.quote(TOKEN)}")

    with connect(server, token=TOKEN) as sampler:
        sampler.sample(cell(), 5, generator=generator())
        monkeypatch.setattr(Routes, "_submit", refuse)
        with pytest.raises(
            DeviceError, match=r"refused the job: bad request of \(token\)"
        ) as caught:
            sampler.sample(cell(), 1)
    assert not shows(told(caught.value))


def test_interrupted_inside_the_client(server, monkeypatch):
    """Ctrl-C while requests has the headers in hand: its frames are left out."""
    import requests.adapters

    def interrupt(self, request, **_):
        headers = dict(request.headers)
        assert headers
        raise KeyboardInterrupt(f"with {TOKEN}")

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", interrupt)
    with connect(server, token=TOKEN) as sampler, pytest.raises(KeyboardInterrupt) as caught:
        sampler.sample(cell(), 1)
    assert not shows(told(caught.value))


def test_secrets():
    secret = Secret(f" {TOKEN}\n").token()
    assert (
        secret.reveal() == TOKEN and repr(secret) == str(secret) == HIDDEN and f"{secret}" == HIDDEN
    )
    assert Secret("").token().reveal() is None and Secret(None).token().reveal() is None
    for text in (way for token in (TOKEN, f" {TOKEN}\n") for way in spellings(token)):
        assert not shows(secret.hide(f"a {text} b")) and secret.hide(f"a {text} b").startswith("a ")
    assert secret.hide("nothing of DEV-7f here") == "nothing of DEV-7f here"
    assert repr(Spoken("x")) == HIDDEN and pickle.loads(pickle.dumps(Spoken("x"))) == HIDDEN
    assert copy.deepcopy(Secret("abcdef")).reveal() == "abcdef"
    inner = ValueError(TOKEN)
    try:
        try:
            raise inner
        except ValueError:
            raise RuntimeError(f"no {TOKEN}") from inner
    except RuntimeError as error:
        clean = cleaned(error, [secret])
    assert clean.args == (f"no {HIDDEN}",) and inner.args == (HIDDEN,)


def test_a_logged_exception_has_no_frames(server, caplog):
    """A handler that shows the locals of frames (rich's, sentry's) gets text."""
    caplog.set_level(1)
    with connect(server, token=TOKEN) as sampler:
        sampler.state.device(sampler)
        logger = logging.getLogger("dwave.cloud.client.base")
        try:
            raise ValueError(repr(TOKEN))
        except ValueError:
            logger.exception(
                "with %r and %s", TOKEN, {"token": urllib.parse.quote(TOKEN)}, stack_info=True
            )
    (record,) = [logged for logged in caplog.records if logged.funcName.startswith("test_a_logged")]
    assert record.exc_info is None and "ValueError" in record.exc_text and not record.args
    assert not shows(str(vars(record)))


def test_warnings_of_a_fallback_show_no_token(server):
    with connect(
        server,
        token="short-" + TOKEN,
        client={"endpoint": "http://127.0.0.1:9/", "http_retry_total": 0},
        retries=0,
    ) as sampler:
        object.__setattr__(sampler, "fallback", Gibbs(1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sampler.sample(cell(), 1)
    assert caught and not [warning for warning in caught if shows(str(warning.message))]
    assert os.environ.get("DWAVE_API_TOKEN") is None
