"""What the commands about grants share: whom they are about, and how they say what they did."""

import json
import uuid
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from devices.grants import Holder, devices_of, grants_of
from devices.models import Device, Grant

NAMESAKES_SHOWN_MAX = 10


class ExplainedCommand(BaseCommand):
    """A command whose --help ends with examples."""

    examples: ClassVar[str]

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_parser(*args, epilog=self.examples, formatter_class=RawDescriptionHelpFormatter, **kwargs)


class GrantingCommand(ExplainedCommand):
    """One that changes the grants of one holder, by `change`, which returns the scopes that were not so already."""

    change: ClassVar[Callable[[Sequence[str], Holder], list[str]]]  # raises ValidationError
    done: ClassVar[str]
    not_needed: ClassVar[str]
    takes: ClassVar[bool] = False  # and so says where a scope is granted in another way

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("scopes", nargs="+", metavar="SCOPE", help="such as global or store:7")
        add_holder(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_args: Any, **options: Any) -> None:
        holder = holder_of(options)
        try:
            changed = type(self).change(options["scopes"], holder)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        still = [grant for grant in grants_of(holder) if grant.scope in options["scopes"]] if self.takes else []
        same = sorted(set(options["scopes"]) - set(changed))
        devices = devices_of(holder).count()
        if options["json"]:
            facts = {"changed": changed, "unchanged": same, **document_of(holder), "devices": devices}
            facts |= {"still": [{"scope": grant.scope, "to": to_of(grant), "source": grant.source} for grant in still]}
            self.stdout.write(json.dumps(facts))
            return
        if changed:
            count = f"{devices:,} device{'' if devices == 1 else 's'}"
            self.stdout.write(f"{self.done}: {', '.join(changed)}; {words_of(holder)}, which concerns {count}.")
        for scope in same:
            self.stdout.write(f"{scope} {self.not_needed}.")
        for grant in still:
            self.stdout.write(f"{grant.scope} is still granted to the {to_of(grant)}{by_of(grant)}.")


def add_holder(parser: ArgumentParser) -> None:
    """The options of which `holder_of` reads one."""
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--device", metavar="DEVICE", help="the device's id, or its name where no other has it")
    who.add_argument("--user", metavar="NAME", help="the user's name: all devices of that user, now and later")


def holder_of(options: dict[str, Any]) -> Holder:
    """Whom --device or --user names. Raises CommandError, which says what to do instead."""
    return user_of(options["user"]) if options["user"] is not None else device_of(options["device"])


def user_of(name: str) -> AbstractBaseUser:
    """The user of that name. Raises CommandError."""
    users = get_user_model()
    try:
        return users._default_manager.get_by_natural_key(name)
    except users.DoesNotExist:
        raise CommandError(
            f"There is no user {name!r}. Make one in the admin, or with manage.py createsuperuser."
        ) from None


def device_of(text: str) -> Device:
    """The device of that id or, where no other has it, that name. Raises CommandError."""
    with suppress(ValueError):
        if device := Device.objects.filter(pk=uuid.UUID(text)).first():
            return device
    found = list(Device.objects.filter(name=text).order_by("-created_at")[: NAMESAKES_SHOWN_MAX + 1])
    if not found:
        raise CommandError(f"There is no device {text!r}. The admin lists them.")
    if len(found) > 1:
        lines = [f"  {device.pk}  enrolled {device.created_at:%Y-%m-%d}" for device in found[:NAMESAKES_SHOWN_MAX]]
        more = "\n  and more" if len(found) > NAMESAKES_SHOWN_MAX else ""
        raise CommandError(f"Several devices are called {text!r}: give the id of one.\n" + "\n".join(lines) + more)
    return found[0]


def document_of(holder: Holder) -> dict[str, str]:
    """Who that is, in JSON."""
    if isinstance(holder, Device):
        return {"device": str(holder.pk), "name": holder.name}
    return {"user": holder.get_username()}


def words_of(holder: Holder) -> str:
    """Who that is, in words."""
    return f"device {holder.name}" if isinstance(holder, Device) else f"user {holder.get_username()}"


def to_of(grant: Grant) -> str:
    """To what kind of holder a grant was given."""
    return "device" if grant.user_id is None else "user"


def by_of(grant: Grant) -> str:
    """By which row of the deployment's own, in words; nothing where a person gave it."""
    return f" by {grant.source}" if grant.source else ""
