"""First contact of two sides that both had data, and what a person does with a dead letter."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection

from entities.models import Customer
from legacy.letters import Unfit, discard, mend, retry, say
from legacy.mapping import Mapping, Same
from legacy.models import DeadLetter, Link, Run
from tests.integration.legacy_support import CUSTOMER, Ledger, declared_systems

pytestmark = pytest.mark.django_db(transaction=True)
BY_NAME = replace(CUSTOMER, match=(Same("code"), Same("name", "letters", sure=False)))


def matching(*same: Same) -> Mapping:
    return replace(CUSTOMER, match=same)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    with declared_systems(ledger.system(BY_NAME)):
        yield ledger


@pytest.fixture
def anna() -> User:
    return User.objects.create_user("anna")


def names() -> list[str]:
    return sorted(Customer.objects.values_list("name", flat=True))


def their_names(ledger: Ledger) -> list[str]:
    return sorted(party["name"] for party in ledger.records["party"].values())


@pytest.mark.parametrize(
    ("by", "ours", "theirs", "same"),
    [
        ("exact", "Ana GmbH", "Ana GmbH", True),
        ("exact", "Ana GmbH", "ana gmbh", False),
        ("folded", "Ana GmbH", " ANA GMBH ", True),
        ("folded", "Ana GmbH", "\tana gmbh\u00a0", True),  # every kind of space
        ("folded", "Müller", "MÜLLER", True),
        ("folded", "Mu\u0308ller", "M\u00fcller", True),  # two spellings of one letter
        ("folded", "Ana GmbH", "Ana-GmbH", False),
        ("letters", "Ana, GmbH & Co.", "ANA GMBH CO", True),
        ("letters", "Mu\u0308ller_2", "MÜLLER 2", True),
        ("letters", "DE 123-456", "de123456", True),
        ("letters", "Ana", "Anna", False),
    ],
)
def test_natural_keys_are_compared_as_the_mapping_says(by: Any, ours: str, theirs: str, same: bool) -> None:
    Customer.objects.create(name=ours)
    ledger = Ledger()
    ledger.put("party", code="ANA", name=theirs)
    assert ledger.sync(matching(Same("name", by))).state == Run.State.DONE
    assert Customer.objects.count() == (1 if same else 2)
    assert len(ledger.records["party"]) == (1 if same else 2)


def test_what_is_surely_the_same_is_linked_and_nothing_is_made_twice(ledger: Ledger) -> None:
    row = Customer.objects.create(code="ANA", name="Ana", city="Berlin")
    ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync(BY_NAME)
    assert Link.objects.get().row == row.pk
    assert (names(), ledger.written) == (["Ana"], [])


def test_rule_that_is_surer_is_asked_first(ledger: Ledger) -> None:
    by_code, by_name = Customer.objects.create(code="ANA", name="x"), Customer.objects.create(code="BO", name="Ana")
    ledger.put("party", code="ANA", name="Ana")
    ledger.sync(BY_NAME)
    assert [link.row for link in Link.objects.filter(key="1")] == [by_code.pk]
    assert by_name.pk != by_code.pk and not DeadLetter.objects.exists()


def unclear(ledger: Ledger, rows: int = 1) -> DeadLetter:
    """A record that may be one of our rows, by its name alone."""
    for _ in range(rows):
        Customer.objects.create(name="Ana GmbH", city="Graz")
    ledger.put("party", code="ANA", name="ANA, GmbH", city="Graz")
    run = ledger.sync(BY_NAME)
    assert (run.state, run.counts["customer"]["waiting"]) == (Run.State.DONE, 1)
    return DeadLetter.objects.get()


def test_what_is_the_same_only_perhaps_waits_for_a_person_and_is_made_on_neither_side(ledger: Ledger) -> None:
    letter = unclear(ledger)
    for _ in range(2):
        assert ledger.sync(BY_NAME).state == Run.State.DONE
    letter.refresh_from_db()
    assert (letter.kind, letter.key, letter.attempts) == ("unclear", "1", 1)
    assert letter.candidates == [str(Customer.objects.get().pk)]
    assert (names(), their_names(ledger)) == (["Ana GmbH"], ["ANA, GmbH"])


def test_person_says_that_it_is_this_row(ledger: Ledger, anna: User) -> None:
    letter = unclear(ledger, rows=2)
    first, second = letter.candidates
    say(letter, second, anna)
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    assert str(Link.objects.get(key="1").row) == second
    assert not DeadLetter.objects.exists()
    assert sorted(their_names(ledger)) == ["ANA, GmbH", "Ana GmbH"], "the other row is made there"
    assert Customer.objects.get(pk=second).name == "ANA, GmbH"
    assert Customer.objects.filter(pk=first).exists()
    assert Customer.objects.count() == 2


def test_person_says_that_it_is_a_new_row(ledger: Ledger, anna: User) -> None:
    say(unclear(ledger), None, anna)
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    assert names() == ["ANA, GmbH", "Ana GmbH"]
    assert their_names(ledger) == ["ANA, GmbH", "Ana GmbH"]
    written = len(ledger.written)
    ledger.sync(BY_NAME)
    assert (len(names()), len(ledger.written)) == (2, written)


def test_person_says_that_the_record_is_nothing_for_us(ledger: Ledger, anna: User) -> None:
    assert discard([unclear(ledger)], "a test of theirs", anna) == 1
    ledger.put("party", "1", phone="7")
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    assert names() == ["Ana GmbH"]
    assert their_names(ledger) == ["ANA, GmbH", "Ana GmbH"], "our row is our own, and theirs too now"
    assert DeadLetter.objects.get().kind == "ignored"


def test_what_was_left_alone_is_asked_again_where_a_person_says_so(ledger: Ledger, anna: User) -> None:
    discard([unclear(ledger)], "a test of theirs", anna)
    assert retry([DeadLetter.objects.get()], anna) == 1
    ledger.sync(BY_NAME)
    assert DeadLetter.objects.get().kind == "unclear"


def test_two_of_ours_with_one_natural_key_are_not_guessed_between(ledger: Ledger) -> None:
    mapping = matching(Same("name"))
    for _ in range(2):
        Customer.objects.create(name="Ana")
    ledger.put("party", code="ANA", name="Ana")
    ledger.sync(mapping)
    assert len(DeadLetter.objects.get().candidates) == 2
    assert not Link.objects.exists()


@pytest.mark.parametrize("page_records", [2, 1], ids=["on one page", "on two pages"])
def test_two_of_theirs_with_one_natural_key_are_not_both_taken_for_ours(page_records: int) -> None:
    mapping = matching(Same("name"))
    ledger = Ledger(page_records=page_records)
    Customer.objects.create(name="Ana")
    for code in ("A1", "A2"):
        ledger.put("party", code=code, name="Ana")
    ledger.sync(mapping)
    assert names() == ["Ana"]
    assert DeadLetter.objects.filter(kind="unclear").count() + Link.objects.count() == 2
    assert DeadLetter.objects.filter(kind="unclear").exists()


def test_record_that_was_made_anew_with_the_code_of_another_is_asked_about_and_not_tried_for_ever(
    ledger: Ledger, anna: User
) -> None:
    ledger.put("party", code="ANA", name="Ana")
    ledger.sync(BY_NAME)
    ledger.put("party", code="ANA", name="Ana again")
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    letter = DeadLetter.objects.get()
    assert (letter.kind, letter.candidates) == ("unclear", [])
    with pytest.raises(Unfit, match="is the record 1 of ledger already"):
        say(letter, str(Customer.objects.get().pk), anna)


def test_record_that_they_copied_with_our_mark_in_it_is_a_new_one(ledger: Ledger) -> None:
    row = Customer.objects.create(name="Bo")
    ledger.sync(BY_NAME)
    (key,) = ledger.records["party"]
    copy = ledger.put("party", **{**ledger.records["party"][key], "code": "COPY", "name": "Bo, Oslo"})
    ledger.marks_copied = {copy: f"sync:{row.pk}"}
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    assert names() == ["Bo", "Bo, Oslo"]
    assert Link.objects.get(key=key).row == row.pk


def test_mark_that_is_none_of_ours_is_no_mark(ledger: Ledger) -> None:
    key = ledger.put("party", code="ANA", name="Ana")
    ledger.marks_copied = {key: "sync: please"}
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    assert names() == ["Ana"]


def test_row_of_a_restored_database_gets_the_id_back_that_devices_know_it_by(ledger: Ledger) -> None:
    row = Customer.objects.create(name="Bo")
    ledger.sync(BY_NAME)
    Customer.objects.all().delete()
    Link.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM sync_history WHERE row_id = %s", [row.pk])
    ledger.put("party", next(iter(ledger.records["party"])), city="Oslo")
    ledger.sync(BY_NAME)
    assert Customer.objects.get().pk == row.pk


# --- Dead letters -----------------------------------------------------------------------------------------------------


def bad(ledger: Ledger) -> DeadLetter:
    ledger.put("party", code="C" * 99, name="Bo", city="Oslo")
    assert ledger.sync(BY_NAME).state == Run.State.PARTIAL
    return DeadLetter.objects.get()


def test_mended_record_is_taken_over_as_it_was_mended_and_not_asked_for_again(ledger: Ledger, anna: User) -> None:
    letter = bad(ledger)
    mend(letter, {**letter.payload, "code": "BO"}, anna)
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    assert list(Customer.objects.values_list("code", "city")) == [("BO", "Oslo")]
    assert not DeadLetter.objects.exists()
    assert ledger.sync(BY_NAME).counts["customer"].get("failed") is None


def test_record_that_they_changed_after_it_was_mended_is_theirs(ledger: Ledger, anna: User) -> None:
    letter = bad(ledger)
    mend(letter, {**letter.payload, "code": "BO"}, anna)
    ledger.put("party", letter.key, code="B", city="Rome")
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    assert list(Customer.objects.values_list("code", "city")) == [("B", "Rome")]


def test_discarded_record_is_not_tried_again(ledger: Ledger, anna: User) -> None:
    discard([bad(ledger)], "a test of theirs", anna)
    assert ledger.sync(BY_NAME, retry_all=True).state == Run.State.DONE
    assert not Customer.objects.exists()


def test_retried_letter_is_tried_with_the_next_run_however_recently_it_failed(ledger: Ledger, anna: User) -> None:
    letter = bad(ledger)
    ledger.put("party", code="ANA", name="Ana")  # the last one, which is told again each time
    ledger.sync(BY_NAME)
    ledger.records["party"][letter.key]["code"] = "BO"
    assert ledger.sync(BY_NAME).state == Run.State.DONE, "not yet"
    assert names() == ["Ana"]
    retry([letter], anna)
    ledger.sync(BY_NAME)
    assert names() == ["Ana", "Bo"]


def test_record_that_is_told_again_as_it_was_is_not_tried_before_its_time(ledger: Ledger) -> None:
    letter = bad(ledger)
    assert ledger.sync(BY_NAME).state == Run.State.DONE
    letter.refresh_from_db()
    assert letter.attempts == 1
    ledger.put("party", letter.key, code="BO")
    ledger.sync(BY_NAME)
    assert names() == ["Bo"], "and at once where it has changed"


def test_discarded_row_of_ours_is_sent_again_once_it_is_changed(ledger: Ledger, anna: User) -> None:
    row = Customer.objects.create(name="refuse me")
    ledger.sync(BY_NAME)
    discard([DeadLetter.objects.get()], "they are right", anna)
    assert ledger.sync(BY_NAME, retry_all=True).state == Run.State.DONE
    assert ledger.records["party"] == {}
    Customer.objects.filter(pk=row.pk).update(name="Bo")
    ledger.sync(BY_NAME)
    assert their_names(ledger) == ["Bo"]


def test_each_is_kept_with_who_when_and_what(ledger: Ledger, anna: User) -> None:
    letter = bad(ledger)
    mend(letter, {**letter.payload, "code": "BO"}, anna)
    retry([letter], anna)
    discard([letter], "never mind", anna)
    said = LogEntry.objects.order_by("pk").values_list("user__username", "object_id", "change_message")
    assert list(said) == [
        ("anna", str(letter.pk), "Mended: code."),
        ("anna", str(letter.pk), "Try it again."),
        ("anna", str(letter.pk), "Left alone: never mind"),
    ]


def test_what_does_not_fit_a_letter_is_refused_and_changes_nothing(ledger: Ledger, anna: User) -> None:
    letter = bad(ledger)
    with pytest.raises(Unfit, match="Nobody asks"):
        say(letter, None, anna)
    with pytest.raises(Unfit, match="values by place"):
        mend(letter, [], anna)
    letter.delete()
    Customer.objects.create(name="Ana GmbH")
    ledger.put("party", code="ANA", name="ANA GmbH")
    ledger.sync(BY_NAME)
    asked = DeadLetter.objects.get(kind="unclear")
    for row in ("nothing", "0198c0de-0000-4000-8000-000000000001"):
        with pytest.raises(Unfit, match="no such row"):
            say(asked, row, anna)
    assert not LogEntry.objects.exists()
