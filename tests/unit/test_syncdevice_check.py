"""What a device compares is what the server has given it, whatever the application does meanwhile."""

import hashlib
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syncdevice import check, database

from tests.unit.syncdevice_support import enrolled, ids

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GIVEN = ids(6)
EDITS = {
    "update": "UPDATE contact SET visits = coalesce(visits, 0) + 1 WHERE id = ?",
    "delete": "DELETE FROM contact WHERE id = ?",
    "insert": "INSERT OR IGNORE INTO contact (id, name) VALUES (?, 'mine')",
    "replace": "INSERT OR REPLACE INTO contact (id, name) VALUES (?, 'mine')",
    "rev": "UPDATE contact SET _rev = 99 WHERE id = ?",
}


@given(st.lists(st.tuples(st.sampled_from(list(EDITS)), st.sampled_from(ids(9))), max_size=25))
@settings(max_examples=40)
def test_what_is_compared_is_what_the_server_gave_whatever_the_application_does(edits: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(enrolled(Path(folder) / "r.db")) as conn:
        with database.applying(conn):
            conn.executemany("INSERT INTO contact (id, _rev) VALUES (?, ?)", ((r, n) for n, r in enumerate(GIVEN, 1)))
        for op, row in edits:
            conn.execute(EDITS[op], (row,))
        assert list(check._rows(conn, "contact")) == [(row, rev) for rev, row in enumerate(GIVEN, 1)]
        lines = b"".join(line for batch in check._lines(conn, "contact") for (line,) in batch)
        assert lines == "".join(f"{row} {rev}\n" for rev, row in enumerate(GIVEN, 1)).encode()


def test_lines_come_in_batches_in_byte_order_of_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BATCH_ROWS", 7)
    rows = sorted(ids(40), key=lambda row: hashlib.sha256(row.encode()).digest())
    with closing(enrolled(tmp_path / "r.db")) as conn:
        with database.applying(conn):
            conn.executemany("INSERT INTO contact (id, _rev) VALUES (?, 1)", ((row,) for row in rows))
        batches = list(check._lines(conn, "contact"))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]
    assert [line for batch in batches for (line,) in batch] == [f"{row} 1\n".encode() for row in sorted(rows)]


@pytest.mark.parametrize(
    ("hours", "done", "due"),
    [(0, True, False), (23.9, True, False), (24, True, True), (0.9, False, False), (1, False, True), (-1, True, True)],
)
def test_check_is_due_daily_and_where_it_failed_hourly(tmp_path: Path, hours: float, done: bool, due: bool) -> None:
    with closing(enrolled(tmp_path / "r.db")) as conn:
        assert check.is_due(conn, NOW, 1)
        check.note(conn, NOW - timedelta(hours=hours), done)
        assert check.is_due(conn, NOW, 1) == due
