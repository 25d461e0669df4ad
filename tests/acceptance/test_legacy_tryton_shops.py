"""Five shops with a Tryton database each, copied from one template, and others that are not as they should be."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from legacy.connector import Unreachable
from legacy.connectors.tryton import Tryton
from tests.acceptance.acceptance_support import ROOT
from tests.acceptance.fleet_support import Deployment, answering, deployment

pytestmark = pytest.mark.slow
SHOPS = [f"shop{number}" for number in range(1, 6)]
CUSTOMERS, PRODUCTS = 93, 77
START_SECONDS_MAX = 120
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>Hi</html>"
JSON = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"id": 999}'


@pytest.fixture
def tryton(tmp_path: Path) -> Iterator[int]:
    """The port of a Tryton with six databases: those of the five shops, and one whose schema has changed."""
    folder = tmp_path / "erp"
    environment = os.environ | {"SYNC_DATA_DIR": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    for command in (["start", "--port", str(port)], ["stop"]):  # installs it, and loads the template
        subprocess.run([ROOT / "script" / "erp", *command], env=environment, check=True, capture_output=True)
    (template,) = (ROOT / ".erp").glob("northwind-*.sqlite")
    names = [*SHOPS, "changed"]
    for name in names:
        shutil.copy(template, folder / f"{name}.sqlite")
    with (folder / "log").open("w") as log:
        program = ROOT / ".erp" / "venv" / "bin" / "trytond"
        command = [str(program), "-c", str(folder / "trytond.conf"), "-d", *names]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(port, names[-1])
        with closing(sqlite3.connect(folder / "changed.sqlite")) as base:
            base.execute("ALTER TABLE party_party RENAME COLUMN code TO number")
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, database: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        somebody = Tryton(f"http://127.0.0.1:{port}", database, "admin", "northwind")
        try:
            somebody.open()
            return
        except Unreachable:
            assert time.monotonic() < deadline
        finally:
            somebody.close()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Deployment]:
    folder = tmp_path / "office"
    folder.mkdir()
    settings = {"LEGACY_SYSTEMS": "tests.acceptance.tryton_shops", "SYNC_ALERT_WEBHOOK_LOOPBACK": "1"}
    with deployment(folder, **settings) as made:
        made.load_master_data()
        yield made


def open_shop(office: Deployment, port: int, *names: str, seconds: int = 120) -> None:
    lines = [f"{name},http://admin:northwind@127.0.0.1:{port}/{name},{seconds}" for name in names]
    (office.folder / "shops.csv").write_text("\n".join(["name,url,timeout_seconds", *lines]))
    office.manage("legacy_branches", "shop", str(office.folder / "shops.csv"))


@pytest.mark.legacy("F1")
def test_five_shops_come_in_whatever_is_wrong_with_the_others(tryton: int, office: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead: int = free.getsockname()[1]
    with answering(None) as hanging, answering(HTML) as html, answering(JSON) as other:
        open_shop(office, hanging, "hanging", seconds=5)
        open_shop(office, tryton, "changed", "never-made")
        open_shop(office, dead, "dead")
        open_shop(office, html, "html")
        open_shop(office, other, "other")
        open_shop(office, tryton, *SHOPS)
        told = office.sync("--kind", "shop", "--parallel", "2", code=3)
    states = {name.removeprefix("shop-"): each["state"] for name, each in told.items()}
    assert {name: state for name, state in states.items() if name not in SHOPS} == {
        "hanging": "unreachable",
        "dead": "unreachable",
        "changed": "unreachable",  # Tryton itself fails on it
        "never-made": "misconfigured",
        "html": "misconfigured",
        "other": "misconfigured",
    }
    assert {states[name] for name in SHOPS} == {"done"}
    assert "cut off" in told["shop-hanging"]["error"]
    assert "northwind@" not in json.dumps(told) + office.log()
    found = dict(office.rows("SELECT split_part(code, '-', 1), count(*) FROM entities_customer GROUP BY 1"))
    assert {name: found.get(name) for name in SHOPS} == dict.fromkeys(SHOPS, CUSTOMERS)
    links = office.rows("SELECT system, count(*) FROM legacy_link WHERE mapping = 'product' GROUP BY 1 ORDER BY 1")
    assert links == [(f"shop-{name}", PRODUCTS) for name in SHOPS]
    assert office.rows("SELECT count(*) FROM entities_product") == [(PRODUCTS,)]


def test_customer_that_is_changed_here_goes_to_its_own_shop_only(tryton: int, office: Deployment) -> None:
    open_shop(office, tryton, *SHOPS[:2])
    office.sync("--kind", "shop", "--parallel", "2")
    change = "from entities.models import Customer; Customer.objects.filter(code='shop2-ALFKI').update(city='Bonn')"
    office.manage("shell", "--no-imports", "-c", change)
    told = office.sync("--kind", "shop", "--parallel", "2")
    assert [told[f"shop-{name}"]["counts"]["customer"].get("updated there") for name in SHOPS[:2]] == [None, 1]
