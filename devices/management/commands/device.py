"""`manage.py device`: how a device is; refuse it, have it wiped, or let it in again."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from devices.enroll import let_in_again, revoke
from devices.management.granting import ExplainedCommand, device_of
from devices.models import Device


class Command(ExplainedCommand):
    help = "Show how a device is; with an option, refuse it, have it wiped, or let it in again."
    examples = """\
examples:
  manage.py device "Tablet 12"            how it is
  manage.py device "Tablet 12" --revoke   refuse it from now on
  manage.py device "Tablet 12" --wipe     refuse it, and have its app delete its data when it next calls
  manage.py device "Tablet 12" --let-in   it was not used for so long that it expired: let it work again
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("device", metavar="DEVICE", help="the device's id, or its name where no other has it")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--revoke", action="store_true", help="refuse it from now on")
        what.add_argument("--wipe", action="store_true", help="refuse it, and have it delete its data")
        what.add_argument("--let-in", action="store_true", help="let it work again after it expired")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        device = device_of(options["device"])
        if options["revoke"] or options["wipe"]:
            revoke(device, wipe=options["wipe"])
        elif options["let_in"] and not let_in_again(device):
            raise CommandError(f"{device.name} has not expired: it is {_state(device).replace('_', ' ')}.")
        if options["json"]:
            self.stdout.write(json.dumps({"device": str(device.pk), "name": device.name, "state": _state(device)}))
        else:
            self.stdout.write(f"{device.name} ({device.pk}) is {_state(device).replace('_', ' ')}.")


def _state(device: Device) -> str:
    """As the admin and the staff API call it."""
    found: Device = Device.objects.with_trouble(timezone.now()).select_related("user").get(pk=device.pk)
    return found.state
