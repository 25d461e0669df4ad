"""Writing to a JSON API: once, on the condition that nobody was faster, and a refusal told in their own words."""

import hashlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import msgspec

from legacy.connector import Changed, Misconfigured, Record, Refused, Unreachable, Write
from legacy.connectors.rest_http import Answer, Http, told
from legacy.connectors.rest_places import ABSENT, value_at
from legacy.connectors.rest_resource import Resource

REPLAYS_MAX = 10  # stored errors, one after the other, before a create is given up
GONE = {404, 410}
ENCODERS = {
    "number": msgspec.json.Encoder(decimal_format="number"),
    "text": msgspec.json.Encoder(decimal_format="string"),
}


class Writer:
    """`whole`: asks whether the API answers at all, and raises Unreachable where it does not; None: nobody knows."""

    def __init__(self, http: Http, decimals: Literal["number", "text"], whole: Callable[[], Any] | None) -> None:
        self._http, self._encoder, self._whole = http, ENCODERS[decimals], whole

    def post(self, source: Resource, marker: str, values: dict[str, Any]) -> Answer:
        """A create. Under one idempotency key it is done once, however often it is sent.

        Where our id can be searched for, the key goes with the content, so that a mended record is not answered with
        the error that was stored for the broken one. An error that is marked as stored has made nothing: the next key
        in a fixed order is tried, so that another run goes the same way.
        """
        _allowed(source, "create")
        body = self._encoded(values)
        headers = {"Content-Type": "application/json"}
        if not source.idempotency_header:
            return self._done(source, self._http.call("POST", source.path, body=body, headers=headers))
        digest = hashlib.sha256(body).hexdigest()[:16] if source.marker else ""
        for number in range(REPLAYS_MAX):
            headers[source.idempotency_header] = ".".join(filter(None, [marker, digest, str(number or "")]))
            answer = self._http.call("POST", source.path, body=body, headers=headers, safe=True)
            stored = answer.headers.get(source.replayed_header, "").lower() in {"true", "1"}
            if not stored or (answer.fine and not said_wrong(answer, source.error)):
                break
        return self._done(source, answer)

    def send(self, source: Resource, method: Literal["PATCH", "PUT", "DELETE"], record: Record, values: Any) -> None:
        """Write to a record that is there, if it can be on the condition that it is the one that was read."""
        _allowed(source, "delete" if method == "DELETE" else "update")
        headers = {} if values is None else {"Content-Type": "application/json"}
        if source.etag:
            headers["If-Match"] = _strong(source, record.version.etag)
        body = None if values is None else self._encoded(values)
        answer = self._http.call(method, source.at(record.key), body=body, headers=headers, safe=source.etag)
        if answer.status in GONE and method != "DELETE":
            raise Changed(f"{answer.call}: it was deleted since it was read.")
        if answer.status not in GONE:
            self._done(source, answer)

    def _done(self, source: Resource, answer: Answer) -> Answer:
        """Raises what an answer says that did not do what was asked."""
        wrong = said_wrong(answer, source.error)
        if answer.fine and not wrong:
            return answer
        reason = f"{answer.call} answers {answer.status}: {wrong or answer.words or 'no reason given'}"
        if answer.status == 412:
            raise Changed(reason)
        if answer.status >= 500:
            if not self._whole:
                raise Unreachable(reason)
            self._whole()  # where it answers that, it fails at this record alone, and the others can go on
        raise Refused(reason)

    def _encoded(self, values: Any) -> bytes:
        try:
            return self._encoder.encode(values)
        except (TypeError, ValueError) as error:
            raise Refused(f"This cannot be said in JSON: {error}") from None


def said_wrong(answer: Answer, place: str) -> str:
    """What an answer with status 200 says went wrong, at the declared place; nothing where all is well."""
    found = value_at(answer.body, place) if place else None
    return "" if found in (ABSENT, None, False, 0, "", [], {}) else answer.hushed(told(found) or str(found))


def same(theirs: Any, ours: Any) -> bool:
    """Whether a value of theirs is ours, as well as they can keep it: empty is empty, decimals at the coarser scale."""
    if theirs in (None, "") or ours in (None, ""):
        return theirs in (None, "") and ours in (None, "")
    try:
        numbers = [Decimal(str(theirs)), Decimal(str(ours))]
    except ArithmeticError:
        return str(theirs) == str(msgspec.to_builtins(ours, builtin_types=()))
    scale = max(min(int(each.as_tuple().exponent), 0) for each in numbers if each.is_finite())
    return len({round(each, -scale) for each in numbers}) == 1


def _allowed(source: Resource, what: Write) -> None:
    if what not in source.allowed:
        raise Misconfigured(f"Resource {source.path} takes no {what}: its writes= and one= say so.")


def _strong(source: Resource, etag: str) -> str:
    """Raises Misconfigured for an ETag that no server can compare a write with."""
    if not etag or etag.startswith("W/"):
        kind = "a weak" if etag else "no"
        raise Misconfigured(f"Resource {source.path}: it gives {kind} ETag for one record: declare etag=False.")
    return etag
