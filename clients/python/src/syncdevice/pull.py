"""Pull: pages from the server, read ahead in a thread, staged, and moved into the tables when the run is whole."""

import json
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from syncdevice.database import State, immediate, set_state
from syncdevice.errors import ProtocolError, SchemaMoved, TokenExpired
from syncdevice.healing import lose_position
from syncdevice.reports import Change, Progress
from syncdevice.stage import Stage
from syncdevice.transport import Page, Transport


def pull_changes(
    conn: sqlite3.Connection,
    path: str,
    transport: Transport,
    state: State,
    now: Callable[[], str],
    progress: Callable[[Progress], None],
    wait: int = 0,
) -> dict[str, Change]:
    """Pull to the end and apply it all at once. What was staged is kept when the network fails, for the next time.

    Raises SchemaMoved, and TokenExpired; the token is forgotten then, or when a row is missing that a push found gone.
    """
    stage = Stage(conn, path, state.entities, state.token)
    try:
        lay_pages(stage, transport, wait, progress)
        if stage.rows or state.token is None or conn.execute('SELECT 1 FROM "_sync_missing"').fetchone():
            progress(Progress("apply", 0, stage.rows))
            return stage.merge(now())
        with immediate(conn):
            set_state(conn, token=stage.token, token_at=now(), last_sync_at=now())
        return {}
    except (TokenExpired, SchemaMoved) as error:
        stage.discard()
        if isinstance(error, TokenExpired):
            lose_position(conn, error.restored)
        raise
    finally:
        stage.close()


def lay_pages(stage: Stage, transport: Transport, wait: int, progress: Callable[[Progress], None]) -> None:
    """Stage the pages from where the stage is to the end of the run."""
    with closing(read_ahead(transport, stage.token, wait)) as pages:
        for page in pages:
            try:
                stage.lay(json.loads(page.body)["changes"], page.token, last=not page.has_more)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ProtocolError("a page is not of protocol version 1: upgrade the application") from error
            progress(Progress("pull", stage.rows))


def read_ahead(transport: Transport, token: str | None, wait: int) -> Generator[Page, None, None]:
    """The pages from `token` to the end of the run. While one is being used, the next one is on its way."""
    pool = ThreadPoolExecutor(1, "syncdevice-pull")
    try:
        coming = pool.submit(transport.pull, token, wait)
        while True:
            page = coming.result()
            if not page.has_more:
                yield page
                return
            coming = pool.submit(transport.pull, page.token)
            yield page
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
