"""Secrets of subscriptions: made here, shown once, kept encrypted with SECRET_KEY."""

import base64
import hashlib
import secrets

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

SECRET_BYTES = 32


class Sealed(Exception):
    """SECRET_KEY is another one by now, and SECRET_KEY_FALLBACKS does not have the one before it."""


def new_secret() -> str:
    """As Standard Webhooks has them."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def seal(secret: str) -> str:
    return _keys().encrypt(secret.encode()).decode()


def unseal(text: str) -> str:
    """Raises Sealed."""
    try:
        return _keys().decrypt(text.encode()).decode()
    except InvalidToken:
        raise Sealed("Its secret cannot be read: SECRET_KEY was changed. Give it a new one.") from None


def resealed(text: str) -> str:
    """The same with the SECRET_KEY of today, so that a fallback can go some day. Raises Sealed."""
    try:
        _fernet(settings.SECRET_KEY).decrypt(text.encode())
    except InvalidToken:
        return seal(unseal(text))
    return text


def _keys() -> MultiFernet:
    return MultiFernet([_fernet(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _fernet(key: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"legacy.subscription " + key.encode()).digest()))
