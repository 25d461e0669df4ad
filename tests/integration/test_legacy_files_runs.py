"""Whole runs over a folder of files, on a real disk and on a remote file system of fsspec."""

from dataclasses import replace
from typing import Any

import pytest

from entities.models import Customer
from legacy.connectors.files import Drop
from legacy.mapping import F, Mapping
from legacy.models import Cursor, Run
from legacy.runs import run
from legacy.systems import System
from sync.models import History
from tests.integration.legacy_files_support import CSV, WHOLE, Folder
from tests.integration.legacy_support import Killed, killed_at

CUSTOMER = Mapping(
    "customer", Customer, CSV, match="code", fields=(F("code", "nr"), F("name", "name"), F("city", "city"))
)


def names() -> dict[str | None, str]:
    return dict(Customer.objects.values_list("code", "name"))


def sync(folder: Folder, dies_at: int = 0, mapping: Mapping = CUSTOMER, **options: Any) -> Run:
    """A run; `dies_at`: the call of `changes` in which its process is killed, after the page was read."""
    connector = killed_at(folder.connect(), dies_at)
    return run(System("folder", lambda: connector, (mapping,)), **options)


@pytest.fixture
def _rows(transactional_db: None) -> None:
    History.objects.all().delete()


@pytest.mark.legacy("L2")
@pytest.mark.usefixtures("_rows", "pages_of_two_lines")
@pytest.mark.parametrize("dies_at", range(1, 8))
def test_run_that_is_killed_at_any_page_loses_nothing_and_applies_nothing_twice(folder: Folder, dies_at: int) -> None:
    folder.drop("customers-1.csv", "nr,name\n" + "".join(f"{number},First\n" for number in range(5)))
    folder.drop("customers-2.csv", "nr,name\n" + "".join(f"{number},Second\n" for number in range(2, 7)))
    with pytest.raises(Killed):
        sync(folder, dies_at)
    assert folder.files() == {"customers-1.csv", "customers-2.csv"}
    assert sync(folder).state == Run.State.DONE
    assert names() == {**dict.fromkeys("01", "First"), **dict.fromkeys("23456", "Second")}
    revisions = History.objects.count()
    assert revisions <= 5 + 5  # each line makes one at most: what waits is replaced by what is said later
    sync(folder)
    assert folder.files() == {"taken/customers-1.csv", "taken/customers-2.csv"}
    assert History.objects.count() == revisions


@pytest.mark.legacy("L3")
@pytest.mark.usefixtures("_rows", "pages_of_two_lines")
def test_run_counts_and_names_what_could_not_be_read(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n1,Ana\nbad\n2,Bo\n3,Cy\nworse\n")
    folder.drop("customers-2.csv", "wrong,header\n1,Ana\n")
    this = sync(folder)
    assert (this.state, this.counts["customer"]) == (Run.State.PARTIAL, {"created": 3, "failed": 3})
    lines = [f"customers-1.csv, line {number}: it has 1 cells, the header 2" for number in (3, 6)]
    assert this.error.startswith(f"Not read: {lines[0]}; {lines[1]}; customers-2.csv: ")
    assert (sync(folder).state, sync(folder).error) == (Run.State.DONE, "")


@pytest.mark.legacy("L5")
@pytest.mark.usefixtures("_rows")
def test_dry_run_moves_and_writes_nothing(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n1,Ana\n")
    sync(folder, pretend=True)
    assert (names(), folder.files()) == ({}, {"customers-1.csv"})
    assert not Cursor.objects.exists()
    sync(folder)
    assert names() == {"1": "Ana"}


@pytest.mark.slow
@pytest.mark.legacy("S8")
@pytest.mark.usefixtures("_rows", "pages_of_two_lines")
@pytest.mark.parametrize("dies_at", range(3))
def test_what_a_whole_lacks_is_deleted_and_an_empty_folder_deletes_nothing(folder: Folder, dies_at: int) -> None:
    mapping = replace(CUSTOMER, source=WHOLE, deletes="pull", stop_deleted_share=1.0, stop_changed_share=1.0)
    folder.drop("customers-1.csv", "nr,name\n" + "".join(f"{number},Name\n" for number in range(5)))
    sync(folder, mapping=mapping)
    sync(folder, mapping=mapping)
    assert set(names()) == set("01234")
    folder.drop("customers-2.csv", "nr,name\n0,Name\n2,Name\n3,Name\n7,Name\n")
    if dies_at:
        with pytest.raises(Killed):
            sync(folder, dies_at, mapping)
    for _ in range(2):
        done = sync(folder, mapping=mapping)
        assert (done.state, done.error) == (Run.State.DONE, "")
        assert set(names()) == set("0237")


@pytest.mark.usefixtures("_rows")
def test_marked_records_are_deleted(folder: Folder) -> None:
    source = Drop("customers-*.csv", key="nr", gone="deleted")
    mapping = replace(CUSTOMER, source=source, deletes="pull", stop_deleted_share=1.0)
    folder.drop("customers-1.csv", "nr,name,deleted\n1,Ana,\n2,Bo,\n")
    sync(folder, mapping=mapping)
    folder.drop("customers-2.csv", "nr,name,deleted\n2,Bo,x\n")
    sync(folder, mapping=mapping)
    assert names() == {"1": "Ana"}
