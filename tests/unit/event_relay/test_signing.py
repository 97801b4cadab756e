"""Signatures of webhooks: the library that receivers verify with accepts them, and nothing else."""

import base64
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from event_relay.signing import InvalidSecret, key_of, signed_headers

OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"x" * 32).decode()
BODY = '{"id":"1","order":{"reason":"größer"}}'.encode()


def headers(*secrets: str, body: bytes = BODY, sent_at: int | None = None) -> dict[str, str]:
    return signed_headers([key_of(it) for it in secrets], "order.1", sent_at or int(time.time()), body)


def test_the_library_of_receivers_verifies_a_signature() -> None:
    Webhook(NEW).verify(BODY.decode(), headers(NEW))


@pytest.mark.parametrize("known", [OLD, NEW])
def test_a_receiver_that_knows_the_old_or_the_new_secret_verifies_during_a_rotation(known: str) -> None:
    both = headers(NEW, OLD)
    assert len(both["webhook-signature"].split(" ")) == 2
    Webhook(known).verify(BODY.decode(), both)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "order.2"},
        {"webhook-timestamp": str(int(time.time()) - 1)},
        {"webhook-timestamp": str(int(time.time()) - 3600)},
    ],
)
def test_changed_headers_are_refused(changed: dict[str, str]) -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY.decode(), headers(NEW) | changed)


def test_a_changed_body_and_another_secret_are_refused() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY.decode() + " ", headers(NEW))
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(BODY.decode(), headers(NEW, OLD))


def test_a_recorded_request_is_refused_later() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY.decode(), headers(NEW, sent_at=int(time.time()) - 3600))


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "whsec_YQ", OLD.removeprefix("whsec_"), "whsec_ YQ=="])
def test_text_that_is_no_secret_is_refused_and_not_quoted(secret: str) -> None:
    with pytest.raises(InvalidSecret) as refused:
        key_of(secret)
    assert not secret.removeprefix("whsec_") or secret.removeprefix("whsec_") not in str(refused.value).split()
