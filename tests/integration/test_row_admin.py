"""The pages of one row: what became of it, which devices have it, and going back to a version, by who may."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from devices.models import Device
from entities.models import Contact, Order, Product
from sync.models import History
from sync.pages import timeline
from sync.wire import entities
from tests.integration.conflict_support import disputed, rev_of
from tests.integration.pages_support import EVIL, clerk, shown, text
from tests.integration.sync_support import TestDevice, contact, create, delete, new_customer, update

pytestmark = pytest.mark.django_db


def address(row: object, *more: object, entity: str = "contact") -> str:
    return "/".join(["/admin/entities", entity, str(row), "history", *map(str, more), ""])


def edited() -> str:
    """A contact in three versions: Ana, Eva with a note, Ina."""
    row = contact("Ana")
    Contact.objects.filter(pk=row).update(first_name="Eva", note=f"call on Monday {EVIL}")
    Contact.objects.filter(pk=row).update(first_name="Ina", note=f"call on Friday {EVIL}")
    return row


def restore(client: Client, row: str, version: int, rev: object) -> Any:
    return client.post(address(row, version, "restore"), {"rev": str(rev)}, follow=True)


# --- the timeline


def test_timeline_marks_what_changed_within_a_text(admin_client: Client) -> None:
    found = shown(admin_client, address(edited()))
    assert "call on <del>Monday</del><ins>Friday</ins>" in found
    assert "Version 3 · as it is now" in found


def test_timeline_shows_what_a_row_was_created_with(admin_client: Client) -> None:
    row = edited()
    page = timeline.timeline(entities()["contact"], uuid.UUID(row))
    assert [(c.name, c.new) for c in page.changes[-1].fields] == [("first_name", "Ana")]


def test_timeline_names_choices_and_rows_that_are_referred_to(admin_client: Client) -> None:
    first, other = new_customer(name="Alfreds"), new_customer(name="Ernst")
    order = Order.objects.create(customer=first, ordered_on="2026-11-21")
    Order.objects.update(customer=other, status="shipped")
    found = shown(admin_client, address(order.pk, entity="order"))
    for told in ("Alfreds", "Ernst", "Draft", "Shipped"):
        assert told in found


def test_timeline_of_many_changes_is_paged(admin_client: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(timeline, "CHANGES_MAX", 2)
    row = edited()
    newest = shown(admin_client, address(row))
    assert "Version 3" in newest
    assert "Version 1" not in newest
    oldest = shown(admin_client, f"{address(row)}?before=2")
    assert "Version 1" in oldest
    assert "Ana" in oldest
    for odd in ("x", "-1", "9" * 40, ""):
        shown(admin_client, f"{address(row)}?before={odd}")


def test_timeline_takes_the_same_queries_for_many_changes(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    row, device = contact("Ana"), TestDevice()
    for number in range(20):
        device.push(update(row, number + 1, first_name=f"Ana {number}"))
    with django_assert_max_num_queries(16):
        assert "Version 21" in shown(admin_client, address(row))


def test_versions_of_a_row_that_came_back_are_kept_apart() -> None:
    row = contact("Ana")
    Contact.objects.update(note="one")
    Contact.objects.all().delete()
    Contact.objects.create(pk=row, first_name="Eva")
    found = timeline.values_at(entities()["contact"], uuid.UUID(row), [1, 2, 4])
    assert [(found[rev]["first_name"], found[rev]["note"]) for rev in (1, 2, 4)] == [
        ("Ana", ""),
        ("Ana", "one"),
        ("Eva", ""),
    ]


def test_timeline_leads_to_conflicts_and_rejections(admin_client: Client) -> None:
    device = TestDevice()
    row, conflict = disputed(device)
    (refused,) = device.push(update(row, 2, email="no address"))
    assert refused["status"] == "rejected"
    found = shown(admin_client, address(row))
    assert f"/admin/sync/conflict/{conflict.pk}/change/" in found
    assert "Refused update: Enter a valid email address." in found


def test_timeline_hides_conflicts_and_devices_from_who_may_not_see_them() -> None:
    device = TestDevice()
    row, _ = disputed(device)
    device.push(update(row, 2, email="no address"))
    found = shown(clerk("entities.view_contact"), address(row))
    for told in ("Conflict over", "Refused update", "On devices", "Restore this version", "/admin/devices/"):
        assert told not in found


# --- where it is


def held(*devices: tuple[str, int | None, int | None]) -> None:
    """Devices with these names; how many minutes ago they called, and how many mutations wait there."""
    for name, minutes, pending in devices:
        made = TestDevice().device
        made.name, made.pending = name, pending
        made.last_seen_at = None if minutes is None else timezone.now() - timedelta(minutes=minutes)
        made.save()


def test_row_page_tells_which_devices_called_after_the_change(admin_client: Client) -> None:
    row = contact()
    History.objects.filter(row_id=row).update(at=timezone.now() - timedelta(minutes=10))
    held(("up to date", 5, 0), ("behind", 20, 3), ("new", None, None))
    Device.objects.create(name="revoked", token_hash=b"1", revoked_at=timezone.now())
    Device.objects.create(name="of another scope", token_hash=b"2")
    found = shown(admin_client, address(row))
    for told in ("1 of 3", "5 minutes ago</time>, after the change", "20 minutes ago</time>, before the change"):
        assert told in found
    assert "has never called" in found
    assert "3 waiting in its outbox" in found
    assert "of another scope" not in found


def test_device_that_made_the_change_has_it(admin_client: Client) -> None:
    device = TestDevice()
    mutation = create()
    device.push(mutation)
    assert "made the last change itself" in shown(admin_client, address(mutation["row"]))


def test_row_page_shows_the_first_of_many_devices(admin_client: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(timeline, "DEVICES_MAX", 2)
    held(*((f"device {number}", 5, 0) for number in range(5)))
    assert "and 3 more that have it" in shown(admin_client, address(contact()))


# --- going back


def test_version_is_restored_by_the_user(admin_client: Client) -> None:
    row = edited()
    preview = shown(admin_client, address(row, 2, "restore"))
    assert "call on <del>Friday</del><ins>Monday</ins>" in preview
    found = text(restore(admin_client, row, 2, 3))
    assert "Version 2 is restored" in found
    restored = Contact.objects.get()
    assert (restored.first_name, restored.note) == ("Eva", f"call on Monday {EVIL}")
    assert History.objects.get(row_id=row, rev=4).author == "user:admin"


def test_deleted_row_comes_back_with_what_devices_never_saw(admin_client: Client) -> None:
    product = Product.objects.create(code="1", name="Chai", unit_cost="3.5")
    row = str(product.pk)
    product.delete()
    where = f"/admin/entities/product/{row}/history/1/restore/"
    assert "is made again" in shown(admin_client, where)
    admin_client.post(where, {"rev": "2"})
    assert str(Product.objects.get(pk=row).unit_cost) == "3.5000"


def test_deleted_row_is_called_what_it_was(admin_client: Client) -> None:
    row = contact("Ana")
    Contact.objects.all().delete()
    found = shown(admin_client, address(row))
    assert "Ana" in found
    assert "was deleted" in found


def test_row_that_moved_is_not_restored_unseen(admin_client: Client) -> None:
    row = edited()
    answer = restore(admin_client, row, 2, 2)
    assert answer.status_code == 409
    assert "The row has moved since you looked at it." in text(answer)
    assert Contact.objects.get().first_name == "Ina"
    assert 'name="rev" value="3"' in text(answer)


@pytest.mark.parametrize("rev", ["", "x", "-3", "9" * 40, "3.0"])
def test_restore_without_a_revision_writes_nothing(rev: str, admin_client: Client) -> None:
    assert restore(admin_client, edited(), 2, rev).status_code == 409
    assert Contact.objects.get().first_name == "Ina"


def test_version_that_the_rules_refuse_now_is_told(admin_client: Client) -> None:
    one = Product.objects.create(code="1", name="Chai")
    Product.objects.filter(pk=one.pk).update(code="2")
    Product.objects.create(code="1", name="Chang")
    answer = admin_client.post(f"/admin/entities/product/{one.pk}/history/1/restore/", {"rev": "2"})
    assert answer.status_code == 200
    assert "This version cannot be restored as it was." in text(answer)
    assert "Code" in text(answer)


@pytest.mark.parametrize("version", [0, 3, 4, 99, 2**62, 2**70])
def test_only_an_earlier_version_can_be_restored(version: int, admin_client: Client) -> None:
    row = edited()
    assert admin_client.get(address(row, version, "restore")).status_code == 404
    assert admin_client.get(address("nonsense", 1, "restore")).status_code == 404
    assert rev_of(row) == 3


def test_deletion_is_no_version(admin_client: Client) -> None:
    device, row = TestDevice(), contact()
    device.push(delete(row, 1))
    Contact.objects.create(pk=row, first_name="Eva")
    assert admin_client.get(address(row, 2, "restore")).status_code == 404


@pytest.mark.parametrize(
    ("permissions", "there", "gone"),
    [
        ((), 403, 403),
        (("entities.view_contact",), 403, 403),
        (("entities.change_contact",), 200, 403),
        (("entities.change_contact", "entities.add_contact"), 200, 200),
    ],
)
def test_who_may_restore(permissions: tuple[str, ...], there: int, gone: int) -> None:
    row, deleted = edited(), contact("Paula")
    Contact.objects.filter(pk=deleted).delete()
    client = clerk(*permissions)
    assert client.get(address(row, 2, "restore")).status_code == there
    assert client.get(address(deleted, 1, "restore")).status_code == gone
    assert (client.post(address(row, 2, "restore"), {"rev": "3"}).status_code == 302) == (there == 200)
    assert Contact.objects.filter(pk=row, first_name="Eva").exists() == (there == 200)
