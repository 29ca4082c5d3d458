"""Receipts open what they name, once, and only when durable."""

from __future__ import annotations

import pytest

from vaultd.audit.receipt import Receipt
from vaultd.errors import Internal

TENANT, SECRET = b"t" * 16, b"s" * 16


def receipt(*, durable: bool = True) -> Receipt:
    made = Receipt(7, TENANT, "lease.acquire", secret_id=SECRET, version=3)
    if durable:
        made.mark_durable()
    return made


def test_a_durable_receipt_opens_what_it_names_once() -> None:
    """The first use passes, the second is a bug."""
    made = receipt()
    made.spend(TENANT, SECRET, 3)
    with pytest.raises(Internal):
        made.spend(TENANT, SECRET, 3)


def test_a_receipt_that_is_not_durable_opens_nothing() -> None:
    """Before the flush nothing is released, and trying does not use the receipt up."""
    made = receipt(durable=False)
    with pytest.raises(Internal):
        made.spend(TENANT, SECRET, 3)
    made.mark_durable()
    made.spend(TENANT, SECRET, 3)


@pytest.mark.parametrize(
    ("tenant", "secret", "version"), [(b"x" * 16, SECRET, 3), (TENANT, b"x" * 16, 3), (TENANT, SECRET, 2)]
)
def test_a_receipt_opens_nothing_else(tenant: bytes, secret: bytes, version: int) -> None:
    """Another tenant, secret or version is refused."""
    with pytest.raises(Internal):
        receipt().spend(tenant, secret, version)


def test_a_receipt_shows_no_ids_when_printed() -> None:
    """Its text form names neither the tenant nor the secret."""
    text = repr(receipt())
    assert TENANT.hex() not in text
    assert SECRET.hex() not in text
    assert "lease.acquire" in text
