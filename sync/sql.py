"""Hand-written SQL stands in named blocks of `.sql` files: `-- name: one_word`, a comment, the statement."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_UUID_OID, _UUID_ARRAY_OID = 2950, 2951
_SPECIAL = re.compile(r'["\\]').search
_BLOCK = re.compile(r"^-- name: (\w+)\n", re.M)


@cache
def blocks(file: str) -> dict[str, str]:
    """The named blocks of `sync/<file>`, by name."""
    parts = _BLOCK.split((Path(__file__).parent / file).read_text())
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def block(file: str, name: str, **parts: str) -> str:
    """A block with each `{{part}}` replaced. The parts are SQL made from declarations, never from a request."""
    sql = blocks(file)[name]
    for key, value in parts.items():
        sql = sql.replace("{{" + key + "}}", value)
    assert "{{" not in sql, f"{file}:{name} has a part that was not given"
    return sql


def quote(identifier: str) -> str:
    """A quoted SQL identifier."""
    return connection.ops.quote_name(identifier)


def literal(text: str) -> str:
    """A quoted SQL string."""
    return "'" + text.replace("'", "''") + "'"


def array(values: Iterable[object]) -> str:
    """A PostgreSQL array literal of ids, numbers or entity names, none of which needs quoting."""
    return "{" + ",".join(map(str, values)) + "}"


def texts(values: Collection[str]) -> str:
    """A PostgreSQL array literal of any texts."""
    quoted = '","'.join([v.replace("\\", "\\\\").replace('"', '\\"') if _SPECIAL(v) else v for v in values])
    return f'{{"{quoted}"}}' if quoted or values else "{}"


class Uuids(bytes):
    """A PostgreSQL array of uuids in binary form, which PostgreSQL reads at a tenth of the cost of the text."""

    def __new__(cls, ids: Sequence[str]) -> "Uuids":
        head = (
            f"0000000100000000{_UUID_OID:08x}{len(ids):08x}00000001"  # dimensions, no NULL, type, length, first index
        )
        return super().__new__(cls, bytes.fromhex((head + "".join([f"00000010{id}" for id in ids])).replace("-", "")))


class _UuidsDumper(Dumper):
    format = Format.BINARY
    oid = _UUID_ARRAY_OID

    def dump(self, obj: Uuids) -> Uuids:
        return obj


@contextmanager
def cursor() -> Iterator[psycopg.Cursor[Any]]:
    """A cursor for large parameters: they are bound by the server, where Django's would write each into the SQL's text.

    One statement an execute, nothing prepared (PgBouncer). Raises Django's database errors, as Django's cursor does.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as bound:
        bound.adapters.register_dumper(Uuids, _UuidsDumper)
        yield bound
