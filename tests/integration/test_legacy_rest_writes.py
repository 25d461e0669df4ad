"""What the connector for JSON APIs makes of a record, writes once and overwrites never, and says that it can do."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from legacy.connector import Changed, Misconfigured, Refused, Unreachable
from legacy.connectors.rest import Rest
from legacy.connectors.rest_resource import Resource
from legacy.connectors.rest_write import same
from tests.integration.misbehaving import Misbehaving, answer, lose_answer, twice
from tests.integration.rest_support import MARKER, PLACES, THINGS, Api, a_pass, keys, one


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two tries."""
    monkeypatch.setattr("legacy.connectors.rest_http.sleep", lambda seconds: None)


# --- Records ----------------------------------------------------------------------------------------------------------


@pytest.mark.legacy("S14")
def test_decimals_are_exact_and_absent_is_not_null(api: Api, rest: Rest, proxy: Misbehaving) -> None:
    body = b'{"data": [{"id": 1, "updated_at": null, "name": null, "price": 1234567890.1200000000000000001}]}'
    proxy.when(answer(200, body), path="/things")
    [record] = a_pass(rest, THINGS, {})[0]
    assert record.values == {"name": None, "price": Decimal("1234567890.1200000000000000001")}


@pytest.mark.legacy("S4")
def test_archived_records_are_seen_with_what_shows_them(api: Api, rest: Rest) -> None:
    api.put(archived=True)
    assert a_pass(rest, THINGS, {})[0] == []
    source = replace(THINGS, hidden={"include_archived": "1"})
    assert keys(a_pass(rest, source, {})[0]) == ["1"] == list(rest.keys(source))


def test_deletion_that_the_api_shows_is_told(api: Api, rest: Rest) -> None:
    source = replace(THINGS, gone="deleted")
    api.put()
    api.put(deleted=True)
    page = rest.changes(source, PLACES, {})
    assert (keys(page.records), page.gone) == (["1"], ["2"])
    assert list(rest.keys(source)) == ["1"]
    assert rest.fetch(source, PLACES, ["2"]) == []


@pytest.mark.parametrize("path", ["/things/{key}", ""])
def test_fetch_brings_what_still_exists_and_belongs(api: Api, rest: Rest, path: str) -> None:
    source = replace(THINGS, one=path, only={"kind": "thing"})
    for kind in ("thing", "other", "thing"):
        api.put(kind=kind)
    api.drop("3")
    assert keys(rest.fetch(source, PLACES, ["1", "2", "3"])) == ["1"]


def test_key_cannot_reach_another_path(api: Api, rest: Rest) -> None:
    assert rest.fetch(THINGS, PLACES, ["../me"]) == []
    assert [path for _, path, _ in api.asked] == ["/v1/things/..%2Fme"]


def test_rows_are_read_with_their_ids_and_written_whole(api: Api, rest: Rest) -> None:
    source, places = replace(THINGS, rows="lines"), ("name", "lines.quantity")
    lines = [{"id": 7, "quantity": 1, "tax": "a"}, {"id": 8, "quantity": 2, "tax": "b"}]
    key = api.put(lines=lines)
    [record] = rest.fetch(source, places, [key])
    assert record.values["lines"] == [{"id": 7, "quantity": 1}, {"id": 8, "quantity": 2}]
    wanted = [{"id": "7", "quantity": 5}, {"id": None, "quantity": 3}]
    rest.update(source, record, {"name": "", "lines": wanted}, {"lines"})
    assert api.records[key]["lines"] == [{"id": 7, "quantity": 5, "tax": "a"}, {"quantity": 3}]


# --- Writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", ["body", "location", "nothing"])
def test_created_record_is_known_by_its_marker(api: Api, rest: Rest, tells: str) -> None:
    api.creates_with = tells
    values = {"name": "Ana", "address.city": "Bonn", "price": Decimal("18.00"), "day": dt.date(2026, 11, 21)}
    key = rest.create(THINGS, MARKER, values)
    assert rest.find(THINGS, MARKER) == key
    assert one(rest, key).marker == MARKER
    raw = api.records[key]
    assert (raw["name"], raw["address"], raw["price"], raw["day"]) == ("Ana", {"city": "Bonn"}, 18, "2026-11-21")


def test_decimals_may_be_written_as_text(api: Api, proxy: Misbehaving) -> None:
    rest = Rest(proxy.url, decimals="text")
    key = rest.create(THINGS, MARKER, {"price": Decimal("18.10")})
    rest.close()
    assert api.records[key]["price"] == "18.10"


@pytest.mark.legacy("S12")
def test_create_whose_answer_was_lost_is_found_by_its_marker(api: Api, rest: Rest, proxy: Misbehaving) -> None:
    proxy.when(lose_answer, method="POST")
    with pytest.raises(Unreachable):
        rest.create(THINGS, MARKER, {"name": "Ana"})
    assert api.done == [("create", "1")]
    assert rest.find(THINGS, MARKER) == "1"


def test_marker_that_the_api_cannot_search_for_is_found_in_the_list(api: Api, rest: Rest) -> None:
    api.put(external_id="another")
    api.put(external_id=MARKER)
    for find_by in ("", "unknown_parameter"):
        assert rest.find(replace(THINGS, find_by=find_by), MARKER) == "2"


def test_marker_that_several_records_have_is_refused(api: Api, rest: Rest) -> None:
    for _ in range(2):
        api.put(external_id=MARKER)
    with pytest.raises(Refused, match="several records"):
        rest.find(THINGS, MARKER)


KEYED = replace(THINGS, marker="", find_by="", idempotency_header="Idempotency-Key")


@pytest.mark.legacy("S12")
@pytest.mark.legacy("F21")
@pytest.mark.parametrize("fault", [lose_answer, twice])
def test_create_under_an_idempotency_key_is_done_once(
    api: Api, rest: Rest, proxy: Misbehaving, fault: Any, quick: None
) -> None:
    api.idempotent = True
    proxy.when(fault, method="POST")
    key = rest.create(KEYED, MARKER, {"name": "Ana"})
    assert rest.create(KEYED, MARKER, {"name": "Ana"}) == key  # by another run
    assert api.done == [("create", key)]


@pytest.mark.legacy("S13")
def test_error_that_was_stored_for_a_key_does_not_stay_once_the_record_is_mended(api: Api, rest: Rest) -> None:
    api.idempotent = True
    for source in (KEYED, replace(KEYED, marker="external_id", find_by="external_id")):
        for _ in range(2):
            with pytest.raises(Refused, match="do not deal"):
                rest.create(source, MARKER, {"name": "refuse me"})
        key = rest.create(source, MARKER, {"name": "Ana"})
        assert rest.create(source, MARKER, {"name": "Ana"}) == key


@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_update_writes_the_changed_places_and_keeps_the_rest(api: Api, rest: Rest, method: Any, etag: bool) -> None:
    source = replace(THINGS, update=method, etag=etag)
    key = api.put(name="Ana", address={"city": "Bonn", "zip": "53111"}, price=5, colour="red")
    values = {"name": "Ana", "address.city": "Köln", "price": Decimal("5.00")}
    rest.update(source, one(rest, key), values, {"address.city"})
    raw = api.records[key]
    assert (raw["name"], raw["price"], raw["colour"]) == ("Ana", 5, "red")
    assert raw["address"]["city"] == "Köln"
    if method == "PUT":
        assert raw["address"]["zip"] == "53111"


@pytest.mark.legacy("S11")
@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("what", ["update", "delete"])
def test_record_that_changed_since_it_was_read_is_not_written(api: Api, rest: Rest, what: str, etag: bool) -> None:
    source = replace(THINGS, etag=etag)
    key = api.put(name="Ana")
    read = one(rest, key)
    api.put(key, name="Eva")
    with pytest.raises(Changed):
        rest.update(source, read, {"name": "Ann"}, {"name"}) if what == "update" else rest.delete(source, read)
    assert api.records[key]["name"] == "Eva"


def test_record_from_a_list_is_written_on_the_condition_of_what_is_read_then(api: Api, rest: Rest) -> None:
    source = replace(THINGS, etag=True)
    key = api.put(name="Ana")
    [read], _ = a_pass(rest, source, {})
    rest.update(source, read, {"name": "Ann"}, {"name"})
    assert api.records[key]["name"] == "Ann"
    api.put(key, name="Eva")
    with pytest.raises(Changed):
        rest.update(source, read, {"name": "Ann"}, {"name"})


@pytest.mark.legacy("S11")
@pytest.mark.parametrize("etags", ["weak", "none"])
def test_etag_that_guards_nothing_is_a_wrong_configuration(api: Api, rest: Rest, etags: str) -> None:
    api.etags = etags
    key = api.put(name="Ana")
    with pytest.raises(Misconfigured, match="etag=False"):
        rest.update(replace(THINGS, etag=True), one(rest, key), {"name": "Ann"}, {"name"})
    assert api.records[key]["name"] == "Ana"


@pytest.mark.legacy("F3")
def test_conditional_update_whose_answer_was_lost_is_told_as_changed(
    api: Api, rest: Rest, proxy: Misbehaving, quick: None
) -> None:
    """It was sent again and met its own change: read again, the record is as it was to become."""
    source = replace(THINGS, etag=True)
    key = api.put(name="Ana")
    read = one(rest, key)
    proxy.when(lose_answer, method="PATCH")
    with pytest.raises(Changed):
        rest.update(source, read, {"name": "Ann"}, {"name"})
    assert one(rest, key).values["name"] == "Ann"
    assert api.done == [("update", key)]


@pytest.mark.legacy("F3")
def test_update_without_a_condition_whose_answer_was_lost_is_not_sent_again(
    api: Api, rest: Rest, proxy: Misbehaving
) -> None:
    key = api.put(name="Ana")
    read = one(rest, key)
    proxy.when(lose_answer, method="PATCH")
    with pytest.raises(Unreachable):
        rest.update(THINGS, read, {"name": "Ann"}, {"name"})
    assert api.done == [("update", key)]


@pytest.mark.legacy("S11")
def test_update_that_was_answered_well_and_not_done_is_refused(api: Api, rest: Rest) -> None:
    api.deaf_to = "name"
    key = api.put(name="Ana")
    with pytest.raises(Refused, match="name is still Ana, not Ann"):
        rest.update(THINGS, one(rest, key), {"name": "Ann"}, {"name"})


@pytest.mark.legacy("S10")
@pytest.mark.parametrize(
    ("theirs", "ours", "alike"),
    [
        ("", None, True),
        (None, "", True),
        (Decimal("18.1"), Decimal("18.12"), True),
        ("18.10", Decimal("18.1"), True),
        (3, 3, True),
        ("a", "b", False),
        (Decimal("18.10"), Decimal("18.12"), False),
        (None, 0, False),
        ("2026-11-21", dt.date(2026, 1, 1), False),
        ("2026-11-21", dt.date(2026, 11, 21), True),
    ],
)
def test_what_they_round_or_empty_in_their_way_is_taken(theirs: Any, ours: Any, alike: bool) -> None:
    assert same(theirs, ours) == alike


@pytest.mark.parametrize("etag", [True, False])
def test_delete_of_what_is_gone_is_no_error(api: Api, rest: Rest, etag: bool) -> None:
    source = replace(THINGS, etag=etag)
    key = api.put()
    read = one(rest, key)
    rest.delete(source, read)
    rest.delete(source, read)
    assert api.done == [("delete", key)]


def test_update_of_what_is_gone_is_told_as_changed(api: Api, rest: Rest) -> None:
    key = api.put()
    read = one(rest, key)
    api.drop(key)
    for etag in (True, False):
        with pytest.raises(Changed, match="deleted"):
            rest.update(replace(THINGS, etag=etag), read, {"name": "Ann"}, {"name"})


@pytest.mark.legacy("S9")
@pytest.mark.parametrize(
    ("name", "raised", "words"),
    [
        ("refuse me", Refused, "422: Not valid; We do not deal with those."),
        ("say no kindly", Refused, "200: No credit."),
        ("break down", Refused, "500: KeyError: 'name'"),  # at this record alone: it still says who we are
    ],
)
def test_business_error_of_a_create_is_told_in_their_words(
    api: Api, rest: Rest, name: str, raised: type[Exception], words: str
) -> None:
    with pytest.raises(raised) as error:
        rest.create(replace(THINGS, error="error"), MARKER, {"name": name})
    assert words in str(error.value)
    assert api.records == {}


def test_business_error_of_an_update_is_told_in_their_words(api: Api, rest: Rest) -> None:
    key = api.put(name="Ana")
    with pytest.raises(Refused, match=r"400: name: We do not deal with those.; Really not."):
        rest.update(THINGS, one(rest, key), {"name": "refuse me"}, {"name"})


# --- What is declared -------------------------------------------------------------------------------------------------


def test_capabilities_are_what_all_resources_can_be_relied_on_for(proxy: Misbehaving) -> None:
    logs = Resource("/logs", writes=frozenset())
    guarded = replace(THINGS, etag=True, gone="deleted", numeric_keys=True)
    rest = Rest(proxy.url, whoami="/me", resources=(guarded, logs, replace(KEYED, writes=frozenset({"create"}))))
    found = rest.capabilities
    rest.close()
    assert (found.locking, found.idempotency, found.deletes) == ("version", "key", "keys")
    assert (found.writes, found.numeric_keys, found.whoami) == (THINGS.writes, False, "/me")
    assert guarded.capabilities("").numeric_keys and guarded.capabilities("").deletes == "shown"
    assert logs.capabilities("").deletes == "pass"


def test_write_that_a_resource_does_not_take_is_a_wrong_configuration(api: Api, rest: Rest) -> None:
    key = api.put()
    read = one(rest, key)
    closed = replace(THINGS, writes=frozenset())
    with pytest.raises(Misconfigured, match="takes no create"):
        rest.create(closed, MARKER, {})
    with pytest.raises(Misconfigured, match="takes no update"):
        rest.update(closed, read, {"name": "Ann"}, {"name"})
    with pytest.raises(Misconfigured, match="takes no delete"):
        rest.delete(closed, read)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"key": "a..b"}, "'a..b' is no place"),
        ({"rows": "lines["}, "no place"),
        ({"zone": "Mars/Base"}, "Mars/Base"),
        ({"since": ("updated_since",)}, "needs stamp="),
        ({"overlap_seconds": 0}, "1 or more"),
        ({"one": "/things/"}, "must have {key}"),
    ],
)
def test_declaration_that_cannot_work_is_told(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(Misconfigured) as error:
        Resource("/things", **wrong)
    assert words in str(error.value)
