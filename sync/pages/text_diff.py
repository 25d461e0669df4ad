"""What differs between two texts, in runs of words: a pure function, bounded for long texts."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

TOKENS_MAX = 10_000  # of both texts, compared one by one, which takes up to 50 ms; 10,000 characters of prose are fewer
EXACT_TOKENS_MAX = 1_000  # beyond it, what is everywhere (a space, an article) is no reason for a match
ALIKE_MIN = 0.4  # two short texts that have less than this in common differ as a whole: scattered marks help nobody

Kind = Literal["same", "removed", "added"]
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_LINES = re.compile(r"[^\n.!?]*[\n.!?]+\s*|[^\n.!?]+")


class Run(NamedTuple):
    """A stretch of text that is in both, in the first alone or in the second alone."""

    kind: Kind
    text: str


def runs(before: str, after: str) -> list[Run]:
    """The way from one text to the other: without what is "added" it is `before`, without what is "removed" `after`."""
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    start, end = _at_word(before, after, start), _from_word(before, after, end, start)
    found = [Run("same", before[:start])]
    found += _middle(before[start : len(before) - end], after[start : len(after) - end])
    found += [Run("same", before[len(before) - end :])]
    return _joined(found)


def _middle(before: str, after: str) -> Iterator[Run]:
    """The runs of what lies between the common start and end."""
    pieces = _pieces(before, after)
    if pieces is None:
        yield from (Run("removed", before), Run("added", after))
        return
    one, other = pieces
    matcher = SequenceMatcher(None, one, other, autojunk=len(one) + len(other) > EXACT_TOKENS_MAX)
    if matcher.quick_ratio() < ALIKE_MIN:
        yield from (Run("removed", before), Run("added", after))
        return
    for tag, from_one, to_one, from_other, to_other in matcher.get_opcodes():
        if tag == "equal":
            yield Run("same", "".join(one[from_one:to_one]))
        else:
            yield Run("removed", "".join(one[from_one:to_one]))
            yield Run("added", "".join(other[from_other:to_other]))


def _pieces(before: str, after: str) -> tuple[Sequence[str], Sequence[str]] | None:
    """Both texts in words, or in sentences where those are too many; None where even these are."""
    for pattern in (_WORDS, _LINES):
        one, other = pattern.findall(before), pattern.findall(after)
        if len(one) + len(other) <= TOKENS_MAX:
            return one, other
    return None


def _common(one: str, other: str) -> int:
    """The length of the common start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        half = (low + high + 1) // 2
        low, high = (half, high) if one[:half] == other[:half] else (low, half - 1)
    return low


def _at_word(before: str, after: str, start: int) -> int:
    """The end of the common start, moved back so that no word is cut in two."""
    while start and _inside_word(before, start, after):
        start -= 1
    return start


def _from_word(before: str, after: str, end: int, start: int) -> int:
    """The length of the common end, shortened so that it neither overlaps the start nor cuts a word in two."""
    end = min(end, len(before) - start, len(after) - start)
    while end and _inside_word(before, len(before) - end, after, len(after) - end):
        end -= 1
    return end


def _inside_word(before: str, at: int, after: str, other_at: int | None = None) -> bool:
    places = ((before, at), (after, at if other_at is None else other_at))
    return any(0 < i < len(text) and text[i - 1].isalnum() and text[i].isalnum() for text, i in places)


def _joined(found: Sequence[Run]) -> list[Run]:
    """The runs without empty ones, neighbours of one kind made one; what was removed comes before what was added."""
    ordered: list[Run] = []
    for kind, text in found:
        kinds = [run.kind for run in ordered[-2:]]
        if not text:
            continue
        if kinds[-1:] == [kind]:
            ordered[-1] = Run(kind, ordered[-1].text + text)
        elif kind == "removed" and kinds == ["removed", "added"]:
            ordered[-2] = Run(kind, ordered[-2].text + text)
        else:
            ordered.append(Run(kind, text))
    return ordered
