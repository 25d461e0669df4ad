"""Run Tryton, a real ERP, with Northwind's order book in it, on this machine only.

    script/erp start [--port 18000]   install and load on first use (about a minute), then start (a second)
    script/erp stop                   stop the process that start started; its data stays
    script/erp status                 say whether it runs, and where
    script/erp reset                  stop, and go back to Northwind as it was first loaded

Needs Python 3.11 and pip, nothing else. Tryton and the loaded database are kept in `.erp/` of the checkout; what runs
(database, log) is there too, or in `$SYNC_DATA_DIR/erp` when that is set, so that several can run side by side.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
NORTHWIND = HERE.parent / "data" / "northwind"
CACHE = HERE.parent / ".erp"
LIVE = Path(os.environ["SYNC_DATA_DIR"]).resolve() / "erp" if os.environ.get("SYNC_DATA_DIR") else CACHE
PYTHON = CACHE / "venv" / "bin" / "python"
DATABASE, USER, PASSWORD = "northwind", "admin", "northwind"
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["start", "stop", "status", "reset"])
    parser.add_argument("--port", type=int, default=18000, help="port on 127.0.0.1 (default: 18000)")
    options = parser.parse_args()
    LIVE.mkdir(parents=True, exist_ok=True)
    match options.command:
        case "start":
            start(options.port)
        case "stop":
            say("Tryton stopped." if stop() else "Tryton was not running.")
        case "status":
            address = running()
            say(f"Tryton runs at {address}" if address else "Tryton is not running.")
            sys.exit(0 if address else 1)
        case "reset":
            stop()
            found = list(LIVE.glob(f"{DATABASE}.sqlite*"))
            for file in found:
                file.unlink()
            if found:
                say("Northwind will be as first loaded at the next start.")


def start(port: int) -> None:
    """Start Tryton unless it runs; install and load first where that was not done. Exits 1 if it does not come up."""
    if address := running():
        say(f"Tryton runs already at {address}")
        return
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two starts at once: one builds, the other finds it built
        install()
        template = load()
    database = LIVE / f"{DATABASE}.sqlite"
    if not database.exists():
        draft = database.with_suffix(".draft")
        shutil.copy(template, draft)
        draft.rename(database)  # never half a database, whenever we are killed
    address = f"http://127.0.0.1:{port}"
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        sys.exit(f"Port {port} is taken by another program; choose one with --port.")
    # Tryton inherits the lock and holds it as long as it lives: whoever can't take it knows that the pid is Tryton's.
    with (LIVE / "running.lock").open("w") as lock, (LIVE / "log").open("w") as log:
        if not _take(lock):
            say("Tryton is being started by someone else.")
            return
        (LIVE / "running.json").unlink(missing_ok=True)  # an old one names a process that is not Tryton any more
        command = [str(PYTHON.parent / "trytond"), "-c", str(configuration(LIVE, port)), "-d", DATABASE]
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock.fileno()]
        )
        (LIVE / "running.json").write_text(json.dumps({"pid": process.pid, "address": address}))
    wait(process, address)
    say(f"Tryton runs at {address}: database {DATABASE}, user {USER}, password {PASSWORD}")


def wait(process: "subprocess.Popen[bytes]", address: str) -> None:
    request = urllib.request.Request(
        f"{address}/rpc/",
        json.dumps({"id": 1, "method": "common.server.version", "params": []}).encode(),
        {"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    sys.exit(f"Tryton did not start; its last words ({LIVE / 'log'}):\n{(LIVE / 'log').read_text()[-2000:]}")


def running() -> str | None:
    """The address of the running Tryton of this folder, or None."""
    try:
        with (LIVE / "running.lock").open() as lock:
            return None if _take(lock) else str(json.loads((LIVE / "running.json").read_text())["address"])
    except FileNotFoundError:
        return None


def stop() -> bool:
    """Stop the Tryton of this folder; False when none runs."""
    if not running():
        return False
    pid = json.loads((LIVE / "running.json").read_text())["pid"]
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while time.monotonic() < deadline:
            if not running():
                return True
            time.sleep(0.05)
    sys.exit(f"Tryton (process {pid}) does not end.")


def install() -> None:
    requirements = HERE / "erp-requirements.txt"
    done, wanted = CACHE / "venv" / "installed", _digest(requirements)
    if done.exists() and done.read_text() == wanted:
        return
    with step("Installing Tryton into .erp/venv"):
        shutil.rmtree(CACHE / "venv", ignore_errors=True)
        run(sys.executable, "-m", "venv", CACHE / "venv")
        run(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
    done.write_text(wanted)


def load() -> Path:
    """The database with Northwind in it, made once for each version of Tryton, of the data and of the loader."""
    digest = _digest(HERE / "erp-requirements.txt", HERE / "erp_load.py", *sorted(NORTHWIND.glob("*.csv")))
    template = CACHE / f"northwind-{digest[:12]}.sqlite"
    if template.exists():
        return template
    work = CACHE / "loading"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / f"{DATABASE}.sqlite").touch()
    (work / "password").write_text(PASSWORD)
    config = configuration(work, 0)
    environment = os.environ | {"TRYTONPASSFILE": str(work / "password"), "TRYTOND_CONFIG": str(config)}
    admin = [PYTHON.parent / "trytond-admin", "-c", config, "-d", DATABASE]
    with step("Making Tryton's database"):
        run(*admin, "--all", "--email", "admin@example.com", env=environment)
        run(*admin, "-u", "sale_discount", "--activate-dependencies", env=environment)
    with step("Loading Northwind: customers, products, 830 orders, their deliveries"):
        run(PYTHON, HERE / "erp_load.py", DATABASE, NORTHWIND, env=environment)
    # A copy made by SQLite itself holds what may still be in the write-ahead log beside the file.
    with contextlib.closing(sqlite3.connect(work / f"{DATABASE}.sqlite")) as connection:
        connection.execute("VACUUM INTO ?", [str(work / "template")])
    for old in CACHE.glob("northwind-*.sqlite"):
        old.unlink()
    (work / "template").rename(template)
    shutil.rmtree(work)
    return template


def configuration(folder: Path, port: int) -> Path:
    path = folder / "trytond.conf"
    path.write_text(f"[database]\nuri = sqlite://\npath = {folder}\n[web]\nlisten = 127.0.0.1:{port}\n")
    return path


class step:
    """Says what is being done and, when it is done, how long it took."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.started = time.monotonic()
        say(f"{self.what} …")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            say(f"  done in {time.monotonic() - self.started:.0f} s")


def run(*command: object, env: dict[str, str] | None = None) -> None:
    ended = subprocess.run(
        list(map(str, command)), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if ended.returncode != 0:
        sys.exit(f"{ended.stdout}\n{' '.join(map(str, command))} ended with {ended.returncode}.")


def say(line: str) -> None:
    print(line, flush=True)


def _take(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


if __name__ == "__main__":
    main()
