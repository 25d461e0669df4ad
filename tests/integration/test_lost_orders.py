"""What a restore has lost comes back in any order, by chance: edits, amounts, deletes, rows that came back or anew."""

from random import Random
from typing import Any
from uuid import UUID

import pytest

from entities.models import Contact, Product
from tests.integration.sync_support import Row, TestDevice, delete, new_id, update
from tests.integration.test_lost import Backup, lost

pytestmark = pytest.mark.django_db(transaction=True)

SEEDS, DEVICES, STEPS = 30, 3, 7
# The second has a counter, and a row that was deleted stays so whoever edits it; that of the first comes back.
FIELDS = {"contact": ("first_name", "title", "phone"), "product": ("name", "category")}
COUNTER = "units_in_stock"


class Scene:
    """Devices that know all and change one row, one after the other; `offers` is what they did since the backup."""

    def __init__(self, entity: str, rng: Random) -> None:
        self.entity, self.rng, self.fields = entity, rng, FIELDS[entity]
        self.devices = [TestDevice() for _ in range(DEVICES)]
        row = {"id": UUID(new_id()), self.fields[0]: "first"}
        made = Contact.objects.create(**row) if entity == "contact" else Product.objects.create(code="1", **row)
        self.row = str(made.pk)
        self.rev = self.edited = 1  # the row's revision, and the last at which it was not deleted
        self.alive = True
        self.deleted_by: int | None = None
        self.offers: list[list[Row]] = []
        self.log: list[str] = []

    def begin(self, steps: int) -> None:
        """Let devices work without a record of it."""
        self.offers = [[] for _ in self.devices]
        for _ in range(steps):
            self.step()
        self.offers = [[] for _ in self.devices]
        self.log.append("backup")

    def step(self) -> None:
        at = self.rng.randrange(DEVICES)
        mutation = self._mutation(at)
        told = {name: mutation[name] for name in ("op", "base", "set", "add") if name in mutation}
        (result,) = self.devices[at].push(mutation)
        self.log.append(f"device {at}: {told} → {result['status']}, revision {result['rev']}")
        assert result["status"] in {"applied", "merged"}, "\n".join(self.log)
        self.offers[at].append(lost(mutation, result["rev"]))
        self.rev, self.alive = result["rev"], mutation["op"] != "delete"
        self.edited = self.rev if self.alive else self.edited
        self.deleted_by = None if self.alive else at

    def _mutation(self, at: int) -> Row:
        if self.alive:
            return delete(self.row, self.rev, self.entity) if self.rng.random() < 0.25 else self._edit(self.rev)
        if self.entity == "contact" and at != self.deleted_by and self.rng.random() < 0.7:
            return self._edit(self.edited)  # by somebody who has not heard that it is gone
        anew = {"id": new_id(), "entity": self.entity, "row": self.row, "op": "create", "base": None}
        return anew | {"set": {self.fields[0]: "anew"} | self._some()}

    def _some(self) -> Row:
        return {name: f"{name} {self.rng.randrange(1000)}" for name in self.fields if self.rng.random() < 0.5}

    def _edit(self, base: int) -> Row:
        edit = update(self.row, base, self.entity, **self._some())
        if self.entity == "product" and self.rng.random() < 0.5:
            edit["add"] = {COUNTER: self.rng.randint(1, 9)}
        if not edit["set"] and "add" not in edit:
            edit["set"] = {self.fields[-1]: "edited"}
        return edit

    def bring_back(self) -> None:
        """Each device offers what it has in its own order, at once or one by one, between those of the others."""
        left = [list(offers) for offers in self.offers]
        while any(left):
            at = self.rng.choice([at for at, offers in enumerate(left) if offers])
            count = self.rng.choice((1, len(left[at])))
            offered, left[at] = left[at][:count], left[at][count:]
            statuses = self.devices[at].statuses(*offered)
            self.log.append(f"device {at} offers {[offer['lost'] for offer in offered]}: {statuses}; {self.state()}")

    def state(self) -> dict[str, Any] | None:
        model = Contact if self.entity == "contact" else Product
        names = [*self.fields, *([COUNTER] if self.entity == "product" else ())]
        found = list(model._default_manager.filter(pk=self.row).values_list(*names))
        return dict(zip(names, found[0], strict=True)) if found else None


@pytest.mark.slow
@pytest.mark.protocol("R2")
@pytest.mark.parametrize("entity", list(FIELDS))
@pytest.mark.parametrize("seed", range(SEEDS))
def test_lost_changes_of_a_row_come_to_what_was_there_in_any_order(entity: str, seed: int) -> None:
    scene = Scene(entity, Random(f"{entity} {seed}"))
    scene.begin(scene.rng.randint(0, 3))
    backup = Backup()
    for _ in range(STEPS):
        scene.step()
    before = scene.state()
    scene.log.append(f"restored, was {before}")
    backup.restore()
    for _ in range(2):
        scene.bring_back()
        assert scene.state() == before, "\n".join(scene.log)
