"""Two systems for pages to show, declared as a deployment declares its own."""

from typing import Any

from legacy.mapping import Same
from legacy.models import DeadLetter, Run
from legacy.runs import run
from legacy.systems import System
from tests.integration.legacy_support import CUSTOMER, ORDER, PRODUCT, Ledger
from tests.integration.pages_support import EVIL

LEDGER, CRM = Ledger(), Ledger()
SYSTEMS = (
    System("ledger", lambda: LEDGER, (CUSTOMER, PRODUCT, ORDER)),
    System("crm", lambda: CRM, (CUSTOMER,), rank=2),
)
SYSTEM, RUN = "/admin/legacy/counterpart/", "/admin/legacy/run/"
LETTER, LINK = "/admin/legacy/deadletter/", "/admin/legacy/link/"
NOBODY = "01993f5e-0000-7000-8000-00000000dead"  # an id that nothing has
NEARLY = (Same("name", by="letters", sure=False),)


def sync(**how: Any) -> Run:
    """A run of `ledger`, as the command makes it."""
    return run(SYSTEMS[0], **how)


def failed(**more: Any) -> DeadLetter:
    """A record of `ledger` that could not be taken over."""
    given = {
        "system": "ledger",
        "mapping": "customer",
        "direction": "pull",
        "key": "7",
        "error": f"city: {EVIL} is too long",
        "payload": {"code": "ALFKI", "name": EVIL, "city": "B" * 90, "phone": None},
    }
    return DeadLetter.objects.create(**(given | more))
