"""What becomes of a mutation after its answer: asked from the server, kept in the file, told to the application."""

import json
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from syncdevice.database import Entity, has_table, immediate, prepare, quote, read_state
from syncdevice.errors import ProtocolError, Refused
from syncdevice.outcomes import DEVICE, LOCAL, OPEN, Outcome, first_state
from syncdevice.transport import Transport, http_date

OUTCOME_DAYS = 90.0
OnOutcome = Callable[[Outcome], object]

IS_REJECTION = "o.\"status\" = 'rejected'"
# A merge counts where the user did not get all of it, or where somebody decided about it.
IS_CONFLICT = (
    "(o.\"status\" = 'conflict' OR (o.\"status\" = 'merged' AND"
    ' (o."conflict" IS NOT NULL OR NOT f."answer" OR f."state" <> \'device\')))'
)
_LATEST = 'f."seq" = (SELECT max("seq") FROM "_sync_fate" WHERE "mutation" = o."id" AND "seq" <= :upto)'
_JOINED = f'"_sync_outcome" AS o JOIN "_sync_fate" AS f ON {_LATEST}'
_JSON = ("entered", "added", "errors", "server_row")
_EVER = 9_223_372_036_854_775_807  # the largest number that a sequence can reach

# Answers ----------------------------------------------------------------------------------------------------------


def answered(
    conn: sqlite3.Connection,
    entity: Entity | None,
    mutation: str,
    op: str,
    entered: Mapping[str, Any],
    result: Mapping[str, Any],
    told: bool = False,
) -> None:
    """Note what the answer to a push means, in the current transaction. `told`: there is nobody to tell."""
    policy, policies = (entity.policy, entity.policies) if entity else ("", {})
    state = first_state(op, result, entered, policy, policies)
    plain = result["status"] == "merged" and state == DEVICE  # the user got all of it: no news
    conn.execute(
        'INSERT INTO "_sync_fate" ("mutation", "state", "answer", "rev", "told") VALUES (?, ?, 1, ?, ?)',
        (mutation, state, result.get("rev"), told or plain),
    )


def take_up(conn: sqlite3.Connection) -> bool:
    """Make the tables where they lack, and take up outcomes that an older SDK left. False: there is no replica yet."""
    prepare(conn)
    if not has_table(conn, "_sync_outcome"):
        return False
    query = (
        'SELECT "id", "entity", "op", "set", "status", "rev", "server_row" FROM "_sync_outcome"'
        ' WHERE "id" NOT IN (SELECT "mutation" FROM "_sync_fate") ORDER BY "seq"'
    )
    if conn.execute(f"{query} LIMIT 1").fetchone():
        entities = read_state(conn).entities
        with immediate(conn):
            for mutation, name, op, entered, status, rev, row in conn.execute(query).fetchall():
                result = {"status": status, "rev": rev, "row": json.loads(row) if row else None}
                values = json.loads(entered or "{}")
                answered(conn, entities.get(name), mutation, op, values, result, told=True)
    return True


# Asking -----------------------------------------------------------------------------------------------------------


def can_change(conn: sqlite3.Connection) -> bool:
    """Whether the server may have something to tell: not for a device all of whose changes were applied."""
    query = (
        f"SELECT 1 FROM {_JOINED} WHERE o.\"status\" IN ('conflict', 'rejected', 'merged') AND f.\"state\" <> :local"
    )
    return conn.execute(f"{query} LIMIT 1", {"upto": _EVER, "local": LOCAL}).fetchone() is not None


def ask_outcomes(conn: sqlite3.Connection, transport: Transport, device: str) -> int:
    """Read what was decided since the last time, page by page, each kept with its cursor. Returns how many were new.

    An older server knows nothing of it, and a cursor that the server does not take is given up: what comes again is
    known.
    """
    count, has_more = 0, can_change(conn)
    while has_more:
        row = conn.execute('SELECT "cursor" FROM "_sync_cursor" WHERE "device" = ?', (device,)).fetchone()
        since = row[0] if row else None
        try:
            page = transport.outcomes(since)
        except Refused as refused:
            if since is None or refused.status != 400:
                raise
            forget_cursors(conn)
            continue
        if page is None:
            break
        has_more = page.has_more
        if has_more and page.cursor == since:
            raise ProtocolError("the server tells the same outcomes again and again: tell its administrator")
        count += _keep(conn, device, page.outcomes, page.cursor)
    return count


def _keep(conn: sqlite3.Connection, device: str, told: list[dict[str, Any]], cursor: str) -> int:
    """Keep a page with its cursor, in one transaction: killed before it, the page comes again."""
    known = conn.execute('SELECT 1 FROM "_sync_cursor" WHERE "device" = ? AND "cursor" = ?', (device, cursor))
    if not told and known.fetchone():
        return 0  # most answers: nothing is written
    try:
        values = [_step(outcome) for outcome in told]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError("an outcome is not of protocol version 1: upgrade the application") from error
    with immediate(conn):
        before = conn.total_changes
        conn.executemany(
            'INSERT OR IGNORE INTO "_sync_fate" ("mutation", "state", "rev", "by", "comment", "at")'
            ' SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE EXISTS (SELECT 1 FROM "_sync_outcome" WHERE "id" = ?1)',
            values,
        )
        count = conn.total_changes - before
        conn.execute('INSERT OR REPLACE INTO "_sync_cursor" VALUES (?, ?)', (device, cursor))
    return count


def _step(told: Mapping[str, Any]) -> tuple[str | int | None, ...]:
    rev = told.get("rev")
    texts = (str(told.get("by") or ""), str(told.get("comment") or ""), str(told["at"]))
    return (str(told["mutation"]), str(told["outcome"]), None if rev is None else int(rev), *texts)


def forget_cursors(conn: sqlite3.Connection) -> None:
    """Read all outcomes anew the next time, as another server or database may number them differently."""
    conn.execute('DELETE FROM "_sync_cursor"')


def forget_foreign_values(conn: sqlite3.Connection, entity: str) -> None:
    """Drop what the server had of rows that are gone: a device whose scope was taken away may not keep them.

    What the user entered stays.
    """
    conn.execute(
        'UPDATE "_sync_outcome" SET "server_row" = NULL WHERE "server_row" IS NOT NULL AND "entity" = ?1'
        f' AND "row" NOT IN (SELECT "id" FROM main.{quote(entity)})'
        ' AND "row" NOT IN (SELECT "row" FROM "_sync_outbox" WHERE "entity" = ?1)',
        (entity,),
    )


# Reading ----------------------------------------------------------------------------------------------------------


def read_outcomes(
    conn: sqlite3.Connection, which: str, values: Mapping[str, str | None], upto: int = _EVER
) -> list[Outcome]:
    """The outcomes for which the SQL condition `which` holds (`o`: the outcome, `f`: its last step), oldest first.

    `upto`: as they stood at that step.
    """
    labels = {entity.name: entity.label for entity in read_state(conn).entities.values()}
    query = (
        'SELECT o."id", o."entity", o."row", o."op", o."status", o."set" AS "entered", o."add" AS "added", o."errors",'
        ' o."conflict", o."server_row", o."made_at", o."received_at", o."group", f."state", f."rev", f."by",'
        ' f."comment", f."at" AS "decided_at", f."seq" AS "step", EXISTS ('
        '   SELECT 1 FROM "_sync_dismissed" AS d WHERE d."mutation" = o."id" AND d."seq" >= f."seq") AS "dismissed"'
        f' FROM {_JOINED} WHERE {which} ORDER BY o."seq"'
    )
    cursor = conn.execute(query, {"upto": upto, **values})
    names = [column[0] for column in cursor.description]
    outcomes = []
    for row in cursor.fetchall():
        told: dict[str, Any] = dict(zip(names, row, strict=True))
        told |= {name: json.loads(told[name]) if told[name] else None for name in _JSON}
        told |= {"errors": told["errors"] or [], "dismissed": bool(told["dismissed"])}
        outcomes.append(Outcome(**told, label=labels.get(told["entity"], told["entity"])))
    return outcomes


def dismiss(conn: sqlite3.Connection, mutation: str, step: int | None) -> bool:
    """Mark as seen what is known of a mutation, up to a step. False where nothing is."""
    with immediate(conn):
        (last,) = conn.execute(
            'SELECT max("seq") FROM "_sync_fate" WHERE "mutation" ='
            ' (SELECT "id" FROM "_sync_outcome" WHERE "id" = ?1) AND (?2 IS NULL OR "seq" <= ?2)',
            (mutation, step),
        ).fetchone()
        if last is None:
            return False
        conn.execute(
            'INSERT INTO "_sync_dismissed" ("mutation", "seq") VALUES (?, ?) ON CONFLICT ("mutation")'
            ' DO UPDATE SET "seq" = excluded."seq", "at" = excluded."at" WHERE excluded."seq" > "seq"',
            (mutation, last),
        )
        conn.execute('UPDATE "_sync_fate" SET "told" = 1 WHERE "mutation" = ? AND "seq" <= ?', (mutation, last))
    return True


# Telling ----------------------------------------------------------------------------------------------------------


def tell(
    conn: sqlite3.Connection,
    on_conflict: OnOutcome | None,
    on_rejection: OnOutcome | None,
    on_outcome: OnOutcome | None,
) -> None:
    """Call back for each step that nobody was told of, in order. What a callback raised for is told again."""
    callbacks = {("conflict", 1): on_conflict, ("merged", 1): on_conflict, ("rejected", 1): on_rejection}
    if not (on_conflict or on_rejection or on_outcome):
        return
    steps = conn.execute(
        'SELECT f."seq", f."mutation", o."status", f."answer" FROM "_sync_fate" AS f'
        ' JOIN "_sync_outcome" AS o ON o."id" = f."mutation" WHERE NOT f."told" ORDER BY f."seq"'
    ).fetchall()
    for seq, mutation, status, answer in steps:
        callback = callbacks.get((status, answer), on_outcome)
        if callback is None:
            continue
        untold = 'o."id" = :id AND f."seq" = :upto AND NOT f."told"'  # an earlier callback may have dismissed it
        for outcome in read_outcomes(conn, untold, {"id": mutation}, seq):
            callback(outcome)
            with immediate(conn):
                conn.execute('UPDATE "_sync_fate" SET "told" = 1 WHERE "seq" = ?', (seq,))


# Pruning ----------------------------------------------------------------------------------------------------------


def prune(conn: sqlite3.Connection, now: datetime, days: float) -> None:
    """Forget outcomes that were decided more than `days` ago, as this device learnt it; never one that waits.

    What the server never had (`local`) stays until the user has seen it.
    """
    values = {"upto": _EVER, "before": http_date(now - timedelta(days=days)), "open": OPEN, "local": LOCAL}
    decided = (
        f'SELECT o."id" FROM {_JOINED} LEFT JOIN "_sync_dismissed" AS d ON d."mutation" = o."id"'
        ' WHERE f."received_at" < :before AND f."state" <> :open AND (f."state" <> :local OR d."at" < :before)'
    )
    orphans = 'SELECT "mutation" FROM "_sync_fate" WHERE "mutation" NOT IN (SELECT "id" FROM "_sync_outcome")'
    found = f"SELECT EXISTS ({decided}) OR EXISTS ({orphans})"
    if conn.execute(found, values).fetchone()[0]:
        with immediate(conn):
            conn.execute(f'DELETE FROM "_sync_outcome" WHERE "id" IN ({decided})', values)
            for table in ("_sync_fate", "_sync_dismissed"):
                conn.execute(f'DELETE FROM "{table}" WHERE "mutation" NOT IN (SELECT "id" FROM "_sync_outcome")')
