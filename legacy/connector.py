"""What a run needs of the system on the other side, whatever it is: a handful of calls and four ways to fail."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# Where a value stands in the other system's record, in the connector's own spelling, such as `addresses[].city`.
Place = str
# Which records of the other system a mapping is about; made in its mapping module, understood by its connector alone.
Source = Any


class Unreachable(Exception):
    """The system does not answer, or asks to be left alone. Nothing is wrong here: the next run goes on."""


class Misconfigured(Exception):
    """It answers, but not to us: address, database, user, password, or a mapping that does not fit it any more."""


class Refused(Exception):
    """It understood one write and will not have it, for the reason given. Trying the same again is no use."""


class Changed(Exception):
    """The record was changed over there since it was read: read it again, then decide again."""


@dataclass(frozen=True)
class Capabilities:
    """What a system can do, as far as the engine's promises depend on it."""

    stamp: str  # the field or fields that tell when a record changed, and their precision
    clock: str  # whose clock sets them
    ties: str  # what keeps records with equal stamps from being lost
    deletes: str  # how a record that goes away shows
    locking: str  # what keeps two writers apart
    idempotency: str  # how a create whose answer was lost is found again


@dataclass(frozen=True)
class Record:
    """One record: its key, its values by place (rows of it: a list of such values, each with `id`), and its version."""

    key: str
    values: Mapping[Place, Any]
    version: Any = None
    marker: str = ""  # what `create` was given, where we made it


@dataclass(frozen=True)
class Page:
    """Some changed records, and the cursor to ask for the next ones with: valid JSON, made by the connector."""

    records: list[Record]
    cursor: dict[str, Any]
    more: bool


class Connector(Protocol):
    """Every call may raise Unreachable or Misconfigured."""

    capabilities: Capabilities

    def open(self) -> str:
        """Sign in, and say who we are over there."""

    def close(self) -> None: ...

    def changes(self, source: Source, places: Collection[Place], cursor: Mapping[str, Any]) -> Page:
        """The next records that changed since `cursor`; `{}` is the beginning. Some may have been seen before."""

    def fetch(self, source: Source, places: Collection[Place], keys: Collection[str]) -> list[Record]:
        """Those of the records that (still) exist and belong to the source."""

    def keys(self, source: Source) -> Iterator[str]:
        """The key of every record of the source."""

    def find(self, source: Source, marker: str) -> str | None:
        """The key of the record that was created with `marker`."""

    def create(self, source: Source, marker: str, values: Mapping[Place, Any]) -> str:
        """Make a record that `find` knows by `marker`, and return its key. Raises Refused."""

    def update(self, source: Source, record: Record, values: Mapping[Place, Any], changed: Collection[Place]) -> None:
        """Write the `changed` ones of `values` to a record that is still as `record` shows it.

        Raises Changed where it is not, and Refused. `values` has all that the mapping writes, for what hangs together.
        """
