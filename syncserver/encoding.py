"""Compressed bodies: reading what a client sent within a hard limit, choosing what it accepts. No HTTP, no Django."""

import gzip
import threading
import zlib
from functools import lru_cache

import zstandard

from syncserver.errors import Problem

_GZIP = 16 + zlib.MAX_WBITS
_ZSTD_WINDOW_BYTES_MAX = 8 * 2**20  # what RFC 8878 asks every reader to support, and no more
_GZIP_LEVEL = 4
_of_thread = threading.local()  # a zstd context is costly to make, and must not be shared by threads


def inflate(data: bytes, encoding: str, bytes_max: int) -> bytes:
    """Decompress one gzip member or one zstd frame, never producing more than `bytes_max` + 1 bytes.

    Raises OverflowError where it would be longer than `bytes_max`, and Problem: `invalid_encoding` for a broken stream,
    one that ends early or has something behind it, and `unsupported_encoding` for any other encoding.
    """
    match encoding:
        case "gzip" | "x-gzip":
            return _gunzip(data, bytes_max)
        case "zstd":
            return _unzstd(data, bytes_max)
    raise Problem("unsupported_encoding")


def _gunzip(data: bytes, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj(_GZIP)
    try:
        body = inflater.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise Problem("invalid_encoding", "The body is not a gzip stream.") from error
    if len(body) > bytes_max:
        raise OverflowError
    if not inflater.eof or inflater.unused_data:
        raise Problem("invalid_encoding", "The gzip stream is cut short, or something follows it.")
    return body


def _unzstd(data: bytes, bytes_max: int) -> bytes:
    inflater = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    try:
        size = zstandard.frame_content_size(data)
        if size > bytes_max:
            raise OverflowError
        if size >= 0:
            return inflater.decompress(data, max_output_size=bytes_max, allow_extra_data=False)
        # Not told in advance. The reader keeps the limit but is silent about a cut stream; the other way round below.
        with inflater.stream_reader(data) as reader:
            if len(reader.read(bytes_max + 1)) > bytes_max:
                raise OverflowError
        whole = inflater.decompressobj()
        body = whole.decompress(data)
    except zstandard.ZstdError as error:
        raise Problem("invalid_encoding", "The body is not a zstd frame.") from error
    if not whole.eof or whole.unused_data:
        raise Problem("invalid_encoding", "The zstd frame is cut short, or something follows it.")
    return body


@lru_cache(maxsize=256)
def accepted(header: str) -> str | None:
    """What an Accept-Encoding header asks for: zstd, gzip, or None for the plain body. zstd wins where both do."""
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights["gzip" if name == "x-gzip" else name] = _weight(parameters)
    offers = {name: weights.get(name, weights.get("*", 0.0)) for name in ("zstd", "gzip")}
    best = max(offers, key=offers.__getitem__)  # the first of equals
    return best if offers[best] > 0 and offers[best] >= weights.get("identity", 0.0) else None


def _weight(parameters: list[str]) -> float:
    """The q of an Accept-Encoding item: 1 where none is given, 0 (not wanted) where it cannot be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0


def compress(body: bytes, encoding: str) -> bytes:
    """The body as one zstd frame, or one gzip member for any other encoding."""
    if encoding != "zstd":
        return gzip.compress(body, _GZIP_LEVEL, mtime=0)
    compressor: zstandard.ZstdCompressor | None = getattr(_of_thread, "compressor", None)
    if compressor is None:
        compressor = _of_thread.compressor = zstandard.ZstdCompressor()
    return compressor.compress(body)
