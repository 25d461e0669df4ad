"""What is wrong in a device's file and what is wrong in the feed is found and repaired: by the commands people use."""

import json
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from syncdevice import Replica, database

from tests.acceptance.acceptance_support import Server

PRODUCTS = 1_000


def syncdevice(*arguments: object) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "syncdevice.cli", *map(str, arguments), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def held(path: Path, run: str) -> dict[str, tuple[int, str]]:
    with closing(database.connect(str(path))) as conn:
        found = conn.execute("SELECT id, _rev, name FROM product WHERE category = ?", (run,))
        return {row: (rev, name) for row, rev, name in found}


def test_mismatches_in_a_file_and_in_the_feed_are_found_and_repaired(server: Server, tmp_path: Path) -> None:
    run, path = uuid.uuid4().hex, tmp_path / "phone.db"
    with server.connect() as other:
        other.execute(
            "INSERT INTO entities_product (id, code, name, category, quantity_per_unit, unit_price, units_in_stock,"
            " reorder_level, discontinued) SELECT gen_random_uuid(), left(%s, 10) || n, 'P', %s, '', 1, 0, 0, false"
            " FROM generate_series(1, %s) n",
            [run, run, PRODUCTS],
        )
    (code,) = server.codes([["global"]])
    replica = Replica.enroll(server.url, code, path, name="phone")
    first = replica.sync()
    assert first.check is not None
    assert (first.check.checked, first.check.differences) == (True, {})
    sound = held(path, run)
    ids = sorted(sound)

    ghost = str(uuid.uuid4())
    with closing(database.connect(str(path))) as conn, database.applying(conn):
        conn.execute("UPDATE product SET _rev = 9, name = 'torn' WHERE id IN (?, ?)", (ids[0], ids[500]))
        conn.execute("DELETE FROM product WHERE id IN (?, ?)", (ids[1], ids[999]))
        conn.execute("INSERT INTO product (id, _rev, category) VALUES (?, 1, ?)", (ghost, run))
    code_, report = syncdevice("check", path)
    assert (code_, report["repaired"]) == (7, True)
    assert set(report["differences"]["product"]["rows"]) == {ids[0], ids[500], ids[1], ids[999], ghost}
    assert held(path, run) == sound
    assert syncdevice("check", path)[0] == 0

    with server.connect() as other:
        other.execute("DELETE FROM sync_feed WHERE row_id = %s", [ids[2]])
        other.execute("UPDATE sync_feed SET data = replace(data, '\"P\"', '\"Q\"') WHERE row_id = %s", [ids[3]])
        other.execute("UPDATE sync_feed SET scope = 'elsewhere' WHERE row_id = %s", [ids[4]])
    assert {row for row, (_, told) in differing(server, "--repair").items() if told} == set(ids[2:5])
    assert differing(server) == {}
    replica.sync()
    assert held(path, run) == sound | {ids[2]: (1, "P"), ids[3]: (2, "P"), ids[4]: (2, "P")}
    assert syncdevice("check", path, "--values")[0] == 0


def differing(server: Server, *arguments: str) -> dict[str, tuple[str, str]]:
    """The rows of products that `sync_verify` names."""
    told = json.loads(server.manage("sync_verify", "--entity", "product", "--json", *arguments))
    return {row: ("product", problem) for row, problem in told["entities"][0]["examples"].items()}
