"""What became of conflicts and rejections after their devices were answered, and how devices are told."""

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec
from django.core.signing import BadSignature, Signer

from sync.amend import name_of
from sync.epoch import begin_epoch
from sync.models import Conflict, Outcome, Rejection
from sync.sql import block, cursor
from syncserver.errors import Problem

_signer = Signer(salt="sync.outcomes")


def tell(changed: Iterable[tuple[Conflict | Rejection, str, int | None]], author: str, comment: str) -> None:
    """Note for the devices what became of what they pushed: (record, outcome, revision of the row or None).

    The caller holds the devices' locks (`lock_devices`) until its transaction ends: so a device's outcomes are
    numbered in the order in which they become visible, and none is missed.
    """
    Outcome.objects.bulk_create(
        Outcome(
            device=record.device,
            mutation=record.mutation,
            entity=record.entity,
            row_id=record.row_id,
            outcome=outcome,
            rev=rev,
            by=name_of(author),
            comment=comment,
        )
        for record, outcome, rev in changed
    )


class Told(msgspec.Struct):
    """One outcome, as it travels. `rev` is told only of a row that the device may know of."""

    mutation: str
    entity: str
    row: str
    outcome: str
    rev: int | None
    by: str
    comment: str
    at: str


class Page(msgspec.Struct):
    """The answer to `GET /sync/outcomes`: the oldest first."""

    outcomes: list[Told]
    cursor: str
    has_more: bool


def outcomes(device: UUID, scopes: Sequence[str], since: str | None, rows_max: int) -> bytes:
    """The outcomes of a device's own mutations after a cursor, as the answer's body.

    A cursor of another epoch (the database was restored or replaced) begins anew, since numbers mean something else
    there. Raises Problem `invalid_request` for what is no cursor.
    """
    epoch, number = _read(since)
    parameters = {"device": device, "scopes": list(scopes), "epoch": epoch, "number": number, "rows_max": rows_max + 1}
    with cursor() as bound:
        bound.execute(block("resolve.sql", "outcomes"), parameters)
        found = bound.fetchall()
    now, is_this, known = found[0][:3]
    if not is_this:
        begin_epoch()
        return outcomes(device, scopes, since, rows_max)
    told = [row[3:] for row in found if row[3] is not None]
    page = told[:rows_max]
    reached = page[-1][0] if page else number if known else 0
    body = Page([Told(*members) for _, *members in page], _cursor(now, reached), len(told) > rows_max)
    return msgspec.json.encode(body)


def _cursor(epoch: str, number: int) -> str:
    return _signer.sign(f"{epoch}.{number}")


def _read(cursor: str | None) -> tuple[str | None, int]:
    if cursor is None:
        return None, 0
    try:
        epoch, _, number = _signer.unsign(cursor).partition(".")
    except BadSignature:
        raise Problem("invalid_request", "`since` is no cursor of this server.", field="since") from None
    return epoch, int(number)
