"""Whole runs over a Singer tap: nothing is lost by a run that is killed, and nothing deleted for a tap that died."""

from dataclasses import replace
from pathlib import Path

import pytest

from legacy.models import Run
from sync.models import History
from tests.integration.legacy_singer_support import CUSTOMER, WHOLE, Source, names, sync
from tests.integration.legacy_support import Killed


@pytest.mark.slow
@pytest.mark.legacy("L2")
@pytest.mark.usefixtures("pages_of_two_records")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state_every", [0, 1, 2, 3])
def test_run_that_is_killed_between_pages_loses_nothing_and_applies_nothing_twice(
    table: Source, state_every: int
) -> None:
    History.objects.all().delete()
    table.config["state_every"] = state_every
    with pytest.raises(Killed):
        sync(table.connect(), dies_at=2)
    done = sync(table.connect())
    assert (done.state, done.error) == (Run.State.DONE, "")
    assert names() == {str(number): f"Name {number}" for number in range(1, 8)}
    table.put((3, 9, "New"))
    sync(table.connect())
    assert names()["3"] == "New"
    assert History.objects.count() == 7 + 1


@pytest.mark.slow
@pytest.mark.legacy("S8")
@pytest.mark.legacy("F2")
@pytest.mark.usefixtures("pages_of_two_records")
@pytest.mark.django_db(transaction=True)
def test_what_a_full_table_lacks_is_deleted_but_not_after_a_tap_that_died(table: Source) -> None:
    mapping = replace(CUSTOMER, source=WHOLE, deletes="pull", stop_deleted_share=1.0)
    sync(table.connect(), mapping)
    Path(table.config["rows"]).write_text('[{"id": 1}]')  # over which it dies
    died = sync(table.connect(), mapping)
    assert (died.state, died.error[:7]) == (Run.State.UNREACHABLE, "The tap")
    assert len(names()) == 7
    table.put((1, 1, "Name 1"), (2, 2, "Name 2"), (8, 8, "Name 8"))
    sync(table.connect(), mapping)
    assert set(names()) == {"1", "2", "8"}
