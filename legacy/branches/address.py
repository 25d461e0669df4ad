"""Where a branch is reached: an address, or the variable of the environment that holds it, as people type them."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from legacy.connector import Misconfigured
from sync.outbound import may_be_called
from syncserver import environment

FROM_ENVIRONMENT = re.compile(r"env:(LEGACY_[A-Z0-9_]+)")  # no other variable is anybody's to send somewhere
FILES = ("sqlite",)  # schemes whose addresses have no host


def resolved(given: str) -> str:
    """The address itself. Raises Misconfigured, without quoting it, where the variable is empty or may not be one."""
    if not given.startswith("env:"):
        return given
    found = FROM_ENVIRONMENT.fullmatch(given)
    if found is None:
        raise Misconfigured("An address from the environment is written env:LEGACY_… in capital letters.")
    if url := environment.text(found[1]):
        return url
    raise Misconfigured(f"Its address is in the variable {found[1]}, which is not set where this runs.")


def problem(url: str, schemes: Collection[str]) -> str:
    """What is wrong with an address; empty: nothing. Never quotes it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "This is no address."
    scheme = parts.scheme.lower().partition("+")[0]
    if scheme in ("http", "https") and "https" in schemes:
        return "" if may_be_called(url) else "The address must begin with https://."
    if scheme not in schemes:
        return f"The address must begin with {', '.join(f'{each}://' for each in schemes)}."
    if not host and scheme not in FILES:
        return "The address has no host."
    return ""
