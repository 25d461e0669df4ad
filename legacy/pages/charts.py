"""Charts as SVG, made on the server: with a title and a description, beside a table that says the same in numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from html import escape
from typing import Any

from django.db import connection
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe

from legacy.standing import SQL
from legacy.templatetags.legacy_pages import span
from sync.sql import block

DAYS = 30
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 150, 44, 20, 10  # of the drawing; its letters are 11 high


@dataclass(frozen=True)
class Day:
    """A day's runs: how many, how many went wrong, seconds, and records by what became of them."""

    day: date
    runs: int
    wrong: int
    median: float
    longest: float
    here: int
    there: int
    failed: int
    unchanged: int

    @property
    def share(self) -> float:
        """Of the records that were looked at, how many in a hundred failed."""
        looked = self.here + self.there + self.failed + self.unchanged
        return 100 * self.failed / looked if looked else 0.0


def days(system: str | None, now: datetime | None = None) -> list[Day]:
    """The last DAYS days up to today, the oldest first and none left out; of one system, or of all."""
    last = timezone.localdate(now)
    parameters: dict[str, Any] = {
        "first": last - timedelta(days=DAYS - 1),
        "last": last,
        "zone": timezone.get_current_timezone_name(),
        "system": system,
    }
    with connection.cursor() as cursor:
        cursor.execute(block(SQL, "days"), parameters)
        return [Day(*row) for row in cursor.fetchall()]


def charts(found: Sequence[Day], of: str) -> list[dict[str, Any]]:
    """Volumes, durations and error shares, each with its title, its drawing and its legend."""
    records = sum(day.here + day.there for day in found)
    failed, wrong, runs = sum(d.failed for d in found), sum(d.wrong for d in found), sum(d.runs for d in found)
    longest = max((day.longest for day in found), default=0.0)
    return [
        {
            "title": "Records",
            "told": f"{records:,} in {runs:,} runs",
            "svg": _drawing(
                f"Records of {of} a day",
                f"{records:,} records were written in {DAYS} days, and {failed:,} failed.",
                found,
                [("here", lambda d: d.here), ("there", lambda d: d.there), ("failed", lambda d: d.failed)],
                lambda value: f"{value:,.0f}",
            ),
            "legend": [("here", "written here"), ("there", "sent there"), ("failed", "failed")],
        },
        {
            "title": "Duration",
            "told": f"at most {span(longest)}",
            "svg": _drawing(
                f"How long runs of {of} took",
                f"The longest run of {DAYS} days took {span(longest)}.",
                found,
                [("median", lambda d: d.median), ("longest", lambda d: d.longest - d.median)],
                _short,
                _round_seconds,
            ),
            "legend": [("median", "median of the day"), ("longest", "longest")],
        },
        {
            "title": "Failed",
            "told": f"{wrong:,} run{'s' * (wrong != 1)} with a fault",
            "svg": _drawing(
                f"Share of the records of {of} that failed",
                f"{failed:,} records failed in {DAYS} days; {wrong:,} of {runs:,} runs had a fault.",
                found,
                [("failed", lambda d: d.share)],
                lambda value: f"{value:.2g} %" if value else "0",
            ),
            "legend": [("failed", "of the records that were looked at")],
        },
    ]


def _drawing(
    title: str,
    description: str,
    found: Sequence[Day],
    series: Sequence[tuple[str, Callable[[Day], float]]],
    words: Callable[[float], str],
    top: Callable[[float], float] | None = None,
) -> SafeString:
    """Stacked bars, one a day. Only our own words and numbers get into it, each escaped all the same."""
    most = (top or _round)(max((sum(value(day) for _, value in series) for day in found), default=0.0))
    high, step = HEIGHT - BOTTOM - TOP, (WIDTH - LEFT) / max(len(found), 1)
    parts = [f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"]
    for share in (0.0, 0.5, 1.0):
        y = TOP + high * (1 - share)
        parts.append(f'<line class="lg-rule" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if most or not share:
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(words(most * share))}</text>')
    for number, day in enumerate(found):
        parts += _bar(day, LEFT + number * step, step, [(name, value(day)) for name, value in series], most, words)
        if (len(found) - 1 - number) % 7 == 0:
            x = LEFT + (number + 0.5) * step
            anchor = "end" if number == len(found) - 1 else "middle"
            parts.append(f'<text x="{min(x + step / 2, WIDTH) if anchor == "end" else x:.1f}" y="{HEIGHT - 4}" '
                         f'text-anchor="{anchor}">{day.day:%b} {day.day.day}</text>')  # fmt: skip
    return mark_safe(f'<svg class="lg-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>')


def _bar(
    day: Day, x: float, step: float, values: Sequence[tuple[str, float]], most: float, words: Callable[[float], str]
) -> list[str]:
    top, parts = float(HEIGHT - BOTTOM), []
    for name, value in values:
        if value > 0 and most:
            height = max(value / most * (HEIGHT - BOTTOM - TOP), 1.0)
            top -= height
            told = escape(f"{day.day:%Y-%m-%d}: {words(value)} {name}")
            parts.append(
                f'<rect class="lg-{name}" x="{x + step * 0.14:.1f}" y="{top:.1f}" width="{step * 0.72:.1f}" '
                f'height="{height:.1f}"><title>{told}</title></rect>'
            )
    return parts


def _short(seconds: float) -> str:
    """A span for a scale: `30 s`, `2 min`, `1.5 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s" if seconds else "0"


def _round(most: float) -> float:
    """The next round number, for the top of the scale."""
    if most <= 0:
        return 0.0
    size = 1.0
    while size * 10 <= most:
        size *= 10
    while size > most:
        size /= 10
    return next(size * factor for factor in (1, 2, 4, 5, 8, 10) if size * factor >= most)


def _round_seconds(most: float) -> float:
    """The next round time whose half is round too."""
    steps = (0.2, 1, 2, 4, 10, 20, 60, 120, 240, 600, 1200, 2400, 3600, 7200, 14_400, 36_000, 86_400)
    return next((step for step in steps if step >= most), _round(most)) if most else 0.0
