"""The systems that this deployment is connected to: made from the settings `LEGACY_*`."""

from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings

from legacy.connector import Connector, Misconfigured
from legacy.connectors.tryton import Tryton
from legacy.mapping import Mapping, check
from legacy.mappings import tryton


@dataclass(frozen=True)
class System:
    name: str
    connect: Callable[[], Connector]
    mappings: tuple[Mapping, ...]


def _tryton() -> Connector:
    return Tryton(settings.LEGACY_URL, settings.LEGACY_DATABASE, settings.LEGACY_USER, settings.LEGACY_PASSWORD)


SYSTEMS = (System("tryton", _tryton, tryton.MAPPINGS),)


def system(name: str) -> System:
    """Raises Misconfigured for a system that there is not, or whose mappings cannot work."""
    found = next((each for each in SYSTEMS if each.name == name), None)
    if found is None:
        raise Misconfigured(f"There is no system {name!r}; there is: {', '.join(each.name for each in SYSTEMS)}.")
    check(found.mappings)
    return found
