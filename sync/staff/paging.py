"""Pages of a list by a cursor: each costs the same however far it is, and no row is told twice or left out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.core import signing
from django.db.models import Q, QuerySet
from rest_framework.request import Request

from syncserver.errors import Problem

_SALT = "sync.staff"


class Order(NamedTuple):
    """`fields`: by what a list may be ordered, none of which is ever null; the first is the default, newest first.

    `tie`: what tells rows apart that are equal in it.
    """

    fields: Sequence[str]
    tie: str = "id"
    descending: bool = True

    @property
    def choices(self) -> list[str]:
        return [sign + name for name in self.fields for sign in ("-", "")]

    @property
    def default(self) -> str:
        return ("-" if self.descending else "") + self.fields[0]


def page_of(records: "QuerySet[Any]", request: Request, order: Order) -> tuple[list[Any], str | None]:
    """The page that a request asks for, and the cursor of the next one; None: this is the last.

    Raises Problem `invalid_request` for a limit, an ordering or a cursor that cannot be.
    """
    limit = _limit(request.query_params.get("limit"))
    ordering = request.query_params.get("ordering", order.default)
    if ordering not in order.choices:
        raise Problem("invalid_request", f"`ordering` must be one of {', '.join(order.choices)}.", field="ordering")
    name, sign = ordering.removeprefix("-"), ordering[: ordering.startswith("-")]
    if cursor := request.query_params.get("cursor"):
        records = records.filter(_after(cursor, ordering, order.tie))
    found = list(records.order_by(ordering, f"{sign}{order.tie}")[: limit + 1])
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    place = [ordering, *(_plain(getattr(last, field)) for field in (name, order.tie))]
    return found[:limit], signing.dumps(place, salt=_SALT)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int) else value.isoformat() if hasattr(value, "isoformat") else str(value)


def _after(cursor: str, ordering: str, tie: str) -> Q:
    try:
        made_for, value, last = signing.loads(cursor, salt=_SALT)
    except signing.BadSignature:
        made_for = None
    if made_for != ordering:
        raise Problem("invalid_request", "`cursor` is none of this server, or of another ordering.", field="cursor")
    name, beyond = ordering.removeprefix("-"), "lt" if ordering.startswith("-") else "gt"
    # The first condition is the one that an index serves.
    return Q(**{f"{name}__{beyond}e": value}) & (Q(**{f"{name}__{beyond}": value}) | Q(**{f"{tie}__{beyond}": last}))


def _limit(text: str | None) -> int:
    if text is None:
        return settings.SYNC_STAFF_ROWS_DEFAULT
    most = settings.SYNC_STAFF_ROWS_MAX
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise Problem("invalid_request", f"`limit` must be a whole number from 1 to {most}.", field="limit")
    return int(text)
