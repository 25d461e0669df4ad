"""`manage.py enrollment_code`: a code with which one device can enrol."""

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from devices.enroll import create_code
from devices.management.granting import ExplainedCommand, user_of

EXAMPLES = """\
examples:
  manage.py enrollment_code                                    a device that gets the rows of everybody
  manage.py enrollment_code --scope global --scope store:7     and those of store 7
  manage.py enrollment_code --user ana --hours 2               a device of ana, with ana's scopes; valid for 2 hours
"""


class Command(ExplainedCommand):
    help = "Make a code with which one device can enrol. It works once, expires, and is shown only now."
    examples = EXAMPLES

    def add_arguments(self, parser: ArgumentParser) -> None:
        hours_max = settings.SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX
        parser.add_argument(
            "--scope",
            action="append",
            default=[],
            metavar="SCOPE",
            help="a scope to grant, such as global or store:7; may be given several times (default: global)",
        )
        parser.add_argument("--user", metavar="NAME", help="whose device it is: it gets that person's scopes too")
        parser.add_argument(
            "--hours", type=int, metavar="HOURS", help=f"how long it is valid (default and most: {hours_max})"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        scopes = sorted(set(options["scope"])) or ["global"]
        hours = settings.SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX if options["hours"] is None else options["hours"]
        try:
            code = create_code(scopes, user_of(options["user"]) if options["user"] is not None else None, hours)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        if options["json"]:
            facts = {"code": code, "scopes": scopes, "user": options["user"], "hours": hours}
            self.stdout.write(json.dumps(facts))
            return
        whose = f" as a device of {options['user']}" if options["user"] else ""
        self.stdout.write(f"Enrolment code: {code}")
        self.stdout.write(f"It enrols one device{whose}, within {hours} hours, with: {', '.join(scopes)}.")
        self.stdout.write("Type it into the app, or send it to POST /devices/enroll:")
        self.stdout.write(f"""  {{"code": "{code}", "name": "Tablet 12"}}""")
