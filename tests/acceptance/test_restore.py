"""A server that is restored, each way an administrator would do it, and a fleet that had gone on: nothing is lost."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from syncdevice import Replica
from syncdevice.replica import group

from sync.sql import blocks
from tests.acceptance.acceptance_support import Server
from tests.acceptance.restore_support import DATABASE, SECONDS_MAX, Cluster, machine, run

SCOPES = ["global", "country:Spain"]
ROUNDS = 3
ROWS = {
    "contact": "SELECT id, first_name, title, phone, note, customer_id FROM {}contact",
    "customer": "SELECT id, name, phone FROM {}customer",
    "product": "SELECT id, name, units_in_stock FROM {}product",
}
Restore = Callable[[Cluster, Server], Callable[[], str]]


@pytest.fixture(scope="module")
def migrated() -> Iterator[Cluster]:
    """A cluster with a migrated database, stopped: to make one for each test takes seconds, to copy it a moment."""
    with machine() as folder:
        cluster = Cluster(folder / "made", folder / "archive")
        cluster.make()
        cluster.start()
        cluster.sql(f"CREATE DATABASE {DATABASE}")
        Server(folder, cluster.address(), {"SYNC_DATA_DIR": str(folder.parent / "data")}).manage(
            "migrate", "--verbosity", "0"
        )
        cluster.stop()
        yield cluster


def do(replica: Replica, *statements: str) -> None:
    """Statements of an application, each a transaction of its own."""
    with closing(replica.connect()) as conn:
        for statement in statements:
            conn.execute(statement)
            conn.commit()


def ids(replica: Replica, which: str) -> str:
    with closing(replica.connect()) as conn:
        return str(conn.execute(f"SELECT id FROM contact WHERE first_name = '{which}'").fetchone()[0])


class Fleet:
    """Devices and what each does before the backup, after it, and offline."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        codes = server.codes([SCOPES] * 4)
        self.ahead, self.other, self.offline, self.behind = self.all = [
            Replica.enroll(server.url, code, folder / f"{number}.db", name=f"device {number}", retry_seconds=30)
            for number, code in enumerate(codes)
        ]

    def before(self) -> None:
        with self.server.connect() as connection:
            connection.execute(
                "INSERT INTO entities_product (id, code, name, category, quantity_per_unit, unit_price, units_in_stock,"
                " reorder_level, discontinued) VALUES (gen_random_uuid(), '1', 'Tea', '', '', 1, 100, 0, false)"
            )
        names = ("edited", "deleted", "disputed", "grouped")
        do(self.ahead, *(f"INSERT INTO contact (first_name) VALUES ('{name}')" for name in names))
        for device in self.all:
            device.sync()

    def lost(self) -> None:
        """What happens between the backup and the accident, all of it acknowledged, and then what one does offline."""
        ahead, other, offline = self.ahead, self.other, self.offline
        do(
            ahead,
            "UPDATE contact SET title = 'first' WHERE first_name = 'edited'",
            "UPDATE contact SET title = 'lost', phone = '1' WHERE first_name = 'disputed'",
            "UPDATE product SET units_in_stock = units_in_stock - 3",
        )
        with closing(ahead.connect()) as conn, group(conn):
            conn.execute("INSERT INTO customer (name, country) VALUES ('parent', 'Spain')")
            conn.execute(
                "INSERT INTO contact (first_name, customer_id) SELECT 'child', id FROM customer WHERE name = 'parent'"
            )
        ahead.sync()
        other.sync()
        offline.sync()
        do(
            other,
            "UPDATE contact SET phone = '2' WHERE first_name IN ('edited', 'child')",
            "UPDATE product SET units_in_stock = units_in_stock - 5",
            "DELETE FROM contact WHERE first_name = 'deleted'",
            "INSERT INTO contact (first_name, customer_id) SELECT 'grandchild', id FROM customer WHERE name = 'parent'",
        )
        with closing(other.connect()) as conn, group(conn):
            conn.execute("UPDATE contact SET title = 'g' WHERE first_name = 'grouped'")
            conn.execute("UPDATE customer SET phone = 'g' WHERE name = 'parent'")
        other.sync()
        do(ahead, "UPDATE contact SET title = 'later' WHERE first_name = 'edited'")
        ahead.sync()
        do(
            offline,
            "UPDATE contact SET note = 'offline' WHERE first_name IN ('edited', 'child')",
            "INSERT INTO contact (first_name) VALUES ('made offline')",
            "UPDATE product SET units_in_stock = units_in_stock - 7",
        )

    def sync(self, order: Sequence[int]) -> list[int]:
        """Three rounds in this order; how many changes each device brought back in the first."""
        healed = []
        for number in range(ROUNDS):
            reports = [self.all[at].sync() for at in order]
            if number == 0:
                healed = [report.healed for report in reports]
        return healed


def server_rows(server: Server) -> dict[str, set[tuple[Any, ...]]]:
    with server.connect() as connection:
        return {
            name: {tuple(map(_text, row)) for row in connection.execute(query.format("entities_"))}
            for name, query in ROWS.items()
        }


def device_rows(replica: Replica) -> dict[str, set[tuple[Any, ...]]]:
    with closing(replica.connect()) as conn:
        return {name: {tuple(map(_text, row)) for row in conn.execute(q.format(""))} for name, q in ROWS.items()}


def revisions(server: Server) -> set[tuple[str, str, int]]:
    with server.connect() as connection:
        query = "SELECT entity, row_id::text, rev FROM sync_feed WHERE data IS NOT NULL"
        return set(connection.execute(query))


def device_revisions(replica: Replica) -> set[tuple[str, str, int]]:
    with closing(replica.connect()) as conn:
        return {(name, *row) for name in ROWS for row in conn.execute(f"SELECT id, _rev FROM {name}")}


def _text(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else str(value)


# --- the ways to restore: each prepares, and returns what restores and says where the database is then ---


def dump(cluster: Cluster, server: Server) -> Callable[[], str]:
    """pg_dump, and pg_restore into a new cluster, where transactions are counted from the beginning."""
    file = cluster.folder.parent / "dump"
    run("pg_dump", "-Fc", "-d", server.database_url, "-f", file)

    def restore() -> str:
        cluster.stop()
        new = Cluster(cluster.folder.parent / "new", cluster.archive)
        new.make()
        new.start()
        new.sql(f"CREATE DATABASE {DATABASE}")
        run("pg_restore", "-d", new.address(), file)
        return new.address()

    return restore


def point_in_time(cluster: Cluster, server: Server) -> Callable[[], str]:
    """A base backup, and the archived log up to a moment before the accident."""
    base = cluster.base_backup(cluster.folder.parent / "base", "-X", "none", "--no-manifest")
    cluster.sql("SELECT pg_create_restore_point('before')")

    def restore() -> str:
        cluster.sql("SELECT pg_switch_wal()")
        cluster.stop()
        base.configure()
        base.add(f"restore_command = 'cp {base.archive}/%f %p'")
        base.add("recovery_target_name = 'before'\nrecovery_target_action = 'promote'")
        (base.folder / "recovery.signal").touch()
        base.start()
        base.sql("CHECKPOINT")
        return base.address()

    return restore


def promoted(cluster: Cluster, server: Server) -> Callable[[], str]:
    """A streaming replica that had fallen behind when the primary was lost."""
    replica = cluster.base_backup(cluster.folder.parent / "replica", "-R")
    settings = (replica.folder / "postgresql.auto.conf").read_text()
    replica.configure()
    replica.add("\n".join(line for line in settings.splitlines() if line.startswith("primary_conninfo")))
    replica.start()
    replica.stop()

    def restore() -> str:
        cluster.stop("immediate")
        replica.start()
        run("pg_ctl", "-D", replica.folder, "-w", "promote")
        return replica.address()

    return restore


def copied_database(cluster: Cluster, server: Server) -> Callable[[], str]:
    """A copy within the same cluster."""
    server.stop()
    cluster.sql(f"CREATE DATABASE kept TEMPLATE {DATABASE}")
    server.start()

    def restore() -> str:
        cluster.sql(f"ALTER DATABASE {DATABASE} RENAME TO lost")
        cluster.sql(f"ALTER DATABASE kept RENAME TO {DATABASE}")
        return cluster.address()

    return restore


def copied_files(cluster: Cluster, server: Server) -> Callable[[], str]:
    """The files of a cluster that was stopped, put back: nothing in them says so."""
    server.stop()
    cluster.stop()
    kept = cluster.copy_to(cluster.folder.parent / "kept")
    cluster.start()
    server.start()

    def restore() -> str:
        cluster.stop()
        kept.start()
        return kept.address()

    return restore


def disk_snapshot(cluster: Cluster, server: Server) -> Callable[[], str]:
    """The files of a cluster that ran, put back; others write, and checkpoints come, before any device calls."""
    kept = cluster.snapshot_to(cluster.folder.parent / "kept")

    def restore() -> str:
        cluster.stop("immediate")
        kept.start()
        kept.sql("UPDATE entities_contact SET title = 'since' WHERE first_name = 'disputed'", DATABASE)
        kept.sql("CHECKPOINT")
        return kept.address()

    return restore


@pytest.mark.parametrize(
    ("way", "order"),
    [
        pytest.param(dump, (2, 1, 3, 0), id="pg_dump"),
        pytest.param(point_in_time, (1, 0, 2, 3), id="point in time"),
        pytest.param(promoted, (0, 2, 1, 3), id="promoted replica"),
        pytest.param(copied_database, (3, 2, 0, 1), id="copied database"),
        pytest.param(copied_files, (1, 2, 3, 0), id="copied files"),
        pytest.param(disk_snapshot, (0, 3, 2, 1), id="disk snapshot"),
    ],
)
def test_restored_server_gets_back_all_that_a_device_still_has(
    migrated: Cluster, tmp_path: Path, way: Restore, order: tuple[int, ...]
) -> None:
    with ExitStack() as stack:
        cluster = migrated.copy_to(stack.enter_context(machine()) / "data")
        cluster.archive = cluster.folder.parent / "archive"
        cluster.configure()
        cluster.start()
        server = Server(tmp_path, cluster.address(), {})
        stack.callback(server.stop)
        server.start()
        fleet = Fleet(server, tmp_path)
        fleet.before()
        restore = way(cluster, server)
        fleet.lost()
        expected = server_rows(server)
        server.stop()
        server.database_url = server.environment["DATABASE_URL"] = restore()
        server.start()
        with server.connect() as connection:  # somebody goes on before any device calls
            connection.execute("UPDATE entities_contact SET title = 'since' WHERE first_name = 'disputed'")
        healed = fleet.sync(order)
        assert sum(healed) > 0

        found = server_rows(server)
        made = {row for row in found["contact"] if row[1] == "made offline"}
        assert len(made) == 1
        contacts = {row for row in expected["contact"] if row[1] not in {"edited", "child", "disputed"}}
        by_name = {row[1]: row for row in expected["contact"]}
        contacts |= {(*by_name[name][:4], "offline", *by_name[name][5:]) for name in ("edited", "child")}
        contacts |= {(*by_name["disputed"][:2], "since", *by_name["disputed"][3:])}
        assert found["contact"] - made == contacts
        assert by_name["edited"][2:4] == ("later", "2")
        assert found["customer"] == expected["customer"]
        assert {row[2] for row in found["product"]} == {100 - 3 - 5 - 7}
        for device in fleet.all:
            assert device_rows(device) == found
            assert device_revisions(device) == revisions(server)
        with server.connect() as connection:
            waiting = connection.execute("SELECT cause, body FROM sync_rejection WHERE state = 'open'").fetchall()
            disputes = connection.execute("SELECT fields, device_values->'set'->>'title' FROM sync_conflict").fetchall()
        assert waiting == []
        assert (["title"], "lost") in disputes


# --- how each start of the database server is noted ---


@dataclass
class Seen:
    """What a token says of the database that it was given by."""

    epoch: UUID
    xmax: str
    witness: str

    @classmethod
    def of(cls, cluster: Cluster) -> "Seen":
        now = "s.epoch, pg_snapshot_xmax(pg_current_snapshot())::text, s.witness"
        query = f"SELECT {now} FROM sync_standing(NULL, NULL, NULL) s"
        with psycopg.connect(cluster.address()) as connection:
            return cls(*connection.execute(query).fetchone() or ())

    def standing(self, cluster: Cluster) -> Any:
        """How a token that was given then stands now, once the start of the database server is noted."""
        query = "SELECT s.problem FROM sync_standing(%s, %s::text::xid8, %s) s"
        with psycopg.connect(cluster.address(), autocommit=True) as connection:
            connection.execute(blocks("epoch.sql")["new_start"])
            return connection.execute(query, [self.epoch, self.xmax, self.witness]).fetchone()[0]  # type: ignore[index]


def write(cluster: Cluster) -> int:
    """Somebody's row. Returns the number of its transaction."""
    with psycopg.connect(cluster.address(), autocommit=True) as connection:
        row = connection.execute(
            "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
            " VALUES (gen_random_uuid(), '', '', '', '', '', '') RETURNING id"
        ).fetchone()
        found = connection.execute("SELECT xid FROM sync_history WHERE row_id = %s", row).fetchone()
        assert found
        return int(found[0])


def noted(cluster: Cluster) -> int:
    """The transaction that the last start that was noted has begun with."""
    with psycopg.connect(cluster.address()) as connection:
        found = connection.execute("SELECT xid::text FROM sync_start ORDER BY number DESC LIMIT 1").fetchone()
        assert found
        return int(found[0])


@pytest.fixture
def running(migrated: Cluster) -> Iterator[Cluster]:
    """A cluster of which all starts so far were noted."""
    with machine() as folder:
        cluster = migrated.copy_to(folder / "data")
        cluster.archive = folder / "archive"
        cluster.configure()
        cluster.start()
        cluster.sql(blocks("epoch.sql")["new_start"], DATABASE)
        yield cluster


def checkpoint(cluster: Cluster) -> None:
    cluster.sql("CHECKPOINT")


def crash(cluster: Cluster) -> None:
    """A process of the database server dies, so that it recovers, and goes on without having been stopped."""
    query = "SELECT pg_backend_pid(), checkpoint_lsn::text FROM pg_control_checkpoint()"
    with psycopg.connect(cluster.address(), autocommit=True) as connection:
        process, before = connection.execute(query).fetchone() or (0, "")
        os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + SECONDS_MAX
    after = before
    while after == before:
        assert time.monotonic() < deadline
        with suppress(psycopg.OperationalError), psycopg.connect(cluster.address(), autocommit=True) as connection:
            _, after = connection.execute(query).fetchone() or (0, before)


@pytest.mark.protocol("P8")
@pytest.mark.parametrize("written", [0, 50])
@pytest.mark.parametrize("then", [checkpoint, crash])
def test_snapshot_of_a_disk_that_was_put_back_is_noticed_however_late(
    running: Cluster, then: Callable[[Cluster], None], written: int
) -> None:
    """However much was written since, and by whom: a lost position and a lost place in the log look right by then."""
    before = write(running)
    kept = running.snapshot_to(running.folder.with_name("kept"))
    for _ in range(5):
        write(running)
    lost = Seen.of(running)
    running.stop("immediate")
    kept.start()
    numbers = [write(kept) for _ in range(written)]
    then(kept)
    assert lost.standing(kept) == "lost_future"
    assert before < noted(kept) <= min([*numbers, write(kept)])


@pytest.mark.protocol("P8")
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_that_lost_nothing_is_passed_over_when_it_is_noted_before_the_next_checkpoint(
    running: Cluster, mode: str
) -> None:
    write(running)
    seen = Seen.of(running)
    for _ in range(2):
        running.stop(mode)
        running.start()
        number = write(running)
        assert seen.standing(running) is None
        assert noted(running) <= number
        checkpoint(running)
        seen = Seen.of(running)


@pytest.mark.protocol("P8")
def test_restart_that_is_noted_after_a_checkpoint_counts_as_a_restore(running: Cluster) -> None:
    """Nothing tells it from one that has lost something, and to load afresh loses nothing."""
    before = write(running)
    seen = Seen.of(running)
    running.stop()
    running.start()
    number = write(running)
    checkpoint(running)
    assert seen.standing(running) == "lost_future"
    assert before < noted(running) <= number
    assert Seen.of(running).standing(running) is None
