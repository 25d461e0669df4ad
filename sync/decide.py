"""What becomes of each mutation: a pure function of the mutations and of what the server knows of their rows.

No database, clock or Django here. The shell (`sync.push`) reads the state, asks `decide`, writes, and asks again where
the database refused something.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from sync.merge import NO_ROW, NOTHING_SINCE, Decision, Dispute, Rules, Since, added, merge, together
from sync.mutation import NO_VALUES, Error, Mutation, Values, error

_NOT_FIELDS = frozenset({"id", "_rev"})
_BEFORE = datetime.min.replace(tzinfo=UTC)


class RowKey(NamedTuple):
    entity: str
    row: str


class RowState(msgspec.Struct, frozen=True, gc=False):
    """What the server knows of a row, for one device.

    `rev` is 0 for a row that never was. `known`: the device may know of it (it is, or was when it was deleted, in one
    of its scopes). Read only where a mutation asks: `values`, the row as it is (None: not read), and `since`, what
    others did after each base that is not the row's revision (0: none). `own`: the fields that this batch wrote;
    `mixed`: those to which a function gave a value that the device has not seen, with what they had before.
    """

    rev: int = 0
    alive: bool = False
    known: bool = False
    values: Mapping[str, Any] | None = None
    since: Mapping[int, Since] = {}
    own: frozenset[str] = frozenset()
    mixed: Mapping[str, Any] = NO_ROW
    deleted_by_device: bool = False

    @property
    def visible(self) -> bool:
        return self.alive and self.known

    def since_base(self, base: int | None) -> Since:
        since = self.since.get(base or 0, NOTHING_SINCE)
        if not self.mixed:
            return since
        changed = dict.fromkeys(self.mixed, _BEFORE) | dict(since.changed)
        return msgspec.structs.replace(since, changed=changed, base={**self.mixed, **since.base})


NEVER = RowState()
NO_FORKS: Mapping[RowKey, "Fork"] = {}


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A mutation with its checked values, or with what was wrong with it already."""

    key: RowKey
    mutation: Mutation
    values: Values = NO_VALUES
    errors: tuple[Error, ...] = ()
    references: tuple[tuple[str, RowKey], ...] = ()
    rules: Rules | None = None  # None: of an entity that there is not
    made_at: datetime | None = None  # by the server's clock, where a policy asks for it
    # Of before a restore: the row has it; it comes before the row's deletion, which came back first; the lost revision
    # up to which its device had seen what is brought back.
    done: bool = False
    buried: bool = False
    seen: int = 0


class Fork(Protocol):
    """What of before a restore has been brought back to a row (`sync.lost`)."""

    def meant(self, candidate: Candidate, state: RowState) -> Candidate:
        """A candidate of before it as it is meant for the row as it is."""

    def after(self, candidate: Candidate) -> "Fork":
        """The same when this one has been brought back too."""


class Unit(NamedTuple):
    """What takes effect together or not at all: a group, or a mutation that stands alone."""

    group: str | None
    members: tuple[int, ...]


class Write(NamedTuple):
    """What is written for a mutation, where that is not what it says. `hidden`: further columns of a row made again."""

    op: str
    values: Values
    hidden: Mapping[str, Any] = NO_ROW


AS_SENT = Write("", NO_VALUES)


class Record(NamedTuple):
    """A conflict, as it is kept: the fields in dispute (none: the row) and the values at stake, before any write.

    `mixed`: those that got a value which is neither side's.
    """

    fields: tuple[str, ...]
    policy: str
    decision: Decision
    rev: int
    base: Mapping[str, Any] | None
    server: Mapping[str, Any] | None
    mixed: frozenset[str] = frozenset()


class Verdict(NamedTuple):
    """The status that the device is told; what is written, if anything; the conflict to be kept, if there was one.

    `buried`: what the row had when it was deleted, of an edit that comes before that.
    """

    status: str
    errors: tuple[Error, ...] = ()
    write: Write | None = None
    record: Record | None = None
    buried: Write | None = None


TAKEN = frozenset({"applied", "merged"})
WRITE = Verdict("applied", write=AS_SENT)
DONE = Verdict("applied")


def rejected(*errors: Error) -> Verdict:
    return Verdict("rejected", errors)


def decide(
    candidates: Sequence[Candidate],
    units: Iterable[Unit],
    states: Mapping[RowKey, RowState],
    failures: Mapping[int, tuple[Error, ...]],
    forks: Mapping[RowKey, Fork] = NO_FORKS,
) -> tuple[dict[int, Verdict], dict[RowKey, RowState]]:
    """The verdict of every member of `units`, and the states of the rows after them.

    `failures` are the mutations that the database has refused so far, `forks` are those of the rows that were restored.
    A mutation that refers to a row which is not there, or whose creation fails in this very batch, is rejected; so is
    every member of a group one of whose members is not written. Both may bring down further ones, so it goes round
    until nothing changes.
    """
    units = list(units)
    failed = dict(failures)
    while True:
        verdicts, after = _pass(candidates, units, states, failed, forks)
        more = _missing_references(candidates, verdicts, after) | _broken_groups(units, verdicts)
        if not more:
            return verdicts, after
        failed |= more


def _pass(
    candidates: Sequence[Candidate],
    units: Sequence[Unit],
    states: Mapping[RowKey, RowState],
    failed: Mapping[int, tuple[Error, ...]],
    forks: Mapping[RowKey, Fork],
) -> tuple[dict[int, Verdict], dict[RowKey, RowState]]:
    verdicts: dict[int, Verdict] = {}
    after, back = dict(states), dict(forks)
    for unit in units:
        for at in unit.members:
            sent = candidate = candidates[at]
            state = after.get(candidate.key, NEVER)
            fork = back.get(candidate.key) if candidate.mutation.lost else None
            if fork is not None and not candidate.errors:
                candidate = fork.meant(candidate, state)
            errors = failed.get(at, candidate.errors)
            verdict = rejected(*errors) if errors else judge(candidate, state)
            if verdict.record is not None and verdict.status == "conflict" and unit.group:
                verdict = _kept_out(verdict, verdict.record)
            if fork is not None and verdict.status in TAKEN:
                back[candidate.key] = fork.after(sent)
                verdict = _as_meant(candidate, verdict)
            verdicts[at] = verdict
            if verdict.write is not None:
                mixed = verdict.record.mixed if verdict.record else frozenset()
                after[candidate.key] = _written(candidate, verdict.write, state, mixed)
            elif verdict.buried is not None:
                after[candidate.key] = _buried(candidate, state)
    return verdicts, after


def brought_back(
    candidates: Sequence[Candidate], verdicts: Mapping[int, Verdict], forks: Mapping[RowKey, Fork]
) -> Mapping[RowKey, Fork]:
    """The forks after these verdicts."""
    after = dict(forks)
    for at, verdict in verdicts.items():
        if candidates[at].mutation.lost and verdict.status in TAKEN and (fork := after.get(candidates[at].key)):
            after[candidates[at].key] = fork.after(candidates[at])
    return after


def _as_meant(candidate: Candidate, verdict: Verdict) -> Verdict:
    """The verdict on what is meant by another candidate than the one that was sent."""
    meant = Write(candidate.mutation.op, candidate.values)
    if candidate.buried:
        return verdict._replace(buried=meant)
    return verdict._replace(write=meant) if verdict.write is AS_SENT and meant.op == "update" else verdict


def _kept_out(verdict: Verdict, record: Record) -> Verdict:
    """Of a member that holds its group back: nothing of it is written, not even what is not in dispute."""
    decision = Decision.OPEN if record.decision is Decision.OPEN else Decision.SERVER
    return verdict._replace(write=None, record=record._replace(decision=decision))


def judge(candidate: Candidate, state: RowState) -> Verdict:
    """The verdict of one mutation on one row."""
    mutation, values = candidate.mutation, candidate.values
    if candidate.done or candidate.buried:
        return DONE if state.known or not state.rev else rejected(error("not_found"))
    if mutation.op == "create":
        if state.visible:
            return _merged(candidate, state, 0)
        return rejected(error("already_exists", "id")) if state.alive else WRITE
    since = state.since_base(mutation.base)
    if not state.known:
        return rejected(error("not_found"))
    if mutation.op == "delete":
        if not state.alive:
            return DONE
        return _deleted(candidate, state, since) if since.by_others(state.own) else WRITE
    if not state.alive and state.deleted_by_device:
        return rejected(error("not_found"))
    if not values.fields and not values.amounts:
        return DONE
    if not state.alive:
        return _revived(candidate, state, since)
    return _merged(candidate, state, mutation.base) if since.by_others(state.own) else WRITE


def _merged(candidate: Candidate, state: RowState, base: int | None) -> Verdict:
    """The fields of an update, or of a create of a row that is there, laid over what others wrote."""
    assert candidate.rules is not None
    assert state.values is not None, "a row that is there and whose base is not its revision is read"
    since, values = state.since_base(base), candidate.values
    merged = merge(candidate.rules, values.fields, state.values, since, candidate.made_at, state.own)
    write = Write("update", Values(merged.write, values.amounts)) if merged.write or values.amounts else None
    record = _record(merged.disputes, state.rev, merged.base, merged.server)
    kept = any(dispute.decision in {Decision.OPEN, Decision.SERVER} for dispute in merged.disputes)
    if kept:
        return Verdict("conflict", (), write, record)
    return Verdict("merged" if since.by_others(state.own) else "applied", (), write, record)


def _deleted(candidate: Candidate, state: RowState, since: Since) -> Verdict:
    """A delete of a row that others have edited."""
    assert candidate.rules is not None
    assert state.values is not None
    policy = candidate.rules.delete
    decision = {"edit_wins": Decision.SERVER, "delete_wins": Decision.DEVICE}.get(policy, Decision.OPEN)
    fields = {name: value for name, value in state.values.items() if name not in _NOT_FIELDS}
    base = fields | {**since.base} if since.known and since.made is None else None
    record = Record((), policy, decision, state.rev, base, fields)
    if decision is Decision.DEVICE:
        return Verdict("merged", (), AS_SENT, record)
    return Verdict("conflict", (), None, record)


def _revived(candidate: Candidate, state: RowState, since: Since) -> Verdict:
    """An edit of a row that others have deleted."""
    assert candidate.rules is not None
    rules, values, gone = candidate.rules, candidate.values, since.gone
    decision = {"edit_wins": Decision.DEVICE, "delete_wins": Decision.SERVER}.get(rules.delete, Decision.OPEN)
    merged = merge(rules, values.fields, gone, since, candidate.made_at, state.own) if gone is not None else None
    if merged is None or decision is not Decision.DEVICE:
        # What the history has forgotten cannot come back.
        stays = Decision.OPEN if decision is Decision.DEVICE else decision
        base = merged.base if merged else None
        return Verdict("conflict", (), None, Record((), rules.delete, stays, state.rev, base, None))
    assert gone is not None
    row = {name: value for name, value in gone.items() if name not in _NOT_FIELDS} | dict(merged.write)
    row |= {name: added(rules.kinds[name], row.get(name), amount) for name, amount in values.amounts.items()}
    disputes = (Dispute((), rules.delete, Decision.DEVICE), *merged.disputes)
    found = _record(disputes, state.rev, merged.base, merged.server)
    kept = any(dispute.decision in {Decision.OPEN, Decision.SERVER} for dispute in merged.disputes)
    record = found._replace(server=None) if found and not kept else found
    return Verdict(
        "conflict" if kept else "merged", (), Write("create", Values(row, {}), since.hidden or NO_ROW), record
    )


def _record(
    disputes: Sequence[Dispute], rev: int, base: Mapping[str, Any] | None, server: Mapping[str, Any] | None
) -> Record | None:
    if not disputes:
        return None
    fields = tuple(name for dispute in disputes for name in dispute.fields)
    policy = " + ".join(sorted({dispute.policy for dispute in disputes}))
    mixed = frozenset(name for d in disputes if d.decision is Decision.MIXED for name in d.fields)
    return Record(fields, policy, together(dispute.decision for dispute in disputes), rev, base, server, mixed)


def _written(candidate: Candidate, write: Write, state: RowState, mixed: frozenset[str]) -> RowState:
    """The row after a write, as far as later mutations of the batch ask. What is `mixed` its device has not seen."""
    op, values = write.op or candidate.mutation.op, candidate.values if write is AS_SENT else write.values
    if op == "delete":
        return RowState(state.rev + 1, False, True, since=state.since, deleted_by_device=True)
    if op == "create" and write is AS_SENT:
        return RowState(state.rev + 1, True, True, values.fields, own=frozenset(values.fields))
    row = values.fields if op == "create" else state.values
    if row is not None and op == "update":
        kinds = candidate.rules.kinds if candidate.rules else {}
        amounts = {name: added(kinds[name], row.get(name), amount) for name, amount in values.amounts.items()}
        row = {**row, **values.fields, **amounts}
    sent, counters = candidate.values.fields, candidate.rules.counters if candidate.rules else frozenset()
    own = {name for name, value in values.fields.items() if op == "update" or (name in sent and sent[name] == value)}
    own -= mixed
    unseen = {name: value for name, value in state.mixed.items() if name not in own}
    unseen |= {name: (state.values or NO_ROW).get(name) for name in mixed - unseen.keys()}
    return RowState(state.rev + 1, True, True, row, state.since, (state.own - mixed | own) - counters, unseen)


def _buried(candidate: Candidate, state: RowState) -> RowState:
    """A deleted row after an edit that comes before the deletion: it had these values when it was deleted."""

    def edited(row: Mapping[str, Any]) -> Mapping[str, Any]:
        kinds = candidate.rules.kinds if candidate.rules else {}
        amounts = {n: added(kinds[n], row[n], a) for n, a in candidate.values.amounts.items() if n in row}
        return {**row, **candidate.values.fields, **amounts}

    since = {
        base: msgspec.structs.replace(each, gone=edited(each.gone), base=edited(each.base)) if each.gone else each
        for base, each in state.since.items()
    }
    return msgspec.structs.replace(state, since=since)


def _missing_references(
    candidates: Sequence[Candidate], verdicts: Mapping[int, Verdict], after: Mapping[RowKey, RowState]
) -> dict[int, tuple[Error, ...]]:
    missing = {}
    for at, verdict in verdicts.items():
        candidate, write = candidates[at], verdict.write or verdict.buried
        if write is None or not candidate.references:
            continue
        written = candidate.values if write is AS_SENT else write.values
        gone = [
            name for name, key in candidate.references if name in written.fields and not after.get(key, NEVER).visible
        ]
        if gone:
            missing[at] = tuple(error("missing_reference", name) for name in gone)
    return missing


def _broken_groups(units: Sequence[Unit], verdicts: Mapping[int, Verdict]) -> dict[int, tuple[Error, ...]]:
    return {
        at: (error("group_failed"),)
        for unit in units
        if unit.group and any(verdicts[at].status in {"conflict", "rejected"} for at in unit.members)
        for at in unit.members
        if verdicts[at].status in {"applied", "merged"}
    }
