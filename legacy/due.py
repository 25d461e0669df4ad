"""What is to run now: by each system's schedule and its last run, both of which are in the database or declared."""

import datetime as dt
from collections.abc import Collection, Sequence

from django.db.models import Q

from legacy.exchange import SQL
from legacy.models import Counterpart, Run
from legacy.schedule import is_due, problem
from legacy.systems import System
from sync.sql import block

BEGINNING = dt.datetime.min.replace(tzinfo=dt.UTC)


def latest(systems: Collection[str]) -> dict[str, Run]:
    """The last run of each of these systems that has had one."""
    found = Run.objects.raw(block(SQL, "latest_runs"), {"systems": list(systems)}) if systems else ()
    return {run.system: run for run in found}


def due(systems: Sequence[System], now: dt.datetime) -> list[System]:
    """Those that are to run now, the one first that last ran longest ago, so that none is always the last.

    One that is switched off, paused, or left alone as it did not answer, is not due.
    """
    names = [each.name for each in systems]
    resting = Q(paused_at__isnull=False) | Q(rests_until__gt=now)
    left = set(Counterpart.objects.filter(resting, system__in=names).values_list("system", flat=True))
    last = {name: run.started_at for name, run in latest(names).items()}

    def wanted(each: System) -> bool:
        # One whose schedule cannot be read is due, as its run says so; it must not keep the others waiting.
        return bool(problem(each.schedule, each.zone)) or is_due(each.schedule, each.zone, last.get(each.name), now)

    found = [each for each in systems if each.enabled and each.name not in left and wanted(each)]
    return sorted(found, key=lambda each: last.get(each.name, BEGINNING))
