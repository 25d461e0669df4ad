"""Take branches over from a CSV file: `manage.py legacy_branches store stores.csv`."""

from argparse import FileType, RawDescriptionHelpFormatter
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from legacy.branches.entry import take
from legacy.connector import Misconfigured

HELP = """Make or change the branches of a kind, as a CSV file has them. Its first line names the columns:

  name,title,url,enabled,schedule,zone,timeout_seconds,notes
  berlin,Berlin Mitte,postgresql://sync:secret@berlin.example.org/pos,yes,*/15 6-22 * * *,Europe/Berlin,120,

name and url are needed; every other column becomes a parameter of the branch. A branch that is known by its name is
changed in what the file has columns for. Where a line is wrong, nothing of the file is taken.
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("kind")
        parser.add_argument("file", type=FileType(encoding="utf-8-sig"), help="- reads what is piped in")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            made, changed = take(options["kind"], options["file"])
        except ValidationError as error:
            raise CommandError("\n".join(error.messages)) from None
        except Misconfigured as error:
            raise CommandError(str(error), returncode=3) from None
        self.stdout.write(f"{made} made, {changed} changed.")
