"""Records that wait for a person, and devices, as of a given time."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from devices.authentication import token_hash
from devices.models import Device
from sync.models import Conflict, Rejection

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def ago(**hours: float) -> datetime:
    return NOW - timedelta(**hours)


def conflict(entity: str = "contact", at: datetime = NOW, device: uuid.UUID | None = None, **values: Any) -> Conflict:
    given = {"device_values": {}, "policy": "manual", "state": "open", "op": "update"} | values
    made = Conflict.objects.create(
        entity=entity, row_id=uuid.uuid4(), mutation=uuid.uuid4(), device=device or uuid.uuid4(), **given
    )
    Conflict.objects.filter(pk=made.pk).update(created_at=at)
    return made


def rejection(entity: str = "contact", at: datetime = NOW, device: uuid.UUID | None = None, **values: Any) -> Rejection:
    made = Rejection.objects.create(
        mutation=uuid.uuid4(),
        digest=uuid.uuid4(),
        device=device or uuid.uuid4(),
        entity=entity,
        row_id=uuid.uuid4(),
        body="{}",
        errors=[],
        **values,
    )
    Rejection.objects.filter(pk=made.pk).update(created_at=at)
    return made


def device(name: str = "Tablet", **values: Any) -> Device:
    given = {"created_at": ago(days=100), "last_seen_at": ago(minutes=1)} | values
    return Device.objects.create(name=name, token_hash=token_hash(str(uuid.uuid4())), **given)
