"""What `sync_legacy` keeps between runs. Systems themselves are declared, not stored: see `legacy.systems`."""

import uuid

from django.db import models
from django.db.models.functions import Now

from legacy.branches.models import Branch as Branch
from legacy.stored import Decoder, Encoder
from legacy.webhooks.models import Hint as Hint  # Django looks for an application's models here
from legacy.webhooks.models import Operation as Operation
from legacy.webhooks.subscriptions import Subscription as Subscription


class Link(models.Model):
    """One of our rows and one of their records are the same thing."""

    system = models.TextField()
    mapping = models.TextField()
    row = models.UUIDField()
    key = models.TextField()  # theirs
    # What both sides looked like when they last agreed, in our terms (legacy.document.Document).
    agreed = models.JSONField(default=dict)
    # The digest of the record as it was last read: one that has it still is no news, and is not looked at again.
    seen = models.TextField(default="")
    # For what belongs to a record, such as an order's line: the row of that record.
    parent = models.UUIDField(null=True)
    agreed_at = models.DateTimeField(db_default=Now())
    # How often they did not keep what they were sent, without a person's change in between.
    hops = models.PositiveSmallIntegerField(db_default=0, default=0)
    # Ours was not as agreed when the record was read, so it is to be sent though nobody has changed it here since.
    due = models.BooleanField(db_default=False, default=False)

    class Meta:
        permissions = [("unlink_link", "Can take links apart")]
        constraints = [
            models.UniqueConstraint(fields=["system", "mapping", "key"], name="link_key_unique"),
            models.UniqueConstraint(fields=["system", "mapping", "row"], name="link_row_unique"),
        ]
        indexes = [
            models.Index(fields=["parent"], condition=models.Q(parent__isnull=False), name="link_parent"),
            # What a push looks at besides what was changed here.
            models.Index(fields=["system", "mapping"], condition=models.Q(due=True), name="link_due"),
        ]

    def __str__(self) -> str:
        return f"{self.mapping} {self.row} is {self.system} {self.key}"


class Counterpart(models.Model):
    """What must outlive a run about a system: who is at work on it, who we were there, and whether it is left alone."""

    system = models.TextField(primary_key=True)
    # The number of the run at work: what commits with an older one was thought dead, and writes nothing any more.
    fence = models.BigIntegerField(default=0)
    identity = models.TextField(default="")  # who it said we are
    # The circuit breaker: how often in a row it could not be reached, and until when it is not asked.
    failures = models.PositiveIntegerField(default=0)
    rests_until = models.DateTimeField(null=True)
    paused_at = models.DateTimeField(null=True)
    paused_why = models.TextField(default="", blank=True)
    asked_at = models.DateTimeField(null=True)  # when a person asked for a run by a button

    class Meta:
        verbose_name = "system"

    def __str__(self) -> str:
        return self.system


class Cursor(models.Model):
    """How far a mapping's runs have come in one direction, committed with what was read or written up to there."""

    class Direction(models.TextChoices):
        PULL = "pull"
        PUSH = "push"

    system = models.TextField()
    mapping = models.TextField()
    direction = models.TextField(choices=Direction.choices)
    state = models.JSONField(default=dict)  # the connector's own for a pull; ours for a push
    fingerprint = models.TextField(default="")  # of the mapping that read so far
    midway = models.BooleanField(default=False)  # in the middle of a pass
    whole = models.BooleanField(default=False)  # of a pass that began at the beginning, so that it sees every key
    swept_at = models.DateTimeField(null=True)  # when keys were last compared, so that deletions showed

    class Meta:
        constraints = [models.UniqueConstraint(fields=["system", "mapping", "direction"], name="cursor_unique")]

    def __str__(self) -> str:
        return f"{self.system} {self.mapping} {self.direction}"


class Run(models.Model):
    """One execution of `sync_legacy`. Author `run:<system>:<id>` in the history of the rows that it wrote."""

    class State(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        PARTIAL = "partial", "done, but some records failed"
        UNREACHABLE = "unreachable", "the system could not be reached"
        MISCONFIGURED = "misconfigured", "wrong configuration"
        STOPPED = "stopped", "stopped for safety: a person must look"
        PAUSED = "paused", "the system is paused"
        KILLED = "killed", "ended without a word"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    system = models.TextField()
    state = models.TextField(choices=State.choices, default=State.RUNNING)
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    counts = models.JSONField(default=dict)  # {mapping: {what happened: how many records}}
    error = models.TextField(default="", blank=True)
    fence = models.BigIntegerField(default=0)
    trigger = models.TextField(default="command")  # command, every, schedule, button, webhook, rollback
    cursors = models.JSONField(default=dict)  # {mapping: the pull's cursor before it}, to go back to
    undoes = models.ForeignKey("self", models.SET_NULL, null=True, related_name="undone_by")

    class Meta:
        permissions = [
            ("run_system", "Can start runs, and pause and resume systems"),
            ("roll_back_run", "Can roll a run back"),
        ]
        indexes = [models.Index(fields=["system", "-started_at"], name="run_latest")]

    def __str__(self) -> str:
        return f"{self.system} {self.id}"

    @property
    def author(self) -> str:
        return f"run:{self.system}:{self.id}"


class Forgotten(models.Model):
    """A link that a run took away, since one of the two was gone: `--rollback` puts it back with the row."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="forgotten")
    system = models.TextField()
    mapping = models.TextField()
    key = models.TextField()
    row = models.UUIDField()
    agreed = models.JSONField(default=dict)
    parent = models.UUIDField(null=True)

    def __str__(self) -> str:
        return f"{self.mapping} {self.row} was {self.system} {self.key}"


class Plan(models.Model):
    """What the last dry run of a system would have changed, for a person to look at: `sync_legacy --dry-run --keep`."""

    system = models.TextField(primary_key=True)
    asked_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    state = models.TextField(default="", blank=True)  # of the run
    error = models.TextField(default="", blank=True)
    counts = models.JSONField(default=dict)
    # The first changes of each mapping, way and kind (legacy.exchange.Change), and of the rest how many.
    changes = models.JSONField(default=list, encoder=Encoder, decoder=Decoder)
    rest = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"plan of {self.system}"


class Waiting(models.Model):
    """A record's change that was read and is not applied yet: the plan of a run, kept with its cursor.

    What would change or delete rows waits here until the run has seen all of it and knows that it is not too much.
    """

    system = models.TextField()
    mapping = models.TextField()
    key = models.TextField()
    # Of the record, by place; null: it is gone, or only known by its key.
    values = models.JSONField(null=True, encoder=Encoder, decoder=Decoder)
    marker = models.TextField(default="")
    gone = models.BooleanField(default=False)
    read_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["system", "mapping", "key"], name="waiting_unique")]

    def __str__(self) -> str:
        return f"{self.mapping} {self.key} of {self.system}"


class SweptKey(models.Model):
    """A key that a pass over all of a source has seen so far: a linked record without one is gone."""

    system = models.TextField()
    mapping = models.TextField()
    key = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["system", "mapping", "key"], name="swept_key_unique")]

    def __str__(self) -> str:
        return self.key


class DeadLetter(models.Model):
    """A record that could not be taken over or sent: it waits here, is tried again, and holds nothing else up."""

    class Kind(models.TextChoices):
        FAILED = "failed", "could not be taken over or sent"
        UNCLEAR = "unclear", "may be one of several rows: a person must say which"
        LOOP = "loop", "goes round and round between systems"
        IGNORED = "ignored", "left alone, as a person said"

    system = models.TextField()
    mapping = models.TextField()
    direction = models.TextField(choices=Cursor.Direction.choices)
    key = models.TextField()  # their key for a pull, our row's id for a push
    kind = models.TextField(choices=Kind.choices, default=Kind.FAILED)
    error = models.TextField()
    # The record as it was read, or the row as it was to be sent.
    payload = models.JSONField(encoder=Encoder, decoder=Decoder)
    candidates = models.JSONField(default=list)  # of an unclear one: the ids of our rows that it may be
    said = models.TextField(null=True)  # and what a person said: the id of one, or nothing for a new row
    # The record as a person mended it: what is taken over, as long as it is over there as it was read.
    mended = models.JSONField(null=True, encoder=Encoder, decoder=Decoder)
    attempts = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField(db_default=Now())
    next_at = models.DateTimeField(null=True)  # none: only when a person says so
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="dead_letters")

    class Meta:
        permissions = [("decide_deadletter", "Can retry, mend and discard dead letters, and say what a record is")]
        constraints = [
            models.UniqueConstraint(fields=["system", "mapping", "direction", "key"], name="dead_letter_unique")
        ]

    def __str__(self) -> str:
        return f"{self.mapping} {self.key}: {self.error}"
