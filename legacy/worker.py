"""The worker's jobs: runs when they are due, and what cron would do every so often. See `manage.py worker`.

Nothing is lost with a job: what is due is told by declared schedules and our own tables, and cron can do all of it too.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils import timezone
from procrastinate import JobContext, RetryStrategy
from procrastinate.contrib.django import app
from procrastinate.exceptions import AlreadyEnqueued, UniqueViolation
from procrastinate.jobs import Status

from legacy.ask import RUN, ask_async, asked
from legacy.due import due
from legacy.fleet import Abandoned, runs
from legacy.prune import prune as prune_runs
from legacy.report import summary
from legacy.systems import System, declared
from legacy.webhooks.inbox import process_due
from legacy.webhooks.outbox import deliver_due
from sync import operations
from sync.alerts.run import run as tell_people
from sync.alone import Busy
from sync.epoch import standing_of
from sync.prune import prune
from syncserver.errors import Problem

log = logging.getLogger(__name__)
FAILED_HOURS = 30 * 24  # that a job that failed is kept to be looked at; others go when they are done
SOON = 10  # a priority above that of runs, which is 0: what takes a moment does not queue behind what takes minutes


Do = Callable[[], None]


def every(cron: str) -> Callable[[Do], Do]:
    """Do it at these times, in UTC, one at a time, by whichever worker is free. What was missed is done once."""

    def declare(do: Do) -> Do:
        def job(timestamp: int) -> None:  # noqa: ARG001 - the moment it was planned for
            do()

        name = f"legacy.{do.__name__}"
        app.periodic(cron=cron)(app.task(name=name, queueing_lock=name, lock=name, priority=SOON)(job))
        return do

    return declare


# --- What is done every so often --------------------------------------------------------------------------------------


@every("* * * * * */10")  # the last of six says the seconds
def webhooks() -> None:
    process_due()
    deliver_due()


@every("*/5 * * * *")
def alerts() -> None:
    try:
        tell_people()
    except Busy:
        log.info("cron tells people at this moment")


@every("17 3 * * *")
def forget() -> None:
    log.info("forgotten", extra={"counts": prune() | prune_runs()})


@app.periodic(cron="29 3 * * *")
@app.task(name="legacy.forget_jobs", queueing_lock="legacy.forget_jobs", priority=SOON)
async def forget_jobs(timestamp: int) -> None:  # noqa: ARG001
    await app.job_manager.delete_old_jobs(
        FAILED_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
    )


@every("* * * * *")
def starts() -> None:
    """A start of the database server is noted before the next checkpoint hides it, also while no device calls."""
    with suppress(Problem):  # another process begins a new epoch
        standing_of(None)


# --- Pushes that devices do not wait for ------------------------------------------------------------------------------


@app.task(name=operations.JOB, priority=SOON, retry=RetryStrategy(max_attempts=operations.TRIES_MAX, wait=1))
def push(device: str) -> None:
    operations.work_off(UUID(device))


@every("* * * * *")
def pushes() -> None:
    operations.ask_for_all()


# --- Runs -------------------------------------------------------------------------------------------------------------


@app.periodic(cron="* * * * *")
@app.task(name="legacy.tick", queueing_lock="legacy.tick", priority=SOON)
async def tick(timestamp: int) -> None:  # noqa: ARG001
    """Ask for what has become due, and for what dead workers have left."""
    await take_up()
    for each in await sync_to_async(planned)():
        await ask_async(each.name, "schedule")


def planned() -> list[System]:
    """What is due of all that has a schedule: without one a system is cron's, or somebody's with a button.

    What is at work is asked for when that has ended: its moment is not forgotten, as it is compared with its last run.
    """
    already = asked()
    return due([each for each in declared() if each.schedule and each.name not in already], timezone.now())


async def take_up() -> None:
    """Give the jobs of workers that are dead back to the queue; they go on where their last page was committed."""
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=settings.WORKER_DEAD_SECONDS):
        try:
            await app.job_manager.retry_job(job)
        except (AlreadyEnqueued, UniqueViolation):  # somebody pressed the button meanwhile: that one goes on
            await app.job_manager.finish_job(job, Status.ABORTED, delete_job=True)
        log.warning("the worker of a job is dead: taken up again", extra={"job": job.lock or job.task_name})


@app.task(name=RUN, pass_context=True, retry=RetryStrategy(retry_exceptions=[Abandoned]))
def sync(context: JobContext, system: str, trigger: str) -> None:
    """One run, in a process of its own. Raises Abandoned when the worker stops before it has ended: it is done anew."""
    found = next((each for each in declared() if each.name == system), None)
    if found is None:
        log.warning("there is no such system any more", extra={"system": system})
        return
    began_before = context.job.attempts > 0
    if trigger == "schedule" and not began_before and not due([found], timezone.now()):
        return  # somebody else did it while this waited
    for this in runs([found], parallel=1, is_over=context.should_abort, trigger=trigger):
        log.info("sync_legacy", extra=summary(this))
