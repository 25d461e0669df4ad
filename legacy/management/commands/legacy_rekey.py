"""Encrypt the addresses of branches with the newest key: `manage.py legacy_rekey --help`."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from legacy.branches.models import Branch
from legacy.branches.secret import reseal
from legacy.connector import Misconfigured

HELP = """Encrypt the addresses of all branches with the newest key. To replace the key:

  1. set LEGACY_SECRET_KEY to the new one, and put the old one into LEGACY_SECRET_KEY_FALLBACKS
     (where it was not set so far, nothing goes there: what SECRET_KEY encrypted stays readable)
  2. restart everything, so that all of it knows both
  3. run this
  4. take the old one out of LEGACY_SECRET_KEY_FALLBACKS, and restart again
"""


class Command(BaseCommand):
    help = HELP

    def create_parser(self, *arguments: Any, **options: Any) -> CommandParser:
        return super().create_parser(*arguments, formatter_class=RawDescriptionHelpFormatter, **options)

    def handle(self, *_: Any, **options: Any) -> None:  # noqa: ARG002
        lost = []
        with transaction.atomic():
            branches = list(Branch.objects.select_for_update())
            for branch in branches:
                try:
                    branch.address = reseal(branch.address)
                except Misconfigured as error:
                    lost.append(f"{branch.full_name}: {error}")
                    continue
                branch.save(update_fields=["address"])
        self.stdout.write(
            f"{len(branches) - len(lost)} of {len(branches)} addresses are encrypted with the newest key."
        )
        if lost:
            raise CommandError("\n".join(lost))
