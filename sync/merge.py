"""Three-way merging of a row's fields: a pure function of what the base, the server and the device have."""

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

CONFLICT_POLICIES = ("server_wins", "device_wins", "latest_wins", "manual")
DELETE_POLICIES = ("edit_wins", "delete_wins", "manual")


class _Ask(enum.Enum):
    ASK = "ask a person"


ASK: Final = _Ask.ASK
# A deployment's own policy: from the fields in dispute as they were at the base (None: unknown), on the server and from
# the device, all in wire form, to the values that shall be, or to ASK. It must be a function of these alone.
Resolver = Callable[[Mapping[str, Any] | None, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any] | _Ask]
Policy = str | Resolver


def policy_name(policy: Policy) -> str:
    """What a policy is called on pages and in records: a function by its own name."""
    return policy if isinstance(policy, str) else getattr(policy, "__name__", type(policy).__name__)
