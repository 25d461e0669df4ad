"""Keep this server and a pre-existing system in step: `manage.py sync_legacy --help`."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console
from rich.table import Table

from legacy.connector import Misconfigured
from legacy.models import Run
from legacy.runs import EXIT_CODES, run
from legacy.systems import SYSTEMS, system
from sync.alone import Busy

HELP = """Take over what changed in the pre-existing system since the last run, then send it what changed here.

Run it as often as you like: what both sides have is not sent again, and what a killed run had done is not done twice.
Records that fail wait as dead letters (in the admin) and are tried again by later runs; they hold nothing else up.

exit codes: 0 done, or another run was at work   1 some records failed
            2 the system could not be reached    3 wrong configuration
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        names = [each.name for each in SYSTEMS]
        parser.add_argument("--system", default=names[0], choices=names, help=f"which one (default: {names[0]})")
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would change, and write nothing anywhere"
        )
        parser.add_argument(
            "--retry", action="store_true", help="try every dead letter now, however recently it failed"
        )
        parser.add_argument(
            "--json", action="store_true", help="print one line of JSON; the default without a terminal"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        console = Console(stderr=True)
        as_json = options["json"] or not sys.stdout.isatty()
        try:
            with console.status("") as status:
                this = run(
                    system(options["system"]),
                    pretend=options["dry_run"],
                    retry_all=options["retry"],
                    tell=lambda what, records: status.update(f"{what}: {records:,}" if records else what),
                    show=self.stdout.write,
                )
        except Busy as error:
            self.stdout.write(json.dumps({"state": "busy", "error": str(error)}) if as_json else str(error))
            return
        except Misconfigured as error:
            this = Run(system=options["system"], state=Run.State.MISCONFIGURED, error=str(error))
        if as_json:
            self.stdout.write(json.dumps(_summary(this)))
        else:
            Console().print(_table(this))
            if this.error:
                self.stderr.write(this.error)
        if code := EXIT_CODES[Run.State(this.state)]:
            sys.exit(code)


def _summary(this: Run) -> dict[str, Any]:
    seconds = round((this.ended_at - this.started_at).total_seconds(), 3) if this.ended_at and this.started_at else None
    return {
        "run": str(this.id),
        "system": this.system,
        "state": this.state,
        "seconds": seconds,
        "counts": this.counts,
        "error": this.error,
    }


def _table(this: Run) -> Table:
    columns = ["created", "updated", "unchanged", "created there", "updated there", "failed"]
    table = Table("", *columns, title=f"{this.system}: {Run.State(this.state).label}")
    for mapping, counts in this.counts.items():
        table.add_row(mapping, *(f"{counts[name]:,}" if counts.get(name) else "" for name in columns))
    return table
