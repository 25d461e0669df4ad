"""The network between a device and the server, as bad as the seed wants it, and devices whose process is killed."""

import gzip
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import syncdevice.database

KINDS = ("lost request", "lost response", "duplicate", "twice at once", "late", "late copy", "busy", "too large")
Check = Callable[[httpx.Request, httpx.Response], None]
LIMITS = (1, 3, 7, 20, 10_000, 10_000, 10_000)  # rows of a page


@dataclass
class Faults:
    """What goes wrong during one sync. `budget` is how many faults it has at most; None: every request has one."""

    rng: Random
    budget: int | None = 0
    page_rows: int = 10_000
    interfere: Callable[[], object] | None = None
    met: list[str] = field(default_factory=list)

    def draw(self, is_push: bool) -> str | None:
        """The fault of the next request, or None."""
        if self.budget is not None:
            if self.budget == 0 or self.rng.random() < 0.4:
                return None
            self.budget -= 1
        kind = self.rng.choice(KINDS if is_push else (*KINDS[:4], "busy"))
        if self.budget is None and kind in {"duplicate", "twice at once", "late copy", "too large"}:
            kind = "lost response"
        self.met.append(kind)
        return kind


class Network(httpx.BaseTransport):
    """A device's way to the server, through `inner`, which stays open. `mailbox` takes what arrives later.

    `check` looks at every answer, also where it does not arrive.
    """

    def __init__(
        self, inner: httpx.BaseTransport, faults: Faults, mailbox: list[httpx.Request], check: Check | None = None
    ) -> None:
        self._inner, self._faults, self._mailbox, self._check = inner, faults, mailbox, check

    def close(self) -> None:
        """Nothing: `inner` serves all devices."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        if request.url.path == "/sync/pull":
            request.url = request.url.copy_set_param("limit", self._faults.page_rows)
        # Outcomes are asked last: a row that is written after the last page is the next sync's.
        if self._faults.interfere is not None and request.url.path != "/sync/outcomes":
            self._faults.interfere()
        is_push = request.url.path == "/sync/push"
        match self._faults.draw(is_push):
            case "lost request":
                raise httpx.ConnectError("the request was lost", request=request)
            case "lost response":
                self._send(request)
                raise httpx.ReadError("the response was lost", request=request)
            case "late":
                self._mailbox.append(request)
                raise httpx.ReadTimeout("the request is still on its way", request=request)
            case "duplicate":
                self._send(request)
            case "twice at once":
                return self._send_at_once(request)
            case "late copy":
                self._mailbox.append(request)
            case "busy":
                return httpx.Response(503, headers={"Retry-After": "0"}, json={"code": "service_unavailable"})
            case "too large" if _can_be_split(request):
                return httpx.Response(413, json={"code": "batch_too_large"})
        return self._send(request)

    def _send(self, request: httpx.Request) -> httpx.Response:
        answer = self._inner.handle_request(request)
        answer.read()
        if self._check is not None:
            self._check(request, answer)
        return answer

    def _send_at_once(self, request: httpx.Request) -> httpx.Response:
        """Two copies race; the second one's answer counts."""
        with ThreadPoolExecutor(1) as other:
            first = other.submit(self._send, request)
            answer = self._send(request)
            first.result()
        return answer


class Recorder(httpx.BaseTransport):
    """The way to the server itself. Notes every push with its answer in a file, which killed devices share."""

    def __init__(self, path: Path) -> None:
        # No TLS here, and reading the certificates takes longer than most syncs.
        self._path, self._inner = path, httpx.HTTPTransport(verify=False)

    def another(self) -> "Recorder":
        """For another process, which shares no connection."""
        return Recorder(self._path)

    def close(self) -> None:
        self._inner.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        began = time.time()
        answer = self._inner.handle_request(request)
        if request.url.path == "/sync/push":
            answer.read()
            said = {"began": began, "ended": time.time(), "status": answer.status_code}
            note = json.dumps(said | {"request": json.loads(body_of(request)), "answer": answer.json()})
            with self._path.open("a") as file:
                file.write(note + "\n")
        return answer


def body_of(request: httpx.Request) -> bytes:
    body = request.content
    return gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body


def _can_be_split(request: httpx.Request) -> bool:
    """Whether a push has more than one unit; a single one could not be made smaller, and would end on the device."""
    mutations = json.loads(body_of(request))["mutations"]
    return len({mutation.get("group") or mutation["id"] for mutation in mutations}) > 1


def run_and_kill(work: Callable[[], object], statement: int) -> str:
    """Do `work` in a process of its own that is killed as it begins its SQLite statement number `statement`.

    Returns `killed`, or what the child told that lived to its end: `finished` or `failed: …`.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            _die_at(statement)
            try:
                work()
                text = "finished"
            except BaseException as error:
                text = f"failed: {type(error).__name__}: {error}"
            os.write(write, text.encode()[:4000])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else told


def _die_at(statement: int) -> None:
    """Have this process kill itself as any connection of the SDK begins its statement number `statement`."""
    left = statement
    real = syncdevice.database.connect

    def count(_: str) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect(path: str) -> sqlite3.Connection:
        conn = real(path)
        conn.set_trace_callback(count)
        return conn

    module: Any = syncdevice.database
    module.connect = connect
