"""Who is believed: what is forged, old, cut or signed with another secret is refused, each in the same way."""

import hashlib
import hmac
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook as Signer

from legacy.webhooks.hook import Event, Hook, Unreadable, Where
from legacy.webhooks.verifiers import (
    Delivery,
    Forged,
    SecretPath,
    Signed,
    Stamped,
    StandardWebhooks,
    Verifier,
    secrets_of,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BODY = b'{"type": "customer.updated", "data": {"id": "7"}}'
OLD, NEW = (
    f"whsec_{b64encode(each).decode()}"
    for each in (b"the old secret of the sender 1", b"the new one, just made: 22222")
)


def standard(secret: str = NEW, at: datetime = NOW, id: str = "msg_1", body: bytes = BODY) -> dict[str, str]:
    signature = Signer(secret).sign(id, at, body.decode())
    return {"webhook-id": id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def mac(secret: str, signed: bytes) -> bytes:
    return hmac.new(secret.encode(), signed, hashlib.sha256).digest()


def stamped(secret: str, at: datetime = NOW, body: bytes = BODY) -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    return {"stripe-signature": f"t={stamp},v1={mac(secret, stamp.encode() + b'.' + body).hex()},v0=00"}


def hub(secret: str, body: bytes = BODY) -> dict[str, str]:
    return {"x-hub-signature-256": "sha256=" + mac(secret, body).hex()}


def verify(verifier: Verifier, headers: dict[str, str], *secrets: str, body: bytes = BODY, secret: str = "") -> str:
    return verifier.verify(Delivery(headers, body, NOW, secret), secrets)


@pytest.mark.parametrize(
    ("verifier", "headers", "id"),
    [
        (StandardWebhooks(), standard(), "msg_1"),
        (StandardWebhooks(), standard(OLD), "msg_1"),  # rotation: both are good
        (StandardWebhooks(), standard(at=NOW - timedelta(seconds=300)), "msg_1"),
        (Stamped(), stamped(NEW), ""),
        (Stamped(), stamped(OLD, NOW + timedelta(seconds=300)), ""),
        (Signed(), hub(NEW), ""),
        (Signed("x-shop", "", "base64"), {"x-shop": b64encode(mac(OLD, BODY)).decode()}, ""),
    ],
)
def test_signature_of_the_sender_is_accepted(verifier: Verifier, headers: dict[str, str], id: str) -> None:
    assert verify(verifier, headers, OLD, NEW) == id


@pytest.mark.legacy("F14")
@pytest.mark.parametrize(
    ("verifier", "headers"),
    [
        (StandardWebhooks(), {}),
        (StandardWebhooks(), standard(body=b"{}")),
        (StandardWebhooks(), standard("whsec_" + b64encode(b"somebody else's secret!!").decode())),
        (StandardWebhooks(), standard(at=NOW - timedelta(seconds=301))),  # replayed later
        (StandardWebhooks(), standard(at=NOW + timedelta(seconds=301))),  # a clock is wrong
        (StandardWebhooks(), standard() | {"webhook-id": "msg_2"}),  # the id is signed
        (StandardWebhooks(), standard() | {"webhook-timestamp": str(int(NOW.timestamp()) - 1)}),
        (StandardWebhooks(), standard() | {"webhook-timestamp": "yesterday"}),
        (StandardWebhooks(), standard() | {"webhook-timestamp": "9" * 400}),
        (StandardWebhooks(), standard() | {"webhook-signature": "v1,not base64"}),
        (StandardWebhooks(), standard() | {"webhook-signature": "v1"}),
        (StandardWebhooks(), standard() | {"webhook-signature": "v1,\u00e9"}),
        (StandardWebhooks(), standard() | {"webhook-signature": "v1a" + standard()["webhook-signature"][2:]}),
        (Stamped(), stamped("another")),
        (Stamped(), stamped(NEW, NOW - timedelta(seconds=301))),
        (Stamped(), {"stripe-signature": "t=,v1="}),
        (Stamped(), {"stripe-signature": stamped(NEW)["stripe-signature"].replace("v1=", "v0=")}),
        (Signed(), hub("another")),
        (Signed(), hub(NEW, b"{}")),
        (Signed(), {"x-hub-signature-256": mac(NEW, BODY).hex()}),
        (Signed(), {"x-hub-signature-256": "sha256="}),
        (SecretPath(), {}),
    ],
)
def test_anything_else_is_refused(verifier: Verifier, headers: dict[str, str]) -> None:
    with pytest.raises(Forged):
        verify(verifier, headers, OLD, NEW)


@pytest.mark.parametrize("verifier", [StandardWebhooks(), Stamped(), Signed(), SecretPath()])
@pytest.mark.parametrize("secrets", [(), ("",)])
def test_without_a_secret_nobody_is_believed(verifier: Verifier, secrets: tuple[str, ...]) -> None:
    """Also not who signs with the empty secret, which anybody could guess."""
    headers = stamped("") | hub("") | {"webhook-id": "1", "webhook-timestamp": str(int(NOW.timestamp()))}
    with pytest.raises(Forged):
        verify(verifier, headers | {"webhook-signature": "v1,"}, *secrets)


def test_body_that_is_no_text_is_refused_by_those_who_sign_text() -> None:
    with pytest.raises(Forged):
        verify(StandardWebhooks(), standard(), NEW, body=b"\xff")


def test_misspelt_secret_of_ours_refuses_and_does_not_break() -> None:
    with pytest.raises(Forged):
        verify(StandardWebhooks(), standard(), "whsec_a")


def test_secret_path_is_compared_as_a_whole() -> None:
    verify(SecretPath(), {}, "one", "two", secret="two")
    for wrong in ("", "t", "two2", "TWO"):
        with pytest.raises(Forged):
            verify(SecretPath(), {}, "one", "two", secret=wrong)


def test_secrets_belong_to_one_system(settings: object) -> None:
    settings.LEGACY_WEBHOOK_SECRETS = ["shop:old", "erp:x", "shop:new:with:colons", "shop:", "shop"]  # type: ignore[attr-defined]
    assert secrets_of("shop") == ["old", "new:with:colons"]
    assert secrets_of("sho") == []


# --- what a body is about ---


def test_body_names_its_records() -> None:
    where = Where(
        {"made": "customer", "gone": "customer"}, "what", "who.id", "id", "at", "all", "who", frozenset({"gone"})
    )
    told = Hook(SecretPath(), where).told(
        b'{"all": [{"what": "made", "who": {"id": 7, "name": "A"}, "id": "e1", "at": 1795262400},'
        b' {"what": "ping"}, {"what": "gone", "who": {"id": "8"}, "id": "e2", "at": "2026-11-21T12:00:00Z"}]}'
    )
    assert told == [Event("customer", "7", "e1", NOW, {"id": 7, "name": "A"}), Event("customer", "8", "e2", NOW)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[",
        b"[" * 100_000,
        b"[]",
        b'{"type": "a"}',
        b'{"type": "a", "data": {"id": null}}',
        b'{"type": "a", "data": {"id": true}}',
        b'{"type": "a", "data": {"id": ""}}',
        b'{"type": "a", "data": {"id": "\\u0000"}}',
        b'{"type": "a", "data": {"id": "\\ud800"}}',
        b'{"type": ["a"], "data": {"id": "1"}}',
        b'{"type": "a", "data": {"id": "' + b"1" * 501 + b'"}}',
        b'{"type": "a", "data": {"id": "1"}, "at": "tomorrow"}',
        b'{"type": "a", "data": {"id": "1"}, "at": 1e300}',
        b'{"type": "a", "data": {"id": "1"}, "at": "0001-01-01T00:00:00+14:00"}',
    ],
)
def test_body_that_says_nothing_clear_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        Hook(SecretPath(), Where({"a": "customer"}, at="at" if b'"at"' in body else "")).told(body)


def test_fault_of_a_deployments_function_is_an_unreadable_body() -> None:
    with pytest.raises(Unreadable, match="KeyError"):
        Hook(SecretPath(), lambda body: [Event("customer", body["id"])]).told(b"{}")


def test_record_without_a_time_is_not_believed_to_be_the_newest() -> None:
    with pytest.raises(Unreadable, match="when"):
        Hook(SecretPath(), Where({"a": "customer"}), payload_is_record=True).told(b'{"type": "a", "data": {"id": "1"}}')
