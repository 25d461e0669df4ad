"""What the SDK tells its application: plain values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """How far a sync is. `done` counts mutations (push) or rows (pull, apply); `total` is None where unknown."""

    phase: Literal["push", "pull", "apply"]
    done: int
    total: int | None = None


@dataclass(frozen=True)
class Change:
    """What a sync changed in one entity's table. The ids are None where there are more than 10,000: read the table."""

    upserted: int
    deleted: int
    upserted_ids: tuple[str, ...] | None = ()
    deleted_ids: tuple[str, ...] | None = ()


@dataclass
class SyncReport:
    """The result of one `sync()`. `outcomes` counts the statuses other than `applied`; see `Replica.outcomes()`.

    `decided`: how many decisions about earlier changes the server told.
    """

    pushed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    decided: int = 0
    upserted: int = 0
    deleted: int = 0
    reloaded: bool = False
    schema_changed: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Status:
    """A replica at a glance. Times are RFC 3339 in UTC; `token_age` is in seconds."""

    path: str
    url: str
    device: str
    name: str | None
    scopes: list[str]
    schema: str | None
    pending: int
    oldest: str | None
    outcomes: int
    last_sync_at: str | None
    token_age: float | None
    loaded: bool
    rows: dict[str, int]


def age(since: str | None, now: datetime) -> float | None:
    """Seconds from `since` (RFC 3339) to `now` (aware), or None."""
    return None if since is None else (now - datetime.fromisoformat(since)).total_seconds()
