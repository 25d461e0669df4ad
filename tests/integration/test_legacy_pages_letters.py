"""Dead letters and links in the admin: what people see of them, and what becomes of what they decide."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from entities.models import Customer, Product
from legacy.models import DeadLetter, Link
from tests.integration import legacy_pages_support as scene
from tests.integration.legacy_pages_support import LETTER, LINK, NOBODY, failed, sync
from tests.integration.legacy_support import down
from tests.integration.pages_support import EVIL, clerk, shown
from tests.integration.test_legacy_pages import declared, post

__all__ = ["declared"]
pytestmark = pytest.mark.django_db(transaction=True)
DECIDE = ("legacy.view_deadletter", "legacy.decide_deadletter", "entities.view_customer")
LOOK = ("legacy.view_deadletter", "entities.view_customer")


def page(letter: DeadLetter) -> str:
    return f"{LETTER}{letter.pk}/change/"


def mended(client: Client, letter: DeadLetter, **changed: str) -> str:
    """Send the form that mends it, as a browser does, with some places changed."""
    form = client.get(page(letter)).context["form"]
    given = {bound.html_name: bound.value() for bound in form}
    return post(client, page(letter), do="mend", **given | {f"set-{place}": text for place, text in changed.items()})


def unclear() -> tuple[DeadLetter, Customer, Customer]:
    """A record that may be one of two customers."""
    one = Customer.objects.create(name="Bólido", city="Madrid")
    other = Customer.objects.create(name=f"Bolido {EVIL}", city="Toledo")
    key = scene.LEDGER.put("party", code="BOLID", name="BÓLIDO", city="Madrid", phone="")
    record = scene.LEDGER.records["party"][key]
    candidates = [str(one.pk), str(other.pk)]
    return failed(key=key, kind="unclear", error="One of 2.", payload=record, candidates=candidates), one, other


# --- the list ---------------------------------------------------------------------------------------------------------


def test_letters_that_there_are_none_of(admin_client: Client) -> None:
    assert "What waits, by system" not in shown(admin_client, LETTER)


@pytest.mark.slow
def test_letters_are_counted_filtered_and_searched(admin_client: Client) -> None:
    failed(key="1")
    failed(key="2", kind="loop", direction="push")
    failed(key="3", system="crm", kind="ignored", error="nobody needs it")
    failed(key="4", mapping="order", payload={"number": "S-77"}, first_at=timezone.now() - timedelta(days=9))

    def found(query: str) -> set[str]:
        return {each.key for each in admin_client.get(f"{LETTER}?{query}").context["cl"].result_list}

    shown(admin_client, LETTER)
    assert found("") == {"1", "2", "4"}
    assert found("kind=all") == {"1", "2", "3", "4"}
    assert found("kind=loop") == {"2"}
    assert found("kind=all&system=crm") == {"3"}
    assert found("mapping=order") == {"4"}
    assert found("direction=push") == {"2"}
    assert found("age=7%2B") == {"4"}
    assert found("q=S-77") == {"4"}
    assert found("q=2") >= {"2"}


def test_letters_of_rows_that_one_may_not_see_are_not_there() -> None:
    hidden = failed(mapping="product", key="P1")
    seen = failed(key="C1")
    looker = clerk(*LOOK)
    assert {each.pk for each in looker.get(LETTER).context["cl"].result_list} == {seen.pk}
    assert looker.get(page(hidden)).status_code == 403
    assert looker.get(page(seen)).status_code == 200
    assert clerk("entities.view_customer").get(LETTER).status_code == 403


# --- one --------------------------------------------------------------------------------------------------------------


def test_letter_shows_each_place_beside_what_it_becomes(admin_client: Client) -> None:
    text = shown(admin_client, page(failed()))
    assert "BBBBBB" in text and "ALFKI" in text
    assert "comes only" in text  # the code
    assert f"City: {EVIL} is too long" in text


@pytest.mark.parametrize(
    "payload", [{}, [], None, {"name": None}, {"name": [1, {"x": EVIL}]}, {"far": {"off": [EVIL]}}]
)
def test_letter_of_any_payload_opens(payload: Any, admin_client: Client) -> None:
    shown(admin_client, page(failed(payload=payload or {} if payload != [] else [])))


def test_letter_of_a_mapping_that_is_gone_opens(admin_client: Client) -> None:
    assert "not declared any more" in shown(admin_client, page(failed(mapping="gone", system="old")))


def test_letter_of_our_row_that_is_gone_opens(admin_client: Client) -> None:
    letter = failed(direction="push", key=str(uuid4()), payload={"name": EVIL, "city": "Bonn"})
    assert "Bonn" in shown(admin_client, page(letter))


@pytest.mark.parametrize("id", ["0", "999999", "x", "9" * 30])
def test_letter_that_there_is_not_is_not_found(id: str, admin_client: Client) -> None:
    assert admin_client.get(f"{LETTER}{id}/change/").status_code == 404


@pytest.mark.legacy("L3")
def test_retry_has_it_tried_with_the_next_run(admin_client: Client) -> None:
    key = scene.LEDGER.put("party", code="ALFKI", name="Alfreds", city="Berlin")
    letter = failed(key=key, next_at=timezone.now() + timedelta(days=1))
    post(admin_client, page(letter), do="retry")
    sync()
    assert Customer.objects.get().name == "Alfreds"
    assert not DeadLetter.objects.exists()
    assert "Try it again." in LogEntry.objects.get().change_message


@pytest.mark.slow
@pytest.mark.legacy("L3")
def test_mended_record_is_taken_as_it_was_mended_and_is_no_news_until_they_change_it(admin_client: Client) -> None:
    key = scene.LEDGER.put("party", code="ALFKI", name="Alfreds", city="B" * 90, phone="1")
    sync()
    letter = DeadLetter.objects.get()
    assert "Somebody mended it." in mended(admin_client, letter, city="Bonn")
    sync()
    sync()
    assert Customer.objects.get().city == "Bonn"
    assert not DeadLetter.objects.exists()
    assert scene.LEDGER.records["party"][key]["city"] == "B" * 90
    scene.LEDGER.put("party", key, city="Berlin")
    sync()
    assert Customer.objects.get().city == "Berlin"
    assert "Mended: city." in LogEntry.objects.get().change_message


def test_mended_record_that_is_still_wrong_stays_a_dead_letter(admin_client: Client) -> None:
    scene.LEDGER.put("party", code="ALFKI", name="Alfreds", city="B" * 90)
    sync()
    letter = DeadLetter.objects.get()
    mended(admin_client, letter, city="C" * 80)
    sync()
    letter.refresh_from_db()
    assert letter.kind == "failed" and letter.attempts > 1 and "city" in letter.error
    assert not Customer.objects.exists()


def test_mended_values_keep_their_type(admin_client: Client) -> None:
    payload = {"code": "A", "name": "x", "city": None, "phone": 3, "open": True, "lines": [{"id": 1}]}
    letter = failed(payload=payload)
    mended(admin_client, letter, name="y", phone="4", lines="[]")
    letter.refresh_from_db()
    assert letter.mended == {"code": "A", "name": "y", "city": None, "phone": 4, "open": True, "lines": []}


@pytest.mark.parametrize(("place", "text"), [("phone", "many"), ("open", "perhaps"), ("lines", "{}"), ("lines", "[")])
def test_value_of_another_type_is_refused_in_the_form(place: str, text: str, admin_client: Client) -> None:
    payload = {"code": "A", "name": "x", "city": None, "phone": 3, "open": True, "lines": [{"id": 1}]}
    letter = failed(payload=payload)
    text = mended(admin_client, letter, **{place: text})
    assert "That is no value for this place" in text
    letter.refresh_from_db()
    assert letter.mended is None


def test_record_that_was_read_anew_meanwhile_is_not_mended(admin_client: Client) -> None:
    letter = failed()
    form = admin_client.get(page(letter)).context["form"]
    DeadLetter.objects.update(payload={"city": "Ulm"})
    given = {bound.html_name: bound.value() or "" for bound in form}
    assert "was read anew meanwhile" in post(admin_client, page(letter), do="mend", **given | {"set-city": "Bonn"})
    letter.refresh_from_db()
    assert letter.mended is None


@pytest.mark.legacy("L3")
def test_discarded_letter_stays_to_be_read(admin_client: Client) -> None:
    letter = failed()
    assert "Say why it is left alone." in post(admin_client, page(letter), do="discard", reason="")
    post(admin_client, page(letter), do="discard", reason=f"a test {EVIL}")
    letter.refresh_from_db()
    assert letter.kind == "ignored" and letter.next_at is None
    assert "a test" in shown(admin_client, page(letter))


def test_unclear_record_is_shown_beside_its_candidates_and_linked(admin_client: Client) -> None:
    letter, one, _ = unclear()
    text = shown(admin_client, page(letter))
    assert "History of Bólido" in text and "Toledo" in text
    post(admin_client, page(letter), do="say", row=str(one.pk))
    sync()
    assert Link.objects.get(mapping="customer", key=letter.key).row == one.pk
    assert not DeadLetter.objects.exists()
    one.refresh_from_db()
    assert one.code == "BOLID"
    assert f"It is the row {one.pk}." in LogEntry.objects.get().change_message


def test_unclear_record_becomes_a_new_row(admin_client: Client) -> None:
    letter, _, _ = unclear()
    post(admin_client, page(letter), do="say", row="new")
    sync()
    assert Customer.objects.filter(code="BOLID").count() == 1
    assert Customer.objects.count() >= 3


def test_unclear_record_is_left_alone(admin_client: Client) -> None:
    letter, _, _ = unclear()
    post(admin_client, page(letter), do="say", row="alone")
    sync()
    assert not Link.objects.filter(key=letter.key).exists()
    letter.refresh_from_db()
    assert letter.kind == "ignored"


@pytest.mark.parametrize("row", ["", "nonsense", NOBODY])
def test_unclear_record_is_none_of_other_rows(row: str, admin_client: Client) -> None:
    letter, _, _ = unclear()
    post(admin_client, page(letter), do="say", row=row)
    letter.refresh_from_db()
    assert letter.said is None


def test_candidates_that_are_gone_are_told(admin_client: Client) -> None:
    letter, one, other = unclear()
    Customer.objects.filter(pk__in=[one.pk, other.pk]).delete()
    assert "are gone" in shown(admin_client, page(letter))


def test_loop_shows_both_sides_and_is_sent_once_more(admin_client: Client) -> None:
    row = Customer.objects.create(name="Ana", city="Bonn")
    link = Link.objects.create(
        system="ledger", mapping="customer", key="9", row=row.pk, agreed={"city": "BONN"}, hops=3
    )
    letter = failed(kind="loop", direction="push", key=str(row.pk), payload={"city": "Bonn"})
    text = shown(admin_client, page(letter))
    assert "BONN" in text and "Send once more" in text
    post(admin_client, page(letter), do="retry")
    link.refresh_from_db()
    letter.refresh_from_db()
    assert link.hops == 0 and letter.next_at is not None


@pytest.mark.parametrize("do", ["retry", "mend", "discard", "say"])
def test_who_may_only_look_decides_nothing(do: str) -> None:
    letter = failed()
    looker = clerk(*LOOK)
    assert "Discard it instead" not in shown(looker, page(letter))
    assert looker.post(page(letter), {"do": do, "reason": "x", "row": "new"}).status_code == 403
    letter.refresh_from_db()
    assert letter.kind == "failed" and letter.next_at is None


# --- many -------------------------------------------------------------------------------------------------------------


def many(client: Client, action: str, letters: list[DeadLetter], **more: str) -> Any:
    return client.post(
        LETTER, {"action": action, "_selected_action": [each.pk for each in letters], **more}, follow=True
    )


def test_many_are_asked_about_then_tried_again() -> None:
    letters, client = [failed(key=str(n)) for n in range(30)], clerk(*DECIDE)
    text = many(client, "retry_selected", letters).content.decode()
    assert "30 dead letters" in text and "and 10 more" in text and EVIL not in text
    assert not DeadLetter.objects.exclude(next_at=None).exists()
    many(client, "retry_selected", letters, confirmed="1")
    assert DeadLetter.objects.exclude(next_at=None).count() == 30
    assert LogEntry.objects.count() == 30


def test_many_are_discarded_with_one_reason() -> None:
    letters, client = [failed(key=str(n)) for n in range(3)], clerk(*DECIDE)
    assert b"Say why" in many(client, "discard_selected", letters, confirmed="1", reason="").content
    many(client, "discard_selected", letters, confirmed="1", reason="old tests")
    assert {each.kind for each in DeadLetter.objects.all()} == {"ignored"}


def test_nobody_decides_about_more_than_the_limit_at_once(settings: Settings) -> None:
    settings.LEGACY_DECISIONS_MAX = 2
    letters, client = [failed(key=str(n)) for n in range(3)], clerk(*DECIDE)
    assert b"Choose at most 2" in many(client, "discard_selected", letters, confirmed="1", reason="x").content
    assert not DeadLetter.objects.filter(kind="ignored").exists()


def test_who_may_only_look_has_no_actions_for_many() -> None:
    letter = failed()
    many(clerk(*LOOK), "discard_selected", [letter], confirmed="1", reason="x")
    letter.refresh_from_db()
    assert letter.kind == "failed"


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def link() -> Link:
    scene.LEDGER.put("party", "1", code="ALFKI", name="Alfreds", city="Berlin", phone="1")
    sync()
    return Link.objects.get()


@pytest.mark.slow
def test_links_are_found_by_name_key_and_id(admin_client: Client, link: Link) -> None:
    scene.LEDGER.put("party", "2", code="ANATR", name="Ana", city="México")
    sync()

    def found(term: str) -> set[str]:
        return {each.key for each in admin_client.get(f"{LINK}?q={term}").context["cl"].result_list}

    assert "Alfreds" in shown(admin_client, LINK)
    assert found("alfr") == {"1"}
    assert found("2") == {"2"}
    assert found(str(link.row)) == {"1"}
    assert found("nobody") == set()


def test_link_shows_agreed_and_now_with_what_differs(admin_client: Client, link: Link) -> None:
    Customer.objects.update(city=f"Bonn {EVIL}")
    text = shown(admin_client, f"{LINK}{link.pk}/change/")
    assert "Berlin" in text and '<span class="sy-changed">Bonn' in text


def test_link_of_a_row_that_is_gone_opens(admin_client: Client, link: Link) -> None:
    Customer.objects.all().delete()
    assert "no such row" in shown(admin_client, f"{LINK}{link.pk}/change/")
    assert "Alfreds" in shown(admin_client, LINK)


def test_link_of_a_mapping_that_is_gone_opens(admin_client: Client) -> None:
    found = Link.objects.create(system="old", mapping="gone", key=EVIL, row=uuid4(), agreed={"name": EVIL})
    shown(admin_client, f"{LINK}{found.pk}/change/")
    shown(admin_client, LINK)


def test_system_is_asked_for_the_record_as_it_is(admin_client: Client, link: Link) -> None:
    scene.LEDGER.put("party", "1", city=f"Köln {EVIL}")
    text = post(admin_client, f"{LINK}{link.pk}/change/")
    assert "Their record now" in text and '<span class="sy-changed">Köln' in text
    assert Customer.objects.get().city == "Berlin"


def test_system_that_does_not_answer_is_told(admin_client: Client, link: Link) -> None:
    down(scene.LEDGER)
    assert "It does not answer." in post(admin_client, f"{LINK}{link.pk}/change/")


def test_record_that_is_gone_over_there_is_told(admin_client: Client, link: Link) -> None:
    del scene.LEDGER.records["party"]["1"]
    assert "They do not have the record any more" in post(admin_client, f"{LINK}{link.pk}/change/")


def test_unlinking_is_asked_about_and_takes_the_lines_along(admin_client: Client, link: Link) -> None:
    Link.objects.create(system="ledger", mapping="order_line", key="L1", row=uuid4(), parent=link.row)
    assert "1 row that belong to it is unlinked" in shown(admin_client, f"{LINK}{link.pk}/unlink/")
    assert Link.objects.count() == 2
    post(admin_client, f"{LINK}{link.pk}/unlink/")
    assert not Link.objects.exists()
    assert Customer.objects.count() == 1
    assert "unlinked Alfreds" in LogEntry.objects.get().change_message


def test_who_may_only_look_neither_asks_nor_unlinks(link: Link) -> None:
    looker = clerk("legacy.view_link", "entities.view_customer")
    assert "Unlink" not in shown(looker, f"{LINK}{link.pk}/change/")
    assert looker.post(f"{LINK}{link.pk}/change/").status_code == 403
    assert looker.post(f"{LINK}{link.pk}/unlink/").status_code == 403
    assert looker.get(f"{LINK}{link.pk}/unlink/").status_code == 403
    assert clerk("legacy.view_link").get(f"{LINK}{link.pk}/change/").status_code == 403
    assert Link.objects.exists()


# --- how fast ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lists_of_thousands_open_in_under_a_second(admin_client: Client) -> None:
    import time

    from legacy.models import Run

    now = timezone.now()
    counts = {"customer": {"created": 3, "unchanged": 100, "failed": 1}}
    Run.objects.bulk_create(
        Run(
            system=("ledger", "crm")[n % 2],
            state="done",
            started_at=now - timedelta(minutes=8 * n),
            ended_at=now,
            counts=counts,
        )
        for n in range(5_000)
    )
    DeadLetter.objects.bulk_create(
        DeadLetter(
            system="ledger", mapping="customer", direction="pull", key=str(n), error=EVIL, payload={"name": EVIL * 9}
        )
        for n in range(5_000)
    )
    products = Product.objects.bulk_create(Product(code=f"P{n}", name=f"Product {n}") for n in range(20_000))
    Link.objects.bulk_create(
        Link(system="ledger", mapping="product", key=str(n), row=each.pk, agreed={"name": each.name})
        for n, each in enumerate(products)
    )
    addresses = [
        scene.SYSTEM,
        scene.RUN,
        f"{scene.RUN}?system=ledger&p=40",
        LETTER,
        f"{LETTER}?q=script&p=50",
        LINK,
        f"{LINK}?q=product+19",
        "/admin/",
    ]
    took = {}
    for address in addresses:
        admin_client.get(address)
        begun = time.perf_counter()
        assert admin_client.get(address).status_code == 200
        took[address] = time.perf_counter() - begun
    assert max(took.values()) < 1, took
    print(took)
