"""What the pages of the pre-existing systems say in many places in the same way."""

from datetime import timedelta

from django import template
from django.contrib.admin.models import LogEntry
from django.utils.html import format_html
from django.utils.safestring import SafeString

from legacy.models import DeadLetter, Run
from legacy.pages.access import told
from legacy.standing import Standing, State
from sync.pages.words import badge, lasting

register = template.Library()

STATES = {
    State.WORKING: ("info", "at work"),
    State.STARTING: ("info", "starting"),
    State.OFF: ("plain", "switched off"),
    State.PAUSED: ("plain", "paused"),
    State.RESTING: ("warn", "resting"),
    State.STOPPED: ("bad", "stopped for safety"),
    State.MISCONFIGURED: ("bad", "wrong configuration"),
    State.UNREACHABLE: ("bad", "not reached"),
    State.KILLED: ("bad", "broke off"),
    State.NEVER: ("plain", "never ran"),
    State.PARTIAL: ("warn", "some failed"),
    State.DONE: ("good", "in step"),
}
RUNS = {
    Run.State.RUNNING: ("info", "at work"),
    Run.State.DONE: ("good", "done"),
    Run.State.PARTIAL: ("warn", "some failed"),
    Run.State.UNREACHABLE: ("bad", "not reached"),
    Run.State.MISCONFIGURED: ("bad", "wrong configuration"),
    Run.State.STOPPED: ("bad", "stopped for safety"),
    Run.State.PAUSED: ("plain", "paused"),
    Run.State.KILLED: ("bad", "broke off"),
}
KINDS = {
    DeadLetter.Kind.FAILED: ("bad", "failed"),
    DeadLetter.Kind.UNCLEAR: ("warn", "unclear"),
    DeadLetter.Kind.LOOP: ("bad", "loop"),
    DeadLetter.Kind.IGNORED: ("plain", "left alone"),
}


@register.simple_tag
def standing_badge(standing: Standing) -> SafeString:
    return badge(*STATES[standing.state])


@register.simple_tag
def run_badge(run: Run) -> SafeString:
    return badge(*RUNS.get(Run.State(run.state), ("plain", run.state)))


@register.simple_tag
def kind_badge(kind: str) -> SafeString:
    return badge(*KINDS.get(DeadLetter.Kind(kind), ("plain", kind)))


@register.filter
def told_safely(text: str) -> str:
    """A text that came from a connector, without secrets."""
    return told(text or "")


@register.filter
def duration(run: Run) -> str:
    """How long a run took, such as `1.2 s` or `3 min 7 s`."""
    if run.ended_at is None:
        return "–"
    seconds = (run.ended_at - run.started_at).total_seconds()
    return span(seconds)


@register.filter
def span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 10 else lasting(timedelta(seconds=seconds))


@register.filter
def noted(entry: LogEntry) -> SafeString:
    """What a person did, as a line."""
    name = entry.user.get_full_name() or entry.user.get_username()
    return format_html("<strong>{}</strong> {}", name, entry.change_message)
