"""Asking a worker for a run: by its own clock, and by an administrator's button."""

from contextlib import suppress
from typing import Any

from django.db import transaction
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.exceptions import AlreadyEnqueued

RUN = "legacy.sync"  # the job's name


def asked() -> set[str]:
    """The systems of which a run is asked for, or at work."""
    jobs = ProcrastinateJob.objects.filter(task_name=RUN, status__in=["todo", "doing"])
    return set(jobs.values_list("args__system", flat=True))


def ask(system: str, trigger: str) -> None:
    """Ask for a run; one that is asked for already and has not begun is the same."""
    with suppress(AlreadyEnqueued), transaction.atomic():  # or the caller's transaction would be lost with it
        app.configure_task(RUN, **_once(system)).defer(system=system, trigger=trigger)


async def ask_async(system: str, trigger: str) -> None:
    """The same, for jobs."""
    with suppress(AlreadyEnqueued):
        await app.configure_task(RUN, **_once(system)).defer_async(system=system, trigger=trigger)


def _once(system: str) -> dict[str, Any]:
    """One in the queue, and none begun while another is at work."""
    return {"queueing_lock": f"{RUN} {system}", "lock": f"{RUN} {system}"}
