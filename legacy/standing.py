"""How each system is: at work, resting, paused, stopped; when it last ran; what waits. Read, never written."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from django.conf import settings
from django.db import connection
from django.db.models import Count, Min
from django.utils import timezone

from legacy.connector import Misconfigured
from legacy.exchange import id_of
from legacy.models import Counterpart, DeadLetter, Run, Waiting
from legacy.start import COMMAND, is_starting
from legacy.systems import System, declared
from sync.alone import at_work
from sync.models import Conflict
from sync.sql import block

SQL = str(Path(__file__).with_name("standing.sql"))


class State(StrEnum):
    """What one should know of a system first; the first that holds."""

    WORKING = "working"
    STARTING = "starting"
    OFF = "switched off"
    PAUSED = "paused"
    RESTING = "resting"  # it did not answer, and is left alone for a while
    STOPPED = "stopped"
    MISCONFIGURED = "misconfigured"
    UNREACHABLE = "unreachable"
    KILLED = "killed"
    NEVER = "never ran"
    PARTIAL = "partial"
    DONE = "in step"


NEEDS_SOMEBODY = frozenset({State.STOPPED, State.MISCONFIGURED, State.UNREACHABLE, State.RESTING, State.KILLED})
_OF_RUNS = {
    Run.State.STOPPED: State.STOPPED,
    Run.State.MISCONFIGURED: State.MISCONFIGURED,
    Run.State.UNREACHABLE: State.UNREACHABLE,
    Run.State.KILLED: State.KILLED,
    Run.State.RUNNING: State.KILLED,  # it says that it is at work, and is not
    Run.State.PARTIAL: State.PARTIAL,
}


@dataclass
class Standing:
    """One system. `good_at`: its last run that went well; `letters`: dead letters by kind."""

    system: System
    counterpart: Counterpart
    state: State = State.NEVER
    last: Run | None = None
    good_at: datetime | None = None
    waits: int = 0
    letters: dict[str, int] = field(default_factory=dict)
    oldest_letter: datetime | None = None
    conflicts: int = 0

    @property
    def name(self) -> str:
        return self.system.name

    @property
    def letters_waiting(self) -> int:
        """Those that somebody has to look at, or that are tried again; not those that were left alone."""
        return sum(count for kind, count in self.letters.items() if kind not in _SETTLED)

    @property
    def needs_somebody(self) -> bool:
        return self.state in NEEDS_SOMEBODY or self.letters_waiting > 0 or self.conflicts > 0

    @property
    def is_busy(self) -> bool:
        return self.state in (State.WORKING, State.STARTING)


_SETTLED = frozenset({DeadLetter.Kind.IGNORED.value})


def standings(names: Sequence[str] | None = None, now: datetime | None = None) -> list[Standing]:
    """Every declared system in its order, or those of these names, in seven queries. Raises Misconfigured."""
    now = now or timezone.now()
    systems = [each for each in declared() if names is None or each.name in names]
    chosen = [each.name for each in systems]
    counterparts = Counterpart.objects.in_bulk(chosen)
    found = {
        each.name: Standing(each, counterparts.get(each.name) or Counterpart(system=each.name)) for each in systems
    }
    _last_runs(found)
    _what_waits(found)
    working = at_work(COMMAND, chosen)
    for name, each in found.items():
        each.state = State.WORKING if name in working else _state(each, now)
    return list(found.values())


def _last_runs(found: dict[str, Standing]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(block(SQL, "last_runs"), {"systems": list(found)})
        rows = cursor.fetchall()
    runs = {str(run.pk): run for run in Run.objects.filter(pk__in=[id for _, id, _ in rows if id])}
    for name, id, good_at in rows:
        found[name].last, found[name].good_at = runs.get(id), good_at


def _what_waits(found: dict[str, Standing]) -> None:
    names = list(found)
    for system, count in Waiting.objects.filter(system__in=names).values_list("system").annotate(Count("pk")):
        found[system].waits = count
    letters = DeadLetter.objects.filter(system__in=names).values_list("system", "kind")
    by_system: dict[str, dict[str, int]] = defaultdict(dict)
    for system, kind, count, oldest in letters.annotate(count=Count("pk"), oldest=Min("first_at")):
        by_system[system][kind] = count
        if kind not in _SETTLED:
            found[system].oldest_letter = min(filter(None, (found[system].oldest_letter, oldest)))
    ids = {id_of(name): name for name in names}
    for name in names:
        found[name].letters = by_system.get(name, {})
    held = Conflict.objects.filter(state=Conflict.State.OPEN, device__in=list(ids)).values_list("device")
    for device, count in held.annotate(Count("pk")):
        found[ids[device]].conflicts = count


def _state(each: Standing, now: datetime) -> State:
    counterpart = each.counterpart
    if is_starting(each.name, counterpart.asked_at, now):
        return State.STARTING
    if not each.system.enabled:
        return State.OFF
    if counterpart.paused_at:
        return State.PAUSED
    if counterpart.rests_until and counterpart.rests_until > now:
        return State.RESTING
    if each.last is None:
        return State.NEVER
    return _OF_RUNS.get(Run.State(each.last.state), State.DONE)


def unreachable_for_long(each: Standing) -> bool:
    """Whether so many runs in a row did not reach it that it is left alone in between."""
    return each.counterpart.failures >= settings.LEGACY_FAILURES_MAX


def problem() -> str:
    """Why there are no systems to be told of, where what LEGACY_SYSTEMS names cannot be read."""
    try:
        declared()
    except Misconfigured as error:
        return str(error)
    return ""
