"""What our pages of the admin say in many places in the same way."""

from datetime import datetime

from django import template
from django.db.models import Model
from django.urls import reverse
from django.utils.safestring import SafeString

from sync.amend import name_of
from sync.models import Conflict
from sync.pages.words import moment
from sync.wire import entities

register = template.Library()

_STATES = {
    Conflict.State.OPEN: "Open",
    Conflict.State.SERVER: "Server kept",
    Conflict.State.DEVICE: "Device taken",
    Conflict.State.MIXED: "Mixed",
}


@register.simple_tag
def ago(at: datetime) -> SafeString:
    """How long ago a moment was, with the moment itself behind it."""
    return moment(at)


@register.filter
def person(author: str) -> str:
    """A person by their name alone."""
    return name_of(author)


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
