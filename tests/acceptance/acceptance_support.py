"""A server as `script/server` runs it, with a database of its own, for tests that talk to it over HTTP."""

import atexit
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg

from syncserver import environment, postgres

ROOT = environment.BASE_DIR
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20
MANAGE_SECONDS_MAX = 120
STARTS_MAX = 3  # a free port may be taken by another program before the server binds it
LOG_TAIL_BYTES = 6_000
COUNTRY = "Germany"
SHARED = ("global", f"country:{COUNTRY}")  # what a device has unless a test says otherwise

_CODE = """
INSERT INTO devices_enrollmentcode (code_hash, scopes, user_id, created_at, expires_at)
VALUES (%s, %s, (SELECT id FROM auth_user WHERE username = %s), now(), now() + interval '1 day')
"""
_SUPERUSER = """
from django.contrib.auth import get_user_model
get_user_model().objects.create_superuser({name!r}, password={password!r})
"""


@dataclass(frozen=True)
class Enrolled:
    """A device that was enrolled over HTTP."""

    id: str
    token: str
    scopes: list[str]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class Server:
    """One granian with its own database and data folder. `log` keeps what it and `manage.py` wrote to stderr."""

    def __init__(self, folder: Path, database_url: str, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.database_url = database_url
        self.log = folder / "server.log"
        self.port = 0
        self._process: psutil.Popen | None = None
        self.environment = os.environ | {
            "DATABASE_URL": database_url,
            "SYNC_DATA_DIR": str(folder / "data"),
            "DEBUG": "0",
            "HTTPS": "0",
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            # Tests that send wrong codes must not lock out those that send right ones: all call from one address.
            "SYNC_ENROLLMENT_FAILURES_MAX": "100000",
            **settings,
        }

    @property
    def url(self) -> str:
        """Such as `http://127.0.0.1:40123`, without a slash at its end. It stays the same when the server restarts."""
        return f"http://127.0.0.1:{self.port}"

    # --- its life ---

    def prepare(self) -> None:
        """Migrate the database and collect the static files."""
        self.manage("migrate", "--verbosity", "0")
        self.collect_static()

    def collect_static(self) -> None:
        self.manage("collectstatic", "--noinput", "--verbosity", "0")

    def start(self) -> None:
        """Start granian and return when `/readyz` is 200. Raises RuntimeError, with the log's end, when it never is."""
        for attempt in range(STARTS_MAX):
            self.port = self.port or _free_port()
            self._process = self._spawn()
            if self._becomes_ready():
                return
            ended = self._process.poll() is not None
            self.stop()
            if not ended or attempt + 1 == STARTS_MAX:
                break
            self.port = 0
        raise RuntimeError(f"The server did not become ready:\n{self.log_tail()}")

    def stop(self) -> None:
        """Stop the server and every process it started, gently and then not. Does nothing when it does not run."""
        self._end(gently=True)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self._end(gently=False)

    def _spawn(self) -> psutil.Popen:
        static = Path(self.environment["SYNC_DATA_DIR"]) / "static"
        static.mkdir(parents=True, exist_ok=True)
        command: list[object] = [sys.executable, "-m", "granian", "--interface", "wsgi"]
        command += ["syncserver.wsgi:application", "--host", "127.0.0.1", "--port", self.port]
        command += ["--workers", self.environment.get("WORKERS", 1), "--blocking-threads", 4, "--backlog", 1024]
        command += ["--log-level", "warning", "--respawn-failed-workers"]
        command += ["--static-path-route", "/static", "--static-path-mount", static, "--static-path-expires", 3600]
        with self.log.open("ab") as log:
            return psutil.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches pytest alone, which then stops the server itself
            )

    def _becomes_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False, verify=False).status_code == 200:
                    return True
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        return False

    def _end(self, gently: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            family = [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            family = []
        if gently and family:
            process.terminate()
            psutil.wait_procs(family, timeout=STOP_SECONDS_MAX)
        for member in family:
            if member.is_running():
                member.kill()
        psutil.wait_procs(family, timeout=STOP_SECONDS_MAX)
        process.wait(STOP_SECONDS_MAX)

    # --- what tests ask of it ---

    def manage(self, *arguments: str) -> str:
        """Run `manage.py` on the server's database; its stdout. Raises RuntimeError, with its stderr, if it fails."""
        command = [sys.executable, "manage.py", *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=MANAGE_SECONDS_MAX
        )
        with self.log.open("a") as log:
            log.write(ended.stderr)
        if ended.returncode != 0:
            raise RuntimeError(f"manage.py {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr}")
        return ended.stdout

    def codes(self, scopes: Sequence[Sequence[str]], user: str | None = None) -> list[str]:
        """An enrolment code for each list of scopes, as `manage.py enrollment_code` makes them in some seconds."""
        made = [secrets.token_hex(8).upper() for _ in scopes]
        hashed = [hashlib.sha256(code.encode()).digest() for code in made]
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.executemany(_CODE, [(hash, list(each), user) for hash, each in zip(hashed, scopes, strict=True)])
        return made

    def enroll(self, *scopes: str, name: str = "a device", user: str | None = None) -> Enrolled:
        """Enrol a device with these scopes (SHARED where none is given) over HTTP."""
        (code,) = self.codes([scopes or SHARED], user)
        return self.enroll_with(code, name)

    def enroll_many(self, scopes: Sequence[Sequence[str]], name: str = "device") -> list[Enrolled]:
        """Enrol a device for each list of scopes, named `<name> 1` and so on."""
        codes = self.codes(scopes)
        return [self.enroll_with(code, f"{name} {number}") for number, code in enumerate(codes, 1)]

    def enroll_with(self, code: str, name: str = "a device") -> Enrolled:
        body = {"code": code, "name": name, "platform": "test", "app_version": "1.0"}
        answer = httpx.post(f"{self.url}/devices/enroll", json=body, timeout=30, trust_env=False, verify=False)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return Enrolled(told["device"], told["token"], told["scopes"])

    def superuser(self, name: str = "admin", password: str = "admin") -> tuple[str, str]:
        """Make an administrator; its name and password."""
        self.manage("shell", "--no-imports", "-c", _SUPERUSER.format(name=name, password=password))
        return name, password

    def connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """A connection to the server's database that commits each statement: another program that writes to it."""
        return psycopg.connect(self.database_url, autocommit=True)

    def log_tail(self) -> str:
        text = self.log.read_bytes()[-LOG_TAIL_BYTES:] if self.log.exists() else b""
        return text.decode(errors="replace")


@contextmanager
def running_server(folder: Path, **settings: str) -> Iterator[Server]:
    """A server that is ready, in an empty folder, with these environment variables; stopped and its database dropped.

    The database is made where `DATABASE_URL` points, or in the embedded PostgreSQL of this checkout.
    """
    with migrated_database() as database_url:
        server = Server(folder, database_url, settings)
        try:
            server.collect_static()
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def fresh_database(template: str = "template1") -> Iterator[str]:
    """The address of an empty database, which is dropped in the end."""
    address = environment.text("DATABASE_URL") or postgres.start(environment.DATA_DIR / "postgres")
    name = f"acceptance_{secrets.token_hex(6)}"
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield urlsplit(address)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(address, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def migrated_database() -> Iterator[str]:
    """The same of a migrated one: a copy, as to migrate takes seconds, and this a moment."""
    with fresh_database(_migrated()) as address:
        yield address


@cache
def _migrated() -> str:
    """The name of a migrated database that nobody is connected to, made once a process."""
    made = ExitStack()
    atexit.register(made.close)
    address = made.enter_context(fresh_database())
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=ROOT, env=os.environ | {"DATABASE_URL": address}, check=True)
    return urlsplit(address).path.removeprefix("/")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
