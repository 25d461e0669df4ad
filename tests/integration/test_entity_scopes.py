"""Who has which rows of the entities that ship: employees with those who report to them, customers by country."""

import pytest
from django.core.exceptions import ValidationError

from devices.models import validate_scope
from entities.models import Contact, Customer, Employee
from tests.integration.sync_support import TestDevice, codes, create, employee, feed, new_customer, update

pytestmark = pytest.mark.django_db(transaction=True)


def test_employee_is_with_themselves_and_with_the_one_they_report_to() -> None:
    andrew, steven, michael = employee(2), employee(5), employee(6)
    Employee.objects.filter(pk=steven).update(reports_to=andrew)
    Employee.objects.filter(pk=michael).update(reports_to=steven)
    tablets = {who: TestDevice(f"employee:{who}") for who in (andrew, steven, michael)}
    both = TestDevice(f"employee:{andrew}", f"employee:{steven}")
    for device in (*tablets.values(), both):
        device.pull()
    assert set(tablets[andrew].rows) == {("employee", andrew), ("employee", steven)}
    assert set(tablets[steven].rows) == {("employee", steven), ("employee", michael)}
    assert set(tablets[michael].rows) == {("employee", michael)}
    assert set(both.of("employee")) == {andrew, steven, michael}

    Employee.objects.filter(pk=michael).update(reports_to=andrew)
    for device in (*tablets.values(), both):
        device.pull()
    assert set(tablets[andrew].of("employee")) == {andrew, steven, michael}
    assert set(tablets[steven].of("employee")) == {steven}
    assert set(both.of("employee")) == {andrew, steven, michael}


def test_customer_that_moves_abroad_leaves_the_devices_of_one_country_for_those_of_the_other() -> None:
    row = str(new_customer(country="UK").pk)
    britain, france = TestDevice("country:UK"), TestDevice("country:France")
    both = TestDevice("country:UK", "country:France")
    for device in (britain, france, both):
        device.pull()
    assert [len(device.rows) for device in (britain, france, both)] == [1, 0, 1]
    Customer.objects.update(country="France")
    assert both.page(both.token)["changes"]["customer"]["deletes"] == []
    for device in (britain, france, both):
        device.pull()
    assert [row in device.of("customer") for device in (britain, france, both)] == [False, True, True]


def test_device_moves_a_customer_between_its_own_countries_only() -> None:
    row = str(new_customer(country="UK").pk)
    device = TestDevice("country:UK", "country:France")
    assert device.statuses(update(row, 1, "customer", country="France")) == ["applied"]
    for abroad in ("Chile", ""):
        (told,) = device.push(update(row, 2, "customer", country=abroad))
        assert (told["status"], codes(told)) == ("rejected", [(None, "forbidden_scope")])
    assert Customer.objects.get().country == "France"


def test_customer_without_a_country_is_on_no_device() -> None:
    row = str(new_customer(country="").pk)
    (scope,) = feed(row)
    with pytest.raises(ValidationError):
        validate_scope(scope)
    made = create("customer", name="C", country="")
    (told,) = TestDevice().push(made)
    assert (told["status"], codes(told)) == ("rejected", [(None, "forbidden_scope")])


def test_contact_of_a_customer_abroad_can_be_edited_but_none_can_be_given_to_that_customer() -> None:
    abroad = new_customer(country="Chile")
    row = str(Contact.objects.create(first_name="Ana", customer=abroad).pk)
    device = TestDevice()
    device.pull()
    assert device.of("contact")[row]["customer_id"] == str(abroad.pk) and device.of("customer") == {}
    edited, given = device.push(update(row, 1, note="called"), create(first_name="Eva", customer_id=str(abroad.pk)))
    assert edited["status"] == "applied"
    assert codes(given) == [("customer_id", "missing_reference")]
