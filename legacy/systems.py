"""The systems that this deployment is connected to: what the modules named by LEGACY_SYSTEMS declare.

What is declared as `Many` is as many systems as it has branches in the database.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from traceback import extract_tb

from django.conf import settings

from legacy.branches import address
from legacy.branches.models import Branch
from legacy.check import check
from legacy.connector import Connector, Misconfigured, Unreachable
from legacy.mapping import Mapping
from legacy.schedule import problem
from legacy.webhooks.hook import Hook


@dataclass(frozen=True)
class System:
    """One counterpart. `rank`: the first is 1; what a higher one said is not overruled by a lower one."""

    name: str  # lower-case letters, digits and hyphens: it stands in the history as an author
    connect: Callable[[], Connector]
    mappings: tuple[Mapping, ...]
    rank: int = 1
    webhook: Hook | None = None  # how it tells of changes by itself
    schedule: str = ""  # when the worker runs it, as cron has it; empty: the worker does not, cron itself may
    zone: str = "UTC"  # whose clock that is
    timeout_seconds: int = 0  # a run is cut off after that; 0: LEGACY_TIMEOUT_SECONDS beside others, alone never
    enabled: bool = True
    hide: Callable[[str], str] = str  # the text of an error, without what nobody may read

    def connected(self) -> Connector:
        """Raises Misconfigured whatever a `connect` of the deployment raises, but Unreachable."""
        try:
            return self.connect()
        except (Misconfigured, Unreachable):
            raise
        except Exception as error:
            raise Misconfigured(f"{self.name} cannot be connected to: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Many:
    """The template of many systems of one kind. Each is a row of `Branch`, and its system is `<kind>-<name>`.

    `mappings` may be made for each branch, where a constant or a natural key is its own:
    `lambda branch: (..., F("number", "number", By(lambda number: f"{branch.name}-{number}")))`.
    """

    kind: str  # lower-case letters, digits and hyphens
    connect: Callable[[Branch], Connector]  # by `branch.url` and `branch.parameters`
    mappings: tuple[Mapping, ...] | Callable[[Branch], tuple[Mapping, ...]]
    rank: int = 1
    schedule: str = ""  # of a branch that has none of its own; empty: due whenever cron asks
    zone: str = "UTC"
    timeout_seconds: int = 0  # of a branch that says nothing else; 0: LEGACY_TIMEOUT_SECONDS
    schemes: tuple[str, ...] = ("https", "postgresql", "mariadb", "mysql")  # that an administrator may enter

    def system(self, branch: Branch) -> System:
        """Its address is read when it is connected to, not before."""
        return System(
            name=branch.full_name,
            connect=lambda: self._connected(branch),
            mappings=self.mappings(branch) if callable(self.mappings) else self.mappings,
            rank=self.rank,
            schedule=branch.schedule or self.schedule,
            zone=branch.zone or self.zone,
            timeout_seconds=branch.timeout_seconds or self.timeout_seconds or settings.LEGACY_TIMEOUT_SECONDS,
            enabled=branch.enabled,
            hide=branch.without_secrets,
        )

    def _connected(self, branch: Branch) -> Connector:
        if wrong := address.problem(branch.url, self.schemes):
            raise Misconfigured(wrong)  # what a variable of the environment holds was not looked at before
        return self.connect(branch)


@cache
def modules() -> tuple[System | Many, ...]:
    """What the modules in LEGACY_SYSTEMS have in `SYSTEMS`, in their order. Raises Misconfigured."""
    found: list[System | Many] = []
    for name in settings.LEGACY_SYSTEMS:
        try:
            found += import_module(name).SYSTEMS
        except Exception as error:  # whatever a module of the deployment does wrong
            raise Misconfigured(f"LEGACY_SYSTEMS names {name}: {_told(name, error)}") from None
    names = [_name(each) for each in found]
    for name in names:
        if not name.replace("-", "").isalnum() or name != name.lower() or names.count(name) > 1:
            raise Misconfigured(f"The name {name!r} of a system must be its own: lower-case letters, digits and -.")
    return tuple(found)


def _told(module: str, error: Exception) -> str:
    """What went wrong when a module was read, and in which of its lines."""
    file = f"{module.replace('.', '/')}.py"
    lines = [step.lineno for step in extract_tb(error.__traceback__) if step.filename.endswith(file)]
    what = str(error) if isinstance(error, Misconfigured) else f"{type(error).__name__}: {error}"
    return f"{what} (line {lines[-1]})" if lines else what


def _name(found: System | Many) -> str:
    return found.name if isinstance(found, System) else found.kind


def templates() -> dict[str, Many]:
    """The template of each kind. Raises Misconfigured. Asks the database nothing."""
    return {each.kind: each for each in modules() if isinstance(each, Many)}


def single() -> tuple[System, ...]:
    """The systems that are no branches. Raises Misconfigured. Asks the database nothing."""
    return tuple(each for each in modules() if isinstance(each, System))


def first_name() -> str:
    """The system that is meant where none is named; empty where all are branches, or nothing can be read."""
    try:
        return next((each.name for each in single()), "")
    except Misconfigured:  # which `system` tells whoever does anything; a command's --help is to be had all the same
        return ""


def of_kind(kind: str) -> tuple[System, ...]:
    """The systems of all branches of a kind, in order of name. Raises Misconfigured for a kind that there is not."""
    if kind not in templates():
        raise Misconfigured(f"There is no kind {kind!r}; there is: {', '.join(templates()) or 'none'}.")
    return tuple(templates()[kind].system(branch) for branch in Branch.objects.filter(kind=kind))


def declared() -> tuple[System, ...]:
    """Every system: those of the modules, then the branches of each kind. Raises Misconfigured."""
    branches = Branch.objects.filter(kind__in=kinds) if (kinds := templates()) else ()
    return single() + tuple(kinds[branch.kind].system(branch) for branch in branches)


def ranks() -> dict[str, int]:
    """The rank of every system, by name."""
    found = {each.name: each.rank for each in single()}
    if kinds := templates():
        branches = Branch.objects.filter(kind__in=kinds).values_list("system", "kind")
        found = {name: kinds[kind].rank for name, kind in branches} | found
    return found


def system(name: str) -> System:
    """Raises Misconfigured for a system that there is not, or whose schedule or mappings cannot work."""
    found = next((each for each in single() if each.name == name), None)
    if found is None and (kinds := templates()):
        branch = Branch.objects.filter(kind__in=kinds, system=name).first()
        found = kinds[branch.kind].system(branch) if branch else None
    if found is None:
        there = [_name(each) + ("-…" if isinstance(each, Many) else "") for each in modules()]
        raise Misconfigured(f"There is no system {name!r}; LEGACY_SYSTEMS declares {', '.join(there) or 'none'}.")
    if wrong := problem(found.schedule, found.zone):
        raise Misconfigured(f"{name}: {wrong}")
    check(found.mappings)
    return found
