"""Pull: what a device lacks, a page at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from uuid import UUID

from django.conf import settings
from psycopg.types.string import ByteaBinaryLoader

from devices.authentication import refusal
from sync.epoch import Standing, catch_up
from sync.sql import block, cursor
from sync.token import InvalidToken, Run, Snapshot, Token, decode, encode
from sync.wire import entities
from syncserver.errors import Problem


@dataclass(frozen=True)
class Page:
    """A page for one device: the body of the answer, and what is known of who asked."""

    body: bytes
    device: UUID
    last_seen_at: datetime | None
    pending: int | None


def pull(token_hash: bytes, token_text: str | None, rows_max: int) -> Page:
    """The next page for the device with that token hash: one query, authentication included.

    Raises Problem: unauthorized, device_revoked, invalid_token, token_expired, too_many_scopes, and service_unavailable
    while another process begins a new epoch.
    """
    token = read_token(token_text)
    run = token.run if token else None
    with cursor() as bound:
        bound.adapters.register_loader("text", ByteaBinaryLoader)  # JSON goes on as the bytes that it is
        bound.execute(
            block("pull.sql", "page"),
            {
                "token_hash": token_hash,
                "epoch": token and token.epoch,
                "of_device": token and token.device,
                "base": token.base.text if token and token.base else None,
                "floor": run.floor.text if run and run.floor else None,
                "target": run and run.target.text,
                "lane": run.lane if run else 1,
                "xid": str(run.xid if run else 0),
                "seq": run.seq if run else 0,
                "rows_max": rows_max,
                "bytes_max": settings.SYNC_PULL_PAGE_BYTES_MAX,
                "scopes_max": settings.SYNC_SCOPES_PER_DEVICE_MAX,
                "many_scoped": list(_many_scoped()),
                "witness": token and token.witness,
            },
            binary=True,
        )
        found = bound.fetchone()
    assert found is not None  # the function answers with one row, whatever it finds
    problem, device, wipe, last_seen_at, pending, names, upserts, deletes, has_more, *position = found
    match problem:
        case b"new_epoch" | b"new_start" | b"lost_future":
            catch_up(Standing(problem.decode()), token)
            return pull(token_hash, token_text, rows_max)
        case b"device_revoked":
            raise refusal(wipe)
        case b"token_expired" if token is not None and position[0] != token.epoch:
            raise Problem("token_expired", restored=True)
        case bytes():
            raise Problem(problem.decode())
    epoch, base, floor, target, lane, xid, seq, witness = position
    now = Token(
        epoch,
        device,
        _snapshot(base),
        Run(Snapshot(target.decode()), _snapshot(floor), lane, int(xid), seq) if has_more else None,
        witness.decode(),
    )
    tail = f'"token":"{encode(now, _keys()[0])}","has_more":{str(has_more).lower()}}}'
    body = b"".join((b'{"changes":{', *_changes(names, upserts, deletes), b"},", tail.encode()))
    return Page(body, device, last_seen_at, pending)


def _changes(names: list[bytes], upserts: list[bytes | None], deletes: list[bytes | None]) -> Iterator[bytes]:
    """The members of a page's `changes`, in pieces. Each list has one item for each piece that PostgreSQL made.

    An entity that is no more is not told of: its table goes from the devices with the schema that lacks it.
    """
    told: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for name, upserted, deleted in zip(names, upserts, deletes, strict=True):
        if name.decode() not in entities():
            continue
        for place, piece in enumerate((upserted, deleted)):
            if piece is not None:
                told.setdefault(name, ([], []))[place].append(piece)
    for at, (name, (rows, ids)) in enumerate(told.items()):
        yield b'%b"%b":{"upserts":[' % (b"," if at else b"", name)
        yield b",".join(rows)
        yield b'],"deletes":['
        # A row may go with a scope and out of another one: two lanes, each with its own piece.
        yield b",".join(dict.fromkeys(b",".join(ids).split(b","))) if len(ids) > 1 else b",".join(ids)
        yield b"]}"


def _snapshot(text: bytes | None) -> Snapshot | None:
    return None if text is None else Snapshot(text.decode())


def read_token(token_text: str | None) -> Token | None:
    """The token of a text, or None for none. Raises Problem `invalid_token`."""
    if token_text is None:
        return None
    try:
        return decode(token_text, _keys())
    except InvalidToken:
        raise Problem("invalid_token") from None


@cache
def _keys() -> tuple[bytes, ...]:
    return tuple(key.encode() for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


@cache
def _many_scoped() -> tuple[str, ...]:
    """The entities whose rows can be in several scopes at once: the only ones that may turn up twice in a page."""
    return tuple(name for name, entity in entities().items() if len(entity.declaration.scopes) > 1)
