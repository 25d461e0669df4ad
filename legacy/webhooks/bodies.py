"""What a sender, or staff, is told about a webhook that came in."""

from typing import Literal

import msgspec

from legacy.webhooks.models import Hint, Operation

State = Literal["waiting", "done", "failed"]
RecordState = Literal["waiting", "done", "dead"]
# As Hint.Outcome has them; empty: nothing became of it yet.
Became = Literal[
    "", "created", "updated", "deleted", "unchanged", "failed", "undecided", "held", "kept", "unknown", "not_taken",
    "superseded", "left_to_run",
]  # fmt: skip


class RecordBody(msgspec.Struct, omit_defaults=True):
    mapping: str
    key: str
    state: RecordState
    outcome: Became
    error: str | None = None  # staff alone are told: it may quote what is in our database


class OperationBody(msgspec.Struct):
    operation: str
    state: State
    records: list[RecordBody]


def told(operation: Operation, with_errors: bool = False) -> OperationBody:
    records = [
        RecordBody(
            hint.mapping,
            hint.key,
            hint.state,  # type: ignore[arg-type]
            hint.outcome,  # type: ignore[arg-type]
            (hint.error or None) if with_errors else None,
        )
        for hint in sorted(operation.hints.all(), key=lambda hint: hint.pk)
    ]
    states = {record.state for record in records}
    state: State = "failed" if operation.error or Hint.State.DEAD in states else "done"
    return OperationBody(str(operation.pk), "waiting" if Hint.State.WAITING in states else state, records)
