"""A folder of files: each is taken once, and put away after the commit; and those that are the whole."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from legacy.connector import Unreachable
from legacy.connectors.files import Drop
from tests.integration.legacy_files_support import CSV, PLACES, WHOLE, Folder, Reader, passes

# --- Once, and after the commit ---------------------------------------------------------------------------------------


def test_same_file_dropped_again_is_not_taken_again(folder: Folder) -> None:
    reader = Reader(folder)
    for name in ("1", "2", "1"):
        folder.drop(f"customers-{name}.csv", f"nr,name\n1,{name}\n")
        expected = {} if len(folder.files()) > 2 else {"1": name}
        assert reader.names() == expected
        reader.read()
    assert folder.files() == {"taken/customers-1.csv", "taken/customers-2.csv"}


def test_file_of_a_fixed_name_is_taken_whenever_its_content_changed(folder: Folder) -> None:
    reader = Reader(folder, Drop("customers.csv", key="nr"))
    for name in ("Ana", "Bo", "Ana"):
        folder.drop("customers.csv", f"nr,name\n1,{name}\n")
        assert reader.names() == {"1": name}
        assert reader.names() == {}
        assert folder.read("taken/customers.csv") == f"nr,name\n1,{name}\n"
    assert len(folder.files()) == 3  # the versions before are there under their digests


def test_file_of_a_fixed_name_that_is_replaced_before_it_is_archived_is_taken_again(folder: Folder) -> None:
    reader = Reader(folder, Drop("customers.csv", key="nr"))
    for name in ("Ana", "Bo", "Ana"):
        folder.drop("customers.csv", f"nr,name\n1,{name}\n")
        assert reader.names() == {"1": name}
    assert reader.names() == {}
    assert folder.files() == {"taken/customers.csv"}


@pytest.mark.usefixtures("pages_of_two_lines")
def test_file_that_is_replaced_while_it_is_read_is_read_from_its_beginning(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n" + "".join(f"{number},old\n" for number in range(6)))
    connector = folder.connect()
    page = connector.changes(CSV, PLACES, {})
    folder.drop("customers-1.csv", "nr,name\n" + "".join(f"{number},new!\n" for number in range(6)))
    rest = passes(connector, CSV, page.cursor)
    assert {record.key: record.values["name"] for page in rest for record in page.records} == dict.fromkeys(
        "012345", "new!"
    )


@pytest.mark.usefixtures("pages_of_two_lines")
def test_file_that_vanishes_while_it_is_read_holds_nothing_up(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n" + "".join(f"{number},old\n" for number in range(6)))
    folder.drop("customers-2.csv", "nr,name\n7,next\n")
    page = folder.connect().changes(CSV, PLACES, {})
    folder.fs.rm_file(f"{folder.root}/customers-1.csv")
    rest = passes(folder.connect(), CSV, page.cursor)
    assert [record.key for page in rest for record in page.records] == ["7"]


def test_file_that_was_just_changed_waits_and_so_do_those_after_it(disk: Folder) -> None:
    for name in ("1", "2", "3"):
        disk.drop(f"customers-{name}.csv", f"nr,name\n{name},x\n")
    old = time.time() - 100
    for name in ("1", "3"):
        os.utime(f"{disk.root}/customers-{name}.csv", (old, old))
    pages = passes(disk.connect(settle_seconds=60), CSV, {})
    assert [record.key for page in pages for record in page.records] == ["1"]
    os.utime(f"{disk.root}/customers-2.csv", (old, old))
    pages = passes(disk.connect(settle_seconds=60), CSV, pages[-1].cursor)
    assert [record.key for page in pages for record in page.records] == ["2", "3"]


def test_file_waits_for_its_companion_which_goes_with_it(disk: Folder) -> None:
    reader = Reader(disk, Drop("customers-*.csv", key="nr", done=".done"))
    disk.drop("customers-1.csv", "nr,name\n1,Ana\n")
    assert reader.read() == []
    disk.drop("customers-1.csv.done", "")
    old = time.time() - 100
    os.utime(f"{disk.root}/customers-1.csv.done", (old, old))  # of the version before
    assert reader.read() == []
    os.utime(f"{disk.root}/customers-1.csv.done")
    assert reader.names() == {"1": "Ana"}
    reader.read()
    assert disk.files() == {"taken/customers-1.csv"}


def test_what_a_dry_run_reads_stays_where_it_is(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n1,Ana\nbad\n")
    folder.drop("customers-2.csv", "")
    for _ in range(2):  # nothing of the first one's cursor was committed
        assert Reader(folder).names() == {"1": "Ana"}
    assert folder.files() == {"customers-1.csv", "customers-2.csv"}


class Interrupted(OSError):
    pass


@pytest.mark.parametrize("step", ["mv", "pipe_file", "makedirs", "rm"])
def test_putting_away_goes_on_where_it_was_interrupted(
    folder: Folder, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.drop("customers-1.csv", "nr,name\n1,Ana\nbad\n")
    folder.drop("customers-2.csv", "")
    reader = Reader(folder)
    reader.read()
    real: Callable[..., Any] = getattr(type(folder.fs), step)
    calls: list[int] = []

    def breaks(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == attempt:
            raise Interrupted("gone")
        return real(*arguments, **options)

    monkeypatch.setattr(type(folder.fs), step, breaks)
    for attempt in range(1, 10):
        calls.clear()
        try:
            assert reader.read() == []
            break
        except Unreachable:
            assert attempt < 5
    reader.read()
    names = {name for name in folder.files() if ".lines" not in name}
    assert names == {"taken/customers-1.csv", "refused/customers-2.csv", "refused/customers-2.csv.why"}
    assert folder.read("refused/*.lines") == "nr,name\nbad\n"


# --- Files that are the whole -----------------------------------------------------------------------------------------


def test_of_files_that_are_the_whole_the_newest_counts_and_ends_the_pass(folder: Folder) -> None:
    for day in ("1", "2", "3"):
        folder.drop(f"customers-{day}.csv", f"nr,name\n{day},x\n")
    reader = Reader(folder, WHOLE)
    assert reader.names() == {"3": "x"}
    assert [page.whole for page in reader.pages] == [True]
    assert reader.read() == []
    assert [page.whole for page in reader.pages] == [False]  # nothing came: that says nothing
    reader.read()
    assert folder.files() == {f"taken/customers-{day}.csv" for day in "123"}
    folder.drop("customers-0.csv", "nr,name\n0,too late\n")
    assert reader.read() == []


def test_whole_with_a_bad_line_does_not_tell_what_is_gone(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n1,Ana\nbad\n")
    reader = Reader(folder, WHOLE)
    assert reader.names() == {"1": "Ana"}
    assert [(page.more, page.whole) for page in reader.pages] == [(False, False)]


@pytest.mark.usefixtures("pages_of_two_lines")
def test_whole_that_is_replaced_in_the_middle_does_not_tell_what_is_gone(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n1,a\n2,b\n3,c\n")
    connector = folder.connect()
    page = connector.changes(WHOLE, PLACES, {})
    folder.drop("customers-1.csv", "nr,name\n1,a\n3,c\n4,dd\n")
    rest = passes(connector, WHOLE, page.cursor)
    assert [(page.more, page.whole) for page in rest] == [(False, False)]
    again = passes(folder.connect(), WHOLE, rest[-1].cursor)
    assert {record.key for page in again for record in page.records} == {"1", "3", "4"}
    assert again[-1].whole
