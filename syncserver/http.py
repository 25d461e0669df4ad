"""What every request passes through: its id, body limits and compression, problems instead of HTML, one log line."""

import ipaddress
import logging
import math
import re
import secrets
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from time import perf_counter
from typing import Any, TypeVar

import msgspec
import psycopg
import structlog
from django.conf import settings
from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse
from django.urls import resolve
from django.utils.cache import patch_vary_headers
from rest_framework import exceptions as drf
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.views import APIView

from syncserver import encoding
from syncserver.errors import CODE_BY_STATUS, MEDIA_TYPE, Problem
from syncserver.logs import DEVICE_KEY, REDACTED

T = TypeVar("T")

WEBHOOK_PATH = "/legacy/"  # for the pre-existing systems
DIRECT_PATHS = ("/sync/", "/devices/", WEBHOOK_PATH, "/healthz", "/readyz", "/metrics")  # these have no session
STAFF_PATH = "/api/"  # for people and their programs
API_PATHS = (*DIRECT_PATHS, STAFF_PATH)  # these never answer in HTML
PUSH_PATH = "/sync/push"
COMPRESS_BYTES_MIN = 1_000  # a smaller answer fits in one packet anyway
# Not text/html: a page that shows a secret beside what an attacker chose must not be compressed (BREACH).
COMPRESSED_TYPES = (
    "application/json",
    MEDIA_TYPE,
    "text/plain",
    "text/css",
    "text/javascript",
    "application/vnd.oai.openapi",
)
DATABASE_RETRY_SECONDS = 5
_DATABASE_AWAY = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
_SECRET_PATH = re.compile(r"(/webhook/).+", re.DOTALL)  # some systems sign nothing, and have a secret as address
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

log = logging.getLogger("syncserver.http")
access_log = logging.getLogger("syncserver.access")


class RequestMiddleware:
    """The outermost middleware. It sees a request before anything has read its body."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = perf_counter()
        request_id = _request_id(request.META.get("HTTP_X_REQUEST_ID"))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        response = self._answer(request)
        response.headers["X-Request-ID"] = request_id
        response.headers.setdefault("X-Content-Type-Options", "nosniff")  # also where Django was never asked
        if access_log.isEnabledFor(logging.INFO):
            access_log.info("request", extra={"access": _facts(request, response, request_id, started)})
        return response

    def _answer(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(API_PATHS):
            return _compressed(request, self.get_response(request))
        try:
            _open_body(request)
        except Problem as problem:
            return respond(problem)
        response = self.get_response(request)
        if response.status_code >= 400 and "json" not in response.headers.get("Content-Type", ""):
            response = _without_html(response)
        return _compressed(request, response)


class ApiMiddleware:
    """Takes a request of a device straight to its view, past what only people need: sessions, CSRF, users, messages.

    What a view raises becomes a problem; REST framework's own views come by `problem_response` themselves.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(DIRECT_PATHS):
            return self.get_response(request)
        try:
            found = request.resolver_match = resolve(request.path_info)
            response: HttpResponseBase = found.func(request, *found.args, **found.kwargs)
            return response.render() if isinstance(response, SimpleTemplateResponse) else response
        except Exception as error:
            return problem_response(error, {})


class DirectView(APIView):
    """An endpoint that is described as REST framework wants it, and called without its preparations.

    Its methods get Django's own request, and authenticate it themselves.
    """

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        name = (request.method or "").lower()
        handler = getattr(self, name, None) if name in self.http_method_names else None
        if handler is not None and name != "options":  # whose answer by REST framework wants its own request
            response: HttpResponse = handler(request, *args, **kwargs)
            return response
        refused = respond(Problem("method_not_allowed")) if handler is None else HttpResponse(status=204)
        refused.headers["Allow"] = ", ".join(self.allowed_methods)
        return refused


class WhateverAccepted(BaseContentNegotiation):
    """For a view that sends what was asked for in another way than by Accept, or to a probe that sends any Accept."""

    def select_parser(self, _request: Any, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, _request: Any, renderers: Any, _format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def problem_response(error: Exception, _context: dict[str, Any]) -> HttpResponse:
    """REST framework's exception handler: any exception as a problem. A failure of the server is logged."""
    problem = problem_of(error)
    response = respond(problem)
    if problem.status >= 500:
        log.error(problem.code, exc_info=error)
        response._has_been_logged = True  # type: ignore[attr-defined]  # else Django logs it again
    return response


def respond(problem: Problem) -> HttpResponse:
    """The problem as an HTTP response."""
    return HttpResponse(problem.body(), status=problem.status, content_type=MEDIA_TYPE, headers=problem.headers or None)


def problem_of(error: Exception) -> Problem:
    """The catalogue's problem for any exception; `internal_error`, without its text, for one that is not foreseen."""
    match error:
        case Problem():
            return error
        case drf.APIException():
            return _problem_of_drf(error)
        case Http404():
            return Problem("not_found")
        case PermissionDenied():
            return Problem("forbidden")
        case RequestDataTooBig():
            return Problem("body_too_large")
        case BadRequest() | SuspiciousOperation() | UnreadablePostError():
            return Problem("invalid_request")
    if isinstance(error, _DATABASE_AWAY):
        return Problem("service_unavailable", retry_after_seconds=DATABASE_RETRY_SECONDS)
    return Problem("internal_error")


def _problem_of_drf(error: drf.APIException) -> Problem:
    if isinstance(error, drf.ParseError):
        return Problem("invalid_json", str(error.detail))
    if isinstance(error, drf.Throttled):
        return Problem("rate_limited", retry_after_seconds=math.ceil(getattr(error, "wait", None) or 1))
    code = CODE_BY_STATUS.get(error.status_code, "internal_error")
    if error.status_code >= 500:
        return Problem(code)
    return Problem(code, error.detail) if isinstance(error.detail, str) else Problem(code, errors=error.detail)


def body_as(request: HttpRequest, kind: type[T]) -> T:
    """Decode and validate a JSON body as a msgspec type.

    Raises Problem: `unsupported_media_type`, `invalid_json`, `unknown_field` or `invalid_request`, the last two with
    the member as `field`. NUL characters are refused, since PostgreSQL's text cannot hold them.
    """
    media_type, _, parameters = request.META.get("CONTENT_TYPE", "").lower().partition(";")
    if media_type.strip() not in {"", "application/json"} or ("charset" in parameters and "utf-8" not in parameters):
        raise Problem("unsupported_media_type")
    body = request.body
    try:
        value: T = _decoder(kind).decode(body)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (ValueError, RecursionError) as error:  # malformed, not UTF-8, a lone surrogate, nested too deep
        raise Problem("invalid_json", f"The body is not valid JSON: {error}.") from None
    if rb"\u0000" in body and _holds_nul(msgspec.to_builtins(value)):
        raise Problem("invalid_request", "Text must not hold the NUL character (\\u0000).")
    return value


def client_address(request: HttpRequest) -> str:
    """Who calls, for limits: an IPv4 address, or the /64 network of an IPv6 one, since one caller has all of it.

    Behind SYNC_PROXIES_COUNT trusted proxies it is what the outermost of them saw; otherwise X-Forwarded-For is not
    believed.
    """
    address = request.META.get("REMOTE_ADDR", "")
    hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    if 0 < settings.SYNC_PROXIES_COUNT <= len(hops):
        address = hops[-settings.SYNC_PROXIES_COUNT]
    return _network(address.strip())


@cache
def _decoder(kind: Hashable) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)


def _invalid(message: str) -> Problem:
    """msgspec's message, such as "Expected `str`, got `int` - at `$.name`", as a problem that names the member."""
    text, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    named = re.search(r"(unknown|required) field `(.*)`", text)
    field = f"{path}.{named[2]}".lstrip(".") if named else path
    code = "unknown_field" if named and named[1] == "unknown" else "invalid_request"
    return Problem(code, f"{text}, at {path}." if path else f"{text}.", field=field)


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(map(_holds_nul, value))


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _facts(request: HttpRequest, response: HttpResponseBase, request_id: str, started: float) -> dict[str, object]:
    """The access line: the path without its query, which may hold a token; authentication notes the device."""
    return {
        "event": "request",
        "level": "info",
        "timestamp": datetime.now(UTC),
        "method": request.method,
        "path": _SECRET_PATH.sub(r"\1" + REDACTED, request.path_info),
        "status": response.status_code,
        "ms": round((perf_counter() - started) * 1000, 2),
        "device": request.META.get(DEVICE_KEY),
        "request_id": request_id,
    }


def _open_body(request: HttpRequest) -> None:
    """Refuse a body over its limit, and put a plain one in place of one that is compressed or chunked."""
    meta = request.META
    try:
        length = int(meta.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise Problem("invalid_request", "Content-Length must be a number.") from None
    chunked = not length and "HTTP_TRANSFER_ENCODING" in meta
    if not length and not chunked:
        return
    push = request.path_info == PUSH_PATH
    large = push or request.path_info.startswith(STAFF_PATH)  # who mends a mutation may send as much as it had
    bytes_max: int = settings.SYNC_PUSH_BODY_BYTES_MAX if large else settings.SYNC_BODY_BYTES_MAX
    if request.path_info.startswith(WEBHOOK_PATH):
        bytes_max = settings.LEGACY_WEBHOOK_BODY_BYTES_MAX
    encoded = meta.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if length <= bytes_max and encoded == "identity" and not chunked:
        return
    try:
        _replace_body(request, _read(request, length, bytes_max), encoded, bytes_max)
    except OverflowError:
        raise Problem(
            "batch_too_large" if push else "body_too_large",
            f"The body is larger than {bytes_max} bytes, counted without compression.",
            bytes_max=bytes_max,
        ) from None


def _read(request: HttpRequest, length: int, bytes_max: int) -> bytes:
    """The body as it came. Raises OverflowError, before it is in memory, where it is larger than `bytes_max`."""
    if length > bytes_max:
        raise OverflowError
    # Django reads nothing where there is no Content-Length; the server ends a chunked body by itself.
    source = request if length else request.META["wsgi.input"]
    wanted = length or bytes_max + 1
    parts: list[bytes] = []
    while wanted > 0 and (part := source.read(wanted)):
        parts.append(part)
        wanted -= len(part)
    if not length and wanted == 0:
        raise OverflowError
    return b"".join(parts)


def _replace_body(request: HttpRequest, body: bytes, encoded: str, bytes_max: int) -> None:
    if encoded != "identity":
        body = encoding.inflate(body, encoded, bytes_max)
        del request.META["HTTP_CONTENT_ENCODING"]
    request.META["CONTENT_LENGTH"] = str(len(body))
    # The stream is replaced, not the cached body: whoever reads either, in Django or REST framework, finds it.
    request._stream = BytesIO(body)
    request._read_started = False  # type: ignore[attr-defined]


def _without_html(response: HttpResponseBase) -> HttpResponse:
    """Django's own page for an error (no such address, a forbidden host, …) as the problem of the same status."""
    problem = Problem(
        CODE_BY_STATUS.get(response.status_code, "internal_error" if response.status_code >= 500 else "invalid_request")
    )
    replaced = respond(problem)
    replaced.status_code = response.status_code
    if "Allow" in response.headers:
        replaced.headers["Allow"] = response.headers["Allow"]
    return replaced


def _compressed(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """The response, compressed as the client accepts, where that is worth it."""
    if not isinstance(response, HttpResponse) or len(response.content) < COMPRESS_BYTES_MIN:
        return response
    headers = response.headers
    if "Content-Encoding" in headers or not headers.get("Content-Type", "").startswith(COMPRESSED_TYPES):
        return response
    patch_vary_headers(response, ("Accept-Encoding",))
    if chosen := encoding.accepted(request.META.get("HTTP_ACCEPT_ENCODING", "")):
        response.content = encoding.compress(response.content, chosen)
        headers["Content-Encoding"] = chosen
        headers["Content-Length"] = str(len(response.content))
        if headers.get("ETag", "").startswith('"'):
            headers["ETag"] = "W/" + headers["ETag"]  # the same content, but no longer the same bytes
    return response


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
