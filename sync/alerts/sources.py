"""More to alert of and to measure than devices, conflicts and the quarantine: modules that SYNC_ALERT_SOURCES names.

What stands upon `sync` is not known to it; so such a module has the four functions of `Source`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Protocol, cast

from django.conf import settings
from prometheus_client.core import Metric

from sync.models import Alert


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that needs attention, as an alert has it."""

    kind: str
    subject: str
    since: datetime
    count: int


class Source(Protocol):
    KINDS: Mapping[str, str]  # kind of an alert → what it says, such as `a system is not reached`

    def found(self, now: datetime) -> Iterable[Finding]:
        """What needs attention now."""

    def sentence(self, alert: Alert) -> str:
        """The alert in words, without its end and since when."""

    def path(self, alert: Alert) -> str:
        """Where in the admin a person can do something about it."""

    def metrics(self, now: datetime) -> Iterable[Metric]:
        """What `/metrics` tells of it."""


def sources() -> list[Source]:
    """Those that the settings name. Raises ImportError for one that there is not."""
    return [cast(Source, import_module(name)) for name in settings.SYNC_ALERT_SOURCES]


def source_of(kind: str) -> Source | None:
    """The one that knows of a kind of alert; None where sync itself does, or nobody any more."""
    return next((each for each in sources() if kind in each.KINDS), None)
