"""The systems that this deployment is connected to: what the modules named by LEGACY_SYSTEMS declare."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from django.conf import settings

from legacy.check import check
from legacy.connector import Connector, Misconfigured
from legacy.mapping import Mapping
from legacy.webhooks.hook import Hook


@dataclass(frozen=True)
class System:
    """One counterpart. `rank`: the first is 1; what a higher one said is not overruled by a lower one."""

    name: str  # lower-case letters, digits and hyphens: it stands in the history as an author
    connect: Callable[[], Connector]
    mappings: tuple[Mapping, ...]
    rank: int = 1
    webhook: Hook | None = None  # how it tells of changes by itself


@cache
def declared() -> tuple[System, ...]:
    """What the modules in LEGACY_SYSTEMS have in `SYSTEMS`, in their order. Raises Misconfigured."""
    found: list[System] = []
    for name in settings.LEGACY_SYSTEMS:
        try:
            found += import_module(name).SYSTEMS
        except (ImportError, AttributeError) as error:
            raise Misconfigured(f"LEGACY_SYSTEMS names {name}, which has no SYSTEMS: {error}") from None
    names = [each.name for each in found]
    for each in found:
        if not each.name.replace("-", "").isalnum() or each.name != each.name.lower() or names.count(each.name) > 1:
            raise Misconfigured(
                f"The name {each.name!r} of a system must be its own: lower-case letters, digits and -."
            )
    return tuple(found)


def ranks() -> dict[str, int]:
    """The rank of every system, by name."""
    return {each.name: each.rank for each in declared()}


def system(name: str) -> System:
    """Raises Misconfigured for a system that there is not, or whose mappings cannot work."""
    found = next((each for each in declared() if each.name == name), None)
    if found is None:
        raise Misconfigured(f"There is no system {name!r}; there is: {', '.join(each.name for each in declared())}.")
    check(found.mappings)
    return found
