"""Who is told of changes, and how far in the feed each has come."""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import URLValidator
from django.db import models
from django.utils import timezone


class Subscription(models.Model):
    """Another system that is told of changes, and its position in the feed.

    A run of pages brings it from `base` (all that is visible in it was told; none: nothing) to `target`. The page after
    (`at_xid`, `at_seq`) is the next; `to_xid` and `to_seq` are its end from the first try on, so that a page that is
    sent again holds nothing that it did not hold before.
    """

    class State(models.TextChoices):
        WELL = "well"
        FAILING = "failing", "failing: it is tried again"
        STOPPED = "stopped", "stopped: it was tried for three days"
        DISABLED = "disabled"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    url = models.CharField("address", max_length=500, validators=[URLValidator(["http", "https"])])
    entities = ArrayField(models.TextField())
    scopes = ArrayField(models.TextField(), default=list, blank=True)  # none: every row of the entities
    sealed = models.TextField(editable=False)  # its secret
    # Signs too, so that a new secret can be brought to the receiver without a pause.
    sealed_before = models.TextField(default="", editable=False)
    before_until = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False)
    enabled = models.BooleanField(default=True)

    # Its position.
    epoch = models.UUIDField(null=True, editable=False)  # of which database
    base = models.TextField(null=True, editable=False)
    target = models.TextField(null=True, editable=False)
    at_xid = models.TextField(default="0", editable=False)
    at_seq = models.BigIntegerField(default=0, editable=False)
    to_xid = models.TextField(null=True, editable=False)
    to_seq = models.BigIntegerField(null=True, editable=False)
    loads = models.PositiveIntegerField(default=0, editable=False)  # how often it began anew
    resets = models.BooleanField(default=False, editable=False)  # it is to be told so, before anything else

    # How it goes.
    attempts = models.PositiveSmallIntegerField(default=0, editable=False)  # of the page that is next
    next_at = models.DateTimeField(default=timezone.now, editable=False)
    leased_until = models.DateTimeField(null=True, editable=False)  # while a process delivers
    claim = models.UUIDField(null=True, editable=False)  # of that process
    failing_since = models.DateTimeField(null=True, editable=False)
    stopped_at = models.DateTimeField(null=True, editable=False)  # given up, until somebody resumes it
    error = models.TextField(default="", editable=False)  # of the last try that failed
    delivered_at = models.DateTimeField(null=True, editable=False)
    delivered = models.BigIntegerField(default=0, editable=False)  # changes, in all

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> State:
        if not self.enabled:
            return self.State.DISABLED
        if self.stopped_at:
            return self.State.STOPPED
        return self.State.FAILING if self.failing_since else self.State.WELL
