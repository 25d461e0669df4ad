"""What a device's page says of its access: its token, what it may see and why, and what it asks for."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.safestring import SafeString

from devices.grants import grants_of
from devices.models import Device
from devices.usage import used_by
from sync.pages import words


def access(device: Device) -> dict[str, Any]:
    """The facts that its template shows."""
    usage = used_by(device, timezone.now())
    return {
        "token_at": words.moment(device.token_at),
        "old_token": old_token(device),
        "grants": [
            {"scope": grant.scope, "user": str(device.user) if grant.user_id is not None else "", "by": grant.source}
            for grant in grants_of(device)
        ],
        "used": [
            {"what": f"{used.kind} {span}".capitalize(), **_of(count, limit)}
            for used in usage
            for span, count, limit in (
                ("this hour", used.hour, used.limits.hour),
                ("today", used.day, used.limits.day),
            )
        ],
        "reached": [(used.kind, words.moment(used.reached_at)) for used in usage if used.reached_at],
    }


def old_token(device: Device) -> str:
    """What became of the token before, in words; nothing where it is over."""
    if device.old_token_hash is None:
        return ""
    if device.old_token_until is None:
        return "not used yet: the one before goes on"
    left = device.old_token_until - timezone.now()
    return f"the one before goes on for {words.lasting(left)}" if left > timedelta() else ""


def wipe_of(device: Device) -> str | SafeString:
    """Where a wipe stands; nothing where nobody asked for one."""
    if device.wiped_at:
        return words.moment(device.wiped_at)
    return "told to, not reported" if device.wipe else ""


def _of(count: int, limit: int) -> dict[str, Any]:
    share = 100 * count / limit if limit else 0
    kind = "bad" if share >= 100 else "warn" if share >= 80 else ""
    return {"count": f"{count:,}", "limit": f"{limit:,}" if limit else "", "kind": kind}
