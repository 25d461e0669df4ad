"""Tryton's JSON-RPC: one signed-in session, what it asks and what it answers."""

import base64
import datetime as dt
import json
import random
import time
from contextlib import suppress
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

from legacy.connector import Changed, Misconfigured, Refused, Unreachable

TIMEOUT_SECONDS = 30
READ_TRIES_MAX = 4  # of a call that changes nothing; a write whose answer was lost is never simply sent again
WAIT_SECONDS_MAX = 30  # between two of them, whatever the other side asks for
BUSY = {429, 502, 503, 504}
READS = {"search", "search_read", "read", "fields_get", "get_preferences"}
HIDDEN = {"active_test": False}

Values = dict[str, Any]


class SignedOut(Exception):
    """The session has timed out, and nothing was done."""


class Session:
    """Calls of the methods of Tryton's models, each its own transaction. Any may raise Unreachable or Misconfigured."""

    def __init__(self, url: str, database: str, user: str, password: str) -> None:
        if not (url and database and user):
            raise Misconfigured("Set LEGACY_URL, LEGACY_DATABASE, LEGACY_USER and LEGACY_PASSWORD.")
        if not url.startswith(("http://", "https://")):
            raise Misconfigured(f"LEGACY_URL must begin with https:// (or http:// on this machine), not {url!r}.")
        self._database, self._user, self._password = database, user, password
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)
        self._token = ""
        self._context: Values = {}
        self._relations: dict[str, dict[str, str]] = {}

    def open(self) -> str:
        self._sign_in()
        me = self.call("res.user", "get_preferences", True)
        if not me.get("company"):
            raise Misconfigured(f"Tryton's user {self._user} has no company, so it can neither see nor make sales.")
        self._context = {**me, "language": "en"}
        return f"{self._user} at {me.get('company.rec_name', me['company'])}"

    def close(self) -> None:
        self._http.close()

    def call(self, model: str, method: str, *arguments: Any, context: Values | None = None) -> Any:
        """One call of a model's method. Raises Refused with Tryton's words, or Changed."""
        params = [*arguments, {**self._context, **(context or {})}]
        name = f"model.{model}.{method}"
        reads = method in READS
        try:
            try:
                return self._post(name, params, retry=reads)
            except SignedOut:
                self._sign_in()
                return self._post(name, params, retry=reads)
        except Refused as refusal:
            if reads:  # nothing of ours to refuse: a module or a field is not there (any more)
                raise Misconfigured(f"Tryton cannot read {model} as the mapping asks: {refusal}") from None
            raise
        except SignedOut:
            raise Misconfigured(f"Tryton does not let {self._user} call {name}.") from None

    def clock(self) -> dt.datetime | None:
        """What time its server says it is, in whole seconds."""
        with suppress(httpx.TransportError, TypeError, ValueError):
            return parsedate_to_datetime(self._http.get("/").headers.get("Date", ""))
        return None

    def search(self, model: str, domain: list[Any], limit: int | None = None, hidden: bool = False) -> list[int]:
        """Ids in order; `hidden`: with those of archived records, which Tryton's lists leave out."""
        context = HIDDEN if hidden else None
        return list(self.call(model, "search", domain, 0, limit, [["id", "ASC"]], context=context))

    def relation(self, model: str, name: str) -> str:
        """The model of what a field of a model refers to; nothing for a plain field."""
        if model not in self._relations:
            described = self.call(model, "fields_get", [])
            self._relations[model] = {name: about.get("relation") or "" for name, about in described.items()}
        return self._relations[model].get(name, "")

    def named(self, model: str, name: str, value: Any) -> int | None:
        """The id of the one record whose field `name` is `value`. Raises Refused for none, or several."""
        if value in (None, ""):
            return None
        found = self.search(model, [[name, "=", value]], limit=2)
        if len(found) != 1:
            raise Refused(f"Tryton has {'no' if not found else 'more than one'} {model} whose {name} is {value!r}.")
        return found[0]

    def resolve(self, model: str, path: str, name: str, value: Any) -> tuple[str, Any]:
        """For `commands`: `country.name` and its value become `country` and the id of that country."""
        for step in path.split(".") if path else []:
            model = self.relation(model, step)
        first, _, named_by = name.partition(".")
        return (first, self.named(self.relation(model, first), named_by, value)) if named_by else (first, value)

    def _sign_in(self) -> None:
        self._token = ""
        try:
            answer = self._post("common.db.login", [self._user, {"password": self._password}], retry=True)
        except SignedOut:
            raise Misconfigured(f"Tryton does not let {self._user} in: wrong user or password.") from None
        except Refused as refusal:  # its database is still being opened, or updated
            raise Unreachable(f"Tryton is not ready: {refusal}") from None
        self._token = base64.b64encode(f"{self._user}:{answer[0]}:{answer[1]}".encode()).decode()

    def _post(self, method: str, params: list[Any], retry: bool) -> Any:
        body = json.dumps({"id": 1, "method": method, "params": params}, default=_encode)
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Session {self._token}"
        for attempt in range(1, READ_TRIES_MAX + 1):
            wait = random.uniform(0.5, 1) * 2**attempt / 4
            try:
                response = self._http.post(f"/{quote(self._database)}/rpc/", content=body, headers=headers)
                if response.status_code not in BUSY and (response.content or response.status_code != 200):
                    return self._answer(method, response)
                reason = f"{response.status_code} {response.reason_phrase}" + ("" if response.content else ", empty")
                asked = response.headers.get("Retry-After", "")
                wait = min(float(asked), WAIT_SECONDS_MAX) if asked.isdigit() else wait
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            if not retry or attempt == READ_TRIES_MAX:
                break
            time.sleep(wait)
        raise Unreachable(f"Tryton at {self._http.base_url} does not answer: {reason}")

    def _answer(self, method: str, response: httpx.Response) -> Any:
        match response.status_code:
            case 200:
                pass
            case 401 | 403:
                raise SignedOut
            case 404:
                raise Misconfigured(f"Tryton has no database {self._database!r} at {self._http.base_url}.")
            case status:
                raise Unreachable(f"Tryton answered {method} with {status}.")
        try:
            answer = json.loads(response.text, object_hook=_decode)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not {"result", "error"} & answer.keys():
            raise Misconfigured(f"What answers at {self._http.base_url} is not Tryton.")
        if "error" not in answer:
            return answer["result"]
        kind, *detail = answer["error"]  # business errors come with status 200
        if kind == "ConcurrencyException":
            raise Changed(f"{method}: {detail}")
        if kind in {"UserError", "UserWarning"}:
            raise Refused(" ".join(str(part) for part in detail[0] if part and not isinstance(part, list)))
        raise Refused(f"{method} failed in Tryton: {kind}")


def _encode(value: Any) -> Any:
    match value:
        case dt.datetime():
            names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
            return {"__class__": "datetime", **{name: getattr(value, name) for name in names}}
        case dt.date():
            return {"__class__": "date", "year": value.year, "month": value.month, "day": value.day}
        case Decimal():
            return {"__class__": "Decimal", "decimal": str(value)}
    raise TypeError(f"{value!r} has no form in JSON-RPC")


def _decode(raw: Values) -> Any:
    match raw.get("__class__"):
        case "datetime":
            return dt.datetime(
                *(raw[name] for name in ("year", "month", "day", "hour", "minute", "second", "microsecond"))
            )
        case "date":
            return dt.date(raw["year"], raw["month"], raw["day"])
        case "Decimal":
            return Decimal(raw["decimal"])
        case "timedelta":
            return dt.timedelta(seconds=raw["seconds"])
    return raw
