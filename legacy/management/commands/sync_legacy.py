"""Keep this server and a pre-existing system in step: `manage.py sync_legacy --help`."""

import json
import re
import sys
import time
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.table import Table

from legacy.connector import Misconfigured
from legacy.models import Run
from legacy.rollback import TakenBack
from legacy.runs import EXIT_CODES, pause, resume, roll_back_run, run
from legacy.systems import declared, system
from legacy.webhooks.outbox import deliver_due
from sync.alone import Busy

HELP = """Take over what changed in the pre-existing system since the last run, then send it what changed here.

Run it as often as you like: what both sides have is not sent again, and what a killed run had done is not done twice.
Records that fail wait as dead letters (in the admin) and are tried again by later runs; they hold nothing else up.

exit codes: 0 done, or another run was at work, or the system is paused
            1 some records failed                  2 the system could not be reached
            3 wrong configuration                  4 stopped for safety: look, then --force
"""
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    """`90s`, `5m`, `1h`, or seconds."""
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    if not found or int(found[1]) == 0:
        raise ArgumentTypeError(f"{text!r} is no time; say 90s, 5m or 1h")
    return int(found[1]) * UNITS.get(found[2], 1)


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        names = [each.name for each in declared()]
        parser.add_argument("--system", default=names[0], choices=names, help=f"which one (default: {names[0]})")
        parser.add_argument("--mapping", action="append", default=[], help="only this one; may be given several times")
        parser.add_argument(
            "--every", type=seconds, metavar="TIME", help="go on for ever, with a run every 90s, 5m, 1h"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would change, and write nothing anywhere"
        )
        parser.add_argument(
            "--retry", action="store_true", help="try every dead letter now, however recently it failed"
        )
        parser.add_argument("--force", action="store_true", help="do what the safety stop held back")
        parser.add_argument("--rollback", metavar="RUN", help="undo what a run wrote here, where nothing changed since")
        parser.add_argument("--pause", metavar="WHY", help="do nothing with the system until --resume")
        parser.add_argument("--resume", action="store_true", help="work with a paused system again")
        parser.add_argument(
            "--json", action="store_true", help="print one line of JSON; the default without a terminal"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        self.as_json = options["json"] or not sys.stdout.isatty()
        if options["pause"]:
            pause(options["system"], options["pause"])
            return self.stdout.write(f"{options['system']} is paused.")
        if options["resume"]:
            resume(options["system"])
        if options["rollback"]:
            return self._roll_back(options)
        code = self._run(options)
        while options["every"]:
            time.sleep(options["every"])
            code = self._run(options)
        if code:
            sys.exit(code)
        return None

    def _run(self, options: dict[str, Any]) -> int:
        console = Console(stderr=True)
        try:
            with console.status("") as status:
                found = system(options["system"])
                this = run(
                    found,
                    only=_known(found.mappings, options["mapping"]),
                    trigger="every" if options["every"] else "command",
                    pretend=options["dry_run"],
                    retry_all=options["retry"],
                    force=options["force"],
                    tell=lambda what, records: status.update(f"{what}: {records:,}" if records else what),
                    show=self.stdout.write,
                )
        except Busy as error:
            self.stdout.write(json.dumps({"state": "busy", "error": str(error)}) if self.as_json else str(error))
            return 0
        except Misconfigured as error:
            this = Run(system=options["system"], state=Run.State.MISCONFIGURED, error=str(error))
        self._print(this)
        if not options["dry_run"]:
            deliver_due()
        return EXIT_CODES.get(Run.State(this.state), 1)

    def _print(self, this: Run) -> None:
        if self.as_json:
            self.stdout.write(json.dumps(_summary(this)))
        else:
            Console().print(_table(this))
            if this.error:
                self.stderr.write(this.error)

    def _roll_back(self, options: dict[str, Any]) -> None:
        try:
            found = roll_back_run(system(options["system"]), options["rollback"], pretend=options["dry_run"])
        except (Busy, Misconfigured) as error:
            raise CommandError(str(error), returncode=0 if isinstance(error, Busy) else 3) from None
        if self.as_json:
            self.stdout.write(json.dumps({"taken_back": dict(found.counts), "left": found.left}))
        else:
            self.stdout.write("\n".join([found.told, *found.left]))
        _say_what_follows(self, options, found)


def _say_what_follows(command: BaseCommand, options: dict[str, Any], found: TakenBack) -> None:
    if not options["dry_run"] and found.counts:
        command.stderr.write(
            f"{options['system']} is paused, as the next run would read the same again. "
            f"When what was wrong is mended: sync_legacy --system {options['system']} --resume"
        )


def _known(mappings: Any, names: list[str]) -> list[str]:
    there = [mapping.name for mapping in mappings]
    if unknown := sorted(set(names) - set(there)):
        raise Misconfigured(f"There is no mapping {unknown[0]!r}; there is: {', '.join(there)}.")
    return names


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
    order = ["created", "updated", "deleted", "unchanged", "created there", "updated there", "deleted there"]
    happened = {name for counts in this.counts.values() for name in counts}
    columns = [*(name for name in order if name in happened), *sorted(happened - set(order))]
    table = Table("", *columns, title=f"{this.system}: {Run.State(this.state).label}")
    for mapping, counts in this.counts.items():
        table.add_row(mapping, *(f"{counts[name]:,}" if counts.get(name) else "" for name in columns))
    return table
