"""Where the pages of the pre-existing systems are registered; `legacy/pages/` has them."""

from django.contrib import admin

from legacy.branches.admin import BranchAdmin as BranchAdmin
from legacy.models import Counterpart, DeadLetter, Link, Run
from legacy.pages.letters import LetterAdmin
from legacy.pages.links import LinkAdmin
from legacy.pages.runs import RunAdmin
from legacy.pages.systems import SystemAdmin
from legacy.webhooks import admin as _webhooks  # noqa: F401  # Django looks for an application's pages here

admin.site.register(Counterpart, SystemAdmin)
admin.site.register(Run, RunAdmin)
admin.site.register(DeadLetter, LetterAdmin)
admin.site.register(Link, LinkAdmin)
