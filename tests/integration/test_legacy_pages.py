"""The overview of the pre-existing systems, their runs, and plans: what people see, and what buttons start."""

from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from entities.models import Customer
from legacy import systems
from legacy.models import Counterpart, DeadLetter, Link, Plan, Run, Waiting
from tests.integration import legacy_pages_support as scene
from tests.integration.legacy_pages_support import NOBODY, RUN, SYSTEM, failed, sync
from tests.integration.legacy_support import down
from tests.integration.pages_support import EVIL, clerk, shown

pytestmark = pytest.mark.django_db(transaction=True)
VIEW = "legacy.view_run"


@pytest.fixture(autouse=True)
def declared(settings: Settings) -> Iterator[None]:
    settings.LEGACY_SYSTEMS = [scene.__name__]
    systems.modules.cache_clear()
    scene.LEDGER.__init__()  # type: ignore[misc]
    scene.CRM.__init__()  # type: ignore[misc]
    yield
    systems.modules.cache_clear()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would have been started in a process of its own."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr("legacy.start.spawn", lambda *options: found.append(options))
    return found


def post(client: Client, address: str, **data: Any) -> str:
    answer = client.post(address, data, follow=True)
    assert answer.status_code == 200
    return " ".join(unescape(answer.content.decode()).split())


# --- the overview -----------------------------------------------------------------------------------------------------


def test_overview_tells_of_systems_that_never_ran(admin_client: Client) -> None:
    page = shown(admin_client, SYSTEM)
    assert "2 pre-existing systems" in page
    assert "ledger" in page and "crm" in page
    assert page.count("never ran") >= 2


@pytest.mark.slow
def test_overview_tells_what_is_declared_wrong(admin_client: Client, settings: Settings) -> None:
    settings.LEGACY_SYSTEMS = ["no.such.module"]
    systems.modules.cache_clear()
    assert "What is declared cannot be read." in shown(admin_client, SYSTEM)
    assert "no.such.module" in shown(admin_client, "/admin/")


def test_overview_tells_the_last_run_and_what_waits(admin_client: Client) -> None:
    scene.LEDGER.put("party", code="ALFKI", name=EVIL, city="Berlin")
    sync()
    failed(key="8", run=None)
    Waiting.objects.create(system="ledger", mapping="customer", key="9", values={})
    page = shown(admin_client, SYSTEM)
    assert "1 created" in page
    assert ">in step<" in page
    assert "</strong> record read and not applied" in page
    assert f"{scene.LETTER}?system=ledger&kind=failed" in page


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (Run.State.STOPPED, "stopped for safety"),
        (Run.State.UNREACHABLE, "not reached"),
        (Run.State.MISCONFIGURED, "wrong configuration"),
        (Run.State.RUNNING, "broke off"),  # nobody is at work on it, so it was killed
        (Run.State.PARTIAL, "some failed"),
    ],
)
def test_overview_says_how_the_last_run_ended(state: str, told: str, admin_client: Client) -> None:
    Run.objects.create(system="ledger", state=state, error=f"because {EVIL}")
    assert told in shown(admin_client, SYSTEM)


def test_system_that_rests_says_until_when(admin_client: Client) -> None:
    Counterpart.objects.create(system="ledger", failures=4, rests_until=timezone.now() + timedelta(minutes=9))
    page = shown(admin_client, SYSTEM)
    assert "did not answer 4 times" in page
    assert "Ask it now" in page


def test_many_systems_are_a_grid_with_cards_for_those_that_need_somebody(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(systems.System(f"store-b{n}", lambda: scene.CRM, ()) for n in range(40))
    monkeypatch.setattr(scene, "SYSTEMS", many)
    systems.modules.cache_clear()
    Run.objects.create(system="store-b7", state=Run.State.STOPPED, error="too much")
    page = shown(admin_client, SYSTEM)
    assert page.count('class="lg-cell') == 40
    assert page.count("lg-card-head") == 1
    assert 'id="card-store-b3"' in shown(admin_client, f"{SYSTEM}?system=store-b3")


def test_overview_asks_a_number_of_queries_that_does_not_grow(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    monkeypatch.setattr(scene, "SYSTEMS", tuple(systems.System(f"store-{n}", lambda: scene.CRM, ()) for n in range(60)))
    systems.modules.cache_clear()
    Run.objects.bulk_create([Run(system=f"store-{n}", state="done", started_at=timezone.now()) for n in range(60)])
    with django_assert_max_num_queries(30):
        shown(admin_client, SYSTEM)


# --- buttons ----------------------------------------------------------------------------------------------------------


def test_sync_now_starts_a_run_in_a_process_of_its_own(admin_client: Client, started: list[tuple[str, ...]]) -> None:
    page = post(admin_client, f"{SYSTEM}ledger/sync/")
    assert started == [("--system", "ledger", "--trigger", "button")]
    assert "A run of ledger begins." in page
    assert ">starting<" in page
    assert "started a run (ledger)" in page


def test_second_click_says_that_a_run_is_at_work(admin_client: Client, started: list[tuple[str, ...]]) -> None:
    post(admin_client, f"{SYSTEM}ledger/sync/")
    assert "at work already" in post(admin_client, f"{SYSTEM}ledger/sync/")
    assert len(started) == 1


def test_run_that_cron_started_is_seen_and_not_doubled(admin_client: Client, started: list[tuple[str, ...]]) -> None:
    seen: list[str] = []

    def look(call: str, number: int) -> None:
        if not seen:
            seen.append(shown(admin_client, SYSTEM))
            seen.append(post(admin_client, f"{SYSTEM}ledger/sync/"))

    scene.LEDGER.before = look
    sync()
    assert ">at work<" in seen[0] and "data-again" in seen[0]
    assert "at work already" in seen[1]
    assert started == []


def test_system_that_is_switched_off_is_not_started(
    admin_client: Client, started: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene, "SYSTEMS", (systems.System("off", lambda: scene.CRM, (), enabled=False),))
    systems.modules.cache_clear()
    assert "switched off" in shown(admin_client, SYSTEM)
    assert "switched off" in post(admin_client, f"{SYSTEM}off/sync/")
    assert started == []


def test_run_that_did_not_begin_is_told(admin_client: Client) -> None:
    Counterpart.objects.create(system="ledger", asked_at=timezone.now() - timedelta(minutes=5))
    assert "was asked for and did not begin" in shown(admin_client, SYSTEM)


def test_pause_needs_a_reason_and_resume_ends_it(admin_client: Client, started: list[tuple[str, ...]]) -> None:
    assert "Say why it is paused." in post(admin_client, f"{SYSTEM}ledger/pause/", reason=" ")
    assert not Counterpart.objects.filter(paused_at__isnull=False).exists()
    assert "stocktaking" in post(admin_client, f"{SYSTEM}ledger/pause/", reason=f"stocktaking {EVIL}")
    assert Counterpart.objects.get(system="ledger").paused_why == f"stocktaking {EVIL}"
    assert "Resume it first" in post(admin_client, f"{SYSTEM}ledger/sync/")
    assert started == []
    post(admin_client, f"{SYSTEM}ledger/resume/")
    assert Counterpart.objects.get(system="ledger").paused_at is None
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        f"paused ledger: stocktaking {EVIL}",
        "resumed ledger",
    ]


def test_stopped_system_shows_what_it_held_back_before_it_is_forced(
    admin_client: Client, started: list[tuple[str, ...]]
) -> None:
    row = Customer.objects.create(name=f"Gone {EVIL}")
    Link.objects.create(system="ledger", mapping="customer", key="5", row=row.pk)
    Waiting.objects.create(system="ledger", mapping="customer", key="5", gone=True)
    Run.objects.create(system="ledger", state=Run.State.STOPPED, error="This would delete 1 of 1")
    assert f"{SYSTEM}ledger/force/" in shown(admin_client, SYSTEM)
    page = shown(admin_client, f"{SYSTEM}ledger/force/")
    assert "This would delete 1 of 1" in page and "Gone" in page
    assert started == []
    post(admin_client, f"{SYSTEM}ledger/force/")
    assert started == [("--system", "ledger", "--trigger", "button", "--force")]


@pytest.mark.parametrize("action", ["sync", "pause", "resume", "force", "plan"])
def test_who_may_only_look_can_start_nothing(action: str, started: list[tuple[str, ...]]) -> None:
    looker = clerk(VIEW)
    page = shown(looker, SYSTEM)
    assert "Sync now" not in page
    assert looker.post(f"{SYSTEM}ledger/{action}/", {"reason": "x"}).status_code == 403
    assert started == []
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("address", [SYSTEM, RUN, f"{SYSTEM}ledger/plan/", f"{SYSTEM}ledger/force/"])
def test_who_may_not_look_sees_nothing(address: str) -> None:
    assert clerk("sync.view_conflict").get(address).status_code == 403


@pytest.mark.parametrize("action", ["sync", "pause", "resume"])
def test_button_is_no_link(action: str, admin_client: Client) -> None:
    assert admin_client.get(f"{SYSTEM}ledger/{action}/").status_code == 403


def test_system_that_there_is_not_is_not_found(admin_client: Client) -> None:
    assert admin_client.post(f"{SYSTEM}nobody/sync/").status_code == 404


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.legacy("L8")
def test_runs_are_filtered_and_charted(admin_client: Client) -> None:
    now = timezone.now()
    for day in range(35):
        counts = {"customer": {"created": day, "failed": day % 3, "unchanged": 50}}
        Run.objects.create(
            system="ledger" if day % 2 else "crm",
            state="done" if day % 5 else "unreachable",
            started_at=now - timedelta(days=day),
            ended_at=now - timedelta(days=day, seconds=-day),
            counts=counts,
        )
    page = shown(admin_client, f"{RUN}?system=ledger&state=done")
    assert page.count('<svg class="lg-chart"') == 3
    assert "<title>Records of ledger a day</title>" in page
    assert admin_client.get(f"{RUN}?system=ledger&state=done").context["cl"].result_count == 14
    assert "In numbers" in page


def test_runs_that_there_are_none_of_is_told(admin_client: Client) -> None:
    assert "lg-chart" not in shown(admin_client, RUN)


def test_run_page_tells_counts_rows_and_dead_letters(admin_client: Client) -> None:
    scene.LEDGER.put("party", code="ALFKI", name=f"Alfreds {EVIL}", city="Berlin")
    made = sync()
    failed(run=made)
    page = shown(admin_client, f"{RUN}{made.pk}/change/")
    row = Customer.objects.get()
    assert f"/admin/entities/customer/{row.pk}/history/" in page
    assert "Created" in page and "customer 7" in page
    assert made.author in page


def test_run_page_of_rows_that_are_gone_names_them(admin_client: Client) -> None:
    scene.LEDGER.put("party", code="ALFKI", name="Alfreds", city="Berlin")
    made = sync()
    Customer.objects.all().delete()
    assert "Alfreds" in shown(admin_client, f"{RUN}{made.pk}/change/")


def test_run_page_shows_no_rows_to_whom_may_not_see_them() -> None:
    scene.LEDGER.put("party", code="ALFKI", name="Alfreds", city="Berlin")
    made = sync()
    failed(run=made)
    page = shown(clerk(VIEW, "legacy.view_deadletter"), f"{RUN}{made.pk}/change/")
    assert "Alfreds" not in page and "customer 7" not in page


def test_secrets_in_an_error_are_not_shown(admin_client: Client, settings: Settings) -> None:
    from legacy.pages import access

    settings.LEGACY_PASSWORD = "open sesame"
    access._secrets.cache_clear()
    error = "https://anna:hunter22@erp.example/api?token=abc123 said: open sesame is wrong"
    found = Run.objects.create(system="ledger", state=Run.State.UNREACHABLE, error=error)
    for address in (SYSTEM, f"{RUN}{found.pk}/change/"):
        page = shown(admin_client, address)
        assert "erp.example" in page
        for secret in ("hunter22", "abc123", "open sesame"):
            assert secret not in page
    access._secrets.cache_clear()


def test_rollback_is_previewed_then_started(admin_client: Client, started: list[tuple[str, ...]]) -> None:
    scene.LEDGER.put("party", code="ALFKI", name="Alfreds", city="Berlin")
    scene.LEDGER.put("party", code="ANATR", name=f"Ana {EVIL}", city="México")
    made = sync()
    Customer.objects.filter(code="ANATR").update(city="Puebla")
    page = shown(admin_client, f"{RUN}{made.pk}/rollback/")
    assert "Rows that it made, deleted" in page
    assert "1 row would stay as it is" in page and "changed since" in page
    assert Customer.objects.count() == 2
    post(admin_client, f"{RUN}{made.pk}/rollback/")
    assert started == [("--system", "ledger", "--trigger", "button", "--rollback", str(made.pk))]


def test_rollback_of_a_run_whose_system_is_gone_says_so(admin_client: Client) -> None:
    made = Run.objects.create(system="old", state=Run.State.DONE)
    assert "There is no system" in shown(admin_client, f"{RUN}{made.pk}/rollback/")


def test_rollback_needs_its_own_permission(started: list[tuple[str, ...]]) -> None:
    made = Run.objects.create(system="ledger", state=Run.State.DONE)
    runner = clerk(VIEW, "legacy.run_system")
    assert "Roll back" not in shown(runner, f"{RUN}{made.pk}/change/")
    assert runner.get(f"{RUN}{made.pk}/rollback/").status_code == 403
    assert runner.post(f"{RUN}{made.pk}/rollback/").status_code == 403
    assert started == []


@pytest.mark.parametrize("address", [f"{RUN}{NOBODY}/change/", f"{RUN}nonsense/change/", f"{RUN}{NOBODY}/rollback/"])
def test_run_that_there_is_not_is_not_found(address: str, admin_client: Client) -> None:
    assert admin_client.get(address).status_code == 404


# --- plans ------------------------------------------------------------------------------------------------------------


def planned(client: Client) -> str:
    call_command("sync_legacy", "--system", "ledger", "--dry-run", "--keep", "--json")
    return shown(client, f"{SYSTEM}ledger/plan/")


def test_plan_is_asked_for_once(admin_client: Client, started: list[tuple[str, ...]]) -> None:
    assert "No dry run of ledger was made yet." in shown(admin_client, f"{SYSTEM}ledger/plan/")
    assert "data-again" in post(admin_client, f"{SYSTEM}ledger/plan/")
    assert "at work already" in post(admin_client, f"{SYSTEM}ledger/plan/")
    assert started == [("--system", "ledger", "--dry-run", "--keep")]


def test_plan_shows_both_ways_field_by_field(admin_client: Client) -> None:
    scene.LEDGER.put("party", "1", code="ALFKI", name="Alfreds", city="Berlin")
    scene.LEDGER.put("party", "2", code="ANATR", name="Ana", city="México")
    sync()
    scene.LEDGER.put("party", "1", city=f"Bonn {EVIL}")
    del scene.LEDGER.records["party"]["2"]
    scene.LEDGER.put("party", "3", code="BOLID", name="Bólido", city="Madrid")
    Customer.objects.create(name=f"Walk-in {EVIL}", city="Oslo")
    page = planned(admin_client)
    assert "would change here" in page and "would be sent to ledger" in page
    assert "<del>Berlin</del>" in page and "Bonn" in page
    assert "Bólido" in page and "Walk-in" in page
    assert not Customer.objects.filter(code="BOLID").exists()


@pytest.mark.slow
def test_plan_is_bounded_and_counts_the_rest(admin_client: Client) -> None:
    for number in range(130):
        scene.LEDGER.put("party", code=f"C{number}", name=f"Customer {number}", city="Bonn")
    page = planned(admin_client)
    assert "130 <span" in page and "and 30 more" in page
    assert Plan.objects.get().rest == {"customer - created": 30}


def test_plan_of_what_the_safety_stop_held_back_is_shown(admin_client: Client, settings: Settings) -> None:
    settings.LEGACY_STOP_RECORDS_MIN = 0
    scene.LEDGER.put("party", "1", code="ALFKI", name="Alfreds", city="Berlin")
    sync()
    scene.LEDGER.put("party", "1", city="Bonn")
    assert sync().state == Run.State.STOPPED
    page = planned(admin_client)
    assert "Bonn" in page
    assert Customer.objects.get().city == "Berlin"
    assert Waiting.objects.count() == 1


def test_plan_that_could_not_be_made_says_why(admin_client: Client) -> None:
    down(scene.LEDGER)
    with pytest.raises(SystemExit):
        planned(admin_client)
    assert "It does not answer." in shown(admin_client, f"{SYSTEM}ledger/plan/")


def test_plan_where_nothing_would_change_says_so(admin_client: Client) -> None:
    assert "Nothing would change." in planned(admin_client)


def test_plan_hides_rows_that_one_may_not_see() -> None:
    scene.LEDGER.put("party", "1", code="ALFKI", name="Alfreds", city="Berlin")
    call_command("sync_legacy", "--system", "ledger", "--dry-run", "--keep", "--json")
    page = shown(clerk(VIEW, "legacy.run_system"), f"{SYSTEM}ledger/plan/")
    assert "Alfreds" not in page and "that you may not see" in page


def test_dead_letters_of_other_kinds_are_counted_apart(admin_client: Client) -> None:
    failed(kind=DeadLetter.Kind.IGNORED)
    assert '1 <span class="sy-badge sy-plain">left alone' in shown(admin_client, SYSTEM)
