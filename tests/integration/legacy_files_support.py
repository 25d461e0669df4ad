"""A folder of files: what its sender does with it, and the connector that reads it pass after pass."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from legacy.connector import Page
from legacy.connectors import files
from legacy.connectors.files import Drop, Files

CSV = Drop("customers-*.csv", key="nr")
JSONL = Drop("customers-*.jsonl", key="nr", format="jsonl")
WHOLE = Drop("customers-*.csv", key="nr", full=True)
PLACES = ("nr", "name", "city")


class Folder:
    """What its sender does with it, and what a person sees in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = fsspec.core.url_to_fs(url)
        self.fs.makedirs(self.root, exist_ok=True)
        self._connectors: list[Files] = []

    def drop(self, name: str, content: str | bytes) -> None:
        self.fs.pipe_file(f"{self.root}/{name}", content.encode() if isinstance(content, str) else content)

    def files(self) -> set[str]:
        return {path.removeprefix(f"{self.root}/") for path in self.fs.find(self.root)}

    def read(self, pattern: str) -> str:
        (found,) = self.fs.glob(f"{self.root}/{pattern}")
        return str(self.fs.cat_file(found).decode())

    def connect(self, **options: Any) -> Files:
        self._connectors.append(Files(self.url, **{"settle_seconds": 0, **options}))
        return self._connectors[-1]

    def close(self) -> None:
        for connector in self._connectors:
            connector.close()


def passes(connector: Files, source: Drop, cursor: dict[str, Any], places: tuple[str, ...] = PLACES) -> list[Page]:
    pages, more = [], True
    while more:
        page = connector.changes(source, places, cursor)
        pages.append(page)
        cursor, more = json.loads(json.dumps(page.cursor)), page.more
    return pages


class Reader:
    """Reads pass after pass, each with a connector of its own, as runs do."""

    def __init__(self, folder: Folder, source: Drop = CSV) -> None:
        self.folder, self.source = folder, source
        self.cursor: dict[str, Any] = {}

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        self.pages = passes(self.folder.connect(), self.source, self.cursor)
        self.cursor = self.pages[-1].cursor
        return [(record.key, dict(record.values)) for page in self.pages for record in page.records]

    def names(self) -> dict[str, Any]:
        return {key: values.get("name") for key, values in self.read()}

    @property
    def gone(self) -> list[str]:
        return [key for page in self.pages for key in page.gone]


# --- Fixtures, for every test file: see tests/conftest.py ------------------------------------------------------------


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(f"file://{tmp_path}/drops" if request.param == "local" else f"memory://{uuid4()}")
    yield folder
    folder.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(str(tmp_path / "drops"))
    yield folder
    folder.close()


@pytest.fixture
def pages_of_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE_LINES", 2)
