"""What the page of one conflict shows: each side's values beside each other, the row that comes of it, and its past."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.safestring import SafeString

from devices.models import Device
from sync.amend import name_of
from sync.models import Conflict, Decision, History, Rejection
from sync.pages.conflict_form import Block, DecisionForm
from sync.pages.conflict_list import Line, lines
from sync.pages.marked import SHORT_CHARS, excerpt, marked
from sync.pages.names import author_names, row_names, short_id
from sync.pages.values import Labels, entity_label, field_label
from sync.permissions import Somebody, viewable_entities, visible
from sync.stakes import Stakes
from sync.wire import entities

CHANGES_SHOWN_MAX = 20  # of the row, the newest first
CHANGES_READ_MAX = 200  # since the device's base, for who wrote what
OTHERS_SHOWN_MAX = 20  # open conflicts of the same row, and members of the same group


@dataclass(frozen=True)
class Writer:
    """Who changed a field on the server, and when."""

    name: str
    at: Any


@dataclass(frozen=True)
class Cell:
    """One side's value of one field."""

    text: str
    html: SafeString
    writer: Writer | None = None


@dataclass(frozen=True)
class Pick:
    """One side of a block, with a value for each of its fields; one's own has none."""

    side: str
    cells: Sequence[Cell]
    checked: bool
    standing: bool  # whether the row has these values now


@dataclass(frozen=True)
class Shown:
    """A block as it is shown."""

    block: Block
    labels: Sequence[str]
    picks: Sequence[Pick]
    own: Sequence[Any]  # bound fields
    own_checked: bool
    agreed: bool
    errors: Sequence[str]
    moved: bool  # somebody changed it while the page was open


@dataclass(frozen=True)
class Result:
    """A field of the row as it will be."""

    name: str
    label: str
    text: str
    now: str
    changed: bool
    key: str = ""  # of its block, where it is at stake


@dataclass(frozen=True)
class Change:
    """A change of the row in its history."""

    rev: int
    at: Any
    op: str
    author: str
    fields: Sequence[tuple[str, str, str]]
    unseen: bool  # by the device, when it made its own


@dataclass(frozen=True)
class Past:
    """The row's history: the newest changes, and who wrote which field last since the device's base."""

    changes: Sequence[History] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stakes: Stakes) -> "Past":
        conflict = stakes.conflict
        known = History.objects.filter(row_id=conflict.row_id, entity=conflict.entity)
        changes = list(known.order_by("-rev")[:CHANGES_READ_MAX])
        return cls(changes, author_names(change.author for change in changes))

    def unseen(self, base_rev: int | None) -> list[History]:
        """The changes since the device's base, the newest first."""
        return [change for change in self.changes if change.rev > (base_rev or 0)]

    def since(self, rev: int) -> list[History]:
        return [change for change in self.changes if change.rev > rev]

    def name(self, change: History) -> str:
        return self.names.get(change.author, change.author)

    def writer(self, name: str, base_rev: int | None) -> Writer | None:
        """Who wrote a field last since a revision."""
        found = next((c for c in self.unseen(base_rev) if c.op == "update" and name in (c.new or {})), None)
        return Writer(self.name(found), found.at) if found else None


class ConflictPage:
    """Everything that the template of one conflict shows, of other rows only what the user may see."""

    def __init__(self, form: DecisionForm, user: Somebody, moved: Iterable[str] = ()) -> None:
        self.form, self.user = form, user
        self.stakes = stakes = form.stakes
        self.conflict = stakes.conflict
        self.viewable = viewable_entities(user)
        self.moved = set(moved)
        self.entity = entities()[self.conflict.entity]
        self.past = Past.of(stakes)
        self.device = Device.objects.filter(pk=self.conflict.device).select_related("user").first()
        self.labels = Labels.of(((self.entity, values) for values in self._all_values()), self.viewable)

    def _all_values(self) -> Iterable[Mapping[str, Any] | None]:
        side = self.stakes.side
        yield from (self.stakes.base, self.stakes.device, self.stakes.server_then, side.row or side.gone)
        for change in self.past.changes[:CHANGES_SHOWN_MAX]:
            yield from (change.old, change.new)

    # --- what it is about ---

    @property
    def row_name(self) -> str:
        key = (self.conflict.entity, str(self.conflict.row_id))
        return row_names([key]).get(key, short_id(self.conflict.row_id))

    @property
    def kind(self) -> str:
        return entity_label(self.conflict.entity)

    @property
    def device_name(self) -> str:
        return self.conflict.source or (self.device.name if self.device else "a device that is no more")

    @property
    def while_offline(self) -> str:
        return "" if self.conflict.source else " while it was offline"

    @property
    def device_user(self) -> str:
        user = self.device.user if self.device else None
        return (user.get_full_name() or user.get_username()) if user else ""

    @property
    def open(self) -> bool:
        return self.conflict.state == Conflict.State.OPEN

    @property
    def decider(self) -> str:
        return name_of(self.conflict.decided_by) if self.conflict.decided_by else ""

    @property
    def policy(self) -> str:
        return self.conflict.policy.replace("_", " ")

    @property
    def others(self) -> str:
        """Who changed on the server what is at stake, since the device's base."""
        wanted = self.stakes.disputed or {*self.stakes.names}
        unseen = [
            change
            for change in self.past.unseen(self.conflict.base_rev)
            if change.rev <= (self.conflict.server_rev or 0)
            and (change.op != "update" or wanted & {*(change.new or {})})
        ]
        return _listed([self.past.name(change) for change in reversed(unseen)]) or "somebody"

    @property
    def fields_text(self) -> str:
        disputed = [name for name in self.stakes.names if name in self.stakes.disputed]
        names = [field_label(self.entity.name, name).lower() for name in disputed]
        return _listed(names) if len(names) <= 3 else f"{len(names)} fields"

    # --- the values side by side ---

    def blocks(self) -> list[Shown]:
        return [self._shown(block) for block in self.form.blocks]

    def _shown(self, block: Block) -> Shown:
        picked, standing = self.form.picked(block.key), self.form.standing(block)
        sides = [side for side in self.form.sides(block) if side != "own"]
        own = [self.form[f"own-{name}"] for name in block.names if f"own-{name}" in self.form.fields]
        errors = [*self.form.errors.get(block.key, ()), *(error for found in own for error in found.errors)]
        return Shown(
            block,
            [field_label(self.entity.name, name) for name in block.names],
            [Pick(side, self._cells(block, side), side == picked, side == standing) for side in sides],
            own if "own" in self.form.sides(block) else [],
            picked == "own",
            self.form.agreed(block),
            errors,
            bool(self.moved & {*block.names}),
        )

    def _cells(self, block: Block, side: str) -> list[Cell]:
        return [self._cell(name, side) for name in block.names]

    def _cell(self, name: str, side: str) -> Cell:
        found, values, base = self.entity.field(name), self.form.side(side), self.form.side("base")
        text = self._text(name, values.get(name))
        before = self._text(name, base[name]) if name in base and side != "base" else None
        diffed = found is not None and found.type == "text" and not found.choices and values.get(name)
        writer = self.past.writer(name, self.conflict.base_rev) if side == "server" and self.open else None
        return Cell(text, marked(before if base.get(name) else None, text) if diffed else marked(None, text), writer)

    def _text(self, name: str, value: Any) -> str:
        return self.labels.text(self.entity.field(name), value)

    @property
    def whole_row_pick(self) -> str:
        return self.form.picked("whole-row")

    @property
    def gone(self) -> bool:
        """Whether there will be no such row, by what is picked."""
        unwanted = "device" if self.conflict.op == "delete" else "server"
        return self.form.whole_row and self.whole_row_pick == unwanted

    def edits(self) -> list[tuple[str, str, str]]:
        """Where the device deleted the row: what the server had changed in it."""
        then, base = self.stakes.server_then or self.stakes.server or {}, self.stakes.base or {}
        return [
            (field_label(self.entity.name, n), self._text(n, base.get(n)), self._text(n, then[n]))
            for n in self.stakes.names
            if n in then and n in base and then[n] != base[n]
        ]

    # --- the row as it will be ---

    def result(self) -> list[Result]:
        row = self.stakes.side.row or self.stakes.side.gone or {}
        blocks = {name: block for block in self.form.blocks for name in block.names}
        found = []
        for known in self.entity.fields:
            now = row.get(known.name)
            block = blocks.get(known.name)
            value = self.form.result(block, known.name) if block else now
            found.append(
                Result(
                    known.name,
                    field_label(self.entity.name, known.name),
                    self._text(known.name, value),
                    self._text(known.name, now),
                    value != now,
                    block.key if block else "",
                )
            )
        return found

    # --- what came before, and what else there is ---

    def history(self) -> list[Change]:
        return [self._change(change) for change in self.past.changes[:CHANGES_SHOWN_MAX]]

    def meanwhile(self, rev: int) -> list[Change]:
        """What was changed after a revision."""
        return [self._change(change) for change in self.past.since(rev)[:CHANGES_SHOWN_MAX]]

    def _change(self, change: History) -> Change:
        old, new = change.old or {}, change.new or {}
        names = [known.name for known in self.entity.fields if known.name in old or known.name in new]
        fields = [self._changed(n, old.get(n), new.get(n)) for n in names] if change.op == "update" else []
        base = self.conflict.base_rev or 0
        return Change(
            change.rev,
            change.at,
            change.op,
            self.past.name(change),
            fields,
            base < change.rev <= (self.conflict.server_rev or 0),
        )

    def _changed(self, name: str, old: Any, new: Any) -> tuple[str, str, str]:
        """Label, old and new value; of long texts there is only the new one, with the change marked in it."""
        label, before, after = field_label(self.entity.name, name), self._text(name, old), self._text(name, new)
        if max(len(before), len(after)) > SHORT_CHARS:
            return label, "", excerpt(before, after)
        return label, before, after

    def decisions(self) -> list[Decision]:
        return list(self.conflict.decisions.order_by("-at", "-rev"))

    def same_row(self) -> list[Line]:
        """Other conflicts of the same row that wait."""
        others = Conflict.objects.filter(entity=self.conflict.entity, row_id=self.conflict.row_id, state="open")
        return lines(list(others.exclude(pk=self.conflict.pk)[:OTHERS_SHOWN_MAX]), self.viewable)

    def group(self) -> dict[str, list[Any]]:
        """The other members of its group that the user may see."""
        if self.conflict.group is None:
            return {}
        of_group = {"group": self.conflict.group, "device": self.conflict.device}
        conflicts = visible(self.user, Conflict.objects.filter(**of_group).exclude(pk=self.conflict.pk))
        rejections = visible(self.user, Rejection.objects.filter(**of_group))
        conflicts, rejections = conflicts[:OTHERS_SHOWN_MAX], rejections[:OTHERS_SHOWN_MAX]
        return {"conflicts": lines(list(conflicts), self.viewable), "rejections": list(rejections)}

    def alike(self) -> int:
        """How many other open conflicts are about the same fields, from the same device."""
        if not self.open or not self.conflict.fields:
            return 0
        same = {"entity": self.conflict.entity, "device": self.conflict.device, "fields": self.conflict.fields}
        return Conflict.objects.filter(state="open", **same).exclude(pk=self.conflict.pk).count()


def _listed(names: Iterable[str]) -> str:
    """Names as a sentence has them, each once."""
    *first, last = [*dict.fromkeys(names)] or [""]
    return f"{', '.join(first)} and {last}" if first else last
