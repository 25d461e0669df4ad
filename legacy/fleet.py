"""Many runs beside each other, each in a process of its own: what hangs is cut off, and delays no other."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from django.conf import settings
from django.utils import timezone

from legacy.exchange import Change, quiet
from legacy.fleet_process import Message, main
from legacy.models import Run
from legacy.runs import end
from legacy.systems import System

LOOK_SECONDS = 0.5  # between two looks at the clock
# Every process is forked from one that has loaded the program and done nothing else: no threads, no connections.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["legacy.fleet_start"])

Tell = Callable[[str, str, int], None]
Show = Callable[[str, Change], None]


class Abandoned(Exception):
    """Whoever waited for the runs does not any more: they were ended, and the next ones go on."""


@dataclass(frozen=True)
class _Working:
    system: System
    process: ForkServerProcess
    pipe: Connection
    until: float  # of time.monotonic

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def runs(
    systems: Sequence[System],
    *,
    parallel: int,
    tell: Tell = quiet,
    show: Show = quiet,
    is_over: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Iterator[Run]:
    """Each run as it ends, in no order; `options` are those of `legacy.runs.run`. Raises Abandoned once `is_over`.

    A system at work elsewhere has no run, and yields none. One that takes longer than its time-out is cut off and
    counts as not reached. What began goes down with the caller, whatever ends it.
    """
    waiting, working = deque(systems), dict[Connection, _Working]()
    try:
        while waiting or working:
            while waiting and len(working) < parallel:
                started = _start(waiting.popleft(), options)
                working[started.pipe] = started
            for pipe in wait(list(working), LOOK_SECONDS):
                each = working[pipe]  # type: ignore[index]
                message = _receive(each)
                if message.kind == "tell":
                    tell(each.system.name, message.text, message.records)
                elif message.change:
                    show(each.system.name, message.change)
                else:
                    del working[each.pipe]
                    each.stop()
                    yield from _result(each.system, message)
            for each in [each for each in working.values() if each.until <= time.monotonic()]:
                del working[each.pipe]
                each.stop()
                yield from _cut_off(each.system)
            if is_over():
                raise Abandoned
    finally:
        for each in working.values():
            each.stop()
            end(each.system.name, Run.State.KILLED, "It was stopped with the program that had started it.")


def seconds_of(system: System) -> int:
    """After how many seconds a run beside others is cut off."""
    return system.timeout_seconds or settings.LEGACY_TIMEOUT_SECONDS


def _start(system: System, options: dict[str, Any]) -> _Working:
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=main, args=(theirs, system.name, options), daemon=True)
    process.start()
    theirs.close()
    return _Working(system, process, ours, time.monotonic() + seconds_of(system))


def _receive(each: _Working) -> Message:
    try:
        message: Message = each.pipe.recv()
    except (EOFError, OSError):
        return Message("broke", "Its process ended without a word.")
    return message


def _result(system: System, message: Message) -> Iterator[Run]:
    if message.kind == "broke":
        state, now = Run.State.KILLED, timezone.now()
        failed = Run(system=system.name, state=state, error=message.text, started_at=now, ended_at=now)
        yield end(system.name, state, message.text) or failed
    elif message.run is not None:
        yield message.run


def _cut_off(system: System) -> Iterator[Run]:
    why = f"It took longer than {seconds_of(system)} seconds and was cut off. What it had committed stays."
    state, now = Run.State.UNREACHABLE, timezone.now()
    yield end(system.name, state, why) or Run(system=system.name, state=state, error=why, started_at=now, ended_at=now)
