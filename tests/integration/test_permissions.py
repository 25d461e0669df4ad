"""Who may see and decide what."""

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User

from entities.models import Contact, Employee
from sync import permissions
from sync.models import Conflict, Decision, History, Outcome, Rejection
from tests.integration.conflict_support import BOSS, conflict
from tests.integration.sync_support import TestDevice, contact, employee, new_customer

pytestmark = pytest.mark.django_db


def user(*names: str) -> User:
    made = User.objects.create_user(f"u{uuid4()}")
    for name in names:
        app, _, codename = name.partition(".")
        made.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return made


def in_conflict(entity: str = "contact") -> Conflict:
    row = contact() if entity == "contact" else employee(1)
    return conflict(TestDevice(), row, {"first_name": "Ina"}, {"first_name": "Ana"}, entity=entity)


def rejection(entity: str, op: str = "update") -> Rejection:
    return Rejection.objects.create(
        mutation=uuid4(), digest=uuid4(), device=uuid4(), entity=entity, row_id=uuid4(), op=op, body="{}", errors=[]
    )


def test_conflict_is_seen_with_both_permissions_only() -> None:
    found = in_conflict()
    for names, seen in (
        ([], False),
        (["sync.view_conflict"], False),
        (["entities.view_contact"], False),
        (["sync.view_conflict", "entities.view_customer"], False),
        (["sync.view_conflict", "entities.view_contact"], True),
        (["sync.change_conflict", "entities.change_contact"], True),
    ):
        who = user(*names)
        assert permissions.may_view(who, found) == seen, names
        assert permissions.visible(who, Conflict.objects.all()).exists() == seen, names


def test_lists_hold_the_entities_that_the_person_may_see() -> None:
    seen, other = in_conflict(), in_conflict("employee")
    for each in (seen, other):
        Decision.objects.create(conflict=each, by=BOSS, state="server", state_before="open")
    rejection("contact"), rejection("employee"), rejection("kontact")
    who = user("sync.view_conflict", "sync.view_rejection", "entities.view_contact")
    for model in (Conflict, Rejection, History, Outcome):
        found = permissions.visible(who, model._default_manager.all())
        assert set(found.values_list("entity", flat=True)) <= {"contact"}, model
        assert found.exists() or model is Outcome
    assert permissions.visible(who, Decision.objects.all()).get().conflict == seen
    assert permissions.viewable_entities(who) == {"contact"}


def test_what_names_no_entity_is_seen_by_those_who_see_everything() -> None:
    odd = rejection("kontact")
    assert not permissions.may_view(user("sync.view_rejection", "entities.view_contact"), odd)
    boss = User.objects.create_superuser("root")
    assert permissions.may_view(boss, odd)
    assert odd in permissions.visible(boss, Rejection.objects.all())


def test_decision_that_deletes_or_creates_needs_that_permission_too() -> None:
    found = in_conflict()
    change = ["sync.change_conflict", "entities.change_contact"]
    who = user(*change)
    assert permissions.may_decide(who, found)
    assert not permissions.may_decide(who, found, deletes=True)
    assert not permissions.may_decide(who, found, creates=True)
    assert permissions.may_decide(user(*change, "entities.delete_contact"), found, deletes=True)
    assert permissions.may_decide(user(*change, "entities.add_contact"), found, creates=True)
    assert not permissions.may_decide(user("sync.view_conflict", "entities.change_contact"), found)
    assert not permissions.may_decide(user("sync.change_conflict", "entities.view_contact"), found)


def test_replay_needs_the_permission_for_what_the_mutation_does() -> None:
    change = ["sync.change_rejection", "entities.change_contact"]
    assert permissions.may_mend(user(*change), [rejection("contact")])
    assert not permissions.may_mend(user(*change), [rejection("contact"), rejection("contact", "create")])
    assert permissions.may_mend(user(*change, "entities.add_contact"), [rejection("contact", "create")])
    assert not permissions.may_mend(user(*change), [rejection("contact", "delete")])


def test_nobody_and_who_is_not_active_may_do_nothing() -> None:
    found = in_conflict()
    gone = User.objects.create_superuser("root", is_active=False)
    for who in (AnonymousUser(), gone):
        assert not permissions.may_view(who, found)
        assert not permissions.may_decide(who, found)
        assert not permissions.visible(who, Conflict.objects.all()).exists()


def test_delete_that_takes_other_rows_along_needs_the_permission_for_them_too() -> None:
    customer, who = new_customer(name="A"), employee(1)
    Employee.objects.create(number=2, first_name="B", last_name="B", reports_to_id=who)
    sent: dict[str, Any] = {"op": "delete", "state": "server"}
    about_customer = conflict(TestDevice(), str(customer.pk), {}, {"name": "A"}, entity="customer", **sent)
    about_employee = conflict(TestDevice(), who, {}, {"number": 1}, entity="employee", **sent)
    of_customer = ["sync.change_conflict", "entities.change_customer", "entities.delete_customer"]
    of_employee = ["sync.change_conflict", "entities.change_employee", "entities.delete_employee"]
    assert permissions.may_decide(user(*of_customer), about_customer, deletes=True)
    Contact.objects.create(first_name="Ana", customer=customer)
    assert not permissions.may_decide(user(*of_customer), about_customer, deletes=True)
    assert permissions.may_decide(user(*of_customer, "entities.delete_contact"), about_customer, deletes=True)
    assert permissions.may_decide(user(*of_employee), about_employee, deletes=True)
    mend = ["sync.change_rejection", "entities.change_customer", "entities.delete_customer"]
    refused = rejection("customer", "delete")
    refused.row_id = customer.pk
    assert not permissions.may_mend(user(*mend), [refused])
    assert permissions.may_mend(user(*mend, "entities.delete_contact"), [refused])
