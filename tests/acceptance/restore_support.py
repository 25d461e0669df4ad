"""PostgreSQL clusters of their own, to be backed up, lost and restored as an administrator would do it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from syncserver import postgres

SECONDS_MAX = 60
DATABASE = "sync"
SETTINGS = """
listen_addresses = ''
fsync = off
max_connections = 50
wal_level = replica
archive_mode = on
archive_command = 'cp %p {archive}/%f'
unix_socket_directories = '{socket}'
"""


def run(program: str, *arguments: object) -> None:
    """Run one of PostgreSQL's programs, as who may. Raises RuntimeError with its words when it fails."""
    user = postgres.SYSTEM_USER if os.geteuid() == 0 else None
    command = [str(postgres.binaries() / program), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:
        ended = subprocess.run(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, user=user, cwd="/", timeout=SECONDS_MAX
        )
        if ended.returncode:
            output.seek(0)
            raise RuntimeError(f"{program} failed: {output.read()}")


class Cluster:
    """One cluster in a folder, reached by its socket there."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self.folder, self.archive = folder, archive
        self.socket = folder.with_name(f"{folder.name}.run")  # not among the files, which a base backup copies

    def make(self) -> None:
        run("initdb", "-D", self.folder, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-N")
        self.configure()

    def configure(self) -> None:
        """Make it this folder's own: its socket, its archive."""
        text = SETTINGS.format(socket=self.socket, archive=self.archive)
        self.socket.mkdir(exist_ok=True)
        own(self.socket)
        (self.folder / "postgresql.auto.conf").write_text(text)

    def add(self, text: str) -> None:
        with (self.folder / "postgresql.auto.conf").open("a") as file:
            file.write(text + "\n")

    def start(self) -> None:
        log = self.folder / "log"
        try:
            run("pg_ctl", "-D", self.folder, "-w", "-t", SECONDS_MAX, "-l", log, "start")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text()}") from error

    def stop(self, mode: str = "fast") -> None:
        run("pg_ctl", "-D", self.folder, "-w", "-t", SECONDS_MAX, "-m", mode, "stop")

    def running(self) -> bool:
        return (self.folder / "postmaster.pid").exists()

    def copy_to(self, folder: Path) -> "Cluster":
        """A plain copy of the files of a cluster that is stopped, or at rest."""
        shutil.copytree(self.folder, folder, symlinks=True)
        own(folder)
        made = Cluster(folder, self.archive)
        made.configure()
        return made

    def snapshot_to(self, folder: Path) -> "Cluster":
        """What a disk's snapshot has of a cluster that runs, if nobody writes meanwhile."""
        self.sql("CHECKPOINT")
        made = self.copy_to(folder)
        (folder / "postmaster.pid").unlink()
        return made

    def base_backup(self, folder: Path, *options: str) -> "Cluster":
        run("pg_basebackup", "-h", self.socket, "-U", "postgres", "-D", folder, "-c", "fast", *options)
        return Cluster(folder, self.archive)

    def address(self, database: str = DATABASE) -> str:
        return f"postgresql://postgres@/{database}?host={self.socket}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            connection.execute(statement)


def own(folder: Path) -> None:
    """Give a folder to who runs PostgreSQL."""
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{postgres.SYSTEM_USER}:", str(folder)], check=True)
    folder.chmod(0o700)


@contextmanager
def machine() -> Iterator[Path]:
    """A folder for clusters, whose servers are stopped in the end. Its path is short, as that of a socket must be."""
    folder = Path(tempfile.mkdtemp(prefix="restore-"))
    folder.chmod(0o755)
    own_folder = folder / "pg"
    own_folder.mkdir()
    (own_folder / "archive").mkdir()
    own(own_folder)
    try:
        yield own_folder
    finally:
        for pid in own_folder.glob("*/postmaster.pid"):
            run("pg_ctl", "-D", pid.parent, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
