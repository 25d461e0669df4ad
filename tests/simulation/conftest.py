"""`--seeds`, `--first-seed`, `--steps` choose what is simulated: `script/test tests/simulation --first-seed 7`."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, cast

import pytest

from syncserver.environment import BASE_DIR

WORKERS = 2
Outcome = dict[str, Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first, count = metafunc.config.getoption("--first-seed"), metafunc.config.getoption("--seeds")
        metafunc.parametrize("seed", range(first, first + count))


@pytest.fixture(scope="session")
def simulated(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Outcome]]:
    """What came of a seed, as `worker.run` says it. All seeds of the session are simulated meanwhile, two at a time."""
    steps = request.config.getoption("--steps")
    items = (item for item in request.session.items if isinstance(item, pytest.Function))
    seeds = sorted({cast(int, item.callspec.params["seed"]) for item in items if "simulated" in item.fixturenames})
    idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
    workers = [_worker() for _ in range(min(WORKERS, len(seeds)))]
    for worker in workers:
        idle.put(worker)

    def simulate(seed: int) -> Outcome:
        worker = idle.get()
        try:
            assert worker.stdin is not None and worker.stdout is not None
            print(json.dumps([seed, steps]), file=worker.stdin, flush=True)
            if not (line := worker.stdout.readline()):
                pytest.fail("the process that simulates has ended; its last words are on stderr")
            outcome: Outcome = json.loads(line)
            return outcome
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(workers))
    futures: dict[int, Future[Outcome]] = {seed: pool.submit(simulate, seed) for seed in seeds}
    yield lambda seed: futures[seed].result()
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.communicate()


def _worker() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation.worker"]
    return subprocess.Popen(command, cwd=BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
