"""Five devices, random edits, a bad network, killed processes, other writers: by seed, against the real parts."""

from collections.abc import Callable
from typing import Any

import pytest

LOG_LINES = 15


@pytest.mark.slow
def test_all_devices_end_equal_to_the_server_and_every_mutation_is_accounted_for(
    simulated: Callable[[int], dict[str, Any]], seed: int, request: pytest.FixtureRequest
) -> None:
    outcome = simulated(seed)
    if outcome["problem"]:
        steps = request.config.getoption("--steps")
        print(f"seed {seed}, its last steps:", *outcome["log"][-LOG_LINES:], sep="\n")
        print(f"again: script/test tests/simulation --first-seed {seed} --seeds 1 --steps {steps}")
        pytest.fail(outcome["problem"], pytrace=False)
