"""Pure: what became of a change that was not simply applied, as an application shows it to its user."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

OPEN, SERVER, DEVICE, MIXED = "open", "server", "device", "mixed"
REPLAYED, DISCARDED, LOCAL = "replayed", "discarded", "local"
STATES = frozenset({OPEN, SERVER, DEVICE, MIXED, REPLAYED, DISCARDED, LOCAL})
ASKING_POLICIES = frozenset({"manual", "function"})  # a person decides, or may have to
SHOWN_CHARACTERS = 40
SHOWN_FIELDS = 4


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation that was not simply applied.

    `entered` and `added` are what the user had written, `server_row` is the server's row when it answered (None: there
    was none), all in wire form. `state` is where it stands:

    - `open`: it waits for a person; `server`: the server's values stay; `device`: the user's values are taken;
      `mixed`: some of each, or other values
    - `replayed`: it was refused, and applied later; `discarded`: it was refused, and somebody gave it up
    - `local`: it was too large to be sent, and is on this device alone

    `by`, `comment` and `decided_at` say who decided that; they are empty where nobody did: the policy decided, or it
    waits. `dismissed`: the user has seen this state. `step`: its place among all states of all outcomes.
    """

    id: str
    entity: str
    row: str
    op: str
    status: str
    entered: dict[str, Any] | None
    added: dict[str, Any] | None
    errors: list[dict[str, Any]]
    conflict: str | None
    server_row: dict[str, Any] | None
    made_at: str
    received_at: str
    group: str | None = None
    state: str = OPEN
    rev: int | None = None
    by: str = ""
    comment: str = ""
    decided_at: str | None = None
    dismissed: bool = False
    step: int = 0
    label: str = ""

    @property
    def server(self) -> dict[str, Any] | None:
        """Of `server_row` the fields that the user entered; all of it where the user deleted the row."""
        if self.server_row is None or self.op == "delete":
            return self.server_row
        names = {**(self.entered or {}), **(self.added or {})}
        return {name: self.server_row.get(name) for name in names}

    @property
    def reasons(self) -> list[dict[str, Any]]:
        """Why it was not simply applied: field (None: the whole row), code and message of each reason."""
        if self.errors:
            return [{name: error.get(name) for name in ("field", "code", "message")} for error in self.errors]
        return [] if self.status == "rejected" else _reasons(self)

    def describe(self) -> str:
        """One or two English sentences for the user."""
        return describe(self)


def first_state(
    op: str, result: Mapping[str, Any], entered: Mapping[str, Any], policy: str, policies: Mapping[str, str]
) -> str:
    """The state that the answer to a push means, until the server tells of another.

    The answer may say it (`state`). If not, what was written tells what the device got, and `policy` (the entity's)
    and `policies` (of its fields) whether a person decides about the rest.
    """
    if result.get("state") in STATES:
        return str(result["state"])
    row = result.get("row")
    lost = _lost(entered, row)
    match result["status"]:
        case "rejected":
            return OPEN
        case "merged":
            return MIXED if lost and row is not None else DEVICE
    asked = {policies.get(name) or policy for name in lost} or {policy}
    if asked & ASKING_POLICIES:
        return OPEN
    return SERVER if row is None or len(lost) == len(entered) or op == "delete" else MIXED


def _lost(entered: Mapping[str, Any], row: Mapping[str, Any] | None) -> list[str]:
    return [name for name, value in entered.items() if row is None or not _same(value, row.get(name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str) and "." in one + other:
        try:
            return one == other or Decimal(one) == Decimal(other)  # 12.5 is 12.50
        except InvalidOperation:
            return False
    return bool(one == other)


def _reasons(outcome: Outcome) -> list[dict[str, Any]]:
    if outcome.status == "merged":
        lost = [] if outcome.server_row is None else _lost(outcome.entered or {}, outcome.server_row)
        return [{"field": name, "code": "merged", "message": "Others changed it too."} for name in lost]
    if outcome.server_row is None:
        return [{"field": None, "code": "deleted", "message": "The row is no longer there."}]
    if outcome.op == "create":
        return [{"field": None, "code": "already_exists", "message": "A row with this id is there already."}]
    lost = [] if outcome.op == "delete" else _lost(outcome.entered or {}, outcome.server_row)
    if not lost:
        return [{"field": None, "code": "changed", "message": "Others changed the row meanwhile."}]
    return [{"field": name, "code": "changed", "message": "Others changed it meanwhile."} for name in lost]


# In words ---------------------------------------------------------------------------------------------------------


def describe(outcome: Outcome) -> str:
    """See Outcome.describe."""
    subject, why = _subject(outcome), _why(outcome)
    refused = outcome.status == "rejected"
    match outcome.state:
        case "open" if refused:
            text = f"{subject} was refused: {why}. The server keeps it, and a person can mend it"
        case "open":
            text = f"{subject} waits for a person's decision: {why}"
        case "server":
            text = f"{subject} was not taken: {why}, and the server's values stay"
        case "device" if outcome.status == "merged" and not outcome.by:
            text = f"{subject} was taken, together with what others changed"
        case "device":
            text = f"{subject} was taken"
        case "mixed" if outcome.status == "merged" and not outcome.by:
            text = f"{subject} was merged with what others changed"
        case "mixed":
            text = f"{subject} was taken in part: {why}"
        case "replayed":
            text = f"{subject} was refused at first ({why}), and applied later"
        case "discarded":
            text = f"{subject} was refused ({why}), and discarded"
        case "local":
            text = f"{subject} was not sent: {why}. It is on this device alone"
        case other:
            text = f"{subject}: {other}"
    return f"{text}{_decided(outcome)}."


def _subject(outcome: Outcome) -> str:
    label = (outcome.label or outcome.entity).lower()
    values = [f"{_words(name)}: {_short(value)}" for name, value in (outcome.entered or {}).items()]
    values += [f"{_words(name)}: + {amount}" for name, amount in (outcome.added or {}).items()]
    shown = f" ({_list(values)})" if values else ""
    match outcome.op:
        case "create":
            return f"Your new {label}{shown}"
        case "delete":
            return f"Your deletion of the {label}"
    return f"Your change of the {label}{shown}"


def _why(outcome: Outcome) -> str:
    reasons = outcome.reasons or [{"field": None, "code": "changed", "message": "others changed the row meanwhile"}]
    fields = [_words(str(r["field"])) for r in reasons if r["field"]]
    if fields and all(r["code"] in {"changed", "merged"} for r in reasons):
        return f"others changed {_list(fields)} meanwhile"
    return "; ".join(map(_reason, reasons))


def _reason(reason: Mapping[str, Any]) -> str:
    text = str(reason["message"] or reason["code"] or "no reason given").strip().rstrip(".")
    return f"{_words(str(reason['field']))}: {text}" if reason["field"] else text[:1].lower() + text[1:]


def _decided(outcome: Outcome) -> str:
    who = f" ({outcome.by}{f', {outcome.decided_at[:10]}' if outcome.decided_at else ''})" if outcome.by else ""
    return who + (f": “{outcome.comment.strip().rstrip('.')}”" if outcome.comment.strip() else "")


def _list(texts: Iterable[str]) -> str:
    texts = list(texts)
    more = len(texts) - SHOWN_FIELDS
    return ", ".join(texts[:SHOWN_FIELDS]) + (f" and {more} more" if more > 0 else "")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    if value is None:
        return "empty"
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    text = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
    return f"“{text}”" if isinstance(value, str) else text
