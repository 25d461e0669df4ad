"""The admin's page of one link: what both sides had when they last agreed, what we have now, what they have."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.contrib import messages
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from legacy.connector import Changed, Misconfigured, Record, Refused, Unreachable
from legacy.document import Document
from legacy.models import DeadLetter, Link, Waiting
from legacy.pages import access
from legacy.pages.plan import lines_told
from legacy.pages.values import in_our_terms, shown
from legacy.rows import read
from legacy.systems import system
from sync.pages import words
from sync.pages.names import row_names
from sync.pages.values import Labels
from sync.wire import Entity

PAGE, UNLINK = "admin/legacy/link.html", "admin/legacy/unlink.html"


@dataclass
class Case:
    """A link with all that its page shows."""

    request: HttpRequest
    link: Link
    site_context: Mapping[str, Any]
    asked: bool = False  # they were asked just now
    theirs: Record | None = None
    problem: str = ""  # why they could not be asked

    @cached_property
    def mapped(self) -> access.Mapped | None:
        return access.mapped().get((self.link.system, self.link.mapping))

    @property
    def entity(self) -> Entity | None:
        return self.mapped.entity if self.mapped else None

    @property
    def is_part(self) -> bool:
        """Whether it is of what belongs to a record, of which nothing is kept by itself."""
        return self.mapped is not None and self.mapped.part is not None

    @cached_property
    def now(self) -> Document | None:
        """Our row as it is; None: it is not there, or not mapped any more."""
        if self.mapped is None or self.mapped.part is not None:
            return None
        found = read(self.mapped.mapping, [str(self.link.row)]).get(str(self.link.row))
        return found.document if found else None

    @cached_property
    def document(self) -> tuple[Document, dict[str, str]]:
        """Their record in our terms, as far as it can be mapped, and what is wrong by our field."""
        if self.mapped is None or self.theirs is None:
            return {}, {}
        return in_our_terms(self.mapped.mapping, self.link.system, self.theirs.values)

    @cached_property
    def name(self) -> str:
        if self.entity is None:
            return str(self.link.row)
        at = (self.entity.name, str(self.link.row))
        return row_names([at]).get(at, f"{self.entity.model._meta.verbose_name} {str(self.link.row)[:8]}")

    @cached_property
    def labels(self) -> Labels:
        if self.entity is None:
            return words.NO_LABELS
        return words.labels_of(self.request, self.entity, [self.link.agreed, self.now, self.document[0]])


def link_page(case: Case) -> HttpResponse:
    """The page; and what its button does: ask the system for the record as it is now."""
    if case.request.method == "POST":
        access.require(case.request, access.RUN)
        case.asked = True
        _ask(case)
        access.note(case.request, [case.link], f"asked {case.link.system} for {case.link.mapping} {case.link.key}")
    link = case.link
    at = {"system": link.system, "mapping": link.mapping}
    rows = Q(direction="push", key=str(link.row)) | Q(direction="pull", key=link.key)
    context = dict(case.site_context) | {
        "title": f"Link of {case.name}",
        "opts": Link._meta,
        "case": case,
        "link": link,
        "agreed_at": words.moment(link.agreed_at),
        "lines": _lines(case),
        "raw": [(place, shown(value)) for place, value in case.theirs.values.items()] if case.theirs else [],
        "letters": [
            (letter, reverse("admin:legacy_deadletter_change", args=[letter.pk]))
            for letter in DeadLetter.objects.filter(rows, **at)
        ],
        "waits": Waiting.objects.filter(key=link.key, **at).first(),
        "parent": Link.objects.filter(system=link.system, row=link.parent).first() if link.parent else None,
        "parts": Link.objects.filter(system=link.system, parent=link.row).count(),
        "row_address": _history(case),
        "may_ask": access.may(case.request, access.RUN) and not case.is_part and case.mapped is not None,
        "may_unlink": access.may(case.request, access.UNLINK) and link.parent is None,
        "list_address": f"{reverse('admin:legacy_link_changelist')}?system={link.system}&mapping={link.mapping}",
        "notes": access.notes(link),
    }
    return TemplateResponse(case.request, PAGE, context)


def unlink_page(case: Case) -> HttpResponse:
    """What taking a link apart means; and, once that is confirmed, the end of it."""
    link, address = case.link, reverse("admin:legacy_link_change", args=[case.link.pk])
    if case.request.method == "POST":
        told = f"unlinked {case.name} from {link.mapping} {link.key} of {link.system}"
        with transaction.atomic():
            access.note(case.request, [link], told)
            Link.objects.filter(system=link.system, parent=link.row).delete()
            link.delete()
        messages.success(case.request, f"{case.name} and {link.key} are not linked any more.")
        return HttpResponseRedirect(reverse("admin:legacy_link_changelist"))
    context = dict(case.site_context) | {
        "title": "Take a link apart",
        "opts": Link._meta,
        "case": case,
        "link": link,
        "address": address,
        "parts": Link.objects.filter(system=link.system, parent=link.row).count(),
    }
    return TemplateResponse(case.request, UNLINK, context)


def _ask(case: Case) -> None:
    """Fetch the record. What goes wrong is told on the page."""
    assert case.mapped is not None
    mapping = case.mapped.mapping
    try:
        connector = system(case.link.system).connected()
        try:
            connector.open()
            if not connector.capabilities.fetches:
                raise Refused(f"{case.link.system} cannot be asked for one record.")
            case.theirs = next(iter(connector.fetch(mapping.source, mapping.places, [case.link.key])), None)
        finally:
            connector.close()
    except (Unreachable, Misconfigured, Refused, Changed) as error:
        case.problem = access.told(str(error))


def _lines(case: Case) -> list[dict[str, Any]]:
    """Each field: agreed, ours now, theirs now where they were asked; what differs from the agreed is marked."""
    agreed, now, (theirs, wrong) = case.link.agreed, case.now, case.document
    order = case.mapped.mapping.names if case.mapped else ()
    names = sorted({*agreed, *(now or {}), *theirs}, key=lambda n: order.index(n) if n in order else len(order))
    return [
        {
            "label": words.label(case.entity, name),
            "agreed": _told(case, name, agreed[name]) if name in agreed else None,
            "ours": _told(case, name, now[name], agreed.get(name)) if now is not None and name in now else None,
            "theirs": _told(case, name, theirs[name], agreed.get(name)) if name in theirs else None,
            "wrong": wrong.get(name, ""),
            "ours_differs": now is not None and name in now and name in agreed and now[name] != agreed[name],
            "theirs_differs": name in theirs and name in agreed and theirs[name] != agreed[name],
        }
        for name in names
    ]


def _told(case: Case, name: str, value: Any, before: Any = None) -> Any:
    if isinstance(value, dict):  # the rows that belong to it
        return lines_told(before, value) if isinstance(before, dict) else f"{len(value)}"
    return words.value(value, case.entity.field(name) if case.entity else None, case.labels)


def _history(case: Case) -> str:
    if case.entity is None or not words.may_see(case.request, case.entity.model):
        return ""
    meta = case.entity.model._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_history", args=[case.link.row])
