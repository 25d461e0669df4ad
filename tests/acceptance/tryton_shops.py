"""A template for shops that each have a Tryton database of their own. Two shops may number their customers alike."""

from dataclasses import replace
from urllib.parse import urlsplit

from legacy.branches.models import Branch
from legacy.connectors.tryton import Tryton
from legacy.convert import By
from legacy.document import Document
from legacy.mapping import F, Mapping
from legacy.mappings.tryton import CUSTOMER, PRODUCT
from legacy.systems import Many


def connect(branch: Branch) -> Tryton:
    at = urlsplit(branch.url)
    assert at.username
    assert at.password
    return Tryton(f"{at.scheme}://{at.hostname}:{at.port}", at.path.strip("/"), at.username, at.password)


def mappings(branch: Branch) -> tuple[Mapping, ...]:
    def code(theirs: str | None) -> str:
        return f"{branch.name}-{theirs}"

    def is_its_own(customer: Document) -> bool:
        return str(customer["code"] or "").startswith(f"{branch.name}-")

    fields = (F("code", "code", By(code), only="pull"), *CUSTOMER.fields[1:])
    return replace(CUSTOMER, fields=fields, sends=is_its_own), PRODUCT


SYSTEMS = (Many("shop", connect, mappings),)
