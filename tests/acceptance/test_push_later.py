"""`Prefer: respond-async` with the real server and a real worker that is killed again and again."""

import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.acceptance.acceptance_support import ROOT, Server, running_server

pytestmark = pytest.mark.slow
ROUNDS = 4
PUSHES = 15  # of each round; the last of them is waited for
SECONDS_MAX = 120  # for everything to be applied, on a busy machine


@contextmanager
def working(server: Server) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker beside the server; killed at the end."""
    with server.log.open("a") as log:
        command = [sys.executable, "manage.py", "worker"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=server.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Till:
    """A device that sends one change of one product after another."""

    def __init__(self, server: Server) -> None:
        self.server, self.device, self.sent = server, server.enroll(), 0
        made = "from entities.models import Product; print(Product.objects.create(code='A', name='0').pk, end='')"
        self.product = server.manage("shell", "--no-imports", "-c", made)

    def push(self, **headers: str) -> httpx.Response:
        self.sent += 1
        change = {
            "id": str(uuid.uuid4()),
            "entity": "product",
            "row": self.product,
            "op": "update",
            "base": 1,
            "set": {"name": str(self.sent)},
            "add": {"units_in_stock": 1},
        }
        body = {"mutations": [change]}
        return httpx.post(f"{self.server.url}/sync/push", json=body, headers=self.device.headers | headers, timeout=60)

    def state(self, place: str) -> str:
        answer = httpx.get(self.server.url + place, headers=self.device.headers, timeout=60)
        assert answer.status_code == 200
        return str(answer.json()["state"])


def until(what: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not what():
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.1)


def test_pushes_that_nobody_waits_for_are_applied_once_and_in_order_while_workers_are_killed(tmp_path: Path) -> None:
    dice = random.Random(4)
    with running_server(tmp_path, WORKER_DEAD_SECONDS="2") as server:
        till = Till(server)
        assert till.push(prefer="respond-async").status_code == 200  # as long as there is no worker
        places = []
        for _ in range(ROUNDS):
            with working(server):
                until(lambda: till.push(prefer="respond-async").status_code == 202, server)
                answers = [till.push(prefer="respond-async") for _ in range(PUSHES)]
                places += [answer.headers["Location"] for answer in answers if answer.status_code == 202]
                time.sleep(dice.uniform(0, 1))
            assert till.push().json()["results"][0]["status"] == "applied"
        with working(server):
            until(lambda: {till.state(place) for place in places} == {"done"}, server)
        with server.connect() as connection:
            stock = "SELECT units_in_stock, name FROM entities_product"
            assert connection.execute(stock).fetchall() == [(till.sent, str(till.sent))]
            names = "SELECT old ->> 'name' FROM sync_history WHERE row_id = %s AND op = 'update' ORDER BY rev"
            told = [int(name) for (name,) in connection.execute(names, [till.product]).fetchall()]
            assert told == list(range(till.sent))
    assert len(places) > ROUNDS
