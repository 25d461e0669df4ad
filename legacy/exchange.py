"""What both halves of a run share: the links between rows and records, the counts, the dead letters."""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.utils import timezone

from legacy.connector import Connector
from legacy.mapping import Document, Mapping, Unmappable, digest
from legacy.models import Cursor, DeadLetter, Link, Run

RETRY_MINUTES_MAX = 24 * 60  # a dead letter is tried again after 1, 2, 4, … minutes, at last once a day


@dataclass
class Exchange:
    """One run between us and one system."""

    system: str
    connector: Connector
    mappings: dict[str, Mapping]
    run: Run
    pretend: bool  # --dry-run: nothing is written on either side
    retry_all: bool  # dead letters are tried again however recently they failed
    tell: Callable[[str, int], None]  # progress: what is being done, and records so far
    show: Callable[[str], None]  # a line of a dry run
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    pretended: dict[tuple[str, str], str] = field(default_factory=dict)  # rows that a dry run would have made

    def count(self, mapping: Mapping, what: str, records: int = 1) -> None:
        if records:
            self.counts[mapping.name][what] += records

    @property
    def failed(self) -> int:
        return sum(each.get("failed", 0) for each in self.counts.values())

    # --- Links --------------------------------------------------------------------------------------------------------

    def links(self, mapping: str, *, keys: Collection[str] = (), rows: Collection[Any] = ()) -> list[Link]:
        found = Link.objects.filter(system=self.system, mapping=mapping)
        return list(found.filter(key__in=keys) if keys else found.filter(row__in=rows))

    def rows_of(self, references: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(mapping, their key) → our row, for those that are linked."""
        wanted = defaultdict(set)
        for mapping, key in references:
            wanted[mapping].add(key)
        found = {
            (mapping, link.key): str(link.row)
            for mapping, keys in wanted.items()
            for link in self.links(mapping, keys=keys)
        }
        return {at: row for at, row in self.pretended.items() if at[1] in wanted[at[0]]} | found

    def link(self, mapping: str, pairs: Collection[tuple[str, UUID, Document, UUID | None]]) -> None:
        """Their key, our row, what both look like now, and the row that it belongs to, if any."""
        Link.objects.bulk_create(
            [
                Link(
                    system=self.system,
                    mapping=mapping,
                    key=key,
                    row=row,
                    agreed=agreed,
                    digest=digest(agreed),
                    parent=parent,
                )
                for key, row, agreed, parent in pairs
            ],
            update_conflicts=True,
            unique_fields=["system", "mapping", "key"],
            update_fields=["agreed", "digest", "agreed_at"],
        )

    def unlink(self, mapping: str, parents: Collection[UUID], but: Collection[str]) -> None:
        """Forget what belonged to these rows and does not any more."""
        gone = Link.objects.filter(system=self.system, mapping=mapping, parent__in=list(parents)).exclude(key__in=but)
        gone.delete()

    def row_of(self, mapping: str, key: str) -> str:
        """Raises Unmappable where we do not have the record."""
        if found := self.links(mapping, keys=[key]):
            return str(found[0].row)
        raise Unmappable(f"the {mapping} {key} that it refers to has not been taken over")

    def key_of(self, mapping: str, row: str) -> str:
        """Raises Unmappable where they do not have the row (yet)."""
        if found := self.links(mapping, rows=[row]):
            return found[0].key
        raise Unmappable(f"the {mapping} {row} that it refers to is not in {self.system} (yet)")

    # --- Cursors ------------------------------------------------------------------------------------------------------

    def cursor(self, mapping: Mapping, direction: str) -> dict[str, Any]:
        found = Cursor.objects.filter(system=self.system, mapping=mapping.name, direction=direction).first()
        return dict(found.state) if found else {}

    def move(self, mapping: Mapping, direction: str, state: dict[str, Any]) -> None:
        """To be committed with what was done up to there."""
        Cursor.objects.update_or_create(
            system=self.system, mapping=mapping.name, direction=direction, defaults={"state": state}
        )
        Run.objects.filter(pk=self.run.pk).update(counts=self.counts)

    # --- Dead letters -------------------------------------------------------------------------------------------------

    def bury(self, mapping: Mapping, direction: str, key: str, error: Exception, payload: Any) -> None:
        self.count(mapping, "failed")
        reason = "; ".join(error.messages) if hasattr(error, "messages") else str(error)
        if self.pretend:
            return self.show(f"{mapping.name} {key}: would fail: {reason}")
        letter, new = DeadLetter.objects.get_or_create(
            system=self.system,
            mapping=mapping.name,
            direction=direction,
            key=key,
            defaults={"error": reason, "payload": _json(payload), "next_at": timezone.now(), "run": self.run},
        )
        minutes = min(2 ** (letter.attempts - 1), RETRY_MINUTES_MAX)
        letter.next_at = timezone.now() + dt.timedelta(minutes=minutes)
        if not new:
            letter.attempts, letter.error, letter.payload, letter.run = (
                letter.attempts + 1,
                reason,
                _json(payload),
                self.run,
            )
        letter.save()
        return None

    def due(self, mapping: Mapping, direction: str) -> list[str]:
        """The keys of the dead letters that are to be tried again."""
        letters = DeadLetter.objects.filter(system=self.system, mapping=mapping.name, direction=direction)
        if not self.retry_all:
            letters = letters.filter(next_at__lte=timezone.now())
        return list(letters.order_by("first_at").values_list("key", flat=True))

    def settle(self, mapping: Mapping, direction: str, keys: Collection[str]) -> None:
        """These went well: what failed of them before is history."""
        if keys and not self.pretend:
            letters = DeadLetter.objects.filter(system=self.system, mapping=mapping.name, direction=direction)
            letters.filter(key__in=keys).delete()


def described(name: str, changes: Document, now: Document | None) -> str:
    """A change as a person reads it: `customer ALFKI: city 'Berlin' → 'Bonn'`."""
    if now is None:
        return f"{name}: new: " + ", ".join(f"{key} {value!r}" for key, value in changes.items() if value)
    return f"{name}: " + ", ".join(f"{key} {now.get(key)!r} → {value!r}" for key, value in changes.items())


def _json(payload: Any) -> Any:
    return json.loads(json.dumps(payload, default=str))
