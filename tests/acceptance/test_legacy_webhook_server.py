"""Webhooks on the server as `script/server` runs it: what is far too large is refused before it is there."""

import json
import select
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from sync import outbound
from tests.acceptance.acceptance_support import Server, running_server
from tests.acceptance.guide_support import run_guide
from tests.integration.webhook_support import SECRET, about, signed

DEPLOYMENT = """
from legacy.systems import System
from legacy.webhooks.hook import Hook, Where
from legacy.webhooks.verifiers import StandardWebhooks
from tests.integration.legacy_support import CUSTOMER, Ledger
from tests.acceptance.guide_support import run_guide
from tests.integration.webhook_support import WHERE

ledger = Ledger()
ledger.put("party", "1", code="1", name="Ana", city="Berlin")
ledger.put("party", "2", code="2", name="Bo", city="Ulm")
ledger.put("party", "3", code="3", name="Cy", city="Oslo")
GUIDE = Where({"customer.updated": "customer"}, kind="type", key="data.id", id="id")
SYSTEMS = (
    System("ledger", lambda: ledger, (CUSTOMER,), webhook=Hook(StandardWebhooks(), WHERE, mode="sync")),
    System("shop", lambda: ledger, (CUSTOMER,), webhook=Hook(StandardWebhooks(), GUIDE, mode="sync")),
)
"""
GIGABYTE = 1_000_000_000
BYTES_SENT_MAX = 3_000_000  # that the answer may take: the limit, and what lies in buffers on the way
PATIENCE_SECONDS = 0.2  # for an answer, before the next piece is sent
MEMORY_BYTES_MAX = 60_000_000  # that the server may grow by

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("listener")
    (folder / "a_ledger.py").write_text(DEPLOYMENT)
    path = {
        "PYTHONPATH": str(folder),
        "LEGACY_SYSTEMS": "a_ledger",
        "LEGACY_WEBHOOK_SECRETS": f"ledger:{SECRET},shop:{SECRET}",
    }
    with running_server(folder, **path) as server:
        yield server


def test_webhook_is_applied_and_answered(listener: Server) -> None:
    body = about("3")
    answer = httpx.post(f"{listener.url}/legacy/ledger/webhook", content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["records"][0]["outcome"]) == (200, "created")
    assert httpx.get(f"{listener.url}{answer.headers['Location']}").json() == answer.json()


@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_a_gigabyte_is_refused_without_being_read(listener: Server, chunked: bool) -> None:
    before = memory(listener)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {GIGABYTE}"
    head = f"POST /legacy/ledger/webhook HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n\r\n"
    block = b"x" * 100_000
    piece = b"%x\r\n%b\r\n" % (len(block), block) if chunked else block
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", listener.port), timeout=30) as wire:
        wire.sendall(head.encode())
        while sent < BYTES_SENT_MAX and not answer:
            wire.sendall(piece)
            sent += len(piece)
            if select.select([wire], [], [], PATIENCE_SECONDS)[0]:
                answer = wire.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert memory(listener) - before < MEMORY_BYTES_MAX
    assert httpx.get(f"{listener.url}/healthz").status_code == 200


def test_commands_of_the_guide_are_answered_as_it_says(listener: Server, tmp_path: Path) -> None:
    told = json.loads(run_guide("inbound", tmp_path, URL=listener.url, SECRET=SECRET))
    assert (told["state"], [record["key"] for record in told["records"]]) == ("done", ["1"])


def test_staff_ask_what_became_of_it_as_the_guide_says(listener: Server, tmp_path: Path) -> None:
    body = about("2")
    sent = httpx.post(f"{listener.url}/legacy/ledger/webhook", content=body, headers=signed(body)).json()
    name, _ = listener.superuser("auditor")
    token = listener.manage("drf_create_token", name).split()[2]
    told = run_guide("operation", tmp_path, URL=listener.url, OPERATION=sent["operation"], TOKEN=token)
    assert json.loads(told) == sent


@pytest.mark.parametrize(("added", "told"), [(b"", "genuine"), (b" ", "forged")])
def test_signature_is_checked_as_the_guide_says(tmp_path: Path, added: bytes, told: str) -> None:
    body = '{"type": "sync.changes", "name": "Zo\u00eb"}'
    headers = outbound.signed("msg_1", body, [SECRET, "whsec_" + "A" * 32], datetime.now(UTC))
    (tmp_path / "body.json").write_bytes(body.encode() + added)
    given = {name.upper().replace("-", "_"): value for name, value in headers.items() if name.startswith("webhook")}
    assert run_guide("verify", tmp_path, SECRET=SECRET, **given) == f"{told}\n"


def memory(server: Server) -> int:
    assert server._process is not None
    family = [server._process, *server._process.children(recursive=True)]
    return sum(process.memory_info().rss for process in family if isinstance(process, psutil.Process))
