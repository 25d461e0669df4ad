"""Apply webhooks that came in, and send those that go out: `manage.py legacy_webhooks --help`."""

import json
import time
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from legacy.management.commands.sync_legacy import seconds
from legacy.webhooks.inbox import process_due
from legacy.webhooks.outbox import deliver_due


class Command(BaseCommand):
    help = (
        "Apply what webhooks told, then tell subscribers what is new. Several may run at once; sync_legacy does it too."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--every", type=seconds, metavar="TIME", help="go on for ever, each 5s, 1m, …")

    def handle(self, *_: Any, **options: Any) -> None:
        self._once(quiet=bool(options["every"]))
        while options["every"]:
            time.sleep(options["every"])
            self._once(quiet=True)

    def _once(self, quiet: bool) -> None:
        """One line of JSON; `quiet`: only where there was something to do."""
        systems = process_due()
        told = {id: asdict(each) for id, each in deliver_due().items() if each.pages or each.error or not quiet}
        if systems or told or not quiet:
            self.stdout.write(json.dumps({"systems": systems, "subscriptions": told}))
