"""Any JSON API as a pre-existing system, declared and not programmed.

Rest("https://api.example.com/v2", Bearer(token), whoami="/me", who="login")
Resource("/customers", records="data", one="/customers/{key}", stamp=("updated_at",), since=("updated_since",))
"""

import datetime as dt
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from legacy.connector import Capabilities, Changed, Misconfigured, Page, Record, Refused, Unreachable
from legacy.connectors.rest_auth import Auth, Open
from legacy.connectors.rest_http import Answer, Http, Limits
from legacy.connectors.rest_paging import At, Expired, Leaf, Patience, State, turn
from legacy.connectors.rest_places import ABSENT, body_of, value_at
from legacy.connectors.rest_resource import Resource, Version
from legacy.connectors.rest_write import GONE, Writer, said_wrong, same

Values = dict[str, Any]


class Rest:
    """`resources` are those that the mappings use: `capabilities` has what every one of them can do."""

    def __init__(
        self,
        url: str,
        auth: Auth = Open(),  # noqa: B008 - has no state
        *,
        whoami: str = "",  # the path that tells who we are
        who: str = "",  # the place of the name in its answer
        resources: tuple[Resource, ...] = (),
        decimals: Literal["number", "text"] = "number",  # how they are written, exactly either way
        limits: Limits = Limits(),  # noqa: B008 - has no state
        plain: bool = False,  # http:// to another machine
        public_only: bool = False,  # for an address that somebody typed: never one of this machine or its networks
        proxy: str = "",
        ca_file: str = "",  # certificates to trust instead of the public ones
    ) -> None:
        self.http = Http(url, auth, limits, plain=plain, public_only=public_only, proxy=proxy, ca_file=ca_file)
        self._auth, self._whoami, self._who, self._resources = auth, whoami, who, resources
        self._patience: dict[str, Patience] = {}  # with the list of each path, in the pass that goes on
        self._writer = Writer(self.http, decimals, self.open if whoami else None)

    @property
    def capabilities(self) -> Capabilities:
        """What the resources together can be relied on for; with none named, of one that is declared by its path alone.

        A write that one of them does not take is Misconfigured when it comes to it.
        """
        declared = self._resources or (Resource("/", writes=frozenset()),)
        each = [resource.capabilities(self._whoami) for resource in declared]
        makes = [one.idempotency for one in each if "create" in one.writes]
        edits = [one.locking for one in each if {"update", "delete"} & one.writes]
        deletes = {one.deletes for one in each}
        return replace(
            each[0],
            stamp="; ".join(dict.fromkeys(one.stamp for one in each if one.stamp)),
            precision_seconds=max(one.precision_seconds for one in each),
            deletes=deletes.pop() if len(deletes) == 1 else "keys",  # the one way that all of them have
            idempotency=_worst("marker key none", makes),
            locking=_worst("version compare none", edits),
            numeric_keys=all(one.numeric_keys for one in each),
            writes=frozenset().union(*(one.writes for one in each)),
        )

    def open(self) -> str:
        if not self._whoami:
            return self._auth.name
        answer = self._asked(self.http.call("GET", self._whoami), "")
        found = value_at(answer.body, self._who) if self._who else ABSENT
        if self._who and found in (ABSENT, None, ""):
            raise Misconfigured(f"{answer.call} does not say who we are ({self._who}): has {self._auth.name} expired?")
        return str(found) if self._who else self._auth.name

    def close(self) -> None:
        self.http.close()

    def changes(self, source: Resource, places: Collection[str], cursor: Mapping[str, Any]) -> Page:
        """A pass over all that changed since the cursor, list by list (one a `since`), page by page.

        `newest` is the newest stamp that was seen, `since` the newest that was there when a pass began: what changes
        while a pass goes on is stamped later, whoever's clock is wrong. It is learnt by asking (`source.newest`), or
        from the first page and the pass before. A pass begins `overlap` before it, until it has stood for that long
        (`settled`): then nothing with such a stamp can still be on its way.
        """
        state: State = dict(cursor.get("pass") or self._begin(source, cursor))
        number, since = state["list"], state["from"]
        query = {source.since[number]: since} if since else {}
        if not state["page"]:
            self._patience.pop(source.path, None)
        patience = self._patience.setdefault(source.path, Patience())
        leaf, after = turn(source.paging, partial(self._list, source, query), state["page"], patience)
        stamps = [stamp for raw in leaf.raws if (stamp := source.stamp_of(raw))]
        newest = _newest(cursor.get("newest"), stamps)
        if not state["page"] and not source.newest and number == 0:
            state["bound"] = _newest(state["bound"], stamps)
        gone = [key for raw, key in zip(leaf.raws, leaf.keys, strict=True) if source.is_gone(raw)]
        records = [source.known(raw, places) for raw in leaf.raws if not source.is_gone(raw) and source.belongs(raw)]
        if after is None and number + 1 < len(source.since) and since:
            number, after = number + 1, {}
        if after is not None:
            going = {**cursor, "newest": newest, "pass": {**state, "list": number, "page": after}}
            return Page(records, going, more=True, gone=gone)
        if not source.since:
            return Page(records, {}, more=False, gone=gone)  # the next pass reads all again
        seen = cursor.get("seen") if state["bound"] == cursor.get("since") else state["began"]
        return Page(records, {"since": state["bound"], "newest": newest, "seen": seen}, more=False, gone=gone)

    def fetch(self, source: Resource, places: Collection[str], keys: Collection[str]) -> list[Record]:
        if not source.one:
            found = [raw for raw in self._all(source, {}) if source.key_of(raw) in keys]
            return [source.known(raw, places) for raw in found if source.belongs(raw) and not source.is_gone(raw)]
        read = [self._one(source, places, key) for key in sorted(keys)]
        return [record for record in read if record]

    def keys(self, source: Resource) -> Iterator[str]:
        for raw in self._all(source, {}):
            if source.belongs(raw) and not source.is_gone(raw):
                yield source.key_of(raw)

    def find(self, source: Resource, marker: str) -> str | None:
        if not source.marker:
            return None
        query = {source.find_by: marker} if source.find_by else {}
        # An API that does not know the parameter answers with everything, which is why each is looked at.
        raws = (raw for raw in self._all(source, query) if not source.is_gone(raw))
        found = {source.key_of(raw) for raw in raws if value_at(raw, source.marker) == marker}
        if len(found) > 1:
            raise Refused(f"{source.path} has several records with our id {marker}: {', '.join(sorted(found))}.")
        return found.pop() if found else None

    def create(self, source: Resource, marker: str, values: Mapping[str, Any]) -> str:
        """Also Unreachable where it was made but cannot be told which it is: `find`, or the same key, tells it then."""
        marked = {source.marker: marker} if source.marker else {}
        answer = self._writer.post(source, marker, body_of({**values, **marked}, None, source.rows))
        made = value_at(answer.body, source.record) if source.record else answer.body
        if isinstance(made, dict) and value_at(made, source.key) not in (ABSENT, None, ""):
            return source.key_of(made)
        if at := urlsplit(answer.headers.get("Location", "")).path:
            return _key_in(at, source.one)
        if key := self.find(source, marker):
            return key
        raise Unreachable(f"{answer.call} does not say what it made (no {source.key!r}, no Location).")

    def update(self, source: Resource, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        now = self._still(source, record)
        wanted = {place: value for place, value in values.items() if place in changed}
        body = body_of(wanted, now.version.raw, source.rows, whole=source.update == "PUT")
        self._writer.send(source, source.update, now, body)
        if not source.etag:
            self._check_taken(source, now, wanted)

    def delete(self, source: Resource, record: Record) -> None:
        try:
            now = self._still(source, record)
        except Changed:
            if self._one(source, (), record.key):
                raise
            return
        self._writer.send(source, "DELETE", now, None)

    def sample_stamps(self, source: Resource, limit: int) -> list[dt.datetime | None]:
        """When the newest records changed, as `legacy.probe` asks; without `newest`, the first of the list."""
        return [source.stamp_of(raw) for raw in islice(self._all(source, source.newest), limit)]

    def their_clock(self) -> dt.datetime | None:
        return self.http.their_now

    def _begin(self, source: Resource, cursor: Mapping[str, Any]) -> State:
        bound = cursor.get("newest")
        if source.newest:
            leaf = self._list(source, source.newest, source.paging.first)
            bound = _newest(None, [stamp for raw in leaf.raws if (stamp := source.stamp_of(raw))])
        began = time.time()
        return {"list": 0, "page": {}, "began": began, "bound": bound, "from": self._from(source, cursor, began)}

    def _from(self, source: Resource, cursor: Mapping[str, Any], began: float) -> str:
        """What `since` is asked with; nothing for all records."""
        if not (source.since and cursor.get("since")):
            return ""
        since = dt.datetime.fromisoformat(cursor["since"])
        overlap = dt.timedelta(seconds=source.overlap_seconds)
        if since > (self.http.their_now or dt.datetime.now(dt.UTC)) + overlap:
            return ""  # their clock was put back: what changed since then has older stamps than we have seen
        settled = began - cursor["seen"] >= source.overlap_seconds
        return source.since_text(since if settled else since - overlap)

    def _list(self, source: Resource, query: Mapping[str, str], at: At) -> Leaf:
        path, asked = source.paging.ask(at, source.path, {**source.query, **source.hidden, **query})
        answer = self.http.call("GET", path, asked)
        if at != source.paging.first:
            if source.paging.kind == "page" and answer.status == 404:
                return Leaf([], [], None)  # how some say that there is no such page
            if source.paging.kind in {"cursor", "link"} and answer.status in {400, *GONE}:
                raise Expired(f"{answer.call} answers {answer.status}: {answer.words}")
        self._asked(answer, source.error)
        found = value_at(answer.body, source.records) if source.records else answer.body
        if not isinstance(found, list):
            raise Misconfigured(f"{answer.call} answers without a list at {source.records or 'the top'!r}.")
        keys = [source.key_of(raw) for raw in found]
        return Leaf(found, keys, source.paging.after(at, answer, keys))

    def _all(self, source: Resource, query: Mapping[str, str]) -> Iterator[Values]:
        state: State | None = {}
        patience = Patience()
        while state is not None:
            leaf, state = turn(source.paging, partial(self._list, source, query), state, patience)
            yield from leaf.raws

    def _one(self, source: Resource, places: Collection[str], key: str) -> Record | None:
        answer = self.http.call("GET", source.at(key))
        if answer.status in GONE:
            return None
        raw = value_at(self._asked(answer, source.error).body, source.record) if source.record else answer.body
        if source.key_of(raw) != key:
            raise Misconfigured(f"{answer.call} answers with the record {source.key_of(raw)}.")
        if source.is_gone(raw) or not source.belongs(raw):
            return None
        return source.known(raw, places, answer.headers.get("ETag", ""))

    def _asked(self, answer: Answer, error: str) -> Answer:
        """The answer to a question. Raises Misconfigured where it is none: nothing of ours was there to refuse."""
        wrong = said_wrong(answer, error)
        if wrong or not answer.fine:
            raise Misconfigured(f"{answer.call} answers {answer.status}: {wrong or answer.words or 'no reason given'}")
        return answer

    def _still(self, source: Resource, record: Record) -> Record:
        """The record as it can be written. Raises Changed where it is not as `record` shows it."""
        version: Version = record.version
        if source.etag and version.etag:
            return record
        now = self._one(source, version.places, record.key)
        if now is None or now.values != record.values:
            raise Changed(f"{source.at(record.key)} was {'changed' if now else 'deleted'} since it was read.")
        return now

    def _check_taken(self, source: Resource, before: Record, wanted: Mapping[str, Any]) -> None:
        """Read back. Raises Refused where a write was answered kindly and not done; what they made of it is theirs."""
        now = self._one(source, before.version.places, before.key)
        for place, value in wanted.items():
            old = before.values.get(place)
            if now and place != source.rows and now.values.get(place) == old and not same(old, value):
                raise Refused(f"{source.at(before.key)}: they answered well, and {place} is still {old}, not {value}.")


def _worst(best_first: str, found: list[Any]) -> Any:
    return max(found, key=best_first.split().index, default="none")


def _newest(known: str | None, stamps: list[dt.datetime]) -> str | None:
    newest = max([*stamps, *([dt.datetime.fromisoformat(known)] if known else [])], default=None)
    return newest.isoformat() if newest else None


def _key_in(path: str, one: str) -> str:
    """The key in a Location such as `/v2/customers/7`, where `one` is `/customers/{key}`."""
    before, _, after = (one or "/{key}").partition("{key}")
    found = re.search(re.escape(before) + "([^/]+)" + re.escape(after) + "/?$", path)
    return unquote(found[1]) if found else unquote(path.rstrip("/").rpartition("/")[2])
