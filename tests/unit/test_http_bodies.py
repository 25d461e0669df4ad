"""The bodies of requests and answers: compressed, within their limits, and read as JSON; without a database."""

import contextlib
import gzip
import io
import json
import tracemalloc
import zlib
from typing import Any

import msgspec
import pytest
import zstandard
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from syncserver import encoding
from syncserver.errors import Problem
from syncserver.http import RequestMiddleware, body_as
from tests.unit.http_support import LARGE, code_of, post, stand_ins

pytestmark = pytest.mark.usefixtures(stand_ins.__name__)


# --- Request bodies -------------------------------------------------------------------------------


def zstd_of_unknown_size(body: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(body) + stream.flush()


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


def test_zlib_and_raw_deflate_are_not_gzip() -> None:
    with pytest.raises(Problem):
        encoding.inflate(zlib.compress(b"{}"), "gzip", 100)


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
