"""HTTP to the server: time-outs everywhere, retries where they help, errors with a meaning. Knows nothing of SQLite."""

import gzip
import json
import math
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from syncdevice import __version__
from syncdevice.errors import (
    BatchTooLarge,
    DeviceRevoked,
    EnrollmentRefused,
    NotCurrent,
    NotReachable,
    ProtocolError,
    Refused,
    SyncError,
    TokenExpired,
    Unusable,
)

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
RETRY_FIRST_SECONDS = 0.5
RETRY_MOST_SECONDS = 20.0
RETRY_TOTAL_SECONDS = 60.0
RETRY_ENROLMENT_SECONDS = 15.0  # at most, since a person waits for it
PULL_ROWS = 10_000
OUTCOMES_ROWS = 500
GZIP_FROM_BYTES = 4_096
TIMEOUT = httpx.Timeout(connect=10.0, read=90.0, write=60.0, pool=10.0)

_HOST = re.compile(r"[^\s/?#@%]+")
_TAIL = re.compile(rb'"token"\s*:\s*"([^"\\]*)"\s*,\s*"has_more"\s*:\s*(true|false)\s*\}\s*\Z')


@dataclass(frozen=True)
class Page:
    """One answer of a pull. `body` is the JSON as it came; the token and `has_more` are already read from it."""

    body: bytes
    token: str
    has_more: bool


@dataclass(frozen=True)
class Told:
    """One page of what was decided about this device's earlier changes, oldest first."""

    outcomes: list[dict[str, Any]]
    cursor: str
    has_more: bool


def retry_delay(attempt: int, retry_after: float | None, chance: float) -> float:
    """Seconds to wait before try `attempt + 1`: what the server asked for, else backoff with full jitter.

    `attempt` counts from 0; `chance` is a random number in [0, 1).
    """
    if retry_after is not None:
        return retry_after
    return chance * min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(attempt, 30))


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header (seconds or HTTP date) asks for; None without one. `now`: POSIX time."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None


def read_page(body: bytes) -> Page:
    """A pull's answer without parsing its rows where the token stands at the end. Raises ProtocolError."""
    tail = _TAIL.search(body[-4096:])
    if tail:
        return Page(body, tail[1].decode(), tail[2] == b"true")
    try:
        document = json.loads(body)
        return Page(body, str(document["token"]), bool(document["has_more"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError("the answer to a pull is not of protocol version 1: check the URL") from error


def _address(url: str) -> httpx.URL:
    """Raises Unusable for what is no address of a server."""
    with suppress(httpx.InvalidURL):
        address = httpx.URL(url)
        if address.scheme in {"http", "https"} and _HOST.fullmatch(address.host) and (address.port or 1) < 1 << 16:
            return address
    raise Unusable(f"{url!r} is no address of a server: it should look like https://sync.example.com")


class Transport:
    """The calls of the protocol, usable from two threads. `client_note` is the tail of the Sync-Client header."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        http: httpx.BaseTransport | None = None,
        retry_seconds: float = RETRY_TOTAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.client_note = ""
        self._stop = threading.Event()
        self._retry_seconds, self._clock, self._chance = retry_seconds, clock, chance
        self._sleep = sleep or self._stop.wait
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if _address(url).host in {"localhost", "127.0.0.1", "::1"}:
            headers["Accept-Encoding"] = "identity"  # compression costs more than it saves on one machine
        # Reading the certificate authorities takes longer than a whole idle sync: not where there is no TLS.
        # (An empty context trusts nobody.)
        verify = True if _address(url).scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._client = httpx.Client(
            base_url=url.rstrip("/"), timeout=TIMEOUT, transport=http, headers=headers, verify=verify
        )

    def use(self, token: str) -> None:
        """Send another token from now on."""
        self._client.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        self._stop.set()
        self._client.close()

    def enroll(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """POST /devices/enroll. Raises EnrollmentRefused. Not sent twice where the first may have used up the code."""
        answer = self._json(self._send("POST", "/devices/enroll", body=json.dumps(request).encode(), once=True))
        if not {"device", "token", "scopes"} <= answer.keys():
            raise ProtocolError("the answer to the enrolment is not of protocol version 1: check the URL")
        return answer

    def rotate(self) -> str:
        """POST /devices/me/rotate: a new token. The one that this uses goes on until the new one is used."""
        token = self._json(self._send("POST", "/devices/me/rotate")).get("token")
        if not isinstance(token, str) or not token:
            raise ProtocolError("the answer to a rotation has no token: check the URL")
        return token

    def accepts(self) -> bool:
        """Whether the server knows the token; this is a use of it. Raises DeviceRevoked."""
        try:
            self._send("GET", "/devices/me")
        except Refused as error:
            if error.code == "unauthorized":
                return False
            raise
        return True

    def report_wiped(self) -> None:
        """POST /devices/me/wiped: the data is deleted, as an administrator asked."""
        self._send("POST", "/devices/me/wiped")

    def schema(self, etag: str | None) -> tuple[str, str | None] | None:
        """The replica's DDL with its ETag, or None where `etag` is still the current one."""
        headers = {"If-None-Match": etag} if etag else {}
        response = self._send("GET", "/sync/schema", params={"format": "sqlite"}, headers=headers)
        return None if response.status_code == 304 else (response.text, response.headers.get("ETag"))

    def push(self, body: bytes) -> list[dict[str, Any]]:
        """The results, in order. Raises BatchTooLarge."""
        results = self._json(self._send("POST", "/sync/push", body=body)).get("results")
        if not isinstance(results, list):
            raise ProtocolError("the answer to a push has no results: check the URL")
        return results

    def unknown(self, ids: Sequence[str]) -> frozenset[str] | None:
        """Those of the mutations that a restore of the server has lost; None where the server is too old to tell."""
        body = json.dumps({"ids": list(ids)}).encode()
        response = self._send("POST", "/sync/unknown", body=body, absent_ok=True)
        if response.status_code == 404:
            return None
        unknown = self._json(response).get("unknown")
        if not isinstance(unknown, list):
            raise ProtocolError("the answer does not say what is unknown: upgrade the application")
        return frozenset(map(str, unknown))

    def pull(self, token: str | None, wait: int = 0) -> Page:
        """The next page after `token`. Raises TokenExpired."""
        params: dict[str, str | int] = {"limit": PULL_ROWS}
        if token is not None:
            params["token"] = token
        if wait:
            params["wait"] = wait
        return read_page(self._send("GET", "/sync/pull", params=params).content)

    def outcomes(self, since: str | None) -> Told | None:
        """What was decided since the cursor `since`; None where the server is too old to tell."""
        params: dict[str, str | int] = {"limit": OUTCOMES_ROWS}
        if since is not None:
            params["since"] = since
        response = self._send("GET", "/sync/outcomes", params=params, absent_ok=True)
        if response.status_code == 404:
            return None
        document = self._json(response)
        told, cursor = document.get("outcomes"), document.get("cursor")
        if not isinstance(told, list) or not isinstance(cursor, str):
            raise ProtocolError("the outcomes are not of protocol version 1: upgrade the application")
        return Told(told, cursor, document.get("has_more") is True)

    def digest(self, token: str, **narrow: str) -> dict[str, Any] | None:
        """What the server has at `token`, by digests; None where it is too old to tell. Raises NotCurrent."""
        response = self._send("GET", "/sync/digest", params={"token": token, **narrow}, absent_ok=True)
        return None if response.status_code == 404 else self._json(response)

    def rows(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Some rows as they are, by entity and id."""
        return self._json(self._send("POST", "/sync/rows", body=json.dumps(wanted).encode()))

    def mismatch(self, report: Mapping[str, Any]) -> None:
        """Tell what a check found. Tried for a short time only: the check is done without it."""
        self._send("POST", "/sync/digest/mismatch", body=json.dumps(report).encode(), once=True)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        once: bool = False,
        absent_ok: bool = False,
    ) -> httpx.Response:
        sent = {"Sync-Client": f"syncdevice/{__version__}{self.client_note}", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
            if len(body) >= GZIP_FROM_BYTES:
                body, sent["Content-Encoding"] = gzip.compress(body, 5, mtime=0), "gzip"
        seconds = min(self._retry_seconds, RETRY_ENROLMENT_SECONDS) if once else self._retry_seconds
        end, attempt = self._clock() + seconds, 0
        while True:
            retry_after = None
            try:
                response = self._client.request(method, path, params=params, content=body, headers=sent)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                problem = f"cannot reach {self._client.base_url}: {error}"
            except httpx.TransportError as error:
                problem = f"no answer from {self._client.base_url}: {error or type(error).__name__}"
                if once:
                    raise NotReachable(f"{problem}; if the code is refused now, ask for a new one") from error
            else:
                if response.is_success or response.status_code == 304 or (absent_ok and response.status_code == 404):
                    return response
                if response.status_code not in RETRIED_STATUSES:
                    raise refusal(response)
                problem = f"the server is busy ({response.status_code})"
                if response.status_code == 429 and not once:
                    problem = "this device has made too many requests or changes (429)"
                retry_after = parse_retry_after(response.headers.get("Retry-After"), time.time())
            delay = retry_delay(attempt, retry_after, self._chance())
            if self._stop.is_set() or self._clock() + delay >= end:
                advice = (
                    "check the address, or try again later" if once else "edits wait in the outbox, sync again later"
                )
                if retry_after and not once:
                    advice = f"edits wait in the outbox, sync again in {_span(retry_after)}"
                raise NotReachable(f"{problem}; {advice}", retry_after)
            self._sleep(delay)
            attempt += 1

    @staticmethod
    def _json(response: httpx.Response) -> dict[str, Any]:
        try:
            document = response.json()
        except ValueError as error:
            raise ProtocolError("the answer is not JSON: check the URL") from error
        if not isinstance(document, dict):
            raise ProtocolError("the answer is not of protocol version 1: check the URL")
        return document


def refusal(response: httpx.Response) -> SyncError:
    """The error that an answer with a status of 300 or more means."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return ProtocolError(f"the server answered {response.status_code} without a reason: check the URL")
    code = str(problem.get("code") or "")
    detail = str(problem.get("detail") or problem.get("title") or "no reason given")
    status = response.status_code
    match status, code:
        case 401, "device_revoked":
            return DeviceRevoked(
                "an administrator revoked this device: enroll it again to go on", wiped=problem.get("wipe") is True
            )
        case 403, "enrollment_refused":
            return EnrollmentRefused("the code is wrong, used or expired: ask an administrator for a new one")
        case (410, _) | (400, "invalid_token"):
            restored = status == 400 or problem.get("restored") is True
            return TokenExpired(status, code, detail, restored)
        case 409, "not_current":
            return NotCurrent(status, code, detail)
        case 413, _:
            return BatchTooLarge(status, code, detail)
    return Refused(status, code, detail)


def _span(seconds: float) -> str:
    """Such as `2 h 5 min`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (0 if hours or minutes >= 10 else rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def http_date(moment: datetime) -> str:
    """`moment` (aware) as the wire wants it: RFC 3339 in UTC with microseconds and Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
