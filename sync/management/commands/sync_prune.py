"""`manage.py sync_prune`: forget what is older than the settings say. For cron, once a day."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console

from sync.prune import Plan, plan, prune

HELP = """Forget what is old enough, and make room for the months to come. Run it once a day from cron:

  17 3 * * *   cd /srv/syncserver && .venv/bin/python manage.py sync_prune

It forgets tombstones after SYNC_TOMBSTONE_AGE_DAYS_MAX (devices that were away longer load afresh, and lose nothing),
answers to mutations after SYNC_RESULT_AGE_DAYS_MAX, and months of history after SYNC_HISTORY_AGE_DAYS_MAX, in short
transactions, so that it may run at any time. Killed, it goes on with the next run.
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would go; forget nothing")
        parser.add_argument("--json", action="store_true", help="print one line of JSON")

    def handle(self, *_: Any, **options: Any) -> None:
        if options["dry_run"]:
            found = plan()
            self.stdout.write(json.dumps(found._asdict()) if options["json"] else _sentences(found))
            return
        counts = self._prune()
        if options["json"]:
            self.stdout.write(json.dumps(counts))
        else:
            self.stdout.write("Forgotten: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()) + ".")

    def _prune(self) -> dict[str, int]:
        if not sys.stderr.isatty():
            return prune()
        with Console(stderr=True).status("sync_prune") as shown:
            return prune(lambda kind, count: shown.update(f"{count:,} {kind} forgotten"))


def _sentences(found: Plan) -> str:
    by_entity = ", ".join(f"{count:,} {entity}" for entity, count in found.tombstones.items())
    told = [
        f"{count:,} {kind}" + (f" ({by_entity})" if kind == "tombstones" else "")
        for kind, count in found.counts.items()
    ]
    told.append(f"{len(found.months):,} months of history" + (f" ({', '.join(found.months)})" if found.months else ""))
    return f"Would be forgotten: {', '.join(told)}.\n{found.tokens:,} devices were away so long that they load afresh."
