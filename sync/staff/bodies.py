"""What the staff API gets and sends. Values of rows are in wire form."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.conf import settings

from sync.models import Conflict, Decision, History, Rejection
from sync.mutation import REVISION_MAX, Error
from sync.quarantine import Replayed
from sync.resolve import Preview
from sync.stakes import Stakes

Values = dict[str, Any]
Revision = Annotated[int, msgspec.Meta(ge=0, le=REVISION_MAX)]
Comment = Annotated[str, msgspec.Meta(max_length=settings.SYNC_COMMENT_CHARS_MAX)]
Ids = Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=settings.SYNC_DECISIONS_MAX)]
Side = Literal["server", "device"]


# --- what comes ---


class StaffResolve(msgspec.Struct, forbid_unknown_fields=True):
    """`values`: what the row shall have in fields at stake; `{}`: it stays as it is; null: it shall be deleted.

    `rev` and `seen` are those of the conflict as it was shown.
    """

    values: Values | None
    rev: Revision
    seen: Annotated[int, msgspec.Meta(ge=0, le=REVISION_MAX)] = 0
    comment: Comment = ""


class StaffSide(msgspec.Struct, forbid_unknown_fields=True):
    """The conflicts, and whose side is to be taken."""

    ids: Ids
    side: Side
    comment: Comment = ""


class StaffUndo(msgspec.Struct, forbid_unknown_fields=True):
    """The decisions to undo: by their ids, or all of one bulk."""

    ids: Ids | None = None
    bulk: UUID | None = None
    comment: Comment = ""


class StaffReplay(msgspec.Struct, forbid_unknown_fields=True):
    """`set`: the whole set to apply in the place of what the device sent; null: as it came."""

    set: Values | None = None
    comment: Comment = ""


class StaffDiscard(msgspec.Struct, forbid_unknown_fields=True):
    """The rejections, and why they are not applied."""

    ids: Ids
    comment: Annotated[str, msgspec.Meta(min_length=1, max_length=settings.SYNC_COMMENT_CHARS_MAX)]


class StaffRestore(msgspec.Struct, forbid_unknown_fields=True):
    """`version`: the revision to go back to; `rev`: the row's revision as it was shown."""

    version: Annotated[int, msgspec.Meta(ge=1, le=REVISION_MAX)]
    rev: Revision


# --- what goes ---


class StaffError(msgspec.Struct):
    """Why something was refused; `field` is null where it means all of it."""

    field: str | None
    code: str
    message: str


class StaffEntity(msgspec.Struct):
    """An entity that the user may see. The counts are null where the user may not see those records."""

    name: str
    label: str
    writable: bool
    open_conflicts: int | None
    open_rejections: int | None


class StaffConflict(msgspec.Struct):
    """One conflict, as it was recorded, and where its decision stands."""

    id: UUID
    created_at: datetime
    entity: str
    row: UUID
    mutation: UUID
    device: UUID
    source: str
    op: str
    policy: str
    state: str
    fields: list[str]
    base_rev: int | None
    server_rev: int | None
    base: Values | None
    server: Values | None
    device_values: Values
    made_at: datetime | None
    group: UUID | None
    decided_by: str
    decided_at: datetime | None


class StaffDecision(msgspec.Struct):
    """One decision of a person. `before` and `after`: the fields that it changed; null: the row was not there."""

    id: UUID
    conflict: UUID
    at: datetime
    by: str
    comment: str
    state_before: str
    state: str
    before: Values | None
    after: Values | None
    rev: int | None
    bulk: UUID | None
    undone_at: datetime | None
    undone_by: str


class StaffStakes(msgspec.Struct):
    """A conflict with its row as it is now: `rev` and `seen` are sent back with the decision."""

    conflict: StaffConflict
    names: list[str]
    disputed: list[str]
    base: Values | None
    device: Values
    server: Values | None
    server_then: Values | None
    rev: int
    seen: int
    row_deleted: bool
    decisions: list[StaffDecision]


class StaffPreview(msgspec.Struct):
    """What would become of one conflict; `errors` where it could not be."""

    conflict: UUID
    before: Values | None
    after: Values | None
    errors: list[StaffError]


class StaffPreviews(msgspec.Struct):
    """In the order in which the conflicts came."""

    previews: list[StaffPreview]


class StaffRefused(msgspec.Struct):
    """Why one conflict was not decided, or one decision not undone."""

    id: UUID
    errors: list[StaffError]


class StaffBulk(msgspec.Struct):
    """What was decided together; `bulk` undoes all of it."""

    bulk: UUID
    decided: list[StaffDecision]
    refused: list[StaffRefused]


class StaffUndone(msgspec.Struct):
    """`kept`: decisions that stay, and why."""

    undone: list[UUID]
    kept: list[StaffRefused]


class StaffRejection(msgspec.Struct):
    """One mutation in quarantine."""

    id: UUID
    created_at: datetime
    entity: str
    row: UUID
    mutation: UUID
    device: UUID
    op: str
    group: UUID | None
    cause: str
    errors: list[StaffError]
    state: str
    decided_by: str
    decided_at: datetime | None
    comment: str
    mended: Values | None
    rev: int | None
    conflict: UUID | None


class StaffRejected(msgspec.Struct):
    """A rejection with the mutation as it came, and the ids of all that would be replayed with it."""

    rejection: StaffRejection
    body: Any
    goes_along: list[UUID]


class StaffReplayed(msgspec.Struct):
    """What became of one of them. `overtaken`: fields left as they are, since the device has changed them since."""

    rejection: UUID
    status: str
    rev: int | None
    conflict: UUID | None
    errors: list[StaffError]
    overtaken: list[str]


class StaffReplays(msgspec.Struct):
    """In the order in which they took effect."""

    results: list[StaffReplayed]


class StaffDiscarded(msgspec.Struct):
    """How many of them still waited."""

    discarded: int


class StaffChange(msgspec.Struct):
    """One change of a row. `mutation`: what made it, a device's mutation or a decision."""

    entity: str
    row: UUID
    rev: int
    at: datetime
    op: str
    author: str
    mutation: UUID | None
    old: Values | None
    new: Values | None


class StaffRestored(msgspec.Struct):
    """The row's new revision; the same as before where nothing differed."""

    rev: int


INCOMING = (StaffResolve, StaffSide, StaffUndo, StaffReplay, StaffDiscard, StaffRestore)
LISTED = (StaffEntity, StaffConflict, StaffDecision, StaffRejection, StaffChange)
OUTGOING = (
    *LISTED,
    StaffStakes,
    StaffPreviews,
    StaffBulk,
    StaffUndone,
    StaffRejected,
    StaffReplays,
    StaffDiscarded,
    StaffRestored,
)


def errors(found: Iterable[Error]) -> list[StaffError]:
    return [StaffError(each.field, each.code, each.message) for each in found]


def refused(found: Mapping[UUID, Iterable[Error]]) -> list[StaffRefused]:
    return [StaffRefused(id, errors(told)) for id, told in found.items()]


def conflict(found: Conflict) -> StaffConflict:
    return StaffConflict(**members(StaffConflict, found, row=found.row_id))


def decision(found: Decision) -> StaffDecision:
    return StaffDecision(**members(StaffDecision, found, conflict=found.conflict_id))


def stakes(found: Stakes, decisions: Iterable[Decision]) -> StaffStakes:
    given = members(
        StaffStakes,
        found,
        conflict=conflict(found.conflict),
        disputed=sorted(found.disputed),
        decisions=[decision(each) for each in decisions],
    )
    return StaffStakes(**given)


def preview(found: Preview) -> StaffPreview:
    return StaffPreview(**members(StaffPreview, found, conflict=found.conflict.pk, errors=errors(found.errors)))


def rejection(found: Rejection) -> StaffRejection:
    told = [StaffError(each["field"], each["code"], each["message"]) for each in found.errors]
    return StaffRejection(**members(StaffRejection, found, row=found.row_id, errors=told))


def replayed(found: Replayed) -> StaffReplayed:
    given = members(
        StaffReplayed,
        found,
        rejection=found.rejection.pk,
        errors=errors(found.errors),
        overtaken=list(found.overtaken),
    )
    return StaffReplayed(**given)


def change(found: History) -> StaffChange:
    return StaffChange(**members(StaffChange, found, row=found.row_id))


def members(kind: type[msgspec.Struct], record: object, **others: Any) -> dict[str, Any]:
    """The members of a body: the record's own attributes, and what stands in the place of some."""
    names = [name for name in kind.__struct_fields__ if name not in others]
    return {name: getattr(record, name) for name in names} | others
