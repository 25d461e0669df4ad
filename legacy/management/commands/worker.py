"""Carry out what is due, as long as it runs: `manage.py worker --help`."""

import asyncio
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from procrastinate.contrib.django import app

from legacy.worker import take_up

HELP = """Run the systems and branches that have a schedule when they are due, apply what webhooks told and send ours
(legacy_webhooks) every ten seconds, tell people (sync_alerts) every five minutes, forget what is old (sync_prune,
legacy_prune) every night, do what administrators ask for with "Sync now", and apply the pushes that devices do not wait
for (Prefer: respond-async).

Any number of workers may run, on any number of machines. A run of one that is killed is taken up by the next. Without
any, cron does the same with sync_legacy, sync_alerts and the others.

SIGTERM ends it: no job is begun any more; what is at work may go on for WORKER_STOP_SECONDS, and what has not ended by
then is stopped and goes back to the queue.
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--parallel",
            type=int,
            default=settings.LEGACY_PARALLEL,
            metavar="N",
            help="jobs at once (default: %(default)s)",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        with app.replace_connector(app.connector.get_worker_connector()):  # type: ignore[attr-defined]
            asyncio.run(_work(options["parallel"]))


async def _work(parallel: int) -> None:
    async with app.open_async():
        await take_up()
        await app.run_worker_async(
            concurrency=parallel,
            delete_jobs="successful",
            shutdown_graceful_timeout=settings.WORKER_STOP_SECONDS,
            update_heartbeat_interval=settings.WORKER_DEAD_SECONDS / 3,
            stalled_worker_timeout=settings.WORKER_DEAD_SECONDS,
        )
