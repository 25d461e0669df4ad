"""The server that acceptance tests talk to: the whole session shares `server`, so tests bring scopes of their own.

A test that needs the server to itself, or other settings, takes `acceptance_support.running_server` instead.
"""

import os
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, StorageState

from syncserver import environment
from tests.acceptance.acceptance_support import Server, running_server
from tests.acceptance.browser_support import launched, logged_in

_shared = pytest.StashKey[Server]()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A migrated server that is ready. Its log stays in pytest's folder for temporary files (`server.log`)."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        request.config.stash[_shared] = running
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture(scope="session")
def session(browser: Browser, server: Server) -> StorageState:
    """The cookies of an administrator who has logged in."""
    name, password = server.superuser(f"boss-{uuid.uuid4().hex[:8]}", "a long pass phrase")
    return logged_in(browser, server, name, password)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of pages go: the folder that PICTURES names, or one of pytest's."""
    wanted = os.environ.get("PICTURES")
    return environment.BASE_DIR / wanted if wanted else tmp_path_factory.mktemp("images")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the server's log with a test that failed."""
    report = yield
    running = item.config.stash.get(_shared, None)
    if report.failed and running is not None:
        report.sections.append((f"end of {running.log}", running.log_tail()))
    return report
