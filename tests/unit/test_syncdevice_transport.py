"""Requests are tried again where that helps, for a bounded time, and every refusal has a meaning."""

import gzip
import json
from collections.abc import Callable
from email.utils import formatdate

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from syncdevice import errors
from syncdevice.transport import Transport, parse_retry_after, read_page, retry_delay

PAGE = {"changes": {}, "token": "t2", "has_more": False}


class Clock:
    """Time that only passes by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def transport(clock: Clock, *answers: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> Transport:
    """One that gets `answers` in turn, and the last one for ever."""
    waiting = list(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        if seen is not None:
            seen.append(request)
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    http = httpx.MockTransport(handle)
    return Transport("http://server.test", "secret", http=http, clock=clock, sleep=clock.sleep, chance=lambda: 0.5)


def problem(status: int, code: str, **more: object) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "title": "No", "detail": "Not so.", "status": status, **more})


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        *(httpx.Response(status) for status in (408, 425, 429, 500, 502, 503, 504)),
    ],
    ids=str,
)
def test_passing_failure_is_tried_again(failure: httpx.Response | Exception) -> None:
    clock = Clock()
    assert transport(clock, failure, failure, httpx.Response(200, json=PAGE)).pull("t1").token == "t2"
    assert clock.slept == [0.25, 0.5]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422])
def test_refusal_is_not_tried_again(status: int) -> None:
    clock, seen = Clock(), list[httpx.Request]()
    with pytest.raises(errors.SyncError):
        transport(clock, problem(status, "whatever"), seen=seen).pull("t1")
    assert len(seen) == 1


def test_tries_end_after_a_minute() -> None:
    clock = Clock()
    with pytest.raises(errors.NotReachable, match="sync again later"):
        transport(clock, httpx.Response(503)).pull("t1")
    assert 30 < clock.now < 60


def test_retry_after_is_honoured() -> None:
    clock = Clock()
    busy = httpx.Response(429, headers={"Retry-After": "7"})
    transport(clock, busy, httpx.Response(200, json=PAGE)).pull("t1")
    assert clock.slept == [7.0]


def test_retry_after_beyond_our_time_is_told_to_the_caller() -> None:
    clock = Clock()
    with pytest.raises(errors.NotReachable) as raised:
        transport(clock, httpx.Response(503, headers={"Retry-After": "3600"})).pull("t1")
    assert (raised.value.retry_after, clock.slept) == (3600.0, [])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (formatdate(1_030, usegmt=True), 30.0),
        (formatdate(10, usegmt=True), 0.0),  # it is past
        ("soon", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=1_000.0) == seconds


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_and_jittered_in_full(attempt: int, chance: float) -> None:
    assert 0 <= retry_delay(attempt, None, chance) <= 20.0
    assert retry_delay(attempt, None, 0.0) == 0.0


def test_enrolment_is_not_sent_twice_when_the_answer_is_lost() -> None:
    clock, seen = Clock(), list[httpx.Request]()
    with pytest.raises(errors.NotReachable):
        transport(clock, httpx.ReadTimeout("lost"), seen=seen).enroll({"code": "x"})
    assert len(seen) == 1


def test_enrolment_is_tried_again_when_it_did_not_arrive() -> None:
    answer = {"device": "d", "token": "t", "scopes": []}
    made = transport(Clock(), httpx.ConnectError("refused"), httpx.Response(201, json=answer)).enroll({"code": "x"})
    assert made == answer


@pytest.mark.parametrize(
    ("answer", "kind", "check"),
    [
        (problem(401, "device_revoked", wipe=True), errors.DeviceRevoked, lambda e: e.wiped),
        (problem(401, "device_revoked"), errors.DeviceRevoked, lambda e: not e.wiped),
        (problem(403, "enrollment_refused"), errors.EnrollmentRefused, lambda e: "administrator" in str(e)),
        (problem(410, "token_expired"), errors.TokenExpired, lambda e: e.code == "token_expired"),
        (problem(400, "invalid_token"), errors.TokenExpired, lambda e: e.status == 400),
        (problem(413, "batch_too_large"), errors.BatchTooLarge, lambda e: e.status == 413),
        (problem(401, "unauthorized"), errors.Refused, lambda e: (e.status, e.code) == (401, "unauthorized")),
        (httpx.Response(404, text="<html>"), errors.ProtocolError, lambda e: "URL" in str(e)),
        (httpx.Response(302, headers={"Location": "/login"}), errors.ProtocolError, lambda e: "URL" in str(e)),
        (httpx.Response(200, text="<html>"), errors.ProtocolError, lambda e: "URL" in str(e)),
        (httpx.Response(200, json=[]), errors.ProtocolError, lambda e: "URL" in str(e)),
    ],
)
def test_every_answer_has_a_meaning(
    answer: httpx.Response, kind: type[errors.SyncError], check: Callable[[errors.SyncError], bool]
) -> None:
    with pytest.raises(kind) as raised:
        transport(Clock(), answer).pull("t1")
    assert check(raised.value)


def test_request_says_who_asks_and_what_waits() -> None:
    seen = list[httpx.Request]()
    calls = transport(Clock(), httpx.Response(200, json={"results": []}), seen=seen)
    calls.client_note = "; pending=12; oldest=2026-11-21T09:00:00.000000Z"
    body = b'{"mutations":[]}' + b" " * 5_000
    calls.push(body)
    (request,) = seen
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Sync-Client"].startswith("syncdevice/")
    assert request.headers["Sync-Client"].endswith("; pending=12; oldest=2026-11-21T09:00:00.000000Z")
    assert request.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(request.content) == body


def test_schema_that_is_still_current_is_none() -> None:
    seen = list[httpx.Request]()
    assert transport(Clock(), httpx.Response(304), seen=seen).schema('"abc"') is None
    assert (seen[0].headers["If-None-Match"], seen[0].url.query) == ('"abc"', b"format=sqlite")


@pytest.mark.parametrize(
    "document",
    [
        {
            "changes": {"x": {"upserts": [{"id": "1", "token": "no", "has_more": True}]}},
            "token": "t",
            "has_more": False,
        },
        {"changes": {"x": {"deletes": ['"token":"no","has_more":true}']}}, "token": "t", "has_more": False},
        {"token": "t", "has_more": False, "changes": {"x": {"upserts": [{"token": "no", "has_more": True}]}}},
        {"has_more": False, "token": "t", "changes": {}},
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_page_is_read_whatever_its_rows_say(document: object, separators: tuple[str, str]) -> None:
    page = read_page(json.dumps(document, separators=separators).encode())
    assert (page.token, page.has_more) == ("t", False)
