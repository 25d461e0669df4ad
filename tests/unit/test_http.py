"""What every request passes through. Views stand in for the project's; there is no database."""

import contextlib
import gzip
import io
import json
import logging
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
import zstandard
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.handlers.wsgi import WSGIRequest
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from hypothesis import given
from hypothesis import strategies as st
from rest_framework import exceptions as drf
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from syncserver import encoding
from syncserver.errors import Problem
from syncserver.http import DirectView, RequestMiddleware, body_as, client_address, problem_of
from syncserver.logs import json_formatter

LARGE = {"text": "again and again " * 1000}
raised: Exception | None = None  # what `fail` raises next


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, content_type="application/octet-stream")


def large(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(json.dumps(LARGE), content_type="application/json", headers={"ETag": '"one"'})


def page(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("<p>" + "text " * 1000)


def events(_request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(["data\n" * 1000]), content_type="text/plain")


def fail(_request: HttpRequest) -> HttpResponse:
    assert raised is not None
    raise raised


def get_only(_request: HttpRequest) -> HttpResponse:
    return HttpResponseNotAllowed(["GET"])


class RestView(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, _request: Request) -> HttpResponse:
        assert raised is not None
        raise raised

    def post(self, request: Request) -> Response:
        return Response(request.data)


class Direct(DirectView):
    def get(self, _request: HttpRequest) -> HttpResponse:
        return HttpResponse(b"here")


urlpatterns = [
    path("sync/direct", Direct.as_view()),
    path("sync/push", echo),
    path("sync/echo", echo),
    path("sync/large", large),
    path("sync/events", events),
    path("sync/fail", fail),
    path("sync/get", get_only),
    path("sync/rest", RestView.as_view()),
    path("page", page),
    path("fail", fail),
]
MIDDLEWARE = [
    "syncserver.http.RequestMiddleware",
    "django.middleware.common.CommonMiddleware",
    "syncserver.http.ApiMiddleware",
]


@pytest.fixture(autouse=True)
def _here() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE):
        yield


def raising(error: Exception) -> None:
    global raised
    raised = error


def zstd_of_unknown_size(body: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(body) + stream.flush()


def post(client: Client, address: str, body: bytes, **headers: str) -> Any:
    return client.post(address, body, content_type="application/json", headers=headers)


def code_of(response: Any) -> str:
    assert response.headers["Content-Type"] == "application/problem+json"
    return str(json.loads(response.content)["code"])


# --- Request bodies -------------------------------------------------------------------------------

COMPRESSORS = [
    ("gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("x-gzip", gzip.compress),
    ("zstd", zstandard.ZstdCompressor().compress),
    ("zstd", zstd_of_unknown_size),
]


@pytest.mark.parametrize(("name", "compress"), COMPRESSORS)
@pytest.mark.parametrize("body", [b'{"a":1}', b"[" + b"1," * 20_000 + b"1]"])
def test_compressed_body_is_read_as_the_plain_one(client: Client, name: str, compress: Any, body: bytes) -> None:
    assert post(client, "/sync/echo", compress(body), **{"Content-Encoding": name}).content == body


@pytest.mark.parametrize(("name", "compress"), COMPRESSORS)
def test_compressed_body_reaches_rest_framework(client: Client, name: str, compress: Any) -> None:
    assert post(client, "/sync/rest", compress(b'{"a":1}'), **{"Content-Encoding": name}).json() == {"a": 1}


def test_identity_encoding_is_the_plain_body(client: Client) -> None:
    assert post(client, "/sync/echo", b"{}", **{"Content-Encoding": "identity"}).content == b"{}"


@pytest.mark.parametrize(
    ("address", "setting", "code"),
    [
        ("/sync/push", "SYNC_PUSH_BODY_BYTES_MAX", "batch_too_large"),
        ("/sync/echo", "SYNC_BODY_BYTES_MAX", "body_too_large"),
    ],
)
@pytest.mark.parametrize(("name", "compress"), [("identity", bytes), *COMPRESSORS])
def test_body_over_its_limit_is_413_and_one_at_it_is_not(
    client: Client, address: str, setting: str, code: str, name: str, compress: Any
) -> None:
    with override_settings(**{setting: 50_000}):
        fits = post(client, address, compress(b"a" * 50_000), **{"Content-Encoding": name})
        over = post(client, address, compress(b"a" * 50_001), **{"Content-Encoding": name})
    assert (fits.status_code, len(fits.content)) == (200, 50_000)
    assert (over.status_code, code_of(over)) == (413, code)


@pytest.mark.parametrize(("name", "compress"), COMPRESSORS)
def test_compression_bomb_is_413_and_never_inflated(client: Client, name: str, compress: Any) -> None:
    bomb = compress(bytes(50_000_000))
    assert len(bomb) < 60_000
    tracemalloc.start()
    response = post(client, "/sync/echo", bomb, **{"Content-Encoding": name})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (response.status_code, code_of(response)) == (413, "body_too_large")
    assert peak < 2_000_000


def test_zstd_frame_that_lies_about_its_size_is_refused(client: Client) -> None:
    honest = zstandard.ZstdCompressor().compress(b"a" * 1_000_000)
    size_at = honest.index((1_000_000).to_bytes(4, "little"))
    liar = honest[:size_at] + (1000).to_bytes(4, "little") + honest[size_at + 4 :]
    assert code_of(post(client, "/sync/echo", liar, **{"Content-Encoding": "zstd"})) == "invalid_encoding"


@pytest.mark.parametrize(("name", "compress"), COMPRESSORS)
@pytest.mark.parametrize(
    "harm",
    [
        lambda body: body[:-1],  # cut short
        lambda body: body[: len(body) // 2],
        lambda body: body + b"more",
        lambda body: body + body,  # a second member or frame
        lambda body: b"plain text, in fact",
    ],
)
def test_broken_compressed_body_is_400(client: Client, name: str, compress: Any, harm: Any) -> None:
    response = post(client, "/sync/echo", harm(compress(b'{"a": "text"}')), **{"Content-Encoding": name})
    assert (response.status_code, code_of(response)) == (400, "invalid_encoding")


@pytest.mark.parametrize("name", ["br", "deflate", "gzip, zstd", "gzip, gzip", ""])
def test_other_encodings_are_415_and_name_the_supported_ones(client: Client, name: str) -> None:
    response = post(client, "/sync/echo", b"{}", **{"Content-Encoding": name})
    assert (response.status_code, code_of(response)) == (415, "unsupported_encoding")
    assert response.headers["Accept-Encoding"] == "zstd, gzip"


@given(body=st.binary(max_size=5_000), bytes_max=st.integers(0, 5_000))
@pytest.mark.parametrize(("name", "compress"), COMPRESSORS[2:])
def test_inflate_gives_the_body_or_refuses_by_its_length(name: str, compress: Any, body: bytes, bytes_max: int) -> None:
    try:
        assert encoding.inflate(compress(body), name, bytes_max) == body
        assert len(body) <= bytes_max
    except OverflowError:
        assert len(body) > bytes_max


@given(noise=st.binary(max_size=200))
@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_inflate_never_fails_in_another_way(name: str, noise: bytes) -> None:
    magic = gzip.compress(b"")[:10] if name == "gzip" else b"\x28\xb5\x2f\xfd"
    for body in (noise, magic + noise):
        with contextlib.suppress(Problem, OverflowError):
            encoding.inflate(body, name, 1000)


def chunked(body: bytes, **meta: Any) -> WSGIRequest:
    """A request without a Content-Length, as a server hands it over."""
    request = RequestFactory().generic("POST", "/sync/echo", headers={"Transfer-Encoding": "chunked"}, **meta)
    environ = request.environ | {"wsgi.input": io.BytesIO(body)}
    return WSGIRequest(environ)


def test_chunked_body_is_read_within_its_limit() -> None:
    answer = RequestMiddleware(lambda request: HttpResponse(request.body))
    assert answer(chunked(b'{"a":1}')).content == b'{"a":1}'  # type: ignore[attr-defined]
    assert answer(chunked(gzip.compress(b"{}"), HTTP_CONTENT_ENCODING="gzip")).content == b"{}"  # type: ignore[attr-defined]
    assert answer(chunked(bytes(64_001))).status_code == 413


# --- Response bodies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.5, gzip;q=1.0", "gzip"),
        ("zstd;q=0, gzip;q=0", None),
        ("ZSTD ; Q=1", "zstd"),
        ("*", "zstd"),
        ("*;q=0.3, zstd;q=0", "gzip"),
        ("*;q=0", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),  # it prefers the plain body
        ("gzip;q=high", None),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        ("br", None),
        (",,;;q=,", None),
    ],
)
def test_accept_encoding(header: str, chosen: str | None) -> None:
    assert encoding.accepted(header) == chosen


@given(st.text())
def test_accept_encoding_reads_anything(header: str) -> None:
    assert encoding.accepted(header) in {None, "zstd", "gzip"}


@pytest.mark.parametrize(
    ("name", "inflate"), [("gzip", gzip.decompress), ("zstd", zstandard.ZstdDecompressor().decompress)]
)
def test_large_json_is_compressed_as_accepted(client: Client, name: str, inflate: Any) -> None:
    response = client.get("/sync/large", headers={"Accept-Encoding": name})
    assert response.headers["Content-Encoding"] == name
    assert response.headers["Content-Length"] == str(len(response.content))
    assert json.loads(inflate(response.content)) == LARGE
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.headers["ETag"] == 'W/"one"'


def test_plain_answer_still_varies_by_encoding(client: Client) -> None:
    response = client.get("/sync/large")
    assert response.json() == LARGE
    assert "Content-Encoding" not in response.headers
    assert (response.headers["Vary"], response.headers["ETag"]) == ("Accept-Encoding", '"one"')


@pytest.mark.parametrize("address", ["/sync/get", "/sync/events", "/page"])
def test_small_streamed_and_html_answers_are_not_compressed(client: Client, address: str) -> None:
    assert "Content-Encoding" not in client.get(address, headers={"Accept-Encoding": "zstd, gzip"}).headers


# --- Errors ---------------------------------------------------------------------------------------

FAILURES = [
    (Problem("token_expired"), 410, "token_expired"),
    (Http404("secret"), 404, "not_found"),
    (PermissionDenied("secret"), 403, "forbidden"),
    (SuspiciousOperation("secret"), 400, "invalid_request"),
    (OperationalError("secret: connection refused"), 503, "service_unavailable"),
    (InterfaceError("secret"), 503, "service_unavailable"),
    (psycopg.OperationalError("secret"), 503, "service_unavailable"),
    (RuntimeError("secret"), 500, "internal_error"),
    (drf.NotAuthenticated(), 401, "unauthorized"),
    (drf.PermissionDenied(), 403, "forbidden"),
    (drf.NotFound(), 404, "not_found"),
    (drf.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
    (drf.NotAcceptable(), 406, "not_acceptable"),
    (drf.UnsupportedMediaType("text/csv"), 415, "unsupported_media_type"),
    (drf.ParseError(), 400, "invalid_json"),
    (drf.ValidationError({"name": ["too long"]}), 400, "invalid_request"),
    (drf.Throttled(wait=12.3), 429, "rate_limited"),
    (drf.APIException("secret"), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), FAILURES)
@pytest.mark.parametrize("debug", [False, True])
def test_exception_in_an_api_view_is_a_problem(
    client: Client, error: Exception, status: int, code: str, debug: bool
) -> None:
    raising(error)
    with override_settings(DEBUG=debug):
        response = client.get("/sync/fail")
    assert (response.status_code, code_of(response)) == (status, code)
    assert b"secret" not in response.content
    assert b"Traceback" not in response.content


# REST framework itself makes a 401 a 403 in a view without authentication, such as this one.
@pytest.mark.parametrize(("error", "status", "code"), [row for row in FAILURES if row[1] != 401])
def test_exception_in_a_rest_framework_view_is_the_same_problem(
    client: Client, error: Exception, status: int, code: str
) -> None:
    raising(error)
    response = client.get("/sync/rest")
    assert (response.status_code, code_of(response)) == (status, code)
    assert b"secret" not in response.content


def test_database_away_and_throttling_say_when_to_retry(client: Client) -> None:
    raising(OperationalError())
    assert client.get("/sync/fail").headers["Retry-After"] == "5"
    raising(drf.Throttled(wait=12.3))
    assert client.get("/sync/fail").headers["Retry-After"] == "13"


def test_failure_is_logged_once_with_its_traceback(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    raising(RuntimeError("the reason"))
    client.get("/sync/fail")
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [str(record.exc_info and record.exc_info[1]) for record in errors] == ["the reason"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("address", ["/sync/none", "/devices/none", "/healthz/none", "/sync/large/"])
def test_unknown_api_address_is_a_problem(client: Client, address: str, debug: bool) -> None:
    with override_settings(DEBUG=debug):
        assert code_of(client.get(address)) == "not_found"


def test_wrong_method_is_a_problem_that_names_the_right_ones(client: Client) -> None:
    plain, rest = client.post("/sync/get"), client.delete("/sync/rest")
    assert code_of(plain) == code_of(rest) == "method_not_allowed"
    assert plain.headers["Allow"] == "GET"
    assert "POST" in rest.headers["Allow"]


def test_direct_view_answers_its_methods_and_names_them_to_who_asks(client: Client) -> None:
    assert (client.get("/sync/direct").content, client.head("/sync/direct").content) == (b"here", b"")
    for asked, status in ((client.options("/sync/direct"), 204), (client.delete("/sync/direct"), 405)):
        assert (asked.status_code, asked.headers["Allow"]) == (status, "GET, HEAD, OPTIONS")
    raising(Problem("invalid_token"))
    assert code_of(client.post("/sync/fail")) == "invalid_token"


@pytest.mark.parametrize("debug", [False, True])
def test_forbidden_host_is_a_problem(client: Client, debug: bool) -> None:
    with override_settings(DEBUG=debug):
        response = client.get("/sync/large", headers={"Host": "evil.example"})
    assert (response.status_code, code_of(response)) == (400, "invalid_request")


def test_pages_outside_the_api_keep_their_html(client: Client) -> None:
    client.raise_request_exception = False
    raising(RuntimeError())
    assert client.get("/fail").headers["Content-Type"].startswith("text/html")
    assert client.get("/none").headers["Content-Type"].startswith("text/html")


def test_unforeseen_exception_keeps_its_text_from_the_client() -> None:
    assert "secret" not in str(problem_of(ValueError("secret")).as_dict())


# --- Request id and logs --------------------------------------------------------------------------


def test_sane_request_id_is_kept(client: Client) -> None:
    assert (
        client.get("/sync/large", headers={"X-Request-ID": "trace-0198_a.b"}).headers["X-Request-ID"]
        == "trace-0198_a.b"
    )


@pytest.mark.parametrize("given_id", ["", "short", "x" * 65, "a b c d e f g", 'quote"quote', "line\nline\n"])
def test_other_request_id_is_replaced(client: Client, given_id: str) -> None:
    response = client.get("/sync/large", headers={"X-Request-ID": given_id})
    assert len(response.headers["X-Request-ID"]) == 32


def test_access_line_is_json_without_secrets(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "syncserver.access"):
        client.get("/sync/large?token=secret", headers={"Authorization": "Bearer secret", "X-Request-ID": "trace-01"})
    (record,) = (record for record in caplog.records if record.name == "syncserver.access")
    line = json_formatter().format(record)
    facts = json.loads(line)
    assert "secret" not in line
    assert facts.items() >= {"method": "GET", "path": "/sync/large", "status": 200, "request_id": "trace-01"}.items()
    assert facts["ms"] >= 0


@pytest.mark.parametrize(
    ("message", "extra"),
    [
        ("enrolled", {"token": "secret"}),
        ("enrolled", {"facts": {"Authorization": "secret", "device_token": "secret"}}),
        ("new password", {"password": "secret"}),
        ("enrolled", {"enrollment_code": "secret"}),
        ("got Bearer secret-secret", {}),
        ("token sd_" + "secret0" * 6 + "1", {}),
        ("connecting to postgresql://app:secret@host/name", {}),
    ],
)
def test_secrets_are_redacted(message: str, extra: dict[str, Any]) -> None:
    record = logging.getLogger("test").makeRecord("test", logging.INFO, "", 0, message, (), None, extra=extra)
    line = json_formatter().format(record)
    assert "secret" not in line
    assert "[redacted]" in line
    json.loads(line)


# --- JSON bodies ----------------------------------------------------------------------------------


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner: list[Inner] = []


def body_of(body: bytes, content_type: str = "application/json") -> Body:
    return body_as(RequestFactory().post("/sync/echo", body, content_type=content_type), Body)


def test_json_body_is_decoded() -> None:
    assert body_of(b'{"name":"a","inner":[{"size":1}]}', "application/json; charset=UTF-8") == Body("a", [Inner(1)])


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"name":"a"} x', "invalid_json", None),
        (b'{"name":"\xff"}', "invalid_json", None),
        (b'{"name":"\\ud800"}', "invalid_json", None),  # a lone surrogate
        (b'{"name":"a\\u0000b"}', "invalid_request", None),  # NUL
        (b"[]", "invalid_request", ""),
        (b"null", "invalid_request", ""),
        (b"{}", "invalid_request", "name"),
        (b'{"name":1}', "invalid_request", "name"),
        (b'{"name":"a","inner":[{"size":"1"}]}', "invalid_request", "inner[0].size"),
        (b'{"name":"a","inner":[{}]}', "invalid_request", "inner[0].size"),
        (b'{"nickname":"a"}', "unknown_field", "nickname"),
        (b'{"name":"a","inner":[{"size":1,"depth":2}]}', "unknown_field", "inner[0].depth"),
    ],
)
def test_bad_json_body_is_told_with_its_place(body: bytes, code: str, field: str | None) -> None:
    with pytest.raises(Problem) as raised:
        body_of(body)
    assert (raised.value.code, raised.value.extra.get("field")) == (code, field)


def test_backslash_before_u0000_is_not_a_nul() -> None:
    assert body_of(rb'{"name":"\\u0000"}').name == r"\u0000"


def test_deeply_nested_body_is_refused() -> None:
    with pytest.raises(Problem):
        body_as(RequestFactory().post("/", b"[" * 50_000, content_type="application/json"), object)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_other_media_type_is_415(content_type: str) -> None:
    with pytest.raises(Problem, match="unsupported_media_type"):
        body_of(b"{}", content_type)


# --- Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "remote", "forwarded", "address"),
    [
        (0, "203.0.113.9", "10.0.0.1", "203.0.113.9"),  # anybody can send the header
        (1, "10.0.0.2", "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # what the proxy appended, not what the caller made up
        (2, "10.0.0.3", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (2, "10.0.0.3", "203.0.113.9", "10.0.0.3"),  # it did not come by both proxies
        (0, "2001:db8:1:2:aaaa::1", "", "2001:db8:1:2::/64"),
        (0, "::ffff:203.0.113.9", "", "203.0.113.9"),
        (0, "", "", "unknown"),
        (1, "10.0.0.2", "rubbish", "unknown"),
    ],
)
def test_client_address(proxies: int, remote: str, forwarded: str, address: str) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=remote, headers={"X-Forwarded-For": forwarded})
    with override_settings(SYNC_PROXIES_COUNT=proxies):
        assert client_address(request) == address


def test_zlib_and_raw_deflate_are_not_gzip() -> None:
    with pytest.raises(Problem):
        encoding.inflate(zlib.compress(b"{}"), "gzip", 100)
