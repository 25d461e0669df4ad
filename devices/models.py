"""Who is calling: devices, what they were granted, and the codes that enrol them. Of secrets only hashes are stored."""

import re
import uuid
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Case, Count, F, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone

SCOPE_LENGTH_MAX = 200
HASH_BYTES = 32  # SHA-256
LIMITED_SHOWN_HOURS = 24  # a device that reached a limit in the night is still shown in the morning

_SCOPE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(:\S(.*\S)?)?")


def validate_scope(value: str) -> None:
    """Raise ValidationError unless `value` is a scope: `global`, or a name and a value such as `store:7`."""
    if len(value) > SCOPE_LENGTH_MAX or not value.isprintable() or not _SCOPE.fullmatch(value):
        raise ValidationError(
            f"A scope is a name such as global, or name:value such as store:7, at most {SCOPE_LENGTH_MAX} characters; "
            f"not {value[:SCOPE_LENGTH_MAX]!r}.",
            code="invalid_scope",
        )


REFUSED = Q(revoked_at__isnull=False) | Q(user__is_active=False)  # of a device: on every call


class Trouble(models.TextChoices):
    """Why somebody should look after a device."""

    LIMITED = "limited", "has used up its requests or changes"
    EXPIRED = "expired", "was not used for so long that it is refused"
    STUCK = "stuck", "calls, and does not get rid of its outbox"
    SILENT = "silent", "does not call any more"


STATES = ("active", *Trouble.values, "user_inactive", "revoked", "told_to_wipe", "wiped")  # of a device


def unused_before(now: datetime) -> datetime | None:
    """A device that has not called since then, nor was let in again, is refused; None: none is."""
    days = settings.SYNC_DEVICE_UNUSED_DAYS_MAX
    return now - timedelta(days=days) if days else None


def unused(now: datetime) -> Q:
    """Of a device: it was not used for so long that it is refused."""
    before = unused_before(now)
    if before is None:
        return Q(pk__in=[])
    called = Q(last_seen_at__lt=before) | Q(last_seen_at=None, created_at__lt=before)
    return called & (Q(let_in_at=None) | Q(let_in_at__lt=before))


class DeviceQuerySet(models.QuerySet["Device"]):
    def with_trouble(self, now: datetime) -> "models.QuerySet[Any]":
        """Each with `trouble`, a Trouble or "", and `trouble_since`: its oldest mutation, or when it was last seen.

        Limited: it came to a limit within LIMITED_SHOWN_HOURS, at `trouble_since`. Expired: it is `unused`. Stuck: when
        it last called, its oldest mutation had waited for longer than SYNC_DEVICE_PENDING_HOURS_MAX; measured
        from its call and not from now, since a device that is away is none that fails to push. Silent: not seen (if
        never, not enrolled) for SYNC_DEVICE_SILENT_HOURS_MAX. One that is refused, being revoked or of a
        person who is not active, has no trouble: somebody wanted it so.
        """
        silent_before = now - timedelta(hours=settings.SYNC_DEVICE_SILENT_HOURS_MAX)
        waits = timedelta(hours=settings.SYNC_DEVICE_PENDING_HOURS_MAX)
        stuck = ~Q(pending=0) & Q(oldest_pending_at__lt=F("last_seen_at") - waits)
        heard_at = Coalesce("last_seen_at", "created_at")
        reached = Usage.objects.filter(device=OuterRef("pk")).order_by(F("reached_at").desc(nulls_last=True))
        return self.annotate(
            heard_at=heard_at,
            limited_at=Subquery(reached.values("reached_at")[:1]),
            trouble=Case(
                When(REFUSED, then=Value("")),
                When(unused(now), then=Value(Trouble.EXPIRED.value)),
                When(limited_at__gt=now - timedelta(hours=LIMITED_SHOWN_HOURS), then=Value(Trouble.LIMITED.value)),
                When(heard_at__lt=silent_before, then=Value(Trouble.SILENT.value)),
                When(stuck, then=Value(Trouble.STUCK.value)),
                default=Value(""),
                output_field=models.CharField(),
            ),
            trouble_since=Case(
                When(trouble=Trouble.LIMITED, then=F("limited_at")),
                When(trouble__in=[Trouble.SILENT, Trouble.EXPIRED], then=heard_at),
                When(trouble=Trouble.STUCK, then=F("oldest_pending_at")),
                output_field=models.DateTimeField(),
            ),
        )

    def accepted(self) -> "DeviceQuerySet":
        """Those that are not refused: neither revoked nor of a person who is not active."""
        return self.exclude(REFUSED)

    def state_counts(self, now: datetime) -> dict[str, int]:
        """How many are `refused`, in one of the troubles, or `well`, without any; each is there."""
        state = Case(When(REFUSED, then=Value("refused")), When(trouble="", then=Value("well")), default=F("trouble"))
        found = self.with_trouble(now).order_by().values_list(state).annotate(Count("id"))
        return dict.fromkeys(("well", *Trouble.values, "refused"), 0) | dict(found)


class Device(models.Model):
    """One installation of an app. It is never deleted, so that history keeps its author: it is revoked."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    platform = models.CharField(max_length=100, blank=True, default="")
    app_version = models.CharField(max_length=50, blank=True, default="")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="devices",
        help_text="The device has this person's scopes too, and is refused while the person is not active.",
    )
    token_hash = models.BinaryField(max_length=HASH_BYTES, unique=True, editable=False)
    token_at = models.DateTimeField("token made at", default=timezone.now, editable=False)
    # The token before: valid until then. None: the newer one was not used so far, and this one goes on.
    old_token_hash = models.BinaryField(max_length=HASH_BYTES, unique=True, null=True, editable=False)
    old_token_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField("enrolled at", default=timezone.now, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    wipe = models.BooleanField(default=False, editable=False, help_text="The app deletes its data when it next calls.")
    wiped_at = models.DateTimeField(null=True, blank=True, editable=False)  # as its app told
    let_in_at = models.DateTimeField(null=True, blank=True, editable=False)  # after it was not used for too long
    # What the device told with its calls, written at most every SYNC_LAST_SEEN_SECONDS.
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    client = models.CharField(max_length=100, blank=True, default="", editable=False)
    pending = models.IntegerField("mutations pending", null=True, blank=True, editable=False)
    oldest_pending_at = models.DateTimeField(null=True, blank=True, editable=False)

    is_authenticated = True  # it stands as `request.user`

    objects = DeviceQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_active(self) -> bool:
        return self.revoked_at is None

    @property
    def state(self) -> str:
        """How it is: one of STATES. Of one that `with_trouble` found."""
        if self.revoked_at is not None:
            return "wiped" if self.wiped_at else "told_to_wipe" if self.wipe else "revoked"
        if self.user is not None and not self.user.is_active:
            return "user_inactive"
        trouble: str = self.trouble  # type: ignore[attr-defined]
        return trouble or "active"

    @cached_property
    def scopes(self) -> list[str]:
        """The scopes granted to the device or its user, each once, in byte order."""
        return list(self.granted.filter(until=None).order_by("scope").values_list("scope", flat=True))


class Usage(models.Model):
    """What a device asked for, by kind: in the `hour` of `at`, and on its `day` (UTC). Written by devices_count."""

    class Kind(models.TextChoices):
        REQUESTS = "requests", "requests"
        CHANGES = "changes", "changes"

    device = models.ForeignKey(Device, models.CASCADE, related_name="usage", db_index=False)  # the constraint serves
    kind = models.CharField(max_length=10, choices=Kind.choices)
    at = models.DateTimeField()
    hour = models.IntegerField()
    day = models.IntegerField()
    reached_at = models.DateTimeField(null=True)  # when it last came to a limit

    class Meta:
        constraints = [models.UniqueConstraint(fields=["device", "kind"], name="devices_usage_device_kind")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.device_id}"


class GrantQuerySet(models.QuerySet["Grant"]):
    def of(self, device: Device) -> "GrantQuerySet":
        """The grants of a device and of its user."""
        # Without a user the second condition must go: `user_id=None` would mean every grant that has no user.
        mine = Q(device=device)
        return self.filter(mine if device.user_id is None else mine | Q(user_id=device.user_id))


class Grant(models.Model):
    """One scope for one device, or for every device of one user."""

    device = models.ForeignKey(
        Device, models.CASCADE, null=True, blank=True, related_name="grants", db_index=False
    )  # no index of its own: the unique constraints begin with these columns
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="sync_grants", db_index=False
    )
    scope = models.CharField(max_length=SCOPE_LENGTH_MAX, validators=[validate_scope])
    # The row that grants it, where one of the deployment's own does: `employee_territory.territory:<id>`.
    source = models.TextField(blank=True, default="", db_default="", editable=False)

    objects = GrantQuerySet.as_manager()

    class Meta:
        ordering = ["scope"]
        constraints = [
            models.CheckConstraint(
                condition=Q(device__isnull=False, user__isnull=True) | Q(device__isnull=True, user__isnull=False),
                name="devices_grant_one_holder",
                violation_error_message="Grant the scope to a device or to a user: exactly one of them.",
            ),
            models.UniqueConstraint(fields=["device", "scope", "source"], name="devices_grant_device_scope"),
            models.UniqueConstraint(fields=["user", "scope", "source"], name="devices_grant_user_scope"),
        ]
        indexes = [models.Index(fields=["source"], condition=~Q(source=""), name="devices_grant_source")]

    def __str__(self) -> str:
        return self.scope


class PositionField(models.Field):  # type: ignore[type-arg]
    """The id of a transaction, which is a place in the feed too."""

    def db_type(self, connection: Any) -> str:  # noqa: ARG002
        return "xid8"

    def from_db_value(self, value: str | None, _expression: Any, _connection: Any) -> int | None:
        return None if value is None else int(value)


class Granted(models.Model):
    """A scope that a device has or had, and the transactions that gave and took it. `identity.sql` writes it."""

    pk = models.CompositePrimaryKey("device_id", "scope", "since")
    device = models.ForeignKey(Device, models.CASCADE, related_name="granted", db_index=False)
    scope = models.TextField(db_collation="C")
    since = PositionField()
    until = PositionField(null=True)

    def __str__(self) -> str:
        return self.scope


class EnrollmentCode(models.Model):
    """An invitation for one device. The code itself is shown once, to who made it."""

    code_hash = models.BinaryField(max_length=HASH_BYTES, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=SCOPE_LENGTH_MAX, validators=[validate_scope]), default=list)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="enrollment_codes"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True, editable=False)
    device = models.ForeignKey(Device, models.SET_NULL, null=True, blank=True, related_name="+", editable=False)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"enrolment code {self.pk}"

    def state(self, now: datetime) -> str:
        """`used`, `expired` or `open`."""
        if self.used_at is not None:
            return "used"
        return "expired" if self.expires_at <= now else "open"


class EnrollmentFailure(models.Model):
    """A refused attempt to enrol, kept while it counts against its address."""

    address = models.CharField(max_length=50)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [
            models.Index(fields=["address", "at"], name="devices_failure_address_at"),  # counting those of the window
            models.Index(fields=["at"], name="devices_failure_at"),  # removing those that count no more
        ]

    def __str__(self) -> str:
        return f"{self.address} at {self.at:%Y-%m-%d %H:%M:%S}"
