"""A text with what differs from another marked in it, as HTML. Every character of it is escaped."""

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from sync.pages.text_diff import Run, runs

SHORT_CHARS = 60  # a text of that length is read at a glance: what is gone from it is not shown within it
SAME_SHOWN_CHARS = 160  # of a longer stretch that is the same, before and after what is folded away
AROUND_CHARS = 24  # of what is the same, beside a change in an excerpt
CHANGED_SHOWN_CHARS = 120  # of one change in an excerpt
_TAGS = {"same": "{}", "added": "<ins>{}</ins>", "removed": "<del>{}</del>"}


def marked(before: str | None, after: str) -> SafeString:
    """`after`, with what was added to `before` marked, and in a long text what was removed from it too."""
    if before is None or before == after:
        return format_html("{}", after)
    found = runs(before, after)
    if max(len(before), len(after)) <= SHORT_CHARS:
        found = [run for run in found if run.kind != "removed"]
    pieces = (_piece(run, first=at == 0, last=at == len(found) - 1) for at, run in enumerate(found))
    return format_html_join("", "{}", ((piece,) for piece in pieces))


def _piece(run: Run, first: bool, last: bool) -> SafeString:
    """One run; the middle of a long one that is the same can be unfolded."""
    lead, tail = (0 if first else SAME_SHOWN_CHARS), (0 if last else SAME_SHOWN_CHARS)
    if run.kind != "same" or len(run.text) <= 2 * SAME_SHOWN_CHARS + 40:
        return format_html(_TAGS[run.kind], run.text)
    middle = run.text[lead : len(run.text) - tail]
    return format_html(
        "{}<details><summary>{} characters the same</summary>{}</details>{}",
        run.text[:lead],
        f"{len(middle):,}",
        middle,
        run.text[len(run.text) - tail :] if tail else "",
    )


def excerpt(before: str, after: str) -> SafeString:
    """Only the places where a long text was changed, each with a little of what is around it."""
    found = runs(before, after)
    last = len(found) - 1
    pieces = (
        format_html(_TAGS[run.kind], _near(run.text, at == 0, at == last) if run.kind == "same" else _cut(run.text))
        for at, run in enumerate(found)
    )
    return format_html_join("", "{}", ((piece,) for piece in pieces))


def _near(text: str, first: bool, last: bool) -> str:
    """The ends of a stretch that are next to a change."""
    if len(text) <= 2 * AROUND_CHARS + 3:
        return text
    start = "" if first else f"{text[:AROUND_CHARS].rpartition(' ')[0]} "
    end = "" if last else f" {text[-AROUND_CHARS:].partition(' ')[2]}"
    return f"{start}…{end}"


def _cut(text: str) -> str:
    return text if len(text) <= CHANGED_SHOWN_CHARS else f"{text[:CHANGED_SHOWN_CHARS]}…"
