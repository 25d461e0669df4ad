"""What webhooks keep: what came in, and the records that it was about."""

import uuid

from django.db import models
from django.db.models.functions import Now


class Operation(models.Model):
    """A webhook as it came: stored before it is answered, and known again when it comes twice."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    system = models.TextField()
    identity = models.TextField()  # an id that its sender signed, or else a digest of its body
    body = models.BinaryField()  # bytes: text of PostgreSQL could not hold every body
    came_at = models.DateTimeField(db_default=Now(), db_index=True)
    error = models.TextField(default="", blank=True)  # why nobody can tell which records it is about

    class Meta:
        constraints = [models.UniqueConstraint(fields=["system", "identity"], name="operation_once")]
        verbose_name = "incoming webhook"

    def __str__(self) -> str:
        return f"{self.system} {self.id}"


class Hint(models.Model):
    """One record that a webhook is about, and what became of it."""

    class State(models.TextChoices):
        WAITING = "waiting"
        DONE = "done"
        DEAD = "dead", "given up: a person must look"

    class Outcome(models.TextChoices):
        CREATED = "created"
        UPDATED = "updated"
        DELETED = "deleted"
        UNCHANGED = "unchanged", "nothing in it is news"
        FAILED = "failed", "could not be taken over; it waits as a dead letter"
        UNDECIDED = "undecided", "waits for a person's decision"
        HELD = "held", "deletions are too many; the next run stops for a person"
        KEPT = "kept", "gone there, and kept here"
        UNKNOWN = "unknown", "neither there nor here"
        NOT_TAKEN = "not_taken", "no record that is taken over"
        SUPERSEDED = "superseded", "something newer was known already"
        LEFT_TO_RUN = "left_to_run", "this system cannot be asked for one record; the next run brings it"

    operation = models.ForeignKey(Operation, models.CASCADE, related_name="hints")
    system = models.TextField()
    mapping = models.TextField()
    key = models.TextField()
    place = models.PositiveIntegerField()  # among the events of the body
    at = models.DateTimeField(null=True)  # when it happened, by the sender's clock
    state = models.TextField(choices=State.choices, default=State.WAITING)
    outcome = models.TextField(choices=Outcome.choices, default="", blank=True)
    error = models.TextField(default="", blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()  # when to take it up; while it is being worked on, when that lease runs out
    claim = models.UUIDField(null=True)  # of whoever works on it, or did last; none: nobody since it came (again)
    done_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            # Serves the claim of what is due.
            models.Index(fields=["system", "next_at"], condition=models.Q(state="waiting"), name="hint_due"),
            # Serves the order within a record.
            models.Index(fields=["system", "mapping", "key"], name="hint_record"),
        ]
        verbose_name = "record of a webhook"
        verbose_name_plural = "records of webhooks"

    def __str__(self) -> str:
        return f"{self.mapping} {self.key} of {self.system}"
