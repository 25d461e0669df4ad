"""A deployment with many branches, run by `manage.py` as processes of their own, and servers that misbehave."""

import csv
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.acceptance_support import ROOT, migrated_database

MANAGE_SECONDS_MAX = 600  # a round of fifty on a busy machine
_MASTERS = """
import csv
from entities.models import Customer, Product
def rows(table):
    with open(f"data/northwind/{table}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
Customer.objects.bulk_create(
    Customer(code=r["CustomerID"].strip(), name=r["CompanyName"], city=r["City"], phone=r["Phone"])
    for r in rows("customers")
)
Product.objects.bulk_create(
    Product(code=r["ProductID"], name=r["ProductName"], unit_price=r["UnitPrice"]) for r in rows("products")
)
"""


class Deployment:
    """A database of its own, and `manage.py` on it with these settings."""

    def __init__(self, folder: Path, database_url: str, settings: Mapping[str, str]) -> None:
        self.folder, self.database_url = folder, database_url
        self.environment = os.environ | {"DATABASE_URL": database_url, "SYNC_DATA_DIR": str(folder), **settings}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "manage.py", *arguments]
        log = (self.folder / "log").open("a")
        with log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def manage(self, *arguments: str, code: int = 0) -> str:
        """What it printed. Fails where it does not end with `code`."""
        with self.start(*arguments) as process:
            out, _ = process.communicate(timeout=MANAGE_SECONDS_MAX)
        log = (self.folder / "log").read_text()
        assert process.returncode == code, f"{arguments} ended with {process.returncode}:\n{out[-3000:]}\n{log[-6000:]}"
        return out

    def sync(self, *arguments: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """One line a run, by system, in the order in which they ended."""
        lines = map(json.loads, self.manage("sync_legacy", *arguments, code=code).splitlines())
        return {line["system"]: line for line in lines}

    def load_master_data(self) -> None:
        """Northwind's customers and products, as the head office has them."""
        self.manage("shell", "--no-imports", "-c", _MASTERS)

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(query, parameters).fetchall()

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def deployment(folder: Path, **settings: str) -> Iterator[Deployment]:
    with migrated_database() as database_url:
        yield Deployment(folder, database_url, settings)


@contextmanager
def made_of_northwind(folder: Path, stores: int, **settings: str) -> Iterator[Deployment]:
    """The head office with its customers and products, and stores that were never synced."""
    with deployment(folder, LEGACY_SYSTEMS="legacy.mappings.stores", **settings) as made:
        made.load_master_data()
        command = [sys.executable, "script/stores.py", str(folder / "stores"), "--stores", str(stores)]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        (folder / "stores.csv").write_text(listed.stdout)
        assert made.manage("legacy_branches", "store", str(folder / "stores.csv")) == f"{stores} made, 0 changed.\n"
        yield made


def move(stores: Deployment, name: str, url: str, seconds: int) -> None:
    """Give a store another address and time-out."""
    file = stores.folder / "moved.csv"
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([["name", "url", "timeout_seconds"], [name, url, seconds]])
    stores.manage("legacy_branches", "store", str(file))


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """The port of a server that accepts whoever comes, and says this to them; None: it never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        guests: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    guest, _ = server.accept()
                except OSError:
                    return
                guests.append(guest)
                if answer is not None:
                    with guest:
                        guest.recv(65_536)
                        guest.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for guest in guests:
                guest.close()
