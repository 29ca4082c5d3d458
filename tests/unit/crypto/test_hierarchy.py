"""Derived keys: the exact derivations, and that no two purposes share a key."""

from __future__ import annotations

import hashlib

import pytest

from vaultd.crypto import labels
from vaultd.crypto.hierarchy import RootKeys, TenantKeys, index_key, name_index
from vaultd.crypto.memory import Key
from vaultd.errors import Internal

RAW = bytes(range(32))


def blake2b(person: bytes, data: bytes = b"", key: bytes = RAW, size: int = 32) -> bytes:
    """What Python's own BLAKE2b says."""
    return hashlib.blake2b(data, key=key, person=person, digest_size=size).digest()


def test_derivations() -> None:
    """Each key is BLAKE2b-256 of nothing under the upper key, with the label of FORMAT.md."""
    upper = Key.copy_of(RAW)
    root, tenant, index = RootKeys(upper), TenantKeys(upper), index_key(upper)
    assert root.wrap == blake2b(b"vaultd.wrap")
    assert root.anchor == blake2b(b"vaultd.anchor")
    assert tenant.record == blake2b(b"vaultd.record")
    assert tenant.data_key == blake2b(b"vaultd.datakey")
    assert index == blake2b(b"vaultd.index")
    assert name_index(index, "acme") == blake2b(b"vaultd.name", b"acme", blake2b(b"vaultd.index"), 16)


def test_labels_differ() -> None:
    """No two purposes have one label, also after padding, and each fits."""
    values = [getattr(labels, name) for name in labels.__all__]
    assert len(values) == len({value.rstrip(b"\0").ljust(16, b"\0") for value in values})
    assert all(1 <= len(value) <= 16 and value.startswith(b"vaultd.") for value in values)
    assert sorted(labels.__all__) == sorted(name for name in vars(labels) if name.isupper())


def test_derived_keys_differ() -> None:
    """One upper key gives keys that differ from each other and from it."""
    upper = Key.copy_of(RAW)
    root, tenant, index = RootKeys(upper), TenantKeys(upper), index_key(upper)
    keys = [upper, root.wrap, root.anchor, tenant.record, tenant.data_key, index]
    assert len({bytes(key.view()) for key in keys}) == len(keys)


@pytest.mark.parametrize("keys", [RootKeys, TenantKeys])
def test_wipe(keys: type[RootKeys | TenantKeys]) -> None:
    """Wiping ends the derived keys, not the key they came from."""
    upper = Key.copy_of(RAW)
    with keys(upper) as derived:
        held = [getattr(derived, name) for name in derived.__slots__]
        assert all(len(key.view()) == 32 for key in held)
    for key in held:
        with pytest.raises(Internal):
            key.view()
    assert upper == RAW
