"""One run of `sync_legacy` against one system: first their changes, then ours."""

from collections.abc import Callable

from django.utils import timezone

from legacy.connector import Misconfigured, Unreachable
from legacy.exchange import Exchange
from legacy.models import Run
from legacy.pull import pull
from legacy.push import push
from legacy.systems import System
from sync.alone import alone

EXIT_CODES = {
    Run.State.DONE: 0,
    Run.State.PARTIAL: 1,
    Run.State.UNREACHABLE: 2,
    Run.State.MISCONFIGURED: 3,
}


def run(
    system: System,
    *,
    pretend: bool = False,
    retry_all: bool = False,
    tell: Callable[[str, int], None] | None = None,
    show: Callable[[str], None] | None = None,
) -> Run:
    """Execute one run and return it with its counts. Raises Busy; whatever else goes wrong is in the run's `state`.

    What was committed before it went wrong stays: the next run goes on from there.
    """
    tell = tell or (lambda *_: None)
    show = show or (lambda *_: None)
    with alone("sync_legacy", system.name):
        # Nobody else is at work, so a run that still says so was killed.
        Run.objects.filter(system=system.name, state=Run.State.RUNNING).update(state=Run.State.KILLED)
        this = Run(system=system.name, started_at=timezone.now())
        if not pretend:
            this.save()
        try:
            connector = system.connect()
            try:
                exchange = Exchange(
                    system.name,
                    connector,
                    {each.name: each for each in system.mappings},
                    this,
                    pretend,
                    retry_all,
                    tell,
                    show,
                )
                tell(f"signed in as {connector.open()}", 0)
                _exchange(exchange)
                this.state = Run.State.PARTIAL if exchange.failed else Run.State.DONE
                this.counts = {name: dict(counts) for name, counts in exchange.counts.items()}
            finally:
                connector.close()
        except Unreachable as error:
            this.state, this.error = Run.State.UNREACHABLE, str(error)
        except Misconfigured as error:
            this.state, this.error = Run.State.MISCONFIGURED, str(error)
        this.ended_at = timezone.now()
        if not pretend:
            this.save(update_fields=["state", "error", "ended_at", "counts"])
        return this


def _exchange(exchange: Exchange) -> None:
    # Theirs first: where both changed the same field, the pre-existing system wins.
    for mapping in exchange.mappings.values():
        pull(exchange, mapping)
    for mapping in exchange.mappings.values():
        if mapping.both:
            push(exchange, mapping)
