"""Encrypt addresses of branches and secrets of subscriptions with the newest key: `manage.py legacy_rekey --help`."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.db.models import Model

from legacy.branches.models import Branch
from legacy.connector import Misconfigured
from legacy.secret import reseal
from legacy.webhooks.subscriptions import Subscription

SEALED: list[tuple[type[Model], str]] = [(Branch, "address"), (Subscription, "sealed"), (Subscription, "sealed_before")]

HELP = """Encrypt addresses of branches and secrets of subscriptions with the newest key. To replace the key:

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
        lost, count = [], 0
        with transaction.atomic():
            for model, field in SEALED:
                for each in model._default_manager.select_for_update().exclude(**{field: ""}):
                    count += 1
                    try:
                        setattr(each, field, reseal(getattr(each, field)))
                    except Misconfigured as error:
                        lost.append(f"{each}: {error}")
                        continue
                    each.save(update_fields=[field])
        told = f"{count - len(lost)} of {count} addresses and secrets"
        self.stdout.write(f"{told} are encrypted with the newest key.")
        if lost:
            raise CommandError("\n".join(lost))
