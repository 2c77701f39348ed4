"""E-mail addresses, in the form in which they are stored and compared."""

from __future__ import annotations

import pytest

from server.errors import InvalidArgument
from server.services.emails import normalize_email

LONGEST = f"{'a' * 249}@b.de"


@pytest.mark.parametrize(
    ("text", "email"),
    [(" Ada@Example.COM\t", "ada@example.com"), ("é@ü.de", "é@ü.de"), (LONGEST, LONGEST), (f"  {LONGEST} ", LONGEST)],
)
def test_an_address_is_trimmed_and_lower_cased(text: str, email: str) -> None:
    assert normalize_email(text) == email


@pytest.mark.parametrize(
    "text", ["", "ada", "@", "ada@", "@b.de", "a@b@c", "a b@c.de", "a@b c", "a\x00@b.de", "a@b\x7f.de", f"a{LONGEST}"]
)
def test_an_address_without_one_at_sign_between_two_parts_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        normalize_email(text)
    (violation,) = refused.value.violations
    assert (violation.path, violation.reason) == ("email", "INVALID_EMAIL")
    assert "is not an email address of at most 254 characters" in violation.message


@pytest.mark.parametrize(("length", "shown"), [(60, "x" * 60), (61, "x" * 60 + "…")])
def test_the_error_of_a_long_address_shows_its_beginning(length: int, shown: str) -> None:
    with pytest.raises(InvalidArgument, match=f'^"{shown}" is not'):
        normalize_email("x" * length)
