"""The register of branches: how each is at a glance, and what can be done with one or with many of them."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget

from legacy import button
from legacy.branches.entry import check, take
from legacy.branches.models import Branch
from legacy.due import latest
from legacy.models import Counterpart, DeadLetter, Link, Run
from legacy.report import seconds, written
from legacy.systems import templates
from sync.pages import words

TESTS_MAX = 10  # connections that are tested at once: each is a process
FILE_BYTES_MAX = 2_000_000
ERROR_CHARS = 90  # of an error, in the list
BADGES = {
    Run.State.DONE: "good",
    Run.State.RUNNING: "info",
    Run.State.PARTIAL: "warn",
    Run.State.PAUSED: "plain",
}


class BranchForm(forms.ModelForm):  # type: ignore[type-arg]
    url = forms.CharField(
        label="address",
        required=False,
        strip=True,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Such as postgresql://user:password@host/base, or env:LEGACY_… for a variable of the environment. "
        "It is encrypted, and never shown again. Empty: as it was.",
    )

    class Meta:
        model = Branch
        fields = ["kind", "name", "title", "enabled", "schedule", "zone", "timeout_seconds", "parameters", "notes"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "kind" in self.fields:
            self.fields["kind"] = forms.ChoiceField(
                choices=[(kind, kind) for kind in templates()], widget=UnfoldAdminSelectWidget
            )

    def clean(self) -> dict[str, Any]:
        """Raises ValidationError for what does not fit the template, too. A new branch needs an address."""
        cleaned = super().clean() or self.cleaned_data
        draft = Branch(
            kind=cleaned.get("kind", self.instance.kind),
            name=cleaned.get("name", self.instance.name),
            schedule=cleaned.get("schedule", ""),
            zone=cleaned.get("zone", ""),
        )
        url = cleaned.get("url", "")
        if draft.kind and draft.name:
            check(draft, url if url or self.instance.pk is None else None)
        return cleaned

    def save(self, commit: bool = True) -> Branch:
        if url := self.cleaned_data.get("url"):
            self.instance.url = url
        found: Branch = super().save(commit)
        return found


class ImportForm(forms.Form):
    kind = forms.ChoiceField()
    file = forms.FileField(help_text="CSV in UTF-8. The first line names the columns.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kind"] = forms.ChoiceField(choices=[(kind, kind) for kind in templates()])

    def clean_file(self) -> str:
        file = self.cleaned_data["file"]
        if file.size > FILE_BYTES_MAX:
            raise ValidationError(f"At most {FILE_BYTES_MAX // 1_000_000} MB: take the file over in parts.")
        try:
            return str(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ValidationError("This is no text in UTF-8.") from None


@admin.register(Branch)
class BranchAdmin(ModelAdmin):
    form = BranchForm
    change_list_template = "admin/legacy/branches.html"
    change_form_outer_before_template = "admin/legacy/branch_glance.html"
    list_display = ("full_name", "title", "state_badge", "last_run", "took", "records", "waiting", "error", "planned")
    list_filter = ("kind", "enabled")
    search_fields = ("name", "title", "notes")
    list_per_page = 100
    actions = ("sync_now", "test_connection", "enable", "disable")
    fieldsets = (
        (None, {"fields": ("kind", "name", "title", "url", "enabled")}),
        ("When", {"fields": ("schedule", "zone", "timeout_seconds")}),
        ("More", {"fields": ("parameters", "notes")}),
    )

    class Media:
        css = {"all": ["sync/record.css"]}

    def get_readonly_fields(self, _request: HttpRequest, obj: Branch | None = None) -> tuple[str, ...]:
        return ("kind", "name") if obj else ()  # its links and cursors are kept under them

    def has_delete_permission(self, request: HttpRequest, obj: Branch | None = None) -> bool:
        """One that has been synced is switched off: what came from it says so."""
        synced = obj is not None and Link.objects.filter(system=obj.system).exists()
        return obj is not None and not synced and super().has_delete_permission(request, obj)

    def get_urls(self) -> list[Any]:
        own = path("import/", self.admin_site.admin_view(self.take_file), name="legacy_branch_import")
        return [own, *super().get_urls()]

    # --- the list ---

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Each branch of the page with its last run and what is the matter with it: three queries for all."""
        found = super().get_changelist_instance(request)
        look_at(list(found.result_list))
        return found

    @admin.display(description="state")
    def state_badge(self, branch: Any) -> SafeString:
        return format_html('<span class="sy">{}</span>', words.badge(*state_of(branch)))

    @admin.display(description="last run")
    def last_run(self, branch: Any) -> SafeString:
        return words.moment(branch.last.started_at if branch.last else None)

    @admin.display(description="took")
    def took(self, branch: Any) -> str:
        found = seconds(branch.last) if branch.last else None
        return "" if found is None else f"{found:.1f} s"

    @admin.display(description="records")
    def records(self, branch: Any) -> str:
        return f"{written(branch.last.counts):,}" if branch.last else ""

    @admin.display(description="dead letters")
    def waiting(self, branch: Any) -> SafeString | str:
        if not branch.letters:
            return "–"
        address = f"{reverse('admin:legacy_deadletter_changelist')}?system={branch.system}"
        return format_html('<a href="{}">{}</a>', address, branch.letters)

    @admin.display(description="error")
    def error(self, branch: Any) -> SafeString | str:
        told = branch.last.error if branch.last else ""
        return format_html('<span title="{}">{}</span>', told, Truncator(told).chars(ERROR_CHARS)) if told else ""

    @admin.display(description="schedule")
    def planned(self, branch: Branch) -> str:
        template = templates().get(branch.kind)
        return branch.schedule or (template.schedule if template else "") or "whenever cron runs it"

    # --- the page of one ---

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        branch: Any = self.get_object(request, object_id)
        more: dict[str, Any] = {}
        if branch and self.has_view_or_change_permission(request, branch):
            look_at([branch])
            runs = Run.objects.filter(system=branch.system).order_by("-started_at")[:10]
            more = {
                "branch": branch,
                "state": words.badge(*state_of(branch)),
                "runs": [(run, words.badge(_kind(run), run.state), seconds(run), written(run.counts)) for run in runs],
                "may_act": self.has_change_permission(request, branch),
                "list_address": reverse("admin:legacy_branch_changelist"),
            }
        return super().change_view(request, object_id, form_url, more | (extra_context or {}))

    # --- actions ---

    @admin.action(description="Sync now", permissions=["change"])
    def sync_now(self, request: HttpRequest, branches: QuerySet[Branch]) -> None:
        names = [branch.system for branch in branches if branch.enabled]
        if not names:
            return self.message_user(request, "None of them is switched on.", messages.WARNING)
        # A person who asks knows that it is there again, or wants to know whether it is.
        Counterpart.objects.filter(system__in=names).update(rests_until=None)
        button.sync_now(names)
        return self.message_user(request, f"Begun: {', '.join(names)}. The list shows how they do.", messages.SUCCESS)

    @admin.action(description="Test the connection", permissions=["change"])
    def test_connection(self, request: HttpRequest, branches: QuerySet[Branch]) -> None:
        names = [branch.system for branch in branches]
        if len(names) > TESTS_MAX:
            return self.message_user(request, f"Choose at most {TESTS_MAX}.", messages.ERROR)
        for name, (well, told) in button.test(names).items():
            said = told if told.startswith(f"{name}:") else f"{name}: {told}"
            self.message_user(request, said, messages.SUCCESS if well else messages.ERROR)
        return None

    @admin.action(description="Switch on", permissions=["change"])
    def enable(self, request: HttpRequest, branches: QuerySet[Branch]) -> None:
        self._switch(request, branches, True)

    @admin.action(description="Switch off", permissions=["change"])
    def disable(self, request: HttpRequest, branches: QuerySet[Branch]) -> None:
        self._switch(request, branches, False)

    def _switch(self, request: HttpRequest, branches: QuerySet[Branch], on: bool) -> None:
        said = "Switched on" if on else "Switched off"
        for branch in branches:
            self.log_change(request, branch, f"{said}.")
        names = ", ".join(branch.system for branch in branches)
        branches.update(enabled=on)
        self.message_user(request, f"{said}: {names}.", messages.SUCCESS)

    # --- many from a file ---

    def take_file(self, request: HttpRequest) -> HttpResponse:
        if not (self.has_add_permission(request) and self.has_change_permission(request)):
            raise PermissionDenied
        form = ImportForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            try:
                made, changed = take(form.cleaned_data["kind"], form.cleaned_data["file"].splitlines())
            except ValidationError as error:
                for told in error.messages:
                    form.add_error("file", told)
            else:
                self.message_user(request, f"{made} made, {changed} changed.", messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:legacy_branch_changelist"))
        context = self.admin_site.each_context(request) | {"title": "Branches from a file", "opts": self.opts}
        return TemplateResponse(request, "admin/legacy/branch_import.html", context | {"form": form})


def look_at(branches: list[Any]) -> None:
    """Give each its last run, what is the matter with its system, and how many dead letters wait."""
    names = [branch.system for branch in branches]
    last = latest(names)
    troubled = Q(paused_at__isnull=False) | Q(rests_until__gt=timezone.now())
    counterparts = Counterpart.objects.filter(troubled, system__in=names).in_bulk()
    letters: dict[str, int] = {}
    for name in DeadLetter.objects.filter(system__in=names).values_list("system", flat=True):
        letters[name] = letters.get(name, 0) + 1
    for branch in branches:
        branch.last, branch.trouble = last.get(branch.system), counterparts.get(branch.system)
        branch.letters = letters.get(branch.system, 0)


def state_of(branch: Any) -> tuple[str, str]:
    """The kind of its badge, and the word."""
    if not branch.enabled:
        return "plain", "off"
    if branch.trouble and branch.trouble.paused_at:
        return "warn", "paused"
    if branch.last is None:
        return "plain", "never ran"
    if branch.trouble:
        return "bad", f"left alone, {branch.trouble.failures} times not reached"
    return _kind(branch.last), branch.last.state


def _kind(run: Run) -> str:
    return BADGES.get(Run.State(run.state), "bad")
