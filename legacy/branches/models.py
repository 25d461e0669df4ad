"""The branches of a kind, as rows."""

from urllib.parse import quote, unquote, urlsplit

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Value
from django.db.models.functions import Concat, Now

from legacy.branches.address import resolved
from legacy.connector import Misconfigured
from legacy.secret import seal, unseal

TIMEOUT_SECONDS_MAX = 24 * 3600
HIDDEN = "***"

slug = RegexValidator(r"\A[a-z0-9]+(-[a-z0-9]+)*\Z", "Lower-case letters and digits, with single hyphens between.")


class Branch(models.Model):
    """One of many systems of a kind. The template of the kind (`legacy.systems.Many`) says all that they share."""

    kind = models.TextField()
    name = models.CharField(max_length=60, validators=[slug])
    # What links, cursors, runs and dead letters are kept under; kind and name therefore never change.
    system = models.GeneratedField(
        expression=Concat(F("kind"), Value("-"), F("name")),
        output_field=models.TextField(),
        db_persist=True,
        unique=True,
    )
    title = models.CharField(max_length=120, blank=True, default="", help_text="What people call it.")
    address = models.TextField(editable=False)  # sealed, see `url`
    parameters = models.JSONField(
        blank=True, default=dict, help_text="What else its template asks for; no secrets: this is shown."
    )
    enabled = models.BooleanField(default=True, help_text="Whether it is read and written at all.")
    schedule = models.CharField(
        max_length=100, blank=True, default="", help_text="As cron has it, such as */15 6-22 * * *; empty: as its kind."
    )
    zone = models.CharField(
        max_length=60,
        blank=True,
        default="",
        help_text="Whose clock that is, such as Europe/Berlin; empty: as its kind.",
    )
    timeout_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(TIMEOUT_SECONDS_MAX)],
        help_text="A run is cut off after that; empty: as its kind.",
    )
    notes = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["kind", "name"]
        verbose_name_plural = "branches"

    def __str__(self) -> str:
        return self.title or self.full_name

    @property
    def full_name(self) -> str:
        """The name of its system; also of one that is not saved yet."""
        return f"{self.kind}-{self.name}"

    @property
    def url(self) -> str:
        """Where it is reached, password and all: for connectors, not to be shown. Raises Misconfigured."""
        return resolved(unseal(self.address))

    @url.setter
    def url(self, given: str) -> None:
        self.address = seal(given)

    def without_secrets(self, text: str) -> str:
        """The text of an error without this branch's address and password, whoever put them there."""
        try:
            url = self.url
        except Misconfigured:
            return text
        try:
            password = urlsplit(url).password or ""
        except ValueError:
            password = ""
        for secret in (url, password, unquote(password), quote(unquote(password))):
            text = text.replace(secret, HIDDEN) if secret else text
        return text
