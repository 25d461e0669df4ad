"""Whatever a Singer tap reads: the tap is a program of its own, in a virtual environment of its own.

A tap reads all selected streams in one go, and a run asks for one mapping after the other; so each pass of a mapping is
one run of the tap, with that one stream selected in its catalog. What the tap prints is read as fast as pages are asked
for. The cursor moves at its STATE messages: each is valid for the records before it, and for no others.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from legacy.connector import Capabilities, Misconfigured, Page, Record, Refused
from legacy.connectors.singer_stream import Cursor, Reading, Stream, selected
from legacy.connectors.singer_tap import SECRET, SILENCE_SECONDS, Tap

__all__ = ["Singer", "Stream"]


@dataclass
class _Running:
    source: Stream
    tap: Tap
    pages: Iterator[Page]
    cursor: dict[str, Any]  # that the next page is asked for with


class Singer:
    """`command`: the tap's program, with what it is always given; `config`: what it wants to know, secrets too.

    `catalog`: in place of what the tap discovers; `environment`: beside the few variables that it gets of ours.
    """

    capabilities = Capabilities(
        stamp="the tap's replication key",
        clock="whichever the tap's state goes by",
        ties="the tap's own; each pass begins an overlap before the last one, and what was seen is dropped",
        paging="cursor",
        deletes="pass",
        whoami="the tap and its configuration without its secrets: a tap tells nothing else",
        fetches=False,
    )

    def __init__(
        self,
        command: Sequence[str],
        config: Mapping[str, Any],
        *,
        catalog: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._command, self._config, self._catalog = tuple(command), dict(config), catalog
        self._environment, self._silence_seconds = dict(environment or {}), silence_seconds
        self._running: _Running | None = None

    def open(self) -> str:
        if not shutil.which(self._command[0]):
            raise Misconfigured(
                f"There is no tap {self._command[0]}: install it in a virtual environment of its own, and give the "
                "path of its program."
            )
        public = {name: value for name, value in self._config.items() if not SECRET.search(name)}
        digest = hashlib.sha256(json.dumps(public, sort_keys=True).encode()).hexdigest()[:12]
        return f"{' '.join(self._command)} with the configuration {digest}"

    def close(self) -> None:
        if self._running:
            self._running.tap.close()
            self._running = None

    def changes(self, source: Stream, places: Collection[str], cursor: Mapping[str, Any]) -> Page:
        """What the tap tells next. `whole` is true at the end of a pass that told all of a table: of FULL_TABLE, or of
        a version of it that is new."""
        running = self._running
        if not running or running.source != source or running.cursor != cursor:
            self.close()
            running = self._running = self._start(source, places, cursor)
        try:
            page = next(running.pages)
        except BaseException:
            self.close()
            raise
        running.cursor = page.cursor
        if not page.more:
            self.close()
        return page

    def fetch(self, source: Stream, places: Collection[str], keys: Collection[str]) -> list[Record]:
        return []

    def keys(self, source: Stream) -> Iterator[str]:
        return iter(())

    def find(self, source: Stream, marker: str) -> str | None:
        return None

    def create(self, source: Stream, marker: str, values: Mapping[str, Any]) -> str:
        raise Refused("A Singer tap only reads.")

    def update(self, source: Stream, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        raise Refused("A Singer tap only reads.")

    def delete(self, source: Stream, record: Record) -> None:
        raise Refused("A Singer tap only reads.")

    def _start(self, source: Stream, places: Collection[str], raw: Mapping[str, Any]) -> _Running:
        try:
            cursor = msgspec.convert(dict(raw), Cursor)
        except msgspec.ValidationError as error:
            raise Misconfigured(f"The cursor is not one of a Singer tap ({error}): delete it to begin anew.") from None
        if self._catalog is None:
            self._catalog = self._discover()
        try:
            catalog, entry, method = selected(self._catalog, source, tuple(places))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise Misconfigured(f"The catalog of {self._command[0]} is none of a Singer tap: {error!r}.") from None
        files = {"config": self._config, "catalog": catalog}
        overlap = source.overlap_seconds if method != "LOG_BASED" else 0  # a log has no stamps, and forgets
        if not cursor.page:
            cursor.state = cursor.since(overlap)
            cursor.began = time.time()
        if cursor.state is not None and method != "FULL_TABLE":  # a whole is told from its beginning, or it is none
            files["state"] = cursor.state
        reading = Reading(source, entry, tuple(places), method, cursor, overlap)
        tap = self._tap(files)
        return _Running(source, tap, reading.pages(tap), {})

    def _discover(self) -> Mapping[str, Any]:
        tap = self._tap({"config": self._config}, "--discover")
        printed = b"\n".join(tap.lines())
        try:
            return msgspec.convert(json.loads(printed), dict[str, list[Any]])
        except (ValueError, msgspec.ValidationError):
            raise Misconfigured(f"What {tap.name} --discover prints is no catalog of a Singer tap.") from None

    def _tap(self, files: Mapping[str, Any], *flags: str) -> Tap:
        return Tap(self._command, files, *flags, environment=self._environment, silence_seconds=self._silence_seconds)
