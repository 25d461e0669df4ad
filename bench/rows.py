"""The rows that every benchmark uses: contacts, and the SQL of a bare table with the same columns."""

import random
import time
from typing import Any
from uuid import UUID

import msgspec

FIELDS = ("id", "first_name", "last_name", "title", "email", "phone", "note", "met_on")
COLUMNS = ", ".join(FIELDS)
TYPES = "id uuid, first_name text, last_name text, title text, email text, phone text, note text, met_on date"
NOTE_CHARACTERS = 120
_WORDS = "delivery on Tuesday asked for the new price list before lunch and wants a call back about order".split()


def uuid7(milliseconds: int) -> str:
    """An id whose first 48 bits are a time, as a device makes them: rows made together stay together in an index."""
    value = milliseconds << 80 | 0x7 << 76 | random.getrandbits(12) << 64 | 0b10 << 62 | random.getrandbits(62)
    return str(UUID(int=value))


def contacts(count: int) -> list[dict[str, str]]:
    """New rows, in the order of their ids."""
    now = int(time.time() * 1000)
    return [_contact(uuid7(now + at), at) for at in range(count)]


def _contact(row: str, at: int) -> dict[str, str]:
    first, last = random.choice(("Ana", "Zoë", "Jürgen", "Mei", "Tomás")), f"Fernández {at}"
    note = " ".join(random.choices(_WORDS, k=NOTE_CHARACTERS // 2))[:NOTE_CHARACTERS]
    return {
        "id": row,
        "first_name": first,
        "last_name": last,
        "title": "Purchasing Manager",
        "email": f"contact{at}@example.org",
        "phone": f"+49 30 {at:07d}",
        "note": note,
        "met_on": f"2026-{at % 12 + 1:02d}-{at % 28 + 1:02d}",
    }


def creates(rows: list[dict[str, str]]) -> bytes:
    """The body of a push that creates the rows."""
    now = int(time.time() * 1000)
    mutations: list[dict[str, Any]] = [
        {
            "id": uuid7(now + at),
            "entity": "contact",
            "row": row["id"],
            "op": "create",
            "base": None,
            "set": {name: row[name] for name in FIELDS[1:]},
            "made_at": "2026-11-21T09:00:00.000000Z",
        }
        for at, row in enumerate(rows)
    ]
    return msgspec.json.encode({"sent_at": "2026-11-21T09:00:01.000000Z", "mutations": mutations})


def batches(rows: list[dict[str, str]], size: int) -> list[list[dict[str, str]]]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]
