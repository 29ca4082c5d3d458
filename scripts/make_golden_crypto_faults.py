#!/usr/bin/env python3
"""Write tests/vectors/golden/crypto-faults.json: sealed objects with one fault each, and the error each must give.

Every fault starts from an example of crypto.json and says what was done to it in its name. `expect` is the class of
error: `integrity`, `format_version` or `wrong_secret`. A reader that accepts any of them, or gives another class, is
wrong. Nothing is drawn, so the file is the same on every run.

    python scripts/make_golden_crypto_faults.py [--check]
"""

from __future__ import annotations

import json
import struct
import sys
from typing import TYPE_CHECKING

from make_golden_crypto import (
    GENERATION,
    SECRET,
    TARGET,
    TENANT,
    VALUE,
    VAULT,
    VERSION,
    examples,
    fixed,
    key,
)

from vaultd.crypto import values
from vaultd.crypto.context import context
from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.primitives import keyed_hash, seal, x25519_public
from vaultd.crypto.values import VALUE_MAX, pad
from vaultd.crypto.wrap import wrap

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTS = TARGET.with_name("crypto-faults.json")
GOOD = examples()
AAD, NONCE = bytes.fromhex(GOOD["context"]["aad"]), fixed("nonce", 24)
Fault = tuple[str, bytes, str]


def flipped(data: bytes, at: int, mask: int = 1) -> bytes:
    """`data` with bits of one byte turned over."""
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def everywhere(data: bytes, parts: dict[str, int]) -> Iterator[Fault]:
    """What can happen to any sealed bytes: cut, extended, a bit turned over in each part."""
    yield "empty", b"", "integrity"
    yield "last byte cut", data[:-1], "integrity"
    yield "first byte cut", data[1:], "integrity"
    yield "byte appended", data + b"\0", "integrity"
    yield "byte in front", b"\0" + data, "integrity"
    yield "twice", data + data, "integrity"
    yield "zeros", bytes(len(data)), "integrity"
    for part, at in parts.items():
        yield f"bit in {part}", flipped(data, at), "integrity"
        yield f"top bit in {part}", flipped(data, at, 0x80), "integrity"


def seals() -> Iterator[Fault]:
    """A seal with its key and place known to the reader."""
    good, sealing = bytes.fromhex(GOOD["seal"]["sealed"]), key("sealing key")
    yield from everywhere(good, {"nonce": 0, "end of nonce": 23, "ciphertext": 24, "tag": 33})
    yield "tag cut off", good[:-16], "integrity"
    yield "nonce cut off", good[24:], "integrity"
    yield "other kind", seal(sealing, context("exampl", VAULT, 5), b"plaintext", nonce=NONCE), "integrity"
    yield "other vault", seal(sealing, context("example", bytes(16), 5), b"plaintext", nonce=NONCE), "integrity"
    yield "other number", seal(sealing, context("example", VAULT, 6), b"plaintext", nonce=NONCE), "integrity"
    yield "fields swapped", seal(sealing, context("example", 5, VAULT), b"plaintext", nonce=NONCE), "integrity"
    yield "no place", seal(sealing, b"", b"plaintext", nonce=NONCE), "integrity"
    yield "other key", seal(key("data key"), AAD, b"plaintext", nonce=NONCE), "integrity"


def wraps() -> Iterator[Fault]:
    """A wrap with its key and place known to the reader."""
    good, sealing, secret = bytes.fromhex(GOOD["wrap"]["wrapped"]), key("sealing key"), key("data key")
    yield from everywhere(good, {"nonce": 0, "ciphertext": 24, "tag": 56, "commitment": 72, "end of commitment": 103})
    yield "commitment cut off", good[:-32], "integrity"
    yield "commitment of zeros", good[:-32] + bytes(32), "integrity"
    for name, other in (
        ("other key", wrap(key("tenant key"), AAD, secret, nonce=NONCE)),
        ("other nonce", wrap(sealing, AAD, secret, nonce=fixed("value nonce", 24))),
        ("other place", wrap(sealing, AAD + b"\0", secret, nonce=NONCE)),
    ):
        yield name, other if name != "other nonce" else NONCE + other[24:], "integrity"
        yield f"commitment of {name}", good[:-32] + other[-32:], "integrity"
        yield f"commitment kept, sealed under {name}", other[:-32] + good[-32:], "integrity"


def boxes() -> Iterator[Fault]:
    """A box with its recipient and place known to the reader."""
    good = bytes.fromhex(GOOD["box"]["boxed"])
    yield from everywhere(good, {"ephemeral key": 0, "end of ephemeral key": 31, "nonce": 32, "text": 56, "tag": 65})
    for name, point in (
        ("zero", bytes(32)),
        ("one", b"\x01" + bytes(31)),
        ("order eight", bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
        ("p minus one", bytes.fromhex("ec" + "ff" * 30 + "7f")),
        ("p", bytes.fromhex("ed" + "ff" * 30 + "7f")),
        ("another pair's", x25519_public(key("slot 1 ephemeral"))),
    ):
        yield f"ephemeral key {name}", point + good[32:], "integrity"
    yield "wrap without box", good[32:], "integrity"


def attachments() -> Iterator[Fault]:
    """A value's attachment, from the tenant key on."""
    good = bytes.fromhex(GOOD["value"]["attachment"])
    data_key, wrapping = key("data key"), TenantKeys(key("tenant key")).data_key
    place, nonce = (VAULT, TENANT, SECRET, VERSION), fixed("value nonce", 24)
    yield from everywhere(good, {"wrap": 0, "data key": 24, "commitment": 72, "nonce": 104, "text": 128, "tag": 192})
    yield "wrap cut off", good[104:], "integrity"
    yield "value cut off", good[:104], "integrity"
    for name, text in (
        ("length zero", bytes(64)),
        ("length beyond the text", b"\0\0\0\x3d" + bytes(60)),
        ("length of all ones", b"\xff" * 4 + bytes(60)),
        ("length over the maximum", (VALUE_MAX + 1).to_bytes(4, "big") + bytes(pad(VALUE_MAX + 5) - 4)),
        ("padding not zero", b"\0\0\0\x05hello" + bytes(54) + b"\x01"),
        ("padding too long", b"\0\0\0\x05hello" + bytes(63)),
        ("no padding", b"\0\0\0\x05hello"),
        ("no text", b""),
    ):
        if len(text) < 4096:  # a megabyte of hex teaches nothing that a test does not
            sealed = seal(data_key, values.value_context(*place), text, nonce=nonce)
            yield name, good[:104] + sealed, "integrity"
    value = SecretBytes.copy_of(VALUE)
    for name, other in (
        ("vault", (bytes(16), TENANT, SECRET, VERSION)),
        ("tenant", (VAULT, bytes(16), SECRET, VERSION)),
        ("secret", (VAULT, TENANT, bytes(16), VERSION)),
        ("version", (VAULT, TENANT, SECRET, VERSION + 1)),
    ):
        sealed = values.seal_value(data_key, *other, value, nonce=nonce)
        yield f"value of another {name}", good[:104] + sealed, "integrity"
        there = (*other[:2], GENERATION, *other[2:])
        wrapped = values.wrap_data_key(wrapping, data_key, *there, nonce=nonce)
        yield f"data key of another {name}", wrapped + good[104:], "integrity"
    there = (VAULT, TENANT, GENERATION + 1, SECRET, VERSION)
    wrapped = values.wrap_data_key(wrapping, data_key, *there, nonce=nonce)
    yield "data key of another generation", wrapped + good[104:], "integrity"
    there = (VAULT, TENANT, GENERATION, SECRET, VERSION)
    wrapped = values.wrap_data_key(wrapping, key("sealing key"), *there, nonce=nonce)
    yield "another data key", wrapped + good[104:], "integrity"


def mended(slot: bytes) -> bytes:
    """A slot whose checksum fits, as whoever writes the disk can make it."""
    return slot[:396] + keyed_hash(None, slot[:396], person=b"vaultd.slot.sum", size=16)


def slots() -> Iterator[Fault]:
    """The passphrase slot, opened with its true passphrase."""
    good = bytes.fromhex(GOOD["passphrase slot"]["slot"])
    other = bytes.fromhex(GOOD["key-file slot"]["slot"])
    fields = {"magic": 0, "lanes": 7, "cost": 11, "id": 19, "salt": 28, "vault id": 44, "label": 60, "mark": 124}
    yield from everywhere(good, fields | {"box": 156, "public key": 292, "checksum": 396})

    def changed(at: int, data: bytes) -> bytes:
        return mended(good[:at] + data + good[at + len(data) :])

    for name, at, data, expect in (
        ("magic of something else", 0, b"VDSK", "integrity"),
        ("version 0", 4, b"\0", "integrity"),
        ("version 2", 4, b"\x02", "format_version"),
        ("version 255", 4, b"\xff", "format_version"),
        ("kind 0", 5, b"\0", "format_version"),
        ("kind 4", 5, b"\x04", "format_version"),
        ("kind 2 with a cost", 5, b"\x02", "integrity"),
        ("label length 65", 6, b"\x41", "integrity"),
        ("label shorter than its text", 6, b"\x03", "integrity"),
        ("label with NUL", 6, b"\x20", "integrity"),
        ("label not UTF-8", 60, b"\xff", "integrity"),
        ("label with a newline", 60, b"\n", "integrity"),
        ("label with a C1 control", 60, b"\xc2\x9b", "integrity"),
        ("no lanes", 7, b"\0", "integrity"),
        ("17 lanes", 7, b"\x11", "integrity"),
        ("no passes", 8, bytes(4), "integrity"),
        ("17 passes", 8, struct.pack(">I", 17), "integrity"),
        ("most passes", 8, b"\xff" * 4, "integrity"),
        ("no memory", 12, bytes(4), "integrity"),
        ("memory under 8 KiB a lane", 12, struct.pack(">I", 15), "integrity"),
        ("memory over 1 GiB", 12, struct.pack(">I", (1 << 20) + 1), "integrity"),
        ("most memory", 12, b"\xff" * 4, "integrity"),
        ("lower passes", 8, struct.pack(">I", 1), "wrong_secret"),
        ("lower memory", 12, struct.pack(">I", 16), "wrong_secret"),
        ("fewer lanes", 7, b"\x01", "wrong_secret"),
        ("other id", 16, bytes(4), "wrong_secret"),
        ("other time", 20, bytes(8), "wrong_secret"),
        ("other salt", 28, bytes(16), "wrong_secret"),
        ("other vault", 44, bytes(16), "integrity"),
        ("other label", 60, b"x", "wrong_secret"),
        ("mark of zeros", 124, bytes(32), "wrong_secret"),
        ("mark of another slot", 124, other[124:156], "wrong_secret"),
        ("box of another slot", 156, other[156:292], "integrity"),
        ("box of zeros", 156, bytes(136), "integrity"),
        ("bit in the box, checksum mended", 200, bytes([good[200] ^ 1]), "integrity"),
    ):
        yield name, changed(at, data), expect


def text() -> str:
    """The whole file."""
    kinds = {"seal": seals, "wrap": wraps, "box": boxes, "value": attachments, "passphrase slot": slots}
    faults = [
        {"construction": kind, "fault": name, "expect": expect, "data": data.hex()}
        for kind, make in kinds.items()
        for name, data, expect in make()
    ]
    return json.dumps(faults, indent=1, ensure_ascii=True) + "\n"


def main() -> int:
    """Write the file, or compare it with what is there."""
    if "--check" in sys.argv[1:]:
        if FAULTS.read_text() != text():
            print(f"{FAULTS.name} is not what this code makes", file=sys.stderr)
            return 1
        return 0
    FAULTS.write_text(text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
