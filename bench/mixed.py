"""`mixed`: devices push while others pull; in the end every device that pulled holds every row."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bench.load import Client, Target
from bench.pull import tail
from bench.report import Demand, Outcome
from bench.rows import batches, contacts, creates
from bench.server import Server

CLIENTS = 8  # that push, and as many that pull
ROWS = 1_000  # of each client that pushes
BATCH_ROWS = 100


class _Run:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self.pushed = threading.Event()

    def push(self, target: Target, rows: list[dict[str, str]]) -> None:
        client = Client(target)
        for batch in batches(rows, BATCH_ROWS):
            answer = client.post("/sync/push", creates(batch))
            if (applied := answer.count(b'"status":"applied"')) != len(batch):
                self.errors.append(f"{applied} of {len(batch)} applied: {answer[:300]!r}")
        client.close()

    def pull(self, target: Target) -> set[str]:
        """Pull until all is pushed, and then to the end; return the ids that came."""
        client, held, token = Client(target), set[str](), ""
        while True:
            ended = self.pushed.is_set()
            has_more = True
            while has_more:
                page = client.get("/sync/pull" + (f"?token={token}" if token else ""))
                changes = msgspec.json.decode(page)["changes"].get("contact", {"upserts": []})
                held |= {row["id"] for row in changes["upserts"]}
                token, has_more = tail(page)
            if ended:
                client.close()
                return held


def run(server: Server) -> Outcome:
    found = _Run()
    rows = [contacts(ROWS) for _ in range(CLIENTS)]
    devices = server.devices(2 * CLIENTS)
    started = time.perf_counter()
    with ThreadPoolExecutor(2 * CLIENTS) as threads:
        pulling = [threads.submit(found.pull, target) for target in devices[CLIENTS:]]
        pushing = [
            threads.submit(found.push, target, part) for target, part in zip(devices[:CLIENTS], rows, strict=True)
        ]
        found.errors += [str(failure) for push in pushing if (failure := push.exception())]
        found.pushed.set()
        held = [pull.result() for pull in pulling if not pull.exception()]
        found.errors += [str(failure) for pull in pulling if (failure := pull.exception())]
    spent = time.perf_counter() - started
    wanted = {row["id"] for part in rows for row in part}
    missed = sum(len(wanted - ids) for ids in held)
    with server.connect() as connection:
        (there,) = connection.execute(
            "SELECT count(*) FROM entities_contact WHERE id = ANY (%s)", [list(wanted)]
        ).fetchone() or (0,)
    for error in found.errors[:5]:
        print(f"mixed: {error}")
    return Outcome(
        "mixed",
        f"{CLIENTS} push {ROWS:,} rows each while {CLIENTS} pull: {spent:.1f} s",
        "nothing lost",
        {"rows": there, "missed": missed, "errors": len(found.errors), "seconds": spent},
        [Demand("rows", at_least=CLIENTS * ROWS), Demand("missed", at_most=0), Demand("errors", at_most=0)],
    )
