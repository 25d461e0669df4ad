"""One kind of file in a folder of drops, and its lines: streamed, from any byte on, each with where it stands."""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from io import BufferedReader
from typing import Any, Literal

import msgspec

from legacy.connector import Misconfigured

LINE_BYTES_MAX = 1_000_000  # of one record, quoted line breaks and all: more is an unclosed quote, or no such file
BUFFER_BYTES = 1 << 20
REASON_CHARACTERS_MAX = 200
ALIVE = (None, "", "0", "false", "f", "no", "n")  # what says in a column `gone` that a record is not

_json = msgspec.json.Decoder(float_hook=Decimal)


class Unreadable(Exception):
    """A file is not what was declared, as a whole: why."""


class _TooLong(Exception):
    pass


@dataclass(frozen=True)
class Drop:
    """Which files of the folder a mapping is about, and what is in them. A file belongs to one mapping."""

    pattern: str  # such as `customers-*.csv`; case counts
    key: str | tuple[str, ...]  # the column or columns that tell records apart
    format: Literal["csv", "jsonl"] = "csv"
    encoding: str = "utf-8"  # with or without a byte order mark; one in which a line break is one byte
    delimiter: str = ","
    header: tuple[str, ...] = ()  # the names of the columns, where files do not begin with them
    full: bool = False  # each file is the whole: what it lacks is gone
    gone: str = ""  # the column that says whether a record was deleted: anything but one of ALIVE does
    order: Literal["name", "time"] = "name"  # which file is the older one
    done: str = ""  # the ending of the companion that says a file is complete, such as `.done`

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else self.key

    def check(self) -> None:
        """Raises Misconfigured for a declaration that cannot work."""
        try:
            plain = codecs.lookup(self.encoding).name == "utf-8" or "a\n".encode(self.encoding) == b"a\n"
        except LookupError:
            raise Misconfigured(f"Drop({self.pattern!r}): there is no encoding {self.encoding!r}.") from None
        if not plain or self.encoding == "utf-8-sig":
            raise Misconfigured(
                f"Drop({self.pattern!r}): {self.encoding} cannot be read line by line; use utf-8 (with or without a "
                "byte order mark) or one in which a line break is one byte."
            )
        if not all(self.keys) or not self.keys or "/" in self.pattern or len(self.delimiter) != 1:
            raise Misconfigured(
                f"Drop({self.pattern!r}): needs a key, a pattern without folders and a delimiter of one character."
            )

    def is_gone(self, values: dict[str, Any]) -> bool:
        mark = values.get(self.gone) if self.gone else None
        return (mark.strip().lower() if isinstance(mark, str) else mark) not in (*ALIVE, False)


@dataclass(frozen=True, slots=True)
class Line:
    """One record, or in `why` why it is none; an empty line is neither."""

    start: int  # bytes from the beginning of the file
    end: int
    number: int  # of its first line, from 1
    following: int  # the number of the line after it
    values: dict[str, Any] | None = None
    why: str = ""


def first(stream: BufferedReader, drop: Drop) -> tuple[tuple[str, ...], int, int]:
    """The columns of a CSV file (none of JSON lines), and the byte and line of its first record. Raises Unreadable."""
    stream.seek(0)
    at = 3 if stream.read(3) == codecs.BOM_UTF8 else 0
    if drop.format == "jsonl":
        return (), at, 1
    if drop.header:
        return drop.header, at, 1
    for row in _rows(stream, drop, at, 1):
        if row.why:
            raise Unreadable(f"its header cannot be read: {row.why}")
        if not row.cells:
            continue
        columns = tuple(cell.strip() for cell in row.cells)
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise Unreadable(f"its header has {', '.join(map(repr, twice))} more than once")
        if missing := [name for name in (*drop.keys, *filter(None, [drop.gone])) if name not in columns]:
            raise Unreadable(f"its header lacks {', '.join(missing)}; it has: {', '.join(columns)}")
        return columns, row.end, row.following
    raise Unreadable("it is empty: not even a header")


def lines(stream: BufferedReader, drop: Drop, at: int, number: int) -> Iterator[Line]:
    """The lines from a byte on, which must be where one begins. Raises Unreadable."""
    if drop.format == "jsonl":
        return _json_lines(stream, drop, at, number)
    columns, begin, begin_number = first(stream, drop)
    return _csv_lines(stream, drop, columns, *((at, number) if at > begin else (begin, begin_number)))


def _csv_lines(stream: BufferedReader, drop: Drop, columns: tuple[str, ...], at: int, number: int) -> Iterator[Line]:
    for row in _rows(stream, drop, at, number):
        values, why = None, row.why
        if row.cells and len(row.cells) != len(columns):
            why = f"it has {len(row.cells)} cells, the header {len(columns)}"
        elif row.cells:
            values = {column: cell or None for column, cell in zip(columns, row.cells, strict=True)}
        yield Line(row.start, row.end, row.number, row.following, values, why)


@dataclass(frozen=True, slots=True)
class _Row:
    start: int
    end: int
    number: int
    following: int
    cells: list[str]
    why: str = ""


def _rows(stream: BufferedReader, drop: Drop, at: int, number: int) -> Iterator[_Row]:
    """The rows of a CSV file. Where one cannot be read, only its first line is given up: a quote that was never closed
    would else take all lines after it along. Raises Unreadable."""
    while True:
        stream.seek(at)
        source = _Physical(stream, drop.encoding)
        try:
            for cells in csv.reader(source, delimiter=drop.delimiter, strict=True):
                end, following = at + source.bytes, number + source.lines
                source.bytes = source.lines = 0
                yield _Row(at, end, number, following, cells)
                at, number = end, following
            return
        except (csv.Error, _TooLong) as error:
            end = at + source.first
            if source.first > LINE_BYTES_MAX:
                end = _line_end(stream, end)
            yield _Row(at, end, number, number + 1, [], str(error))
            at, number = end, number + 1


class _Physical:
    """The lines of a stream as text, read one by one as the CSV reader asks for them: how many, and their bytes."""

    def __init__(self, stream: BufferedReader, encoding: str) -> None:
        self._stream, self._encoding = stream, encoding
        self.bytes = self.lines = 0  # of the row at work; `first`: the bytes of its first line
        self.first = 0

    def __iter__(self) -> Iterator[str]:
        while raw := self._stream.readline(LINE_BYTES_MAX + 1):
            self.first = self.first if self.lines else len(raw)
            self.bytes += len(raw)
            self.lines += 1
            if self.bytes > LINE_BYTES_MAX:
                raise _TooLong(f"it is longer than {LINE_BYTES_MAX} bytes, or a quote in it is never closed")
            try:
                yield raw.decode(self._encoding)
            except UnicodeDecodeError:
                raise Unreadable(f"it is not {self._encoding}") from None


def _json_lines(stream: BufferedReader, drop: Drop, at: int, number: int) -> Iterator[Line]:
    stream.seek(at or first(stream, drop)[1])
    at = stream.tell()
    while raw := stream.readline(LINE_BYTES_MAX + 1):
        values, why = None, ""
        end = at + len(raw)
        if len(raw) > LINE_BYTES_MAX:
            end, why = _line_end(stream, end), f"it is longer than {LINE_BYTES_MAX} bytes"
        elif raw.strip():
            values, why = _object(raw, drop)
        yield Line(at, end, number, number + 1, values, why)
        at, number = end, number + 1


def _object(raw: bytes, drop: Drop) -> tuple[dict[str, Any] | None, str]:
    try:
        values = _json.decode(raw.decode(drop.encoding))
    except UnicodeDecodeError:
        raise Unreadable(f"it is not {drop.encoding}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        return None, str(error)[:REASON_CHARACTERS_MAX]
    return (values, "") if isinstance(values, dict) else (None, "it is not a JSON object")


def _line_end(stream: BufferedReader, at: int) -> int:
    """The byte after the line that byte `at` is in the middle of, which is where the stream stands."""
    while raw := stream.readline(BUFFER_BYTES):
        at += len(raw)
        if raw.endswith(b"\n"):
            break
    return at
