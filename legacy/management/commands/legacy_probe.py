"""Hold a system against what its connector declares of it: `manage.py legacy_probe --help`."""

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from legacy.connector import Misconfigured, Unreachable
from legacy.probe import Finding, probe
from legacy.systems import first_name, system

WIDTH_WITHOUT_TERMINAL = 140  # characters
VERDICTS = {True: "[green]right[/green]", False: "[red]WRONG[/red]", None: ""}
HELP = """Measure what a system can do, and print where its connector's declaration is wrong.

It reads a few pages of each mapping's records. With --write it also makes one record of the named mapping over there,
changes it and deletes it again: do that on a test system.

exit codes: 0 nothing is wrong   1 a declaration is wrong   2 the system could not be reached   3 wrong configuration
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("system", nargs="?", default=first_name(), help="which one (default: %(default)s)")
        parser.add_argument("--write", metavar="MAPPING", help="make, change and delete one record of this mapping")

    def handle(self, *_: Any, **options: Any) -> None:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
        wrong = 0
        hide: Callable[[str], str] = str
        try:
            found = system(options["system"])
            hide = found.hide
            connector = found.connected()
            try:
                console.print(f"{found.name}: signed in as {escape(connector.open())}")
                for mapping in found.mappings:
                    findings = list(probe(connector, mapping, write=options["write"] == mapping.name))
                    console.print(_table(mapping.name, findings))
                    wrong += sum(finding.right is False for finding in findings)
            finally:
                connector.close()
        except Misconfigured as error:
            raise CommandError(hide(str(error)), returncode=3) from None
        except Unreachable as error:
            raise CommandError(hide(str(error)), returncode=2) from None
        if wrong:
            sys.exit(1)


def _table(name: str, findings: list[Finding]) -> Table:
    table = Table("", "declared", "measured", "", title=name)
    for each in findings:
        table.add_row(each.what, escape(each.declared), escape(each.measured), VERDICTS[each.right])
    return table
