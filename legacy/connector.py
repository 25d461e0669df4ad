"""What a run needs of the system on the other side, whatever it is: a handful of calls and four ways to fail."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

# Where a value stands in the other system's record, in the connector's own spelling, such as `addresses[].city`.
Place = str
# Which records of the other system a mapping is about; made in its mapping module, understood by its connector alone.
Source = Any
Write = Literal["create", "update", "delete"]

MARKER = "sync:"  # and the id of our row: what a record that we make is known by over there
_MARKER = re.compile(MARKER + r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def marker_in(value: Any) -> str:
    """Our marker; nothing where a person wrote something else there."""
    return value if isinstance(value, str) and _MARKER.fullmatch(value) else ""


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
    """What a system can do: declared here, measured against the real thing by `manage.py legacy_probe`.

    The texts tell people; what has a `Literal` or a number is what the engine goes by.
    """

    stamp: str = ""  # the field or fields that tell when a record changed; none: every pass reads all of it
    precision_seconds: float = 0.0  # of the stamp: 1e-6, 1, 86400; 0: there is none, or it is no time
    clock: str = ""  # whose clock sets it, in which zone
    ties: str = ""  # what keeps records with equal stamps from being lost
    paging: Literal["key", "stamp", "page", "offset", "cursor", "link", "whole"] = "whole"
    hidden: str = ""  # how archived and closed records are seen
    # How a deletion shows: in `Page.gone`; by a key that is missing from `keys()`, or from a whole pass; never.
    deletes: Literal["shown", "keys", "pass", "never"] = "never"
    # What keeps two writers apart: a conditional write; read, compare, write, read back; nothing.
    locking: Literal["version", "compare", "none"] = "none"
    # How a create whose answer was lost is not made twice: by our id in a field of theirs; by an idempotency key.
    idempotency: Literal["marker", "key", "none"] = "none"
    whoami: str = ""  # how it is asked who we are
    numeric_keys: bool = False  # whether a reference is sent as a number
    fetches: bool = True  # whether `fetch` can look one record up by its key
    # Whether `changes` may be asked for the next page before the last one is written, by another thread: it only reads.
    ahead: bool = False
    writes: frozenset[Write] = frozenset()


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its key, its values by place (rows of it: a list of such values, each with `id`), and its version.

    A place that is not in `values` is absent, which is not the same as None.
    """

    key: str
    values: Mapping[Place, Any]
    version: Any = None
    marker: str = ""  # what `create` was given, where we made it


@dataclass(frozen=True)
class Page:
    """Some changed records, and the cursor to ask for the next ones with: valid JSON, made by the connector.

    `more` False ends a pass: all that had changed when it began has been told, and the cursor begins the next one.
    """

    records: list[Record]
    cursor: dict[str, Any]
    more: bool
    gone: list[str] = field(default_factory=list)  # keys of records that were deleted, where the system shows that
    # Where `deletes` is "pass", at the end of one: whether it told every record, so that what it lacked is gone.
    # None: it did if it began at the beginning.
    whole: bool | None = None
    refused: list[str] = field(default_factory=list)  # what could not be read at all, and why, such as a line of a file


class Connector(Protocol):
    """Every call may raise Unreachable or Misconfigured. Times are aware, or the declared places say what they are."""

    @property
    def capabilities(self) -> Capabilities: ...

    def open(self) -> str:
        """Sign in, and say who we are over there: the same words as long as it is the same account."""

    def close(self) -> None: ...

    def changes(self, source: Source, places: Collection[Place], cursor: Mapping[str, Any]) -> Page:
        """The next records that changed since `cursor`; `{}` is the beginning. Some may have been seen before.

        A page bounds the memory of both sides. No record that is changed, made or committed while a pass goes on may
        be missed by it and the next one together, whatever its stamp.
        """

    def fetch(self, source: Source, places: Collection[Place], keys: Collection[str]) -> list[Record]:
        """Those of the records that (still) exist and belong to the source."""

    def keys(self, source: Source) -> Iterator[str]:
        """The key of every record of the source, archived ones too."""

    def find(self, source: Source, marker: str) -> str | None:
        """The key of the record that was created with `marker`; None too where the system keeps no markers."""

    def create(self, source: Source, marker: str, values: Mapping[Place, Any]) -> str:
        """Make a record that `find` knows by `marker`, and return its key. Raises Refused.

        Where the system takes idempotency keys, `marker` is the key: called again with it, it makes nothing new.
        """

    def update(self, source: Source, record: Record, values: Mapping[Place, Any], changed: Collection[Place]) -> None:
        """Write the `changed` ones of `values` to a record that is still as `record` shows it.

        Raises Changed where it is not, and Refused. `values` has all that the mapping writes, for what hangs together.
        """

    def delete(self, source: Source, record: Record) -> None:
        """Delete a record that is still as `record` shows it. One that is gone is no error. Raises Changed, Refused."""
