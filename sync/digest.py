"""Proof that a device holds what it must: digests over ids and revisions, narrowed down to the rows that differ."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from django.conf import settings
from django.db import connection, transaction

from devices.authentication import identify
from devices.models import Device
from sync.pull import pull
from sync.sql import block, cursor
from sync.wire import entities
from syncserver.errors import Problem

SQL = "digest.sql"
BUCKETS = 256  # of an entity: the first byte of the SHA-256 of a row's id
FETCHED_ROWS = 10_000  # lines in memory at a time


class Digest(msgspec.Struct):
    """Of the rows of one entity: the SHA-256, in hex, over the lines `<id> <_rev>\\n` in byte order of id."""

    count: int
    digest: str


class Buckets(msgspec.Struct):
    """The digests of an entity's 256 buckets, in their order."""

    entity: str
    buckets: list[str]


class Bucket(msgspec.Struct):
    """The revisions of a bucket's rows by id, in order. `has_more`: ask for those after the last."""

    entity: str
    bucket: str
    rows: dict[str, int]
    has_more: bool


class _Page(msgspec.Struct):
    changes: dict[str, msgspec.Raw]
    has_more: bool


_read_page = msgspec.json.Decoder(_Page)


def digest(
    token_hash: bytes, token: str, entity: str | None, bucket: int | None, after: UUID | None
) -> tuple[Device, bytes]:
    """The device with that token hash, and a digest of what it must hold as the answer's body.

    Without `entity` a Digest for each entity; with it Buckets; with `bucket` too a Bucket. The pull token is checked in
    the snapshot that is digested. Raises Problem: `not_current` where it has something to pull since, `invalid_request`
    for an entity that there is not, and what `pull` raises.
    """
    if entity is not None:
        known(entity, "entity")
    with _snapshot():
        device = identify(token_hash)
        page = _read_page.decode(pull(token_hash, token, 1).body)
        if page.changes or page.has_more:
            raise Problem("not_current")
        if entity is None:
            told: Any = _digests(device.scopes)
        elif bucket is None:
            told = _buckets(device.scopes, entity)
        else:
            told = _bucket(device.scopes, entity, bucket, after)
    return device, msgspec.json.encode(told)


def rows(scopes: Sequence[str], asked: Mapping[str, Sequence[UUID]]) -> bytes:
    """The `changes` of a pull for the rows that a device with these scopes asks for, as the answer's body.

    An upsert for a row that it may see, a delete for any other id. What does not fit into a page of
    SYNC_PULL_PAGE_BYTES_MAX is left out, and `has_more` true: it is to be asked for again. Raises Problem
    `invalid_request` for an entity that there is not, `body_too_large` for more than SYNC_ROWS_IDS_MAX ids.
    """
    for name in asked:
        known(name, name)
    wanted = [(name, id) for name, ids in asked.items() for id in dict.fromkeys(ids)]
    most = settings.SYNC_ROWS_IDS_MAX
    if sum(map(len, asked.values())) > most:
        raise Problem("body_too_large", f"One call may ask for {most} rows.", ids_max=most)
    parameters = {
        "entities": [name for name, _ in wanted],
        "ids": [id for _, id in wanted],
        "scopes": list(scopes),
        "bytes_max": settings.SYNC_PULL_PAGE_BYTES_MAX,
    }
    with cursor() as bound:
        bound.execute(block(SQL, "rows"), parameters)
        found = bound.fetchone()
    assert found is not None
    changes, has_more = found
    return f'{{"changes":{changes},"has_more":{str(has_more).lower()}}}'.encode()


def known(entity: str, field: str) -> None:
    """Raises Problem `invalid_request`, naming the `field` of the request, for an entity that is not declared."""
    if entity not in entities():
        raise Problem("invalid_request", "There is no such entity; ask for the schema.", field=field)


@contextmanager
def _snapshot() -> Iterator[None]:
    with transaction.atomic(), connection.cursor() as plain:
        plain.execute(block(SQL, "snapshot"))
        yield


def _digests(scopes: Sequence[str]) -> dict[str, Digest]:
    found = {name: (0, hashlib.sha256()) for name in entities()}
    _hash(found, _lines("lines", scopes, list(entities())))
    return {name: Digest(count, hashed.hexdigest()) for name, (count, hashed) in found.items()}


def _buckets(scopes: Sequence[str], entity: str) -> Buckets:
    found = {bucket: (0, hashlib.sha256()) for bucket in range(BUCKETS)}
    _hash(found, _lines("lines_by_bucket", scopes, [entity]))
    return Buckets(entity, [hashed.hexdigest() for _, hashed in found.values()])


def _hash(found: dict[Any, tuple[int, Any]], batches: Iterable[list[tuple[Hashable, str]]]) -> None:
    """Feed the lines to the digests of their keys, and count them."""
    for batch in batches:
        for key, group in groupby(batch, itemgetter(0)):
            lines = [line for _, line in group]
            count, hashed = found[key]
            hashed.update("".join(lines).encode())
            found[key] = (count + len(lines), hashed)


def _lines(name: str, scopes: Sequence[str], names: list[str]) -> Iterator[list[tuple[Hashable, str]]]:
    """Keys and lines, FETCHED_ROWS at a time. The cursor ends with the transaction (PgBouncer)."""
    statement = block(SQL, name, held=block(SQL, "held"))
    with connection.wrap_database_errors, psycopg.ServerCursor(connection.connection, "sync_digest") as streamed:
        streamed.execute(statement.rstrip(";"), {"scopes": list(scopes), "entities": names})
        while batch := streamed.fetchmany(FETCHED_ROWS):
            yield batch


def _bucket(scopes: Sequence[str], entity: str, bucket: int, after: UUID | None) -> Bucket:
    rows_max = settings.SYNC_PULL_ROWS_MAX
    parameters = {"scopes": list(scopes), "entities": [entity], "bucket": bucket, "after": after, "rows_max": rows_max}
    with cursor() as bound:
        bound.execute(block(SQL, "bucket", held=block(SQL, "held")), parameters)
        found = bound.fetchall()
    return Bucket(entity, f"{bucket:02x}", dict(found[:rows_max]), len(found) > rows_max)
