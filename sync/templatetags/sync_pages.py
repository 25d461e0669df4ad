"""What our pages of the admin say in many places in the same way."""

from datetime import datetime, timedelta

from django import template
from django.db.models import Model
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from sync.models import Conflict
from sync.wire import entities

register = template.Library()

_STATES = {
    Conflict.State.OPEN: "Open",
    Conflict.State.SERVER: "Server kept",
    Conflict.State.DEVICE: "Device taken",
    Conflict.State.MIXED: "Mixed",
}


@register.simple_tag
def ago(moment: datetime) -> SafeString:
    """How long ago a moment was, with the moment itself behind it."""
    young = timezone.now() - moment < timedelta(minutes=1)
    text = "just now" if young else f"{timesince(moment, depth=1)} ago"
    exact = f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}"
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, text)


@register.simple_tag
def state_name(state: str) -> str:
    """A state in two words at most."""
    return _STATES.get(Conflict.State(state), state)


@register.filter
def verbose_plural(model: type[Model]) -> str:
    """What rows of a model are called."""
    return str(model._meta.verbose_name_plural)


@register.simple_tag
def row_history(record: Conflict) -> str:
    """The address of the history of a record's row; nothing where its entity is not known."""
    known = entities().get(record.entity)
    if known is None:
        return ""
    meta = known.model._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_history", args=[record.row_id])
