"""What the worker is asked for, and what is forgotten; the worker itself is in tests/acceptance/test_worker.py."""

import datetime as dt
import subprocess

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.utils import timezone
from procrastinate.contrib.django import app

from legacy import ask, button, worker
from legacy.models import Run
from legacy.prune import prune
from tests.integration.branch_support import a_branch, declared_stores

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures(declared_stores.__name__)]


def jobs() -> list[str]:
    """The systems that runs are asked for."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT args ->> 'system' FROM procrastinate_jobs WHERE task_name = %s ORDER BY id", [ask.RUN])
        return [system for (system,) in cursor.fetchall()]


def alive(seconds_ago: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => %s))",
            [seconds_ago],
        )


def test_what_has_a_schedule_and_is_due_is_asked_for() -> None:
    a_branch("berlin")
    a_branch("bonn", enabled=False)
    a_branch("rome")
    Run.objects.create(system="store-rome", state="done", started_at=timezone.now())
    assert [each.name for each in worker.planned()] == ["store-berlin"]  # the head office has no schedule: it is cron's


def test_run_that_is_asked_for_twice_is_one_job() -> None:
    ask.ask("store-berlin", "button")
    ask.ask("store-berlin", "schedule")
    ask.ask("store-bonn", "schedule")
    assert jobs() == ["store-berlin", "store-bonn"]


def test_minute_that_passes_before_a_run_has_begun_asks_for_no_second_one() -> None:
    a_branch("berlin")
    ask.ask("store-berlin", "schedule")
    assert worker.planned() == []


@pytest.mark.django_db(transaction=True)
def test_job_of_a_dead_worker_makes_way_where_somebody_asked_again() -> None:
    with connection.cursor() as cursor:
        try:
            for system in ("store-berlin", "store-bonn"):
                ask.ask(system, "schedule")
            cursor.execute("UPDATE procrastinate_jobs SET status = 'doing'")  # by a worker that is not there any more
            ask.ask("store-berlin", "button")
            async_to_sync(worker.take_up)()
            cursor.execute("SELECT args ->> 'trigger', status::text, attempts FROM procrastinate_jobs ORDER BY id")
            assert cursor.fetchall() == [("schedule", "todo", 1), ("button", "todo", 0)]
        finally:
            cursor.execute("DELETE FROM procrastinate_jobs")


@pytest.mark.parametrize(("heartbeat", "asked"), [(5, ["store-berlin"]), (300, []), (None, [])])
def test_button_asks_a_worker_that_is_alive_and_starts_a_command_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, heartbeat: int | None, asked: list[str]
) -> None:
    started: list[list[str]] = []

    class Started:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Started)
    if heartbeat is not None:
        alive(heartbeat)
    button.sync_now(["store-berlin"])
    assert jobs() == asked
    assert [command[-2:] for command in started] == ([] if asked else [["--system", "store-berlin"]])


def test_runs_are_forgotten_after_their_days_but_for_the_last_of_each_system() -> None:
    now = timezone.now()
    for system, days in [("a", 100), ("a", 40), ("a", 29), ("b", 100), ("b", 60)]:
        at = now - dt.timedelta(days=days)
        Run.objects.create(system=system, state="done", started_at=at, ended_at=at)
    assert prune() == {"runs": 3}
    assert [(run.system, (now - run.started_at).days) for run in Run.objects.order_by("system")] == [
        ("a", 29),
        ("b", 60),
    ]


def test_worker_does_what_the_crontab_does() -> None:
    app.configure_task(ask.RUN)  # loads the jobs
    planned = {task.task.name: task.cron for task in app.periodic_registry.periodic_tasks.values()}
    assert planned == {
        "legacy.tick": "* * * * *",
        "legacy.webhooks": "* * * * * */10",
        "legacy.alerts": "*/5 * * * *",
        "legacy.starts": "* * * * *",
        "legacy.pushes": "* * * * *",
        "legacy.forget": "17 3 * * *",
        "legacy.forget_jobs": "29 3 * * *",
    }


@pytest.mark.parametrize("do", [worker.webhooks, worker.starts, worker.pushes, worker.alerts, worker.forget])
@pytest.mark.django_db(transaction=True)
def test_what_is_done_every_so_often_does_no_harm_where_there_is_nothing_to_do(do: worker.Do) -> None:
    do()
