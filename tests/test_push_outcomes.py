"""What responses mean for a match, and how requests are signed."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from automation.subscriptions.push import make_secret
from server.delivery.push.outcomes import MAX_RETRY_AFTER, outcome_of, retry_after_seconds
from server.delivery.push.responses import Response
from server.delivery.push.signing import Signer
from tests.support.receiver import OTHER_SECRET, SECRET

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("3601", MAX_RETRY_AFTER),
        ("9" * 5_000, MAX_RETRY_AFTER),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        (formatdate(NOW + 90_000, usegmt=True), MAX_RETRY_AFTER),
        ("", 0),
        ("-7", 0),
        ("1.5", 0),
        ("\u0667", 0),
        ("soon", 0),
        ("Fri, 99 Jan 2027 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date_and_bounded(text: str, seconds: float) -> None:
    assert retry_after_seconds(text, NOW) == seconds


def test_only_2xx_acknowledges_and_only_410_is_gone() -> None:
    for status in range(100, 600):
        outcome = outcome_of(Response(status, "5"), NOW)
        assert (not outcome.failure) is (200 <= status < 300), status
        assert outcome.gone is (status == 410), status
        assert outcome.retry_after_seconds == (5 if status in {429, 503} else 0), status


def test_a_signature_of_each_secret_verifies_the_body_and_no_other() -> None:
    headers = Signer([SECRET, OTHER_SECRET]).headers("m1", round(time.time()), b'{"a":1}')
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(b'{"a":1}', headers) == {"a": 1}
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(b'{"a":2}', headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(b'{"a":1}', headers | {"webhook-id": "m2"})
    with pytest.raises(WebhookVerificationError):
        Webhook(make_secret()).verify(b'{"a":1}', headers)
