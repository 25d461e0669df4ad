"""The load: HTTP over raw sockets, since an ordinary client library costs more than the server it would measure."""

import re
import selectors
import socket
import time
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
_END = b"\r\n\r\n"
READ_BYTES = 1 << 20
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Target:
    """Where the server listens, and the token of the device that calls."""

    host: str
    port: int
    token: str

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """A whole request, uncompressed, on a connection that is kept."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Authorization: Bearer {self.token}",
            "Accept: application/json",
        ]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join(lines).encode() + _END + (body or b"")

    def connect(self) -> socket.socket:
        made = socket.create_connection((self.host, self.port), TIMEOUT_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class Client:
    """One device on one keep-alive connection."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._socket = target.connect()
        self._buffer = bytearray(8 * READ_BYTES)

    def send(self, request: bytes) -> bytes:
        """The body of the answer. Raises RuntimeError for any status but 200."""
        self._socket.sendall(request)
        view, filled, end, length = memoryview(self._buffer), 0, -1, 0
        while end < 0 or filled < end + length:
            got = self._socket.recv_into(view[filled:])
            if not got:
                raise RuntimeError("The server closed the connection.")
            filled += got
            if end < 0 and (found := self._buffer.find(_END, 0, filled)) >= 0:
                end, length = found + len(_END), _content_length(bytes(view[:found]))
        body = bytes(view[end:filled])
        if not self._buffer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{bytes(view[:12]).decode()}: {body[:500].decode(errors='replace')}")
        return body

    def get(self, path: str) -> bytes:
        return self.send(self.target.request("GET", path))

    def post(self, path: str, body: bytes) -> bytes:
        return self.send(self.target.request("POST", path, body))

    def close(self) -> None:
        self._socket.close()


def _content_length(head: bytes) -> int:
    found = _LENGTH.search(head)
    if not found:
        raise RuntimeError("The answer does not tell its length.")
    return int(found[1])


def rate(requests: list[tuple[Target, bytes]], seconds: float) -> float:
    """Answers a second: every request is sent again and again on a connection of its own, as soon as it is answered.

    Raises RuntimeError for any status but 200.
    """
    waiting = selectors.EpollSelector()
    loops = [_Loop(target.connect(), request) for target, request in requests]
    try:
        for loop in loops:
            loop.socket.sendall(loop.request)
            waiting.register(loop.socket, selectors.EVENT_READ, loop)
        started, answers = time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < seconds:
            answers += sum(key.data.go_on() for key, _ in waiting.select(1))
        return answers / passed
    finally:
        waiting.close()
        for loop in loops:
            loop.socket.close()


@dataclass
class _Loop:
    """One connection that sends one request over and over."""

    socket: socket.socket
    request: bytes
    answer: bytes = b""

    def go_on(self) -> bool:
        """Read what has come; where the answer is complete, send the request again and return True."""
        self.answer += self.socket.recv(65536)
        if not self.answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(self.answer[:500].decode(errors="replace") or "The server closed the connection.")
        end = self.answer.find(_END)
        if end < 0 or len(self.answer) < end + len(_END) + _content_length(self.answer[:end]):
            return False
        self.answer = b""
        self.socket.sendall(self.request)
        return True
