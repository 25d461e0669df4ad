"""`manage.py enrollment_code`: a code with which one device can enrol."""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from devices.enroll import create_code

EXAMPLES = """\
examples:
  manage.py enrollment_code                                    a device that gets the rows of everybody
  manage.py enrollment_code --scope global --scope store:7     and those of store 7
  manage.py enrollment_code --user ana --hours 2               a device of ana, with ana's scopes; valid for 2 hours
"""


class Command(BaseCommand):
    help = "Make a code with which one device can enrol. It works once, expires, and is shown only now."

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_parser(*args, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter, **kwargs)

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
            code = create_code(scopes, _user(options["user"]), hours)
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


def _user(name: str | None) -> AbstractBaseUser | None:
    if name is None:
        return None
    users = get_user_model()
    try:
        return users._default_manager.get_by_natural_key(name)
    except users.DoesNotExist:
        raise CommandError(
            f"There is no user {name!r}. Make one in the admin, or with manage.py createsuperuser."
        ) from None
