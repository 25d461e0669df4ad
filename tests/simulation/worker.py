"""Runs seeds in a process of its own, with a server and a database of its own: seeds come in, results go out, as JSON lines."""

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

import psycopg
from acceptance_support import Server, fresh_database

LOG_LINES = 40


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="simulation-") as name, fresh_database() as address:
        folder = Path(name)
        server = Server(folder, address, {"LOG_LEVEL": "WARNING", "WORKERS": "1"})
        try:
            server.prepare()
            _hurry(address)
            server.start()
            _setup(address)
            for line in sys.stdin:
                seed, steps = json.loads(line)
                print(json.dumps(run(seed, steps, address, server, folder)), flush=True)
        finally:
            server.stop()


def _hurry(address: str) -> None:
    """The disk's speed is nothing that a simulation of devices looks at."""
    with psycopg.connect(address, autocommit=True) as conn:
        (name,) = conn.execute("SELECT current_database()").fetchone() or ("",)
        conn.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")


def _setup(address: str) -> None:
    import django

    os.environ |= {"DATABASE_URL": address, "DJANGO_SETTINGS_MODULE": "syncserver.settings", "LOG_LEVEL": "WARNING"}
    django.setup()


def run(seed: int, steps: int, address: str, server: Server, folder: Path) -> dict[str, object]:
    """The result of one seed: what was counted, or what was wrong with the end of the log."""
    from simulate import Simulation, digest
    from world import World

    started = time.monotonic()
    files = Path(tempfile.mkdtemp(prefix=f"seed-{seed}-", dir=folder))
    log: list[str] = []
    problem = None
    counts: dict[str, int] = {}
    try:
        world = World(address, server.url, Random(f"world {seed}"))
        try:
            simulation = Simulation(world, seed, files)
            log = simulation.log
            simulation.run(steps)
            counts = dict(simulation.counts)
        finally:
            world.close()
    except Exception as error:
        problem = "".join(traceback.format_exception(error, limit=-6)) + "\nServer:\n" + server.log_tail()[-2000:]
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
