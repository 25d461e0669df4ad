"""The examples of the staff API in `openapi.yaml`."""

from typing import Any

from sync.openapi_examples import CONFLICT as CONFLICT_ID
from sync.openapi_examples import CUSTOMER as ROW
from sync.openapi_examples import MUTATIONS

DEVICE_ID = "01980a1e-6f4c-7c3e-9d3b-2f8a4d1c5b60"
DECISION_ID = "0198a30a-8888-7000-8000-000000000001"
BULK_ID = "0198a30a-9999-7000-8000-000000000001"
REJECTION_ID = "0198a30a-6666-7000-8000-000000000001"
AT = "2026-11-21T09:00:00.000000Z"
_EMAIL = {"field": "email", "code": "invalid_value", "message": "Enter a valid email address."}

ENTITY: dict[str, Any] = {
    "name": "contact",
    "label": "contact",
    "writable": True,
    "open_conflicts": 3,
    "open_rejections": 0,
}
CONFLICT: dict[str, Any] = {
    "id": CONFLICT_ID,
    "created_at": AT,
    "entity": "contact",
    "row": ROW,
    "mutation": MUTATIONS[1],
    "device": DEVICE_ID,
    "source": "",
    "op": "update",
    "policy": "manual",
    "state": "open",
    "fields": ["phone"],
    "base_rev": 3,
    "server_rev": 5,
    "base": {"phone": "030-0074321"},
    "server": {"phone": "030-0076545"},
    "device_values": {"set": {"phone": "030-0079999"}},
    "made_at": None,
    "group": None,
    "decided_by": "",
    "decided_at": None,
}
DECISION: dict[str, Any] = {
    "id": DECISION_ID,
    "conflict": CONFLICT_ID,
    "at": AT,
    "by": "user:anna",
    "comment": "The customer rang to confirm it.",
    "state_before": "open",
    "state": "device",
    "before": {"phone": "030-0076545"},
    "after": {"phone": "030-0079999"},
    "rev": 6,
    "bulk": None,
    "undone_at": None,
    "undone_by": "",
}
STAKES: dict[str, Any] = {
    "conflict": CONFLICT,
    "names": ["phone"],
    "disputed": ["phone"],
    "base": {"phone": "030-0074321"},
    "device": {"phone": "030-0079999"},
    "server": {"phone": "030-0076545"},
    "server_then": {"phone": "030-0076545"},
    "rev": 5,
    "seen": 0,
    "row_deleted": False,
    "decisions": [],
}
RESOLVE = {"values": {"phone": "030-0079999"}, "rev": 5, "seen": 0, "comment": "The customer rang to confirm it."}
SIDE = {"ids": [CONFLICT_ID], "side": "device", "comment": "The tablets were right."}
PREVIEWS: dict[str, Any] = {
    "previews": [
        {"conflict": CONFLICT_ID, "before": DECISION["before"], "after": DECISION["after"], "errors": []},
    ]
}
BULK: dict[str, Any] = {
    "bulk": BULK_ID,
    "decided": [DECISION | {"bulk": BULK_ID}],
    "refused": [
        {
            "id": "0198a30a-7777-7000-8000-000000000002",
            "errors": [{"field": None, "code": "moved", "message": "This was changed since; look at it alone."}],
        }
    ],
}
UNDO = {"bulk": BULK_ID, "comment": "The wrong list."}
UNDONE: dict[str, Any] = {"undone": [DECISION_ID], "kept": []}
REJECTION: dict[str, Any] = {
    "id": REJECTION_ID,
    "created_at": AT,
    "entity": "contact",
    "row": ROW,
    "mutation": MUTATIONS[2],
    "device": DEVICE_ID,
    "op": "update",
    "group": None,
    "cause": "invalid_value",
    "errors": [_EMAIL],
    "state": "open",
    "decided_by": "",
    "decided_at": None,
    "comment": "",
    "mended": None,
    "rev": None,
    "conflict": None,
}
REJECTED: dict[str, Any] = {
    "rejection": REJECTION,
    "body": {
        "id": MUTATIONS[2],
        "entity": "contact",
        "row": ROW,
        "op": "update",
        "base": 3,
        "set": {"email": "anna.example.com"},
        "add": {},
        "group": None,
        "made_at": None,
    },
    "goes_along": [],
}
REPLAY = {"set": {"email": "anna@example.com"}, "comment": "A typing error."}
REPLAYS: dict[str, Any] = {
    "results": [
        {"rejection": REJECTION_ID, "status": "applied", "rev": 4, "conflict": None, "errors": [], "overtaken": []}
    ]
}
DISCARD = {"ids": [REJECTION_ID], "comment": "Entered to try the app out."}
DEVICE: dict[str, Any] = {
    "id": DEVICE_ID,
    "name": "Tablet 12",
    "platform": "android 16",
    "app_version": "1.4.0",
    "user": "ana",
    "state": "active",
    "enrolled_at": AT,
    "token_at": AT,
    "revoked_at": None,
    "wipe": False,
    "wiped_at": None,
    "let_in_at": None,
    "last_seen_at": AT,
    "client": "syncdevice-python/0.1.0",
    "pending": 0,
    "oldest_pending_at": None,
}
CHANGE: dict[str, Any] = {
    "entity": "contact",
    "row": ROW,
    "rev": 6,
    "at": AT,
    "op": "update",
    "author": "user:anna",
    "mutation": DECISION_ID,
    "old": {"phone": "030-0076545"},
    "new": {"phone": "030-0079999"},
}
