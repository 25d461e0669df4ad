"""The embedded PostgreSQL: starts by itself, survives a kill, and two checkouts never meet."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from syncserver import postgres

SECONDS_MAX = 60


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "postgres"
    postgres.stop(tmp_path / "postgres")


def identity(address: str) -> tuple[object, ...]:
    with psycopg.connect(address) as conn:
        return conn.execute("SELECT system_identifier FROM pg_control_system()").fetchone() or ()


def test_start_makes_a_cluster_once_and_finds_it_running(folder: Path) -> None:
    first = postgres.start(folder)
    assert (postgres.start(folder), identity(first)) == (first, identity(first))


def test_start_by_many_at_once_makes_one_server(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        addresses = set(pool.map(lambda _: postgres.start(folder), range(4)))
    assert len(addresses) == 1


def test_two_folders_are_two_servers(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "postgres"
    try:
        assert identity(postgres.start(folder)) != identity(postgres.start(other))
    finally:
        postgres.stop(other)


def test_start_after_a_kill_brings_it_back_with_its_data(folder: Path) -> None:
    address = postgres.start(folder)
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 1 AS n")
    for _ in range(2):
        os.kill(int((folder / "postmaster.pid").read_text().split("\n", 1)[0]), signal.SIGKILL)
        with psycopg.connect(postgres.start(folder)) as conn:
            assert conn.execute("SELECT n FROM kept").fetchone() == (1,)


def test_start_where_the_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25) / "postgres"
    try:
        assert identity(postgres.start(folder))
    finally:
        postgres.stop(folder)


def test_start_as_an_ordinary_user(tmp_path: Path) -> None:
    home, user = tmp_path, pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if user:
        home = Path("/tmp") / f"syncserver-nobody-{os.getpid()}"  # nobody may not enter pytest's folder
        home.mkdir()
        os.chown(home, user.pw_uid, user.pw_gid)
    script = "import sys; from pathlib import Path; from syncserver import postgres; folder = Path(sys.argv[1])\n"
    script += "print(postgres.start(folder)); print(postgres.stop(folder))"
    # Where root's Python is in root's own folder, the system's of the same version takes its modules from ours.
    pythons = sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": ":".join(sys.path)}
    try:
        for python in pythons:
            with suppress(PermissionError, FileNotFoundError):
                ended = subprocess.run(
                    [python, "-c", script, str(home / "postgres")],
                    capture_output=True,
                    text=True,
                    timeout=SECONDS_MAX,
                    env=environment,
                    user=user and user.pw_uid,
                    group=user and user.pw_gid,
                    extra_groups=[] if user else None,
                )
                address, stopped = ended.stdout.split()
                assert address.startswith("postgresql://postgres@/postgres?host="), ended.stderr
                assert stopped == "True"
                return
        pytest.skip("an ordinary user may run no Python here: ours is in root's own folder, and the system has none")
    finally:
        shutil.rmtree(home)
