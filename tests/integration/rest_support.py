"""A small JSON API over HTTP that can be any of those that real systems have: set its attributes, and it is that one.

`/v1/things` lists, `/v1/things/{key}` is one, `/v1/me` says who asks, `/token` gives OAuth2 tokens.
"""

import base64
import datetime as dt
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from legacy.connector import Record
from legacy.connectors import rest_http
from legacy.connectors.rest import Rest
from legacy.connectors.rest_resource import Resource
from tests.integration.misbehaving import Misbehaving

Answer = tuple[int, dict[str, str], Any]
Query = dict[str, str]
Make = Callable[..., Rest]
MARKER = "sync:00000000-0000-4000-8000-000000000001"
PLACES = ("name", "address.city", "price")
THINGS = Resource(
    "/things",
    records="data",
    one="/things/{key}",
    stamp=("updated_at", "created_at"),
    since=("updated_since",),
    marker="external_id",
    find_by="external_id",
    precision_seconds=1e-6,
)
START = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@dataclass
class Api:
    """Its clock stands still until it is moved, as the clocks of systems with whole seconds seem to."""

    paging: str = "whole"  # page, offset, cursor, key (the last record's), link, body (a link in the body)
    size: int = 3  # of a page, at most, whatever is asked for
    order: str = "id"  # or "changed": an edit moves a record to the end; "newest": to the front
    auth: str = ""  # bearer, basic, header, query, oauth
    whole_seconds: bool = False
    null_until_update: bool = False  # `updated_at`, and what is null is in no list of what was updated since
    past_the_end: int = 200  # what a page after the last is answered with
    etags: str = "strong"  # weak, none
    idempotent: bool = False  # keeps the first answer to a key, errors too
    creates_with: str = "body"  # location, nothing
    deaf_to: str = ""  # a field whose updates it answers well and does not do
    max_cursor_uses: int = 1_000
    dated: bool = True  # its answers say what time it is
    date_off: dt.timedelta = dt.timedelta(0)  # by how much the web server's clock is not the database's

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    now: dt.datetime = START
    asked: list[tuple[str, str, Query]] = field(default_factory=list)  # method, path, query
    done: list[tuple[str, str]] = field(default_factory=list)  # writes that it did
    stored: dict[str, Answer] = field(default_factory=dict)
    tokens: dict[str, dt.datetime] = field(default_factory=dict)  # until when
    url: str = ""

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)
        self._lock = RLock()

    # What its own people do.

    def put(self, key: str | None = None, **values: Any) -> str:
        with self._lock:
            new = key not in self.records
            key = key or str(next(self._ids))
            self.now += dt.timedelta(microseconds=1)
            old = self.records.pop(key, {"id": int(key), "name": "", "created_at": self.now})
            stamp = None if new and self.null_until_update else self.now
            self.records[key] = {**old, "updated_at": stamp, "changed": self.now, **values}
            if self.order == "id":
                self.records = dict(sorted(self.records.items(), key=lambda pair: int(pair[0])))
            return key

    def drop(self, key: str) -> None:
        with self._lock:
            del self.records[key]

    def tick(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)

    # HTTP

    def answer(self, method: str, path: str, query: Query, headers: dict[str, str], body: bytes) -> Answer:
        with self._lock:
            self.asked.append((method, path, query))
            if path == "/token":
                return self._token(headers, dict(parse_qsl(body.decode())))
            if not self._knows(headers, query):
                return (
                    401,
                    {},
                    {"error": {"message": f"who is {query.get('api_key') or headers.get('Authorization')}?"}},
                )
            if path == "/v1/me":
                return 200, {}, {"login": "ana", "plan": "gold"}
            if path == "/v1/things":
                return self._list(query) if method == "GET" else self._keyed(headers, json.loads(body or b"{}"))
            return self._one(method, path.removeprefix("/v1/things/"), headers, body)

    def _knows(self, headers: dict[str, str], query: Query) -> bool:
        given = headers.get("Authorization", "")
        match self.auth:
            case "bearer":
                return given == "Bearer s3cret-token"
            case "basic":
                return given == "Basic " + base64.b64encode(b"ana:s3cret-word").decode()
            case "header":
                return headers.get("X-Api-Key") == "s3cret-key"
            case "query":
                return query.get("api_key") == "s3cret-key"
            case "oauth":
                return self.tokens.get(given.removeprefix("Bearer "), START) > self.now
        return True

    def _token(self, headers: dict[str, str], form: Query) -> Answer:
        basic = "Basic " + base64.b64encode(b"client:s3cret-client").decode()
        in_body = form.get("client_secret") == "s3cret-client"
        if form.get("grant_type") != "client_credentials" or not (in_body or headers.get("Authorization") == basic):
            return 401, {}, {"error": "invalid_client", "error_description": "no such client"}
        token = f"token-{len(self.tokens)}-{form.get('scope', '')}"
        self.tokens[token] = self.now + dt.timedelta(seconds=600)
        return 200, {}, {"access_token": token, "token_type": "Bearer", "expires_in": 600}

    def _list(self, query: Query) -> Answer:
        found = [self._shown(raw) for raw in self.records.values() if self._wanted(raw, query)]
        if query.get("sort") == "-updated_at":
            found.sort(key=lambda raw: str(raw["updated_at"]), reverse=True)
        if self.order == "newest":
            found.reverse()
        size = min(self.size, int(query.get("limit") or query.get("per_page") or self.size))
        match self.paging:
            case "page" | "link" | "body":
                page = int(query.get("page", 1))
                part, more = found[size * (page - 1) : size * page], len(found) > size * page
                if not part and page > 1 and self.past_the_end != 200:
                    return self.past_the_end, {}, {"detail": "Invalid page."}
                link = f"/v1/things?{urlencode({**query, 'page': page + 1})}" if more else None
                headers = {"Link": f'<{link}>; rel="next"'} if link and self.paging == "link" else {}
                return 200, headers, {"data": part, "next": link, "more": more}
            case "offset":
                start = int(query.get("offset", 0))
                return 200, {}, {"data": found[start : start + size], "total": len(found)}
            case "cursor" | "key":
                after = int(query.get("cursor") or query.get("starting_after") or 0)
                if after and self.max_cursor_uses <= 0:
                    self.max_cursor_uses = 1_000
                    return 410, {}, {"detail": "cursor expired"}
                self.max_cursor_uses -= 1
                left = sorted((raw for raw in found if raw["id"] > after), key=lambda raw: int(raw["id"]))
                more = len(left) > size
                return 200, {}, {"data": left[:size], "next": str(left[size - 1]["id"]) if more else None, "more": more}
        return 200, {}, {"data": found}

    def _wanted(self, raw: dict[str, Any], query: Query) -> bool:
        if raw.get("archived") and query.get("include_archived") != "1":
            return False
        if "external_id" in query and raw.get("external_id") != query["external_id"]:
            return False
        for name, place in (("updated_since", "updated_at"), ("created_since", "created_at")):
            if name in query:
                since = query[name]
                at = (
                    dt.datetime.fromtimestamp(int(since), dt.UTC)
                    if since.isdigit()
                    else dt.datetime.fromisoformat(since)
                )
                if raw[place] is None or raw[place] < at:
                    return False
        return True

    def _shown(self, raw: dict[str, Any]) -> dict[str, Any]:
        def told(value: Any) -> Any:
            if not isinstance(value, dt.datetime):
                return value
            return value.isoformat(timespec="seconds" if self.whole_seconds else "microseconds")

        return {name: told(value) for name, value in raw.items() if name != "changed"}

    def _keyed(self, headers: dict[str, str], values: dict[str, Any]) -> Answer:
        key = headers.get("Idempotency-Key", "")
        if not (self.idempotent and key):
            return self._create(values)
        if key in self.stored:
            status, told, body = self.stored[key]
            return status, {**told, "Idempotent-Replayed": "true"}, body
        self.stored[key] = self._create(values)
        return self.stored[key]

    def _create(self, values: dict[str, Any]) -> Answer:
        if values.get("name") == "refuse me":
            return 422, {}, {"title": "Not valid", "detail": "We do not deal with those.", "status": 422}
        if values.get("name") == "break down":
            return 500, {}, {"message": "KeyError: 'name'"}
        if values.get("name") == "say no kindly":
            return 200, {}, {"error": {"code": 17, "message": "No credit."}}
        key = self.put(None, **values)
        self.done.append(("create", key))
        if self.creates_with == "location":
            return 201, {"Location": f"{self.url}/things/{key}"}, None
        return (200, {}, None) if self.creates_with == "nothing" else (201, {}, self._shown(self.records[key]))

    def _one(self, method: str, key: str, headers: dict[str, str], body: bytes) -> Answer:
        if key not in self.records:
            return 404, {}, {"detail": "No such thing."}
        etag = self._etag(key)
        if method != "GET" and "If-Match" in headers and headers["If-Match"] != etag.get("ETag"):
            return 412, {}, {"detail": "changed"}
        if method == "DELETE":
            self.drop(key)
            self.done.append(("delete", key))
            return 204, {}, None
        if method in ("PATCH", "PUT"):
            values = json.loads(body)
            if values.get("name") == "refuse me":
                return 400, {}, {"errors": {"name": ["We do not deal with those.", "Really not."]}}
            old = (
                {} if method == "PATCH" else {name: None for name in self.records[key] if name not in ("id", "changed")}
            )
            values = {name: value for name, value in values.items() if name not in (self.deaf_to, "updated_at")}
            stamps = {name: self.records[key][name] for name in ("created_at",)}
            self.put(key, **{**old, **values, **stamps, "updated_at": self.now})
            self.done.append(("update", key))
            etag = self._etag(key)
        return 200, etag, self._shown(self.records[key])

    def _etag(self, key: str) -> dict[str, str]:
        mark = f'"{self.records[key]["changed"].timestamp():.6f}"'
        return {"strong": {"ETag": mark}, "weak": {"ETag": f"W/{mark}"}}.get(self.etags, {})


def serve(api: Api) -> Iterator[Api]:
    """As a generator for a fixture: the API, listening on loopback while the test runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            status, headers, said = api.answer(self.command, parts.path, query, dict(self.headers), body)
            content = b"" if said is None else json.dumps(said).encode()
            lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in headers.items())]
            if api.dated:
                at = (api.now + api.date_off).strftime("%a, %d %b %Y %H:%M:%S GMT")
                lines.append(f"Date: {at}")
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}", "", ""]
            self.wfile.write("\r\n".join(lines).encode() + content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _do

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield api
        server.shutdown()
        thread.join()


def a_pass(rest: Rest, source: Resource, cursor: dict[str, Any]) -> tuple[list[Record], dict[str, Any]]:
    """The records of one pass as they came, and the cursor after it."""
    records: list[Record] = []
    more = True
    while more:
        page = rest.changes(source, PLACES, cursor)
        records, cursor, more = records + page.records, page.cursor, page.more
    return records, cursor


def one(rest: Rest, key: str, source: Resource = THINGS) -> Record:
    return rest.fetch(source, PLACES, [key])[0]


def keys(records: list[Record]) -> list[str]:
    return [record.key for record in records]


# --- Fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[Api]:
    yield from serve(Api())


@pytest.fixture
def proxy(api: Api) -> Iterator[Misbehaving]:
    with Misbehaving(api.url) as proxy:
        yield proxy


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have waited between tries, in seconds; it does not."""
    waited: list[float] = []
    monkeypatch.setattr(rest_http, "sleep", waited.append)
    return waited


@pytest.fixture
def rest(proxy: Misbehaving) -> Iterator[Rest]:
    rest = Rest(proxy.url, whoami="/me", who="login")
    yield rest
    rest.close()


@pytest.fixture
def connect(proxy: Misbehaving, waits: list[float]) -> Iterator[Make]:
    made: list[Rest] = []

    def make(url: str = "", **options: Any) -> Rest:
        made.append(Rest(url or proxy.url, **({"whoami": "/me", "who": "login"} | options)))
        return made[-1]

    yield make
    for rest in made:
        rest.close()
