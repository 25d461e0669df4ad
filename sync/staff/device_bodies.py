"""What the staff API gets and sends about devices and grants."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.conf import settings

from devices.models import SCOPE_LENGTH_MAX, STATES, Grant
from sync.staff.bodies import members

Scope = Annotated[str, msgspec.Meta(min_length=1, max_length=SCOPE_LENGTH_MAX)]
Scopes = Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=settings.SYNC_SCOPES_PER_DEVICE_MAX)]
State = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(STATES)})]


class StaffRevoke(msgspec.Struct, forbid_unknown_fields=True):
    """`wipe`: the app also deletes its data when it next calls."""

    wipe: bool = False


class StaffScopes(msgspec.Struct, forbid_unknown_fields=True):
    """Scopes to grant or to take back, such as `global` or `store:7`."""

    scopes: Scopes


class StaffDevice(msgspec.Struct):
    """One installation of an app. `pending`: mutations in its outbox, as it last told. `let_in_at`: once expired."""

    id: UUID
    name: str
    platform: str
    app_version: str
    user: str | None
    state: State
    enrolled_at: datetime
    token_at: datetime
    revoked_at: datetime | None
    wipe: bool
    wiped_at: datetime | None
    let_in_at: datetime | None
    last_seen_at: datetime | None
    client: str
    pending: int | None
    oldest_pending_at: datetime | None


class StaffGrant(msgspec.Struct):
    """A granted scope, and to whom: to the device itself, or to its user and thereby to all devices of that user.

    `source`: the row of the deployment's own that grants it; empty: a person did.
    """

    scope: str
    to: Literal["device", "user"]
    source: str


class StaffGrants(msgspec.Struct):
    """In byte order; a device may have a scope twice, from its user too."""

    grants: list[StaffGrant]


class StaffGranted(msgspec.Struct):
    """`changed`: scopes for which that was not so already. `devices`: how many it concerns, refused ones left out."""

    changed: list[str]
    devices: int


INCOMING = (StaffRevoke, StaffScopes)
LISTED = (StaffDevice,)
OUTGOING = (*LISTED, StaffGrants, StaffGranted)


def device(found: Any) -> StaffDevice:
    """Of one that `with_trouble` found."""
    user = found.user.get_username() if found.user else None
    return StaffDevice(**members(StaffDevice, found, user=user, enrolled_at=found.created_at))


def grants(found: "list[Grant]") -> StaffGrants:
    return StaffGrants(
        [StaffGrant(each.scope, "device" if each.user_id is None else "user", each.source) for each in found]
    )
