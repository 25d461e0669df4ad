"""What is kept encrypted: the addresses of branches, which hold passwords, and the secrets of subscriptions."""

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from legacy.connector import Misconfigured

LOST = (
    "Its address or secret was encrypted with a key that is not there: add the key to LEGACY_SECRET_KEY_FALLBACKS (or, "
    "where LEGACY_SECRET_KEY was not set, the old SECRET_KEY to SECRET_KEY_FALLBACKS), or give it a new one."
)


def seal(text: str) -> str:
    """Encrypted with the first key."""
    return _keys()[0].encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Raises Misconfigured where none of the keys made it."""
    try:
        return MultiFernet(_keys()).decrypt(sealed).decode()
    except InvalidToken:
        raise Misconfigured(LOST) from None


def reseal(sealed: str) -> str:
    """Unchanged if the first key made it; otherwise the same text, encrypted with that. Raises Misconfigured."""
    try:
        _keys()[0].decrypt(sealed)
    except InvalidToken:
        return seal(unseal(sealed))
    return sealed


def _keys() -> list[Fernet]:
    return [Fernet(_derived(secret)) for secret in _secrets()]


def _secrets() -> Sequence[str]:
    """The first one encrypts. The keys of SECRET_KEY stay, so that LEGACY_SECRET_KEY can be set later."""
    own = [settings.LEGACY_SECRET_KEY, *settings.LEGACY_SECRET_KEY_FALLBACKS]
    return [secret for secret in [*own, settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS] if secret]


def _derived(secret: str) -> bytes:
    """A key for this use alone, whatever else the secret is used for."""
    made = HKDF(SHA256(), length=32, salt=None, info=b"syncserver legacy branches").derive(secret.encode())
    return base64.urlsafe_b64encode(made)
