"""A folder in which another system drops CSV files or JSON lines: each is taken once, then archived or put aside.

Reading moves nothing. The cursor says which files were taken, how far the one at work is, and which lines of them could
not be read; the next run begins by putting away what the cursor that it was given says is done. That cursor is
committed, so whenever a process is killed, and in a dry run, no file leaves the folder before what is in it arrived.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import BufferedReader
from typing import Any
from urllib.parse import urlsplit

import fsspec
import msgspec

from legacy.connector import Capabilities, Misconfigured, Page, Record, Refused, Unreachable
from legacy.connectors.files_away import Bad, Look, Shelf, Taken
from legacy.connectors.files_lines import Drop, Line, Unreadable, first, lines
from legacy.connectors.json_places import key_of, values_at

__all__ = ["Drop", "Files"]

PAGE_LINES = 1_000  # of one answer, and
PAGE_BYTES = 8_000_000  # of the file: they bound the memory of both sides
SETTLE_SECONDS = 60  # a file that was changed more lately may still be being written
BAD_LINES_MAX = 100  # of one file: with more of them it is not what was declared, and put aside
FILES_MAX = 500  # taken by one pass: they stand in the cursor until the next one


@dataclass
class State:
    """What the cursor holds: in `done` are the files that were taken and not yet put away."""

    done: list[Taken] = field(default_factory=list)
    doing: Taken | None = None
    newest: tuple[float, str] | None = None  # of files that are the whole: the newest taken; older ones are of no use


@dataclass
class _Reading:
    """The file at work, kept open between two pages."""

    digest: str
    at: int
    stream: BufferedReader
    lines: Iterator[Line]


class Files:
    """`folder_url`: a path, or an address that fsspec knows (`sftp://…`, `s3://…`); `options`: what that needs."""

    capabilities = Capabilities(
        ties="files are taken in order of their names or times, each whole",
        paging="cursor",
        deletes="pass",
        whoami="the address of the folder",
        fetches=False,
    )

    def __init__(
        self,
        folder_url: str,
        archive: str = "taken/",
        quarantine: str = "refused/",
        *,
        settle_seconds: float = SETTLE_SECONDS,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(folder_url)
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        try:
            fs, root = fsspec.core.url_to_fs(folder_url, **(options or {}))
        except (ValueError, ImportError) as error:
            raise Misconfigured(f"The folder {self._url} cannot be opened: {error}.") from None
        self._shelf = Shelf(fs, root.rstrip("/"), archive, quarantine)
        self._settle_seconds = settle_seconds
        self._begun: dict[Drop, frozenset[str]] = {}
        self._reading: _Reading | None = None

    def open(self) -> str:
        with self._reaching():
            if not self._shelf.fs.isdir(self._shelf.root):
                raise Misconfigured(f"There is no folder {self._url}: make it, or mend its address.")
        return self._url

    def close(self) -> None:
        self._close_file()

    def changes(self, source: Drop, places: Collection[str], cursor: Mapping[str, Any]) -> Page:
        """Some lines of the oldest file that was not taken yet; of files that are the whole, of the newest.

        A pass ends when no file is left, or after one that is the whole. `whole` is true there, unless lines of it
        could not be read: what stands in those is unknown, and not gone.
        """
        try:
            state = msgspec.convert(dict(cursor), State)
        except msgspec.ValidationError as error:
            raise Misconfigured(
                f"The cursor is not one of a folder of files ({error}): delete it to begin anew."
            ) from None
        with self._reaching():
            if self._begun.get(source) != frozenset(places):
                # The first call: its cursor was read from the database, so what it says is done has been committed.
                source.check()
                self._begin(source, places, state)
            taken, refused = len(state.done), len(state.doing.bad) if state.doing else 0
            page = self._page(source, places, state)
            page.refused.extend(_refused(state, taken, refused))
            return page

    def fetch(self, source: Drop, places: Collection[str], keys: Collection[str]) -> list[Record]:
        return []

    def keys(self, source: Drop) -> Iterator[str]:
        return iter(())

    def find(self, source: Drop, marker: str) -> str | None:
        return None

    def create(self, source: Drop, marker: str, values: Mapping[str, Any]) -> str:
        raise Refused("A folder of files is only read.")

    def update(self, source: Drop, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        raise Refused("A folder of files is only read.")

    def delete(self, source: Drop, record: Record) -> None:
        raise Refused("A folder of files is only read.")

    # --- Which file ---------------------------------------------------------------------------------------------------

    def _begin(self, source: Drop, places: Collection[str], state: State) -> None:
        for look in self._shelf.looks():
            for other in self._begun:
                if fnmatchcase(look.name, source.pattern) and fnmatchcase(look.name, other.pattern):
                    raise Misconfigured(
                        f"The file {look.name} belongs to {other.pattern!r} and to {source.pattern!r}: a file is taken "
                        "for one mapping. Let the patterns differ, or have it dropped under two names."
                    )
        for taken in state.done:
            self._shelf.put_away(source, taken)
        state.done = []
        self._begun[source] = frozenset(places)

    def _next(self, source: Drop, state: State) -> Taken | None:
        """The file to begin now, if there is one. What needs no reading is noted as done."""
        for look in self._waiting(source, state):
            if len(state.done) >= FILES_MAX:
                return None
            digest, valid = self._shelf.digest(self._shelf.path(look.name), source.encoding)
            if self._shelf.look(look.name) != look:  # it is being written after all
                return None
            taken = Taken(look, digest)
            superseded = source.full and state.newest and _place(source, look) < state.newest
            if superseded or self._dropped_twice(source, taken, state):
                state.done.append(taken)
                continue
            taken.why = "" if valid else f"it is not {source.encoding}"
            taken.why = taken.why or self._misfit(source, look)
            if not taken.why:
                return taken
            state.done.append(taken)
        return None

    def _waiting(self, source: Drop, state: State) -> list[Look]:
        """The files to take, in the order to try them; those that may still be being written are left out."""
        done = {taken.look for taken in state.done}
        looks = self._shelf.looks()
        times = {look.name: look.time for look in looks}
        files = [look for look in looks if fnmatchcase(look.name, source.pattern) and look not in done]
        files.sort(key=lambda look: _place(source, look))
        found = []
        for look in files:
            if source.done:
                settled = times.get(look.name + source.done, 0) >= look.time
            else:
                settled = time.time() - look.time >= self._settle_seconds
            if settled:
                found.append(look)
            elif not source.full:  # those after it must wait for it
                break
        return found[::-1] if source.full else found

    def _dropped_twice(self, source: Drop, taken: Taken, state: State) -> bool:
        last = next((each for each in reversed(state.done) if each.look.name == taken.look.name), None)
        if last:
            return last.digest == taken.digest
        if source.full and (state.newest is None or state.newest[1] != taken.look.name):
            return False  # another one was taken since: going back to this one is news
        return self._shelf.has(taken.look, taken.digest)

    def _misfit(self, source: Drop, look: Look) -> str:
        if source.full and not look.size:
            return "it is empty, which is no way to say that all is gone"
        try:
            with self._shelf.open(self._shelf.path(look.name)) as stream:
                first(stream, source)
        except Unreadable as error:
            return str(error)
        return ""

    def _unchanged(self, doing: Taken) -> bool:
        now = self._shelf.look(doing.look.name)
        if now is None:
            return False
        if now != doing.look:
            self._close_file()
            if self._shelf.digest(self._shelf.path(now.name))[0] != doing.digest:
                return False
            doing.look = now
        return True

    # --- Its lines ----------------------------------------------------------------------------------------------------

    def _page(self, source: Drop, places: Collection[str], state: State) -> Page:
        if state.doing and not self._unchanged(state.doing):  # what stands there now is taken from its beginning
            self._close_file()
            state.doing = None
            if source.full:
                return Page([], msgspec.to_builtins(state), more=False, whole=False)
        doing = state.doing = state.doing or self._next(source, state)
        if doing is None:
            return Page([], msgspec.to_builtins(state), more=False, whole=False)
        records: dict[str, Record] = {}
        gone: dict[str, None] = {}
        try:
            ended = self._read(source, places, doing, records, gone)
        except Unreadable as error:
            ended, doing.why = True, str(error)
        if ended:
            self._end(source, state, doing)
        room = len(state.done) < FILES_MAX and sum(len(taken.bad) for taken in state.done) <= BAD_LINES_MAX
        more = not ended or (room and not source.full)
        whole = source.full and not more and not doing.bad and not doing.why
        return Page(list(records.values()), msgspec.to_builtins(state), more, list(gone), whole)

    def _read(
        self, source: Drop, places: Collection[str], doing: Taken, records: dict[str, Record], gone: dict[str, None]
    ) -> bool:
        """Read a page of the file; whether it ended. What is said twice of one record counts as said at last."""
        reading, begin, ended = self._file(source, doing), doing.at, True
        for count, line in enumerate(reading.lines, 1):
            doing.at, doing.line = line.end, line.following
            try:
                if line.why:
                    raise ValueError(line.why)
                if line.values is not None:
                    key = key_of(line.values, source.keys)
                    before = records.pop(key, None)
                    gone.pop(key, None)
                    if source.is_gone(line.values):
                        gone[key] = None
                    else:
                        values = values_at(line.values, places)
                        records[key] = Record(key, {**before.values, **values} if before else values)
            except ValueError as error:
                doing.bad.append(Bad(line.number, line.start, line.end - line.start, str(error)))
                if len(doing.bad) > BAD_LINES_MAX:
                    worst = doing.bad[0]
                    raise Unreadable(
                        f"more than {BAD_LINES_MAX} of its lines cannot be read; line {worst.number}: {worst.why}"
                    ) from None
            if count == PAGE_LINES or doing.at - begin > PAGE_BYTES:
                ended = False
                break
        reading.at = doing.at
        return ended

    def _end(self, source: Drop, state: State, doing: Taken) -> None:
        self._close_file()
        state.doing = None
        state.done.append(doing)
        if doing.why:
            doing.bad = []
        elif source.full:
            state.newest = _place(source, doing.look)

    def _file(self, source: Drop, doing: Taken) -> _Reading:
        if not self._reading or (self._reading.digest, self._reading.at) != (doing.digest, doing.at):
            self._close_file()
            stream = self._shelf.open(self._shelf.path(doing.look.name))
            self._reading = _Reading(doing.digest, doing.at, stream, lines(stream, source, doing.at, doing.line))
        return self._reading

    def _close_file(self) -> None:
        if self._reading:
            self._reading.stream.close()
            self._reading = None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (PermissionError, NotImplementedError) as error:
            raise Misconfigured(
                f"The folder {self._url} does not let us list, read and move its files: {error}"
            ) from None
        except OSError as error:
            raise Unreachable(f"The folder {self._url} cannot be reached: {error}") from None


def _refused(state: State, taken: int, bad: int) -> Iterator[str]:
    """What is refused since so many files were taken, and so many lines of the next one were bad."""
    files = [*state.done[taken:], *([state.doing] if state.doing else [])]
    for at, file in enumerate(files):
        if file.why:
            yield f"{file.look.name}: {file.why}"
        for line in file.bad[bad if at == 0 else 0 :]:
            yield f"{file.look.name}, line {line.number}: {line.why}"


def _place(source: Drop, look: Look) -> tuple[float, str]:
    return (look.time if source.order == "time" else 0.0, look.name)
