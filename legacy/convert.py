"""How one value becomes another and comes back: the third word of a mapping's line.

    F("active", "state", Values({"A": True, "X": False}))
    F("due_on", "faellig", Day("%d.%m.%Y"))
    F(("first_name", "last_name"), "name", Split(" "))

A conversion has `pull` (theirs to ours), `push` (ours to theirs) and `samples` (values of ours, held against the round
trip when a run starts). Both raise ValueError for a value that they cannot convert: that record becomes a dead letter.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import cached_property
from itertools import islice
from typing import Any, Protocol
from zoneinfo import ZoneInfo

VALUES_TOLD_MAX = 6  # of a value map, where one is not in it


class How(Protocol):
    """`rounds`: whether the way there and back may lose what their side does not keep, such as a finer scale."""

    @property
    def rounds(self) -> bool: ...

    @property
    def samples(self) -> tuple[Any, ...]: ...

    def pull(self, value: Any) -> Any: ...

    def push(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Values:
    """A value map, theirs to ours. What is empty stays empty where the map does not name it.

    Raises ValueError for any other value that is not in it.
    """

    map: Mapping[Any, Any]
    rounds: bool = field(default=False, init=False)

    @property
    def samples(self) -> tuple[Any, ...]:
        return tuple(self.map.values())

    @cached_property
    def _back(self) -> dict[Any, Any]:
        return {ours: theirs for theirs, ours in reversed(list(self.map.items()))}  # of several, the first one named

    def pull(self, value: Any) -> Any:
        return _look_up(self.map, value)

    def push(self, value: Any) -> Any:
        return _look_up(self._back, value)


def _look_up(known: Mapping[Any, Any], value: Any) -> Any:
    if value not in known:
        if value in (None, ""):
            return None
        some = ", ".join(map(repr, islice(known, VALUES_TOLD_MAX)))
        more = f", … ({len(known)} values)" if len(known) > VALUES_TOLD_MAX else ""
        raise ValueError(f"{value!r} is none of {some}{more}")
    return known[value]


@dataclass(frozen=True)
class Day:
    """A day as text, `strftime`'s way. An empty text is no day."""

    format: str = "%Y-%m-%d"
    rounds: bool = field(default=False, init=False)
    samples: tuple[Any, ...] = field(default=(dt.date(2024, 2, 29), dt.date(2026, 11, 1)), init=False)

    def pull(self, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            return value or None
        try:
            return dt.datetime.strptime(value, self.format).date()
        except ValueError:
            raise ValueError(f"{value!r} is no day as {self.format} has it") from None

    def push(self, value: Any) -> Any:
        return value.strftime(self.format) if value else None


@dataclass(frozen=True)
class Moment:
    """A moment on their clock, as text (`format`) or as a naive time: aware and in UTC here.

    In the hour that a daylight-saving night has twice, the first one is meant, as nothing tells them apart.
    """

    zone: str = "UTC"
    format: str = ""
    rounds: bool = field(default=True, init=False)  # their clock may not tell what ours does
    samples: tuple[Any, ...] = field(
        default=(dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC), dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)), init=False
    )

    def pull(self, value: Any) -> Any:
        if value in (None, ""):
            return None
        if isinstance(value, str):
            value = dt.datetime.strptime(value, self.format) if self.format else dt.datetime.fromisoformat(value)
        return (value if value.tzinfo else value.replace(tzinfo=ZoneInfo(self.zone))).astimezone(dt.UTC)

    def push(self, value: Any) -> Any:
        if value is None:
            return None
        there = value.astimezone(ZoneInfo(self.zone))
        return there.strftime(self.format) if self.format else there.replace(tzinfo=None, fold=0)


@dataclass(frozen=True)
class Number:
    """A number that they keep with `scale` digits after the point, perhaps as text with a comma, or in other units.

    Ours is theirs times `factor`: `Number(2, factor=Decimal("0.01"))` for cents. What their scale cannot hold is no
    difference, or the two sides would correct each other for ever.
    """

    scale: int
    comma: str = "."
    text: bool = False
    factor: Decimal = Decimal(1)
    rounds: bool = field(default=True, init=False)
    samples: tuple[Any, ...] = field(default=(Decimal(0), Decimal("12.5"), Decimal("-3")), init=False)

    def pull(self, value: Any) -> Any:
        if value in (None, ""):
            return None
        try:
            return Decimal(str(value).strip().replace(self.comma, ".")) * self.factor
        except InvalidOperation:
            raise ValueError(f"{value!r} is no number") from None

    def push(self, value: Any) -> Any:
        if value is None:
            return None
        there = (Decimal(value) / self.factor).quantize(Decimal(1).scaleb(-self.scale), ROUND_HALF_UP)
        return str(there).replace(".", self.comma) if self.text or self.comma != "." else there


@dataclass(frozen=True)
class Money(Number):
    """An amount with its currency beside it in one text, `12.50 EUR`. Raises ValueError for another currency."""

    currency: str = "EUR"

    def pull(self, value: Any) -> Any:
        if value in (None, ""):
            return None
        amount, _, currency = str(value).rpartition(" ")
        if currency != self.currency:
            raise ValueError(f"{value!r} is not in {self.currency}")
        return super().pull(amount)

    def push(self, value: Any) -> Any:
        amount = super().push(value)
        return None if amount is None else f"{amount} {self.currency}"


@dataclass(frozen=True)
class Split:
    """Several fields of ours in one of theirs, by a separator; what is more goes to the last."""

    by: str = " "
    rounds: bool = field(default=False, init=False)
    samples: tuple[Any, ...] = field(default=(), init=False)

    def pull(self, value: Any) -> Any:
        first, _, rest = (value or "").partition(self.by)
        return first, rest

    def push(self, value: Any) -> Any:
        return self.by.join(part for part in value if part) or None


@dataclass(frozen=True)
class Join:
    """One field of ours in several of theirs, by a separator; what is more goes to the last."""

    by: str = " "
    rounds: bool = field(default=False, init=False)
    samples: tuple[Any, ...] = field(default=(), init=False)

    def pull(self, value: Any) -> Any:
        return self.by.join(part for part in value if part)

    def push(self, value: Any) -> Any:
        first, _, rest = (value or "").partition(self.by)
        return first or None, rest or None


@dataclass(frozen=True)
class Always:
    """A constant: of ours, where `theirs` is empty; of theirs, where `ours` is."""

    value: Any
    rounds: bool = field(default=False, init=False)
    samples: tuple[Any, ...] = field(default=(), init=False)

    def pull(self, value: Any) -> Any:  # noqa: ARG002 - whatever it is
        return self.value

    def push(self, value: Any) -> Any:  # noqa: ARG002
        return self.value


@dataclass(frozen=True)
class By:
    """A deployment's own functions. Without `back` the line goes one way. `samples`: values of ours for the check."""

    there: Callable[..., Any]
    back: Callable[[Any], Any] | None = None
    rounds: bool = False
    samples: tuple[Any, ...] = ()

    def __str__(self) -> str:
        back = f", back by {_name(self.back)}()" if self.back else ""
        return f"{_name(self.there)}(){back}"

    def pull(self, value: Any) -> Any:
        return self.there(value)

    def push(self, value: Any) -> Any:
        return self.back(value) if self.back else value


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
