"""Values of their records as a person reads and mends them: what stands where, in its own type."""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.safestring import SafeString

from legacy.document import Document, Unmappable
from legacy.mapping import ABSENT
from legacy.mapping import Mapping as Declared
from legacy.models import Link
from legacy.pages.access import told
from legacy.stored import Decoder, Encoder

VALUE_CHARS_MAX = 400  # that are shown of one value
FIELD_CHARS_MAX = 20_000  # of a value that is mended
LONG_CHARS = 80  # a longer one is mended in more than one line
SET = "set-"


def shown(value: Any) -> SafeString:
    """A value of theirs, escaped; nothing and empty can be told apart."""
    if value is None or value == "":
        return format_html('<span class="sy-nothing">{}</span>', "none" if value is None else "empty")
    text = written(value)
    cut = text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…"
    return format_html("{}", cut)


def written(value: Any) -> str:
    """A value as text that `read` takes back."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case int() | float() | Decimal():
            return str(value)
    return json.dumps(value, cls=Encoder, ensure_ascii=False, indent=2)


def read(text: str, before: Any) -> Any:
    """The value that somebody wrote in the place of `before`, in its type. Raises ValueError."""
    if text == "":
        return "" if isinstance(before, str) else None
    match before:
        case bool():
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            raise ValueError("Write true or false.")
        case int():
            return _number(text) if "." in text else int(text)
        case float():
            return float(text)
        case Decimal():
            return _number(text)
        case dt.datetime():
            return dt.datetime.fromisoformat(text)
        case dt.date():
            return dt.date.fromisoformat(text)
        case dt.time():
            return dt.time.fromisoformat(text)
        case list() | dict():
            return _as_before(json.loads(text, cls=Decoder), before)
    return text


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text} is no number.") from None


def _as_before(value: Any, before: Any) -> Any:
    if type(value) is not type(before):
        raise ValueError("Write a list." if isinstance(before, list) else "Write an object.")
    return value


def in_our_terms(mapping: Declared, system: str, values: Mapping[str, Any]) -> tuple[Document, dict[str, str]]:
    """A record of theirs as our document, as far as it can be mapped, and what is wrong by our field."""

    def refer(name: str, key: str) -> str:
        link = Link.objects.filter(system=system, mapping=name, key=key).first()
        if link is None:
            raise Unmappable(f"the {name} {key} that it refers to has not been taken over")
        return str(link.row)

    document: Document = {}
    wrong: dict[str, str] = {}
    for name, reader in mapping.readers.items():
        try:
            value = reader(values, refer)
        except Unmappable as error:
            wrong[name] = told(str(error).removeprefix(f"{name}: "))
        except (KeyError, TypeError, AttributeError) as error:
            wrong[name] = told(f"{type(error).__name__}: {error}")
        else:
            document |= {} if value is ABSENT else {name: value}
    return document, wrong


class MendForm(forms.Form):
    """A field for each place of a record: its values as text. `payload` is then the record as it was mended."""

    seen = forms.CharField(widget=forms.HiddenInput)  # what the person was shown

    def __init__(self, payload: Mapping[str, Any], data: Any = None) -> None:
        super().__init__(data)
        self.before = payload
        self.digest = hashlib.sha256(json.dumps(payload, cls=Encoder, sort_keys=True).encode()).hexdigest()
        self.fields["seen"].initial = self.digest
        for place, value in payload.items():
            text = written(value)
            long = isinstance(value, list | dict) or len(text) > LONG_CHARS or "\n" in text
            widget = forms.Textarea if long else forms.TextInput
            self.fields[SET + place] = forms.CharField(
                label=place,
                required=False,
                strip=False,
                initial=text,
                max_length=FIELD_CHARS_MAX,
                widget=widget(attrs={"class": "sy-input"} | ({"rows": 4} if long else {})),
            )

    def clean(self) -> dict[str, Any]:
        if self.cleaned_data.get("seen") != self.digest:
            raise forms.ValidationError("The record was read anew meanwhile. This is what it is now; mend that.")
        self.payload = dict(self.before)
        for place, value in self.before.items():
            text = self.cleaned_data.get(SET + place)
            if text is None or SET + place not in self.changed_data:
                continue  # as it is, to the letter
            try:
                self.payload[place] = read(text.replace("\r\n", "\n"), value)
            except ValueError as error:
                self.add_error(SET + place, f"That is no value for this place: {error}")
        return self.cleaned_data

    @property
    def is_changed(self) -> bool:
        return self.payload != dict(self.before)
