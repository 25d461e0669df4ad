"""A proxy on loopback that stands before a real HTTP server, and misbehaves when it is told to.

    with Misbehaving(server.url) as proxy:
        client = Client(proxy.url)
        proxy.next(busy(503, "2"), cut_after(100))             # the next request, and the one after it
        proxy.when(lose_answer, method="POST", path="/sales")  # the next one that is so; times=None: each one
        proxy.down(); proxy.up()                               # nobody listens; somebody does again, on the same port
        assert [each.path for each in proxy.seen] == [...]

A fault is a function of the `Exchange`: it may look at the request, pass it on (once, twice, not at all), and answer
what it likes. Without one a request is passed on, and its answer back, byte for byte.
"""

import http.client
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30  # of the server behind: longer than any test


class Request(NamedTuple):
    method: str
    path: str  # with its query
    headers: dict[str, str]
    body: bytes


@dataclass
class Exchange:
    """One request, and the two ways on from it."""

    request: Request
    server: tuple[str, int]
    connection: socket.socket
    stopped: Event

    def ask(self) -> tuple[int, str, list[tuple[str, str]], bytes]:
        """What the server answers: status, reason, headers, body."""
        behind = http.client.HTTPConnection(*self.server, timeout=TIMEOUT_SECONDS)
        try:
            method, path, headers, body = self.request
            behind.request(method, path, body, {**headers, "Connection": "close"})
            answer = behind.getresponse()
            return answer.status, answer.reason, answer.getheaders(), answer.read()
        finally:
            behind.close()

    def tell(
        self, status: int, reason: str, headers: list[tuple[str, str]], body: bytes, cut_after: int | None = None
    ) -> None:
        """Answer the client; with `cut_after`, only so many bytes of the body, which the headers say is longer."""
        own = {"connection", "content-length", "transfer-encoding"}
        kept = [f"{name}: {value}" for name, value in headers if name.lower() not in own]
        length = [] if status in (204, 304) else [f"Content-Length: {len(body)}"]
        head = "\r\n".join([f"HTTP/1.1 {status} {reason}", *kept, *length, "Connection: close", "", ""])
        self.connection.sendall(head.encode("latin-1") + body[:cut_after])


Fault = Callable[[Exchange], None]


def pass_on(exchange: Exchange) -> None:
    exchange.tell(*exchange.ask())


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
    """Instead of the server, which never sees the request."""
    return lambda exchange: exchange.tell(status, "Told So", list((headers or {}).items()), body)


def busy(status: int = 503, retry_after: str = "") -> Fault:
    return answer(status, headers={"Retry-After": retry_after} if retry_after else {})


def delay(seconds: float) -> Fault:
    """The answer comes late."""

    def late(exchange: Exchange) -> None:
        found = exchange.ask()
        exchange.stopped.wait(seconds)
        exchange.tell(*found)

    return late


def cut_after(body_bytes: int) -> Fault:
    """The answer breaks off in the middle of its body."""
    return lambda exchange: exchange.tell(*exchange.ask(), cut_after=body_bytes)


def empty(exchange: Exchange) -> None:
    """The server does what was asked; the answer is 200 and nothing."""
    exchange.ask()
    exchange.tell(200, "OK", [], b"")


def lose_request(exchange: Exchange) -> None:
    """The connection ends before the server has seen anything."""


def lose_answer(exchange: Exchange) -> None:
    """The server does what was asked, and the connection ends before it can say so."""
    exchange.ask()


def twice(exchange: Exchange) -> None:
    """The request arrives two times; the client hears what was said to the second."""
    exchange.ask()
    pass_on(exchange)


def after(act: Callable[[], object]) -> Fault:
    """Something happens in the system once it has answered, before anybody can ask again."""

    def then(exchange: Exchange) -> None:
        found = exchange.ask()
        act()
        exchange.tell(*found)

    return then


@dataclass
class Rule:
    fault: Fault
    path: str
    method: str
    times: int | None  # how often it is still to be used; None: always

    def fits(self, request: Request) -> bool:
        return self.times != 0 and self.path in request.path and self.method in ("", request.method)


@dataclass
class Misbehaving:
    """Stands before the server at `behind`, an http:// address. To be used as a context manager."""

    behind: str
    seen: list[Request] = field(default_factory=list)
    _rules: list[Rule] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock)
    _stopped: Event = field(default_factory=Event)
    _port: int = 0
    _server: Any = None

    def __enter__(self) -> "Misbehaving":
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._server:
            self.down()

    @property
    def url(self) -> str:
        """With the path of the address behind, so that it takes its place."""
        return f"http://127.0.0.1:{self._port}{urlsplit(self.behind).path}"

    def next(self, *faults: Fault) -> None:
        """One for each of the following requests, in this order."""
        for fault in faults:
            self.when(fault)

    def when(self, fault: Fault, *, path: str = "", method: str = "", times: int | None = 1) -> None:
        """For the next requests whose path has `path` in it; the first rule that fits is the one that is used."""
        with self._lock:
            self._rules.append(Rule(fault, path, method, times))

    def calm(self) -> None:
        """Forget all faults, and what was seen."""
        with self._lock:
            self._rules.clear()
            self.seen.clear()

    def down(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None

    def up(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.close_connection = True
                self.raw_requestline = self.rfile.readline(65_537)
                if not self.raw_requestline or not self.parse_request():
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, dict(self.headers), body)
                address = urlsplit(proxy.behind)
                exchange = Exchange(
                    request, (address.hostname or "", address.port or 80), self.connection, proxy._stopped
                )
                with suppress(BrokenPipeError, ConnectionResetError):  # the client did not wait
                    proxy._fault(request)(exchange)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def _fault(self, request: Request) -> Fault:
        with self._lock:
            self.seen.append(request)
            rule = next((rule for rule in self._rules if rule.fits(request)), None)
            if rule and rule.times is not None:
                rule.times -= 1
        return rule.fault if rule else pass_on
