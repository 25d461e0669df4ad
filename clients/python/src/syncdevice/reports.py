"""What the SDK tells its application: plain values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """How far a sync is. `done` counts mutations (heal, push) or rows (the others); `total` is None where unknown."""

    phase: Literal["heal", "push", "pull", "apply", "check"]
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
class Difference:
    """How rows of one entity differed from what the server has. `rows`: the first 50, with both revisions by id.

    Where more than 20,000 differ, they are not counted to the end, but everything is loaded anew.
    """

    changed: int = 0
    missing: int = 0
    surplus: int = 0
    rows: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)


@dataclass
class CheckReport:
    """What a check found. `checked`: False where the server cannot be asked, or others wrote without a pause.

    `rows`: how many were compared. `waiting`: how many were left alone, since edits of them wait. `differences` by
    entity, as they were; `repaired`: the file holds what it must by now.
    """

    checked: bool = False
    rows: int = 0
    waiting: int = 0
    differences: dict[str, Difference] = field(default_factory=dict)
    repaired: bool = False


@dataclass
class SyncReport:
    """The result of one `sync()`. `outcomes` counts the statuses other than `applied`; see `Replica.outcomes()`.

    `decided`: how many decisions about earlier changes the server told. `check`: where the file was checked too.
    `healed`: how many changes that the server had acknowledged before it was restored from a backup were brought back.
    """

    pushed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    decided: int = 0
    healed: int = 0
    upserted: int = 0
    deleted: int = 0
    reloaded: bool = False
    schema_changed: bool = False
    check: CheckReport | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Status:
    """A replica at a glance. Times are RFC 3339 in UTC; `token_age` is in seconds.

    `acknowledged`: changes that are kept, so that a server that is restored from a backup can have them again.
    """

    path: str
    url: str
    device: str
    name: str | None
    scopes: list[str]
    schema: str | None
    pending: int
    oldest: str | None
    outcomes: int
    acknowledged: int
    last_sync_at: str | None
    token_age: float | None
    loaded: bool
    rows: dict[str, int]


def age(since: str | None, now: datetime) -> float | None:
    """Seconds from `since` (RFC 3339) to `now` (aware), or None."""
    return None if since is None else (now - datetime.fromisoformat(since)).total_seconds()
