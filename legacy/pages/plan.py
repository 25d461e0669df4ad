"""The admin's page of what a system's dry run would change, field by field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from legacy.models import Counterpart, Link, Plan
from legacy.pages import access
from legacy.plan import group_of
from legacy.standing import Standing
from legacy.start import COMMAND, START_SECONDS_MAX, start_plan
from sync.alone import at_work
from sync.pages import words
from sync.pages.names import row_names
from sync.pages.values import Labels
from sync.wire import Entity

TEMPLATE = "admin/legacy/plan.html"
FIELDS_SHOWN_MAX = 30  # of one record
WORDS = {
    "created": ("good", "new"),
    "updated": ("info", "changed"),
    "deleted": ("bad", "deleted"),
    "made again": ("warn", "made again"),
    "waits": ("warn", "would wait"),
}


@dataclass(frozen=True)
class Shown:
    """What is needed to put changes into words: names of rows, and of what their values refer to."""

    entity: Entity | None
    names: Mapping[tuple[str, str], str]
    labels: Labels


def plan_page(page: "ModelAdmin[Any]", request: HttpRequest, standing: Standing) -> HttpResponse:
    """The page; and what its button does: another dry run."""
    name = standing.name
    if request.method == "POST":
        if start_plan(name):
            access.note(request, [Counterpart(system=name)], f"started a dry run of {name}")
        else:
            messages.warning(request, f"A run of {name} is at work already. Try again when it has ended.")
        return HttpResponseRedirect(request.path)
    plan = Plan.objects.filter(system=name).first()
    context = page.admin_site.each_context(request) | {
        "title": f"Dry run of {name}",
        "opts": Counterpart._meta,
        "standing": standing,
        "plan": plan,
        "state": _state(plan),
        "made": words.moment(plan.ended_at) if plan else "",
        "groups": _groups(request, plan) if plan else [],
        "overview": reverse("admin:legacy_counterpart_changelist"),
        "may_force": access.may(request, access.RUN),
    }
    return TemplateResponse(request, TEMPLATE, context)


def _state(plan: Plan | None) -> str:
    """`none`, `being made`, `lost` where it never ended, `wrong`, or `made`."""
    if plan is None:
        return "none"
    if plan.ended_at is None:
        fresh = plan.asked_at > timezone.now() - timedelta(seconds=START_SECONDS_MAX)
        return "being made" if fresh or at_work(COMMAND, [plan.system]) else "lost"
    return "wrong" if plan.error else "made"


def _groups(request: HttpRequest, plan: Plan) -> list[dict[str, Any]]:
    """The changes by mapping and way, each as far as the user may see its rows."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for change in plan.changes:
        found.setdefault((change["mapping"], change["to"]), []).append(change)
    groups = []
    for (mapping, to), changes in found.items():
        if access.may_see(request.user, plan.system, mapping):
            shown = _shown(request, plan.system, mapping, changes)
            counts = [
                (words.badge(*WORDS[what]), sum(1 for c in changes if c["what"] == what) + rest, rest)
                for what in WORDS
                if (rest := plan.rest.get(group_of(mapping, to, what), 0)) or any(c["what"] == what for c in changes)
            ]
            groups.append(
                {
                    "mapping": mapping,
                    "kind": words.kind_of(shown.entity.name) if shown.entity else mapping,
                    "to": to,
                    "counts": [(badge, count) for badge, count, _ in counts],
                    "rest": sum(rest for _, _, rest in counts),
                    "changes": [_change(each, shown) for each in changes],
                }
            )
        else:
            groups.append({"mapping": mapping, "kind": mapping, "to": to, "hidden": len(changes)})
    return groups


def _shown(request: HttpRequest, system: str, mapping: str, changes: Sequence[Mapping[str, Any]]) -> Shown:
    known = access.mapped().get((system, mapping))
    entity = known.entity if known else None
    if entity is None:
        return Shown(None, {}, words.NO_LABELS)
    keys = [change["key"] for change in changes if not change["to"]]
    linked = Link.objects.filter(system=system, mapping=mapping, key__in=keys).values_list("key", "row")
    rows = {key: str(row) for key, row in linked}
    ids = [change["key"] if change["to"] else rows.get(change["key"], "") for change in changes]
    by_row = row_names((entity.name, id) for id in ids if id)
    names = {
        (change["to"], change["key"]): by_row.get((entity.name, id)) or _would_be(entity, change)
        for change, id in zip(changes, ids, strict=True)
    }
    values = [each for change in changes for each in (change["before"], change["after"])]
    return Shown(entity, names, words.labels_of(request, entity, values))


def _would_be(entity: Entity, change: Mapping[str, Any]) -> str:
    """What a row would be called that is not there yet."""
    values = change["after"] or change["before"] or {}
    try:
        return words.name_of(entity, change["key"], values)
    except Exception:
        return str(change["key"])


def _change(change: Mapping[str, Any], shown: Shown) -> dict[str, Any]:
    before, after = change["before"], change["after"] or {}
    values = after if change["what"] != "deleted" else before or {}
    order = [field.name for field in shown.entity.fields] if shown.entity else []
    names = sorted(values, key=lambda name: order.index(name) if name in order else len(order))
    fields = [_field(name, before, values, change["what"], shown) for name in names]
    return {
        "name": shown.names.get((change["to"], change["key"]), change["key"]),
        "key": change["key"],
        "badge": words.badge(*WORDS.get(change["what"], ("plain", change["what"]))),
        "whole": change["what"] != "updated",  # the row as such, and not what changes of it
        "why": access.told(change["why"]),
        "fields": [field for field in fields if field][:FIELDS_SHOWN_MAX],
        "fields_more": max(len(fields) - FIELDS_SHOWN_MAX, 0),
    }


def _field(
    name: str, before: Mapping[str, Any] | None, values: Mapping[str, Any], what: str, shown: Shown
) -> tuple[str, SafeString | str] | None:
    """A field's label and how it would change; nothing for one that a new row would have empty."""
    field = shown.entity.field(name) if shown.entity else None
    label = words.label(shown.entity, name)
    value = values[name]
    if isinstance(value, dict):
        return name.capitalize(), lines_told((before or {}).get(name) or {}, value, what == "deleted")
    if what == "updated":
        return label, words.difference((before or {}).get(name), value, field, shown.labels)
    return (label, words.value(value, field, shown.labels)) if value not in (None, "") else None


def lines_told(before: Mapping[str, Any], after: Mapping[str, Any], deleted: bool = False) -> str:
    """What becomes of the rows that belong to a record, in numbers."""
    if deleted:
        return f"{len(after)} deleted with it"
    counts = {
        "new": len(after.keys() - before.keys()),
        "changed": sum(1 for key in after.keys() & before.keys() if after[key] != before[key]),
        "deleted": len(before.keys() - after.keys()),
        "the same": sum(1 for key in after.keys() & before.keys() if after[key] == before[key]),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"
