#!/usr/bin/env python3
"""Open a vault's values with a slot's secret and nothing of vaultd: a second reading of its FORMAT.md files.

    independent_decoder.py DIR --passphrase-file F [--json | --out OUT]

Written from the FORMAT.md files of crypto, vault and audit and from vault/RECORDS.md, with the standard library and the
`cryptography` package. It reads only, holds every seal and every chain on its way, and stops at the first thing that
does not fit. Without --out or --json it prints the names and sizes; --json adds SHA-256 of the
values; --out writes each current value to a file (mode 0600) named after its tenant and secret. Values above 1 MiB are
opened chunk by chunk; AEGIS-256 is written out below in plain Python, and takes about half a second a megabyte.

It is for the day on which vaultd itself cannot be run, and for finding out whether the specifications are true. It
does not hide secrets from the memory of this process, and the directory must not be in use.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import struct
import sys
import urllib.parse
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SYSTEM = bytes(16)
SEAL_UID = "ff" * 16


class DoesNotFit(Exception):
    """Something in the directory is not as the specifications say."""


def need(condition: object, what: str) -> None:
    if not condition:
        raise DoesNotFit(what)


# crypto/FORMAT.md


def blake2b(size: int, key: bytes, person: bytes, data: bytes, salt: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=size, key=key, person=person, salt=salt).digest()


def derive(key: bytes, label: bytes) -> bytes:
    return blake2b(32, key, label, b"")


def context(kind: str, *fields: bytes | int) -> bytes:
    parts = [b"vaultd\x01", bytes([len(kind)]), kind.encode()]
    for item in fields:
        raw = item.to_bytes(8, "big") if isinstance(item, int) else item
        parts += [len(raw).to_bytes(4, "big"), raw]
    return b"".join(parts)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    words = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            words[x] = (words[x] + words[y]) & 0xFFFFFFFF
            mixed = words[z] ^ words[x]
            words[z] = ((mixed << turn) | (mixed >> (32 - turn))) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter(diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return struct.pack("<8I", *words[:4], *words[12:])


def aead_open(key: bytes, nonce: bytes, aad: bytes, sealed: bytes) -> bytes:
    try:
        return ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], sealed, aad)
    except InvalidTag:
        raise DoesNotFit("something sealed does not open") from None


def seal_open(key: bytes, aad: bytes, sealed: bytes) -> bytes:
    need(len(sealed) >= 40, "something sealed is too short")
    return aead_open(key, sealed[:24], aad, sealed[24:])


def unwrap(key: bytes, aad: bytes, wrapped: bytes) -> bytes:
    need(len(wrapped) >= 72, "a wrap is too short")
    nonce, sealed, commitment = wrapped[:24], wrapped[24:-32], wrapped[-32:]
    need(hmac.compare_digest(blake2b(32, key, b"vaultd.commit", nonce + aad), commitment), "a wrap is of another key")
    return aead_open(key, nonce, aad, sealed)


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def open_box(private: bytes, aad: bytes, boxed: bytes) -> bytes:
    sender, public = boxed[:32], public_of(private)
    # The package refuses an all-zero result by itself.
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(sender))
    return unwrap(blake2b(32, shared, b"vaultd.box", sender + public), aad, boxed[32:])


def aes_tables() -> list[list[int]]:
    """SubBytes and MixColumns of one byte in each of the four rows, as 32-bit words (FIPS 197)."""
    box, p, q = [0] * 256, 1, 1
    while True:  # p runs through the field by powers of 3, q is its inverse
        p ^= ((p << 1) ^ (0x11B if p & 0x80 else 0)) & 0x1FF
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 0xFF
        q ^= 0x09 if q & 0x80 else 0
        turned = q | q << 8
        box[p & 0xFF] = (q ^ turned >> 7 ^ turned >> 6 ^ turned >> 5 ^ turned >> 4 ^ 0x63) & 0xFF
        p &= 0xFF
        if p == 1:
            break
    box[0] = 0x63
    rows: list[list[int]] = [[], [], [], []]
    for one in box:
        two = (one << 1) ^ (0x11B if one & 0x80 else 0)
        column = two << 24 | one << 16 | one << 8 | (two ^ one)
        for row in range(4):
            rows[row].append((column >> 8 * row | column << 32 - 8 * row) & 0xFFFFFFFF)
    return rows


T0, T1, T2, T3 = aes_tables()


def aes_round(block: int, key: int) -> int:
    """One AES encryption round, the round key added at its end."""
    b = block.to_bytes(16, "big")
    return key ^ (
        (T0[b[0]] ^ T1[b[5]] ^ T2[b[10]] ^ T3[b[15]]) << 96
        | (T0[b[4]] ^ T1[b[9]] ^ T2[b[14]] ^ T3[b[3]]) << 64
        | (T0[b[8]] ^ T1[b[13]] ^ T2[b[2]] ^ T3[b[7]]) << 32
        | (T0[b[12]] ^ T1[b[1]] ^ T2[b[6]] ^ T3[b[11]])
    )


class Aegis256:
    """draft-irtf-cfrg-aegis-aead, its AEGIS-256: the six blocks of its state, and what changes them."""

    C0, C1 = 0x000101020305080D1522375990E97962, 0xDB3D18556DC22FF12011314273B528DD

    def __init__(self, key: bytes, nonce: bytes) -> None:
        k0, k1, n0, n1 = (int.from_bytes(half, "big") for half in (key[:16], key[16:], nonce[:16], nonce[16:]))
        self.state = [k0 ^ n0, k1 ^ n1, self.C1, self.C0, k0 ^ self.C0, k1 ^ self.C1]
        for _ in range(4):
            for block in (k0, k1, k0 ^ n0, k1 ^ n1):
                self.update(block)

    def update(self, block: int) -> None:
        s0, s1, s2, s3, s4, s5 = self.state
        self.state = [
            aes_round(s5, s0 ^ block),
            aes_round(s0, s1),
            aes_round(s1, s2),
            aes_round(s2, s3),
            aes_round(s3, s4),
            aes_round(s4, s5),
        ]

    def open(self, aad: bytes, ciphertext: bytes) -> tuple[bytes, bytes]:
        """The plaintext, which must not be used before the tag of 256 bits has been compared; and that tag."""
        for at in range(0, len(aad), 16):
            self.update(int.from_bytes(aad[at : at + 16].ljust(16, b"\0"), "big"))
        plain = []
        for at in range(0, len(ciphertext), 16):
            _, s1, s2, s3, s4, s5 = self.state
            block = ciphertext[at : at + 16]
            stream = s1 ^ s4 ^ s5 ^ (s2 & s3)
            out = (int.from_bytes(block.ljust(16, b"\0"), "big") ^ stream).to_bytes(16, "big")[: len(block)]
            plain.append(out)
            self.update(int.from_bytes(out.ljust(16, b"\0"), "big"))
        lengths = struct.pack("<QQ", 8 * len(aad), 8 * len(ciphertext))
        last = self.state[3] ^ int.from_bytes(lengths, "big")
        for _ in range(7):
            self.update(last)
        s0, s1, s2, s3, s4, s5 = self.state
        return b"".join(plain), (s0 ^ s1 ^ s2).to_bytes(16, "big") + (s3 ^ s4 ^ s5).to_bytes(16, "big")


def aegis_open(key: bytes, nonce: bytes, aad: bytes, sealed: bytes) -> bytes:
    need(len(sealed) >= 32, "something sealed is too short")
    plain, tag = Aegis256(key, nonce).open(aad, sealed[:-32])
    need(hmac.compare_digest(tag, sealed[-32:]), "something sealed does not open")
    return plain


def pad(size: int) -> int:
    if size <= 64:
        return 64
    exponent = size.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return -(-size // step) * step


def open_value(key: bytes, aad: bytes, sealed: bytes) -> bytes:
    plain = seal_open(key, aad, sealed)
    size = int.from_bytes(plain[:4], "big")
    value, rest = plain[4 : 4 + size], plain[4 + size :]
    need(1 <= size <= 1 << 20 and len(plain) == pad(4 + size) and not any(rest), "a value is not padded as it must be")
    return value


def open_stream(
    data_key: bytes,
    vault: bytes,
    tenant: bytes,
    file_id: bytes,
    size: int,
    total: int,
    read_at: Callable[[int, int], bytes],
) -> Iterator[bytes]:
    """The content of a stream of `total` bytes, chunk by chunk; `read_at(offset, length)` gives its bytes."""
    header = read_at(0, 64)
    need(len(header) == 64 and header[:8] == b"vaultdBL", "a blob does not begin as a blob does")
    need(header[8] == 1 and header[9] in (1, 2), "a blob is of another format")
    algorithm, log2 = header[9], header[10]
    need(16 <= log2 <= 20 and not any(header[11:16]), "a blob's header is not as it must be")
    need(header[16:32] == file_id, "a blob is another one")
    aad = context("blob", vault, tenant, file_id)
    key = blake2b(32, data_key, b"vaultd.stream", header[:32])
    commitment = blake2b(32, key, b"vaultd.commit", header[:32] + aad)
    need(hmac.compare_digest(commitment, header[32:]), "a blob is of another key")
    opens, nonce_size, tag = (aead_open, 24, 16) if algorithm == 1 else (aegis_open, 32, 32)
    need(1 <= size <= 1 << 48, "a blob has an impossible size")
    chunk, padded = 1 << log2, pad(size)
    count = -(-padded // chunk)
    need(total == 64 + padded + count * tag, "a blob is cut, or has bytes behind its end")

    def piece(index: int) -> bytes:
        last = index == count - 1
        length = min(chunk, padded - index * chunk)
        nonce = bytes(nonce_size - 9) + index.to_bytes(8, "big") + bytes([last])
        bound = aad + (b"\0\0\0\x08" + size.to_bytes(8, "big") if last else b"")
        plain = opens(key, nonce, bound, read_at(64 + index * (chunk + tag), length + tag))
        content = max(0, min(chunk, size - index * chunk))
        need(not any(plain[content:]), "a blob is not padded as it must be")
        return plain[:content]

    end = piece(count - 1)  # before anything is given out: it binds the size
    for index in range(count - 1):
        yield piece(index)
    yield end


@dataclass
class Slot:
    header: bytes
    kind: int
    lanes: int
    passes: int
    memory: int
    salt: bytes
    mark: bytes
    boxed_root: bytes
    wrapped_public: bytes


def parse_slot(raw: bytes, vault: bytes) -> Slot:
    need(raw[:5] == b"VDSL\x01", "a key slot is of another format")
    need(blake2b(16, b"", b"vaultd.slot.sum", raw[:396]) == raw[396:], "a key slot is damaged")
    need(raw[44:60] == vault, "a key slot is of another vault")
    passes, memory = struct.unpack_from(">II", raw, 8)
    need(passes <= 16 and memory <= 1 << 20 and raw[7] <= 16, "a key slot asks for too much work")
    return Slot(raw[:124], raw[5], raw[7], passes, memory, raw[28:44], raw[124:156], raw[156:292], raw[292:396])


def open_slots(slots: list[Slot], secret: bytes, kind: int) -> bytes:
    for slot in slots:
        if slot.kind != kind:
            continue
        if kind == 1:
            key = Argon2id(
                salt=slot.salt, length=32, iterations=slot.passes, lanes=slot.lanes, memory_cost=slot.memory
            ).derive(secret)
        else:
            key = blake2b(32, b"", b"vaultd.keyfile", secret, slot.salt)
        if hmac.compare_digest(blake2b(32, key, b"vaultd.slot.mark", slot.header), slot.mark):
            return open_box(derive(key, b"vaultd.slot.pair"), context("slot.root", slot.header), slot.boxed_root)
    raise DoesNotFit("no key slot opens with this secret")


# vault/FORMAT.md


@dataclass
class Anchor:
    sequence: int
    place: tuple[int, int]
    line: int
    head: bytes
    keyring: bytes
    first: int
    base: bytes
    raw: bytes


@dataclass
class Entry:
    uid: bytes
    generation: int
    deleted: bool
    name: bytes
    key: bytes


@dataclass
class Keyring:
    vault: bytes
    slots: list[Slot]
    entries: list[Entry]
    digest: bytes
    mac: bytes


def read(directory: str, *names: str) -> bytes:
    with open(os.path.join(directory, *names), "rb") as file:
        return file.read()


def read_anchor(directory: str) -> Anchor:
    state = read(directory, "state")
    need(len(state) == 1024, "the state file has another length")
    found = []
    for index in range(2):
        raw = state[512 * index : 512 * index + 512]
        if blake2b(32, b"", b"vaultd.state.sum", raw[:480]) != raw[480:]:
            continue  # torn by a power cut: the other one counts
        need(raw[:10] in (b"vaultdST\x00\x01", b"vaultdST\x00\x02"), "the state file is of another format")
        (sequence,) = struct.unpack_from(">Q", raw, 32)
        (segment,) = struct.unpack_from(">I", raw, 48)
        offset, line = struct.unpack_from(">QQ", raw, 56)
        (begin,) = struct.unpack_from(">I", raw, 412)
        need(sequence % 2 == index, "an anchor is in the other one's slot")
        place = (segment, offset)
        found.append(Anchor(sequence, place, line, raw[72:104], raw[104:136], begin or 1, raw[416:448], raw))
    need(found, "no anchor is whole")
    return max(found, key=lambda anchor: anchor.sequence)


def parse_keyring(raw: bytes) -> Keyring:
    need(raw[:10] == b"vaultdKR\x00\x01", "the keyring is of another format")
    slot_count, admin_count = struct.unpack_from(">HH", raw, 10)
    (count,) = struct.unpack_from(">I", raw, 40)
    vault, body, mac = raw[16:32], raw[:-32], raw[-32:]
    slots_at = KEYRING_HEADER + 4 * admin_count
    entries_at = slots_at + 412 * slot_count
    need(len(body) == entries_at + 456 * count, "the keyring's sizes do not fit")
    slots = [parse_slot(body[at : at + 412], vault) for at in range(slots_at, entries_at, 412)]
    entries = []
    for at in range(entries_at, len(body), 456):
        row = body[at : at + 456]
        generation, flags = struct.unpack_from(">II", row, 32)
        entries.append(Entry(row[:16], generation, bool(flags & 1), row[48:152], row[152:256]))
    return Keyring(vault, slots, entries, blake2b(32, b"", b"vaultd.keyring", body), mac)


KEYRING_HEADER = 188


def read_keyring(directory: str, wanted: bytes) -> Keyring:
    for name in ("keyring", "keyring.next"):
        if os.path.exists(os.path.join(directory, name)):
            keyring = parse_keyring(read(directory, name))
            if keyring.digest == wanted:
                return keyring
    raise DoesNotFit("no keyring is the one that the anchor names")


# audit/FORMAT.md


def read_base(directory: str, anchor: Anchor) -> tuple[bytes, int]:
    """Hash and number of the line before the journal's first."""
    if anchor.first == 1:
        return bytes(32), 0
    raw = read(directory, "audit", f"{anchor.first:06d}.base")
    need(blake2b(32, b"", b"vaultd.base", raw) == anchor.base, "what the journal begins after is not what it was")
    header = json.loads(raw.split(b"\n")[0])
    return bytes.fromhex(header["head"]), header["seq"]


def read_snapshot(directory: str, anchor: Anchor, keyring: Keyring) -> tuple[dict[bytes, tuple[int, bytes]], int]:
    """What lines that were pruned vouch for, and the number of the last line that it knows of."""
    if anchor.first == 1:
        return {}, 0
    generations = {entry.uid: entry.generation for entry in keyring.entries}
    (number,) = struct.unpack_from(">I", anchor.raw, 52)
    raw = read(directory, f"heads.{number % 2}")
    need(blake2b(32, b"", b"vaultd.heads", raw) == anchor.raw[136:168], "the heads are not those that the anchor names")
    heads = {}
    for at in range(88, len(raw), 84):
        uid, generation, index, tag = struct.unpack_from(">16sIQ16s", raw, at)
        if generations.get(uid) == generation:
            heads[uid] = (index, tag)
    return heads, struct.unpack_from(">Q", raw, 48)[0]


def read_lines(directory: str, anchor: Anchor) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Every line, and the place before it. The end of a segment is the same place as the beginning of the next."""
    for segment in range(anchor.first, anchor.place[0] + 1):
        offset = 0
        for raw in read(directory, "audit", f"{segment:06d}.jsonl").splitlines(keepends=True):
            yield (segment, offset), raw
            offset += len(raw)


def read_heads(directory: str, anchor: Anchor, keyring: Keyring, vouching: bytes) -> dict[bytes, tuple[int, bytes]]:
    """For every log, how many records the journal vouches for, and the last one's tag."""
    generations = {entry.uid: entry.generation for entry in keyring.entries}
    heads, known = read_snapshot(directory, anchor, keyring)
    before, seq = read_base(directory, anchor)
    last, reached = (anchor.first, 0), False
    for place, raw in read_lines(directory, anchor):
        if place == anchor.place:
            need((seq, before) == (anchor.line, anchor.head), "the journal is not the one that the anchor speaks of")
            reached = True
        after = hashlib.sha256(before + hashlib.sha256(raw[:-76] + b"}").digest()).digest()
        if not raw.endswith(b"\n") or raw[-67:-3] != after.hex().encode():
            need(place >= anchor.place, f"journal line {seq + 1} does not follow from the one before it")
            break  # behind the anchor that is the torn end of a flush that nobody was told of
        line = json.loads(raw)
        need(line["seq"] == seq + 1, f"journal line {seq + 1} has another number")
        if "heads" in line and seq >= known:
            *claimed, seal = line["heads"]
            packed = b"".join(
                bytes.fromhex(uid) + struct.pack(">IQ", generation, record) + bytes.fromhex(tag)
                for uid, generation, record, tag in claimed
            )
            bound = context("vouch", keyring.vault, seq + 1, before, seal[1], packed)
            expected = blake2b(16, vouching, b"vaultd.vouch", bound)
            need(
                seal[0] == SEAL_UID and seal[3] == expected.hex(), f"journal line {seq + 1} vouches without being ours"
            )
            for uid, generation, record, tag in claimed:
                if generations.get(bytes.fromhex(uid)) == generation:
                    heads[bytes.fromhex(uid)] = (record, bytes.fromhex(tag))
        before, seq, last = after, seq + 1, (place[0], place[1] + len(raw))
    if not reached:  # it stands at the very end
        need((seq, before) == (anchor.line, anchor.head), "the journal is not the one that the anchor speaks of")
        need(last == anchor.place or anchor.place[1] == 0, "the journal ends before its anchor")
    return heads


# vault/RECORDS.md


def unpack(data: bytes) -> Any:
    """The part of msgpack that records use."""
    value, end = _unpack(data, 0)
    need(end == len(data), "bytes are left over behind a record's header")
    return value


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    kind = data[at]
    at += 1
    if kind <= 0x7F:
        return kind, at
    if kind >= 0xE0:
        return kind - 256, at
    if kind in CONSTANTS:
        return CONSTANTS[kind], at
    if kind in INTEGERS:
        form = INTEGERS[kind]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if kind in SIZED:
        what, width = SIZED[kind]
        size, at = int.from_bytes(data[at : at + width], "big"), at + width
    elif kind & 0xE0 == 0xA0:
        what, size = "str", kind & 0x1F
    else:
        what, size = ("list" if kind & 0xF0 == 0x90 else "map"), kind & 0x0F
    if what in ("str", "bytes"):
        need(at + size <= len(data), "a record's header is cut")
        raw = data[at : at + size]
        return (raw.decode() if what == "str" else raw), at + size
    items = []
    for _ in range(size * (2 if what == "map" else 1)):
        item, at = _unpack(data, at)
        items.append(item)
    if what == "list":
        return items, at
    found = dict(zip(items[::2], items[1::2], strict=True))
    need(len(found) == size, "a key stands twice in a record's header")
    return found, at


CONSTANTS: dict[int, Any] = {0xC0: None, 0xC2: False, 0xC3: True}
INTEGERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
SIZED = {
    0xC4: ("bytes", 1),
    0xC5: ("bytes", 2),
    0xC6: ("bytes", 4),
    0xD9: ("str", 1),
    0xDA: ("str", 2),
    0xDB: ("str", 4),
    0xDC: ("list", 2),
    0xDD: ("list", 4),
    0xDE: ("map", 2),
    0xDF: ("map", 4),
}


def read_log(
    directory: str, vault: bytes, entry: Entry, record_key: bytes, head: tuple[int, bytes]
) -> list[tuple[dict[str, Any], bytes]]:
    """Every record that is vouched for, with its attachment."""
    where = "system" if entry.uid == SYSTEM else os.path.join("tenants", entry.uid.hex())
    data = read(directory, where, f"log.{entry.generation}")
    need(data[:8] == b"vaultdLG", "a log does not begin as a log does")
    records, at, tag = [], 8, bytes(16)
    for index in range(1, head[0] + 1):
        total, attached = struct.unpack_from(">II", data, at)
        need(at + total <= len(data) and attached <= total - 48, "a log is cut")
        attachment = data[at + total - attached : at + total]
        aad = context("log", vault, entry.uid, entry.generation, index, tag, total, attachment)
        sealed = data[at + 8 : at + total - attached]
        plain = seal_open(record_key, aad, sealed)
        size = int.from_bytes(plain[:2], "big")
        need(len(plain) == pad(2 + size) and not any(plain[2 + size :]), "a record is not padded as it must be")
        records.append((unpack(plain[2 : 2 + size]), attachment))
        tag, at = sealed[-16:], at + total
    need(tag == head[1], "a log's last record is not the one that is vouched for")
    return records


@dataclass
class Secret:
    name: str
    current: int = 0
    last: int = 0
    attachments: dict[int, bytes] = field(default_factory=dict)
    blobs: dict[int, tuple[bytes, int]] = field(default_factory=dict)


def replay(records: list[tuple[dict[str, Any], bytes]]) -> dict[bytes, Secret]:
    """What a tenant's records add up to, as far as current values are concerned."""
    secrets: dict[bytes, Secret] = {}
    for record, attachment in records:
        match record["op"]:
            case "put":
                if "name" in record:
                    need(record["id"] not in secrets, "a secret begins twice")
                    secrets[record["id"]] = Secret(record["name"])
                secret = secrets[record["id"]]
                need(record["version"] == secret.last + 1, "a version is out of order")
                secret.last = record["version"]
                secret.attachments[record["version"]] = attachment
                if "file" in record:
                    secret.blobs[record["version"]] = (record["file"], record["size"])
                if not record.get("pending", False):
                    secret.current = record["version"]
                drop(secret, record.get("destroy", []))
            case "promote":
                secrets[record["id"]].current = record["version"]
                drop(secrets[record["id"]], record.get("destroy", []))
            case "destroy":
                drop(secrets[record["id"]], record["versions"])
            case "delete":
                del secrets[record["id"]]
            case "secrets":
                at = 0
                for item in record["list"]:
                    secret = secrets[item["id"]] = Secret(item["name"], last=item["last"])
                    for number, _, phase, _, _, size, *blob in item["versions"]:
                        if blob:
                            secret.blobs[number] = (blob[0], blob[1])
                        if phase == 2:
                            secret.current = number
                        if size:
                            secret.attachments[number] = attachment[at : at + size]
                            at += size
                need(at == len(attachment), "a record does not say whose all of its values are")
            case "value":
                secrets[record["id"]].attachments[record["version"]] = attachment
            case "set" | "grant" | "ungrant":
                pass
            case other:
                raise DoesNotFit(f"records of the kind {other!r} are not in the specification")
    return secrets


def drop(secret: Secret, numbers: list[int]) -> None:
    for number in numbers:
        del secret.attachments[number]


@dataclass
class Value:
    tenant: str
    secret: str
    version: int
    size: int
    pieces: Callable[[], Iterator[bytes]]

    def digest(self) -> str:
        """SHA-256 of the value, all of it opened on the way."""
        whole = hashlib.sha256()
        for piece in self.pieces():
            whole.update(piece)
        return whole.hexdigest()


def blob_pieces(path: str, data_key: bytes, vault: bytes, tenant: bytes, blob: tuple[bytes, int]) -> Iterator[bytes]:
    """The content of the blob in a file."""
    with open(path, "rb") as file:

        def read_at(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        total = os.fstat(file.fileno()).st_size
        yield from open_stream(data_key, vault, tenant, *blob, total, read_at)


def decode(directory: str, secret: bytes, kind: int) -> tuple[bytes, list[str], list[Value]]:
    """The vault's id, its tenants' names, and every current value."""
    anchor = read_anchor(directory)
    keyring = read_keyring(directory, anchor.keyring)
    root = open_slots(keyring.slots, secret, kind)
    wrap_key, anchor_key = derive(root, b"vaultd.wrap"), derive(root, b"vaultd.anchor")
    need(blake2b(32, anchor_key, b"vaultd.state.mac", anchor.raw[:448]) == anchor.raw[448:480], "a forged anchor")
    need(blake2b(32, anchor_key, b"vaultd.kr.mac", keyring.digest) == keyring.mac, "a forged keyring")
    for slot in keyring.slots:
        unwrap(wrap_key, context("slot.public", slot.header), slot.wrapped_public)
    keys = {
        entry.uid: unwrap(wrap_key, context("tenantkey", keyring.vault, entry.uid, entry.generation), entry.key)
        for entry in keyring.entries
        if not entry.deleted
    }
    heads = read_heads(directory, anchor, keyring, derive(keys[SYSTEM], b"vaultd.vouchkey"))
    name_key = derive(keys[SYSTEM], b"vaultd.record")
    names, values = [], []
    for entry in keyring.entries:
        if entry.deleted:
            continue
        record_key, data_key_key = derive(keys[entry.uid], b"vaultd.record"), derive(keys[entry.uid], b"vaultd.datakey")
        records = read_log(directory, keyring.vault, entry, record_key, heads.get(entry.uid, (0, bytes(16))))
        if entry.uid == SYSTEM:
            continue
        name = seal_open(name_key, context("name", keyring.vault, entry.uid), entry.name).rstrip(b"\0").decode()
        names.append(name)
        for secret_id, found in replay(records).items():
            if not found.current:
                continue
            place = (keyring.vault, entry.uid)
            attachment = found.attachments[found.current]
            kind = "blobkey" if found.current in found.blobs else "datakey"
            aad = context(kind, *place, entry.generation, secret_id, found.current)
            data_key = unwrap(data_key_key, aad, attachment[:104])
            if found.current in found.blobs:
                need(len(attachment) == 104, "a blob's key has something behind it")
                blob = found.blobs[found.current]
                path = os.path.join(directory, "tenants", entry.uid.hex(), "blobs", blob[0].hex())
                pieces = partial(blob_pieces, path, data_key, *place, blob)
                values.append(Value(name, found.name, found.current, blob[1], pieces))
                continue
            opened = open_value(data_key, context("value", *place, secret_id, found.current), attachment[104:])
            values.append(Value(name, found.name, found.current, len(opened), partial(iter, [opened])))
    return keyring.vault, sorted(names), sorted(values, key=lambda value: (value.tenant, value.secret))


def export(values: list[Value], out: str) -> None:
    os.makedirs(out, mode=0o700, exist_ok=True)
    for value in values:
        folder = os.path.join(out, value.tenant)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, urllib.parse.quote(value.secret, safe=""))
        # Under another name until the last chunk has opened: half of a value must not pass for one.
        part = path + ".part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                for piece in value.pieces():
                    file.write(piece)
            os.link(part, path)  # not a rename: what is there already stays
        finally:
            os.unlink(part)


def main() -> int:
    parser = argparse.ArgumentParser(description="Open a vault's values with a slot's secret and nothing of vaultd.")
    parser.add_argument("directory")
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--passphrase-file", help="one trailing newline is not part of it; - is standard input")
    secret.add_argument("--key-file")
    secret.add_argument("--credential-file", help="a systemd credential's content")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="names, versions, sizes and SHA-256 of the values")
    output.add_argument("--out", help="write every current value to a file below this directory")
    options = parser.parse_args()
    try:
        if options.key_file is not None:
            kind, given = 2, read(options.key_file)
        elif options.credential_file is not None:
            kind, given = 3, read(options.credential_file)
        elif options.passphrase_file == "-":
            kind, given = 1, sys.stdin.buffer.read().removesuffix(b"\n")
        else:
            kind, given = 1, read(options.passphrase_file).removesuffix(b"\n")
        vault, names, values = decode(options.directory, given, kind)
        digests = {}
        if options.out is not None:
            export(values, options.out)
        else:
            digests = {id(value): value.digest() for value in values}
    except (DoesNotFit, KeyError, IndexError, ValueError, struct.error) as error:
        print(f"independent_decoder: {error}", file=sys.stderr)
        return 65
    except OSError as error:
        print(f"independent_decoder: {error}", file=sys.stderr)
        return 74
    if options.json:
        secrets = [
            {
                "tenant": value.tenant,
                "secret": value.secret,
                "version": value.version,
                "size": value.size,
                "sha256": digests[id(value)],
            }
            for value in values
        ]
        print(json.dumps({"vault": vault.hex(), "tenants": names, "secrets": secrets}, indent=1))
        return 0
    for value in values:
        print(f"{value.tenant}\t{value.secret}\tversion {value.version}\t{value.size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
