"""`manage.py sync_prune`: forget what is older than the settings say. For cron, once a day."""

import json
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from sync.prune import prune

HELP = """Forget what is old enough, and make room for the months to come. Run it once a day from cron:

  17 3 * * *   cd /srv/syncserver && .venv/bin/python manage.py sync_prune

It forgets tombstones after SYNC_TOMBSTONE_AGE_DAYS_MAX (devices that were away longer load afresh, and lose nothing),
answers to mutations after SYNC_RESULT_AGE_DAYS_MAX, and months of history after SYNC_HISTORY_AGE_DAYS_MAX.
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one line of JSON")

    def handle(self, *_: Any, **options: Any) -> None:
        counts = prune()
        if options["json"]:
            self.stdout.write(json.dumps(counts))
        else:
            self.stdout.write("Forgotten: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()) + ".")
