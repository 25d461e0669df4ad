from typing import TypeVar

from django.contrib.auth import forms
from django.contrib.auth.models import User
from django.db.models import Model
from django.forms import BaseInlineFormSet, ModelForm

M = TypeVar("M", bound=Model)
P = TypeVar("P", bound=Model)
F = TypeVar("F", bound=ModelForm[Model])

class AdminPasswordChangeForm(forms.AdminPasswordChangeForm[User]): ...
class UserChangeForm(forms.UserChangeForm[User]): ...
class UserCreationForm(forms.AdminUserCreationForm[User]): ...
class PaginationInlineFormSet(BaseInlineFormSet[M, P, F]): ...
