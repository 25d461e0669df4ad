"""`manage.py sync_verify`: whether the feed is what the tables say. See `--help`."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from sync.install import out_of_date
from sync.verify import PROBLEMS, Verdict, verify
from sync.wire import entities

HELP = """Compare every synced table with the feed that devices read, row by row:

  manage.py sync_verify                   say what differs
  manage.py sync_verify --repair          and mend it: devices get it with their next pull

It runs beside traffic, in chunks, without locks; --repair holds writers up for a moment where something differs. It
also says where the capture triggers are not in force, as somebody may have switched them off.

exit codes: 0 all is well, or was repaired, with the triggers in force   1 something differs
"""
ADVICE = (
    "Run manage.py migrate: until then devices miss changes of it. Then sync_verify --repair mends what was missed."
)


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--entity", action="append", choices=sorted(entities()), help="only this; may be repeated")
        parser.add_argument("--repair", action="store_true", help="mend what differs")
        parser.add_argument("--json", action="store_true", help="print one line of JSON")

    def handle(self, *_: Any, **options: Any) -> None:
        names = options["entity"] or list(entities())
        stale = [name for name in out_of_date() if name in names]
        verdicts = _watched(names, options["repair"])
        if options["json"]:
            told = {"capture_out_of_date": stale, "entities": [asdict(verdict) for verdict in verdicts]}
            self.stdout.write(json.dumps(told))
        else:
            self._print(verdicts, stale, options["repair"])
        if stale or any(verdict.wrong > verdict.repaired for verdict in verdicts):
            sys.exit(1)

    def _print(self, verdicts: list[Verdict], stale: list[str], repair: bool) -> None:
        table = Table(
            "entity",
            *(Column(name, justify="right") for name in ("rows", *PROBLEMS, *(["repaired"] if repair else []))),
        )
        for each in verdicts:
            counts = [each.rows, *each.problems.values(), *([each.repaired] if repair else [])]
            table.add_row(each.entity, *(f"{count:,}" for count in counts))
        Console(file=self.stdout, soft_wrap=not sys.stdout.isatty()).print(table)  # type: ignore[arg-type]
        for each in verdicts:
            for id, problem in each.examples.items():
                self.stdout.write(f"{each.entity} {id}: {problem}")
            if each.wrong > len(each.examples):
                self.stdout.write(f"{each.entity}: {each.wrong - len(each.examples):,} more")
            if each.busy:
                self.stdout.write(f"{each.entity}: {each.busy:,} not repaired, as others were in the way; run it again")
        for name in stale:
            self.stdout.write(f"{name}: the capture triggers are not in force. {ADVICE}")
        if any(each.wrong for each in verdicts) and not repair:
            self.stdout.write("Run sync_verify --repair to mend this; devices get it with their next pull.")
        elif not stale and not any(each.wrong for each in verdicts):
            self.stdout.write("The feed is what the tables say.")


def _watched(names: list[str], repair: bool) -> list[Verdict]:
    if not sys.stderr.isatty():
        return verify(names, repair=repair, progress=lambda *_: None)
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(verdict: Verdict, rows: int) -> None:
            if verdict.entity not in tasks:
                tasks[verdict.entity] = bar.add_task(verdict.entity, total=verdict.rows)
            bar.advance(tasks[verdict.entity], rows)

        return verify(names, repair=repair, progress=show)
