"""How the connector for JSON APIs signs in, keeps its secrets and goes nowhere else."""

import datetime as dt
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from legacy.connector import Misconfigured, Refused
from legacy.connectors.rest import Rest
from legacy.connectors.rest_auth import ApiKey, Auth, Basic, Bearer, OAuth2
from legacy.connectors.rest_paging import LinkHeader
from legacy.connectors.rest_resource import Resource
from tests.integration.misbehaving import (
    Misbehaving,
    answer,
    busy,
)
from tests.integration.rest_support import MARKER, START, Api, Make

THINGS = Resource("/things", records="data", one="/things/{key}")
SECRET = "s3cret"  # is in every secret of the tests
JSON = {"Content-Type": "application/json"}


def auth_for(kind: str, proxy: Misbehaving, wrong: bool = False) -> Auth:
    no = "-not" if wrong else ""
    token_url = proxy.url.removesuffix("/v1") + "/token"
    made: dict[str, Callable[[], Auth]] = {
        "bearer": lambda: Bearer(f"s3cret-token{no}"),
        "basic": lambda: Basic("ana", f"s3cret-word{no}"),
        "header": lambda: ApiKey(f"s3cret-key{no}"),
        "query": lambda: ApiKey(f"s3cret-key{no}", query="api_key"),
        "oauth": lambda: OAuth2(token_url, "client", f"s3cret-client{no}", scope="read"),
        "oauth in body": lambda: OAuth2(token_url, "client", f"s3cret-client{no}", in_body=True),
    }
    return made[kind]()


KINDS = ["bearer", "basic", "header", "query", "oauth", "oauth in body"]


# --- Who we are -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_open_says_who_we_are(api: Api, proxy: Misbehaving, connect: Make, kind: str) -> None:
    api.auth = kind.partition(" ")[0]
    rest = connect(auth=auth_for(kind, proxy))
    assert rest.open() == "ana"
    api.put()
    assert list(rest.keys(THINGS)) == ["1"]


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_secret_is_a_wrong_configuration_and_is_told_nowhere(
    api: Api, proxy: Misbehaving, connect: Make, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    api.auth = kind.partition(" ")[0]
    auth = auth_for(kind, proxy, wrong=True)
    caplog.set_level(logging.INFO)
    with pytest.raises(Misconfigured) as error:
        connect(auth=auth).open()
    assert SECRET not in f"{error.value!s} {error.value!r} {auth!r} {caplog.text}"
    assert "who is" in str(error.value) or "no such client" in str(error.value)


def test_secret_that_the_other_side_repeats_is_not_told_on(proxy: Misbehaving, connect: Make) -> None:
    rest = connect(auth=Bearer("s3cret-token"))
    proxy.next(answer(422, b'{"detail": "s3cret-token may not write"}', JSON))
    with pytest.raises(Refused, match="422: ••• may not write"):
        rest.create(THINGS, MARKER, {"name": "Ana"})


def test_api_key_in_a_link_is_not_kept_in_the_cursor(api: Api, proxy: Misbehaving, connect: Make) -> None:
    api.paging, api.auth = "link", "query"
    for _ in range(7):
        api.put()
    rest = connect(auth=auth_for("query", proxy))
    source = Resource("/things", records="data", paging=LinkHeader(size=3))
    page = rest.changes(source, [], {})
    assert page.more and SECRET not in str(page.cursor)
    assert len(list(rest.keys(source))) == 7


@pytest.mark.legacy("F5")
def test_token_is_got_once_and_anew_before_it_expires(
    api: Api, proxy: Misbehaving, connect: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.auth = "oauth"
    rest = connect(auth=auth_for("oauth", proxy))
    for _ in range(3):
        rest.open()
    assert list(api.tokens) == ["token-0-read"]
    later = monotonic() + 580
    monkeypatch.setattr("legacy.connectors.rest_auth.monotonic", lambda: later)
    rest.open()
    assert len(api.tokens) == 2


@pytest.mark.legacy("F5")
@pytest.mark.parametrize("call", ["read", "write"])
def test_token_that_ends_in_the_middle_of_a_run_is_got_anew_and_the_call_made_once(
    api: Api, proxy: Misbehaving, connect: Make, call: str
) -> None:
    api.auth = "oauth"
    rest = connect(auth=auth_for("oauth", proxy))
    rest.open()
    api.tick(1_000)
    if call == "read":
        assert list(rest.keys(THINGS)) == []
    else:
        rest.create(THINGS, MARKER, {"name": "Ana"})
        assert api.done == [("create", "1")]
    assert len(api.tokens) == 2


def test_answer_401_with_a_new_token_is_given_up(proxy: Misbehaving, api: Api, connect: Make) -> None:
    api.auth = "oauth"
    proxy.when(answer(401), path="/me", times=None)
    with pytest.raises(Misconfigured, match=r"does not let us in \(client\)"):
        connect(auth=auth_for("oauth", proxy)).open()
    assert len(api.tokens) == 2


@pytest.mark.legacy("F4")
def test_token_endpoint_that_is_busy_is_tried_again(
    api: Api, proxy: Misbehaving, connect: Make, waits: list[float]
) -> None:
    api.auth = "oauth"
    proxy.next(busy(503, "7"))
    assert connect(auth=auth_for("oauth", proxy)).open() == "ana"
    assert waits == [7]


@pytest.mark.parametrize("body", [b"[]", b'{"access_token": 5}', b'{"token": "x"}'])
def test_token_endpoint_that_gives_no_token_is_a_wrong_configuration(
    proxy: Misbehaving, connect: Make, body: bytes
) -> None:
    proxy.next(answer(200, body, JSON))
    with pytest.raises(Misconfigured, match="without an access_token"):
        connect(auth=auth_for("oauth", proxy)).open()


@pytest.mark.legacy("S6")
def test_expired_key_that_is_answered_with_200_is_noticed(proxy: Misbehaving, connect: Make) -> None:
    proxy.next(answer(200, b'{"plan": "public"}', JSON))
    with pytest.raises(Misconfigured, match="does not say who we are"):
        connect(auth=Bearer("s3cret-token")).open()


@pytest.mark.parametrize("make", [lambda: Bearer(""), lambda: Basic("ana", ""), lambda: ApiKey("line\nbreak")])
def test_secret_that_is_empty_or_no_header_is_told_at_once(make: Callable[[], Auth]) -> None:
    with pytest.raises(Misconfigured, match="is empty, or has characters"):
        make()


# --- Where it goes ----------------------------------------------------------------------------------------------------


def test_redirect_is_not_followed_and_no_credentials_with_it(api: Api, proxy: Misbehaving, connect: Make) -> None:
    with Misbehaving(api.url) as other:
        target = other.url.replace("127.0.0.1", "localhost")
        proxy.when(answer(307, headers={"Location": target}), times=None)
        with pytest.raises(Misconfigured, match="on to localhost"):
            connect(auth=ApiKey("s3cret-key")).open()
        assert other.seen == []


def test_link_to_another_host_is_not_followed(proxy: Misbehaving, connect: Make) -> None:
    link = {"Link": '<https://elsewhere.example.com/things?page=2>; rel="next"', **JSON}
    proxy.next(answer(200, b'{"data": [{"id": 1}]}', link))
    with pytest.raises(Misconfigured, match=r"elsewhere\.example\.com, which is not told"):
        list(connect(auth=ApiKey("s3cret-key")).keys(Resource("/things", records="data", paging=LinkHeader())))


def test_proxy_and_credentials_of_the_environment_are_not_used(
    proxy: Misbehaving, connect: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert connect().open() == "ana"


def test_declared_proxy_is_used(api: Api, proxy: Misbehaving, connect: Make) -> None:
    rest = connect("http://api.example.com/v1", plain=True, proxy=proxy.url.removesuffix("/v1"))
    assert rest.open() == "ana"
    assert [request.path for request in proxy.seen] == ["http://api.example.com/v1/me"]


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("", {}, "must be https://"),
        ("ftp://example.com", {}, "must be https://"),
        ("https://ana:s3cret@example.com", {}, "without user or password"),
        ("http://erp.example.com", {}, "in clear"),
        ("https://example.com", {"public_only": True, "proxy": "http://127.0.0.1:1"}, "through a proxy"),
        ("https://example.com", {"ca_file": "/nowhere.pem"}, "nowhere.pem cannot be read"),
    ],
)
def test_address_that_will_not_do_is_told_at_once(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Misconfigured, match=words) as error:
        Rest(url, **options)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1"),
        *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
    ],
)
def test_typed_address_never_reaches_inside(
    api: Api, connect: Make, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Nor by a name that stands for a public address and for this one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 443))]
    found.append((family, socket.SOCK_STREAM, 6, "", (address, 443)))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with pytest.raises(Misconfigured, match=r"rebind.example.com is not a public address"):
        connect("https://rebind.example.com", public_only=True).open()


def test_typed_address_is_connected_to_as_it_was_checked(
    api: Api, proxy: Misbehaving, connect: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(proxy.url.split(":")[2].partition("/")[0])
    resolve = socket.getaddrinfo
    asked: list[str] = []

    def once(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return resolve("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    monkeypatch.setattr("sync.outbound.is_public", lambda address: address == "127.0.0.1")
    assert connect(f"http://api.example.com:{port}/v1", public_only=True, plain=True).open() == "ana"
    assert asked.count("api.example.com") == 1
    assert proxy.seen[0].headers["Host"] == f"api.example.com:{port}"


def test_date_of_theirs_is_kept_as_the_clock_to_compare_with(api: Api, connect: Make) -> None:
    rest = connect()
    rest.open()
    assert rest.http.their_now == START
    api.tick(5)
    rest.open()
    assert rest.http.their_now == START + dt.timedelta(seconds=5)
