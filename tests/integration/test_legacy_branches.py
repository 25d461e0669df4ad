"""Many systems of one kind, as rows: what they share, what is their own, and what nobody may read."""

import datetime as dt
import json
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from entities.models import Customer
from legacy import button
from legacy.branches.address import problem
from legacy.branches.entry import take
from legacy.branches.models import Branch
from legacy.connector import Misconfigured, Unreachable
from legacy.due import due
from legacy.models import Counterpart, DeadLetter, Link, Run
from legacy.runs import end, run
from legacy.systems import declared, of_kind, ranks, system
from tests.integration.branch_support import LEDGERS, a_branch, declared_stores
from tests.integration.legacy_support import down

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures(declared_stores.__name__)]
PASSWORD = "hunter2"
NOW = dt.datetime(2026, 11, 21, 12, 7, tzinfo=dt.UTC)


# --- systems ----------------------------------------------------------------------------------------------------------


def test_every_branch_is_a_system_with_its_own_name_and_the_rank_of_its_kind() -> None:
    a_branch("berlin")
    a_branch("bonn", schedule="0 3 * * *", timeout_seconds=7)
    assert [each.name for each in declared()] == ["head-office", "store-berlin", "store-bonn"]
    assert ranks() == {"head-office": 1, "store-berlin": 2, "store-bonn": 2}
    bonn, berlin = system("store-bonn"), system("store-berlin")
    assert (bonn.schedule, bonn.zone, bonn.timeout_seconds) == ("0 3 * * *", "Europe/Berlin", 7)
    assert (berlin.schedule, berlin.timeout_seconds) == ("*/15 * * * *", 30)


@pytest.mark.parametrize("name", ["store-rome", "store", "berlin", "shop-berlin", ""])
def test_system_that_there_is_not_is_told_with_those_that_there_are(name: str) -> None:
    a_branch("berlin")
    with pytest.raises(Misconfigured, match=r"declares head-office, store-…"):
        system(name)


def test_ranks_and_one_system_take_one_query_however_many_branches(django_assert_num_queries: Any) -> None:
    for number in range(20):
        a_branch(f"s{number}")
    with django_assert_num_queries(1):
        ranks()
    with django_assert_num_queries(1):
        system("store-s7")


def test_two_branches_may_not_have_the_name_of_one_system() -> None:
    a_branch("berlin")
    with pytest.raises(IntegrityError), transaction.atomic():
        a_branch("berlin")
    with pytest.raises(IntegrityError), transaction.atomic():
        Branch.objects.create(kind="store-b", name="erlin", address="x")
        Branch.objects.create(kind="store", name="b-erlin", address="x")


def test_same_number_in_two_branches_is_two_rows_with_the_names_of_their_branches() -> None:
    for name in ("berlin", "bonn"):
        a_branch(name)
        LEDGERS[name].put("party", code="1", name=f"Customer of {name}")
        assert run(system(f"store-{name}")).state == Run.State.DONE
    assert set(Customer.objects.values_list("code", flat=True)) == {"berlin-1", "bonn-1"}
    assert set(Link.objects.values_list("system", flat=True)) == {"store-berlin", "store-bonn"}


def test_branch_that_is_switched_off_is_neither_due_nor_asked() -> None:
    a_branch("berlin", enabled=False)
    found = run(system("store-berlin"))
    assert (found.state, LEDGERS["berlin"].calls) == (Run.State.PAUSED, 0)
    assert "switched off" in found.error
    assert due(of_kind("store"), NOW) == []


# --- what is due ------------------------------------------------------------------------------------------------------


def ran(name: str, at: str, state: str = "done", trigger: str = "command") -> None:
    begun = dt.datetime.fromisoformat(f"2026-11-21 {at}+00:00")
    Run.objects.create(system=name, state=state, started_at=begun, ended_at=begun, trigger=trigger)


def test_those_that_ran_longest_ago_come_first_and_those_that_rest_do_not() -> None:
    for name in ("late", "early", "never", "just-now", "paused", "resting"):
        a_branch(name)
    ran("store-late", "11:40")
    ran("store-early", "09:00")
    ran("store-early", "12:06", trigger="rollback")  # which is none of the schedule's
    ran("store-just-now", "12:01")
    Counterpart.objects.create(system="store-paused", paused_at=NOW)
    Counterpart.objects.create(system="store-resting", rests_until=NOW + dt.timedelta(minutes=1))
    assert [each.name for each in due(of_kind("store"), NOW)] == ["store-never", "store-early", "store-late"]


def test_schedule_that_cannot_be_read_is_told_and_keeps_no_other_waiting() -> None:
    a_branch("berlin", schedule="whenever")
    a_branch("bonn")
    assert {each.name for each in due(of_kind("store"), NOW)} == {"store-berlin", "store-bonn"}
    with pytest.raises(Misconfigured, match="'whenever' is no schedule"):
        system("store-berlin")


def test_run_whose_process_is_gone_is_ended_and_counts_for_the_circuit_breaker() -> None:
    a_branch("berlin")
    ran("store-berlin", "12:00", state="running")
    Counterpart.objects.create(system="store-berlin")
    ended = end("store-berlin", Run.State.UNREACHABLE, "cut off")
    assert ended is not None
    assert Run.objects.get().state == Run.State.UNREACHABLE
    assert Counterpart.objects.get().failures == 1
    assert end("store-berlin", Run.State.UNREACHABLE, "cut off") is None


# --- secrets ----------------------------------------------------------------------------------------------------------


def everything_stored() -> str:
    with connection.cursor() as cursor:
        tables = [
            name for name in connection.introspection.table_names(cursor) if name.startswith(("legacy", "django"))
        ]
        told = []
        for table in tables:
            cursor.execute(f"SELECT t::text FROM {table} t")
            told += [row[0] for row in cursor.fetchall()]
    return "\n".join(told)


def test_address_is_nowhere_in_the_database_in_the_clear() -> None:
    branch = a_branch("berlin")
    assert Branch.objects.get().url == "https://sync:hunter2@example.com/pos"
    assert PASSWORD not in everything_stored()
    assert "example.com" not in everything_stored()
    assert PASSWORD not in repr(branch) + str(branch) + repr(system("store-berlin"))


@pytest.mark.parametrize("url", ["https://sync:hunter2@example.com/pos", "https://sync:hunter%32@example.com/pos"])
def test_address_is_in_no_error_whatever_the_connector_says(url: str) -> None:
    a_branch("berlin", url)

    def breaks(*_: object) -> None:
        written = url.partition("sync:")[2].partition("@")[0]
        raise Unreachable(f"could not connect to {url}: password 'hunter2', that is {written}, of sync is wrong")

    LEDGERS["berlin"].before = breaks
    found = run(system("store-berlin"))
    assert "hunter" not in found.error
    assert "could not connect to ***" in found.error
    assert "hunter" not in everything_stored()


def test_address_from_the_environment_is_read_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    branch = a_branch("berlin", "env:LEGACY_STORE_BERLIN")
    found = run(system("store-berlin"))
    assert (found.state, "LEGACY_STORE_BERLIN" in found.error) == (Run.State.MISCONFIGURED, True)
    monkeypatch.setenv("LEGACY_STORE_BERLIN", "https://sync:hunter2@example.com/pos")
    assert branch.url == "https://sync:hunter2@example.com/pos"
    assert run(system("store-berlin")).state == Run.State.DONE


def test_variable_of_another_purpose_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "https://other:hunter2@example.com")
    a_branch("berlin", "env:DATABASE_URL")
    found = run(system("store-berlin"))
    assert found.state == Run.State.MISCONFIGURED
    assert PASSWORD not in found.error


def test_new_key_reads_what_the_old_one_wrote_until_it_is_encrypted_anew(settings: Settings) -> None:
    settings.LEGACY_SECRET_KEY = "the old key"
    a_branch("berlin")
    settings.LEGACY_SECRET_KEY, settings.LEGACY_SECRET_KEY_FALLBACKS = "the new key", ["the old key"]
    assert PASSWORD in Branch.objects.get().url
    call_command("legacy_rekey", stdout=StringIO())
    settings.LEGACY_SECRET_KEY_FALLBACKS = []
    assert PASSWORD in Branch.objects.get().url
    settings.LEGACY_SECRET_KEY = "a key that was never there"
    found = run(system("store-berlin"))
    assert (found.state, "LEGACY_SECRET_KEY_FALLBACKS" in found.error) == (Run.State.MISCONFIGURED, True)
    with pytest.raises(CommandError, match="store-berlin"):
        call_command("legacy_rekey", stdout=StringIO())


def test_key_of_its_own_can_be_set_later(settings: Settings) -> None:
    a_branch("berlin")
    settings.LEGACY_SECRET_KEY = "a key of its own"
    assert PASSWORD in Branch.objects.get().url


# --- entering them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://sync:x@example.com/pos", ""),
        ("postgresql://sync:x@db.example.com/pos", ""),
        ("postgresql+psycopg://sync:x@db.example.com/pos", ""),
        ("http://example.com/pos", "must begin with https://"),
        ("http://169.254.169.254/latest/meta-data", "must begin with https://"),
        ("http://127.0.0.1:8000", "must begin with https://"),
        ("file:///etc/passwd", "must begin with"),
        ("sqlite:////etc/passwd.sqlite", "must begin with"),
        ("gopher://example.com", "must begin with"),
        ("https://", "must begin with"),
        ("postgresql:///pos?host=/run/postgresql", "no host"),
        ("https://[::1", "no address"),
        ("postgresql://h:port/pos", "no address"),
        ("", "must begin with"),
    ],
)
def test_address_of_a_kind_that_is_not_allowed_is_refused(url: str, told: str) -> None:
    found = problem(url, ("https", "postgresql"))
    assert told in found if told else found == ""


FILE = """name,title,url,enabled,schedule,till
berlin,Berlin,https://a:hunter2@example.com/1,yes,,3
bonn,Bonn,https://a:hunter2@example.com/2,no,0 3 * * *,4
"""


def test_file_makes_branches_and_changes_those_that_it_knows() -> None:
    assert take("store", FILE.splitlines()) == (2, 0)
    assert take("store", ["name,title", "berlin,Berlin Mitte"]) == (0, 1)
    berlin, bonn = Branch.objects.order_by("name")
    assert (berlin.title, berlin.enabled, berlin.parameters) == ("Berlin Mitte", True, {"till": "3"})
    assert (bonn.enabled, bonn.schedule) == (False, "0 3 * * *")
    assert berlin.url == "https://a:hunter2@example.com/1"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("rome,Rome,http://a:hunter2@example.com,yes,,", "Line 4: The address must begin with https"),
        ("Rome,Rome,https://a:hunter2@example.com,yes,,", "Line 4: Lower-case letters"),
        ("rome,Rome,,yes,,", "Line 4: An address is needed"),
        ("rome,Rome,https://a:hunter2@example.com,yes,daily,", "Line 4: 'daily' is no schedule"),
        ("rome,Rome,https://a:hunter2@example.com,yes,,1,2,3", "Line 4: more values than columns"),
    ],
)
def test_file_with_a_bad_line_changes_nothing_and_names_the_line(line: str, told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        take("store", (FILE + line).splitlines())
    assert told in " ".join(refused.value.messages)
    assert PASSWORD not in " ".join(refused.value.messages)
    assert not Branch.objects.exists()


# --- the admin --------------------------------------------------------------------------------------------------------

LIST = "/admin/legacy/branch/"
ENTERED = {"kind": "store", "name": "rome", "title": "Rome", "enabled": "on", "parameters": "{}"}


def shown(client: Client, address: str = LIST) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def act(client: Client, action: str, *names: str) -> str:
    chosen = [str(pk) for pk in Branch.objects.filter(name__in=names).values_list("pk", flat=True)]
    return str(client.post(LIST, {"action": action, "_selected_action": chosen}, follow=True).content.decode())


def test_list_shows_how_each_is_with_the_same_queries_for_many(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        a_branch(f"s{number}")
    a_branch("berlin", title="Berlin Mitte")
    LEDGERS["berlin"].put("party", code="1", name="Ana")
    run(system("store-berlin"))
    a_branch("bonn")
    down(LEDGERS["bonn"])
    for _ in range(3):
        run(system("store-bonn"))
    with django_assert_max_num_queries(14):
        told = shown(admin_client)
    for fact in (
        "Berlin Mitte",
        "done",
        "just now",
        "left alone, 3 times not reached",
        "It does not answer.",
        "never ran",
    ):
        assert fact in told


def test_page_shows_the_last_runs_and_never_the_address(admin_client: Client) -> None:
    branch = a_branch("berlin", title="Berlin Mitte")
    run(system("store-berlin"), trigger="button")
    told = shown(admin_client, f"{LIST}{branch.pk}/change/")
    assert "Sync now" in told
    assert "button" in told
    assert PASSWORD not in told
    assert branch.address not in told


def test_branch_is_entered_and_changed_without_telling_its_address(admin_client: Client) -> None:
    answer = admin_client.post(f"{LIST}add/", ENTERED | {"url": "https://a:hunter2@example.com"})
    assert answer.status_code == 302, answer.content.decode()
    rome = Branch.objects.get()
    assert rome.url == "https://a:hunter2@example.com"
    admin_client.post(f"{LIST}{rome.pk}/change/", ENTERED | {"title": "Roma", "url": "", "name": "milan"})
    rome = Branch.objects.get()
    assert (rome.title, rome.name, rome.url) == ("Roma", "rome", "https://a:hunter2@example.com")
    assert PASSWORD not in json.dumps(list(LogEntry.objects.values_list("change_message", flat=True)))


@pytest.mark.parametrize(
    ("entered", "told"),
    [
        ({"url": "http://a:hunter2@example.com"}, "must begin with https://"),
        ({"url": ""}, "An address is needed"),
        ({"url": "https://a:hunter2@example.com", "schedule": "daily"}, "is no schedule"),
        ({"url": "https://a:hunter2@example.com", "zone": "Mars"}, "no time zone"),
        ({"url": "env:SECRET_KEY"}, "env:LEGACY_"),
        ({"url": "https://a:hunter2@example.com", "name": "a b"}, "Lower-case letters"),
    ],
)
def test_bad_entry_is_told_without_its_address(admin_client: Client, entered: dict[str, str], told: str) -> None:
    answer = admin_client.post(f"{LIST}add/", ENTERED | entered)
    assert told in answer.content.decode()
    assert PASSWORD not in answer.content.decode()
    assert not Branch.objects.exists()


def test_many_are_switched_off_and_on(admin_client: Client) -> None:
    for name in ("berlin", "bonn", "rome"):
        a_branch(name)
    assert "Switched off: store-berlin, store-bonn" in act(admin_client, "disable", "berlin", "bonn")
    assert set(Branch.objects.filter(enabled=True).values_list("name", flat=True)) == {"rome"}
    act(admin_client, "enable", "bonn")
    assert set(Branch.objects.filter(enabled=True).values_list("name", flat=True)) == {"bonn", "rome"}


def test_sync_now_begins_a_run_of_those_that_are_on_and_wakes_those_that_rest(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(button, "sync_now", lambda names: begun.append(list(names)))
    a_branch("berlin")
    a_branch("bonn", enabled=False)
    Counterpart.objects.create(system="store-berlin", rests_until=timezone.now() + dt.timedelta(hours=1))
    assert "Begun: store-berlin" in act(admin_client, "sync_now", "berlin", "bonn")
    assert begun == [["store-berlin"]]
    assert Counterpart.objects.get().rests_until is None


@pytest.mark.slow
def test_somebody_who_may_only_look_may_not_act(client: Client) -> None:
    ana = User.objects.create_user("ana", is_staff=True)
    ana.user_permissions.add(Permission.objects.get(codename="view_branch"))
    client.force_login(ana)
    branch = a_branch("berlin")
    assert "Sync now" not in shown(client, f"{LIST}{branch.pk}/change/")
    act(client, "disable", "berlin")
    assert Branch.objects.get().enabled
    assert client.get(f"{LIST}import/").status_code == 403


def test_branch_that_was_synced_is_not_deleted(admin_client: Client) -> None:
    branch = a_branch("berlin")
    LEDGERS["berlin"].put("party", code="1", name="Ana")
    assert admin_client.get(f"{LIST}{branch.pk}/delete/").status_code == 200
    run(system("store-berlin"))
    assert admin_client.get(f"{LIST}{branch.pk}/delete/").status_code == 403


def test_file_is_taken_in_the_admin(admin_client: Client) -> None:
    def sent(text: str) -> Any:
        return {"kind": "store", "file": SimpleUploadedFile("stores.csv", text.encode())}

    told = admin_client.post(f"{LIST}import/", sent(FILE + "rome,Rome,ftp://x:hunter2@y,yes,,")).content.decode()
    assert "Line 4" in told
    assert PASSWORD not in told
    told = admin_client.post(f"{LIST}import/", sent(FILE), follow=True).content.decode()
    assert "2 made, 0 changed" in told


def test_dead_letters_of_a_branch_are_counted_in_its_line(admin_client: Client) -> None:
    a_branch("berlin")
    DeadLetter.objects.create(
        system="store-berlin", mapping="customer", direction="pull", key="1", error="no", payload={}
    )
    assert "deadletter/?system=store-berlin" in shown(admin_client)
