"""The examples of `openapi.yaml`: what devices of the Northwind company send and get, held to the schemas by a test."""

from typing import Any

EMPLOYEE = "0198a2f0-1c1e-7d0a-8f7e-3b1f6f2c0001"
CUSTOMER = "0198a2f0-2b44-7a91-9c55-8d2f0f6a0002"
ORDER = "0198a2f0-3d10-7b6c-a1c8-5b9d7e4f0003"
LINE = "0198a2f0-4e57-7c22-b3aa-6c0e8f510004"
PRODUCT = "0198a2f0-5f01-7e35-8bd9-7d1f9a620005"
GONE = "0198a2f0-6a2b-7f48-9ce0-8e20ab730006"
MUTATIONS = [f"0198a30a-0000-7000-8000-00000000000{number}" for number in range(1, 5)]
GROUP = "0198a30a-0000-7000-8000-0000000000ff"
CONFLICT = "0198a30a-7777-7000-8000-000000000001"
TOKEN = "mJ5n3m0qk1uQ1xq0e0fXr5TEEJ0vU3F7QH-XmT0iS9wBsjc5MTo3OTE6kalnbG9iYWzA"


def _field(name: str, kind: str, **facts: Any) -> dict[str, Any]:
    usual = {"nullable": False, "max_length": None, "choices": None, "references": None, "read_only": False}
    return {"name": name, "type": kind, **usual, "default": None, "counter": False, **facts}


SCHEMA: dict[str, Any] = {
    "protocol": 1,
    "schema": "364b73bcf2c76e5a0417ea6cdcac21ee",
    "entities": [
        {
            "name": "order_line",
            "label": "Order line",
            "writable": True,
            "conflict": "server_wins",
            "fields": [
                _field("order_id", "uuid", references="order"),
                _field("product_id", "uuid", references="product"),
                _field("unit_price", "decimal"),
                _field("quantity", "integer", default=1),
            ],
        }
    ],
}

SQLITE = """\
-- Device replica, sync protocol 1, schema 364b73bcf2c76e5a0417ea6cdcac21ee.
-- Run it in one transaction, at enrolment and again whenever the schema changes.
CREATE TABLE IF NOT EXISTS "_sync_state" (…);
CREATE TABLE IF NOT EXISTS "_sync_outbox" (…);
CREATE TABLE IF NOT EXISTS "customer" ("id" TEXT PRIMARY KEY NOT NULL DEFAULT (…), "_rev" INTEGER, "name" TEXT, …);
CREATE TRIGGER "_sync_customer_insert" BEFORE INSERT ON "customer" …
"""

CUSTOMER_ROW: dict[str, Any] = {
    "id": CUSTOMER,
    "_rev": 3,
    "code": "ALFKI",
    "name": "Alfreds Futterkiste",
    "address": "Obere Str. 57",
    "city": "Berlin",
    "region": "",
    "postal_code": "12209",
    "country": "Germany",
    "phone": "030-1111111",
    "fax": "030-0076545",
}
LINE_ROW: dict[str, Any] = {
    "id": LINE,
    "_rev": 1,
    "order_id": ORDER,
    "product_id": PRODUCT,
    "unit_price": "18.0000",
    "quantity": 12,
    "discount": "0.0000",
}

PAGE: dict[str, Any] = {
    "changes": {
        "customer": {"upserts": [CUSTOMER_ROW], "deletes": []},
        "order_line": {"upserts": [LINE_ROW], "deletes": [GONE]},
    },
    "token": TOKEN,
    "has_more": False,
}

BATCH: dict[str, Any] = {
    "sent_at": "2026-11-21T09:00:00.000000Z",
    "mutations": [
        {
            "id": MUTATIONS[0],
            "entity": "order",
            "row": ORDER,
            "op": "create",
            "base": None,
            "set": {
                "customer_id": CUSTOMER,
                "employee_id": EMPLOYEE,
                "status": "draft",
                "ordered_on": "2026-11-21",
                "freight": "32.3800",
            },
            "group": GROUP,
            "made_at": "2026-11-21T08:12:30.000000Z",
        },
        {
            "id": MUTATIONS[1],
            "entity": "order_line",
            "row": LINE,
            "op": "create",
            "set": {
                "order_id": ORDER,
                "product_id": PRODUCT,
                "unit_price": "18.0000",
                "quantity": 12,
            },
            "group": GROUP,
            "made_at": "2026-11-21T08:12:31.000000Z",
        },
        {
            "id": MUTATIONS[2],
            "entity": "customer",
            "row": CUSTOMER,
            "op": "update",
            "base": 2,
            "set": {"phone": "030-2222222"},
            "made_at": "2026-11-21T08:20:00.000000Z",
        },
        {
            "id": MUTATIONS[3],
            "entity": "product",
            "row": PRODUCT,
            "op": "update",
            "base": 7,
            "add": {"units_in_stock": -12},
            "set": {"unit_price": "1.0000"},
            "made_at": "2026-11-21T08:21:00.000000Z",
        },
    ],
}

OPERATION = "0ab8a1c2-6f6d-4a0e-9a6e-3f6d8c1f7e55"
RESULTS: dict[str, Any] = {
    "results": [
        {"id": MUTATIONS[0], "status": "applied", "rev": 1},
        {"id": MUTATIONS[1], "status": "applied", "rev": 1},
        {"id": MUTATIONS[2], "status": "conflict", "conflict": CONFLICT, "state": "server", "row": CUSTOMER_ROW},
        {
            "id": MUTATIONS[3],
            "status": "rejected",
            "errors": [
                {"field": "unit_price", "code": "read_only_field", "message": "Devices cannot change this field."}
            ],
            "row": None,
        },
    ]
}

READY: dict[str, Any] = {
    "status": "ready",
    "checks": {
        "database": {"ok": True},
        "migrations": {"ok": True, "pending": []},
        "capture": {"ok": True, "out_of_date": []},
        "oldest_writer": {"ok": True, "age_seconds": 0.0},
        "history": {"ok": True, "partitions_ahead": 2},
    },
}
NOT_READY: dict[str, Any] = {
    "status": "not_ready",
    "checks": {"database": {"ok": False, "error": "OperationalError"}},
}

DIGEST: dict[str, Any] = {
    "count": 1204,
    "digest": "5a1f0c2b7d3e4f6a8b9c0d1e2f3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c",
}
BUCKET: dict[str, Any] = {"entity": "customer", "bucket": "a7", "rows": {CUSTOMER: 3, GONE: 1}, "has_more": False}
ROWS: dict[str, Any] = {
    "changes": {"customer": {"upserts": [CUSTOMER_ROW], "deletes": [GONE]}},
    "has_more": False,
}
MISMATCH: dict[str, Any] = {
    "entities": {
        "customer": {
            "changed": 1,
            "surplus": 1,
            "rows": [{"id": CUSTOMER, "device": 2, "server": 3}, {"id": GONE, "device": 1, "server": None}],
        }
    },
    "repaired": True,
}

OUTCOMES: dict[str, Any] = {
    "outcomes": [
        {
            "mutation": MUTATIONS[1],
            "entity": "order",
            "row": ORDER,
            "outcome": "device",
            "rev": 7,
            "by": "anna",
            "comment": "The customer rang to confirm it.",
            "at": "2026-11-21T09:00:00.000000Z",
        }
    ],
    "cursor": "0198a30a-0000-7000-8000-00000000000e.41:vY2Q8tGxgk",
    "has_more": False,
}
