"""One run in a process of its own: told step by step through a pipe, and over when whoever listens is gone."""

import os
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from django.db import connections
from django.utils import timezone

from legacy.connector import Misconfigured
from legacy.exchange import Change
from legacy.models import Run
from legacy.runs import run
from legacy.systems import System, system
from sync.alone import Busy


@dataclass(frozen=True)
class Message:
    """What a run's process tells. `broke`: a fault of ours, with where it was."""

    kind: Literal["tell", "show", "done", "busy", "broke"]
    text: str = ""
    records: int = 0
    run: Run | None = None
    change: Change | None = None  # that a dry run would make


def main(pipe: Connection, name: str, options: dict[str, Any]) -> None:
    """Execute one run and tell of it. Raises nothing."""
    threading.Thread(target=_die_with, args=(pipe,), daemon=True).start()
    found: System | None = None
    try:
        found = system(name)
        this = run(
            found,
            tell=lambda what, records: pipe.send(Message("tell", what, records)),
            show=lambda change: pipe.send(Message("show", change=change)),
            **options,
        )
        pipe.send(Message("done", run=this))
    except Busy as error:
        pipe.send(Message("busy", str(error)))
    except Misconfigured as error:
        pipe.send(Message("done", run=_wrong(name, str(error), options)))
    except Exception:
        told = traceback.format_exc()
        pipe.send(Message("broke", found.hide(told) if found else told))
    finally:
        connections.close_all()


def _wrong(name: str, why: str, options: dict[str, Any]) -> Run:
    """A run that could not begin, kept so that the admin shows why."""
    now = timezone.now()
    this = Run(system=name, state=Run.State.MISCONFIGURED, error=why, started_at=now, ended_at=now)
    this.trigger = options.get("trigger", this.trigger)
    this.save()
    return this


def _die_with(pipe: Connection) -> None:
    """Nobody would cut this run off any more: it ends, and the next one goes on where its last page was committed."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
