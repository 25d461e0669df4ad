"""What a person does with a dead letter: says which row it is, mends it, has it tried again, or leaves it alone.

Each is kept in the admin's log with who, when and what. The next run of the system carries it out.
"""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.utils import timezone

from legacy.models import Cursor, DeadLetter, Link
from legacy.systems import system

Kind = DeadLetter.Kind
PULL = Cursor.Direction.PULL


class Unfit(ValueError):
    """This cannot be done with this letter; nothing was done. The text says why."""


@transaction.atomic
def say(letter: DeadLetter, row: str | None, by: AbstractBaseUser) -> None:
    """An unclear record is this row of ours, or a new one (None). Raises Unfit.

    A row that is linked to another record of the same system already cannot be this one too.
    """
    letter = _locked_one(letter)
    if letter.kind != Kind.UNCLEAR or letter.direction != PULL:
        raise Unfit("Nobody asks which row this is.")
    if row is not None:
        if (row := _uuid(row)) is None or not _model_of(letter).filter(pk=row).exists():
            raise Unfit("There is no such row any more.")
        link = Link.objects.filter(system=letter.system, mapping=letter.mapping, row=row).first()
        if link:
            raise Unfit(f"That row is the record {link.key} of {letter.system} already.")
    letter.said, letter.next_at = row or "", timezone.now()
    letter.save(update_fields=["said", "next_at"])
    _log(letter, by, f"It is the row {row}." if row else "It is a new row.")


@transaction.atomic
def mend(letter: DeadLetter, payload: Any, by: AbstractBaseUser) -> None:
    """Take the record over as `payload` says, as long as it is over there as it was read. Raises Unfit."""
    letter = _locked_one(letter)
    if letter.direction != PULL or not letter.payload:
        raise Unfit("What was to be sent is one of our rows: mend that.")
    if not isinstance(payload, dict):
        raise Unfit("A record is an object with its values by place.")
    letter.mended, letter.next_at = payload, timezone.now()
    letter.save(update_fields=["mended", "next_at"])
    places = sorted(p for p in {*payload, *letter.payload} if payload.get(p) != letter.payload.get(p))
    _log(letter, by, f"Mended: {', '.join(places) or 'nothing'}.")


@transaction.atomic
def retry(letters: Collection[DeadLetter], by: AbstractBaseUser) -> int:
    """Have them tried again with the next run, what was left alone or went round and round too. Returns how many."""
    found = [letter for letter in _locked(letters) if letter.kind != Kind.UNCLEAR]
    for letter in found:
        if letter.kind == Kind.LOOP:
            Link.objects.filter(system=letter.system, mapping=letter.mapping, row=letter.key).update(hops=0)
        letter.kind, letter.next_at = Kind.FAILED, timezone.now()
        letter.save(update_fields=["kind", "next_at"])
        _log(letter, by, "Try it again.")
    return len(found)


@transaction.atomic
def discard(letters: Collection[DeadLetter], reason: str, by: AbstractBaseUser) -> int:
    """Leave them alone: a record of theirs until somebody says `retry`, a row of ours until it is changed again.

    Returns how many.
    """
    found = _locked(letters)
    for letter in found:
        _log(letter, by, f"Left alone: {reason}")
        if letter.direction == PULL:
            letter.kind, letter.next_at, letter.candidates = Kind.IGNORED, None, []
            letter.save(update_fields=["kind", "next_at", "candidates"])
        else:
            Link.objects.filter(system=letter.system, mapping=letter.mapping, row=letter.key).update(due=False)
            letter.delete()
    return len(found)


def _locked(letters: Collection[DeadLetter]) -> list[DeadLetter]:
    """Those that there still are, as they are now."""
    return list(DeadLetter.objects.select_for_update().filter(pk__in=[each.pk for each in letters]).order_by("pk"))


def _locked_one(letter: DeadLetter) -> DeadLetter:
    if found := _locked([letter]):
        return found[0]
    raise Unfit("It is settled already.")


def _model_of(letter: DeadLetter) -> Any:
    found = next(mapping for mapping in system(letter.system).mappings if mapping.name == letter.mapping)
    return found.model._default_manager


def _uuid(text: str) -> str | None:
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _log(letter: DeadLetter, by: AbstractBaseUser, message: str) -> None:
    LogEntry.objects.create(
        user_id=by.pk,
        content_type=ContentType.objects.get_for_model(DeadLetter),
        object_id=str(letter.pk),
        object_repr=str(letter)[:200],
        action_flag=CHANGE,
        change_message=message,
    )
