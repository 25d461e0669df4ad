"""The admin's page of one refused change: what was wrong, a form to mend it, and what became of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from devices.models import Device
from sync.amend import Invalid
from sync.models import Rejection
from sync.mutation import Error
from sync.pages import words
from sync.pages.mend import COMMENT_LENGTH_MAX, OMIT, SET, MendForm, Sent, initial, sent_by
from sync.pages.timeline import Now, row_now, values_at
from sync.pages.values import Labels
from sync.permissions import may_mend, visible
from sync.quarantine import Replayed, discard, keep, replay
from sync.together import waiting_with
from sync.wire import Entity, Field, entities
from syncserver.errors import Problem

TEMPLATE = "admin/sync/rejection.html"
MEMBERS_SHOWN_MAX = 50  # of a group, or of those that wait
DID = {"create": "Create", "update": "Change", "delete": "Delete"}
STATES = {"open": "bad", "replayed": "good", "discarded": "plain"}
BECAME = {
    "applied": "applied",
    "merged": "applied, together with what others had changed",
    "conflict": "met a conflict",
    "rejected": "was refused again",
}
# What an administrator can do about it, beside mending the value.
ADVICE = {
    "unknown_entity": "The app is of another version than this server: it can only be discarded.",
    "unknown_field": "The field is left out when you replay it.",
    "read_only_entity": "Devices may not change this entity: make the change in the row's own page, then discard this.",
    "read_only_field": "The field is left out when you replay it. If it should change, do it in the row's page.",
    "forbidden_scope": "Grant the device the scope first: without that, a replay writes a row that it cannot see.",
    "not_found": "The row is not there, or not for this device.",
    "already_exists": "Another row has its id.",
    "missing_reference": "Choose a row that is there; or mend the change that makes that row, and this goes with it.",
    "group_failed": "Mend the member of the group that was refused: the whole group goes with it.",
    "id_reused": "The app gave one id to two changes: the first was applied, this one was not.",
    "not_a_counter": "An amount cannot be mended: make the change in the row's own page, then discard this.",
    "internal_error": "It was the server's fault: replay it as it is.",
}


class DiscardForm(forms.Form):
    reason = forms.CharField(max_length=COMMENT_LENGTH_MAX, error_messages={"required": "Say why it is discarded."})


@dataclass(frozen=True)
class Case:
    """A refused change with all that its page shows, as the user may see it."""

    request: HttpRequest
    rejection: Rejection
    site_context: Mapping[str, Any]

    @cached_property
    def entity(self) -> Entity | None:
        return entities().get(self.rejection.entity)

    @cached_property
    def sent(self) -> Sent:
        return sent_by(self.rejection)

    @cached_property
    def now(self) -> Now:
        return row_now(self.rejection.entity, self.rejection.row_id)

    @cached_property
    def moved(self) -> frozenset[str]:
        """The fields that others have changed since the version that the device knew."""
        base, now = self.sent.base or 0, self.now
        if self.entity is None or now.values is None or not 0 < base < now.rev:
            return frozenset()
        then = values_at(self.entity, self.rejection.row_id, [base]).get(base, {})
        return frozenset(name for name, value in then.items() if now.values.get(name) != value)

    @cached_property
    def device(self) -> Device | None:
        return Device.objects.filter(pk=self.rejection.device).first()

    @cached_property
    def waiting(self) -> Sequence[Rejection]:
        """Those that go with it when it is replayed, of those that the user may replay."""
        found = waiting_with(self.rejection) if self.is_open else []
        return [each for each in found if each.pk != self.rejection.pk and may_mend(self.request.user, [each])]

    @property
    def is_open(self) -> bool:
        return self.rejection.state == Rejection.State.OPEN

    @cached_property
    def may_mend(self) -> bool:
        return self.is_open and may_mend(self.request.user, [self.rejection])

    @cached_property
    def labels(self) -> Labels:
        if self.entity is None:
            return words.NO_LABELS
        rows = [dict(self.sent.values), dict(self.now.values or {}), dict(self.rejection.mended or {})]
        return words.labels_of(self.request, self.entity, rows)

    @cached_property
    def title(self) -> str:
        """What the row is called: as it is, or as the device sent it."""
        return words.name_of(self.entity, self.rejection.row_id, self.now.values, self.sent.values)

    def form(self, data: Any = None) -> MendForm | None:
        """The form that mends it; nothing for a delete, or an entity that there is no more."""
        if self.entity is None or self.rejection.op not in {"create", "update"}:
            return None
        kept = self.rejection.mended if self.is_open else None
        return MendForm(self.request, self.entity, self.rejection.op, self.sent, self.now.values, data, kept)


def rejection_page(case: Case) -> HttpResponse:
    """The page; and what its two buttons do."""
    if case.request.method != "POST":
        return _shown(case, case.form())
    if not case.is_open:
        messages.warning(case.request, "Somebody decided about it meanwhile. Nothing was done.")
        return HttpResponseRedirect(case.request.path)
    if not case.may_mend:
        raise PermissionDenied
    return _discarded(case) if "discard" in case.request.POST else _replayed(case)


def told(replayed: Replayed) -> SafeString:
    """What became of one change, with links to it and to a conflict that it met."""
    rejection = replayed.rejection
    address = reverse("admin:sync_rejection_change", args=[rejection.pk])
    line = format_html(
        '<a href="{}">{}</a>: {}', address, change_label(rejection), BECAME.get(replayed.status, replayed.status)
    )
    if replayed.conflict:
        conflict = reverse("admin:sync_conflict_change", args=[replayed.conflict])
        return format_html('{}; <a href="{}">decide it</a>', line, conflict)
    if replayed.overtaken:
        kept = ", ".join(words.label(entities().get(rejection.entity), name) for name in replayed.overtaken)
        return format_html("{}; without {}, which the device has changed since", line, kept)
    if replayed.errors:
        return format_html("{} ({})", line, " ".join(words.plain(error.message) for error in replayed.errors))
    return line


def change_label(rejection: Rejection) -> str:
    """Such as `Create order line`."""
    kind = words.kind_of(rejection.entity)
    return f"{DID.get(rejection.op, rejection.op)} {kind.lower()}"


def author_of(request: HttpRequest) -> str:
    return f"user:{request.user.get_username()}"


def _replayed(case: Case) -> HttpResponse:
    form = case.form(case.request.POST)
    if form is not None and not form.is_valid():
        return _shown(case, form)
    mended = form.mended if form else None
    if form is not None and "keep" in case.request.POST:
        return _kept(case, form)
    comment = form.cleaned_data["comment"] if form else case.request.POST.get("comment", "")[:COMMENT_LENGTH_MAX]
    try:
        done = replay(
            case.rejection.pk,
            mended,
            author=author_of(case.request),
            comment=comment,
            allowed=lambda each: may_mend(case.request.user, [each]),
        )
    except Invalid as problem:
        return _shown(case, form, problem.errors)
    except Problem as problem:
        return _shown(case, form, (Error(None, problem.code, problem.detail),))
    _tell(case.request, done)
    return HttpResponseRedirect(case.request.path)


def _kept(case: Case, form: MendForm) -> HttpResponse:
    """Mended, and not applied yet: a member of a group that needs another one mended too."""
    try:
        keep(case.rejection.pk, form.mended)
    except (Invalid, Problem) as problem:
        messages.warning(case.request, str(problem))
    else:
        messages.success(case.request, "Kept. It goes as you mended it when a member of its group is replayed.")
    return HttpResponseRedirect(case.request.path)


def _tell(request: HttpRequest, done: Sequence[Replayed]) -> None:
    """What became of each, where the page itself does not say it all."""
    if len(done) == 1 and done[0].status == "applied" and not done[0].overtaken:
        return
    lines = format_html_join("", "<li>{}</li>", ((told(each),) for each in done))
    worst = any(each.status in {"conflict", "rejected"} for each in done)
    tell = messages.warning if worst else messages.success
    tell(request, format_html("Replayed:<ul>{}</ul>", lines))


def _discarded(case: Case) -> HttpResponse:
    reason = DiscardForm(case.request.POST)
    if not reason.is_valid():
        return _shown(case, case.form(), reason=reason)
    try:
        discard(
            [case.rejection.pk],
            author=author_of(case.request),
            comment=reason.cleaned_data["reason"],
            allowed=lambda rejection: may_mend(case.request.user, [rejection]),
        )
    except Invalid as invalid:
        messages.error(case.request, str(invalid))
    else:
        messages.success(case.request, "The device is told with its next sync, with your reason.")
    return HttpResponseRedirect(case.request.path)


def _shown(
    case: Case, form: MendForm | None, errors: Sequence[Error] = (), reason: DiscardForm | None = None
) -> HttpResponse:
    if form is not None and errors:
        form.add_refusals(errors, own=case.rejection.group is None)
    rejection, entity = case.rejection, case.entity
    found = [(error.get("field"), error["code"], words.plain(error["message"])) for error in rejection.errors]
    marked = {name for name, _, _ in found}
    context = dict(case.site_context) | {
        "title": f"Refused change of {case.title}",
        "opts": Rejection._meta,
        "case": case,
        "rejection": rejection,
        "kind": words.kind_of(rejection.entity),
        "did": DID.get(rejection.op, rejection.op),
        "state": words.badge(STATES[rejection.state], rejection.get_state_display()),
        "made": words.dated(case.sent.made_at),
        "received": words.moment(rejection.created_at),
        "decided": words.moment(rejection.decided_at),
        "decided_by": rejection.decided_by.removeprefix("user:"),
        "errors": [
            (words.label(entity, name), told, ADVICE.get("not_a_counter" if name in case.sent.amounts else code, ""))
            for name, code, told in found
        ],
        "refused_again": [words.plain(error.message) for error in errors] if form is None else [],
        "form": form,
        "lines": _lines(case, form, marked) if form and case.is_open else [],
        "others": _lines(case, form, marked, others=True) if form and case.is_open else [],
        "dropped": [(words.label(entity, name), words.value(case.sent.values[name])) for name in form.dropped]
        if form
        else [],
        "amounts": [(words.label(entity, name), words.value(value)) for name, value in case.sent.amounts.items()],
        "row_now": _row_now(case) if form is None else [],
        "became": _became(case) if not case.is_open else [],
        "reason": reason,
        "comment_length_max": COMMENT_LENGTH_MAX,
        "waiting": [_brief(each) for each in case.waiting[:MEMBERS_SHOWN_MAX]],
        "waiting_count": len(case.waiting),
        "group": [_brief(each) for each in _group(case)],
        "fresh": rejection.op == "create" and case.now.values is None,
        "row_address": _row_address(case),
        "device_address": reverse("admin:devices_device_change", args=[rejection.device]),
        "device_seen": words.moment(case.device.last_seen_at) if case.device else "",
        "may_see_device": words.may_see(case.request, Device),
    }
    return TemplateResponse(case.request, TEMPLATE, context)


def _field(entity: Entity | None, name: str | None) -> Field | None:
    return entity.field(name) if entity and name else None


def _lines(case: Case, form: MendForm, marked: set[str | None], others: bool = False) -> list[dict[str, Any]]:
    """The form field by field: those that were sent, or were refused, or the others."""
    assert case.entity is not None
    found = []
    for field in case.entity.writable_fields:
        name = SET + field.name
        if name not in form.fields or (field.name in case.sent.values or field.name in marked) == others:
            continue
        bound = form[name]
        sent = field.name in case.sent.values
        refusals = [words.plain(e["message"]) for e in case.rejection.errors if e.get("field") == field.name]
        found.append(
            {
                "field": bound,
                "id": bound.id_for_label,
                "label": words.label(case.entity, field.name),
                "help": bound.help_text,
                "required": bound.field.required,
                "errors": bound.errors or ([] if form.is_bound else refusals),
                "refused": bool(refusals),
                "omit": form[OMIT + field.name] if OMIT + field.name in form.fields else None,
                "sent": words.value(case.sent.values.get(field.name), field, case.labels) if sent else None,
                "tell_sent": sent
                and (_is_edited(form, name) or _hides(field, case.sent.values[field.name], case.labels)),
                "now": words.value((case.now.values or {}).get(field.name), field, case.labels),
                "moved": field.name in case.moved,
                "same": sent and (case.now.values or {}).get(field.name) == case.sent.values[field.name],
            }
        )
    return found


def _is_edited(form: MendForm, name: str) -> bool:
    return form.is_bound and name in form.changed_data


def _hides(field: Field, sent: Any, labels: Labels) -> bool:
    """Whether the form cannot show what was sent, since it is none of the field's values."""
    if field.references:
        return sent is not None and (field.references, str(sent)) not in labels.rows
    if field.choices:
        return sent not in field.choices
    match field.type:
        case "integer" | "decimal" | "real":
            return sent is not None and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", str(sent)) is None
        case "datetime":
            return sent is not None and initial(field, sent) is None
        case "boolean":
            return not isinstance(sent, bool | None)
    return False


def _row_now(case: Case) -> list[tuple[str, SafeString]]:
    values, entity = case.now.values, case.entity
    if entity is None or values is None:
        return []
    return [(words.label(entity, f.name), words.value(values.get(f.name), f, case.labels)) for f in entity.fields]


def _became(case: Case) -> list[dict[str, Any]]:
    """What was sent beside what was applied, once it is decided."""
    mended = case.rejection.mended
    names = dict.fromkeys([*case.sent.values, *(mended or {})])
    applied = case.sent.values if mended is None else mended
    return [
        {
            "label": words.label(case.entity, name),
            "sent": words.value(case.sent.values[name], _field(case.entity, name), case.labels)
            if name in case.sent.values
            else None,
            "applied": words.value(applied[name], _field(case.entity, name), case.labels) if name in applied else None,
            "changed": applied.get(name) != case.sent.values.get(name)
            or (name in applied) != (name in case.sent.values),
        }
        for name in names
    ]


def _brief(rejection: Rejection) -> dict[str, Any]:
    return {
        "what": change_label(rejection),
        "why": words.first_error(rejection),
        "address": reverse("admin:sync_rejection_change", args=[rejection.pk]),
        "state": words.badge("info", "mended, not applied yet")
        if rejection.state == Rejection.State.OPEN and rejection.mended is not None
        else words.badge(STATES[rejection.state], rejection.state),
    }


def _group(case: Case) -> list[Rejection]:
    """The other members of its group, in order."""
    if case.rejection.group is None:
        return []
    same = Q(group=case.rejection.group, device=case.rejection.device) & ~Q(pk=case.rejection.pk)
    members = visible(case.request.user, Rejection.objects.filter(same))
    return list(members.order_by("created_at", "place")[:MEMBERS_SHOWN_MAX])


def _row_address(case: Case) -> str:
    if case.entity is None or not words.may_see(case.request, case.entity.model):
        return ""
    meta = case.entity.model._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_history", args=[case.rejection.row_id])
