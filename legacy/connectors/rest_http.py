"""JSON over HTTP with a server that may do anything: tried again where that is safe, and bounded in time and size."""

import datetime as dt
import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from email.utils import parsedate_to_datetime
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from legacy.connector import Misconfigured, Unreachable
from legacy.connectors.rest_auth import Auth
from sync.outbound import NotPublic, PublicOnly, host_of, is_loopback

TRIES_MAX = 4
WAIT_SECONDS_MAX = 60  # between two of them; who asks for more is left alone until the next run
BODY_BYTES_MAX = 32 * 1024 * 1024  # of one answer, unpacked
WORDS_CHARACTERS_MAX = 500  # of what the other side says is wrong
BUSY = {429, 502, 503, 504}
NOTHING: Any = object()  # the body of an answer that has none
DECODER = msgspec.json.Decoder(float_hook=Decimal)
SPOKEN = ("title", "detail", "message", "error_description", "reason", "error", "errors", "invalid-params")


@dataclass(frozen=True)
class Answer:
    """`body` is decoded, its decimals exact; NOTHING where there is none. `call` is for error texts."""

    call: str
    status: int
    headers: httpx.Headers
    body: Any
    words: str  # what it says is wrong, without our secrets
    url: httpx.URL  # without its query
    next_link: str  # of the header `Link`
    private: tuple[str, ...]  # query parameters that are credentials: servers repeat them in their links
    hushed: Callable[[str], str]  # a text of theirs, without our secrets, cut off where it is long

    @property
    def fine(self) -> bool:
        return 200 <= self.status < 300


class Failed(Exception):
    """One try. `sent`: the other side may have done what was asked. `wait`: how many seconds it wants to be left alone.

    `answer`: what to go by when no more is tried, where that says more than that there was none.
    """

    def __init__(
        self, reason: str, *, sent: bool = True, wait: float | None = None, answer: Answer | None = None
    ) -> None:
        super().__init__(reason)
        self.sent, self.wait, self.answer = sent, wait, answer


@dataclass(frozen=True)
class Limits:
    connect_seconds: float = 10
    read_seconds: float = 30  # between two pieces of an answer
    total_seconds: float = 120  # of one answer, from the first byte that we send
    per_second: float = 0  # calls; 0: as fast as it answers


class Http:
    """Calls of one API. Each may raise Unreachable or Misconfigured; neither names a query or a secret."""

    def __init__(
        self, url: str, auth: Auth, limits: Limits, *, plain: bool, public_only: bool, proxy: str, ca_file: str
    ) -> None:
        _check(url, plain, public_only, proxy)
        parts = urlsplit(url)
        self.origin, self._base = f"{parts.scheme}://{parts.netloc}", url.rstrip("/")
        self._auth, self._limits, self._plain = auth, limits, plain
        self._next_at = 0.0
        self.their_now: dt.datetime | None = None  # by the Date of the newest answer
        tls = _trusted(ca_file)
        timeout = httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds)
        # Neither proxies nor credentials (.netrc) are taken from the environment of whoever starts a run.
        transport = PublicOnly(verify=tls, trust_env=False) if public_only else None
        self._client = httpx.Client(
            timeout=timeout, trust_env=False, verify=tls, transport=transport, proxy=proxy or None
        )

    def close(self) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        safe: bool = False,
    ) -> Answer:
        """One call. `safe`: doing it twice is as good as once, so it is tried again when its answer was lost.

        An answer that says "no" (4xx) is returned, so is one that failed in it (500) where it was to write.
        """
        renewed = False
        while True:
            signed, hidden = self._auth.sign(self._ask_token)
            sent = {"Accept": "application/json", **(headers or {}), **signed}
            url = path if path.startswith(self.origin) else self._base + path
            request = self._client.build_request(method, url, content=body, headers=sent)
            request.url = request.url.copy_merge_params({**(query or {}), **hidden})
            answer = self._tries(request, safe or method == "GET", tuple(hidden))
            if answer.status != 401:
                return answer
            if renewed or not self._auth.forget():
                raise Misconfigured(f"{self.origin} does not let us in ({self._auth.name}): {_because(answer)}")
            renewed = True

    def _ask_token(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Any:
        _check(url, self._plain, False, "")
        request = self._client.build_request("POST", url, data=form, headers={"Accept": "application/json", **headers})
        answer = self._tries(request, safe=True)
        if not answer.fine:
            raise Misconfigured(f"{url} gives {self._auth.name} no token: {_because(answer)}")
        return answer.body

    def _tries(self, request: httpx.Request, safe: bool, private: tuple[str, ...] = ()) -> Answer:
        call = f"{request.method} {request.url.path}"
        for attempt in range(1, TRIES_MAX + 1):
            self._keep_pace()
            try:
                return self._send(call, request, private)
            except Failed as failed:
                wait = random.uniform(0.5, 1) * 2**attempt / 4 if failed.wait is None else failed.wait
                if attempt == TRIES_MAX or wait > WAIT_SECONDS_MAX or (failed.sent and not safe):
                    if failed.answer:
                        return failed.answer
                    later = f"; it asks to be left alone for {wait:.0f} s" if failed.wait else ""
                    raise Unreachable(
                        f"{self.origin} does not answer {call}: {self._hush(str(failed))}{later}"
                    ) from None
                sleep(wait)
        raise AssertionError("unreachable")

    def _send(self, call: str, request: httpx.Request, private: tuple[str, ...]) -> Answer:
        """Raises Failed for what another try may mend."""
        until = monotonic() + self._limits.total_seconds
        try:
            response = self._client.send(request, stream=True)
            try:
                content = self._read(call, response, until)
            finally:
                response.close()
        except NotPublic as error:
            raise Misconfigured(f"{error}, and this API may only be on one.") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Misconfigured(f"The certificate of {request.url.host} is not to be trusted: {error}") from None
            raise Failed(_said(error), sent=False) from None
        except httpx.RequestError as error:
            raise Failed(_said(error)) from None
        return self._answer(call, request, response, content, private)

    def _read(self, call: str, response: httpx.Response, until: float) -> bytes:
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > BODY_BYTES_MAX:
                megabytes = BODY_BYTES_MAX // 1024**2
                raise Misconfigured(f"{self.origin} answers {call} with over {megabytes} MiB: ask for smaller pages.")
            if monotonic() > until:
                raise Failed(f"its answer took over {self._limits.total_seconds:g} s")
        return bytes(content)

    def _answer(
        self, call: str, request: httpx.Request, response: httpx.Response, content: bytes, private: tuple[str, ...]
    ) -> Answer:
        status, reads = response.status_code, request.method == "GET"
        now = _date(response.headers.get("Date", ""))
        self.their_now = now or self.their_now
        if status in BUSY or (status == 409 and "Retry-After" in response.headers):
            # Who has had too many calls (429) has not looked at this one.
            wait = _wait(response.headers.get("Retry-After", ""), now)
            raise Failed(f"{status} {response.reason_phrase}", sent=status != 429, wait=wait)
        if 300 <= status < 400:
            target = host_of(response.headers.get("Location", "")) or "another path"
            raise Misconfigured(f"{self.origin} sends {call} on to {target}: declare the address where it really is.")
        body = self._decode(call, response, content, strict=response.is_success)
        if reads and body is NOTHING and response.is_success:
            raise Failed("the answer is empty")
        words = self._hush(told(body))
        link = response.links.get("next", {}).get("url", "")
        url = request.url.copy_with(query=None)
        answer = Answer(call, status, response.headers, body, words, url, link, private, self._hush)
        if status >= 500:  # a write that fails over there may do so for what is in it: the caller finds that out
            raise Failed(f"{status} {words or response.reason_phrase}", answer=None if reads else answer)
        return answer

    def _decode(self, call: str, response: httpx.Response, content: bytes, strict: bool) -> Any:
        """Raises Failed for JSON that was cut off, Misconfigured for what never was any."""
        if not content.strip():
            return NOTHING
        try:
            return DECODER.decode(content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            kind = response.headers.get("Content-Type", "").partition(";")[0] or "no type"
            if not strict:
                return NOTHING
            if "json" in kind and content.lstrip()[:1] != b"<":
                raise Failed("the answer breaks off, or is broken JSON") from None
            raise Misconfigured(f"What answers {call} at {self.origin} is no JSON API, but {kind}.") from None

    def _keep_pace(self) -> None:
        if self._limits.per_second:
            wait = self._next_at - monotonic()
            if wait > 0:
                sleep(wait)
            self._next_at = max(self._next_at, monotonic()) + 1 / self._limits.per_second

    def _hush(self, text: str) -> str:
        for secret in self._auth.secrets:
            text = text.replace(secret, "•••")
        return text[:WORDS_CHARACTERS_MAX]


def _check(url: str, plain: bool, public_only: bool, proxy: str) -> None:
    scheme, host = url.partition("://")[0].lower(), host_of(url)
    if not host or scheme not in {"http", "https"} or "@" in url:
        raise Misconfigured("The API's address must be https:// and a host, without user or password in it.")
    if scheme == "http" and not (plain or is_loopback(host)):
        raise Misconfigured(f"{host} would be told our credentials in clear: use https://, or declare plain=True.")
    if public_only and proxy:
        raise Misconfigured("public_only cannot be kept through a proxy: it is the proxy that connects.")


def _trusted(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context(trust_env=False)
    except OSError as error:
        raise Misconfigured(f"The certificates in {ca_file} cannot be read: {error.strerror}.") from None


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _because(answer: Answer) -> str:
    return answer.words or str(answer.status)


def _date(text: str) -> dt.datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _wait(asked: str, now: dt.datetime | None) -> float | None:
    """Seconds, from a Retry-After of either form; a date is counted from theirs, whatever our clock says."""
    if asked.isascii() and asked.isdigit():
        return float(asked)
    at = _date(asked)
    return max(0.0, (at - (now or dt.datetime.now(dt.UTC))).total_seconds()) if at else None


def told(body: Any) -> str:
    """What an error says, in any of the usual shapes: problem+json, `error`, `errors`, fields with their messages."""
    match body:
        case dict():
            known = [body[name] for name in SPOKEN if body.get(name)]
            if known:
                return "; ".join(dict.fromkeys(filter(None, map(told, known))))
            return "; ".join(f"{name}: {said}" for name, each in body.items() if (said := told(each)))
        case list():
            return "; ".join(filter(None, map(told, body)))
        case str():
            return body
    return ""
