"""What sync keeps. The feed, the history and the results are written by SQL alone; here they are there to be read."""

import uuid
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone


class JsonColumn(models.JSONField):
    """A column of type `json`, which psycopg reads by itself; Django's field expects the text of a `jsonb`."""

    def from_db_value(self, value: Any, _expression: Any, _connection: Any) -> Any:
        return value


class History(models.Model):
    """One captured change of one row."""

    pk = models.CompositePrimaryKey("row_id", "entity", "rev")
    row_id = models.UUIDField()
    entity = models.TextField()
    rev = models.BigIntegerField()
    at = models.DateTimeField()
    op = models.TextField()
    author = models.TextField()
    mutation = models.UUIDField(null=True)
    old = JsonColumn(null=True)
    new = JsonColumn(null=True)
    hidden = JsonColumn(null=True)  # of a deleted row: what devices never saw, so that it can come back whole

    class Meta:
        managed = False
        db_table = "sync_history"
        verbose_name_plural = "history"

    def __str__(self) -> str:
        return f"{self.entity} {self.row_id} rev {self.rev}"


class Conflict(models.Model):
    """A mutation that met changes its device had not seen: what each side had, and where its decision stands."""

    class State(models.TextChoices):
        OPEN = "open", "waits for a person"
        SERVER = "server", "the server's values stay"
        DEVICE = "device", "the device's values are taken"
        MIXED = "mixed", "some of each, or other values"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    entity = models.TextField()
    row_id = models.UUIDField(db_index=True)
    mutation = models.UUIDField(unique=True)
    device = models.UUIDField(db_index=True)
    source = models.TextField(
        blank=True, default="", db_default=""
    )  # what people call the device, where it is a system and no device
    op = models.TextField()
    base_rev = models.BigIntegerField(null=True, blank=True)
    server_rev = models.BigIntegerField(null=True, blank=True)
    # The fields at stake, in wire form: as they were at `base_rev` (null: unknown), on the server when it came
    # (null: the row was deleted), and from the device, as its `set` and `add`.
    base = models.JSONField(null=True, blank=True)
    server = models.JSONField(null=True, blank=True)
    device_values = models.JSONField()
    # Those that both changed differently; none where the whole row is at stake, since one side deleted it.
    fields = ArrayField(models.TextField(), default=list)
    # Those to which a function gave a value that is neither side's, so that its device has not seen it.
    mixed = ArrayField(models.TextField(), default=list)
    made_at = models.DateTimeField(null=True, blank=True)
    group = models.UUIDField(null=True, blank=True)  # of mutations, none of which was applied because of this one
    policy = models.TextField()  # that of the fields, by name; several are joined by " + "
    state = models.TextField(choices=State.choices, db_index=True)
    decided_by = models.TextField(blank=True, default="")  # `user:<name>`; empty: the policy, or nobody yet
    decided_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.entity} {self.row_id}"


class Decision(models.Model):
    """What a person decided about a conflict, and what that wrote: enough to undo it. Never changed, only undone."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    conflict = models.ForeignKey(Conflict, models.CASCADE, related_name="decisions")
    at = models.DateTimeField(auto_now_add=True)
    by = models.TextField()  # `user:<name>`
    comment = models.TextField(blank=True, default="")
    state_before = models.TextField(choices=Conflict.State.choices)
    state = models.TextField(choices=Conflict.State.choices)
    # The fields that it changed, in wire form, before and after; null: the row was not there. Both empty: nothing.
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    rev = models.BigIntegerField(null=True, blank=True)  # of the row, with it; null: it was not there
    bulk = models.UUIDField(null=True, blank=True, db_index=True)  # decided together, and undone together
    undone_at = models.DateTimeField(null=True, blank=True)
    undone_by = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"{self.get_state_display()} ({self.by})"


class Rejection(models.Model):
    """The quarantine: a mutation that was refused, in full, with the reasons, until somebody mends or discards it."""

    class State(models.TextChoices):
        OPEN = "open", "waits for a person"
        REPLAYED = "replayed", "mended and applied"
        DISCARDED = "discarded", "discarded"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    place = models.IntegerField(default=0)  # in its batch: with `created_at` the order in which they take effect
    mutation = models.UUIDField()
    digest = models.UUIDField()  # of its content: an id that was used twice is kept with both contents
    device = models.UUIDField(db_index=True)
    entity = models.TextField()
    row_id = models.UUIDField(db_index=True)
    # Of the row when the mutation's turn came: what its device wrote after that is newer.
    row_rev = models.BigIntegerField(null=True, blank=True)
    op = models.TextField(default="")
    group = models.UUIDField(null=True, blank=True)
    body = models.TextField()  # the JSON as it came: jsonb could not hold every text
    errors = models.JSONField()
    cause = models.TextField(default="")  # the code of its first error
    state = models.TextField(choices=State.choices, default=State.OPEN, db_index=True)
    decided_by = models.TextField(blank=True, default="")  # `user:<name>`
    decided_at = models.DateTimeField(null=True, blank=True)
    comment = models.TextField(blank=True, default="")
    mended = models.JSONField(null=True, blank=True)  # the `set` that was applied instead, where it was mended
    rev = models.BigIntegerField(null=True, blank=True)  # of the row, as it was replayed
    conflict = models.UUIDField(null=True, blank=True)  # that the replay met
    lost = models.BigIntegerField(null=True, blank=True)  # the revision that it had before a restore (`sync.lost`)

    class Meta:
        indexes = [
            # What waits for what another device brings back.
            models.Index(
                fields=["device"], condition=models.Q(state="open", lost__isnull=False), name="sync_rejection_lost"
            )
        ]
        constraints = [models.UniqueConstraint(fields=["mutation", "digest"], name="sync_rejection_once")]

    def __str__(self) -> str:
        return f"{self.entity} {self.row_id}"


class Outcome(models.Model):
    """What became of a conflict or a rejection after its device was answered: what `GET /sync/outcomes` tells.

    Append-only. Numbers of one device are given under its lock, in the order of commits, so that none is missed.
    """

    class Kind(models.TextChoices):
        OPEN = "open", "waits again for a person"
        SERVER = "server", "the server's values stay"
        DEVICE = "device", "the device's values were taken"
        MIXED = "mixed", "some of each, or other values"
        REPLAYED = "replayed", "mended and applied"
        DISCARDED = "discarded", "discarded"

    number = models.BigAutoField(primary_key=True)
    device = models.UUIDField()
    at = models.DateTimeField(auto_now_add=True)
    mutation = models.UUIDField()
    entity = models.TextField()
    row_id = models.UUIDField()
    outcome = models.TextField(choices=Kind.choices)
    rev = models.BigIntegerField(null=True)  # of the row, with it; null: it is not there
    by = models.TextField()  # a name that the device's user may read
    comment = models.TextField(blank=True, default="")

    class Meta:
        indexes = [models.Index(fields=["device", "number"], name="sync_outcome_device")]

    def __str__(self) -> str:
        return f"{self.mutation}: {self.get_outcome_display()}"


class Operation(models.Model):
    """A push that its device does not wait for: stored before the 202 is sent, then applied in the order it came."""

    class State(models.TextChoices):
        QUEUED = "queued", "waits for its turn"
        RUNNING = "running", "is being applied"
        DONE = "done", "was applied"
        FAILED = "failed", "was refused as a whole"

    number = models.BigAutoField(primary_key=True)  # a device's operations are applied in this order
    id = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    device = models.UUIDField()
    received_at = models.DateTimeField()
    body = models.BinaryField(default=b"")  # of the push, as it came; empty once it has ended
    state = models.TextField(choices=State.choices, default=State.QUEUED)
    tries = models.IntegerField(default=0)  # that ended in a failure of the server
    ended_at = models.DateTimeField(null=True)
    scopes = ArrayField(models.TextField(), default=list)  # of the device, when it was applied
    results = models.BinaryField(default=b"")  # of the push's answer, as JSON
    problem = models.JSONField(null=True)  # why it was refused

    class Meta:
        indexes = [
            models.Index(fields=["device", "number"], condition=models.Q(ended_at=None), name="sync_operation_queue"),
            models.Index(fields=["ended_at"], name="sync_operation_ended"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Mismatch(models.Model):
    """Rows of one entity in which a device found its file to differ from what it must hold."""

    number = models.BigAutoField(primary_key=True)
    device = models.UUIDField()
    at = models.DateTimeField(default=timezone.now)  # the same for all entities of one report
    entity = models.TextField()
    changed = models.IntegerField()  # in their revision or their values
    missing = models.IntegerField("missing on the device")
    surplus = models.IntegerField("surplus on the device")
    rows = models.JSONField()  # the first of them: id, and the revision on the device and on the server
    repaired = models.BooleanField()

    class Meta:
        verbose_name_plural = "replica mismatches"
        indexes = [
            # The reports of a device that count against its limit; those that prune and alerts look for.
            models.Index(fields=["device", "at"], name="sync_mismatch_device"),
            models.Index(fields=["at"], name="sync_mismatch_at"),
        ]

    def __str__(self) -> str:
        return f"{self.entity}: {self.changed + self.missing + self.surplus} rows"


class Alert(models.Model):
    """Something that needs attention, from when a run of `sync_alerts` noticed it until one saw that it does not."""

    class Kind(models.TextChoices):
        CONFLICTS = "conflicts_late", "conflicts wait for too long"
        QUARANTINE = "quarantine_late", "mutations in quarantine wait for too long"
        STUCK = "device_stuck", "a device does not get rid of its outbox"
        SILENT = "device_silent", "a device does not call any more"
        LIMITED = "device_limited", "a device has used up its requests or changes"
        EXPIRED = "device_expired", "a device was not used for so long that it is refused"
        MISMATCH = "replica_mismatch", "a device found rows that differ from the server's"
        CHANNEL = "channel_failing", "alerts do not get through"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.TextField(choices=Kind.choices)
    subject = models.TextField()  # the entity's name, the device's id, or the channel's name
    since = models.DateTimeField()  # of the oldest record, or of the trouble
    count = models.IntegerField()  # the late ones, what is in the outbox, or messages that wait; as of the last run
    raised_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject"], condition=models.Q(cleared_at=None), name="sync_alert_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.subject}"


class AlertChannelQuerySet(models.QuerySet["AlertChannel"]):
    def current(self) -> "models.QuerySet[Any]":
        """Those that the last run which had any had in its settings."""
        last = AlertChannel.objects.order_by("-checked_at").values("checked_at")[:1]
        return self.filter(checked_at=models.Subquery(last))


class AlertChannel(models.Model):
    """How one way of telling people is doing: `mail`, or a webhook by its host and a digest of its address."""

    name = models.TextField(primary_key=True)
    checked_at = models.DateTimeField()  # the last run that had it in its settings
    failing_since = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, default="")  # of the last try, where it failed
    disabled_at = models.DateTimeField(null=True, blank=True)  # it answered 410: it does not want to be told again

    objects = AlertChannelQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class AlertMessage(models.Model):
    """What one channel is to be told. Written together with what it tells of, then sent until it is accepted."""

    number = models.BigAutoField(primary_key=True)
    id = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)  # the same at every try
    channel = models.ForeignKey(AlertChannel, models.CASCADE)
    event = models.TextField()  # `alert.raised`, `alert.cleared`, `conflict.opened`; of mail `digest`
    body = models.TextField()  # as it is sent: JSON, of mail with subject, text and html
    created_at = models.DateTimeField()
    tries = models.IntegerField(default=0)
    next_at = models.DateTimeField(null=True)  # when to try; none: it was accepted, or given up
    told_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True, default="")

    class Meta:
        indexes = [
            # What is to be sent, and when a channel was told last.
            models.Index(fields=["channel", "next_at"], name="sync_alertmessage_due"),
            models.Index(fields=["channel", "-created_at"], name="sync_alertmessage_last"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.channel_id}"


class Telling(models.Model):
    """That a message tells a channel of an alert. The constraint is what keeps it from being told twice."""

    class What(models.TextChoices):
        RAISED = "raised"
        CLEARED = "cleared"

    alert = models.ForeignKey(Alert, models.CASCADE)
    channel = models.ForeignKey(AlertChannel, models.CASCADE)
    what = models.TextField(choices=What.choices)
    message = models.ForeignKey(AlertMessage, models.CASCADE)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["alert", "channel", "what"], name="sync_telling_once")]

    def __str__(self) -> str:
        return f"{self.alert_id} {self.what}"


class Announced(models.Model):
    """An open conflict of which webhooks were told: `conflict.opened` tells of each once."""

    conflict = models.UUIDField(primary_key=True)

    def __str__(self) -> str:
        return str(self.conflict)
