"""Key slots: what opens them, what does not, and what their bytes are."""

from __future__ import annotations

import os
import struct
from dataclasses import fields, replace

import pytest

from vaultd.crypto import kdf
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import keyed_hash, x25519_public
from vaultd.crypto.slots import (
    SLOT_SIZE,
    Slot,
    SlotKind,
    derive_slot_key,
    new_slot,
    open_slot,
    open_slot_with_key,
    rebox,
    slot_public,
)
from vaultd.errors import FormatVersion, IntegrityError, Internal, Invalid, WrongSecret

VAULT = bytes(range(16))
PASSPHRASE = b"correct horse battery staple"
KEY_FILE = bytes(range(64))


class Vault:
    """A root key and what slots need of it."""

    def __init__(self) -> None:
        self.root = Key.random()
        self.wrap = RootKeys(self.root).wrap

    def slot(self, kind: SlotKind = SlotKind.PASSPHRASE, **changed: object) -> Slot:
        """A slot for `PASSPHRASE` or `KEY_FILE`, at the cheapest cost."""
        arguments: dict[str, object] = {
            "vault_id": VAULT,
            "slot_id": 7,
            "kind": kind,
            "label": "ops",
            "created": 1_700_000_000,
            "secret": secret_of(kind),
            "root": self.root,
            "wrap_key": self.wrap,
            "profile": kdf.CHEAPEST,
        }
        return new_slot(**(arguments | changed))  # type: ignore[arg-type]


def secret_of(kind: SlotKind) -> SecretBytes:
    """What opens a slot of `kind`."""
    return SecretBytes.copy_of(PASSPHRASE if kind is SlotKind.PASSPHRASE else KEY_FILE)


def opened(slot: Slot, secret: SecretBytes) -> Key:
    """The root key, with the minimum lowered to the tests' cost."""
    return open_slot(slot, secret, minimum=kdf.CHEAPEST)


def resealed(raw: bytes) -> bytes:
    """The same slot with a checksum that fits: what somebody who writes the disk can make."""
    return raw[:-16] + keyed_hash(None, raw[:-16], person=b"vaultd.slot.sum", size=16)


@pytest.fixture
def vault() -> Vault:
    """A fresh vault."""
    return Vault()


@pytest.mark.parametrize("kind", list(SlotKind))
def test_round_trip(vault: Vault, kind: SlotKind) -> None:
    """A slot opens with its secret, also after it was stored."""
    slot = vault.slot(kind)
    raw = slot.serialise()
    assert len(raw) == SLOT_SIZE
    read = Slot.parse(memoryview(raw), VAULT)
    assert read == slot
    assert opened(read, secret_of(kind)) == vault.root
    with derive_slot_key(read, secret_of(kind), minimum=kdf.CHEAPEST) as slot_key:
        assert open_slot_with_key(read, slot_key) == vault.root


@pytest.mark.parametrize("kind", list(SlotKind))
def test_wrong_secret(vault: Vault, kind: SlotKind) -> None:
    """A wrong secret is a wrong secret, not damage."""
    slot = vault.slot(kind)
    right = PASSPHRASE if kind is SlotKind.PASSPHRASE else KEY_FILE
    for wrong in (bytes(64), right[:-1], right + b"\0"):
        with pytest.raises(WrongSecret):
            opened(slot, SecretBytes.copy_of(wrong))


def test_a_kept_error_holds_no_slot_key(vault: Vault) -> None:
    """An error that somebody keeps also keeps the frames it passed; the slot key in them is wiped."""
    with pytest.raises(WrongSecret) as caught:
        opened(vault.slot(), SecretBytes.copy_of(b"wrong"))
    held = [entry.frame.f_locals["slot_key"] for entry in caught.traceback if "slot_key" in entry.frame.f_locals]
    assert held
    for key in held:
        with pytest.raises(Internal, match="wiped"):
            key.view()


def test_fields_stand_where_the_layout_says(vault: Vault) -> None:
    """The bytes are the ones that FORMAT.md draws."""
    slot = vault.slot(label="été", profile=kdf.Profile(2, 64, 3))
    raw = slot.serialise()
    assert raw[:8] == b"VDSL\x01\x01\x05\x03"
    assert struct.unpack(">IIIQ", raw[8:28]) == (2, 64, 7, 1_700_000_000)
    assert raw[28:44] == slot.salt
    assert raw[44:60] == VAULT
    assert raw[60:124] == "été".encode().ljust(64, b"\0")
    assert raw[124:156] == slot.mark
    assert raw[156:292] == slot.boxed_root
    assert raw[292:396] == slot.wrapped_public
    assert raw[396:] == keyed_hash(None, raw[:396], person=b"vaultd.slot.sum", size=16)


@pytest.mark.parametrize("kind", list(SlotKind))
def test_every_flipped_bit_is_damage(vault: Vault, kind: SlotKind) -> None:
    """A bit that fell over anywhere in a slot is called damage (or a newer version), never a wrong secret."""
    raw = vault.slot(kind).serialise()
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((IntegrityError, FormatVersion)) as caught:
            Slot.parse(flipped, VAULT)
        assert isinstance(caught.value, IntegrityError) or 32 <= bit < 40


def test_every_flipped_bit_with_a_new_checksum_opens_nothing(vault: Vault) -> None:
    """Somebody who also mends the checksum still gets no slot that opens."""
    raw = vault.slot(SlotKind.KEY_FILE).serialise()

    def use(data: bytes, bit: int) -> None:
        slot = Slot.parse(data, VAULT)
        if bit >= 8 * 292:
            slot_public(slot, vault.wrap)
        else:
            opened(slot, secret_of(SlotKind.KEY_FILE))

    refused = {IntegrityError: 0, FormatVersion: 0, WrongSecret: 0}
    for bit in range(8 * (len(raw) - 16)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((IntegrityError, FormatVersion, WrongSecret)) as caught:
            use(resealed(bytes(flipped)), bit)
        refused[type(caught.value)] += 1
    assert all(refused.values())
    assert sum(refused.values()) == 8 * 396


def test_box_of_another_root_in_a_genuine_slot_is_damage(vault: Vault) -> None:
    """A slot whose box was exchanged for another slot's opens for nobody, and is not called a wrong secret."""
    one, other = vault.slot(), vault.slot()
    with pytest.raises(IntegrityError):
        opened(replace(one, boxed_root=other.boxed_root), secret_of(SlotKind.PASSPHRASE))


def test_nobody_without_the_slot_key_can_box_a_root(vault: Vault) -> None:
    """A slot boxed anew to a key pair of the attacker's does not open: the slot's own pair comes from its secret."""
    slot = vault.slot()
    attacker = Key.random()
    forged = rebox(slot, x25519_public(attacker), Key.random(), Key.random())
    with pytest.raises(IntegrityError):
        opened(forged, secret_of(SlotKind.PASSPHRASE))


@pytest.mark.parametrize("size", [0, 1, 4, 123, SLOT_SIZE - 1, SLOT_SIZE + 1, 2 * SLOT_SIZE])
def test_other_lengths_are_damage(vault: Vault, size: int) -> None:
    """A slot has exactly its size: no prefix and no trailing byte parses."""
    raw = (vault.slot().serialise() * 2)[:size]
    with pytest.raises(IntegrityError):
        Slot.parse(raw, VAULT)


def test_another_vaults_slot_is_damage(vault: Vault) -> None:
    """A slot of another vault does not parse here."""
    with pytest.raises(IntegrityError):
        Slot.parse(vault.slot().serialise(), bytes(16))


@pytest.mark.parametrize("version", [2, 255])
def test_newer_version(vault: Vault, version: int) -> None:
    """A newer slot says so, whether its checksum is where ours is or not."""
    raw = bytearray(vault.slot().serialise())
    raw[4] = version
    for data in (raw, resealed(bytes(raw))):
        with pytest.raises(FormatVersion):
            Slot.parse(data, VAULT)


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_unknown_kind(vault: Vault, kind: int) -> None:
    """A kind that this version does not know says so."""
    raw = bytearray(vault.slot().serialise())
    raw[5] = kind
    with pytest.raises(FormatVersion):
        Slot.parse(resealed(bytes(raw)), VAULT)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (4, b"\0"),  # version 0
        (6, b"\x41"),  # a label longer than its field
        (6, b"\x02"),  # bytes behind the label
        (6, b"\x04"),  # a label that takes in its padding
        (60, b"\xff"),  # not UTF-8
        (60, b"\n"),  # what would spoil a terminal
        (60, b"\xc2\x9b"),
    ],
)
def test_other_encodings_are_damage(vault: Vault, offset: int, data: bytes) -> None:
    """What `serialise` would not have made does not parse, even with a checksum that fits."""
    raw = bytearray(vault.slot().serialise())
    raw[offset : offset + len(data)] = data
    with pytest.raises(IntegrityError):
        Slot.parse(resealed(bytes(raw)), VAULT)


@pytest.mark.parametrize(
    "cost", [(0, 8, 1), (17, 8, 1), (1, 7, 1), (1, 1 << 21, 1), (1, 8, 0), (1, 8, 17), (0xFFFFFFFF, 0xFFFFFFFF, 255)]
)
def test_absurd_cost_in_a_slot(vault: Vault, cost: tuple[int, int, int]) -> None:
    """A slot that names an absurd cost is refused when it is read, before anything is computed."""
    raw = bytearray(vault.slot().serialise())
    raw[7] = cost[2]
    raw[8:16] = struct.pack(">II", cost[0], cost[1])
    with pytest.raises(IntegrityError, match="cost"):
        Slot.parse(resealed(bytes(raw)), VAULT)


def test_lowered_cost_in_a_slot(vault: Vault) -> None:
    """A slot whose cost was lowered is refused by the minimum, and opens nothing where the minimum allows it."""
    slot = vault.slot(profile=kdf.Profile(2, 64, 1))
    raw = bytearray(slot.serialise())
    raw[8:16] = struct.pack(">II", 1, 8)
    lowered = Slot.parse(resealed(bytes(raw)), VAULT)
    with pytest.raises(IntegrityError, match="below"):
        derive_slot_key(lowered, secret_of(SlotKind.PASSPHRASE))
    with pytest.raises(IntegrityError, match="below"):
        derive_slot_key(slot, secret_of(SlotKind.PASSPHRASE))
    with pytest.raises(WrongSecret):
        opened(lowered, secret_of(SlotKind.PASSPHRASE))


def test_key_file_slot_names_no_cost(vault: Vault) -> None:
    """A key-file slot with a cost is another encoding of the same slot, and refused."""
    raw = bytearray(vault.slot(SlotKind.KEY_FILE).serialise())
    raw[11] = 1
    with pytest.raises(IntegrityError):
        Slot.parse(resealed(bytes(raw)), VAULT)


def test_default_profile_opens_with_the_default_minimum(vault: Vault) -> None:
    """What `new_slot` makes unless told otherwise is what `open_slot` accepts unless told otherwise."""
    slot = vault.slot(profile=kdf.RFC_9106_LOW)
    assert open_slot(slot, secret_of(SlotKind.PASSPHRASE)) == vault.root


def test_rebox_needs_no_secret(vault: Vault) -> None:
    """A new root key goes into every slot without anybody's secret, and the slot then opens that one only."""
    new = Vault()
    for kind in SlotKind:
        slot = vault.slot(kind)
        moved = Slot.parse(rebox(slot, slot_public(slot, vault.wrap), new.root, new.wrap).serialise(), VAULT)
        assert opened(moved, secret_of(kind)) == new.root
        assert opened(slot, secret_of(kind)) == vault.root
        assert slot_public(moved, new.wrap) == slot_public(slot, vault.wrap)
        with pytest.raises(IntegrityError):
            slot_public(moved, vault.wrap)
        unchanged = {field.name for field in fields(Slot)} - {"boxed_root", "wrapped_public"}
        assert all(getattr(moved, name) == getattr(slot, name) for name in unchanged)


def test_public_keys_do_not_show(vault: Vault) -> None:
    """A slot's public key, on which guesses could be tried cheaply, stands nowhere in its bytes."""
    slot = vault.slot()
    assert slot_public(slot, vault.wrap) not in slot.serialise()


def test_public_key_belongs_to_its_slot(vault: Vault) -> None:
    """A wrapped public key moved to another slot, or read under another wrap key, does not open."""
    one, other = vault.slot(), vault.slot(slot_id=8)
    with pytest.raises(IntegrityError):
        slot_public(replace(one, wrapped_public=other.wrapped_public), vault.wrap)
    with pytest.raises(IntegrityError):
        slot_public(one, Vault().wrap)


def test_slots_share_no_randomness(vault: Vault) -> None:
    """Two slots for one secret have nothing in common that was drawn."""
    one, other = vault.slot(), vault.slot()
    assert one.salt != other.salt
    assert one.mark != other.mark
    assert one.boxed_root[:32] != other.boxed_root[:32]
    assert slot_public(one, vault.wrap) != slot_public(other, vault.wrap)


def test_bad_input(vault: Vault) -> None:
    """What people give is refused with `invalid`; what this code gives wrongly is a bug."""
    for changed in (
        {"label": "x" * 65},
        {"label": "é" * 33},
        {"label": "two\nlines"},
        {"label": "\x1b[2J"},
        {"label": "\x9b2J"},
        {"label": "nul\0"},
        {"label": "\udcff"},
        {"secret": SecretBytes.take(bytearray())},
        {"secret": SecretBytes.take(bytearray(4097))},
        {"profile": kdf.Profile(1, 1 << 21, 1)},
        {"profile": kdf.Profile(0, 8, 1)},
    ):
        with pytest.raises(Invalid):
            vault.slot(**changed)
    for size in (31, 4097):
        with pytest.raises(Invalid):
            vault.slot(SlotKind.KEY_FILE, secret=SecretBytes.take(bytearray(size)))
    for changed in ({"vault_id": bytes(15)}, {"slot_id": -1}, {"slot_id": 1 << 32}, {"created": -1}):
        with pytest.raises(Internal):
            vault.slot(**changed)
    assert vault.slot(label="x" * 64).label == "x" * 64
    assert vault.slot(label="").label == ""


def test_a_slot_shows_no_secret(vault: Vault) -> None:
    """A slot's text form holds neither the secret nor the root key."""
    text = repr(vault.slot())
    assert PASSPHRASE.decode() not in text
    assert bytes(vault.root.view()).hex() not in text


def test_random_bytes_are_no_slot() -> None:
    """Bytes that merely look like a slot are damage."""
    for _ in range(200):
        with pytest.raises((IntegrityError, FormatVersion)):
            Slot.parse(b"VDSL\x01\x01" + os.urandom(SLOT_SIZE - 6), VAULT)
