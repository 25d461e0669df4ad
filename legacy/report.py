"""What runs have done, as a line of JSON for logs and as a table for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from legacy.models import Run

ORDER = ("created", "updated", "deleted", "unchanged", "created there", "updated there", "deleted there")
LETTERS_TOLD_MAX = 5  # of a run's records that failed
QUIET = ("unchanged", "failed", "waiting")  # what is no record that was written


def summary(this: Run) -> dict[str, Any]:
    return {
        "run": str(this.id),
        "system": this.system,
        "state": this.state,
        "seconds": seconds(this),
        "counts": this.counts,
        "error": this.error,
    }


def seconds(this: Run) -> float | None:
    """How long it took; None: it has not ended."""
    return round((this.ended_at - this.started_at).total_seconds(), 3) if this.ended_at and this.started_at else None


def written(counts: Mapping[str, Mapping[str, int]]) -> int:
    """How many records a run changed, on either side."""
    return sum(n for each in counts.values() for what, n in each.items() if what not in QUIET)


def headline(this: Run, pretended: bool) -> str:
    """Which run it was, and how it ended. One that was not begun has no id to ask for."""
    dry = pretended and this.state in (Run.State.DONE, Run.State.PARTIAL)
    what = "dry run, nothing was written" if dry else Run.State(this.state).label.lower()
    return f"{this.system or 'no system'}: {what}" + (f" (run {this.pk})" if this.fence else "")


def letters(this: Run) -> list[str]:
    """The first records that a run could not take over or send, one a line."""
    found = this.dead_letters.order_by("pk")
    lines = [f"{letter.mapping} {letter.key}: {letter.error}" for letter in found[:LETTERS_TOLD_MAX]]
    more = found.count() - LETTERS_TOLD_MAX
    return [*lines, f"… and {more} more: the admin lists all dead letters."] if more > 0 else lines


def table(this: Run) -> Table:
    """One run, mapping by mapping."""
    happened = {name for counts in this.counts.values() for name in counts}
    columns = [*(name for name in ORDER if name in happened), *sorted(happened - set(ORDER))]
    made = Table("", *columns)
    for mapping, counts in this.counts.items():
        made.add_row(mapping, *(f"{counts[name]:,}" if counts.get(name) else "" for name in columns))
    return made


def table_of_many(runs: Sequence[Run]) -> Table:
    """Many runs, one a line, those that went wrong at the end, where they are seen."""
    made = Table("system", "state", "s", "records", "error")
    for this in sorted(runs, key=lambda each: (bool(each.error), each.system)):
        took = seconds(this)
        state = Run.State(this.state).value
        told = (this.system, state, "" if took is None else f"{took:.1f}", f"{written(this.counts):,}", this.error)
        made.add_row(*map(escape, told))
    return made
