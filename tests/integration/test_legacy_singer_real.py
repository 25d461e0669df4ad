"""The connector of Singer taps with a tap that people use, which reads a real PostgreSQL."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from entities.models import Customer
from legacy.connector import Misconfigured, Unreachable
from legacy.connectors.singer import Singer, Stream
from legacy.mapping import Mapping
from legacy.models import Run
from tests.integration.legacy_singer_support import CUSTOMER, keys, names, passed, sync

REAL = "meltanolabs-tap-postgres==0.10.0"


@pytest.fixture(scope="session")
def tap_postgres() -> str:
    """The program of a tap that people use, in a virtual environment of its own, installed once per checkout."""
    folder = Path(__file__).parents[2] / ".data" / "taps" / REAL
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True)
            pip = [str(folder / "venv/bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "install", REAL], check=True)
            (folder / "installed").touch()
    return str(folder / "venv/bin/tap-postgres")


@pytest.fixture
def users(transactional_db: None) -> Iterator[dict[str, Any]]:
    """A table in a schema of its own, and the tap's configuration to read it."""
    at = connection.settings_dict
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DROP SCHEMA IF EXISTS crm CASCADE;
            CREATE SCHEMA crm;
            CREATE TABLE crm.users (
                id int PRIMARY KEY, name text, city text, unmapped text,
                at timestamptz NOT NULL DEFAULT clock_timestamp()
            );
            CREATE TABLE crm.other (id int PRIMARY KEY);
            INSERT INTO crm.users (id, name) SELECT n, 'Name ' || n FROM generate_series(1, 25) n
            """
        )
        user, password = at["USER"] or "postgres", at["PASSWORD"] or "none"
        host, port = at["HOST"], at["PORT"] or 5432
        url = f"postgresql+psycopg2://{user}:{password}@socket:{port}/{at['NAME']}?host={host}"
        yield {"sqlalchemy_url": url, "filter_schemas": ["crm"]}
        cursor.execute("DROP SCHEMA crm CASCADE")


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.slow
def test_real_tap_reads_what_changed_since_its_state(tap_postgres: str, users: dict[str, Any]) -> None:
    source = Stream("crm-users", method="INCREMENTAL", replication_key="at", overlap_seconds=0)
    mapping = Mapping("customer", Customer, source, match="code", fields=CUSTOMER.fields)
    assert sync(Singer([tap_postgres], users), mapping).counts == {"customer": {"created": 25}}
    execute("UPDATE crm.users SET name = 'Eve', at = clock_timestamp() WHERE id = 7")
    again = sync(Singer([tap_postgres], users), mapping)
    assert (again.state, again.error) == (Run.State.DONE, "")
    assert again.counts["customer"]["updated"] == 1
    assert names()["7"] == "Eve"


@pytest.mark.slow
@pytest.mark.usefixtures("pages_of_two_records")
def test_real_tap_tells_a_full_table_as_a_whole(tap_postgres: str, users: dict[str, Any]) -> None:
    pages = passed(Singer([tap_postgres], users), Stream("crm-users", method="FULL_TABLE"))
    assert keys(pages) == [str(number) for number in range(1, 26)]
    assert pages[0].records[0].values == {"id": 1, "name": "Name 1", "city": None}
    assert len(pages) > 5
    assert pages[-1].whole


@pytest.mark.legacy("F20")
@pytest.mark.slow
def test_real_tap_names_a_column_that_went_away(tap_postgres: str, users: dict[str, Any]) -> None:
    execute("ALTER TABLE crm.users DROP COLUMN city")
    with pytest.raises(Misconfigured, match=r"crm-users has no city .any more.; it has: id, name, unmapped, at"):
        passed(Singer([tap_postgres], users), Stream("crm-users"))


@pytest.mark.legacy("F1")
@pytest.mark.slow
def test_real_tap_whose_database_is_away_is_unreachable(tap_postgres: str, users: dict[str, Any]) -> None:
    away = {**users, "sqlalchemy_url": "postgresql+psycopg2://me:hushhush@127.0.0.1:1/none"}
    with pytest.raises(Unreachable, match="Connection refused") as caught:
        passed(Singer([tap_postgres], away), Stream("crm-users"))
    assert "hushhush" not in str(caught.value)


@pytest.mark.slow
def test_real_tap_with_a_wrong_configuration_is_misconfigured(tap_postgres: str) -> None:
    with pytest.raises(Misconfigured, match="exit code 1"):
        passed(Singer([tap_postgres], {"host": 7}), Stream("crm-users"))
