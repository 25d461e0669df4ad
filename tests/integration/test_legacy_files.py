"""The connector of a folder of files: what it reads of them, on a real disk and on a remote file system of fsspec."""

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from legacy.connector import Misconfigured
from legacy.connectors import files, files_lines
from legacy.connectors.files import Drop, Files
from tests.integration.legacy_files_support import CSV, JSONL, PLACES, Folder, Reader, passes


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


@pytest.mark.usefixtures("pages_of_two_lines")
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
