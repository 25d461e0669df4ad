"""Python's garbage collector, for processes that go on for long or work through much."""

import gc


def settle() -> None:
    """To be called when all is loaded: that lives as long as the process, and is not looked through again.

    Looking through it would stall a request for 30 ms. What is made from then on is looked at seldom: nearly all of it,
    the rows and records of a page, is freed without.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
