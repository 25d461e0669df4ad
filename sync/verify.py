"""Whether the feed is what the entities' tables say, chunk by chunk beside traffic; and its repair."""

import json
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from sync.capture import set_author
from sync.install import captures
from sync.sql import array, block, literal
from sync.wire import Entity, entities

SQL = "verify.sql"
VERIFY_AUTHOR = "verify"
CHUNK_ROWS = 2_000
LOCK_SECONDS_MAX = 5  # writers queue behind one that waits for a whole table, so it gives up soon
EXAMPLES_MAX = 20  # rows that are named, of each entity
PROBLEMS = {
    "missing": "rows without a feed entry",
    "surplus": "feed entries without a row",
    "scope": "rows in a scope too many or too few",
    "revision": "rows whose feed entries disagree on the revision",
    "stale": "rows whose feed entry has other values",
}

Wrong = dict[str, str]  # id of a row → its problem
log = logging.getLogger(__name__)


@dataclass
class Verdict:
    """What was found of one entity. `repaired` counts rows; `busy` those that others had locked for too long."""

    entity: str
    rows: int
    problems: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROBLEMS, 0))
    examples: Wrong = field(default_factory=dict)
    repaired: int = 0
    busy: int = 0

    @property
    def wrong(self) -> int:
        return sum(self.problems.values())


def verify(names: Collection[str], *, repair: bool, progress: Callable[[Verdict, int], None]) -> list[Verdict]:
    """Compare the tables of these entities with the feed; with `repair`, capture anew what differs.

    Each statement is a transaction of its own. What differs is compared a second time, in a later snapshot or under the
    lock of the repair, before it counts. Devices get what was repaired with their next pull. `progress` is told how
    many rows each chunk had. Raises KeyError for an entity that there is not.
    """
    verdicts = []
    for name in names:
        entity = entities()[name]
        ((count,),) = _rows("count", entity)
        verdict = Verdict(name, count)
        for low, high in _chunks(entity):
            parameters = {"low": low, "high": high}
            if found := _differing(entity, "of_chunk", parameters):
                _settle(verdict, entity, list(found), repair)
            progress(verdict, CHUNK_ROWS)
        verdicts.append(verdict)
    return verdicts


def _chunks(entity: Entity) -> Iterator[tuple[str | None, str | None]]:
    """The bounds of each chunk: after the first id, up to the second. None: unbounded."""
    low: str | None = None
    while True:
        ((high,),) = _rows("chunk_end", entity, {"low": low, "rows": CHUNK_ROWS - 1})
        yield low, high
        if high is None:
            return
        low = high


def _settle(verdict: Verdict, entity: Entity, ids: list[str], repair: bool) -> None:
    try:
        wrong = _repair(entity, ids) if repair else _problems(_differing(entity, "of_ids", {"ids": array(ids)}))
        verdict.repaired += len(wrong) if repair else 0
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        log.warning("others were in the way for %s s: %s rows of %s wait", LOCK_SECONDS_MAX, len(ids), entity.name)
        wrong = _problems(_differing(entity, "of_ids", {"ids": array(ids)}))
        verdict.busy += len(wrong)
    for problem in wrong.values():
        verdict.problems[problem] += 1
    room = EXAMPLES_MAX - len(verdict.examples)
    verdict.examples |= dict(list(wrong.items())[:room])


def _repair(entity: Entity, ids: list[str]) -> Wrong:
    tables = ", ".join(sorted({table for capture in captures().values() for table in capture.tables}))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(block(SQL, "lock", tables=tables, lock_seconds=str(LOCK_SECONDS_MAX)))
        found = _differing(entity, "of_ids", {"ids": array(ids)})
        wrong = _problems(found)
        if wrong:
            set_author(VERIFY_AUTHOR)
            unreadable = [id for id in wrong if found[id][1] is not None and _read(found[id][1]) is None]
            _rows("repair", entity, {"ids": array(wrong), "unreadable": array(unreadable)})
        return wrong


Found = dict[str, tuple[str | None, str, str]]  # id → the problem where it is certain, the feed's JSON, the table's


def _differing(entity: Entity, which: str, parameters: dict[str, Any]) -> Found:
    """The rows of a chunk, or with these ids, that differ."""
    found = {id: told for id, *told in _rows("differing", entity, parameters, which)}
    return {id: tuple(told) for id, told in found.items() if _problem(*told)}


def _problems(found: Found) -> Wrong:
    return {id: str(_problem(*told)) for id, told in found.items()}


def _problem(problem: str | None, kept: str, actual: str) -> str | None:
    """What is wrong; None where the texts differ but not what they say, as after an upgrade of PostgreSQL."""
    if problem is not None:
        return problem
    was, now = _read(kept), _read(actual)
    if was == now:
        return None
    return "revision" if was is not None and _apart(was) == _apart(now) else "stale"


def _read(text: str) -> str | None:
    """A JSON text in one way of writing it; None for what is none."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _apart(text: str | None) -> Any:
    """A row without its revision."""
    row = json.loads(text or "null")
    return {name: value for name, value in row.items() if name != "_rev"} if isinstance(row, dict) else row


def _rows(
    name: str, entity: Entity, parameters: dict[str, Any] | None = None, which: str | None = None
) -> list[tuple[Any, ...]]:
    """Run a block for an entity; `which` names the block that says of which rows."""
    parts = {"table": entity.table, "entity": literal(entity.name)}
    if name == "differing" and which is not None:
        parts |= {"row": entity.row_sql("n", "k.rev"), "scopes": entity.scopes_sql("n")}
        parts |= {f"of_{of}": block(SQL, which, id=id) for of, id in (("feed", "f.row_id"), ("table", "t.id"))}
    if name == "repair":
        parts |= {"new_row": entity.row_sql("n", "r.rev"), "new_scopes": entity.scopes_sql("n")}
        parts["feed"] = block("capture.sql", "feed_of_captured", entity=parts["entity"])
    with connection.cursor() as cursor:
        cursor.execute(block(SQL, name, **parts), parameters)
        return cursor.fetchall() if cursor.description else []
