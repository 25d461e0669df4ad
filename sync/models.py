"""What sync keeps. The feed, the history and the results are written by SQL alone; here they are there to be read."""

import uuid
from typing import Any

from django.db import models


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

    class Meta:
        managed = False
        db_table = "sync_history"
        verbose_name_plural = "history"

    def __str__(self) -> str:
        return f"{self.entity} {self.row_id} rev {self.rev}"


class Conflict(models.Model):
    """A mutation that met changes its device had not seen: what each side had, and how it was decided."""

    class Decision(models.TextChoices):
        SERVER = "server", "kept the server's row"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    entity = models.TextField()
    row_id = models.UUIDField(db_index=True)
    mutation = models.UUIDField(unique=True)
    device = models.UUIDField(db_index=True)
    op = models.TextField()
    base_rev = models.BigIntegerField(null=True, blank=True)
    server_rev = models.BigIntegerField(null=True, blank=True)
    # The fields at stake, in wire form: as they were at `base_rev` (null: unknown), on the server, and from the device.
    base = models.JSONField(null=True, blank=True)
    server = models.JSONField(null=True, blank=True)
    device_values = models.JSONField()
    made_at = models.DateTimeField(null=True, blank=True)
    policy = models.TextField()
    decision = models.TextField(choices=Decision.choices)

    def __str__(self) -> str:
        return f"{self.entity} {self.row_id}"


class Rejection(models.Model):
    """The quarantine: a mutation that was refused, in full, with the reasons."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    mutation = models.UUIDField()
    digest = models.UUIDField()  # of its content: an id that was used twice is kept with both contents
    device = models.UUIDField(db_index=True)
    entity = models.TextField()
    row_id = models.UUIDField(db_index=True)
    body = models.TextField()  # the JSON as it came: jsonb could not hold every text
    errors = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["mutation", "digest"], name="sync_rejection_once")]

    def __str__(self) -> str:
        return f"{self.entity} {self.row_id}"
