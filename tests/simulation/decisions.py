"""What people decided is kept, told to the devices, and never overwrote what they had not seen."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

import httpx

from sync.models import Conflict, Decision, Outcome, Rejection
from tests.simulation.accounts import Accounts
from tests.simulation.administrators import Administrators
from tests.simulation.device import Device
from tests.simulation.ledger import Change, Row
from tests.simulation.oracle import Key, equal

PAGE_ROWS = 3


def check_decisions(accounts: Accounts) -> None:
    """Each decision and each undoing is a change by that person, and changed what they saw."""
    standing: dict[Any, list[Decision]] = defaultdict(list)
    decided: dict[Any, list[Decision]] = defaultdict(list)
    bulks: dict[Any, list[Decision]] = defaultdict(list)
    conflicts = {conflict.pk: conflict for conflict in Conflict.objects.all()}
    for decision in Decision.objects.order_by("at", "rev"):
        conflict = conflicts[decision.conflict_id]
        if decision.undone_at is None:
            standing[conflict.pk].append(decision)
        key = (conflict.entity, str(conflict.row_id))
        if key in accounts.ledger.states:
            _check_written(accounts, decision, key)
            if decision.bulk is not None and decision.before != decision.after:
                _check_not_blind(accounts, decision, conflict, decided[conflict.pk] + bulks[decision.bulk], key)
        decided[conflict.pk].append(decision)
        bulks[decision.bulk].append(decision)  # several conflicts of a row are decided one after the other
    for conflict in conflicts.values():
        answer = accounts.ledger.answers[str(conflict.mutation)].result
        found = (conflict.state, conflict.decided_by)
        if last := standing[conflict.pk][-1:]:
            assert found == (last[0].state, last[0].by), f"{conflict} stands at {found} after {last[0]}"
        else:
            expected = answer.get("state") or conflict.state  # one that a replay met was answered as rejected
            assert found == (expected, ""), f"{conflict} stands at {found}, was answered with {answer}"
    for rejection in Rejection.objects.all():
        by_somebody = {rejection.decided_by != "", rejection.decided_at is not None}
        assert by_somebody == {rejection.state != "open"}, f"{rejection} is {rejection.state}"


def _check_written(accounts: Accounts, decision: Decision, key: Key) -> None:
    ledger = accounts.ledger
    written = [change for row, change in ledger.written[str(decision.pk)] if row == key]
    name = f"{decision} of {key}, {decision.before} -> {decision.after}; {ledger.told(key)}"
    if decision.before == decision.after:
        assert not written, f"{name} changed nothing, and wrote {written}"
        return
    assert len(written) == (1 if decision.undone_at is None else 2), f"{name} is in the history as {written}"
    first = written[0]
    assert first.author == decision.by, name
    if decision.after is not None:
        assert first.rev == decision.rev, f"{name}: told {decision.rev}"
    _check_change(name, first, decision.before, decision.after, ledger.states[key])
    if decision.undone_at is not None:
        assert written[1].author == decision.undone_by, name
        _check_change(f"{name} undone", written[1], decision.after, decision.before, ledger.states[key])


def _check_not_blind(
    accounts: Accounts, decision: Decision, conflict: Conflict, earlier: Iterable[Decision], key: Key
) -> None:
    """A side that was taken without a look at the values replaced only what the record of the conflict knows of."""
    ledger = accounts.ledger
    first = next(change for row, change in ledger.written[str(decision.pk)] if row == key)
    met = next((change for change in ledger.changes[key] if change.rev == first.rev - 1), None)
    ours = {str(conflict.mutation), *(str(each.pk) for each in earlier)}
    if met is None or met.rev == conflict.server_rev or met.mutation in ours:
        return
    name = f"{decision} of {key} in bulk; {ledger.told(key)}"
    if first.op != "update":
        assert first.op == "insert" and conflict.server is None, name
        return
    written = [change for row, change in ledger.written[str(conflict.mutation)] if row == key]
    states = [ledger.states[key][change.rev] for change in written]
    known = [conflict.server, conflict.device_values.get("set"), *states, *(each.after for each in earlier)]
    for field, value in first.old.items():
        seen = any(row and field in row and equal(field, row[field], value) for row in known)
        assert seen or field in conflict.device_values.get("add", {}), f"{name}: replaced {field}={value!r}"


def _check_change(
    name: str, change: Change, before: Row | None, after: Row | None, states: Mapping[int, Row | None]
) -> None:
    """A change from just this to just that: it replaced nothing else."""
    ops = {(True, False): "insert", (False, True): "delete", (False, False): "update"}
    assert change.op == ops[before is None, after is None], f"{name}: {change}"
    was, came = states[change.rev - 1], states[change.rev]
    for what, values, state in (("replaced", before, was), ("wrote", after, came)):
        assert (state is None) == (values is None), f"{name} {what} {state}"
        wrong = {f: (v, state[f]) for f, v in (values or {}).items() if state and not equal(f, v, state[f])}
        assert not wrong, f"{name} {what} (recorded, was) {wrong}"
    if change.op == "update":
        assert change.old.keys() <= (before or {}).keys(), f"{name}: {change}"


def check_outcomes(devices: Iterable[Device], administrators: Administrators, url: str) -> None:
    """What devices are told is all that was decided, in order; and the SDK keeps it."""
    told: dict[str, list[tuple[str, str]]] = defaultdict(list)
    # What a device brought back waited for another one's, and was replayed in its name: by nobody's decision.
    of_nobody = {str(each.mutation) for each in Rejection.objects.filter(decided_by__startswith="device:")}
    for outcome in Outcome.objects.exclude(mutation__in=of_nobody).order_by("number"):
        told[str(outcome.device)].append((str(outcome.mutation), outcome.outcome))
    for device, expected in administrators.told.items():
        assert told[device] == expected, f"outcomes of {device}: {told[device]}, should be {expected}"
    assert told.keys() <= administrators.told.keys()
    for each in devices:
        with closing(sqlite3.connect(each.path)) as conn:
            (token,) = conn.execute("SELECT device_token FROM _sync_state").fetchone()
            fates = conn.execute("SELECT mutation, state FROM _sync_fate WHERE NOT answer ORDER BY seq").fetchall()
        expected = administrators.told.get(each.id, [])
        served = [(mutation, state) for mutation, state in _served(url, token) if mutation not in of_nobody]
        assert served == expected, f"{each.name} is told {served}, should be {expected}"
        kept = [fate for fate in fates if fate in expected]
        assert kept == expected, f"{each.name} keeps {kept}, should keep {expected}"


def _served(url: str, token: str) -> Iterable[tuple[str, str]]:
    since: str | None = None
    more = True
    with httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, verify=False
    ) as http:
        while more:
            page = http.get("/sync/outcomes", params={"limit": PAGE_ROWS} | ({"since": since} if since else {}))
            assert page.status_code == 200, page.text
            since, more = page.json()["cursor"], page.json()["has_more"]
            yield from ((told["mutation"], told["outcome"]) for told in page.json()["outcomes"])
