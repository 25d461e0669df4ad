"""Who may see what, by the entities' declarations read by a person; and every answer held against it."""

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any

import httpx
import psycopg

from syncserver import environment
from tests.simulation.faults import body_of

Rows = dict[str, dict[str, dict[str, Any]]]
HIDDEN = {"product": {"unit_cost"}}


def scopes_of(entity: str, row: Mapping[str, Any], orders: Mapping[str, Any]) -> set[str]:
    """The scopes that a row is in, given each order's employee. (`employee:None` and `country:` nobody is granted.)"""
    match entity:
        case "employee":
            return {f"employee:{row['id']}", f"employee:{row['reports_to_id']}"}
        case "customer":
            return {f"country:{row['country']}"}
        case "order":
            return {f"employee:{row['employee_id']}"}
        case "order_line":
            return {f"employee:{orders[row['order_id']]}"}
    return {"global"}


def visible(rows: Rows, scopes: Set[str]) -> Rows:
    """The rows in these scopes."""
    orders = {order: row["employee_id"] for order, row in rows["order"].items()}
    return {
        entity: {i: row for i, row in found.items() if scopes_of(entity, row, orders) & scopes}
        for entity, found in rows.items()
    }


def check_answer(request: httpx.Request, answer: httpx.Response, scopes: Set[str]) -> None:
    """No row and no field that is not for a device with these scopes is told it, whatever it asked."""
    told = list(_told(request, answer)) if answer.status_code == 200 else []
    orders = _employees({row["order_id"] for entity, row in told if entity == "order_line"})
    for entity, row in told:
        where = f"{request.url.path} tells a device with {sorted(scopes)} {entity} {row}"
        assert scopes_of(entity, row, orders) & scopes, where
        assert not HIDDEN.get(entity, set()) & row.keys(), where


def _employees(orders: Set[str]) -> dict[str, str | None]:
    """Whose each order is. (With a connection of its own: this may be another thread, or a process to be killed.)"""
    if not orders:
        return {}
    with psycopg.connect(environment.text("DATABASE_URL")) as conn:
        found = conn.execute(
            "SELECT id::text, employee_id::text FROM entities_order WHERE id = ANY (%s::uuid[])", [list(orders)]
        )
        return dict(found.fetchall())


def _told(request: httpx.Request, answer: httpx.Response) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row in an answer, with its entity."""
    match request.url.path:
        case "/sync/pull":
            for entity, change in answer.json()["changes"].items():
                yield from ((entity, row) for row in change["upserts"])
        case "/sync/push":
            mutations = json.loads(body_of(request))["mutations"]
            for mutation, result in zip(mutations, answer.json()["results"], strict=True):
                if result.get("row") is not None:
                    yield mutation["entity"], result["row"]
