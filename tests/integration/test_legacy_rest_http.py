"""How the connector for JSON APIs waits and gives up, and what is no answer: real HTTP that misbehaves on purpose."""

import pytest

from legacy.connector import Misconfigured, Unreachable
from legacy.connectors import rest_http
from legacy.connectors.rest_http import TRIES_MAX, WAIT_SECONDS_MAX, Limits
from legacy.connectors.rest_resource import Resource
from tests.integration.misbehaving import (
    Exchange,
    Fault,
    Misbehaving,
    answer,
    busy,
    cut_after,
    delay,
    empty,
    lose_answer,
    lose_request,
)
from tests.integration.rest_support import MARKER, Api, Make

THINGS = Resource("/things", records="data", one="/things/{key}")
JSON = {"Content-Type": "application/json"}


# --- Tried again, and given up ----------------------------------------------------------------------------------------


@pytest.mark.legacy("F2")
@pytest.mark.legacy("F21")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(busy(429), id="too many"),
        pytest.param(busy(503), id="busy"),
        pytest.param(answer(502, b"<html>"), id="bad gateway"),
        pytest.param(answer(500, b"{}", JSON), id="error"),
        pytest.param(answer(200, b"", JSON), id="empty"),
        pytest.param(empty, id="emptied"),
        pytest.param(cut_after(10), id="cut off"),
        pytest.param(answer(200, b'{"data": [{"id": 1', JSON), id="cut off, and the length says nothing"),
        pytest.param(lose_request, id="connection closed"),
        pytest.param(lose_answer, id="answer lost"),
    ],
)
def test_read_is_tried_again(api: Api, proxy: Misbehaving, connect: Make, waits: list[float], fault: Fault) -> None:
    api.put()
    proxy.next(fault, fault)
    assert list(connect().keys(THINGS)) == ["1"]
    assert len(proxy.seen) == 3
    assert 0.25 <= waits[0] <= 0.5 and 0.5 <= waits[1] <= 1  # twice as long, and never the same for all


def test_read_is_given_up_after_some_tries(proxy: Misbehaving, connect: Make) -> None:
    proxy.when(busy(503), times=None)
    with pytest.raises(Unreachable, match="503"):
        connect().open()
    assert len(proxy.seen) == TRIES_MAX


@pytest.mark.legacy("F4")
@pytest.mark.parametrize(
    ("asked", "date", "waited"),
    [
        ("7", "", 7),
        ("0", "", 0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", "Sat, 21 Nov 2026 12:00:00 GMT", 30),  # by their clock, whatever ours says
        ("Sat, 21 Nov 2026 11:00:00 GMT", "Sat, 21 Nov 2026 12:00:00 GMT", 0),
    ],
)
def test_retry_after_is_kept(
    proxy: Misbehaving, connect: Make, waits: list[float], asked: str, date: str, waited: float
) -> None:
    proxy.next(answer(429, headers={"Retry-After": asked} | ({"Date": date} if date else {})))
    connect().open()
    assert waits == [waited]


@pytest.mark.legacy("F4")
def test_who_asks_to_be_left_alone_for_long_is_left_alone(
    proxy: Misbehaving, connect: Make, waits: list[float]
) -> None:
    proxy.next(busy(429, str(WAIT_SECONDS_MAX + 1)))
    with pytest.raises(Unreachable, match="left alone for 61 s"):
        connect().open()
    assert (len(proxy.seen), waits) == (1, [])


@pytest.mark.legacy("F3")
@pytest.mark.parametrize(
    "fault",
    [busy(503), answer(502), lose_request, lose_answer, cut_after(3)],
    ids=["503", "502", "lost", "done", "cut"],
)
def test_write_that_may_have_been_done_is_not_sent_again(proxy: Misbehaving, connect: Make, fault: Fault) -> None:
    proxy.next(fault)
    with pytest.raises(Unreachable):
        connect().create(THINGS, MARKER, {"name": "Ana"})
    assert len(proxy.seen) == 1


@pytest.mark.legacy("F4")
def test_write_that_was_not_looked_at_is_sent_again(api: Api, proxy: Misbehaving, connect: Make) -> None:
    proxy.next(busy(429, "1"))
    assert connect().create(THINGS, MARKER, {"name": "Ana"}) == "1"
    assert api.done == [("create", "1")]


def test_write_that_fails_over_there_is_unreachable_where_everything_fails(proxy: Misbehaving, connect: Make) -> None:
    proxy.when(answer(500), times=None)
    with pytest.raises(Unreachable):
        connect().create(THINGS, MARKER, {"name": "Ana"})
    proxy.calm()
    proxy.next(answer(500))
    with pytest.raises(Unreachable):  # nobody can be asked whether it is this record alone
        connect(whoami="", who="").create(THINGS, MARKER, {"name": "Ana"})


@pytest.mark.legacy("F1")
def test_nobody_listens(proxy: Misbehaving, connect: Make) -> None:
    rest = connect()
    proxy.down()
    with pytest.raises(Unreachable, match="does not answer GET /v1/me"):
        rest.open()
    proxy.up()
    assert rest.open() == "ana"


@pytest.mark.slow
@pytest.mark.legacy("F3")
@pytest.mark.parametrize(
    ("limits", "seconds"), [(Limits(read_seconds=0.05), 0.3), (Limits(total_seconds=0.05), 0.3)], ids=["read", "total"]
)
def test_answer_that_takes_too_long_is_not_waited_for(
    api: Api, proxy: Misbehaving, connect: Make, limits: Limits, seconds: float
) -> None:
    proxy.when(delay(seconds), times=None)
    rest = connect(limits=limits)
    with pytest.raises(Unreachable, match=r"timed out|took over"):
        rest.create(THINGS, MARKER, {"name": "Ana"})
    assert api.done == [("create", "1")]  # it went through all the same


@pytest.mark.slow
@pytest.mark.legacy("F21")
def test_body_that_drips_is_cut_off(proxy: Misbehaving, connect: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.tell(200, "OK", list(JSON.items()), b'{"login": ' + b" " * 1_000 + b'"ana"}', cut_after=10)
        while not exchange.stopped.wait(0.01):
            exchange.connection.sendall(b" ")

    proxy.when(drip, times=None)
    with pytest.raises(Unreachable, match=r"took over 0\.1 s"):
        connect(limits=Limits(total_seconds=0.1)).open()


def test_calls_keep_a_pace(proxy: Misbehaving, connect: Make, waits: list[float]) -> None:
    rest = connect(limits=Limits(per_second=0.5))
    for _ in range(3):
        rest.open()
    assert len(waits) == 2 and waits[0] == pytest.approx(2, abs=0.5) and waits[1] == pytest.approx(4, abs=0.5)


# --- What is no answer ------------------------------------------------------------------------------------------------


@pytest.mark.legacy("F20")
@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"<html>Sign in</html>", "text/html", "no JSON API, but text/html"),
        (b"<html>Sign in</html>", "application/json", "no JSON API"),
        (b'{"things": []}', "application/json", "without a list at 'data'"),
        (b'{"data": {"1": {}}}', "application/json", "without a list at 'data'"),
        (b'{"data": [1, 2]}', "application/json", "has no 'id'"),
        (b'{"data": [{"key": 1}]}', "application/json", "has no 'id'"),
        (b'{"data": [{"id": null}]}', "application/json", "has no 'id'"),
        (b'{"data": [{"id": 1.5}]}', "application/json", "has no 'id'"),
        (b"null", "application/json", "without a list"),
    ],
)
def test_answer_of_another_shape_is_a_wrong_configuration(
    proxy: Misbehaving, connect: Make, body: bytes, kind: str, words: str
) -> None:
    proxy.next(answer(200, body, {"Content-Type": kind}))
    with pytest.raises(Misconfigured, match=words):
        list(connect().keys(THINGS))


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"data": [{"id": NaN}]}', b"\xff\xfe"])
def test_broken_json_is_tried_again_and_then_unreachable(proxy: Misbehaving, connect: Make, body: bytes) -> None:
    proxy.when(answer(200, body, JSON), times=None)
    with pytest.raises(Unreachable, match="broken JSON"):
        list(connect().keys(THINGS))


@pytest.mark.slow
@pytest.mark.legacy("F21")
def test_body_that_is_too_large_is_cut_off(proxy: Misbehaving, connect: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_http, "BODY_BYTES_MAX", 1024**2)
    sent: list[int] = []

    def flood(exchange: Exchange) -> None:
        exchange.tell(200, "OK", list(JSON.items()), b" " * 500 * 1024**2, cut_after=0)
        for _ in range(500):
            exchange.connection.sendall(b" " * 1024**2)
            sent.append(1)

    proxy.next(flood)
    with pytest.raises(Misconfigured, match="over 1 MiB"):
        list(connect().keys(THINGS))
    assert len(sent) < 100


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_question_that_they_do_not_take_is_a_wrong_configuration(
    proxy: Misbehaving, connect: Make, status: int
) -> None:
    proxy.next(answer(status, b'{"title": "Bad filter", "detail": "no updated_since"}', JSON))
    with pytest.raises(Misconfigured, match=f"{status}: Bad filter; no updated_since"):
        list(connect().keys(THINGS))


@pytest.mark.legacy("S9")
def test_business_error_in_a_list_with_status_200_is_not_an_empty_list(proxy: Misbehaving, connect: Make) -> None:
    proxy.next(answer(200, b'{"data": [], "error": {"code": 9, "message": "Key expired."}}', JSON))
    with pytest.raises(Misconfigured, match="Key expired"):
        list(connect().keys(Resource("/things", records="data", error="error")))
