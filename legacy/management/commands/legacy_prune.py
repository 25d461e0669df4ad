"""`manage.py legacy_prune`: forget the logs of old runs. For cron, once a day."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from legacy.prune import prune

HELP = """Forget runs of sync_legacy that ended longer ago than LEGACY_RUN_AGE_DAYS_MAX. Run it once a day from cron:

  29 3 * * *   cd /srv/syncserver && .venv/bin/python manage.py legacy_prune

The last run of each system stays, as schedules count from it. What runs wrote is in the history: see sync_prune.
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def handle(self, *_: Any, **options: Any) -> None:  # noqa: ARG002
        self.stdout.write(f"Forgotten: {prune()['runs']:,} runs.")
