"""What becomes of a file that was taken: archived, or put aside with the reason, by steps that can be repeated."""

import codecs
import hashlib
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import PurePosixPath
from typing import Any

from legacy.connectors.files_lines import BUFFER_BYTES, LINE_BYTES_MAX, Drop, first

DIGEST_CHARACTERS = 16  # of a SHA-256: tells the versions of one file apart


@dataclass(frozen=True, order=True)
class Look:
    """A file as a listing shows it."""

    name: str
    size: int  # bytes
    time: float  # of its last change, in seconds since 1970


@dataclass(frozen=True)
class Bad:
    """A line that could not be read: its number, its first byte, its bytes, and why."""

    number: int
    start: int
    size: int
    why: str


@dataclass
class Taken:
    """A file that was begun: up to which byte, and the number of the line there."""

    look: Look
    digest: str
    at: int = 0
    line: int = 1
    bad: list[Bad] = field(default_factory=list)
    why: str = ""  # it cannot be read as a whole, for this reason


class Shelf:
    """The folder, its archive and its quarantine. Every call may raise OSError."""

    def __init__(self, fs: Any, root: str, archive: str, quarantine: str) -> None:
        self.fs, self.root = fs, root
        self._archive, self._quarantine = f"{root}/{archive.strip('/')}", f"{root}/{quarantine.strip('/')}"

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def open(self, path: str) -> BufferedReader:
        return BufferedReader(self.fs.open(path, "rb"), BUFFER_BYTES)

    def looks(self) -> list[Look]:
        """The files of the folder, and of no folder in it."""
        self.fs.invalidate_cache()
        found = [
            (entry["name"], entry["size"]) for entry in self.fs.ls(self.root, detail=True) if entry["type"] == "file"
        ]
        return [Look(PurePosixPath(path).name, size, self._time(path)) for path, size in found]

    def look(self, name: str) -> Look | None:
        """The file as it is now, if it is there."""
        path = self.path(name)
        self.fs.invalidate_cache()
        try:
            return Look(name, self.fs.info(path)["size"], self._time(path))
        except FileNotFoundError:
            return None

    def digest(self, path: str, encoding: str = "latin-1") -> tuple[str, bool]:
        """Of what is in a file, and whether it is in that encoding."""
        summed, decoder, valid = hashlib.sha256(), codecs.getincrementaldecoder(encoding)(), True
        with self.open(path) as stream:
            while chunk := stream.read(BUFFER_BYTES):
                summed.update(chunk)
                try:
                    if valid:
                        decoder.decode(chunk)
                except UnicodeDecodeError:
                    valid = False
        try:
            decoder.decode(b"", final=valid)
        except UnicodeDecodeError:
            valid = False
        return summed.hexdigest()[:DIGEST_CHARACTERS], valid

    def has(self, look: Look, digest: str) -> bool:
        """Whether the file was the last of its name to be archived: then it was dropped twice.

        The last, and not any: a file of a fixed name whose content goes back to what it was is news.
        """
        path = f"{self._archive}/{look.name}"
        try:
            return self.fs.info(path)["size"] == look.size and self.digest(path)[0] == digest
        except FileNotFoundError:
            return False

    def put_away(self, drop: Drop, taken: Taken) -> None:
        """Archive a file that was taken, or put it aside; its bad lines beside it. Done already: nothing happens."""
        now = self.look(taken.look.name)
        if now is None:
            return
        mine = now == taken.look or self.digest(self.path(now.name))[0] == taken.digest
        if taken.bad and not taken.why:
            self._keep_lines(drop, taken, mine)
        if not mine:  # another file of that name has come since: it will be taken too
            return
        if drop.done and self.fs.exists(companion := self.path(now.name) + drop.done):
            self.fs.rm_file(companion)
        self._move(now.name, taken, self._quarantine if taken.why else self._archive)

    def _move(self, name: str, taken: Taken, folder: str) -> None:
        self.fs.makedirs(folder, exist_ok=True)
        target = f"{folder}/{name}"
        if self.fs.exists(target) and (digest := self.digest(target)[0]) != taken.digest:
            old = PurePosixPath(name)
            self.fs.mv(target, f"{folder}/{old.stem}.{digest}{old.suffix}")
        if taken.why:
            self.fs.pipe_file(f"{target}.why", f"{taken.why}\n".encode())
        self.fs.mv(self.path(name), target)

    def _keep_lines(self, drop: Drop, taken: Taken, mine: bool) -> None:
        """The lines that could not be read, as they are, under the file's header; the reasons in another file."""
        self.fs.makedirs(self._quarantine, exist_ok=True)
        target = f"{self._quarantine}/{taken.look.name}.{taken.digest}.lines"
        reasons = "".join(f"line {bad.number}: {bad.why}\n" for bad in taken.bad)
        self.fs.pipe_file(f"{target}.why", reasons.encode())
        if mine:
            with self.open(self.path(taken.look.name)) as stream, self.fs.open(target, "wb") as kept:
                header = first(stream, drop)[1]
                for start, size in [(0, header), *((bad.start, bad.size) for bad in taken.bad)]:
                    stream.seek(start)
                    kept.write(stream.read(min(size, LINE_BYTES_MAX)))

    def _time(self, path: str) -> float:
        return float(self.fs.modified(path).timestamp())
