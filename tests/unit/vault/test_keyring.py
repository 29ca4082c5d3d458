"""The keyring: its file, its changes, and how its parts are sealed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaultd.audit.chain import Vouch
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.kdf import CHEAPEST, Profile
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import ed25519_pair, x25519_public
from vaultd.crypto.slots import Slot, SlotKind, new_slot
from vaultd.errors import FormatVersion, IntegrityError, Internal
from vaultd.vault import entries
from vaultd.vault.keyring import SYSTEM, Entry, Keyring, KeyringFile
from vaultd.vault.vouching import split, vouch

VAULT = b"v" * 16
ROOT = Key.copy_of(b"r" * 32)
KEYS = RootKeys(ROOT)
NAME_KEY = Key.copy_of(b"n" * 32)
TENANT_KEY = Key.copy_of(b"t" * 32)


@cache
def _slot(number: int = 1, profile: Profile = CHEAPEST) -> Slot:
    return new_slot(
        vault_id=VAULT,
        slot_id=number,
        kind=SlotKind.PASSPHRASE,
        label=f"slot {number}",
        created=5,
        secret=SecretBytes.copy_of(b"pass"),
        root=ROOT,
        wrap_key=KEYS.wrap,
        profile=profile,
    )


@cache
def _entry(number: int) -> Entry:
    uid = bytes([number]) * 16
    return entries.new_entry(VAULT, uid, 6, KEYS, TENANT_KEY, (f"tenant-{number}", bytes([99, number]) * 8, NAME_KEY))


@cache
def _system() -> Entry:
    return entries.new_entry(VAULT, SYSTEM, 5, KEYS, TENANT_KEY, None)


@cache
def _keyring(tenants: int = 2) -> Keyring:
    seed, public = ed25519_pair()
    return Keyring.build(
        vault_id=VAULT,
        created=5,
        admin_uids=[0, 1000],
        checkpoint_public=public,
        wrapped_checkpoint=entries.seal_checkpoint_seed(VAULT, KEYS, seed),
        slots=[_slot(1), _slot(2)],
        next_slot=3,
        entries=[_system(), *(_entry(number) for number in range(1, tenants + 1))],
    )


def test_a_keyring_comes_back() -> None:
    """What is encoded decodes to the same, verifies, and encodes to the same bytes."""
    keyring = _keyring()
    data, digest = keyring.encode(KEYS.anchor)
    file = KeyringFile.decode(data)
    file.verify(KEYS.anchor)
    assert file.hash == digest
    assert file.keyring == keyring
    assert file.keyring.encode(KEYS.anchor) == (data, digest)


def test_every_bit_counts() -> None:
    """A flipped bit anywhere is refused: by the form, by the hash that the anchor holds, or by the MAC."""
    data, digest = _keyring(1).encode(KEYS.anchor)
    for bit in range(8 * len(data)):
        raw = bytearray(data)
        raw[bit // 8] ^= 1 << bit % 8
        try:
            file = KeyringFile.decode(bytes(raw))
        except (IntegrityError, FormatVersion):
            continue
        with pytest.raises(IntegrityError):
            file.verify(KEYS.anchor)
        assert file.hash != digest or bit // 8 >= len(data) - 32


def test_sizes_must_fit() -> None:
    """A keyring cut anywhere, or with a byte more, is refused."""
    data, _ = _keyring(1).encode(KEYS.anchor)
    for size in range(len(data)):
        with pytest.raises(IntegrityError):
            KeyringFile.decode(data[:size])
    with pytest.raises(IntegrityError):
        KeyringFile.decode(data + b"\0")


def test_a_newer_format_is_named() -> None:
    """A keyring of a later version is not taken for damage."""
    data, _ = _keyring(1).encode(KEYS.anchor)
    with pytest.raises(FormatVersion, match="format 2"):
        KeyringFile.decode(data[:8] + b"\0\2" + data[10:])


def test_entries_have_one_order() -> None:
    """Entries doubled, swapped, or without the system's first are refused whatever the MAC says."""
    data, _ = _keyring(2).encode(KEYS.anchor)
    start = len(data) - 32 - 3 * 456
    rows = [data[start + at : start + at + 456] for at in (0, 456, 912)]
    for order in ([0, 2, 1], [1, 0, 2], [0, 1, 1], [0, 0, 1], [1, 1, 2]):
        raw = data[:start] + b"".join(rows[index] for index in order) + data[-32:]
        with pytest.raises(IntegrityError):
            KeyringFile.decode(raw)


def test_an_absurd_cost_is_refused_unspent() -> None:
    """A slot that asks for more memory than the bounds allow does not even parse, checksum made to fit or not."""
    slot = replace(_slot(), profile=Profile(1, 2**32 - 1, 1))
    keyring = replace(_keyring(1), slots=(slot,))
    data, _ = keyring.encode(KEYS.anchor)
    with pytest.raises(IntegrityError, match="argon2id cost"):
        KeyringFile.decode(data)


_steps = st.lists(
    st.tuples(st.sampled_from(["with", "without", "delete", "rotate"]), st.integers(1, 4)), min_size=1, max_size=12
)


@settings(max_examples=60)
@given(_steps)
def test_changes_follow_a_model(steps: list[tuple[str, int]]) -> None:
    """Entries come, change, are deleted and go; index and rows agree, and the keyring before stays as it was."""
    keyring, model = _keyring(0), {SYSTEM: _system()}
    for action, number in steps:
        before = (dict(keyring.rows), dict(keyring.by_index))
        entry, known = _entry(number), model.get(_entry(number).uid)
        after = keyring
        if action == "with" and known is None:
            after = keyring.with_entry(entry)
            model[entry.uid] = entry
        elif action == "without" and known is not None:
            after = keyring.without(entry.uid)
            del model[entry.uid]
        elif known is not None and not known.deleted:
            changed = (
                entries.tombstone(VAULT, known, KEYS)
                if action == "delete"
                else entries.with_tenant_key(VAULT, known, KEYS, TENANT_KEY)
            )
            after = keyring.with_entry(changed)
            model[entry.uid] = changed
        assert (keyring.rows, keyring.by_index) == before
        keyring = after
        decoded = KeyringFile.decode(keyring.encode(KEYS.anchor)[0]).keyring
        for found in (keyring, decoded):
            assert {entry.uid: entry for entry in found} == model
            assert found.by_index == {e.name_index: e.uid for e in model.values() if e.uid != SYSTEM and not e.deleted}
            assert all(found.generation(uid) == entry.generation for uid, entry in model.items())


def test_bugs_of_callers_show() -> None:
    """Two tenants of one name, a keyring without slots, removing the system: refused at once."""
    keyring = _keyring(1)
    with pytest.raises(Internal, match="one name"):
        keyring.with_entry(_entry(2)._replace(name_index=_entry(1).name_index))
    with pytest.raises(Internal):
        keyring.with_slots([]).encode(KEYS.anchor)
    with pytest.raises(Internal):
        keyring.without(SYSTEM)
    with pytest.raises(Internal):
        keyring.without(b"x" * 16)
    with pytest.raises(Internal, match="no name"):
        entries.new_entry(VAULT, b"x" * 16, 5, KEYS, TENANT_KEY, None)


def test_parts_open() -> None:
    """Tenant key, name, private keys and checkpoint seed open in their place, before and after the root changes."""
    other_root = Key.copy_of(b"q" * 32)
    with RootKeys(other_root) as new:
        for root, entry in ((KEYS, _entry(1)), (new, entries.rewrapped(VAULT, _entry(1), KEYS, new))):
            assert entries.tenant_key(VAULT, entry, root) == TENANT_KEY
            assert entries.open_name(VAULT, entry, NAME_KEY) == "tenant-1"
            assert x25519_public(entries.audit_private(VAULT, entry, root)) == entry.audit_public
            assert x25519_public(entries.deposit_private(VAULT, entry, root)) == entry.deposit_public
        # I8: the old root opens nothing of what was wrapped since.
        for opened in (entries.tenant_key, entries.audit_private, entries.deposit_private):
            with pytest.raises(IntegrityError):
                opened(VAULT, entry, KEYS)


def test_parts_open_in_their_place_only() -> None:
    """I3: in another vault, domain or generation, under another key or as another part, nothing opens."""
    one, two, new = _entry(1), _entry(2), entries.with_tenant_key(VAULT, _entry(1), KEYS, TENANT_KEY)
    with pytest.raises(IntegrityError):
        entries.tenant_key(b"w" * 16, one, KEYS)
    for entry in (
        one._replace(wrapped_key=two.wrapped_key),
        one._replace(wrapped_key=new.wrapped_key),
        new._replace(wrapped_key=one.wrapped_key),
        one._replace(wrapped_key=_keyring().wrapped_checkpoint),
        one._replace(generation=2),
    ):
        with pytest.raises(IntegrityError):
            entries.tenant_key(VAULT, entry, KEYS)
    moved = one._replace(wrapped_pairs=two.wrapped_pairs, audit_public=two.audit_public)
    with pytest.raises(IntegrityError):
        entries.audit_private(VAULT, moved, KEYS)
    with pytest.raises(IntegrityError):
        entries.open_name(VAULT, one._replace(sealed_name=two.sealed_name), NAME_KEY)
    with pytest.raises(IntegrityError):
        entries.open_checkpoint_seed(VAULT, KEYS, one.wrapped_key)


def test_a_pair_belongs_together() -> None:
    """A public key that is not the private key's is refused, so nothing is sealed to a key that nobody has."""
    swapped = _entry(1)._replace(audit_public=_entry(2).audit_public)
    with pytest.raises(IntegrityError, match="belong together"):
        entries.audit_private(VAULT, swapped, KEYS)


def test_a_deleted_tenant_keeps_its_trail_only() -> None:
    """A tombstone has no tenant key, no deposit key and no index; its audit key and name still open."""
    gone = entries.tombstone(VAULT, _entry(1), KEYS)
    assert gone.deleted
    assert not any(gone.name_index + gone.wrapped_key + gone.deposit_public)
    assert x25519_public(entries.audit_private(VAULT, gone, KEYS)) == gone.audit_public
    assert entries.open_name(VAULT, gone, NAME_KEY) == "tenant-1"
    for opened in (entries.tenant_key, entries.deposit_private):
        with pytest.raises(Internal):
            opened(VAULT, gone, KEYS)


def test_a_vouch_is_of_its_line() -> None:
    """The seal holds for its vault, line number, line before, revision and entries, and for no others."""
    heads = (Vouch(b"a" * 16, 1, 5, b"t" * 16), Vouch(SYSTEM, 1, 9, b"s" * 16))
    claim = split(7, b"h" * 32, vouch(NAME_KEY, VAULT, 7, b"h" * 32, 3, heads))
    claim.verify(NAME_KEY, VAULT)
    assert claim.heads == heads
    assert claim.revision == 3
    wrong = [
        claim._replace(seq=8),
        claim._replace(before=b"g" * 32),
        claim._replace(revision=4),
        claim._replace(heads=heads[:1]),
        claim._replace(heads=heads[::-1]),
        claim._replace(heads=(heads[0]._replace(record=6), heads[1])),
    ]
    for other in wrong:
        with pytest.raises(IntegrityError):
            other.verify(NAME_KEY, VAULT)
    for key, vault in ((TENANT_KEY, VAULT), (NAME_KEY, b"w" * 16)):
        with pytest.raises(IntegrityError):
            claim.verify(key, vault)


def test_a_vouch_has_one_seal_at_its_end() -> None:
    """Entries without a seal, with two, or with the seal elsewhere are refused."""
    head = Vouch(b"a" * 16, 1, 5, b"t" * 16)
    head_, seal = vouch(NAME_KEY, VAULT, 7, b"h" * 32, 3, [head])
    for found in ((head_,), (seal, head_), (seal, seal), (head_, seal._replace(record=1))):
        with pytest.raises(IntegrityError, match="seal"):
            split(7, b"h" * 32, found)
