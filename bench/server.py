"""The place of a run: a database of its own, and the server on a free port, as `script/server` starts it."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from bench.load import Target

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS_MAX = 120
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A running server and its database."""

    port: int
    database: str

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def connect(self) -> psycopg.Connection:
        """A connection to the database that commits every statement. Not for parameters beside a statement's text."""
        return psycopg.connect(self.database, autocommit=True)

    def devices(self, count: int) -> list[Target]:
        """New devices that are granted what is for everybody."""
        from devices.enroll import enroll

        return [
            Target(HOST, self.port, enroll(self.code(), f"bench {at}", "bench", "1", HOST)[1]) for at in range(count)
        ]

    def code(self) -> str:
        """A code that enrols a device."""
        from devices.enroll import create_code

        return create_code(["global"])

    def empty(self) -> None:
        """Begin anew: no contacts, and nothing known of earlier ones."""
        with self.connect() as connection:
            connection.execute("TRUNCATE entities_contact")
            connection.execute("TRUNCATE sync_feed, sync_history, sync_result")
        self.settle()

    def fill(self, rows: int) -> None:
        """Let there be so many contacts, made by SQL: the triggers capture them. Then let the database settle."""
        with self.connect() as connection:
            found = connection.execute("SELECT count(*) FROM entities_contact").fetchone()
            for start in range(found[0] if found else 0, rows, 100_000):
                connection.execute(FILL, [start, min(start + 100_000, rows)])
        self.settle()

    def settle(self) -> None:
        """Leave no work behind that would disturb what is measured next."""
        with self.connect() as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")


FILL = """
INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note, met_on)
SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - 1000000 + n), 12, '0') || '7'
        || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid, 'Ana', 'Fernández ' || n,
       'Purchasing Manager', 'contact' || n || '@example.org', '+49 30 ' || lpad(n::text, 7, '0'),
       rpad('delivery on Tuesday, asked for the new price list ' || md5(n::text), 120, ' call back'),
       date '2026-01-01' + n %% 365
FROM generate_series(%s::int, %s::int - 1) n
"""


@contextmanager
def serving() -> Iterator[Server]:
    """A new database and a server for it; both are gone afterwards."""
    port = _free_port()
    with _new_database() as database, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ |= {"DATABASE_URL": database, "DJANGO_SETTINGS_MODULE": "bench.settings"}
        import django

        django.setup()
        log = Path(folder, "server.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [ROOT / "script" / "server"],
                env=os.environ | {"PORT": str(port)},
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
            try:
                _wait(process, port, log)
                yield Server(port, database)
            finally:
                process.terminate()
                process.wait(START_SECONDS_MAX)


@contextmanager
def _new_database() -> Iterator[str]:
    """The address of an empty database on the server that the project uses."""
    from syncserver import environment, postgres

    address = environment.text("DATABASE_URL") or postgres.start(environment.DATA_DIR / "postgres")
    name = f"syncserver_bench_{os.getpid()}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(address)._replace(path=f"/{name}"))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when the server answers. Raises SystemExit, with its last words, when it does not come up."""
    ends = time.monotonic() + START_SECONDS_MAX
    while process.poll() is None and time.monotonic() < ends:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"The server did not start:\n{log.read_text(errors='replace')[-3000:]}")
