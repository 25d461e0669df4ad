"""The form of a decision: for each field (or unit of fields) at stake, whose value shall stand, or one of one's own."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings

from sync.merge import same
from sync.models import Conflict
from sync.mutation import Error
from sync.pages.own_values import own_field, own_possible, to_wire
from sync.stakes import UNWRITTEN, Stakes, kinds_of
from sync.wire import entities

WHOLE_ROW = "whole-row"
SIDES = ("base", "server", "device", "now")
ROW_PICKS = ("server", "device")


@dataclass(frozen=True)
class Block:
    """Fields that are decided as one: one field, or those at stake of a unit."""

    names: tuple[str, ...]
    disputed: bool

    @property
    def key(self) -> str:
        return f"pick-{self.names[0]}"


def blocks_of(stakes: Stakes) -> list[Block]:
    """The blocks in the order of the model, those in dispute first."""
    known = entities().get(stakes.conflict.entity)
    units = known.declaration.units if known else ()
    found: dict[tuple[str, ...], Block] = {}
    for name in stakes.names:
        unit = next((unit for unit in units if name in unit), (name,))
        names = tuple(each for each in stakes.names if each in unit)
        found.setdefault(names, Block(names, bool(stakes.disputed & {*names})))
    return sorted(found.values(), key=lambda block: not block.disputed)


class DecisionForm(forms.Form):
    """What a person decides about one conflict. `values` is what `resolve` is to write, once the form is valid.

    The sides are `base`, `server`, `device` and, where a decision made something else of the row, `now`. Until a person
    or a policy has taken the device's values, the server's are those of the row now; then those when the device came.
    """

    comment = forms.CharField(
        required=False,
        max_length=settings.SYNC_COMMENT_CHARS_MAX,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "Why? The device is told, and it stays on record."}),
    )
    rev = forms.IntegerField(widget=forms.HiddenInput)
    seen = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, stakes: Stakes, viewable: Container[str], data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial={"rev": stakes.rev, "seen": stakes.seen})
        self.stakes = stakes
        self.entity = entities()[stakes.conflict.entity]
        self.kinds = kinds_of(self.entity.name)
        self.values: Mapping[str, Any] | None = {}
        self.blocks = blocks_of(stakes) if self.by_field else []
        if self.whole_row:
            self.fields[WHOLE_ROW] = _pick_field(ROW_PICKS, self._first_whole_row())
        for block in self.blocks:
            # What a row holds that shall not be there does not matter.
            first, required = self._first_pick(block), not self.whole_row
            self.fields[block.key] = _pick_field(self.sides(block), first, required)
            for name in block.names:
                if (field := own_field(self.entity, name, self._first_value(name), viewable)) is not None:
                    self.fields[f"own-{name}"] = field

    # --- what can be picked ---

    @property
    def whole_row(self) -> bool:
        """Whether it is at stake that there is such a row, since one side deleted it."""
        stakes = self.stakes
        return stakes.row_deleted or stakes.conflict.op == "delete" or stakes.server_then is None

    @property
    def by_field(self) -> bool:
        """Whether fields can be picked: not where the device had nothing to say but that the row shall go."""
        return self.stakes.conflict.op != "delete"

    def side(self, side: str) -> Mapping[str, Any]:
        """A side's values by field; none of a side that has no row."""
        stakes = self.stakes
        unwritten = stakes.conflict.state in UNWRITTEN
        match side:
            case "base":
                return stakes.base or {}
            case "device":
                return stakes.device
            case "now":
                return (stakes.server or {}) if not unwritten else {}
        return (stakes.server if unwritten else stakes.server_side) or {}

    def sides(self, block: Block) -> list[str]:
        """What can be picked for a block."""
        told = [side for side in SIDES if all(name in self.side(side) for name in block.names)]
        if "now" in told and self._now_is(block, ("server", "device", "base")):
            told.remove("now")
        return [*told, "own"] if all(own_possible(self.entity, name) for name in block.names) else told

    def standing(self, block: Block) -> str:
        """The side whose values the row has now; "" where the row is not there, or has others."""
        return self._now_is(block, ("server", "device", "base", "now"))

    def _now_is(self, block: Block, sides: Iterable[str]) -> str:
        now = self.stakes.server
        return next((side for side in sides if now and self._alike(block, self.side(side), now)), "")

    def _alike(self, block: Block, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(n in one and n in other and same(self.kinds[n], one[n], other[n]) for n in block.names)

    def agreed(self, block: Block) -> bool:
        """Whether the row has by now what the device sent."""
        return bool(self.stakes.server) and self._alike(block, self.stakes.device, self.stakes.server or {})

    @property
    def whole_row_errors(self) -> list[str]:
        return [str(error) for error in self.errors.get(WHOLE_ROW, ())]

    # --- what is picked, before anybody does and after ---

    def picked(self, key: str) -> str:
        """The side that is picked for a block (or WHOLE_ROW), as the page is shown: "" for none."""
        return str(self[key].value() or "") if key in self.fields else ""

    def result(self, block: Block, name: str) -> Any:
        """The value that a field gets by the pick as the page is shown; that of the row now where there is none."""
        pick = self.picked(block.key)
        if pick == "own":
            return self.own(name) if self.is_bound else self._first_value(name)
        values = self.side(pick) if pick else self.stakes.server or self.stakes.device
        return values.get(name)

    def _first_pick(self, block: Block) -> str:
        if self.stakes.row_deleted:
            return "device"
        if self.stakes.conflict.state != Conflict.State.OPEN or self.agreed(block):
            return self.standing(block)
        if block.disputed:
            return ""
        return "device" if self._now_is(block, ("base",)) else "server"

    def _first_whole_row(self) -> str:
        if self.stakes.conflict.state == Conflict.State.OPEN:
            return ""
        row_is_as_the_device_wants = self.stakes.row_deleted == (self.stakes.conflict.op == "delete")
        return "device" if row_is_as_the_device_wants else "server"

    def _first_value(self, name: str) -> Any:
        """What one's own value starts from."""
        return (self.stakes.server if self.stakes.server is not None else self.stakes.device).get(name)

    # --- what is sent ---

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        row, deletes = cleaned.get(WHOLE_ROW), self.stakes.conflict.op == "delete"
        if row == "device":
            self.values = None if deletes else dict(self._values(cleaned))
        elif row == "server":
            self.values = self._as_the_server_had_it(deletes)
        else:
            self.values = dict(self._values(cleaned))
        return cleaned

    def _as_the_server_had_it(self, deletes: bool) -> Mapping[str, Any] | None:
        """The values for taking the server's side where it is at stake that there is a row."""
        if deletes:
            return self.stakes.server_then or {} if self.stakes.row_deleted else {}
        return {} if self.stakes.row_deleted else None

    def _values(self, cleaned: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """What is other than in the row now, of a unit all of it: that alone is written, and held against the rules."""
        now = self.stakes.server or {}
        for block in self.blocks:
            pick = cleaned.get(block.key) or ("device" if self.stakes.row_deleted else "")
            given = {name: self._given(pick, name) for name in block.names} if pick else {}
            if any(name not in now or not same(self.kinds[name], value, now[name]) for name, value in given.items()):
                yield from given.items()

    def _given(self, pick: str, name: str) -> Any:
        return self.own(name) if pick == "own" else self.side(pick).get(name)

    def own(self, name: str) -> Any:
        """One's own value in wire form; where it is no value of the field, as it was typed."""
        key, cleaned = f"own-{name}", getattr(self, "cleaned_data", {})
        found = self.entity.field(name)
        return to_wire(found, cleaned[key]) if found and key in cleaned else self[key].value()

    def _clean_fields(self) -> None:
        """Look only at those of one's own values that are picked: the others are not meant."""
        kept = self.fields
        unmeant = {f"own-{name}" for b in self.blocks if self.data.get(b.key) != "own" for name in b.names}
        self.fields = {name: field for name, field in kept.items() if name not in unmeant}
        try:
            super()._clean_fields()  # type: ignore[misc]  # Django's own hook, without a type
        finally:
            self.fields = kept

    def refuse(self, errors: Iterable[Error]) -> None:
        """Show what was wrong with the values beside their fields."""
        for found in errors:
            block = next((b for b in self.blocks if found.field in b.names), None)
            self.add_error(block.key if block else None, found.message)


def _pick_field(sides: Iterable[str], first: str, required: bool = True) -> forms.ChoiceField:
    told = "Choose what shall stand."
    choices = [(side, side) for side in sides]
    messages = {"required": told, "invalid_choice": told}
    return forms.ChoiceField(choices=choices, required=required, initial=first, error_messages=messages)
