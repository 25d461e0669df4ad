"""The Tryton connector against a real HTTP server that misbehaves on purpose."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from legacy.connector import Changed, Misconfigured, Refused, Unreachable
from legacy.connectors import tryton_rpc
from legacy.connectors.tryton_rpc import Session

Answer = tuple[int, dict[str, str], str]


class Server(ThreadingHTTPServer):
    """Answers each call with what `answer(method, number of this call)` says; None closes the connection unanswered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.answer: Callable[[str, int], Answer | None] = lambda method, number: ok(None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        method = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["method"]
        self.server.calls.append(method)
        answer = self.server.answer(method, self.server.calls.count(method))
        if method == "common.db.login" and answer is None:
            answer = ok([1, "token", None])
        if method.endswith("get_preferences"):
            answer = ok({"company": 1})
        if answer is None:
            self.close_connection = True
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body.encode()))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def ok(result: object) -> Answer:
    return 200, {}, json.dumps({"id": 1, "result": result})


def error(*what: object) -> Answer:
    return 200, {}, json.dumps({"id": 1, "error": what})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(tryton_rpc, "WAIT_SECONDS_MAX", 0.01)
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    session = Session(server.url, "northwind", "admin", "secret")
    server.answer = lambda method, number: ok([1, "token", None]) if method == "common.db.login" else ok([7])
    session.open()
    server.calls.clear()
    yield session
    session.close()


def says(server: Server, *answers: Answer | None) -> None:
    """The answers to the calls after signing in, the last one for ever."""

    def answer(method: str, number: int) -> Answer | None:
        if method == "common.db.login":
            return ok([1, "token", None])
        return answers[min(number, len(answers)) - 1]

    server.answer = answer


@pytest.mark.legacy("F4")
@pytest.mark.parametrize(
    "first",
    [(503, {"Retry-After": "1"}, ""), (429, {"Retry-After": "soon"}, ""), (502, {}, "<html>"), (200, {}, ""), None],
    ids=["busy", "too many", "bad gateway", "empty", "connection closed"],
)
def test_read_is_tried_again(server: Server, session: Session, first: Answer | None) -> None:
    says(server, first, first, ok([7]))
    assert session.search("party.party", []) == [7]
    assert len(server.calls) == 3


def test_read_is_given_up_after_some_tries(server: Server, session: Session) -> None:
    says(server, (503, {}, ""))
    with pytest.raises(Unreachable, match="503"):
        session.search("party.party", [])
    assert len(server.calls) == tryton_rpc.READ_TRIES_MAX


@pytest.mark.legacy("F3")
@pytest.mark.parametrize("first", [None, (200, {}, "")], ids=["connection closed", "empty"])
def test_write_whose_answer_was_lost_is_not_sent_again(server: Server, session: Session, first: Answer | None) -> None:
    says(server, first, ok([7]))
    with pytest.raises(Unreachable):
        session.call("party.party", "create", [{}])
    assert server.calls == ["model.party.party.create"]


@pytest.mark.legacy("F5")
def test_session_that_timed_out_is_renewed(server: Server, session: Session) -> None:
    says(server, (401, {}, ""), ok([7]))
    assert session.call("party.party", "create", [{}]) == [7]
    assert server.calls == ["model.party.party.create", "common.db.login", "model.party.party.create"]


@pytest.mark.legacy("S9")
@pytest.mark.parametrize(
    ("answer", "raised", "words"),
    [
        (error("UserError", ["Not like that.", "", None]), Refused, "Not like that"),
        (error("UserWarning", ["name", "Are you sure?", ""]), Refused, "Are you sure"),
        (error("ConcurrencyException", "Records were modified"), Changed, "modified"),
        (error("'quantity'", ""), Refused, "'quantity'"),
        ((500, {}, "oops"), Unreachable, "500"),
        ((404, {}, ""), Misconfigured, "no database 'northwind'"),
        ((200, {}, "<html>"), Misconfigured, "not Tryton"),
    ],
)
def test_each_way_to_fail_is_told_apart(
    server: Server, session: Session, answer: Answer, raised: type[Exception], words: str
) -> None:
    says(server, answer)
    with pytest.raises(raised, match=words):
        session.call("party.party", "write", [1], {})


@pytest.mark.legacy("F20")
def test_field_that_is_not_there_any_more_is_a_wrong_configuration(server: Server, session: Session) -> None:
    says(server, error("'old_name'", ""))
    with pytest.raises(Misconfigured, match="as the mapping asks"):
        session.call("party.party", "read", [1], ["old_name"])


@pytest.mark.parametrize(
    ("answer", "raised", "words"),
    [
        ((401, {}, ""), Misconfigured, "wrong user or password"),
        (error("'res.user'", ""), Unreachable, "not ready"),
        ((503, {}, ""), Unreachable, "503"),
    ],
)
def test_signing_in_fails_with_its_reason(server: Server, answer: Answer, raised: type[Exception], words: str) -> None:
    session = Session(server.url, "northwind", "admin", "secret")
    server.answer = lambda method, number: answer
    with pytest.raises(raised, match=words):
        session.open()
    session.close()
