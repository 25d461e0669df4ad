"""Scopes along several foreign keys, in several scopes at once, and grants by rows of a deployment's own models."""

from collections.abc import Callable, Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import models, transaction

from devices.models import Device, Grant
from sync import declare
from sync.checks import check_declarations
from sync.declare import grants, scope, synced
from sync.install import out_of_date
from tests.integration.model_support import installed, key_to, model
from tests.integration.sync_support import TestDevice, beside, codes, feed, sql, update

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def shop(django_db_setup: None, django_db_blocker: Any) -> Iterator[SimpleNamespace]:
    """Regions have shops, shops have tills, tills have slips; people work in regions."""
    with django_db_blocker.unblock():
        region = model("Region", name=models.CharField(max_length=20), country=models.CharField(max_length=2))
        shop = model(
            "Shop",
            name=models.CharField(max_length=20),
            region=key_to(region),
            open_to=models.CharField(max_length=9, default=""),
        )
        till = model("Till", number=models.IntegerField(), shop=key_to(shop, null=True))
        slip = model("Slip", total=models.IntegerField(), till=key_to(till))
        person = model("Person", name=models.CharField(max_length=20), user=key_to(User, null=True))
        work = model("Work", person=key_to(person), region=key_to(region))
        duty = model("Duty", device=key_to(Device), shop=key_to(shop))
        synced(scopes=[scope("country", "country")])(region)
        synced(scopes=[scope("region", "region_id"), scope("country", "region__country")])(shop)
        synced(scopes=[scope("shop", "shop_id"), scope("country", "shop__region__country")])(till)
        synced(
            scopes=[scope("till", "till_id"), scope("shop", "till__shop_id"), scope("region", "till__shop__region_id")]
        )(slip)
        grants("region", "region_id", to="person__user_id")(work)
        grants("shop", "shop_id", to="device_id")(duty)
        grants("country", "shop__region__country", to="device_id")(duty)
        made = [region, shop, till, slip, person, work, duty]
        with installed(made):
            yield SimpleNamespace(**{each.__name__.lower(): each._default_manager for each in made})


@pytest.fixture
def rows(shop: SimpleNamespace) -> SimpleNamespace:
    """One of each in the north, and an empty south."""
    north, south = (shop.region.create(name=name, country=country) for name, country in (("N", "SE"), ("S", "IT")))
    store = shop.shop.create(name="A", region=north)
    till = shop.till.create(number=1, shop=store)
    slip = shop.slip.create(total=5, till=till)
    return SimpleNamespace(north=north, south=south, store=store, till=till, slip=slip)


@pytest.fixture(autouse=True)
def emptied(shop: SimpleNamespace) -> Iterator[None]:
    yield
    for name in ("slip", "duty", "till", "work", "shop", "person", "region"):
        getattr(shop, name).all().delete()


def alive(row: Any) -> set[str]:
    return {name for name, (_, there) in feed(str(row.pk)).items() if there}


# --- several levels ---


def test_a_row_is_in_every_scope_that_its_paths_give_it(rows: SimpleNamespace) -> None:
    assert alive(rows.store) == {f"region:{rows.north.pk}", "country:SE"}
    assert alive(rows.till) == {f"shop:{rows.store.pk}", "country:SE"}
    assert alive(rows.slip) == {f"till:{rows.till.pk}", f"shop:{rows.store.pk}", f"region:{rows.north.pk}"}


def test_a_value_at_the_end_of_the_path_moves_all_levels(shop: SimpleNamespace, rows: SimpleNamespace) -> None:
    shop.region.filter(pk=rows.north.pk).update(country="NO")
    assert "country:NO" in alive(rows.store) & alive(rows.till)
    assert "country:SE" not in alive(rows.store) | alive(rows.till)
    assert {rev for rev, _ in feed(str(rows.till.pk)).values()} == {1}


def test_a_row_in_the_middle_of_the_path_that_gets_another_parent_moves_what_is_below(
    shop: SimpleNamespace, rows: SimpleNamespace
) -> None:
    sql("UPDATE entities_shop SET region_id = %s WHERE id = %s", [rows.south.pk, rows.store.pk])
    assert alive(rows.till) == {f"shop:{rows.store.pk}", "country:IT"}
    assert alive(rows.slip) == {f"till:{rows.till.pk}", f"shop:{rows.store.pk}", f"region:{rows.south.pk}"}
    shop.till.filter(pk=rows.till.pk).update(shop=None)
    assert (alive(rows.till), alive(rows.slip)) == ({""}, {f"till:{rows.till.pk}"})


def test_a_region_moves_while_one_of_its_shops_leaves_it(shop: SimpleNamespace, rows: SimpleNamespace) -> None:
    leave = "UPDATE entities_shop SET region_id = %s WHERE id = %s"
    with transaction.atomic():
        shop.region.filter(pk=rows.north.pk).update(country="NO")
        other = beside(lambda other: other.execute(leave, [rows.south.pk, rows.store.pk]))
    other.join()
    assert alive(rows.till) == {f"shop:{rows.store.pk}", "country:IT"}


def test_a_shop_joins_a_region_while_that_moves(shop: SimpleNamespace, rows: SimpleNamespace) -> None:
    join = "UPDATE entities_shop SET region_id = %s WHERE id = %s"
    with transaction.atomic():
        shop.region.filter(pk=rows.south.pk).update(country="MT")
        other = beside(lambda other: other.execute(join, [rows.south.pk, rows.store.pk]))
    other.join()
    assert (alive(rows.store), alive(rows.till)) == (
        {f"region:{rows.south.pk}", "country:MT"},
        {f"shop:{rows.store.pk}", "country:MT"},
    )


def test_a_row_in_two_scopes_of_a_device_is_told_once_and_stays_while_one_is_left(
    shop: SimpleNamespace, rows: SimpleNamespace
) -> None:
    device = TestDevice(f"shop:{rows.store.pk}", f"region:{rows.north.pk}")
    device.pull()
    assert set(device.of("slip")) == {str(rows.slip.pk)}
    device.revoke(f"shop:{rows.store.pk}")
    device.pull()
    assert (set(device.of("slip")), device.of("till")) == ({str(rows.slip.pk)}, {})
    shop.shop.filter(pk=rows.store.pk).update(region=rows.south)
    device.pull()
    assert device.of("slip") == {}


@pytest.mark.protocol("U7")
def test_push_may_not_bring_rows_into_its_scopes_by_moving_what_they_follow(rows: SimpleNamespace) -> None:
    device = TestDevice("country:SE", "country:IT", f"region:{rows.north.pk}", f"region:{rows.south.pk}")
    elsewhere = TestDevice(f"till:{rows.till.pk}", f"shop:{rows.store.pk}", "country:SE", "country:IT")
    (applied,) = device.push(update(str(rows.store.pk), 1, "shop", region_id=str(rows.south.pk)))
    assert applied["status"] == "applied"
    for each in (device, elsewhere):
        each.pull()
    assert set(device.of("slip")) == set(elsewhere.of("slip")) == {str(rows.slip.pk)}
    sql("UPDATE entities_shop SET region_id = %s", [rows.north.pk])
    blind = TestDevice("country:SE", "country:IT", f"region:{rows.south.pk}")
    (refused,) = blind.push(update(str(rows.store.pk), 3, "shop", region_id=str(rows.south.pk)))
    assert codes(refused) == [(None, "forbidden_scope")]
    assert f"region:{rows.north.pk}" in alive(rows.slip)


# --- grants by rows ---


def scopes(device: TestDevice) -> set[str]:
    return set(Device.objects.get(pk=device.id).scopes)


def test_a_row_grants_its_scope_to_the_user_at_the_end_of_its_path(
    shop: SimpleNamespace, rows: SimpleNamespace
) -> None:
    ana, ben = (User.objects.create(username=name) for name in ("ana", "ben"))
    device = TestDevice("global")
    Device.objects.filter(pk=device.id).update(user=ana)
    person = shop.person.create(name="Ana", user=ana)
    work = shop.work.create(person=person, region=rows.north)
    assert scopes(device) == {"global", f"region:{rows.north.pk}"}
    device.pull()
    assert set(device.of("slip")) == {str(rows.slip.pk)}
    sql("UPDATE entities_work SET region_id = %s", [rows.south.pk])
    device.pull()
    assert (device.of("slip"), scopes(device)) == ({}, {"global", f"region:{rows.south.pk}"})
    shop.person.filter(pk=person.pk).update(user=ben)
    assert scopes(device) == {"global"}
    assert set(Grant.objects.exclude(source="").values_list("user__username", "source")) == {
        ("ben", f"work.region:{work.pk}")
    }
    shop.person.filter(pk=person.pk).update(user=ana)
    work.delete()
    assert scopes(device) == {"global"}
    assert not Grant.objects.exclude(source="").exists()


def test_two_rows_that_grant_the_same_are_two_grants(shop: SimpleNamespace, rows: SimpleNamespace) -> None:
    device = TestDevice("global")
    holder = Device.objects.get(pk=device.id)
    first, second = (shop.duty.create(device=holder, shop=rows.store) for _ in range(2))
    assert scopes(device) == {"global", f"shop:{rows.store.pk}", "country:SE"}
    first.delete()
    assert scopes(device) == {"global", f"shop:{rows.store.pk}", "country:SE"}
    second.delete()
    assert scopes(device) == {"global"}


def test_what_a_row_grants_moves_with_what_it_refers_to(shop: SimpleNamespace, rows: SimpleNamespace) -> None:
    device = TestDevice("global")
    shop.duty.create(device=Device.objects.get(pk=device.id), shop=rows.store)
    shop.region.filter(pk=rows.north.pk).update(country="NO")
    assert scopes(device) == {"global", f"shop:{rows.store.pk}", "country:NO"}
    sql("TRUNCATE entities_duty")
    assert scopes(device) == {"global"}


def test_a_row_that_grants_while_its_person_gets_another_user_grants_to_that_one(
    shop: SimpleNamespace, rows: SimpleNamespace
) -> None:
    ana, ben = (User.objects.create(username=name) for name in ("ana", "ben"))
    person = shop.person.create(name="P", user=ana)
    insert = "INSERT INTO entities_work (id, person_id, region_id) VALUES (gen_random_uuid(), %s, %s)"
    with transaction.atomic():
        shop.person.filter(pk=person.pk).update(user=ben)
        other = beside(lambda other: other.execute(insert, [person.pk, rows.north.pk]))
    other.join()
    assert list(Grant.objects.values_list("user__username", flat=True)) == ["ben"]


def test_check_notices_that_grants_would_not_follow(shop: SimpleNamespace) -> None:
    assert out_of_date() == []
    with transaction.atomic():
        sql('ALTER TABLE entities_person DISABLE TRIGGER "sync_follow_work.region_update"')
        assert out_of_date() == ["work.region"]
        transaction.set_rollback(True)


# --- mistakes ---


class Unkept(models.Model):
    loose = models.ForeignKey(User, models.CASCADE, db_constraint=False, related_name="+")
    slow = models.ForeignKey(User, models.CASCADE, db_index=False, related_name="+")
    at = models.DateTimeField()

    class Meta:
        app_label = "tests"

    def __str__(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nothing__id", "follows 'nothing', which is no foreign key of Unkept"),
        ("at__id", "follows 'at', which is no foreign key of Unkept"),
        ("loose__username", "follows 'loose', whose rows PostgreSQL does not keep in step (db_constraint=False)"),
        ("slow__username", "follows 'slow', which has no index"),
        ("at", "names 'at' (DateTimeField), whose values cannot name a scope"),
        ("slow", "names 'slow', which is no column (a foreign key is named with its `_id`)"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_by_check(monkeypatch: pytest.MonkeyPatch, path: str, told: str) -> None:
    monkeypatch.setattr(declare, "_declarations", {})
    monkeypatch.setattr(declare, "_grantings", {})
    synced(scopes=[scope("x", path)])(Unkept)
    grants("x", path, to="slow_id")(Unkept)
    messages = [str(each.msg) for each in check_declarations()]
    assert len([text for text in messages if told in text]) == 2
    grants("y", to="at")(Unkept)
    assert any("names 'at'" in str(each.msg) for each in check_declarations())


# --- moves between the pages of a pull ---


@pytest.mark.parametrize("granted", ["both at first", "one later"])
def test_a_row_that_enters_an_earlier_scope_between_pages_and_leaves_it_is_told(
    shop: SimpleNamespace, rows: SimpleNamespace, granted: str
) -> None:
    till = str(rows.till.pk)
    other = shop.region.create(name="I", country="IT")
    device = TestDevice("country:IT", *([f"shop:{rows.store.pk}"] if granted == "both at first" else []))
    if granted == "one later":
        device.pull()
        device.grant(f"shop:{rows.store.pk}")
        shop.region.filter(pk=other.pk).update(name="II")
    assert device.step(2 if granted == "both at first" else 1), "all of country:IT"
    shop.region.filter(pk=rows.north.pk).update(country="IT")
    more = device.step(100)
    shop.region.filter(pk=rows.north.pk).update(country="SE")
    while more:
        more = device.step(100)
    device.pull()
    assert set(device.of("till")) == {till}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_rows_that_move_and_scopes_that_come_and_go_between_small_pages(shop: SimpleNamespace, seed: int) -> None:
    rng = Random(seed)
    regions = [shop.region.create(name=f"R{n}", country=rng.choice(["SE", "IT"])) for n in range(2)]
    shops = [shop.shop.create(name=f"S{n}", region=rng.choice(regions)) for n in range(2)]
    tills = [shop.till.create(number=n, shop=rng.choice([*shops, None])) for n in range(3)]
    slips = [shop.slip.create(total=n, till=rng.choice(tills)) for n in range(3)]
    held = [("shop", shops), ("region", regions), ("till", tills)]
    names = ["country:SE", "country:IT", *(f"{name}:{row.pk}" for name, made in held for row in made)]
    device, granted = TestDevice("nothing"), set(rng.sample(names, 4))
    for name in granted:
        device.grant(name)
    moves: list[Callable[[], object]] = [
        lambda: shop.region.filter(pk=rng.choice(regions).pk).update(country=rng.choice(["SE", "IT", "NO"])),
        lambda: shop.shop.filter(pk=rng.choice(shops).pk).update(region=rng.choice(regions)),
        lambda: shop.till.filter(pk=rng.choice(tills).pk).update(shop=rng.choice([*shops, None])),
        lambda: shop.till.filter(pk=rng.choice(tills).pk).update(number=rng.randint(10, 99)),
        lambda: shop.slip.filter(pk=rng.choice(slips).pk).update(till=rng.choice(tills)),
        lambda: slips.append(shop.slip.create(total=9, till=rng.choice(tills))),
        lambda: shop.slip.filter(pk=rng.choice(slips).pk).delete(),
    ]
    for _ in range(rng.randint(5, 40)):
        what = rng.randint(1, 10)
        if what <= 4:
            rng.choice(moves)()
        elif what <= 6:
            name = rng.choice(names)
            (device.revoke if name in granted else device.grant)(name)
            granted ^= {name}
        else:
            device.step(rng.choice([1, 1, 2, 4]))
    while device.step(rng.choice([1, 2, 100])):
        pass
    there = "SELECT entity, row_id::text, data::json FROM sync_feed WHERE scope = ANY (%s) AND data IS NOT NULL"
    assert device.rows == {(entity, row): data for entity, row, data in sql(there, [sorted(granted)])}


# --- what grants nothing ---


def test_a_row_whose_value_is_empty_grants_nothing(shop: SimpleNamespace) -> None:
    nowhere, secret = (shop.region.create(name=name, country="") for name in ("nowhere", "secret"))
    device = TestDevice("nothing")
    duty = shop.duty.create(device=device.device, shop=shop.shop.create(name="B", region=nowhere))
    device.pull()
    assert str(secret.pk) not in device.of("region")
    assert not Grant.objects.filter(source=f"entities.Duty:{duty.pk}", scope="country:").exists()
