"""`manage.py grants`: which scopes a device or a user has, and why."""

import json
from argparse import ArgumentParser
from typing import Any

from devices.grants import grants_of
from devices.management.granting import ExplainedCommand, add_holder, by_of, document_of, holder_of, to_of, words_of


class Command(ExplainedCommand):
    help = "Show which scopes a device has, and whether they are its own or its user's; or which a user has."
    examples = """\
examples:
  manage.py grants --device "Tablet 12"
  manage.py grants --user ana --json
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_holder(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        holder = holder_of(options)
        found = grants_of(holder)
        if options["json"]:
            grants = [{"scope": grant.scope, "to": to_of(grant), "source": grant.source} for grant in found]
            self.stdout.write(json.dumps({**document_of(holder), "grants": grants}))
            return
        for grant in found:
            self.stdout.write(f"{grant.scope:40} granted to the {to_of(grant)}{by_of(grant)}")
        if not found:
            self.stdout.write(f"No scope is granted to {words_of(holder)}.")
