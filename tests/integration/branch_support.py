"""Branches whose systems are in memory: the template, and the ledgers by the name of their branch."""

from dataclasses import replace

import pytest

from legacy import systems
from legacy.branches.models import Branch
from legacy.convert import By
from legacy.mapping import F, Mapping
from legacy.systems import Many, System
from tests.integration.legacy_support import CUSTOMER, Ledger

LEDGERS: dict[str, Ledger] = {}


def connect(branch: Branch) -> Ledger:
    assert branch.url
    return LEDGERS[branch.name]


def mappings(branch: Branch) -> tuple[Mapping, ...]:
    def code(theirs: str) -> str:
        return f"{branch.name}-{theirs}"

    own = (F("code", "code", By(code), only="pull"), *CUSTOMER.fields[1:])
    return (replace(CUSTOMER, direction="pull", fields=own),)


SYSTEMS = (
    System("head-office", Ledger, (CUSTOMER,), rank=1),
    Many("store", connect, mappings, rank=2, schedule="*/15 * * * *", zone="Europe/Berlin", timeout_seconds=30),
)


@pytest.fixture(autouse=True)
def declared_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "modules", lambda: SYSTEMS)
    LEDGERS.clear()


def a_branch(name: str, url: str = "https://sync:hunter2@example.com/pos", **values: object) -> Branch:
    LEDGERS[name] = Ledger()
    branch = Branch(kind="store", name=name, **values)
    branch.url = url
    branch.save()
    return branch
