"""What is newer than a mutation that is replayed stays, whoever replays it and whenever it came."""

import pytest

from entities.models import Contact
from sync.models import Rejection
from sync.quarantine import replay
from tests.integration.conflict_support import BOSS
from tests.integration.sync_support import TestDevice, create, new_id, update

pytestmark = pytest.mark.django_db(transaction=True)


def test_replay_leaves_what_the_device_changed_later_in_the_same_batch_and_not_what_it_changed_before() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    edits = [
        update(row, 1, first_name="before", phone="before"),
        update(row, 1, first_name="Ina", phone="7", email="x"),
        update(row, 1, first_name="after"),
    ]
    assert device.statuses(*edits) == ["applied", "rejected", "applied"]
    (done,) = replay(Rejection.objects.get().pk, {"first_name": "Ina", "phone": "7", "email": "a@b.com"}, author=BOSS)
    assert (done.status, done.overtaken) == ("applied", ("first_name",))
    assert Contact.objects.values_list("first_name", "phone", "email").get() == ("after", "7", "a@b.com")


def test_replay_of_a_create_leaves_the_row_that_the_device_has_made_since() -> None:
    device, row = TestDevice(), new_id()
    bad = create(row=row, first_name="Ana", phone="1", email="x"), update(row, None, phone="2")
    assert device.statuses(*bad) == ["rejected", "rejected"]
    assert device.statuses(create(row=row, first_name="Ina", phone="3")) == ["applied"]
    rejection = Rejection.objects.get(op="create")
    found = replay(rejection.pk, {"first_name": "Ana", "phone": "1", "email": "a@b.com"}, author=BOSS)
    assert [(each.status, each.overtaken) for each in found] == [
        ("applied", ("first_name", "phone")),
        ("applied", ("phone",)),
    ]
    assert Contact.objects.values_list("first_name", "phone", "email").get() == ("Ina", "3", "a@b.com")
