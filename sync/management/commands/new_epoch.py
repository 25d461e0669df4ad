"""Tell every device that the database was restored: `manage.py new_epoch --help`."""

import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from rich.console import Console
from rich.progress import Progress

from sync.epoch import SQL, begin_epoch
from sync.sql import block
from syncserver.errors import Problem

HELP = """Begin a new epoch: tell every device that this database was restored or replaced.

The server notices that by itself: another cluster, timeline, database or table, and a token from the future that a
restore has lost. What it cannot notice is a machine that was set back with its memory, without a start of PostgreSQL,
and rows that were loaded into the old tables (pg_restore --data-only). Then run this, before devices call again.

Every device then pushes what it has not pushed, offers what the database does not know any more, and loads afresh;
nobody loses an edit. Positions that mean nothing here are stamped anew; meanwhile pulls are answered with 503.

exit codes: 0 done   1 not confirmed, and nothing was done   3 others write to the database; try again
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *_: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(block(SQL, "plan"))
            seen, restored, devices, entries, changes = cursor.fetchone()
        noticed = "This database is another one than before." if restored else "Nothing shows that it was restored."
        self.stdout.write(
            f"{noticed} A new epoch makes {devices:,} devices load afresh, once they have pushed and offered what they "
            f"have. The positions of {entries:,} entries of the feed and {changes:,} of the history are looked at."
        )
        if not options["yes"] and not self._confirmed():
            raise CommandError("Nothing was done.", returncode=1)
        try:
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("Positions", total=None)
                begin_epoch(seen, progress=lambda done, total: bar.update(task, completed=done, total=total))
        except Problem as problem:
            raise CommandError(f"{problem.detail} Nothing was done; try again.", returncode=3) from None
        self.stdout.write("A new epoch has begun.")

    def _confirmed(self) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("Without a terminal it needs --yes. Nothing was done.", returncode=1)
        return input("Begin a new epoch? [y/N] ").strip().lower() in {"y", "yes"}
