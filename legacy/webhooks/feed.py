"""What a subscription is told next: a page of the feed, cut once, the same or less when it is sent again."""

from dataclasses import dataclass
from typing import Any

import msgspec
from django.db import transaction

from legacy.webhooks.subscriptions import Subscription
from legacy.webhooks.take import SQL
from sync.epoch import begin_epoch
from sync.sql import block, cursor

PAGE_ROWS = 500  # changes of one delivery at most
PAGE_BYTES = 500_000  # of their rows at most; one row larger than that is a delivery of its own
WAITING_SHOWN_MAX = 1_000  # counted for the admin
_UNBOUNDED_BYTES = 2**62


class Change(msgspec.Struct, omit_defaults=True):
    """One row as it is now; `row` as devices get it."""

    entity: str
    id: str
    rev: int
    op: str  # upsert, delete
    row: msgspec.Raw | None = None


@dataclass(frozen=True)
class Position:
    xid: str
    seq: int


def next_page(subscription: Subscription) -> list[Change]:
    """What to tell next, with `subscription` moved to it (its `target` and `to`), to be saved before it is sent.

    Empty: nothing is left to tell, and it stands at what is committed now.
    """
    now = _standing(subscription)
    while True:
        if subscription.target is None:
            subscription.target = now
        found = _read(subscription, PAGE_ROWS, PAGE_BYTES)
        if found:
            subscription.to_xid, subscription.to_seq = found[-1][3], found[-1][4]
            return _changes(found)
        if subscription.to_xid is not None:  # all of a page that was sent before was changed again since
            pass_page(subscription)
            continue
        last = subscription.target == now
        subscription.base, subscription.target = subscription.target, None
        subscription.at_xid, subscription.at_seq = "0", 0
        if last:
            return []


def pass_page(subscription: Subscription) -> None:
    """The page is told, or there is nothing left of it."""
    assert subscription.to_xid is not None and subscription.to_seq is not None
    subscription.at_xid, subscription.at_seq = subscription.to_xid, subscription.to_seq
    subscription.to_xid = subscription.to_seq = None


def begin(subscription: Subscription, whole: bool) -> None:
    """Put it at the beginning of the feed, so that it is told every row; or at its end, so that it is told changes."""
    subscription.base = subscription.target = subscription.to_xid = subscription.to_seq = None
    subscription.at_xid, subscription.at_seq = "0", 0
    subscription.epoch, _, _, now = _state([])
    if not whole:
        subscription.base = now


def waiting(subscription: Subscription) -> int:
    """How many changes it has not been told, counted to WAITING_SHOWN_MAX + 1."""
    looked = Subscription(
        entities=subscription.entities,
        scopes=subscription.scopes,
        base=subscription.base,
        target=_state([])[3],
        at_xid=subscription.at_xid,
        at_seq=subscription.at_seq,
    )
    return len(_read(looked, WAITING_SHOWN_MAX + 1, _UNBOUNDED_BYTES, with_rows=False))


def _standing(subscription: Subscription) -> str:
    """What is committed now. A subscription whose position means nothing any more begins anew, and is to be told so."""
    epoch, replaced, lost, now = _state([p for p in (subscription.base, subscription.target) if p])
    if replaced:
        begin_epoch()
        epoch, _, lost, now = _state([])
    if subscription.epoch != epoch or lost:
        begin(subscription, whole=True)
        subscription.resets = True
        subscription.loads += 1
        return _state([])[3]
    return now


def _state(positions: list[str]) -> tuple[Any, bool, bool, str]:
    with cursor() as bound:
        found: tuple[Any, bool, bool, str] | None = bound.execute(
            block(SQL, "standing"), {"positions": positions}
        ).fetchone()
    assert found is not None  # `migrate` makes the epoch
    return found


def _read(subscription: Subscription, rows: int, size: int, with_rows: bool = True) -> list[tuple[Any, ...]]:
    parameters = {
        "all": not subscription.scopes,
        "scopes": subscription.scopes,
        "entities": subscription.entities,
        "base": subscription.base,
        "target": subscription.target,
        "at_xid": subscription.at_xid,
        "at_seq": subscription.at_seq,
        "to_xid": subscription.to_xid,
        "to_seq": subscription.to_seq,
        "rows": rows,
        "bytes": size,
        "with_rows": with_rows,
    }
    with transaction.atomic(), cursor() as bound:
        # As in `sync_pull`: the order is that of the index, whatever the statistics of a young table say.
        bound.execute("SET LOCAL enable_seqscan = off")
        return bound.execute(block(SQL, "page"), parameters).fetchall()


def _changes(found: list[tuple[Any, ...]]) -> list[Change]:
    """Each row once, in its newest state: it may be in several scopes."""
    latest: dict[tuple[str, str], Change] = {}
    for entity, row, rev, _, _, data, gone in found:
        before = latest.get((entity, row))
        if before is None or before.rev <= rev:
            latest.pop((entity, row), None)
            raw = None if gone else msgspec.Raw(data.encode())
            latest[entity, row] = Change(entity, row, rev, "delete" if gone else "upsert", raw)
    return list(latest.values())
