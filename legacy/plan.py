"""What a dry run would change, kept for a person to look at: the first changes of each kind, and how many more."""

from collections import Counter
from dataclasses import asdict, dataclass, field

from django.utils import timezone

from legacy.exchange import Change
from legacy.models import Plan, Run

CHANGES_KEPT_MAX = 100  # of each mapping, way and kind


@dataclass
class Kept:
    """Takes changes as `Exchange.show` gives them, then writes them down."""

    system: str
    changes: list[Change] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str, str]] = field(default_factory=set)

    def add(self, change: Change) -> None:
        at = (change.mapping, change.to, change.key)
        if at in self.seen:
            return  # pages overlap, and nothing that was read is kept by a dry run
        self.seen.add(at)
        group = group_of(change.mapping, change.to, change.what)
        self.counts[group] += 1
        if self.counts[group] <= CHANGES_KEPT_MAX:
            self.changes.append(change)

    def write(self, run: Run) -> None:
        """Keep them in the place of what an earlier dry run had. `run` is the one that found them."""
        found, _ = Plan.objects.get_or_create(system=self.system, defaults={"asked_at": timezone.now()})
        found.ended_at, found.state, found.error, found.counts = timezone.now(), run.state, run.error, run.counts
        found.changes = [asdict(change) for change in self.changes]
        found.rest = {g: count - CHANGES_KEPT_MAX for g, count in self.counts.items() if count > CHANGES_KEPT_MAX}
        found.save()


def group_of(mapping: str, to: str, what: str) -> str:
    """The group of changes that a limit holds for."""
    return f"{mapping} {to or '-'} {what}"
