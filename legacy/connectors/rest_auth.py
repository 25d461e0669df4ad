"""How a JSON API knows us. Secrets stand in no text of ours: not in a repr, not in an error, not in a log."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from legacy.connector import Misconfigured

TOKEN_MARGIN_SECONDS = 30  # before it expires; half of its life where that is less
TOKEN_SECONDS = 3_600  # of a token that does not say how long it lives

# (url, form, headers) → the body of the answer. Raises Unreachable or Misconfigured.
Ask = Callable[[str, Mapping[str, str], Mapping[str, str]], Any]


class Auth(Protocol):
    @property
    def name(self) -> str:
        """Who we are, as far as that can be said without asking and without telling a secret."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be repeated, whoever says it."""

    def sign(self, ask: Ask, /) -> tuple[dict[str, str], dict[str, str]]:
        """The headers and the query parameters to send."""

    def forget(self) -> bool:
        """We were not let in: whether signing anew may help."""


@dataclass(frozen=True)
class Open:
    """No credentials at all."""

    name = "anonymous"
    secrets = ()

    def sign(self, _ask: Ask, /) -> tuple[dict[str, str], dict[str, str]]:
        return {}, {}

    def forget(self) -> bool:
        return False


@dataclass(frozen=True)
class ApiKey(Open):
    """In a header (after `prefix`), or in the query parameter `query`, where it ends up in the logs of others."""

    key: str = field(repr=False)
    header: str = "X-Api-Key"
    query: str = ""
    prefix: str = ""
    name = "API key"

    def __post_init__(self) -> None:
        _filled("API key", self.key)

    @property
    def secrets(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.key,)

    def sign(self, _ask: Ask, /) -> tuple[dict[str, str], dict[str, str]]:
        return ({}, {self.query: self.key}) if self.query else ({self.header: self.prefix + self.key}, {})


def Bearer(token: str) -> ApiKey:
    return ApiKey(token, header="Authorization", prefix="Bearer ")


@dataclass(frozen=True)
class Basic(Open):
    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        _filled("user name", self.user)
        _filled("password", self.password)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.user

    @property
    def secrets(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.password, _basic(self.user, self.password)

    def sign(self, _ask: Ask, /) -> tuple[dict[str, str], dict[str, str]]:
        return {"Authorization": f"Basic {_basic(self.user, self.password)}"}, {}


@dataclass
class OAuth2:
    """Client credentials: a token that is got when the first call needs one, and anew before it expires."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""
    in_body: bool = False  # the credentials; else as HTTP Basic, which RFC 6749 prefers
    _token: str = field(default="", repr=False, init=False)
    _renew_at: float = field(default=0.0, repr=False, init=False)

    def __post_init__(self) -> None:
        _filled("client id", self.client_id)
        _filled("client secret", self.client_secret)

    @property
    def name(self) -> str:
        return self.client_id

    @property
    def secrets(self) -> tuple[str, ...]:
        found = self.client_secret, _basic(self.client_id, self.client_secret), self._token
        return tuple(filter(None, found))

    def sign(self, ask: Ask, /) -> tuple[dict[str, str], dict[str, str]]:
        if not self._token or monotonic() >= self._renew_at:
            self._get_token(ask)
        return {"Authorization": f"Bearer {self._token}"}, {}

    def forget(self) -> bool:
        self._token = ""
        return True

    def _get_token(self, ask: Ask) -> None:
        form = {"grant_type": "client_credentials"} | ({"scope": self.scope} if self.scope else {})
        headers = {}
        if self.in_body:
            form |= {"client_id": self.client_id, "client_secret": self.client_secret}
        else:
            headers = {"Authorization": f"Basic {_basic(self.client_id, self.client_secret)}"}
        answer = ask(self.token_url, form, headers)
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise Misconfigured(f"{self.token_url} answers without an access_token: is that where tokens are made?")
        try:
            seconds = float(answer.get("expires_in") or TOKEN_SECONDS)
        except (TypeError, ValueError):
            seconds = TOKEN_SECONDS
        self._token, self._renew_at = token, monotonic() + seconds - min(TOKEN_MARGIN_SECONDS, seconds / 2)


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _filled(what: str, value: str) -> None:
    if not value or not value.isascii() or not value.isprintable():
        raise Misconfigured(f"The {what} for the API is empty, or has characters that no header can carry.")
