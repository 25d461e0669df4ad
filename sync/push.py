"""Push: a batch of mutations, in one transaction, set by set; one bad row never blocks the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import msgspec
from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import Model, ProtectedError, RestrictedError

from sync import decide as core
from sync.decide import Candidate, RowKey, RowState, Unit, Verdict
from sync.models import Conflict, Rejection
from sync.mutation import Error, Mutation, checker, error, parse_batch
from sync.refusal import errors_of
from sync.sql import block
from sync.wire import entities, references_of
from sync.write import write_wave
from syncserver.errors import Problem

ATTEMPTS_MAX = 3  # of a batch that lost a deadlock, or raced another device for a mutation's id


class Result(msgspec.Struct, omit_defaults=True):
    """The answer to one mutation, as it travels."""

    id: UUID
    status: str
    rev: int | None = None
    conflict: UUID | None = None
    errors: tuple[Error, ...] = ()
    row: msgspec.Raw | None | msgspec.UnsetType = msgspec.UNSET
    replayed: bool = False


@dataclass(frozen=True)
class Pusher:
    """Who pushes: the device and the scopes granted to it."""

    device: UUID
    scopes: Sequence[str]

    @property
    def author(self) -> str:
        return f"device:{self.device}"


def push(pusher: Pusher, body: bytes) -> bytes:
    """Apply a push request's body and return the answer's body; when it returns, everything it reports is committed.

    Raises Problem: invalid_json, invalid_request, unknown_field, batch_too_large (nothing was applied), and
    service_unavailable when other writers were in the way ATTEMPTS_MAX times (nothing was applied; send it again).
    """
    batch = parse_batch(body, settings.SYNC_PUSH_MUTATIONS_MAX)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with transaction.atomic():
                results = _Push(pusher, batch.mutations).run()
            return msgspec.json.encode({"results": results})
        except core.Interleaved as group:
            raise Problem("invalid_request", f"Group {group} encloses another change of one of its rows.") from None
        except DatabaseError as problem:
            if not _worth_another_try(problem) or attempt == ATTEMPTS_MAX:
                if isinstance(problem, OperationalError):
                    raise Problem("service_unavailable", retry_after_seconds=1) from problem
                raise
    raise AssertionError("unreachable")


def _worth_another_try(problem: DatabaseError) -> bool:
    cause = problem.__cause__
    code = getattr(cause, "sqlstate", None)
    constraint = getattr(getattr(cause, "diag", None), "constraint_name", None)
    return code in {"40001", "40P01"} or (code == "23505" and constraint == "sync_result_pkey")


class _Refused(Exception):
    """Some mutations turned out, once written, to break a rule: their errors, by place in the batch."""

    def __init__(self, failures: Mapping[int, tuple[Error, ...]]) -> None:
        self.failures = failures


@dataclass
class _Push:
    pusher: Pusher
    mutations: Sequence[Mutation]
    candidates: list[Candidate] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of the candidates in the batch
    states: dict[RowKey, RowState] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    revs: dict[int, int] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)

    def run(self) -> list[Result]:
        self.digests = [mutation.digest for mutation in self.mutations]
        results = self._replays()
        self.places = [at for at in range(len(self.mutations)) if at not in results]
        self.candidates = [_candidate(self.mutations[at]) for at in self.places]
        units = core.units_of(self.candidates)
        self._read_states()
        self._apply(units)
        fresh = self._results()
        results |= {self.places[at]: result for at, result in fresh.items()}
        self._remember(fresh)
        return self._with_repeats(results)

    # --- what is known already ----------------------------------------------------------------------------------------

    def _replays(self) -> dict[int, Result]:
        """The results of mutations that were pushed before, or come twice in this batch."""
        ids = [mutation.id for mutation in self.mutations]
        with connection.cursor() as cursor:
            cursor.execute(block("push.sql", "remembered"), {"device": self.pusher.device, "ids": ids})
            cursor.nextset()
            known = {row[0]: row[1:] for row in cursor.fetchall()}
        results: dict[int, Result] = {}
        first: dict[UUID, int] = {}
        for at, mutation in enumerate(self.mutations):
            if mutation.id in known:
                digest, entity, row, status, rev, conflict, errors = known[mutation.id]
                if bytes(digest) != self.digests[at]:
                    results[at] = Result(mutation.id, "rejected", errors=(error("id_reused", "id"),))
                    continue
                told = tuple(msgspec.json.decode(errors, type=list[Error])) if errors else ()
                results[at] = Result(mutation.id, status, rev, conflict, told, replayed=True)
            elif mutation.id in first:
                same = self.digests[first[mutation.id]] == self.digests[at]
                results[at] = Result(
                    mutation.id, "applied" if same else "rejected", errors=() if same else (error("id_reused", "id"),)
                )
            else:
                first[mutation.id] = at
        return results

    def _with_repeats(self, results: dict[int, Result]) -> list[Result]:
        """A mutation that came twice in the batch gets the result of its first coming."""
        first: dict[UUID, int] = {}
        rows = self._rows([self.mutations[at] for at, result in results.items() if _shows_row(result)])
        for at, mutation in enumerate(self.mutations):
            result = results[at]
            reused = any(e.code == "id_reused" for e in result.errors)
            if mutation.id in first and not reused:
                result = replace_result(results[first[mutation.id]], replayed=True)
            elif not reused:
                first[mutation.id] = at
            if _shows_row(result):
                found = rows.get(RowKey(mutation.entity, mutation.row))
                result = replace_result(result, row=msgspec.Raw(found[1].encode()) if found else None)
            results[at] = result
        return [results[at] for at in range(len(self.mutations))]

    def _rows(self, mutations: Sequence[Mutation]) -> dict[RowKey, tuple[int, str]]:
        """The rows of these mutations that the device may see, as revision and JSON."""
        if not mutations:
            return {}
        with connection.cursor() as cursor:
            keys = {"entities": [m.entity for m in mutations], "rows": [m.row for m in mutations]}
            cursor.execute(block("push.sql", "rows_for_device"), {"scopes": list(self.pusher.scopes), **keys})
            return {RowKey(entity, row): (rev, data) for entity, row, rev, data in cursor.fetchall()}

    # --- the rows before ------------------------------------------------------------------------------------------------

    def _read_states(self) -> None:
        changed: dict[str, list[UUID]] = {}
        for candidate in self.candidates:
            if not candidate.errors and candidate.mutation.op != "create":
                changed.setdefault(candidate.mutation.entity, []).append(candidate.mutation.row)
        keys = {c.key for c in self.candidates if not c.errors}
        keys |= {key for c in self.candidates if not c.errors for _, key in c.references}
        with connection.cursor() as cursor:
            for name in sorted(changed):
                cursor.execute(block("push.sql", "lock_rows", table=entities()[name].table), {"rows": changed[name]})
        self.states = self._states(keys)
        self._read_foreign_revisions()

    def _states(self, keys: set[RowKey]) -> dict[RowKey, RowState]:
        ordered = sorted(keys)
        with connection.cursor() as cursor:
            cursor.execute(
                block("push.sql", "row_states"),
                {
                    "scopes": list(self.pusher.scopes),
                    "entities": [key.entity for key in ordered],
                    "rows": [key.row for key in ordered],
                },
            )
            return {
                RowKey(entity, row): RowState(rev=rev, alive=alive, known=known)
                for entity, row, rev, alive, known in cursor.fetchall()
            }

    def _read_foreign_revisions(self) -> None:
        """Who else wrote: asked only for rows some mutation of which has another base than the row's revision."""
        bases: dict[RowKey, int] = {}
        for candidate in self.candidates:
            state = self.states.get(candidate.key)
            if candidate.errors or state is None or candidate.mutation.op == "create":
                continue
            if candidate.mutation.base != state.rev:
                bases[candidate.key] = min(candidate.mutation.base or 0, bases.get(candidate.key, 2**62))
        if not bases:
            return
        with connection.cursor() as cursor:
            cursor.execute(
                block("push.sql", "foreign_revisions"),
                {
                    "author": self.pusher.author,
                    "ids": [mutation.id for mutation in self.mutations],
                    "entities": [key.entity for key in bases],
                    "rows": [key.row for key in bases],
                    "bases": list(bases.values()),
                },
            )
            for entity, row, foreign, by_device in cursor.fetchall():
                key = RowKey(entity, row)
                state = self.states[key]
                self.states[key] = replace(state, foreign_rev=foreign, deleted_by_device=by_device and not state.alive)

    # --- writing --------------------------------------------------------------------------------------------------------

    def _apply(self, units: Sequence[Unit]) -> None:
        """Write all units at once. Where the database refuses, halve; a unit that is refused alone is rejected."""
        failures: dict[int, tuple[Error, ...]] = {}
        while True:
            verdicts, after = core.decide(self.candidates, units, self.states, failures)
            try:
                revs = self._write(verdicts, after)
            except _Refused as refused:
                failures |= refused.failures
                continue
            except (DatabaseError, ProtectedError, RestrictedError) as problem:
                if isinstance(problem, OperationalError):
                    raise
                if len(units) > 1:
                    middle = len(units) // 2
                    self._apply(units[:middle])
                    self._apply(units[middle:])
                    return
                failures |= self._blame(units[0], problem, failures)
                continue
            self.verdicts |= verdicts
            self.states = after
            self.revs |= revs
            return

    def _blame(self, unit: Unit, problem: Exception, failures: Mapping[int, Any]) -> dict[int, tuple[Error, ...]]:
        """The errors of a unit that the database refused: at the member of the entity that it named."""
        known = [at for at in unit.members if at not in failures and not self.candidates[at].errors]
        named, found = errors_of(problem, {self.candidates[at].mutation.entity for at in known})
        guilty = [at for at in known if named in {None, self.candidates[at].mutation.entity}] or known
        if not guilty:
            raise problem
        return {guilty[0]: found} if len(guilty) == 1 else {at: found for at in guilty}

    def _write(self, verdicts: Mapping[int, Verdict], after: dict[RowKey, RowState]) -> dict[int, int]:
        """Write in a savepoint; return the new revisions by place. Raises _Refused or the database's own error."""
        revs: dict[int, int] = {}
        waves = core.waves_of(self.candidates, verdicts)
        if not waves:
            return revs
        with transaction.atomic():
            for wave in waves:
                write_wave([self.candidates[at] for at in wave], self.pusher.author)
                states = self._states({self.candidates[at].key for at in wave})
                outside = {}
                for at in wave:
                    candidate = self.candidates[at]
                    state = states.get(candidate.key, core.NEVER)
                    revs[at] = state.rev
                    after[candidate.key] = replace(after[candidate.key], rev=state.rev)
                    if candidate.mutation.op != "delete" and not state.visible:
                        outside[at] = (error("forbidden_scope"),)
                if outside:
                    raise _Refused(outside)
            with connection.cursor() as cursor:
                cursor.execute(block("push.sql", "check_constraints"))
            self._clean(waves)
        return revs

    def _clean(self, waves: Sequence[Sequence[int]]) -> None:
        """Hold the written rows against their model's own `clean()`, where it has one. Raises _Refused."""
        refused: dict[int, tuple[Error, ...]] = {}
        last = {
            self.candidates[at].key: at for wave in waves for at in wave if self.candidates[at].mutation.op != "delete"
        }
        for name in {key.entity for key in last}:
            model = entities()[name].model
            if model.clean is Model.clean:
                continue
            places = {key.row: at for key, at in last.items() if key.entity == name}
            for row, instance in model._default_manager.in_bulk(list(places)).items():
                try:
                    instance.clean()
                except ValidationError as problem:
                    refused[places[row]] = _told_by_clean(problem)
        if refused:
            raise _Refused(refused)

    # --- the answer -------------------------------------------------------------------------------------------------------

    def _results(self) -> dict[int, Result]:
        results = {}
        for at, verdict in self.verdicts.items():
            candidate = self.candidates[at]
            state = self.states.get(candidate.key, core.NEVER)
            match verdict.status:
                case "write":
                    results[at] = Result(candidate.mutation.id, "applied", self.revs[at])
                case "applied":
                    results[at] = Result(candidate.mutation.id, "applied", state.rev)
                case "conflict":
                    results[at] = Result(candidate.mutation.id, "conflict", conflict=uuid4())
                case _:
                    results[at] = Result(candidate.mutation.id, "rejected", errors=verdict.errors)
        return results

    def _remember(self, results: Mapping[int, Result]) -> None:
        """Store the results, the conflict records and the quarantine."""
        self._store_conflicts(
            [(self.candidates[at], result) for at, result in results.items() if result.status == "conflict"]
        )
        Rejection.objects.bulk_create(
            Rejection(
                mutation=result.id,
                device=self.pusher.device,
                entity=self.candidates[at].mutation.entity,
                row_id=self.candidates[at].mutation.row,
                body=msgspec.json.encode(self.candidates[at].mutation).decode(),
                errors=msgspec.to_builtins(result.errors),
            )
            for at, result in results.items()
            if result.status == "rejected"
        )
        records = [
            {
                "id": result.id,
                "digest": self.digests[self.places[at]].hex(),
                "entity": self.candidates[at].mutation.entity,
                "row_id": self.candidates[at].mutation.row,
                "status": result.status,
                "rev": result.rev,
                "conflict": result.conflict,
                "errors": result.errors or None,
            }
            for at, result in results.items()
        ]
        with connection.cursor() as cursor:
            cursor.execute(
                block("push.sql", "remember"),
                {"device": self.pusher.device, "results": msgspec.json.encode(records).decode()},
            )

    def _store_conflicts(self, conflicts: Sequence[tuple[Candidate, Result]]) -> None:
        if not conflicts:
            return
        rows = self._rows([candidate.mutation for candidate, _ in conflicts])
        bases = self._base_values([candidate.mutation for candidate, _ in conflicts])
        records = []
        for candidate, result in conflicts:
            mutation, values = candidate.mutation, candidate.values
            assert values is not None
            found = rows.get(candidate.key)
            server = msgspec.json.decode(found[1]) if found else None
            names = [*values.fields, *values.amounts] or [name for name in server or {} if name not in {"id", "_rev"}]
            device = {"set": values.fields, "add": values.amounts}
            records.append(
                Conflict(
                    id=result.conflict,
                    entity=mutation.entity,
                    row_id=mutation.row,
                    mutation=mutation.id,
                    device=self.pusher.device,
                    op=mutation.op,
                    base_rev=mutation.base,
                    server_rev=self.states.get(candidate.key, core.NEVER).rev or None,
                    base=bases.get((candidate.key, mutation.base)),
                    server={name: server.get(name) for name in names} if server else None,
                    device_values={kind: msgspec.to_builtins(given) for kind, given in device.items() if given},
                    made_at=mutation.made_at,
                    policy=entities()[mutation.entity].declaration.conflict,
                    decision=Conflict.Decision.SERVER,
                )
            )
        Conflict.objects.bulk_create(records)

    def _base_values(self, mutations: Sequence[Mutation]) -> dict[tuple[RowKey, int | None], Any]:
        """The fields that each mutation sets, as they were at its base; none where the base is not known."""
        known = [m for m in mutations if m.base is not None and m.op == "update"]
        if not known:
            return {}
        with connection.cursor() as cursor:
            cursor.execute(
                block("push.sql", "base_values"),
                {
                    "entities": [m.entity for m in known],
                    "rows": [m.row for m in known],
                    "bases": [m.base for m in known],
                    "fields": [msgspec.json.encode(list(msgspec.json.decode(m.set))).decode() for m in known],
                },
            )
            return {
                (RowKey(entity, row), base): msgspec.json.decode(values) if isinstance(values, str) else values
                for entity, row, base, values in cursor.fetchall()
            }


def _told_by_clean(problem: ValidationError) -> tuple[Error, ...]:
    if not hasattr(problem, "error_dict"):
        return (error("constraint", None, " ".join(problem.messages)),)
    return tuple(
        error(
            "constraint" if name == NON_FIELD_ERRORS else "invalid_value",
            None if name == NON_FIELD_ERRORS else name,
            " ".join(messages),
        )
        for name, messages in problem.message_dict.items()
    )


def replace_result(result: Result, **changes: Any) -> Result:
    return msgspec.structs.replace(result, **changes)


def _shows_row(result: Result) -> bool:
    return result.status in {"merged", "conflict", "rejected"}


def _candidate(mutation: Mutation) -> Candidate:
    entity = entities().get(mutation.entity)
    if entity is None:
        return Candidate(mutation, None, (error("unknown_entity"),))
    values = checker(entity).check(mutation)
    if isinstance(values, list):
        return Candidate(mutation, None, tuple(values))
    references = tuple(
        (reference.name, RowKey(reference.references or "", values.fields[reference.name]))
        for reference in references_of(entity)
        if values.fields.get(reference.name) is not None
    )
    return Candidate(mutation, values, (), references)
