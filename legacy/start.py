"""Runs that a button starts: `sync_legacy` in a process of its own, as cron starts it.

A run may take hours, and a web server's worker may be ended at any moment: so a run is no thread of it, and outlives
it. That two never work on one system is the command's own promise, wherever they were started.
"""

import subprocess
import sys
from datetime import datetime, timedelta
from threading import Thread

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from legacy.models import Counterpart, Plan, Run
from sync.alone import at_work

COMMAND = "sync_legacy"
START_SECONDS_MAX = 60  # after which a run that was asked for and is not there did not begin


def start(system: str, *options: str) -> bool:
    """Begin a run, unless one is at work or was just asked for; whether it was begun."""
    now = timezone.now()
    asked_at = Counterpart.objects.get_or_create(system=system)[0].asked_at
    if at_work(COMMAND, [system]) or is_starting(system, asked_at, now):
        return False
    # Of two clicks at the same moment one wins.
    if not Counterpart.objects.filter(system=system, asked_at=asked_at).update(asked_at=now):
        return False
    spawn("--system", system, "--trigger", "button", *options)
    return True


def is_starting(system: str, asked_at: datetime | None, now: datetime) -> bool:
    """Whether a run was asked for that may still begin."""
    if asked_at is None or asked_at < now - timedelta(seconds=START_SECONDS_MAX):
        return False
    return not Run.objects.filter(system=system, started_at__gte=asked_at).exists()


def start_plan(system: str) -> bool:
    """Begin a dry run whose plan is kept, unless something is at work; whether it was begun."""
    now = timezone.now()
    pending = Q(ended_at=None, asked_at__gt=now - timedelta(seconds=START_SECONDS_MAX))
    if at_work(COMMAND, [system]) or Plan.objects.filter(pending, system=system).exists():
        return False
    Plan.objects.update_or_create(system=system, defaults={"asked_at": now, "ended_at": None, "error": ""})
    spawn("--system", system, "--dry-run", "--keep")
    return True


def spawn(*options: str) -> None:
    """`sync_legacy`, detached from this process; what it says goes to the server's log."""
    process = subprocess.Popen(
        [sys.executable, str(settings.BASE_DIR / "manage.py"), COMMAND, "--json", *options],
        cwd=settings.BASE_DIR,
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__,
        start_new_session=True,
    )
    Thread(target=process.wait, daemon=True).start()  # or it would stay as a zombie when it has ended
