"""Push: a batch of mutations, in one transaction, set by set; one bad row never blocks the rest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
from django.conf import settings
from django.db import DatabaseError, IntegrityError, OperationalError, transaction
from django.db.models import ProtectedError, RestrictedError
from django.utils import timezone

from sync import decide as core
from sync import lost
from sync.answer import Result, conflict_of, rejection_of, replayed, result_of, reused
from sync.candidates import candidates_of
from sync.decide import Candidate, RowKey, RowState, Unit, Verdict
from sync.epoch import standing_of
from sync.models import Conflict, Rejection
from sync.mutation import Batch, Error, Mutation, error, parse_batch
from sync.pull import read_token
from sync.push_new import NotNew, push_new
from sync.refusal import Displaced, errors_of, is_of_a_row, lost_race
from sync.settle import as_written, broken_by_clean, settle, settlement
from sync.sql import Uuids, array, block, cursor
from sync.states import Pusher, locking, states_of, with_what_others_did
from sync.units import Interleaved, units_of, waves_of
from sync.wire import entities
from sync.write import write_wave
from syncserver.errors import Problem

ATTEMPTS_MAX = 4  # of a batch that lost a deadlock, or raced another device for a mutation's id


def push(pusher: Pusher, body: bytes, received_at: datetime | None = None) -> bytes:
    """Apply a push request's body and return the answer's body; when it returns, everything it reports is committed.

    `received_at`: when it came; nothing: now. Raises Earlier and Problem, and then nothing was applied: invalid_json,
    invalid_request, unknown_field, batch_too_large, rate_limited, invalid_token, token_expired where the database was
    restored since the device's token, and service_unavailable when other writers were in the way ATTEMPTS_MAX times
    (send it again).
    """
    batch = parse_batch(body, settings.SYNC_PUSH_MUTATIONS_MAX)
    if batch.token is not None and standing_of(read_token(batch.token)) is not None:
        raise Problem("token_expired", restored=True)
    results = _short_way(pusher, batch.mutations) or _long_way(pusher, batch, received_at or timezone.now())
    return msgspec.json.encode({"results": results})


def _short_way(pusher: Pusher, mutations: Sequence[Mutation]) -> list[Result] | None:
    """The results of new rows; None where there is anything else, or anything wrong."""
    try:
        with transaction.atomic():
            revs = push_new(pusher, mutations)
    except OperationalError as problem:
        if not (lost_race(problem) or is_of_a_row(problem)):
            raise
        return None
    except (NotNew, Interleaved, DatabaseError):
        return None
    return [Result(mutation.id, "applied", rev) for mutation, rev in zip(mutations, revs, strict=True)]


def _long_way(pusher: Pusher, batch: Batch, received_at: datetime) -> list[Result]:
    candidates = candidates_of(batch, received_at)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with transaction.atomic():
                return Push(pusher, batch.mutations, candidates, attempt < ATTEMPTS_MAX).run()
        except Interleaved as group:
            raise Problem("invalid_request", f"Group {group} encloses another change of one of its rows.") from None
        except _Raced:
            continue
        except OperationalError as problem:
            if not lost_race(problem):
                raise
    raise Problem("service_unavailable", "Other writers were in the way; nothing was applied.", retry_after_seconds=1)


class _Raced(Exception):
    """Another device pushed a mutation of the same id at the same moment, or brought the same row back."""


class _Refused(Exception):
    """Some mutations turned out, once written, to break a rule: their errors, by place in the batch."""

    def __init__(self, failures: Mapping[int, tuple[Error, ...]]) -> None:
        self.failures = failures


@dataclass
class Push:
    """One batch on its way through. Mutations are known by their place in it."""

    pusher: Pusher
    mutations: Sequence[Mutation]
    candidates: Sequence[Candidate]
    may_try_again: bool
    results: dict[int, Result] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    states: dict[RowKey, RowState] = field(default_factory=dict)
    forks: Mapping[RowKey, core.Fork] = field(default_factory=dict)
    revs_before: dict[RowKey, int] = field(default_factory=dict)
    revs: dict[int, int] = field(default_factory=dict)

    def run(self) -> list[Result]:
        repeats = self._find_replays()
        fresh = [at for at in range(len(self.mutations)) if at not in self.results and at not in repeats]
        self._read_states(fresh)
        self._apply(units_of(self.candidates, fresh))
        self.results |= {at: self._result(at) for at in self.verdicts}
        self._remember(fresh)
        for at, first in repeats.items():
            self.results[at] = msgspec.structs.replace(self.results[first], replayed=True)
        self._show_rows()
        return [self.results[at] for at in range(len(self.mutations))]

    @cached_property
    def digests(self) -> list[str]:
        """What each mutation says, by place."""
        return [candidate.mutation.digest(candidate.values) for candidate in self.candidates]

    # --- what is known already ---

    def _find_replays(self) -> dict[int, int]:
        """Answer the mutations that were pushed before; return those that come twice in this batch, with the first."""
        with cursor() as bound:
            with locking(bound, self.pusher, len(self.mutations)):
                pass
            bound.execute(block("push.sql", "remembered"), {"ids": Uuids([m.id for m in self.mutations])})
            known = {row[0]: row[1:] for row in bound.fetchall()}
        repeats: dict[int, int] = {}
        first: dict[str, int] = {}
        for at, mutation in enumerate(self.mutations):
            if mutation.id in known:
                digest, *told = known[mutation.id]
                self.results[at] = replayed(mutation, *told) if digest == self.digests[at] else reused(mutation)
            elif mutation.id not in first:
                first[mutation.id] = at
            elif self.digests[first[mutation.id]] == self.digests[at]:
                repeats[at] = first[mutation.id]
            else:
                self.results[at] = reused(mutation)
        return repeats

    def _read_states(self, fresh: Sequence[int]) -> None:
        """Lock the rows that may be changed, then read what is known of every row that these mutations name.

        Raises _Raced where a row that was not there, so that it could not be locked, has come meanwhile.
        """
        candidates = [self.candidates[at] for at in fresh if not self.candidates[at].errors]
        changed = {candidate.key for candidate in candidates}
        locked = self._lock(changed)
        self.states = states_of(self.pusher, changed | {key for c in candidates for _, key in c.references})
        self.revs_before = {key: self.states.get(key, core.NEVER).rev for key in changed}
        _ = self.digests  # of what came, before any of it is meant for a row as restored
        self.candidates, self.forks = lost.rebased(self.candidates, fresh, self.states)
        candidates = [self.candidates[at] for at in fresh if not self.candidates[at].errors]
        if self.may_try_again and sum(self.states[key].alive for key in changed & self.states.keys()) > locked:
            raise _Raced
        ids = [mutation.id for mutation in self.mutations]
        self.states |= with_what_others_did(self.pusher, self.states, candidates, ids)
        if self.may_try_again and any(s.values is not None and not s.alive for s in self.states.values()):
            raise _Raced

    def _lock(self, keys: Collection[RowKey]) -> int:
        """Make other writers of these rows wait; return how many there are."""
        rows: dict[str, list[str]] = {}
        for key in keys:
            rows.setdefault(key.entity, []).append(key.row)
        with cursor() as bound:
            return sum(
                bound.execute(
                    block("push.sql", "lock_rows", table=entities()[name].table), {"rows": array(rows[name])}
                ).rowcount
                for name in sorted(rows)
            )

    # --- writing ---

    def _apply(self, units: Sequence[Unit]) -> None:
        """Write all units at once. Where the database refuses, halve; a unit that is refused alone is rejected."""
        failures: dict[int, tuple[Error, ...]] = {}
        while True:
            verdicts, after = core.decide(self.candidates, units, self.states, failures, self.forks)
            try:
                revs = self._write(verdicts, after)
            except _Refused as refused:
                failures |= refused.failures
                continue
            except (DatabaseError, ProtectedError, RestrictedError, Displaced) as problem:
                if isinstance(problem, OperationalError) and not is_of_a_row(problem):
                    raise
                if _names(problem, "sync_result_pkey") or (self.may_try_again and self._lost_a_row(problem)):
                    raise _Raced from problem
                if len(units) > 1:
                    middle = len(units) // 2
                    self._apply(units[:middle])
                    self._apply(units[middle:])
                    return
                failures |= self._blame(units[0], problem, failures)
                continue
            self.verdicts |= verdicts
            self.states = after
            self.forks = core.brought_back(self.candidates, verdicts, self.forks)
            self.revs |= revs
            return

    def _lost_a_row(self, problem: Exception) -> bool:
        """Whether a row that was not there has come meanwhile."""
        return any(
            _names(problem, f"{entities()[name].model._meta.db_table}_pkey")
            for name in {candidate.key.entity for candidate in self.candidates if not candidate.errors}
        )

    def _blame(self, unit: Unit, problem: Exception, failures: Mapping[int, Any]) -> dict[int, tuple[Error, ...]]:
        """The errors of a unit that the database refused: at the member of the entity that it named."""
        known = [at for at in unit.members if at not in failures and not self.candidates[at].errors]
        named, found = errors_of(problem, {self.candidates[at].key.entity for at in known})
        guilty = [at for at in known if named in {None, self.candidates[at].key.entity}] or known
        if not guilty:
            raise problem
        return dict.fromkeys(guilty, found)

    def _write(self, verdicts: Mapping[int, Verdict], after: dict[RowKey, RowState]) -> dict[int, int]:
        """Write in a savepoint; return the new revisions by place. Raises _Refused or the database's own error."""
        revs: dict[int, int] = {}
        waves = waves_of(self.candidates, verdicts)
        if not waves:
            return revs
        last = {key: state.rev for key, state in self.states.items()}
        with transaction.atomic():
            for wave in waves:
                revs |= self._write_wave(wave, verdicts, last)
            with cursor() as bound:
                bound.execute(block("push.sql", "check_constraints"))
                bound.execute("SET CONSTRAINTS ALL DEFERRED")
            # A row's last write is the one to blame.
            written = {self.candidates[at].key: at for wave in waves for at in wave}
            if broken := broken_by_clean([self.candidates[at] for at in written.values()]):
                raise _Refused({written[key]: errors for key, errors in broken.items()})
        after |= {
            key: msgspec.structs.replace(after[key], rev=rev) for key, rev in last.items() if after[key].rev != rev
        }
        return revs

    def _write_wave(
        self, wave: Sequence[int], verdicts: Mapping[int, Verdict], last: dict[RowKey, int]
    ) -> dict[int, int]:
        """Write each row at most once; return the new revisions by place, and keep them in `last`. Raises _Refused."""
        candidates = [as_written(self.candidates[at], verdicts[at].write or core.AS_SENT) for at in wave]
        expected = {candidate.key: last.get(candidate.key, 0) + 1 for candidate in candidates}
        digests = [self.digests[at] for at in wave]
        applied = [number for number, at in enumerate(wave) if verdicts[at].status == "applied"]
        prepared = write_wave(
            candidates,
            self.pusher.author,
            lambda: settlement(self.pusher, candidates, digests, list(expected.values()), applied),
        )
        unexpected = settle(self.pusher, candidates, prepared)
        outside = {
            at: (error("forbidden_scope"),)
            for at, candidate in (zip(wave, candidates, strict=True) if unexpected else ())
            if candidate.mutation.op != "delete" and (found := unexpected.get(candidate.key)) and not found.visible
        }
        if outside:
            raise _Refused(outside)
        last |= expected | {key: state.rev for key, state in unexpected.items()}
        return {at: last[candidate.key] for at, candidate in zip(wave, candidates, strict=True)}

    # --- the answer ---

    def _result(self, at: int) -> Result:
        rev = self.revs.get(at, self.states.get(self.candidates[at].key, core.NEVER).rev)
        return result_of(self.mutations[at].id, self.verdicts[at], rev)

    def _show_rows(self) -> None:
        """Add the row, as the device may see it now, to every result that is more than `applied`."""
        shown = [at for at, result in self.results.items() if result.status != "applied"]
        rows = self._rows({key for at in shown if (key := self.candidates[at].key).entity in entities()})
        for at in shown:
            data = rows.get(self.candidates[at].key)
            self.results[at].row = None if data is None else msgspec.Raw(data.encode())

    def _rows(self, keys: Collection[RowKey]) -> dict[RowKey, str]:
        """The rows that the device may see, as JSON."""
        if not keys:
            return {}
        with cursor() as bound:
            wanted = [{"entity": key.entity, "row_id": key.row} for key in keys]
            parameters = {"scopes": list(self.pusher.scopes), "keys": msgspec.json.encode(wanted).decode()}
            bound.execute(block("push.sql", "rows_for_device"), parameters)
            return {RowKey(entity, row): data for entity, row, data in bound.fetchall()}

    def _remember(self, fresh: Sequence[int]) -> None:
        """Store the results, the conflict records and the quarantine."""
        self._store_results(fresh)
        came = {at: self.mutations[at] for at in fresh}
        if of_before := {at: m for at, m in came.items() if m.lost is not None or self.candidates[at].seen}:
            lost.note(of_before, self.candidates, self.verdicts, self.states)
        Conflict.objects.bulk_create(
            conflict_of(self.pusher.device, self._as_it_came(at), record, self.results[at].conflict)
            for at in fresh
            if (record := self.verdicts[at].record) is not None
        )
        self._quarantine()

    def _as_it_came(self, at: int) -> Candidate:
        return msgspec.structs.replace(self.candidates[at], mutation=self.mutations[at])

    def _quarantine(self) -> None:
        refused = [at for at, result in self.results.items() if result.status == "rejected" and not result.replayed]
        revs = self._revs_at(refused)
        Rejection.objects.bulk_create(
            (
                rejection_of(self.pusher.device, self.mutations[at], self.digests[at], self.results[at], at, revs[at])
                for at in refused
            ),
            ignore_conflicts=True,  # one that was refused for its id comes again with every resend
        )

    def _revs_at(self, places: Sequence[int]) -> dict[int, int]:
        """The revisions that the rows of these mutations had when their turn came, by place."""
        refused = {self.candidates[at].key for at in places}
        unread = {key for key in refused if key.entity in entities()} - self.revs_before.keys()
        revs = {key: state.rev for key, state in states_of(self.pusher, unread).items()} | self.revs_before
        found = {}
        for at, candidate in enumerate(self.candidates):
            found[at] = revs.get(candidate.key, 0)
            revs[candidate.key] = self.revs.get(at, found[at])
        return found

    def _store_results(self, fresh: Sequence[int]) -> None:
        others = [
            msgspec.to_builtins(self.results[at]) | {"digest": self.digests[at], "made_at": self.candidates[at].made_at}
            for at in fresh
            if self.verdicts[at].status != "applied" or self.verdicts[at].write is None
        ]  # the rest was remembered as it was written
        if others:
            parameters = {"device": self.pusher.device, "results": msgspec.json.encode(others).decode()}
            try:
                with cursor() as bound:
                    bound.execute(block("push.sql", "remember"), parameters)
            except IntegrityError as problem:
                raise _Raced from problem


def _names(problem: Exception, constraint: str) -> bool:
    return getattr(getattr(problem.__cause__, "diag", None), "constraint_name", None) == constraint
