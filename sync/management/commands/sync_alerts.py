"""Tell people what needs their attention: `manage.py sync_alerts --help`. For cron, every few minutes."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from sync.alerts.run import Report, Told, run
from sync.alone import Busy

HELP = """Tell people, by e-mail and webhooks, what needs their attention, so that nobody has to look to find out:

  */5 * * * *   cd /srv/syncserver && .venv/bin/python manage.py sync_alerts >> /var/log/sync_alerts.log

It raises an alert for conflicts and quarantine that wait for too long (SYNC_CONFLICT_AGE_HOURS_MAX,
SYNC_QUARANTINE_AGE_HOURS_MAX; one for each entity), for devices that are stuck or silent
(SYNC_DEVICE_PENDING_HOURS_MAX, SYNC_DEVICE_SILENT_HOURS_MAX), and for a channel that does not get through, and clears
it when that is over.

E-mail (SYNC_ALERT_MAIL_TO) is a digest: at once when something is new or when all is over, otherwise once a day while
something stands. Webhooks (SYNC_ALERT_WEBHOOK_URLS, SYNC_ALERT_WEBHOOK_SECRETS) get alert.raised, alert.cleared and
conflict.opened, signed as Standard Webhooks has it. What is not accepted is sent again by later runs, with growing
pauses, for about three days. A webhook that answers 410 is told no more.

exit codes: 0 done, or another run was at work   1 a channel did not get through; later runs try again
            3 a channel's settings are wrong; the other channels were told
"""
EXIT_CODES = {"done": 0, "partial": 1, "misconfigured": 3}


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would be told; write and send nothing")
        parser.add_argument("--enable", action="store_true", help="tell webhooks again that had answered 410")
        parser.add_argument(
            "--json", action="store_true", help="print one line of JSON; the default without a terminal"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        as_json = options["json"] or not sys.stdout.isatty()
        try:
            report = run(pretend=options["dry_run"], enable=options["enable"])
        except Busy as error:
            self.stdout.write(json.dumps({"state": "busy", "error": str(error)}) if as_json else str(error))
            return
        if as_json:
            self.stdout.write(json.dumps({"state": report.state, "dry_run": options["dry_run"], **asdict(report)}))
        else:
            self._print(report, options["dry_run"])
        if code := EXIT_CODES[report.state]:
            sys.exit(code)

    def _print(self, report: Report, pretend: bool) -> None:
        would = "Would be: " if pretend else ""
        self.stdout.write(f"{would}{report.raised} raised, {report.cleared} cleared, {report.standing} standing.")
        for name, told in report.channels.items():
            self.stdout.write(f"{name}: {_how(told)}")
        if not report.channels:
            self.stdout.write("Nobody is told: set SYNC_ALERT_MAIL_TO or SYNC_ALERT_WEBHOOK_URLS.")


def _how(told: Told) -> str:
    if told.problem:
        return told.problem
    if told.disabled:
        return "it answered 410, so it is told no more; --enable tries again."
    failed = f", failed: {told.error}" if told.error else ""
    return f"{told.sent} sent, {told.waiting} waiting{failed}."
