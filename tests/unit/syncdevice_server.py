"""A server that exists only as an httpx transport, for whole syncs of a replica without a network."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from syncdevice import Replica, database

from sync.sqlite_ddl import sqlite_ddl
from tests.unit.syncdevice_support import CONTACT, ORDER, PRODUCT, enrolled, schema

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def problem(status: int, code: str, **others: Any) -> httpx.Response:
    body = {"code": code, "title": "No", "detail": "Not so.", "status": status, **others}
    return httpx.Response(status, json=body)


@dataclass
class FakeServer:
    """Answers each mutation with `answer`, tells `fates` in pages of `page`; `refuse` answers in its place."""

    answer: Answer = lambda _: {"status": "applied", "rev": 8}
    fates: list[dict[str, Any]] = field(default_factory=list)
    page: int = 100
    unknown: set[str] = field(default_factory=set)
    refuse: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
    changes: list[dict[str, Any]] = field(default_factory=list)
    seen: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if refused := self.refuse(request):
            return refused
        match request.url.path:
            case "/sync/schema":
                if request.headers.get("If-None-Match") == '"1"':
                    return httpx.Response(304)
                return httpx.Response(200, text=sqlite_ddl(schema(CONTACT, ORDER, PRODUCT)), headers={"ETag": '"1"'})
            case "/sync/push":
                mutations = json.loads(request.read())["mutations"]
                return httpx.Response(200, json={"results": [{"id": m["id"], **self.answer(m)} for m in mutations]})
            case "/sync/unknown":
                asked = json.loads(request.read())["ids"]
                return httpx.Response(200, json={"unknown": [id for id in asked if id in self.unknown]})
            case "/sync/pull":
                changes = self.changes.pop(0) if self.changes else {}
                return httpx.Response(200, json={"changes": changes, "token": "t2", "has_more": False})
        start = int(request.url.params.get("since", "0"))
        page = self.fates[start : start + self.page]
        end = start + len(page)
        return httpx.Response(200, json={"outcomes": page, "cursor": str(end), "has_more": end < len(self.fates)})

    def paths(self) -> list[str]:
        return [request.url.path for request in self.seen]

    def cursors(self) -> list[str | None]:
        return [r.url.params.get("since") for r in self.seen if r.url.path == "/sync/outcomes"]

    def replica(self, path: Path) -> Replica:
        """The replica at `path`, made if it is not there: one that has loaded its rows, none so far."""
        if not path.exists():
            with closing(enrolled(path)) as conn:
                database.set_state(conn, token="t1")
        return Replica(path, http=httpx.MockTransport(self), retry_seconds=0, check_days=None)


def fate(mutation: str, outcome: str, at: int = 0, **more: Any) -> dict[str, Any]:
    """What `GET /sync/outcomes` tells of a mutation."""
    told = {"mutation": mutation, "entity": "contact", "row": mutation, "outcome": outcome, "rev": 9, "by": "anna"}
    return {**told, "comment": "", "at": f"2026-11-21T09:00:{at:02}.000000Z", **more}
