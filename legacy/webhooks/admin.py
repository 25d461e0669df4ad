"""The admin's pages of webhooks: what came in and what became of it, and who is told of what is new."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextareaWidget

from devices.models import validate_scope
from legacy.pages.access import Kept
from legacy.secret import seal
from legacy.webhooks.bodies import told
from legacy.webhooks.feed import WAITING_SHOWN_MAX, begin, waiting
from legacy.webhooks.models import Hint, Operation
from legacy.webhooks.outbox import new_secret, problem_of, renew_secret, resume, send_test, skip, start_over
from legacy.webhooks.subscriptions import Subscription
from sync.outbound import host_of
from sync.pages import words
from sync.permissions import viewable_entities

BODY_CHARS_SHOWN_MAX = 20_000
TONES = {
    Subscription.State.WELL: "good",
    Subscription.State.FAILING: "warn",
    Subscription.State.STOPPED: "bad",
    Subscription.State.DISABLED: "plain",
}
SKIPPED_SHOWN_MAX = 20  # of the rows of a delivery that is skipped


class HintInline(Kept, TabularInline):
    model = Hint
    fields = ("mapping", "key", "state", "outcome", "error", "attempts")
    extra = 0
    hide_title = True


@admin.register(Operation)
class OperationAdmin(Kept, ModelAdmin):
    list_display = ("came_at", "system", "state", "error")
    list_filter = ("system", "came_at", ("error", admin.EmptyFieldListFilter))
    search_fields = ("id", "hints__key")
    search_help_text = "The id that the sender was told, or a record's key"
    fields = ("id", "system", "came_at", "state", "error", "text")
    readonly_fields = ("id", "state", "text")
    inlines = (HintInline,)
    ordering = ("-came_at",)

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        return super().get_queryset(request).prefetch_related("hints")

    @admin.display
    def state(self, operation: Operation) -> str:
        return told(operation).state

    @admin.display(description="body")
    def text(self, operation: Operation) -> str:
        return bytes(operation.body).decode(errors="replace")[:BODY_CHARS_SHOWN_MAX]


@admin.register(Hint)
class HintAdmin(Kept, ModelAdmin):
    list_display = ("mapping", "key", "system", "state", "outcome", "error", "attempts", "next_at")
    list_filter = ("state", "outcome", "system", "mapping")
    search_fields = ("key",)
    fields = ("operation", "mapping", "key", "at", "state", "outcome", "error", "attempts", "next_at", "done_at")
    ordering = ("-pk",)
    actions = ("try_again",)

    @admin.action(description="Try again now", permissions=["retry"])
    def try_again(self, request: HttpRequest, hints: "QuerySet[Hint]") -> None:
        again = hints.exclude(state=Hint.State.DONE)
        count = again.update(state=Hint.State.WAITING, claim=None, attempts=0, next_at=timezone.now())
        self.message_user(request, f"{count} will be tried again within seconds, or by the next run.", messages.SUCCESS)

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("legacy.change_hint")


class SubscriptionForm(forms.ModelForm):  # type: ignore[type-arg]
    entities = forms.MultipleChoiceField(widget=UnfoldAdminCheckboxSelectMultipleWidget)
    scope_lines = forms.CharField(
        label="Scopes",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="One a line, such as global or store:7. None: every row.",
    )
    from_the_beginning = forms.BooleanField(
        required=False, help_text="Send every row that there is first. Otherwise it is told of changes from now on."
    )

    class Meta:
        model = Subscription
        fields = ("name", "url", "entities", "enabled")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        lines = "\n".join(self.instance.scopes)
        self.fields["scope_lines"].initial = lines

    def clean_url(self) -> str:
        url = str(self.cleaned_data["url"])
        if problem := problem_of(url):
            raise forms.ValidationError(problem)
        return url

    def clean_scope_lines(self) -> list[str]:
        scopes = [line.strip() for line in self.cleaned_data["scope_lines"].splitlines() if line.strip()]
        for scope in scopes:
            validate_scope(scope)
        return scopes


@admin.register(Subscription)
class SubscriptionAdmin(ModelAdmin):
    form = SubscriptionForm
    list_display = ("name", "host", "what", "state_badge", "error", "waits", "last_delivery", "delivered")
    list_filter = ("enabled", ("stopped_at", admin.EmptyFieldListFilter), ("failing_since", admin.EmptyFieldListFilter))
    search_fields = ("name", "url")
    readonly_fields = (
        *("state_badge", "error", "attempts", "failing_since", "next_at", "waits", "position"),
        *("last_delivery", "delivered", "created_by", "created_at"),
    )
    actions = ("send_a_test", "resume_them", "skip_the_page", "send_everything", "give_new_secret")

    class Media:
        css = {"all": ["sync/record.css"]}

    def get_fieldsets(self, _request: HttpRequest, obj: Any = None) -> Any:
        settings = ["name", "url", "entities", "scope_lines", "enabled"]
        if obj is None:
            return [(None, {"fields": [*settings, "from_the_beginning"]})]
        return [(None, {"fields": settings}), ("How it goes", {"fields": list(self.readonly_fields)})]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        """Nobody can have others told what they may not see themselves."""
        options["fields"] = None
        form: Any = super().get_form(request, obj, change, **options)
        seen = sorted(viewable_entities(request.user) | set(obj.entities if obj else ()))
        form.base_fields["entities"].choices = [(name, name) for name in seen]
        return form

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:
        obj.scopes = form.cleaned_data["scope_lines"]
        if change:  # what a process that delivers writes meanwhile is left as it is
            obj.save(update_fields=["name", "url", "entities", "scopes", "enabled"])
            return
        secret = new_secret()
        obj.sealed = seal(secret)
        obj.created_by = request.user if request.user.is_authenticated else None
        begin(obj, whole=form.cleaned_data["from_the_beginning"])
        obj.save()
        self._show(request, secret)

    def _show(self, request: HttpRequest, secret: str) -> None:
        self.message_user(request, f"Secret: {secret}. Copy it now: it is shown only this once.", messages.WARNING)

    @admin.action(description="Send a test", permissions=["change"])
    def send_a_test(self, request: HttpRequest, found: "QuerySet[Subscription]") -> None:
        for each in found:
            error = send_test(each).error
            told = f"{each}: {error}" if error else f"{each} accepted the test."
            self.message_user(request, told, messages.ERROR if error else messages.SUCCESS)

    @admin.action(description="Resume", permissions=["change"])
    def resume_them(self, request: HttpRequest, found: "QuerySet[Subscription]") -> None:
        for each in found:
            resume(each)
            self.message_user(request, f"{each} is told what it lacks.", messages.SUCCESS)

    @admin.action(description="Skip the delivery that it does not accept", permissions=["change"])
    def skip_the_page(self, request: HttpRequest, found: "QuerySet[Subscription]") -> None:
        for each in found.exclude(failing_since=None):
            skipped = [f"{change.entity} {change.id}" for change in skip(each)]
            more = "" if len(skipped) <= SKIPPED_SHOWN_MAX else " …"
            told = f"{each} is not told of {len(skipped)} changes: {', '.join(skipped[:SKIPPED_SHOWN_MAX])}{more}"
            self.message_user(request, told, messages.WARNING)

    @admin.action(description="Send every row again", permissions=["change"])
    def send_everything(self, request: HttpRequest, found: "QuerySet[Subscription]") -> None:
        for each in found:
            start_over(each)
            self.message_user(request, f"{each} is sent every row.", messages.SUCCESS)

    @admin.action(description="Give it a new secret", permissions=["change"])
    def give_new_secret(self, request: HttpRequest, found: "QuerySet[Subscription]") -> None:
        for each in found:
            self._show(request, renew_secret(each))

    @admin.display(description="host")
    def host(self, subscription: Subscription) -> str:
        return host_of(subscription.url)  # its path may be a secret

    @admin.display(description="is told of")
    def what(self, subscription: Subscription) -> str:
        within = f" in {', '.join(subscription.scopes)}" if subscription.scopes else ""
        return ", ".join(subscription.entities) + within

    @admin.display(description="state")
    def state_badge(self, subscription: Subscription) -> SafeString:
        state = subscription.state
        return format_html('<span class="sy">{}</span>', words.badge(TONES[state], state.label.partition(":")[0]))

    @admin.display(description="waits")
    def waits(self, subscription: Subscription) -> str:
        count = waiting(subscription)
        return f"{count:,} changes" if count <= WAITING_SHOWN_MAX else f"more than {WAITING_SHOWN_MAX:,} changes"

    @admin.display(description="position")
    def position(self, subscription: Subscription) -> str:
        if subscription.base is None:
            return "is sent every row"
        return f"has all that was committed at {subscription.base}" + (
            f", and part of what was at {subscription.target}" if subscription.target else ""
        )

    @admin.display(description="last delivery", ordering="delivered_at")
    def last_delivery(self, subscription: Subscription) -> SafeString:
        return words.moment(subscription.delivered_at)
