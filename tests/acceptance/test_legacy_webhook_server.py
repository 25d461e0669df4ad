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
from tests.integration.misbehaving import Misbehaving, twice
from tests.integration.webhook_support import SECRET, about, signed

DEPLOYMENT = """
from legacy.systems import System
from legacy.webhooks.hook import Hook, Where
from legacy.webhooks.verifiers import StandardWebhooks
from dataclasses import replace
from tests.integration.legacy_support import CUSTOMER, Ledger
from tests.acceptance.guide_support import run_guide
from tests.integration.webhook_support import WHERE

PULLED = replace(CUSTOMER, direction="pull", match=())
PAYLOAD = Where({"put": "customer"}, "kind", "key", at="at", record="party")
ledger = Ledger()
ledger.put("party", "1", code="1", name="Ana", city="Berlin")
ledger.put("party", "2", code="2", name="Bo", city="Ulm")
ledger.put("party", "3", code="3", name="Cy", city="Oslo")
ledger.put("party", "4", code="4", name="Di", city="Rome")
till = Ledger(fetches=False)
GUIDE = Where({"customer.updated": "customer"}, kind="type", key="data.id", id="id")
SYSTEMS = (
    System("ledger", lambda: ledger, (CUSTOMER,), webhook=Hook(StandardWebhooks(), WHERE, mode="sync")),
    System("shop", lambda: ledger, (CUSTOMER,), webhook=Hook(StandardWebhooks(), GUIDE, mode="sync")),
    System("till", lambda: till, (PULLED,), webhook=Hook(StandardWebhooks(), PAYLOAD, "sync", payload_is_record=True)),
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
        "LEGACY_WEBHOOK_SECRETS": f"ledger:{SECRET},shop:{SECRET},till:{SECRET}",
    }
    with running_server(folder, **path) as server:
        yield server


def test_webhook_is_applied_and_answered(listener: Server) -> None:
    body = about("3")
    answer = httpx.post(f"{listener.url}/legacy/ledger/webhook", content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["records"][0]["outcome"]) == (200, "created")
    assert httpx.get(f"{listener.url}{answer.headers['Location']}").json() == answer.json()


@pytest.mark.legacy("F12")
def test_webhook_that_arrives_twice_is_applied_once(listener: Server) -> None:
    body = about("4")
    with Misbehaving(listener.url) as proxy:
        proxy.when(twice)
        told = [
            httpx.post(f"{proxy.url}/legacy/ledger/webhook", content=body, headers=signed(body, "msg_twice")).json()
            for _ in range(2)
        ]
    assert told[0] == told[1]
    assert told[0]["records"][0]["outcome"] == "created"
    assert revisions(listener, "4") == 1


@pytest.mark.legacy("F13")
def test_webhook_that_arrives_late_does_not_bring_back_what_was(listener: Server) -> None:
    outcomes = []
    for minute, city in ((2, "Bonn"), (1, "Ulm"), (3, "Graz"), (2, "Bonn")):
        party = {"code": "T1", "name": "Eve", "city": city}
        at = f"2026-11-21T12:{minute:02}:00Z"
        body = json.dumps({"kind": "put", "key": "1", "at": at, "party": party}).encode()
        answer = httpx.post(f"{listener.url}/legacy/till/webhook", content=body, headers=signed(body))
        outcomes.append(answer.json()["records"][0]["outcome"])
    assert outcomes == ["created", "superseded", "updated", "superseded"]
    with listener.connect() as connection:
        assert connection.execute("SELECT city FROM entities_customer WHERE code = 'T1'").fetchall() == [("Graz",)]


@pytest.mark.legacy("F14")
def test_webhook_that_is_forged_is_refused_and_leaves_nothing(listener: Server) -> None:
    body = about("4", n="forged")
    old = datetime(2026, 1, 1, tzinfo=UTC)
    forged = [{}, signed(body, secret="whsec_" + "A" * 32), signed(about("3")), signed(body, at=old)]
    with listener.connect() as connection:
        query = "SELECT count(*) FROM legacy_operation"
        before = connection.execute(query).fetchall()
        for headers in forged:
            answer = httpx.post(f"{listener.url}/legacy/ledger/webhook", content=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "signature_refused")
        assert connection.execute(query).fetchall() == before


@pytest.mark.legacy("F15")
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


def revisions(server: Server, code: str) -> int:
    query = "SELECT count(*) FROM sync_history WHERE row_id = (SELECT id FROM entities_customer WHERE code = %s)"
    with server.connect() as connection:
        return int(connection.execute(query, [code]).fetchall()[0][0])


def memory(server: Server) -> int:
    assert server._process is not None
    family = [server._process, *server._process.children(recursive=True)]
    return sum(process.memory_info().rss for process in family if isinstance(process, psutil.Process))
