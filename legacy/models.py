"""What `sync_legacy` keeps between runs. Systems themselves are configured, not stored: see `legacy.systems`."""

import uuid

from django.db import models
from django.db.models.functions import Now


class Link(models.Model):
    """One of our rows and one of their records are the same thing."""

    system = models.TextField()
    mapping = models.TextField()
    row = models.UUIDField()
    key = models.TextField()  # theirs
    # What both sides looked like when they last agreed, in our terms (legacy.mapping.Document), and its digest.
    agreed = models.JSONField(default=dict)
    digest = models.TextField(default="")
    # For what belongs to a record, such as an order's line: the row of that record.
    parent = models.UUIDField(null=True)
    agreed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["system", "mapping", "key"], name="link_key_unique"),
            models.UniqueConstraint(fields=["system", "mapping", "row"], name="link_row_unique"),
        ]
        indexes = [models.Index(fields=["parent"], condition=models.Q(parent__isnull=False), name="link_parent")]

    def __str__(self) -> str:
        return f"{self.mapping} {self.row} is {self.system} {self.key}"


class Cursor(models.Model):
    """How far a mapping's runs have come in one direction, committed with what was read or written up to there."""

    class Direction(models.TextChoices):
        PULL = "pull"
        PUSH = "push"

    system = models.TextField()
    mapping = models.TextField()
    direction = models.TextField(choices=Direction.choices)
    state = models.JSONField(default=dict)  # the connector's own for a pull; ours for a push

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
        KILLED = "killed", "ended without a word"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    system = models.TextField()
    state = models.TextField(choices=State.choices, default=State.RUNNING)
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    counts = models.JSONField(default=dict)  # {mapping: {what happened: how many records}}
    error = models.TextField(default="", blank=True)

    class Meta:
        indexes = [models.Index(fields=["system", "-started_at"], name="run_latest")]

    def __str__(self) -> str:
        return f"{self.system} {self.id}"

    @property
    def author(self) -> str:
        return f"run:{self.system}:{self.id}"


class DeadLetter(models.Model):
    """A record that could not be taken over or sent: it waits here, is tried again, and holds nothing else up."""

    system = models.TextField()
    mapping = models.TextField()
    direction = models.TextField(choices=Cursor.Direction.choices)
    key = models.TextField()  # their key for a pull, our row's id for a push
    error = models.TextField()
    payload = models.JSONField()  # the record as it was read, or the row as it was to be sent
    attempts = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField(db_default=Now())
    next_at = models.DateTimeField()
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="dead_letters")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["system", "mapping", "direction", "key"], name="dead_letter_unique")
        ]

    def __str__(self) -> str:
        return f"{self.mapping} {self.key}: {self.error}"
