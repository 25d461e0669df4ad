"""The admin's list of dead letters: counted by what is the matter, to be tried again or discarded, many at once."""

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Min, Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from unfold.admin import ModelAdmin

from legacy.letters import discard, retry
from legacy.models import Cursor, DeadLetter
from legacy.pages import access
from legacy.pages.letter import REASON_CHARS_MAX, Case, DiscardForm, letter_page
from legacy.pages.runs import SystemFilter
from legacy.templatetags.legacy_pages import KINDS
from sync.pages import words
from sync.pages.conflict_filters import AgeFilter, Choice, as_uuid
from sync.pages.names import row_names

LIST, CONFIRM = "admin/legacy/letters.html", "admin/legacy/letters_confirm.html"
GROUPS_MAX = 12  # of the summary, the largest first
LINES_MAX = 20  # that are told one by one, of many
ERROR_CHARS, NAME_CHARS = 120, 48  # in the list


class KindFilter(Choice):
    """Those that wait, unless one asks for others."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, _request: HttpRequest, _page: Any) -> list[tuple[str, str]]:
        return [("all", "All"), *((kind.value, told) for kind, (_, told) in KINDS.items())]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        return [first | {"display": "waiting"}, *others]

    def queryset(self, request: HttpRequest, found: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return found.exclude(kind=DeadLetter.Kind.IGNORED)
        return super().queryset(request, found)

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found if value == "all" else found.filter(kind=value)


class MappingFilter(Choice):
    title = "mapping"
    parameter_name = "mapping"

    def lookups(self, request: HttpRequest, _page: Any) -> list[tuple[str, str]]:
        asked = request.GET.get("mapping", "")
        names = sorted({name for _, name in access.mapped()} | ({asked} if asked else set()))
        return [(name, name) for name in names]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(mapping=value)


class DirectionFilter(Choice):
    title = "direction"
    parameter_name = "direction"

    def lookups(self, _request: HttpRequest, _page: Any) -> list[tuple[str, str]]:
        return [(Cursor.Direction.PULL, "to us"), (Cursor.Direction.PUSH, "to them")]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(direction=value)


class LetterAgeFilter(AgeFilter):
    since = "first_at"


class LetterAdmin(access.Kept, ModelAdmin):
    """One that is discarded stays to be read."""

    change_list_template = LIST
    list_display = ("what", "kind_badge", "system", "way", "why", "since", "next_try")
    list_display_links = ("what",)
    list_filter = (KindFilter, SystemFilter, MappingFilter, DirectionFilter, LetterAgeFilter)
    list_per_page = 50
    show_full_result_count = False
    ordering = ("-first_at", "-pk")
    search_fields = ("key", "error")
    search_help_text = "Text of the record or of its error, or a whole key or id"
    actions = ("retry_selected", "discard_selected")

    class Media:
        css = {"all": ["sync/record.css", "legacy/legacy.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return access.visible(request.user, super().get_queryset(request))

    def get_search_results(
        self,
        request: HttpRequest,  # noqa: ARG002
        queryset: QuerySet[Any],
        search_term: str,
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term or (known := as_uuid(term)) is not None:
            return (queryset.filter(Q(key=str(known)) | Q(run=known)) if term else queryset), False
        texts = queryset.alias(payload_text=Cast("payload", TextField()))
        return texts.filter(Q(key=term) | Q(error__icontains=term) | Q(payload_text__icontains=term)), False

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return access.may(request, access.DECIDE)

    # --- the list ---

    @admin.display(description="record", ordering="key")
    def what(self, letter: DeadLetter) -> str:
        return f"{letter.mapping} · {Truncator(getattr(letter, 'row_name', letter.key)).chars(NAME_CHARS)}"

    @admin.display(description="kind", ordering="kind")
    def kind_badge(self, letter: DeadLetter) -> SafeString:
        return format_html('<span class="sy">{}</span>', words.badge(*KINDS[DeadLetter.Kind(letter.kind)]))

    @admin.display(description="goes", ordering="direction")
    def way(self, letter: DeadLetter) -> str:
        return "to us" if letter.direction == Cursor.Direction.PULL else "to them"

    @admin.display(description="why", ordering="error")
    def why(self, letter: DeadLetter) -> str:
        return Truncator(access.told(letter.error)).chars(ERROR_CHARS)

    @admin.display(description="since", ordering="first_at")
    def since(self, letter: DeadLetter) -> SafeString:
        return words.moment(letter.first_at)

    @admin.display(description="next try", ordering="next_at")
    def next_try(self, letter: DeadLetter) -> str:
        return next_told(letter)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        groups = [] if request.method == "POST" else self._groups(request)
        more = {"title": "Dead letters", "groups": groups[:GROUPS_MAX], "groups_more": len(groups) > GROUPS_MAX}
        response = super().changelist_view(request, more | (extra_context or {}))
        if isinstance(response, TemplateResponse) and (cl := (response.context_data or {}).get("cl")):
            name(cl.result_list)
        return response

    def _groups(self, request: HttpRequest) -> list[dict[str, Any]]:
        """What waits, counted by system, mapping and kind, the largest first."""
        waiting = self.get_queryset(request).exclude(kind=DeadLetter.Kind.IGNORED).order_by()
        counted = waiting.values("system", "mapping", "kind").annotate(count=Count("pk"), oldest=Min("first_at"))
        keys = ("system", "mapping", "kind")
        return [
            {
                **group,
                "badge": words.badge(*KINDS[DeadLetter.Kind(group["kind"])]),
                "oldest": words.moment(group["oldest"]),
                "address": "?" + urlencode({key: group[key] for key in keys}),
                "chosen": all(group[key] == request.GET.get(key) for key in keys),
            }
            for group in counted.order_by("-count", "oldest")[: GROUPS_MAX + 1]
        ]

    # --- one ---

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        letter = access.found(request, DeadLetter, object_id or "")
        return letter_page(Case(request, letter, self.admin_site.each_context(request) | (extra_context or {})))

    # --- many ---

    @admin.action(description="Try again with the next run", permissions=["decide"])
    def retry_selected(self, request: HttpRequest, chosen: QuerySet[DeadLetter]) -> HttpResponse | None:
        return self._many(request, chosen, "retry")

    @admin.action(description="Discard", permissions=["decide"])
    def discard_selected(self, request: HttpRequest, chosen: QuerySet[DeadLetter]) -> HttpResponse | None:
        return self._many(request, chosen, "discard")

    def _many(self, request: HttpRequest, chosen: QuerySet[DeadLetter], verb: str) -> HttpResponse | None:
        """Ask first, then do it."""
        most = settings.LEGACY_DECISIONS_MAX
        found = list(chosen.order_by("system", "mapping", "first_at")[: most + 1])
        if len(found) > most:
            self.message_user(request, f"Choose at most {most} at once.", messages.ERROR)
            return None
        form = DiscardForm(request.POST) if "confirmed" in request.POST and verb == "discard" else None
        if "confirmed" not in request.POST or (form is not None and not form.is_valid()):
            return self._confirm(request, found, verb, form)
        assert isinstance(request.user, AbstractBaseUser)
        if form is not None:
            count = discard(found, form.cleaned_data["reason"], request.user)
            self.message_user(request, f"{count} left alone.", messages.SUCCESS)
        else:
            count = retry(found, request.user)
            unclear = f" {len(found) - count} are unclear: open each and say what it is." if count < len(found) else ""
            self.message_user(request, f"{count} are tried again with the next run.{unclear}", messages.SUCCESS)
        return HttpResponseRedirect(request.get_full_path())

    def _confirm(
        self, request: HttpRequest, found: Sequence[DeadLetter], verb: str, form: DiscardForm | None
    ) -> HttpResponse:
        name(found[:LINES_MAX])
        done = "Try again" if verb == "retry" else "Leave alone"
        context = self.admin_site.each_context(request) | {
            "title": f"{done}: {len(found)} dead letter{'s' * (len(found) != 1)}",
            "opts": self.opts,
            "verb": verb,
            "action": f"{verb}_selected",
            "found": found,
            "shown": [
                {"what": self.what(each), "why": self.why(each), "system": each.system} for each in found[:LINES_MAX]
            ],
            "rest": len(found) - min(len(found), LINES_MAX),
            "reason": form,
            "reason_chars_max": REASON_CHARS_MAX,
            "address": request.get_full_path(),
        }
        return TemplateResponse(request, CONFIRM, context)


def next_told(letter: DeadLetter) -> str:
    """When it is tried again, in words."""
    if letter.next_at is None:
        return "when a person says so"
    left = letter.next_at - timezone.now()
    return "with the next run" if left.total_seconds() <= 0 else f"in {words.lasting(left)}"


def name(letters: Iterable[Any]) -> None:
    """Give each what its row is called, for the list: many in one query an entity."""
    known = access.mapped()
    listed = list(letters)
    at = {}
    for each in listed:
        entity = known.get((each.system, each.mapping))
        if entity and each.direction == Cursor.Direction.PUSH:
            at[each.pk] = (entity.entity.name, each.key)
    names = row_names(at.values())
    for each in listed:
        found = known.get((each.system, each.mapping))
        each.row_name = names.get(at.get(each.pk, ("", ""))) or access.name_of(found, each.payload, each.key)
