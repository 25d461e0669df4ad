"""Runs seeds with a server and a database of its own: seeds come in, results go out, as JSON lines."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psycopg

from syncserver import environment, postgres
from tests.acceptance.acceptance_support import Server, fresh_database

LOG_LINES = 400
MEMORY, MEMORY_BYTES_MIN = "/dev/shm", 2_000_000_000


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server is stopped and the database dropped
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=_fast_folder()) as name:
        folder = Path(name)
        with _database(folder / "data" / "postgres") as address:
            server = Server(folder, address, {"LOG_LEVEL": "WARNING", "WORKERS": "1"})
            try:
                server.prepare()
                server.start()
                _setup(address)
                for line in sys.stdin:
                    seed, steps = json.loads(line)
                    print(json.dumps(run(seed, steps, address, server, folder)), flush=True)
            finally:
                server.stop()


def _fast_folder() -> str | None:
    """Memory where there is enough: most of the time a simulation would wait for a disk, for nothing."""
    try:
        enough = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN
    except OSError:
        return None
    return MEMORY if enough else None


@contextmanager
def _database(folder: Path) -> Iterator[str]:
    """A database where nobody else's transactions are seen, so that a seed always goes the same way.

    On the server of DATABASE_URL others may be at work: there a replay may differ in when a token expires.
    """
    if environment.text("DATABASE_URL"):
        with fresh_database() as address:
            yield address
        return
    address = postgres.start(folder)
    try:
        with psycopg.connect(address, autocommit=True) as conn:
            # The disk's speed is nothing that a simulation of devices looks at, and its vacuum has transactions too.
            for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
                conn.execute(f"ALTER SYSTEM SET {setting} = off")
            conn.execute("SELECT pg_reload_conf()")
        yield address
    finally:
        postgres.stop(folder)


def _setup(address: str) -> None:
    import django

    os.environ |= {"DATABASE_URL": address, "DJANGO_SETTINGS_MODULE": "syncserver.settings", "LOG_LEVEL": "WARNING"}
    django.setup()


def run(seed: int, steps: int, address: str, server: Server, folder: Path) -> dict[str, object]:
    """The result of one seed: what was counted, or what was wrong with the end of the log."""
    from tests.simulation.simulate import Simulation, digest
    from tests.simulation.world import World

    started = time.monotonic()
    files = Path(tempfile.mkdtemp(prefix=f"seed-{seed}-", dir=folder))
    log: list[str] = []
    problem = None
    counts: dict[str, int] = {}
    try:
        world = World(address, server.url, Random(f"world {seed}"), files)
        try:
            simulation = Simulation(world, seed, files)
            log = simulation.log
            simulation.run(steps)
            counts = dict(simulation.counts)
        finally:
            world.close()
    except Exception as error:
        problem = "".join(traceback.format_exception(error, limit=-6)) + "\nServer:\n" + server.log_tail()[-2000:]
    finally:
        shutil.rmtree(files, ignore_errors=True)  # of many seeds they would fill the memory
    return {
        "seed": seed,
        "problem": problem,
        "log": log[-LOG_LINES:],
        "digest": digest(log),
        "counts": counts,
        "seconds": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    main()
