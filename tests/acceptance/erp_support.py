"""A real Tryton for a test, and a command that reaches it and the test's database as a process of its own."""

import os
import socket
import subprocess
from pathlib import Path

from django.conf import settings
from django.db import connection


class Erp:
    """A Tryton of this test session, with its own database and port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.environment = os.environ | {"SYNC_DATA_DIR": str(folder)}
        self.url = f"http://127.0.0.1:{self.port}"

    def do(self, *command: str) -> None:
        program = settings.BASE_DIR / "script" / "erp"
        subprocess.run([program, *command], env=self.environment, check=True, capture_output=True, text=True)

    def start(self) -> None:
        self.do("start", "--port", str(self.port))

    @property
    def database(self) -> Path:
        """Tryton's own database, a file of SQLite."""
        return Path(self.environment["SYNC_DATA_DIR"]) / "erp" / "northwind.sqlite"


def command_environment(erp: Erp) -> dict[str, str]:
    """What `manage.py` as a process of its own needs to work on the test's database and this Tryton."""
    at = connection.settings_dict
    return os.environ | {
        "LEGACY_URL": erp.url,
        "LEGACY_DATABASE": "northwind",
        "LEGACY_USER": "admin",
        "LEGACY_PASSWORD": "northwind",
        "DATABASE_URL": f"postgresql://{at['USER']}@/{at['NAME']}?host={at['HOST']}",
    }
