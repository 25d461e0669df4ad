"""Each device holds exactly its slice, and is never told more, whatever moves: many seeds."""

import pytest

from tests.simulation.slices import slices_of

STEPS = 30


@pytest.mark.slow
@pytest.mark.protocol("P5")
@pytest.mark.django_db(transaction=True)
def test_every_device_holds_its_slice_and_is_told_no_more(seed: int) -> None:
    with slices_of(seed) as slices:
        try:
            slices.run(STEPS)
        except AssertionError:
            print("\n".join(slices.log))
            raise
