"""Checkpoints: one form, signed, in the layout that C2SP's tools read."""

from __future__ import annotations

from base64 import b64decode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audit_world import VAULT
from vaultd.audit.checkpoint import Checkpoint, issue, parse
from vaultd.crypto.primitives import ed25519_pair
from vaultd.errors import IntegrityError

SEED, PUBLIC = ed25519_pair()
POINT = Checkpoint(VAULT, 1234, b"h" * 32, 1_764_000_000_123_456_000)
SIGNED = issue(POINT, SEED, PUBLIC)


def test_a_checkpoint_reads_back() -> None:
    """Issued, then parsed with the public key, it says the same."""
    assert parse(SIGNED, PUBLIC) == POINT


def test_its_layout_is_a_signed_note_s() -> None:
    """Origin, size, head, time; an empty line; a signature that an independent library verifies."""
    text, _, signature = SIGNED.partition("\n\n")
    origin, size, head, time = text.split("\n")
    assert origin == f"vaultd/{VAULT.hex()}"
    assert size == "1234"
    assert b64decode(head) == b"h" * 32
    assert time.startswith("time 2025-11-24T")
    dash, name, encoded = signature.rstrip("\n").split(" ")
    assert (dash, name) == ("—", origin)
    raw = b64decode(encoded)
    assert raw[:4] == sha256(name.encode() + b"\n\x01" + PUBLIC).digest()[:4]
    Ed25519PublicKey.from_public_bytes(PUBLIC).verify(raw[4:], (text + "\n").encode())


def test_another_key_does_not_verify() -> None:
    """A checkpoint of another signer is refused, also when it claims this key's id."""
    other, other_public = ed25519_pair()
    with pytest.raises(IntegrityError, match="signed by key"):
        parse(issue(POINT, other, other_public), PUBLIC)
    with pytest.raises(IntegrityError):
        parse(issue(POINT, other, PUBLIC), PUBLIC)


@given(st.data())
def test_any_change_is_refused(data: st.DataObject) -> None:
    """A character changed, put in or taken out: never the same checkpoint, never another one."""
    at = data.draw(st.integers(0, len(SIGNED)))
    cut = data.draw(st.integers(0, 2))
    put = data.draw(st.text("0aA/+=\n —zZ:.-\r\u00a0", max_size=2))
    changed = SIGNED[:at] + put + SIGNED[at + cut :]
    if changed != SIGNED:
        with pytest.raises(IntegrityError):
            parse(changed, PUBLIC)


def test_another_vault_s_name_on_the_signature_is_refused() -> None:
    """The signer is the vault that the text is about; the name beside the signature cannot say another."""
    at = SIGNED.rindex(VAULT.hex())
    with pytest.raises(IntegrityError):
        parse(SIGNED[:at] + "f" * 32 + SIGNED[at + 32 :], PUBLIC)


def test_the_signature_has_one_spelling() -> None:
    """Bits that base64 padding leaves over must be zero: another spelling of the same bytes is refused."""
    at = SIGNED.rindex("=") - 1
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(SIGNED[at]) ^ 1]
    with pytest.raises(IntegrityError):
        parse(SIGNED[:at] + other + SIGNED[at + 1 :], PUBLIC)
