"""The connector of a folder of files: on a real disk and on a remote file system of fsspec, alone and in whole runs."""

import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from entities.models import Customer
from legacy.connector import Misconfigured, Page, Unreachable
from legacy.connectors import files, files_lines
from legacy.connectors.files import Drop, Files
from legacy.mapping import F, Mapping
from legacy.models import Cursor, Run
from legacy.runs import run
from legacy.systems import System
from sync.models import History
from tests.integration.legacy_support import Killed, killed_at

CSV = Drop("customers-*.csv", key="nr")
JSONL = Drop("customers-*.jsonl", key="nr", format="jsonl")
WHOLE = Drop("customers-*.csv", key="nr", full=True)
PLACES = ("nr", "name", "city")
CUSTOMER = Mapping(
    "customer", Customer, CSV, match="code", fields=(F("code", "nr"), F("name", "name"), F("city", "city"))
)


class Folder:
    """What its sender does with it, and what a person sees in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = fsspec.core.url_to_fs(url)
        self.fs.makedirs(self.root, exist_ok=True)
        self._connectors: list[Files] = []

    def drop(self, name: str, content: str | bytes) -> None:
        self.fs.pipe_file(f"{self.root}/{name}", content.encode() if isinstance(content, str) else content)

    def files(self) -> set[str]:
        return {path.removeprefix(f"{self.root}/") for path in self.fs.find(self.root)}

    def read(self, pattern: str) -> str:
        (found,) = self.fs.glob(f"{self.root}/{pattern}")
        return str(self.fs.cat_file(found).decode())

    def connect(self, **options: Any) -> Files:
        self._connectors.append(Files(self.url, **{"settle_seconds": 0, **options}))
        return self._connectors[-1]

    def close(self) -> None:
        for connector in self._connectors:
            connector.close()


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(f"file://{tmp_path}/drops" if request.param == "local" else f"memory://{uuid4()}")
    yield folder
    folder.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(str(tmp_path / "drops"))
    yield folder
    folder.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE_LINES", 2)


def passes(connector: Files, source: Drop, cursor: dict[str, Any], places: tuple[str, ...] = PLACES) -> list[Page]:
    pages, more = [], True
    while more:
        page = connector.changes(source, places, cursor)
        pages.append(page)
        cursor, more = json.loads(json.dumps(page.cursor)), page.more
    return pages


class Reader:
    """Reads pass after pass, each with a connector of its own, as runs do."""

    def __init__(self, folder: Folder, source: Drop = CSV) -> None:
        self.folder, self.source = folder, source
        self.cursor: dict[str, Any] = {}

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        self.pages = passes(self.folder.connect(), self.source, self.cursor)
        self.cursor = self.pages[-1].cursor
        return [(record.key, dict(record.values)) for page in self.pages for record in page.records]

    def names(self) -> dict[str, Any]:
        return {key: values.get("name") for key, values in self.read()}

    @property
    def gone(self) -> list[str]:
        return [key for page in self.pages for key in page.gone]


def test_file_is_taken_once_and_archived_by_the_next_run(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name,city\n1,Ana,Berlin\n2,Bo,\n")
    reader = Reader(folder)
    assert reader.read() == [
        ("1", {"nr": "1", "name": "Ana", "city": "Berlin"}),
        ("2", {"nr": "2", "name": "Bo", "city": None}),
    ]
    assert folder.files() == {"customers-1.csv"}
    assert reader.read() == []
    assert folder.files() == {"taken/customers-1.csv"}
    assert reader.read() == []


def test_files_are_taken_in_order_of_their_names(folder: Folder) -> None:
    folder.drop("customers-2.csv", "nr,name\n1,Second\n")
    folder.drop("customers-1.csv", "nr,name\n1,First\n")
    folder.drop("orders-1.csv", "nr,name\n9,Not ours\n")
    assert [values["name"] for _, values in Reader(folder).read()] == ["First", "Second"]


def test_files_are_taken_in_order_of_their_times(disk: Folder) -> None:
    for name, age in (("a", 10), ("b", 30), ("c", 20)):
        disk.drop(f"customers-{name}.csv", f"nr,name\n1,{name}\n")
        os.utime(f"{disk.root}/customers-{name}.csv", (time.time() - age,) * 2)
    reader = Reader(disk, Drop("customers-*.csv", key="nr", order="time"))
    assert [values["name"] for _, values in reader.read()] == ["b", "c", "a"]


READ = {
    # what the file holds: what is read of it
    "byte order mark": (CSV, b"\xef\xbb\xbfnr,name\n1,Ana\n", {"1": "Ana"}),
    "carriage returns": (CSV, b"nr,name\r\n1,Ana\r\n2,Bo\r\n", {"1": "Ana", "2": "Bo"}),
    "no line break at its end": (CSV, b"nr,name\n1,Ana", {"1": "Ana"}),
    "empty lines": (CSV, b"\n\nnr,name\n\n1,Ana\n\n\n", {"1": "Ana"}),
    "line break in quotes": (CSV, b'nr,name\n1,"Ana\nMaria"\n2,Bo\n', {"1": "Ana\nMaria", "2": "Bo"}),
    "quotes in quotes": (CSV, b'nr,name\n1,"say ""hi"", Ana"\n', {"1": 'say "hi", Ana'}),
    "missing column": (CSV, b"nr\n1\n", {"1": None}),
    "same record twice": (CSV, b"nr,name\n1,Ana\n1,Bo\n", {"1": "Bo"}),
    "other encoding": (
        Drop("customers-*.csv", key="nr", encoding="cp1252", delimiter=";"),
        "nr;name\n1;Müller\n".encode("cp1252"),
        {"1": "Müller"},
    ),
    "no header": (Drop("customers-*.csv", key="nr", header=("nr", "name")), b"1,Ana\n", {"1": "Ana"}),
    "two keys": (Drop("customers-*.csv", key=("nr", "name")), b"nr,name\n1,A\n", {'["1","A"]': "A"}),
    "JSON lines": (
        JSONL,
        b'\xef\xbb\xbf{"nr": 1, "name": "Ana"}\r\n\n{"nr": "2", "name": null}',
        {"1": "Ana", "2": None},
    ),
}


@pytest.mark.parametrize("case", READ)
def test_files_as_they_come(folder: Folder, case: str) -> None:
    source, content, expected = READ[case]
    folder.drop("customers-1" + source.pattern[-4:].replace("sonl", ".jsonl"), content)
    assert Reader(folder, source).names() == expected
    assert not any(name.startswith("refused") for name in folder.files())


@pytest.mark.usefixtures("small_pages")
def test_files_as_they_come_read_the_same_from_any_page_on(folder: Folder) -> None:
    folder.drop("customers-1.csv", '\ufeffnr,name\r\n1,"Ä\r\n1"\r\n\r\n2,ß\r\nbad\r\n3,"c\n3"\r\n4,d\r\n5,e')
    expected = {"1": "Ä\r\n1", "2": "ß", "3": "c\n3", "4": "d", "5": "e"}
    cursor: dict[str, Any] = {}
    found: dict[str, Any] = {}
    more = True
    while more:  # each page by a process of its own
        page = folder.connect().changes(CSV, PLACES, cursor)
        cursor, more = page.cursor, page.more
        found |= {record.key: record.values["name"] for record in page.records}
    assert found == expected


@pytest.mark.legacy("S14")
def test_absent_is_not_null_and_an_empty_cell_is(folder: Folder) -> None:
    folder.drop(
        "customers-1.jsonl", '{"nr": 1, "name": null}\n{"nr": 2, "address": {"city": "Graz"}, "lines": [{"id": 1}]}\n'
    )
    places = ("name", "address.city", "lines.id", "city")
    (first, second), *_ = [page.records for page in passes(folder.connect(), JSONL, {}, places)]
    assert first.values == {"name": None}
    assert second.values == {"address.city": "Graz", "lines": [{"id": 1}]}


def test_what_a_later_line_leaves_out_stays_as_the_earlier_one_said(folder: Folder) -> None:
    folder.drop("customers-1.jsonl", '{"nr": 1, "name": "Ana", "city": "Graz"}\n{"nr": 1, "name": "Bo"}\n')
    assert Reader(folder, JSONL).read() == [("1", {"nr": 1, "name": "Bo", "city": "Graz"})]


def test_marked_records_are_gone_unless_they_come_back(folder: Folder) -> None:
    source = Drop("customers-*.csv", key="nr", gone="deleted")
    folder.drop("customers-1.csv", "nr,name,deleted\n1,Ana,\n2,Bo,x\n3,Cy,1\n3,Cy,0\n4,Di,no\n1,Ana,true\n")
    reader = Reader(folder, source)
    assert reader.names() == {"3": "Cy", "4": "Di"}
    assert reader.gone == ["2", "1"]


# --- What cannot be read ----------------------------------------------------------------------------------------------

REFUSED = {
    "duplicate columns": (CSV, b"nr,name,name\n1,a,b\n", "'name' more than once"),
    "no key": (CSV, b"id,name\n1,a\n", "lacks nr; it has: id, name"),
    "empty": (CSV, b"", "not even a header"),
    "not the encoding": (CSV, b"nr,name\n1,Ana\n2,M\xfcller\n", "it is not utf-8"),
    "UTF-16": (CSV, "nr,name\n1,Ana\n".encode("utf-16"), "it is not utf-8"),
    "cut character": (CSV, b"nr,name\n1,Ana\xc3", "it is not utf-8"),
    "too many bad lines": (CSV, b"nr,name\n" + b"x\n" * 101, "more than 100 of its lines cannot be read; line 2"),
    "empty and the whole": (Drop("customers-*.csv", key="nr", full=True), b"", "no way to say that all is gone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_file_that_is_not_what_was_declared_is_put_aside_with_the_reason(folder: Folder, case: str) -> None:
    source, content, why = REFUSED[case]
    folder.drop("customers-1.csv", content)
    folder.drop("customers-0.csv" if source.full else "customers-2.csv", "nr,name\n7,Next\n")
    reader = Reader(folder, source)
    assert reader.names() == {"7": "Next"}
    reader.read()
    assert why in folder.read("refused/customers-1.csv.why")
    assert "refused/customers-1.csv" in folder.files()
    assert "customers-1.csv" not in folder.files()


def test_bad_lines_are_put_aside_and_the_rest_is_taken(folder: Folder) -> None:
    folder.drop("customers-1.csv", 'nr,name\n1,Ana\n2\n,Nobody\n3,"a"b\n4,"never closed\n5,Eve\n6,Fay,Graz\n')
    reader = Reader(folder)
    assert reader.names() == {"1": "Ana", "5": "Eve"}
    reader.read()
    assert folder.read("refused/*.lines") == 'nr,name\n2\n,Nobody\n3,"a"b\n4,"never closed\n6,Fay,Graz\n'
    why = folder.read("refused/*.lines.why").splitlines()
    assert [line.split(":")[0] for line in why] == ["line 3", "line 4", "line 5", "line 6", "line 8"]
    assert why[0] == "line 3: it has 1 cells, the header 2"
    assert why[1] == "line 4: its key nr is None"
    assert "taken/customers-1.csv" in folder.files()


def test_bad_json_lines_say_why(folder: Folder) -> None:
    lines = ['{"nr": 1, "name": "Ana"}', "{", "[1]", '{"name": "no key"}', '{"nr": true}', '{"nr": NaN}', "[" * 100_000]
    folder.drop("customers-1.jsonl", "\n".join(lines))
    reader = Reader(folder, JSONL)
    assert reader.names() == {"1": "Ana"}
    reader.read()
    why = folder.read("refused/*.why")
    assert "line 3: it is not a JSON object" in why
    assert "line 4: it has no nr, its key" in why
    assert len(why.splitlines()) == 6


@pytest.mark.parametrize("source", [CSV, JSONL])
def test_line_without_end_is_cut_off(folder: Folder, source: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_lines, "LINE_BYTES_MAX", 1_000)
    monkeypatch.setattr(files_lines, "BUFFER_BYTES", 300)
    name = f"customers-1.{source.format}"
    lines = ("nr,name", "1,Ana", "2," + "x" * 5_000, "3,Cy")
    if source is JSONL:
        lines = ('{"nr": 1, "name": "Ana"}', '{"nr": 2, "name": "' + "x" * 5_000 + '"}', '{"nr": 3, "name": "Cy"}', "")
    folder.drop(name, "\n".join(lines))
    reader = Reader(folder, source)
    assert reader.names() == {"1": "Ana", "3": "Cy"}
    reader.read()
    assert "longer than 1000 bytes" in folder.read("refused/*.why")


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


@pytest.mark.usefixtures("small_pages")
def test_file_that_is_replaced_while_it_is_read_is_read_from_its_beginning(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n" + "".join(f"{number},old\n" for number in range(6)))
    connector = folder.connect()
    page = connector.changes(CSV, PLACES, {})
    folder.drop("customers-1.csv", "nr,name\n" + "".join(f"{number},new!\n" for number in range(6)))
    rest = passes(connector, CSV, page.cursor)
    assert {record.key: record.values["name"] for page in rest for record in page.records} == dict.fromkeys(
        "012345", "new!"
    )


@pytest.mark.usefixtures("small_pages")
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


@pytest.mark.usefixtures("small_pages")
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


# --- Limits and mistakes ----------------------------------------------------------------------------------------------


def test_files_that_one_pass_does_not_get_to_are_for_the_next(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_MAX", 2)
    for number in range(5):
        folder.drop(f"customers-{number}.csv", f"nr,name\n{number},x\n")
    reader = Reader(folder)
    assert [sorted(reader.names()) for _ in range(4)] == [["0", "1"], ["2", "3"], ["4"], []]


@pytest.mark.slow
def test_memory_and_cursor_stay_small_however_large_the_file(disk: Folder) -> None:
    with Path(f"{disk.root}/customers-1.csv").open("w") as file:
        file.write("nr,name\n")
        for number in range(200_000):
            file.write(f"{number},{'x' * 90}\n")
    connector = disk.connect()
    tracemalloc.start()
    cursor: dict[str, Any] = {}
    more, count = True, 0
    while more:
        page = connector.changes(CSV, PLACES, cursor)
        cursor, more, count = page.cursor, page.more, count + len(page.records)
        assert len(json.dumps(cursor)) < 500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 200_000
    assert peak < 16_000_000


def test_two_mappings_do_not_share_a_file(folder: Folder) -> None:
    folder.drop("customers-1.csv", "nr,name\n1,Ana\n")
    connector = folder.connect()
    passes(connector, CSV, {})
    with pytest.raises(Misconfigured, match=r"customers-1\.csv belongs to"):
        connector.changes(Drop("*.csv", key="nr"), PLACES, {})
    with pytest.raises(Misconfigured, match=r"customers-1\.csv belongs to"):
        connector.changes(CSV, ("nr",), {})


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (Drop("*.csv", key=""), "needs a key"),
        (Drop("in/*.csv", key="nr"), "a pattern without folders"),
        (Drop("*.csv", key="nr", delimiter=""), "a delimiter"),
        (Drop("*.csv", key="nr", encoding="utf-16"), "line by line"),
        (Drop("*.csv", key="nr", encoding="klingon"), "no encoding"),
    ],
)
def test_declaration_that_cannot_work_is_told(disk: Folder, source: Drop, why: str) -> None:
    with pytest.raises(Misconfigured, match=why):
        disk.connect().changes(source, PLACES, {})


def test_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="There is no folder"):
        Files(str(tmp_path / "nowhere")).open()
    with pytest.raises(Misconfigured, match="cannot be opened"):
        Files("klingon://somewhere/in")


def test_password_in_the_address_is_not_told() -> None:
    assert Files("memory://me:secret@host/in")._url == "memory://host/in"


def test_cursor_of_something_else_is_told(disk: Folder) -> None:
    with pytest.raises(Misconfigured, match="not one of a folder of files"):
        disk.connect().changes(CSV, PLACES, {"done": "yesterday"})


# --- Whole runs -------------------------------------------------------------------------------------------------------


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
@pytest.mark.usefixtures("_rows", "small_pages")
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
@pytest.mark.usefixtures("_rows", "small_pages")
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
@pytest.mark.usefixtures("_rows", "small_pages")
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
