"""What a device brought back after a restore before another device brought back what it needs."""

from django.conf import settings

from devices.models import Device
from sync.amend import Invalid
from sync.models import Rejection
from sync.quarantine import replay
from sync.together import WAITING
from syncserver.errors import Problem


def replay_waiting() -> int:
    """Apply what waits in quarantine for a row that may be there by now, as its device would; return how many did.

    What is refused again goes on waiting.
    """
    waiting = Rejection.objects.filter(state=Rejection.State.OPEN, lost__isnull=False, cause__in=WAITING)
    applied = 0
    for id, device in waiting.order_by("created_at", "place").values_list("pk", "device")[: settings.SYNC_REPLAYS_MAX]:
        owner = Device.objects.filter(pk=device).first()
        if owner is None:  # enrolled after the backup: a person decides
            continue
        try:
            told = replay(id, None, author=f"device:{device}", scopes=owner.scopes)
        except (Invalid, Rejection.DoesNotExist):
            continue
        except Problem:  # others are writing; the next one tries again
            break
        applied += sum(each.status != "rejected" for each in told)
    return applied
