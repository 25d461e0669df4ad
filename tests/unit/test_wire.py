"""What entities are made of, once."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sync import wire

THREADS = 8


def test_threads_that_ask_for_the_entities_first_get_the_same_objects() -> None:
    start, often = Barrier(THREADS), sys.getswitchinterval()

    def ask() -> dict[str, wire.Entity]:
        start.wait()
        return wire.entities()

    sys.setswitchinterval(1e-6)
    try:
        wire._entities.cache_clear()
        with ThreadPoolExecutor(THREADS) as threads:
            found = [each.result() for each in [threads.submit(ask) for _ in range(THREADS)]]
    finally:
        sys.setswitchinterval(often)
    assert {id(each) for each in found} == {id(wire.entities())}
