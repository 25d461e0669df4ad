"""The safety stop: what a run may do to our rows, and delete of theirs, without a person who says `--force`."""

from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from legacy.apply import plan_waiting
from legacy.exchange import SQL, Exchange, Stopped
from legacy.mapping import Mapping
from legacy.models import Run
from sync.sql import block, cursor


def guard(exchange: Exchange, mapping: Mapping) -> None:
    """Raises Stopped where what waits would delete or change more than the mapping's share of the linked rows.

    A row that is linked for the first time counts too, and is changed where a value of it is replaced by another one.
    Nothing was written yet, and what was read goes on waiting: a run with `--force` carries it out.
    """
    if exchange.force or exchange.pretend:
        return
    gone, known, new, linked = _waiting(exchange, mapping)
    share = _share(mapping.stop_deleted_share, settings.LEGACY_STOP_DELETED_SHARE_MAX)
    if gone and (gone == linked or gone > _allowed(share, linked)):
        raise Stopped(_told(exchange, mapping, gone, linked, "delete"))
    share = _share(mapping.stop_changed_share, settings.LEGACY_STOP_CHANGED_SHARE_MAX)
    if known + (new if mapping.matches else 0) > _allowed(share, linked):
        changes, met = plan_waiting(exchange, mapping)
        if changes > _allowed(share, linked + met):
            raise Stopped(_told(exchange, mapping, changes, linked + met, "change"))


def guard_their_records(exchange: Exchange, mapping: Mapping, pages: Iterable[list[str]]) -> None:
    """Raises Stopped where more of the linked rows were deleted here than the mapping's share may be deleted there.

    `pages`: ids of rows, the deleted ones among them. Nothing was sent yet, and the next run looks at them again.
    """
    if exchange.force or exchange.pretend or mapping.deletes not in ("push", "both"):
        return
    gone: set[str] = set()
    for rows in pages:
        linked = {str(link.row) for link in exchange.links_of(mapping.name, rows)}
        here = mapping.model._default_manager.filter(pk__in=linked).values_list("pk", flat=True)
        gone |= linked - {str(row) for row in here}
    if gone:
        *_, all_linked = _waiting(exchange, mapping)
        share = _share(mapping.stop_deleted_share, settings.LEGACY_STOP_DELETED_SHARE_MAX)
        if len(gone) > _allowed(share, all_linked):
            raise Stopped(_told(exchange, mapping, len(gone), all_linked, f"delete in {exchange.system}"))


def may_delete(exchange: Exchange, mapping: Mapping, keys: int) -> bool:
    """Whether so many rows may be deleted on the word of a webhook, with all that were deleted within a day.

    A system that shows us nothing any more must not empty a table by telling of one record at a time.
    """
    gone, *_, linked = _waiting(exchange, mapping)
    since = timezone.now() - timedelta(days=1)
    runs = Run.objects.filter(system=exchange.system, started_at__gt=since).exclude(pk=exchange.run.pk)
    before = sum(counts.get(mapping.name, {}).get("deleted", 0) for counts in runs.values_list("counts", flat=True))
    total = gone + keys + before + exchange.counts[mapping.name].get("deleted", 0)
    share = _share(mapping.stop_deleted_share, settings.LEGACY_STOP_DELETED_SHARE_MAX)
    return exchange.force or (keys < linked and total <= _allowed(share, linked))


def failures(exchange: Exchange, mapping: Mapping) -> int:
    """How many records of a mapping have failed in this run so far."""
    return exchange.counts[mapping.name].get("failed", 0) if mapping.name in exchange.counts else 0


def guard_failures(exchange: Exchange, mapping: Mapping, before: int, records: int) -> None:
    """Raises Stopped where more of so many new records than the mapping's share have failed.

    `before`: what had failed already, such as dead letters that were tried again.
    """
    failed = failures(exchange, mapping) - before
    share = _share(mapping.stop_failed_share, settings.LEGACY_STOP_FAILED_SHARE_MAX)
    if failed > _allowed(share, records) and not exchange.force and not exchange.pretend:
        raise Stopped(
            f"{failed} of the first {records} records of {mapping.name} failed. See the dead letters; "
            f"sync_legacy --system {exchange.system} --force goes on all the same.",
            undo=mapping.undo_failed,
        )


def _waiting(exchange: Exchange, mapping: Mapping) -> tuple[int, int, int, int]:
    """What waits to be deleted, what waits of linked rows and of others, and all linked rows."""
    with cursor() as bound:
        at = {"system": exchange.system, "mapping": mapping.name}
        gone, known, new, linked = bound.execute(block(SQL, "waiting"), at).fetchone() or (0, 0, 0, 0)
    return gone, known, new, linked


def _share(own: float | None, default: float) -> float:
    return default if own is None else own


def _allowed(share: float, rows: int) -> float:
    """So few are never too many: in a small table every change is a large share."""
    return max(settings.LEGACY_STOP_RECORDS_MIN, share * rows)


def _told(exchange: Exchange, mapping: Mapping, records: int, linked: int, what: str) -> str:
    return (
        f"This would {what} {records} of {linked} linked rows of {mapping.name}. If that is right, "
        f"sync_legacy --system {exchange.system} --force does it; sync_legacy --dry-run shows what."
    )
