"""The admin's page of one dead letter: the record beside the mapping's lines, what is wrong, what to do about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from legacy.document import Document
from legacy.letters import Unfit, discard, mend, retry, say
from legacy.mapping import F, attname
from legacy.models import Cursor, DeadLetter, Link
from legacy.pages import access
from legacy.pages.values import SET, MendForm, in_our_terms, shown
from legacy.rows import read
from legacy.templatetags.legacy_pages import KINDS
from sync.pages import words
from sync.pages.names import row_names
from sync.pages.values import Labels
from sync.wire import Entity

TEMPLATE = "admin/legacy/letter.html"
REASON_CHARS_MAX = 500
CANDIDATES_SHOWN_MAX = 8  # side by side
LEFT = "It is left alone."
NEW, ALONE = "new", "alone"  # what a person may say of an unclear record, beside the id of a row
Kind = DeadLetter.Kind


class DiscardForm(forms.Form):
    reason = forms.CharField(max_length=REASON_CHARS_MAX, error_messages={"required": "Say why it is left alone."})


@dataclass(frozen=True)
class Case:
    """A dead letter with all that its page shows."""

    request: HttpRequest
    letter: DeadLetter
    site_context: Mapping[str, Any]

    @cached_property
    def mapped(self) -> access.Mapped | None:
        found = access.mapped().get((self.letter.system, self.letter.mapping))
        return found if found and found.part is None else None

    @property
    def entity(self) -> Entity | None:
        return self.mapped.entity if self.mapped else None

    @property
    def is_pull(self) -> bool:
        return self.letter.direction == Cursor.Direction.PULL

    @cached_property
    def payload(self) -> dict[str, Any]:
        """The record as it was read, or as a person mended it; our row as it was to be sent."""
        values = self.letter.mended if self.letter.mended is not None else self.letter.payload
        return values if isinstance(values, dict) else {}

    @cached_property
    def link(self) -> Link | None:
        found = Link.objects.filter(system=self.letter.system, mapping=self.letter.mapping)
        if self.is_pull:
            return found.filter(key=self.letter.key).first()
        return found.filter(row=self.row).first() if self.row else None

    @cached_property
    def row(self) -> str | None:
        """Our row, where there is one."""
        if not self.is_pull:
            return self.letter.key if words.is_id(self.letter.key) else None
        return str(self.link.row) if self.link else None

    @cached_property
    def may_decide(self) -> bool:
        return access.may(self.request, access.DECIDE)

    @property
    def user(self) -> AbstractBaseUser:
        assert isinstance(self.request.user, AbstractBaseUser)
        return self.request.user

    @cached_property
    def labels(self) -> Labels:
        if self.entity is None:
            return words.NO_LABELS
        return words.labels_of(self.request, self.entity, [self.ours, *self.candidates.values()])

    @cached_property
    def document(self) -> tuple[Document, dict[str, str]]:
        """The record as our document, as far as it can be mapped, and what is wrong by our field."""
        if self.mapped is None or not self.is_pull:
            return {}, {}
        return in_our_terms(self.mapped.mapping, self.letter.system, self.payload)

    @property
    def ours(self) -> Document:
        """In our terms, whichever way it goes."""
        return self.document[0] if self.is_pull else self.payload

    @cached_property
    def candidates(self) -> dict[str, Document]:
        """The rows that an unclear record may be, as they are now; those that are gone are not in it."""
        if self.mapped is None or self.letter.kind != Kind.UNCLEAR:
            return {}
        ids = [id for id in self.letter.candidates if words.is_id(id)][:CANDIDATES_SHOWN_MAX]
        found = read(self.mapped.mapping, ids)
        return {id: found[id].document for id in ids if id in found}


def letter_page(case: Case) -> HttpResponse:
    """The page; and what its buttons do."""
    if case.request.method != "POST":
        return _shown(case, MendForm(case.payload))
    if not case.may_decide:
        raise PermissionDenied
    match case.request.POST.get("do"):
        case "mend":
            return _mended(case)
        case "discard":
            return _discarded(case)
        case "say":
            return _said(case)
    return _retried(case)


# --- what the buttons do ----------------------------------------------------------------------------------------------


def _retried(case: Case) -> HttpResponse:
    if not retry([case.letter], case.user):
        messages.error(case.request, "It is unclear: say what it is.")
        return HttpResponseRedirect(case.request.path)
    return _done(case, "It is tried again with the next run.")


def _mended(case: Case) -> HttpResponse:
    form = MendForm(case.payload, case.request.POST)
    if not case.is_pull or not form.is_valid():
        return _shown(case, form)
    if not form.is_changed:
        return _retried(case)
    return _carried(
        case, lambda: mend(case.letter, form.payload, case.user), "The next run takes it over as you mended it."
    )


def _discarded(case: Case) -> HttpResponse:
    form = DiscardForm(case.request.POST)
    if not form.is_valid():
        return _shown(case, MendForm(case.payload), reason=form)
    discard([case.letter], form.cleaned_data["reason"], case.user)
    return _done(case, LEFT)


def _said(case: Case) -> HttpResponse:
    """What an unclear record is: one of our rows, a new one, or nothing to deal with."""
    answer = case.request.POST.get("row", "")
    if answer == ALONE:
        discard([case.letter], "It is not to be taken over.", case.user)
        return _done(case, LEFT)
    if answer != NEW and answer not in case.letter.candidates:
        messages.error(case.request, "Choose what the record is.")
        return HttpResponseRedirect(case.request.path)
    told = "The next run makes a new row of it." if answer == NEW else "The next run links the two."
    return _carried(case, lambda: say(case.letter, None if answer == NEW else answer, case.user), told)


def _carried(case: Case, act: Callable[[], None], told: str) -> HttpResponse:
    try:
        act()
    except Unfit as error:
        messages.error(case.request, str(error))
        return HttpResponseRedirect(case.request.path)
    return _done(case, told)


def _done(case: Case, told: str) -> HttpResponse:
    """Back to the letter; to the list where there is none any more."""
    messages.success(case.request, told)
    there = DeadLetter.objects.filter(pk=case.letter.pk).exists()
    return HttpResponseRedirect(case.request.path if there else reverse("admin:legacy_deadletter_changelist"))


# --- what is shown ----------------------------------------------------------------------------------------------------


def _shown(case: Case, form: MendForm, reason: DiscardForm | None = None) -> HttpResponse:
    letter = case.letter
    context = dict(case.site_context) | {
        "title": f"Dead letter: {letter.mapping} {letter.key}",
        "opts": DeadLetter._meta,
        "case": case,
        "letter": letter,
        "kind": Kind(letter.kind),
        "badge": words.badge(*KINDS[Kind(letter.kind)]),
        "error": _error(case),
        "name": _name(case, case.row) if case.row else access.name_of(case.mapped, case.payload, letter.key),
        "since": words.moment(letter.first_at),
        "next": _next(letter),
        "lines": _lines(case, form),
        "others": _others(case, form),
        "form": form,
        "columns": _candidates(case),
        "candidates_more": max(len(letter.candidates) - CANDIDATES_SHOWN_MAX, 0),
        "loop": _loop(case),
        "reason": reason,
        "reason_chars_max": REASON_CHARS_MAX,
        "row_address": _row_address(case),
        "link_address": reverse("admin:legacy_link_change", args=[case.link.pk]) if case.link else "",
        "run_address": reverse("admin:legacy_run_change", args=[letter.run_id]) if letter.run_id else "",
        "list_address": f"{reverse('admin:legacy_deadletter_changelist')}?system={letter.system}",
        "notes": access.notes(letter),
    }
    return TemplateResponse(case.request, TEMPLATE, context)


def _error(case: Case) -> str:
    """What is wrong, with our field by what people call it."""
    name, _, rest = case.letter.error.partition(": ")
    known = case.mapped is not None and name in {n for line in case.mapped.mapping.fields for n in line.names}
    return access.told(f"{words.label(case.entity, name)}: {rest}" if known else case.letter.error)


def _next(letter: DeadLetter) -> str:
    if letter.next_at is None:
        return "not by itself"
    left = letter.next_at - timezone.now()
    return "with the next run" if left.total_seconds() <= 0 else f"in {words.lasting(left)}"


def _name(case: Case, row: str) -> str:
    if case.entity is None:
        return row
    return row_names([(case.entity.name, row)]).get((case.entity.name, row), row)


def _lines(case: Case, form: MendForm) -> list[dict[str, Any]]:
    """The mapping line by line, with what stands in its places, what that becomes, and the field to mend it in."""
    if case.mapped is None:
        return []
    return [_line(case, line, form) for line in case.mapped.mapping.fields]


def _line(case: Case, line: F, form: MendForm) -> dict[str, Any]:
    assert case.mapped is not None
    entity, (document, wrong) = case.entity, case.document
    names = [attname(case.mapped.mapping.model, name) for name in line.names]
    faults = [wrong[name] for name in names if name in wrong]
    if not case.is_pull and not faults:
        faults = [access.told(case.letter.error)] if any(f"{n}:" in case.letter.error for n in line.names) else []
    values = document if case.is_pull else case.payload
    return {
        "label": ", ".join(words.label(entity, name) for name in names) or "a constant",
        "places": ", ".join(line.places) or "–",
        "way": {"pull": "comes only", "push": "goes only"}.get(line.only, ""),
        "given": [(place, shown(case.payload[place])) for place in line.places if place in case.payload],
        "fields": [form[SET + place] for place in line.places if case.is_pull and place in case.payload],
        "became": [_ours(case, name, values[name]) for name in names if name in values],
        "absent": case.is_pull and not any(place in case.payload for place in line.places),
        "wrong": faults,
    }


def _ours(case: Case, name: str, value: Any) -> SafeString:
    return words.value(value, case.entity.field(name) if case.entity else None, case.labels)


def _others(case: Case, form: MendForm) -> list[dict[str, Any]]:
    """What the record has in places that no line reads: rows that belong to it, and whatever else it told."""
    lines = case.mapped.mapping.fields if case.mapped else ()
    known = {place for line in lines for place in line.places}
    if case.mapped and not case.is_pull:
        known = {name for line in lines for name in case.mapped.mapping.wire_names(line)}
    return [
        {"place": place, "given": shown(value), "field": form[SET + place]}
        for place, value in case.payload.items()
        if place not in known
    ]


def _candidates(case: Case) -> list[dict[str, Any]]:
    """The rows that an unclear record may be, each field beside the record's."""
    theirs, names = case.document[0], {}
    if case.entity and case.candidates:
        names = row_names((case.entity.name, id) for id in case.candidates)
    columns = []
    for id, document in case.candidates.items():
        assert case.entity is not None
        fields = [_pair(case, name, theirs[name], document.get(name)) for name in theirs if name in document]
        columns.append(
            {
                "id": id,
                "name": names.get((case.entity.name, id), id),
                "fields": fields,
                "same": sum(1 for field in fields if field["same"]),
                "address": _history(case, id),
            }
        )
    return columns


def _pair(case: Case, name: str, theirs: Any, ours: Any) -> dict[str, Any]:
    same = theirs == ours
    return {
        "label": words.label(case.entity, name),
        "same": same,
        "theirs": _ours(case, name, theirs),
        "ours": _ours(case, name, ours),
    }


def _loop(case: Case) -> list[dict[str, Any]]:
    """Of a record that goes round and round: what we send, and what they gave back the last time."""
    if case.letter.kind != Kind.LOOP or case.link is None:
        return []
    agreed: Sequence[str] = [name for name in case.payload if name in case.link.agreed]
    return [
        _pair(case, name, case.link.agreed[name], case.payload[name])
        for name in agreed
        if case.link.agreed[name] != case.payload[name] and not isinstance(case.payload[name], dict)
    ]


def _row_address(case: Case) -> str:
    return _history(case, case.row) if case.row else ""


def _history(case: Case, row: str) -> str:
    if case.entity is None or not words.may_see(case.request, case.entity.model):
        return ""
    meta = case.entity.model._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_history", args=[row])
