"""What a device brought back after a restore before another device brought back what it needs."""

from collections.abc import Sequence
from itertools import islice
from uuid import UUID

from django.conf import settings

from devices.models import Device
from sync.amend import Invalid
from sync.decide import RowKey
from sync.models import Rejection
from sync.quarantine import replay
from sync.sql import Uuids, array, block, cursor
from sync.together import key_of, needs_of
from syncserver.errors import Problem

PAGE_REJECTIONS = 1_000


def replay_waiting() -> int:
    """Apply what waits in quarantine for a row that is there by now, as its device would; return how many did.

    What is refused again goes on waiting, and what was applied may be what others wait for. A push waits for this:
    after SYNC_REPLAYS_MAX the rest is left to the next that brings something back, and to `sync_prune`.
    """
    applied = 0
    while applied < settings.SYNC_REPLAYS_MAX and (done := sum(_replay(id, device) for id, device in _due())):
        applied += done
    return applied


def _replay(id: UUID, device: UUID) -> int:
    owner = Device.objects.filter(pk=device).first()
    if owner is None:  # enrolled after the backup: a person decides
        return 0
    try:
        told = replay(id, None, author=f"device:{device}", scopes=owner.scopes)
    except (Invalid, Problem, Rejection.DoesNotExist):  # or others are writing: the next time
        return 0
    return sum(each.status != "rejected" for each in told)


def _due() -> list[tuple[UUID, UUID]]:
    """Of what waits for a row those that wait for none any more, with their devices: the oldest SYNC_REPLAYS_MAX."""
    waiting = Rejection.objects.filter(
        state=Rejection.State.OPEN, lost__isnull=False, cause__in=["not_found", "missing_reference"]
    )
    due: list[tuple[UUID, UUID]] = []
    rejections = waiting.order_by("created_at", "place").iterator(PAGE_REJECTIONS)
    while (page := list(islice(rejections, PAGE_REJECTIONS))) and len(due) < settings.SYNC_REPLAYS_MAX:
        due += _met(page)
    return due[: settings.SYNC_REPLAYS_MAX]


def _met(waiting: Sequence[Rejection]) -> list[tuple[UUID, UUID]]:
    """Those whose rows are there, or made by their own group."""
    needed = [(each, _needs(each)) for each in waiting]
    keys = list(set[RowKey]().union(*(needs for _, needs in needed)))
    parameters = {"entities": array(key.entity for key in keys), "rows": Uuids([key.row for key in keys])}
    with cursor() as bound:
        there = {RowKey(*key) for key in bound.execute(block("lost.sql", "there"), parameters)}
    group = Rejection.objects.filter(group__in={each.group for each in waiting if each.group}, op="create")
    made = {(each.device, each.group, key_of(each)) for each in group.only("device", "group", "entity", "row_id")}
    return [
        (each.pk, each.device)
        for each, needs in needed
        if all(key in there or (each.device, each.group, key) in made for key in needs)
    ]


def _needs(rejection: Rejection) -> set[RowKey]:
    try:
        return needs_of(rejection)
    except Invalid:  # it cannot be read any more, which its replay will say
        return set()
