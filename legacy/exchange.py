"""What all parts of a run share: the fence around its writes, the links, the cursors, the counts, the dead letters."""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid5

import msgspec
from django.db import OperationalError, transaction
from django.utils import timezone

from legacy.connector import Connector, Record
from legacy.document import Document, Unmappable
from legacy.mapping import Mapping
from legacy.models import Cursor, DeadLetter, Link, Run
from legacy.stored import Encoder, storable
from sync.capture import authored
from sync.refusal import lost_race
from sync.sql import block, cursor, texts

SQL = str(Path(__file__).with_name("legacy.sql"))
ATTEMPTS_MAX = 4  # of a page that lost a deadlock
REFUSALS_TOLD_MAX = 5  # of a run
RETRY_MINUTES_MAX = 24 * 60  # a dead letter is tried again after 1, 2, 4, … minutes, at last once a day
SYSTEMS = UUID("6d0f6b1e-2f0c-4a53-9a54-2f6f0c9d7a11")  # the namespace of their ids

Kind = DeadLetter.Kind
What = Literal["created", "updated", "deleted", "made again", "waits"]


class Superseded(Exception):
    """Another run has taken the system over: this one was thought dead, and may write nothing any more."""


class Stopped(Exception):
    """The safety stop: the run would do more than it should without a person who says so.

    `undo`: what the run wrote so far is to be taken back.
    """

    def __init__(self, why: str, undo: bool = False) -> None:
        super().__init__(why)
        self.undo = undo


class Known(NamedTuple):
    """What is kept of a linked record: our row, its digest when it was last read, how often it came back otherwise."""

    row: str
    seen: str
    hops: int


class Agreement(NamedTuple):
    """What is to be kept of a record, now that both sides look like `document`."""

    key: str
    row: str
    document: Document
    seen: str
    parent: str | None = None
    hops: int | None = None
    due: bool = False  # ours differs, and is to be sent


class Links(NamedTuple):
    """Agreements as they are written: rows of `copy_links` for new ones, and JSON of those that are linked already."""

    mapping: str
    fresh: list[tuple[Any, ...]]
    old: str


@dataclass(frozen=True)
class Change:
    """What a dry run would do with one record or row; as text, a line for a terminal."""

    mapping: str
    key: str  # of their record; the id of our row where it would go to them
    what: What
    to: str = ""  # the system that would be written to; nothing: we
    before: Document | None = None
    after: Document = field(default_factory=dict)  # the fields that would change
    why: str = ""  # it would wait

    def __str__(self) -> str:
        name = f"{self.mapping} {self.key}" + (f" → {self.to}" if self.to else "")
        match self.what:
            case "created":
                return f"{name}: new: " + ", ".join(f"{key} {value!r}" for key, value in self.after.items() if value)
            case "updated":
                before = self.before or {}
                news = sorted(self.after.items())  # a merge has no order of its own
                return f"{name}: " + ", ".join(f"{k} {before.get(k)!r} → {v!r}" for k, v in news)
            case "waits":
                return f"{name}: would wait: {self.why}"
        return f"{name}: would be {self.what}" if self.to else f"{name}: deleted there, would be deleted here"


def quiet(*_: object) -> None:
    """Nobody looks on."""


def id_of(system: str) -> UUID:
    """What stands for a system where a conflict names a device."""
    return uuid5(SYSTEMS, system)


@dataclass
class Exchange:
    """One run between us and one system."""

    system: str
    connector: Connector
    mappings: dict[str, Mapping]
    run: Run
    pretend: bool = False  # --dry-run: nothing is written on either side
    retry_all: bool = False  # dead letters are tried again however recently they failed
    force: bool = False  # the safety stop was asked, and a person said yes
    ranks: dict[str, int] = field(default_factory=dict)  # of every system, the first is 1
    tell: Callable[[str, int], None] = quiet  # progress: what is being done, and records so far
    show: Callable[[Change], None] = quiet  # what a dry run would do
    became: Callable[[str, str, str], None] = quiet  # of a mapping's record, by its key: created, failed, …
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    unread: list[str] = field(default_factory=list)  # what could not be read and why, the first of it
    pretended: dict[tuple[str, str], str] = field(default_factory=dict)  # rows that a dry run would have made

    def count(self, mapping: Mapping, what: str, records: int = 1) -> None:
        if records:
            self.counts[mapping.name][what] += records

    @property
    def failed(self) -> int:
        return sum(each.get("failed", 0) for each in self.counts.values())

    @cached_property
    def id(self) -> UUID:
        return id_of(self.system)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction of this run. Raises Superseded where another one has taken the system over.

        It holds the devices' feed back while it lasts, so the other system is not asked anything inside of it.
        """
        with transaction.atomic(), authored(self.run.author):
            self.confirm()
            yield

    def commit(self, work: Callable[[], None]) -> None:
        """`work` in one transaction of this run, from its beginning again where others that write were in the way."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            counted = deepcopy(self.counts)
            try:
                with self.writing():
                    return work()
            except OperationalError as error:
                if attempt == ATTEMPTS_MAX or not lost_race(error):
                    raise
                self.counts = counted
        return None

    def confirm(self) -> None:
        """Raises Superseded where another run has taken the system over. Asked before anything is written there."""
        with cursor() as bound:
            if not bound.execute(block(SQL, "fence"), {"system": self.system, "fence": self.run.fence}).fetchone():
                raise Superseded(f"Another run of {self.system} has begun; this one stops here.")

    # --- Links --------------------------------------------------------------------------------------------------------

    def known(self, mapping: str, keys: Collection[str]) -> dict[str, Known]:
        """What is linked, by their key."""
        if not keys:
            return {}
        with cursor() as bound:
            found = bound.execute(block(SQL, "links"), self._at(mapping, keys=texts(keys)))
            return {key: Known(*rest) for key, *rest in found}

    def agreed(self, mapping: str, keys: Collection[str]) -> dict[str, Document]:
        """What both sides last agreed on, by their key."""
        if not keys:
            return {}
        with cursor() as bound:
            found = bound.execute(block(SQL, "agreed"), self._at(mapping, keys=texts(keys)))
            return {key: msgspec.json.decode(agreed) for key, agreed in found}

    def links_of(self, mapping: str, rows: Collection[Any]) -> list[Link]:
        return list(Link.objects.filter(system=self.system, mapping=mapping, row__in=rows))

    def rows_of(self, references: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(mapping, their key) → our row, for those that are linked."""
        wanted = defaultdict(set)
        for mapping, key in references:
            wanted[mapping].add(key)
        found = {
            (mapping, key): known.row
            for mapping, keys in wanted.items()
            for key, known in self.known(mapping, keys).items()
        }
        if self.pretended:
            found = {at: row for at, row in self.pretended.items() if at[1] in wanted[at[0]]} | found
        return found

    def link(self, mapping: str, agreements: Sequence[Agreement], linked: Collection[str] = ()) -> None:
        """Keep what both look like now. `linked`: the keys among them that are linked already."""
        self.keep(self.links(mapping, agreements, linked))

    def links(self, mapping: str, agreements: Sequence[Agreement], linked: Collection[str] = ()) -> Links:
        """The same as what is to be written, which can be made before its time."""
        fresh = [each for each in agreements if each.key not in linked]
        old = [
            {"key": e.key, "agreed": e.document, "seen": e.seen, "hops": e.hops, "due": e.due}
            for e in agreements
            if e.key in linked
        ]
        return Links(
            mapping,
            [(self.system, mapping, e.key, e.row, _encode(e.document), e.seen, e.parent, e.due) for e in fresh],
            _encode(old) if old else "",
        )

    def keep(self, links: Links) -> None:
        if links.fresh:
            with cursor() as bound, bound.copy(block(SQL, "copy_links")) as copy:
                for row in links.fresh:
                    copy.write_row(row)
        if links.old:
            with cursor() as bound:
                bound.execute(block(SQL, "agree"), self._at(links.mapping, links=links.old))

    def unlink(self, mapping: str, parents: Collection[str], but: Collection[str]) -> None:
        """Forget what belonged to these rows and does not any more."""
        with cursor() as bound:
            at = self._at(mapping, parents=list(parents), but=list(but), run=self.run.pk)
            bound.execute(block(SQL, "forget_members"), at)

    def forget(self, mapping: Mapping, rows: Collection[str]) -> None:
        """These rows and their records are no pair any more, as one of the two is gone."""
        if not rows:
            return
        with cursor() as bound:
            members = mapping.rows.name if mapping.rows else None
            at = self._at(mapping.name, members=members, rows=list(rows), run=self.run.pk)
            bound.execute(block(SQL, "forget"), at)

    def row_of(self, mapping: str, key: str) -> str:
        """Raises Unmappable where we do not have the record."""
        if found := self.known(mapping, [key]):
            return found[key].row
        raise Unmappable(f"the {mapping} {key} that it refers to has not been taken over")

    def key_of(self, mapping: str, row: str) -> str | int:
        """Their key of a row, as it is sent. Raises Unmappable where they do not have the row (yet)."""
        if found := self.links_of(mapping, [row]):
            return int(found[0].key) if self.connector.capabilities.numeric_keys else found[0].key
        raise Unmappable(f"the {mapping} {row} that it refers to is not in {self.system} (yet)")

    def _at(self, mapping: str, **more: Any) -> dict[str, Any]:
        return {"system": self.system, "mapping": mapping, **more}

    # --- Cursors ------------------------------------------------------------------------------------------------------

    def cursor(self, mapping: Mapping, direction: str) -> Cursor:
        found = Cursor.objects.filter(system=self.system, mapping=mapping.name, direction=direction).first()
        return found or Cursor(system=self.system, mapping=mapping.name, direction=direction)

    def move(self, at: Cursor) -> None:
        """To be committed with what was done up to there."""
        at.save()
        Run.objects.filter(pk=self.run.pk).update(counts=self.counts, cursors=self.run.cursors)

    # --- Dead letters -------------------------------------------------------------------------------------------------

    def bury(
        self,
        mapping: Mapping,
        direction: str,
        key: str,
        error: Exception | str,
        payload: Any,
        kind: Kind = Kind.FAILED,
        candidates: Sequence[str] = (),
    ) -> None:
        """Put a record aside; what failed is tried again, everything else waits for a person or a decision."""
        self.became(mapping.name, key, "failed" if kind is Kind.FAILED else "undecided")
        self.count(mapping, "failed" if kind is Kind.FAILED else "waiting")
        reason = "; ".join(error.messages) if hasattr(error, "messages") else str(error)
        if self.pretend:
            return self.show(
                Change(
                    mapping.name, key, "waits", to=self.system if direction == Cursor.Direction.PUSH else "", why=reason
                )
            )
        letter = self._letters(mapping, direction).filter(key=key).first()
        if letter is None:
            letter = DeadLetter(
                system=self.system,
                mapping=mapping.name,
                direction=direction,
                key=key,
                attempts=0,
                first_at=timezone.now(),
            )
        letter.attempts += 1
        letter.kind, letter.error, letter.payload, letter.run = kind, reason, payload, self.run
        letter.candidates = list(candidates)
        letter.next_at = None
        if kind is Kind.FAILED:
            minutes = min(2 ** (letter.attempts - 1), RETRY_MINUTES_MAX)
            letter.next_at = timezone.now() + dt.timedelta(minutes=minutes)
        letter.save()
        return None

    def refuse(self, mapping: Mapping, told: Sequence[str]) -> None:
        """These could not even be read, so there is no record to put aside: the run counts them and says why."""
        self.count(mapping, "failed", len(told))
        self.unread += told[: REFUSALS_TOLD_MAX - len(self.unread)]

    def due(self, mapping: Mapping, direction: str, everything: bool = False) -> list[DeadLetter]:
        """The dead letters that are to be tried again; `everything`: however recently they failed."""
        letters = self._letters(mapping, direction).filter(next_at__isnull=False)
        if not (self.retry_all or everything):
            letters = letters.filter(next_at__lte=timezone.now())
        return list(letters.order_by("first_at", "pk"))

    def settle(self, mapping: Mapping, direction: str, keys: Collection[str]) -> None:
        """These went well: what failed of them before is history."""
        if keys and not self.pretend:
            with cursor() as bound:
                at = self._at(mapping.name, direction=direction, keys=texts(keys))
                bound.execute(block(SQL, "settle"), at)

    def put_aside(self, mapping: Mapping, records: Collection[Record]) -> set[str]:
        """The keys of those that wait for a person, or failed just as they are and whose next try is later."""
        by_key = {record.key: record for record in records}
        with cursor() as bound:  # nearly always there is none
            at = self._at(mapping.name, direction=Cursor.Direction.PULL.value, keys=texts(by_key))
            lettered = [key for (key,) in bound.execute(block(SQL, "lettered"), at)]
        letters = self._letters(mapping, Cursor.Direction.PULL).filter(key__in=lettered) if lettered else ()
        return {each.key for each in letters if each.next_at is None or is_as_read(each, by_key[each.key])}

    def _letters(self, mapping: Mapping, direction: str) -> "Any":
        return DeadLetter.objects.filter(system=self.system, mapping=mapping.name, direction=direction)


def _encode(value: Any) -> str:
    """Plain JSON, of what is in its wire form already."""
    return msgspec.json.encode(value).decode()


def as_json(value: Any) -> str:
    return json.dumps(value, cls=Encoder, sort_keys=True)


def is_as_read(letter: DeadLetter, record: Record) -> bool:
    """Whether a record is over there as it was when it became the dead letter."""
    return as_json(letter.payload) == as_json(storable(dict(record.values)))
