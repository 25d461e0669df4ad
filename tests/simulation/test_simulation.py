"""Five devices, random edits, a bad network, killed processes, other writers: by seed, against the real parts."""

from pathlib import Path

import pytest

from tests.acceptance.acceptance_support import Server
from tests.simulation.simulation_support import World

DEVICES = 5
LOG_LINES = 15


@pytest.mark.slow
def test_all_devices_end_equal_to_the_server_and_every_mutation_is_accounted_for(
    simulated: Server, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    steps = request.config.getoption("--steps")
    world = World(simulated, seed, tmp_path, DEVICES)
    try:
        for number in range(steps):
            world.step(number)
        world.settle()
        world.check()
    except BaseException:
        print(f"seed {seed}; the last of {len(world.log)} steps:", *world.log[-LOG_LINES:], sep="\n")
        print(f"again: script/test tests/simulation --first-seed {seed} --seeds 1 --steps {steps}")
        raise
    finally:
        world.close()
