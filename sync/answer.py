"""What a device is told of each mutation, and what is kept of those that met a conflict or were refused."""

from uuid import UUID, uuid4

import msgspec

from sync.candidates import within_calendar
from sync.decide import Candidate, Record, Verdict
from sync.models import Conflict, Rejection
from sync.mutation import Error, Mutation, error, told_name


class Result(msgspec.Struct, omit_defaults=True, gc=False):
    """The answer to one mutation, as it travels."""

    id: str
    status: str
    rev: int | None = None
    conflict: str | None = None
    state: str | None = None  # of the conflict record, where there is one
    errors: tuple[Error, ...] = ()
    row: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET
    replayed: bool = False


def result_of(mutation: str, verdict: Verdict, rev: int) -> Result:
    """The answer to a mutation that was decided about."""
    state = None if verdict.record is None else verdict.record.decision
    match verdict.status:
        case "applied" | "merged":
            return Result(mutation, verdict.status, rev, state=state)
        case "conflict":
            return Result(mutation, "conflict", conflict=str(uuid4()), state=state)
    return Result(mutation, "rejected", errors=verdict.errors)


def replayed(
    mutation: Mutation, status: str, rev: int | None, conflict: str | None, state: str | None, errors: str | None
) -> Result:
    """The first answer again, from what is remembered of it."""
    told = msgspec.json.decode(errors, type=tuple[Error, ...]) if errors else ()
    return Result(mutation.id, status, rev, conflict, state, told, replayed=True)


def reused(mutation: Mutation) -> Result:
    """The answer to an id that came before with other content."""
    return Result(mutation.id, "rejected", errors=(error("id_reused", "id"),))


def conflict_of(device: UUID, candidate: Candidate, record: Record, id: str | None) -> Conflict:
    """The record of a conflict, under the id that the device was told, if it was told one."""
    mutation, values = candidate.mutation, candidate.values
    return Conflict(
        id=id or uuid4(),
        entity=mutation.entity,
        row_id=mutation.row,
        mutation=mutation.id,
        device=device,
        op=mutation.op,
        base_rev=mutation.base,
        server_rev=record.rev,
        base=record.base,
        server=record.server,
        device_values={k: v for k, v in (("set", values.fields), ("add", values.amounts)) if v},
        fields=list(record.fields),
        mixed=sorted(record.mixed),
        made_at=mutation.made_at and within_calendar(mutation.made_at),
        group=mutation.group,
        policy=record.policy,
        state=record.decision,
    )


def rejection_of(device: UUID, mutation: Mutation, digest: str, result: Result, place: int, row_rev: int) -> Rejection:
    """What goes into quarantine: the mutation in full. `row_rev`: of its row when its turn in the batch came."""
    return Rejection(
        mutation=mutation.id,
        digest=digest,
        device=device,
        entity=told_name(mutation.entity),
        row_id=mutation.row,
        row_rev=row_rev,
        place=place,
        op=mutation.op,
        group=mutation.group,
        cause=result.errors[0].code,
        lost=mutation.lost,
        body=msgspec.json.encode(mutation).decode(),
        errors=msgspec.to_builtins(result.errors),
    )
