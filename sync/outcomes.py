"""What became of conflicts and rejections after their devices were answered."""

from collections.abc import Iterable

from sync.amend import name_of
from sync.models import Conflict, Outcome, Rejection


def tell(changed: Iterable[tuple[Conflict | Rejection, str, int | None]], author: str, comment: str) -> None:
    """Note for the devices what became of what they pushed: (record, outcome, revision of the row or None).

    The caller holds the devices' locks (`lock_devices`) until its transaction ends: so a device's outcomes are
    numbered in the order in which they become visible, and none is missed.
    """
    Outcome.objects.bulk_create(
        Outcome(
            device=record.device,
            mutation=record.mutation,
            entity=record.entity,
            row_id=record.row_id,
            outcome=outcome,
            rev=rev,
            by=name_of(author),
            comment=comment,
        )
        for record, outcome, rev in changed
    )
