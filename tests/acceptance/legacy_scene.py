"""An evening at the Northwind company, for pages to show: its ERP, its CRM and fourteen branches, some in trouble.

A server that has `LEGACY_SYSTEMS=tests.acceptance.legacy_scene` and `LEGACY_SCENE` (the file that the ERP's records are
kept in) has these systems; `build()` writes what has happened with them into its database.
"""

import json
import os
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from entities.models import Contact, Customer
from legacy.convert import Day
from legacy.mapping import F, Same
from legacy.mapping import Mapping as Declared
from legacy.models import Counterpart, DeadLetter, Link, Run, Waiting
from legacy.runs import run
from legacy.systems import System, system
from sync.capture import authored
from syncserver import environment
from tests.acceptance.conflict_scene import read
from tests.integration.legacy_support import PRODUCT, Ledger

FILE = Path(os.environ.get("LEGACY_SCENE", environment.DATA_DIR / "legacy_scene.json"))
STORES = "berlin bergen cork graz lille london luleå lyon madrid nantes oulu porto seattle torino".split()
CUSTOMER = Declared(
    "customer",
    Customer,
    "party",
    match=(Same("code"), Same("name", by="letters", sure=False)),
    direction="both",
    deletes="pull",
    fields=(
        F("code", "KUNNR", only="pull"),
        F("name", "NAME1"),
        F("address", "STRAS"),
        F("city", "ORT01"),
        F("country", "LAND1"),
        F("phone", "TELF1"),
    ),
)
CONTACT = Declared(
    "contact",
    Contact,
    "person",
    fields=(
        F("customer", "KUNNR", ref="customer"),
        F("first_name", "NAMEV"),
        F("last_name", "NAME1"),
        F("title", "ABTNR"),
        F("email", "SMTP_ADDR"),
        F("met_on", "ERDAT", Day("%d.%m.%Y")),
    ),
)


class Kept(Ledger):
    """The ERP: its records stand in a file, so that a run in another process finds what the scene put there."""

    def open(self) -> str:
        self.load()
        return "SYNC@erp.northwind.example"

    def load(self) -> None:
        told: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"records": [], "clock": 0}
        self.records = {"party": {}, "person": {}, "item": {}, "sale": {}}
        for source, key, stamp, values in told["records"]:
            self.records[source][key], self.stamps[source, key] = values, stamp
        self.clock = told["clock"]

    def put(self, source: str, key: str | None = None, **values: Any) -> str:
        made = super().put(source, key, **values)
        self.keep()
        return made

    def keep(self) -> None:
        told = [
            [source, key, self.stamps[source, key], values]
            for source in self.records
            for key, values in self.records[source].items()
        ]
        FILE.write_text(json.dumps({"records": told, "clock": self.clock}))


ERP = Kept(page_records=100)
SYSTEMS = (
    System("erp", lambda: ERP, (CUSTOMER, CONTACT, PRODUCT)),
    System("crm", Ledger, (CUSTOMER,), rank=2),
    *(System(f"store-{name}", Ledger, (CUSTOMER, PRODUCT), rank=3) for name in STORES),
)


def build(now: datetime | None = None) -> dict[str, str]:
    """Write the scene, as it would be at `now`; the addresses of the pages that pictures show."""
    return Evening(now or timezone.now()).build()


class Evening:
    def __init__(self, now: datetime) -> None:
        self.now = now
        self.random = random.Random(1996)

    def build(self) -> dict[str, str]:
        self._first_load()
        rolled = self._this_evening()
        unclear, failed = self._unclear(), self._failed()
        self._loop()
        self._days()
        self._trouble()
        self._plan()
        link = Link.objects.get(system="erp", mapping="customer", key="3")
        Customer.objects.filter(pk=link.row).update(phone="(5) 555-3939", address="Mataderos 2312, 2º")
        return {
            "systems": "/admin/legacy/counterpart/",
            "runs": "/admin/legacy/run/?system=erp",
            "run": f"/admin/legacy/run/{rolled.pk}/change/",
            "rollback": f"/admin/legacy/run/{rolled.pk}/rollback/",
            "plan": "/admin/legacy/counterpart/erp/plan/",
            "dead-letters": "/admin/legacy/deadletter/",
            "dead-letter": f"/admin/legacy/deadletter/{failed.pk}/change/",
            "unclear-record": f"/admin/legacy/deadletter/{unclear.pk}/change/",
            "link": f"/admin/legacy/link/{link.pk}/change/",
            "links": "/admin/legacy/link/",
        }

    # --- what was taken over ---

    def _first_load(self) -> None:
        FILE.unlink(missing_ok=True)
        ERP.load()
        for number, each in enumerate(read("customers")[:40], 1):
            self._party(number, each)
        ERP.keep()
        run(system("erp"), trigger="schedule")

    def _party(self, number: int, each: Mapping[str, str]) -> None:
        values = {"KUNNR": each["CustomerID"], "NAME1": each["CompanyName"], "STRAS": each["Address"]}
        values |= {"ORT01": each["City"], "LAND1": each["Country"], "TELF1": each["Phone"]}
        Ledger.put(ERP, "party", str(number), **values)

    def _this_evening(self) -> Run:
        """A run that changed some customers and made others; two of them were changed here since."""
        for number in (5, 9, 12, 20):
            ERP.put("party", str(number), TELF1=f"030-00743{number}")
        for number, each in enumerate(read("customers")[40:52], 41):
            self._party(number, each)
        ERP.keep()
        found = run(system("erp"), trigger="button")
        rows = Link.objects.filter(system="erp", key__in=["9", "44"]).values("row")
        with transaction.atomic(), authored("user:anna"):
            Customer.objects.filter(pk__in=rows).update(fax="030-0074399")
        return found

    def _plan(self) -> None:
        """What the next run would do: both ways."""
        ERP.load()
        ERP.put("party", "6", TELF1="0621-08924", STRAS="Forsterstr. 57 b")
        ERP.put("party", "15", ORT01="São Paulo – Centro")
        for number, each in enumerate(read("customers")[60:63], 61):
            self._party(number, each)
        del ERP.records["party"]["30"]
        ERP.keep()
        row = Link.objects.get(system="erp", mapping="customer", key="11").row
        with transaction.atomic(), authored("device:0198a6d2-0000-7000-8000-00000000d001"):
            Customer.objects.filter(pk=row).update(phone="(171) 555-1299", address="Fauntleroy Circus 4")
            Customer.objects.create(name="Café Nordlys", city="Tromsø", country="Norway", phone="77 61 00 10")
        call_command("sync_legacy", "--system", "erp", "--dry-run", "--keep", "--json", stdout=StringIO())

    # --- what could not be taken over ---

    def _unclear(self) -> DeadLetter:
        rows = [
            Customer.objects.create(
                name="Bólido Comidas preparadas",
                address="C/ Araquil, 67",
                city="Madrid",
                country="Spain",
                phone="(91) 555 22 82",
            ),
            Customer.objects.create(
                name="Bolido Comidas Preparadas", address="C/ Mayor 12", city="Toledo", country="Spain"
            ),
        ]
        values = {
            "KUNNR": "BOLIX",
            "NAME1": "BÓLIDO COMIDAS PREPARADAS",
            "STRAS": "C/ Araquil, 67",
            "ORT01": "Madrid",
            "LAND1": "Spain",
            "TELF1": "(91) 555 91 99",
        }
        return self._letter(
            "customer",
            "1107",
            "It may be one of 2 rows of ours.",
            values,
            5,
            kind="unclear",
            candidates=[str(r.pk) for r in rows],
        )

    def _failed(self) -> DeadLetter:
        people = [("Thomas", "Hardy", "24.13.2026"), ("Hanna", "Moos", "n/a"), ("Frédérique", "Citeaux", "31.11.2026")]
        for number, (first, last, day) in enumerate(people, 1):
            values = {"KUNNR": "4", "NAMEV": first, "NAME1": last, "ABTNR": "Sales Representative"}
            values |= {"SMTP_ADDR": f"{first}.{last}@example.com".lower(), "ERDAT": day}
            error = f"met_on: '{day}' is no day as %d.%m.%Y has it"
            found = self._letter(
                "contact", f"P{4710 + number}", error, values, 3 + 20 * number, attempts=2 + 3 * number
            )
        self._letter(
            "customer",
            "1108",
            "name: This field cannot be blank.",
            {"KUNNR": "NONAM", "NAME1": "", "ORT01": "Graz"},
            70,
            attempts=9,
        )
        return found

    def _loop(self) -> None:
        link = Link.objects.get(system="erp", mapping="customer", key="8")
        payload = {**link.agreed, "phone": "(91) 555 22 82"}
        error = "erp did not keep phone 3 times, and nobody but systems changes it."
        self._letter("customer", str(link.row), error, payload, 30, kind="loop", direction="push", attempts=3)

    def _letter(self, mapping: str, key: str, error: str, payload: Any, hours: float, **more: Any) -> DeadLetter:
        given = {"direction": "pull", "first_at": self.now - timedelta(hours=hours), "attempts": 1} | more
        if given.get("kind", "failed") == "failed":
            given["next_at"] = self.now + timedelta(minutes=40)
        last = Run.objects.filter(system="erp").order_by("-started_at").first()
        return DeadLetter.objects.create(
            system="erp", mapping=mapping, key=key, error=error, payload=payload, run=last, **given
        )

    # --- what the last month was like ---

    def _days(self) -> None:
        runs = []
        for day in range(29, 0, -1):
            for hour in (2, 8, 14, 20):
                at = self.now - timedelta(days=day, hours=hour)
                busy = at.weekday() < 5
                counts = {
                    "created": self.random.randint(0, 12 if busy else 2),
                    "updated": self.random.randint(4, 60 if busy else 6),
                    "updated there": self.random.randint(0, 25 if busy else 3),
                    "failed": self.random.choice([0, 0, 0, 0, 1, 3]),
                    "unchanged": self.random.randint(200, 900),
                }
                state = (
                    Run.State.UNREACHABLE
                    if day == 17 and hour in (8, 14)
                    else Run.State.PARTIAL
                    if counts["failed"]
                    else Run.State.DONE
                )
                seconds = 4 + sum(counts.values()) / 60 + (90 if day == 9 and hour == 2 else 0)
                ended = at + timedelta(seconds=seconds)
                runs.append(
                    Run(
                        system="erp",
                        state=state,
                        started_at=at,
                        ended_at=ended,
                        trigger="schedule",
                        counts={"customer": counts} if state != Run.State.UNREACHABLE else {},
                        error=""
                        if state != Run.State.UNREACHABLE
                        else "erp.northwind.example does not answer: connection refused.",
                    )
                )
        Run.objects.bulk_create(runs)
        self._others()

    def _others(self) -> None:
        for number, name in enumerate(["crm", *(f"store-{each}" for each in STORES)]):
            at = self.now - timedelta(minutes=7 + 3 * number)
            counts = {"customer": {"updated": number % 4, "unchanged": 120}} if number % 4 else {}
            Run.objects.create(
                system=name,
                state=Run.State.DONE,
                started_at=at,
                ended_at=at + timedelta(seconds=3 + number),
                trigger="schedule",
                counts=counts,
            )

    def _trouble(self) -> None:
        """A branch that stopped for safety, one that does not answer, and one that somebody paused."""
        stop = (
            "This would delete 38 of 120 linked rows of customer. If that is right, "
            "sync_legacy --system store-lyon --force does it; sync_legacy --dry-run shows what."
        )
        self._last("store-lyon", Run.State.STOPPED, stop, minutes=21)
        rows = list(Link.objects.filter(system="erp", mapping="customer").order_by("pk").values_list("key", "row")[:38])
        Link.objects.bulk_create([Link(system="store-lyon", mapping="customer", key=key, row=row) for key, row in rows])
        Waiting.objects.bulk_create(
            [Waiting(system="store-lyon", mapping="customer", key=key, gone=True) for key, _ in rows]
        )
        self._last(
            "store-oulu",
            Run.State.UNREACHABLE,
            "oulu.stores.northwind.example does not answer: timed out after 30 s.",
            26,
        )
        Counterpart.objects.update_or_create(
            system="store-oulu", defaults={"failures": 5, "rests_until": self.now + timedelta(minutes=14)}
        )
        Counterpart.objects.update_or_create(
            system="store-graz",
            defaults={"paused_at": self.now - timedelta(hours=3), "paused_why": "stocktaking until Monday"},
        )
        LogEntry.objects.all().delete()

    def _last(self, name: str, state: str, error: str, minutes: int) -> None:
        at = self.now - timedelta(minutes=minutes)
        Run.objects.create(
            system=name,
            state=state,
            error=error,
            started_at=at,
            ended_at=at + timedelta(seconds=31),
            trigger="schedule",
        )
