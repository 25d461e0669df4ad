"""Who may see what, by the entities' declarations read by a person; and every answer held against it."""

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any

import httpx

from tests.simulation.faults import body_of

Rows = dict[str, dict[str, dict[str, Any]]]
HIDDEN = {"product": {"unit_cost"}}


def scopes_of(entity: str, row: Mapping[str, Any]) -> set[str]:
    """The scopes that a row is in. (`employee:None` and `country:` are granted to nobody.)"""
    match entity:
        case "employee":
            return {f"employee:{row['id']}", f"employee:{row['reports_to_id']}"}
        case "customer":
            return {f"country:{row['country']}"}
        case "order" | "order_line":
            return {f"employee:{row['employee_id']}"}
    return {"global"}


def visible(rows: Rows, scopes: Set[str]) -> Rows:
    """The rows in these scopes."""
    return {
        entity: {i: row for i, row in found.items() if scopes_of(entity, row) & scopes}
        for entity, found in rows.items()
    }


def check_answer(request: httpx.Request, answer: httpx.Response, scopes: Set[str]) -> None:
    """No row and no field that is not for a device with these scopes is told it, whatever it asked."""
    for entity, row in _told(request, answer) if answer.status_code == 200 else ():
        assert scopes_of(entity, row) & scopes, f"{request.url.path} tells {entity} {row} to who has {sorted(scopes)}"
        assert not HIDDEN.get(entity, set()) & row.keys(), f"{request.url.path} tells a hidden field: {entity} {row}"


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
