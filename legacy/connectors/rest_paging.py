"""How a list comes in pages, and how none of it is lost when records move between them while it is read.

Where pages are counted, a record that is deleted, or that an edit moves to the end, pulls all behind it one place
forward: the first of the next page is then never shown. So each page must join the one before: read again, that one
must still end with a record that we had from it. Where it does not, we go back and read on from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from legacy.connector import Misconfigured, Unreachable
from legacy.connectors.rest_http import Answer
from legacy.connectors.rest_places import ABSENT, value_at

PAGE_RECORDS = 100  # asked for; what comes is taken as it is
STEPS_BACK_MAX = 50  # more than half as many as pages that join
RESTARTS_MAX = 5  # of one list in one run

At = Any  # where a page begins: JSON, understood by its paging alone
State = dict[str, Any]
Query = Mapping[str, str]


class Expired(Exception):
    """A page that we were on the way to is not to be had any more."""


@dataclass(frozen=True)
class Leaf:
    """One page as it came: raw records, their keys, and where the next begins; None where this is the last."""

    raws: list[dict[str, Any]]
    keys: list[str]
    after: At | None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """One answer has all."""

    kind: ClassVar[Literal["page", "offset", "cursor", "link", "whole"]] = "whole"
    first: At = 0
    shifts: bool = False  # whether a change can move records from one page to another
    overlaps: ClassVar[bool] = False  # whether a page begins with the last record of the one before

    def ask(self, _at: At, path: str, query: Query, /) -> tuple[str, Query]:
        return path, query

    def after(self, _at: At, _answer: Answer, _keys: list[str], /) -> At | None:
        return None


@dataclass(frozen=True, kw_only=True)
class PageNumber(Whole):
    """`page=1`, `page=2`, … until one is empty, or the place `more` is not true."""

    kind = "page"
    param: str = "page"
    size_param: str = "per_page"
    size: int = PAGE_RECORDS
    more: str = ""
    first: At = 1
    shifts: bool = True

    def ask(self, at: At, path: str, query: Query, /) -> tuple[str, Query]:
        return path, {**query, **_sized(self), self.param: str(at)}

    def after(self, at: At, answer: Answer, keys: list[str], /) -> At | None:
        return at + 1 if keys and _more(self.more, answer) else None


@dataclass(frozen=True, kw_only=True)
class Offset(Whole):
    """`offset=0`, `offset=99`, …: each page begins with the last record of the one before, to show that they join."""

    kind = "offset"
    param: str = "offset"
    size_param: str = "limit"
    size: int = PAGE_RECORDS
    more: str = ""
    shifts: bool = True
    overlaps = True

    def __post_init__(self) -> None:
        if self.size < 2:
            raise Misconfigured("An Offset's size must be 2 or more: its pages overlap by one.")

    def ask(self, at: At, path: str, query: Query, /) -> tuple[str, Query]:
        return path, {**query, **_sized(self), self.param: str(at)}

    def after(self, at: At, answer: Answer, keys: list[str], /) -> At | None:
        # Counted by what came, not by what was asked for: many servers cap it. Less than asked for is not the end.
        return at + len(keys) - 1 if len(keys) > 1 and _more(self.more, answer) else None


@dataclass(frozen=True, kw_only=True)
class Cursor(Whole):
    """The place `next` has what to send as `param` for the next page; without it, the last record's key is sent."""

    kind = "cursor"
    param: str = "cursor"
    next: str = ""
    size_param: str = "limit"
    size: int = PAGE_RECORDS
    more: str = ""
    first: At = ""

    def ask(self, at: At, path: str, query: Query, /) -> tuple[str, Query]:
        return path, {**query, **_sized(self), **({self.param: str(at)} if at else {})}

    def after(self, at: At, answer: Answer, keys: list[str], /) -> At | None:
        if not _more(self.more, answer):
            return None
        found = value_at(answer.body, self.next) if self.next else keys[-1] if keys else None
        if found in (ABSENT, None, ""):
            return None
        if str(found) == at:
            raise Misconfigured(f"{answer.call} answers the cursor that it was asked with: is it {self.param!r}?")
        return str(found)


@dataclass(frozen=True, kw_only=True)
class LinkHeader(Whole):
    """The header `Link` with rel="next", or the place `body`, has the address of the next page.

    `shifts=False`: the links hold cursors, and not page numbers or offsets in disguise.
    """

    kind = "link"
    body: str = ""
    size_param: str = "per_page"
    size: int = PAGE_RECORDS
    first: At = ""
    shifts: bool = True

    def ask(self, at: At, path: str, query: Query, /) -> tuple[str, Query]:
        return (at, {}) if at else (path, {**query, **_sized(self)})

    def after(self, _at: At, answer: Answer, _keys: list[str], /) -> At | None:
        found = value_at(answer.body, self.body) if self.body else answer.next_link
        if found in (ABSENT, None, ""):
            return None
        target = answer.url.join(str(found))
        if target.host != answer.url.host:
            raise Misconfigured(f"{answer.call} links to a page on {target.host}, which is not told who we are.")
        for name in answer.private:
            target = target.copy_remove_param(name)
        # Scheme and port stay ours: behind a proxy, many a server does not know its own.
        return str(target.copy_with(scheme=answer.url.scheme, netloc=answer.url.netloc, fragment=None))


Paging = Whole | PageNumber | Offset | Cursor | LinkHeader


@dataclass
class Patience:
    """How often one reading of a list may still go back. A page that joins gives some of it back, so that a long list
    may move often, and one that moves faster than it is read does not keep a run for ever. The next run has its own.
    """

    steps: int = STEPS_BACK_MAX
    restarts: int = RESTARTS_MAX

    def joined(self) -> None:
        self.steps = min(self.steps + 1, STEPS_BACK_MAX)

    def stepped_back(self) -> None:
        """Raises Unreachable."""
        self.steps -= 2
        if self.steps < 0:
            raise Unreachable("The list changes faster than it can be read: records keep moving between its pages.")

    def restarted(self, reason: str) -> None:
        """Raises Unreachable."""
        self.restarts -= 1
        if self.restarts < 0:
            raise Unreachable(f"The list cannot be read to its end: {reason}")


def turn(paging: Paging, ask: Callable[[At], Leaf], state: State, patience: Patience) -> tuple[Leaf, State | None]:
    """The page that `state` is before ({}: the first one), and the state after it; None where it was the last.

    Raises Unreachable where the list changes faster than it can be read.
    """
    at = state.get("at", paging.first)
    try:
        leaf = ask(at)
        if state and paging.shifts:
            at, leaf = _joined(paging, ask, state, leaf, patience)
    except Expired as error:
        patience.restarted(str(error))
        at, leaf = paging.first, ask(paging.first)
    return leaf, None if leaf.after is None else {"at": leaf.after, "before": at, "tail": leaf.keys}


def _joined(paging: Paging, ask: Callable[[At], Leaf], state: State, leaf: Leaf, patience: Patience) -> tuple[At, Leaf]:
    """The page, where it joins the one before; else that one as it is now, or the first where that does not join."""
    tail = state["tail"]
    before = None if paging.overlaps else ask(state["before"])
    edge = before.keys[-1:] if before else leaf.keys[:1]
    if set(edge) & set(tail):
        if leaf.keys == tail and len(tail) > paging.overlaps:
            raise Misconfigured("The API answers the same page again and again: is its paging as declared?")
        patience.joined()
        return state["at"], leaf
    before = before or ask(state["before"])
    if set(before.keys) & set(tail):
        patience.stepped_back()
        return state["before"], before
    patience.restarted("records keep moving by more than a page, faster than it can be read.")
    return paging.first, ask(paging.first)


def _sized(paging: PageNumber | Offset | Cursor | LinkHeader) -> dict[str, str]:
    return {paging.size_param: str(paging.size)} if paging.size_param else {}


def _more(place: str, answer: Answer) -> bool:
    return not place or value_at(answer.body, place) not in (ABSENT, None, False, 0, "")
