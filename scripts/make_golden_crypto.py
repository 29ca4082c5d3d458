#!/usr/bin/env python3
"""Write tests/vectors/golden/crypto.json: one fixed example of every sealed construction.

The randomness is injected, so the file is the same on every run; the test suite makes it again and compares. Run this
only when a new construction is added: changing an existing example means that old vaults no longer open.

    python scripts/make_golden_crypto.py [--check]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from vaultd.crypto import kdf, values
from vaultd.crypto.box import box
from vaultd.crypto.context import context
from vaultd.crypto.hierarchy import RootKeys, TenantKeys, index_key, name_index
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import ed25519_public, keyed_hash, seal, seal_with_nonce, sign, x25519_public
from vaultd.crypto.slots import SlotKind, SlotRandomness, new_slot, slot_public
from vaultd.crypto.wrap import wrap

TARGET = Path(__file__).resolve().parents[1] / "tests" / "vectors" / "golden" / "crypto.json"


def fixed(name: str, size: int) -> bytes:
    """Bytes that stand for something drawn: SHAKE-256 of its name."""
    return hashlib.shake_256(b"vaultd golden " + name.encode()).digest(size)


def key(name: str) -> Key:
    """A key that stands for a drawn one."""
    return Key.copy_of(fixed(name, 32))


VAULT, TENANT, SECRET = fixed("vault id", 16), fixed("tenant uid", 16), fixed("secret id", 16)
GENERATION, VERSION = 3, 7
VALUE = b"sk-proj-golden-value"
PASSPHRASE = b"correct horse battery staple"
PROFILE = kdf.Profile(time_cost=2, memory_kib=256, lanes=2)


def slot_example(kind: SlotKind, slot_id: int, label: str, secret: bytes) -> dict[str, Any]:
    """A slot and all that its independent reader needs to know."""
    name = f"slot {slot_id} "
    root, wrap_key = key("root key"), RootKeys(key("root key")).wrap
    slot = new_slot(
        vault_id=VAULT,
        slot_id=slot_id,
        kind=kind,
        label=label,
        created=1_750_000_000,
        secret=SecretBytes.copy_of(secret),
        root=root,
        wrap_key=wrap_key,
        profile=PROFILE,
        fixed=SlotRandomness(
            salt=fixed(name + "salt", 16),
            ephemeral=key(name + "ephemeral"),
            root_nonce=fixed(name + "root nonce", 24),
            public_nonce=fixed(name + "public nonce", 24),
        ),
    )
    return {
        "secret": secret.hex(),
        "root": bytes(root.view()).hex(),
        "public": slot_public(slot, wrap_key).hex(),
        "slot": slot.serialise().hex(),
    }


def examples() -> dict[str, Any]:
    """Every construction by name; all bytes in hex."""
    sealing, aad, nonce = key("sealing key"), context("example", VAULT, 5), fixed("nonce", 24)
    private = key("recipient")
    public = x25519_public(private)
    seed = key("signing seed")
    root, tenant, system = key("root key"), key("tenant key"), key("system key")
    data_key = key("data key")
    data_key_key = TenantKeys(tenant).data_key
    place = (VAULT, TENANT, SECRET, VERSION)
    data_key_place = (VAULT, TENANT, GENERATION, SECRET, VERSION)
    value = SecretBytes.copy_of(VALUE)
    derived = {
        "wrap key": RootKeys(root).wrap,
        "anchor key": RootKeys(root).anchor,
        "record key": TenantKeys(tenant).record,
        "data-key key": data_key_key,
        "index key": index_key(system),
    }
    return {
        "context": {"kind": "example", "fields": [VAULT.hex(), 5], "aad": aad.hex()},
        "keyed hash": {
            "key": bytes(sealing.view()).hex(),
            "data": b"data".hex(),
            "person": b"vaultd.example".hex(),
            "hash": keyed_hash(sealing, b"data", person=b"vaultd.example").hex(),
        },
        "seal": {
            "key": bytes(sealing.view()).hex(),
            "aad": aad.hex(),
            "plaintext": b"plaintext".hex(),
            "sealed": seal(sealing, aad, b"plaintext", nonce=nonce).hex(),
        },
        "seal with nonce": {
            "key": bytes(sealing.view()).hex(),
            "nonce": nonce.hex(),
            "aad": aad.hex(),
            "plaintext": b"plaintext".hex(),
            "sealed": seal_with_nonce(sealing, nonce, aad, b"plaintext").hex(),
        },
        "wrap": {
            "key": bytes(sealing.view()).hex(),
            "aad": aad.hex(),
            "secret": bytes(data_key.view()).hex(),
            "wrapped": wrap(sealing, aad, data_key, nonce=nonce).hex(),
        },
        "box": {
            "private": bytes(private.view()).hex(),
            "public": public.hex(),
            "aad": aad.hex(),
            "plaintext": b"plaintext".hex(),
            "boxed": box(public, aad, b"plaintext", ephemeral=key("ephemeral"), nonce=nonce).hex(),
        },
        "signature": {
            "seed": bytes(seed.view()).hex(),
            "public": ed25519_public(seed).hex(),
            "message": b"statement".hex(),
            "signature": sign(seed, b"statement").hex(),
        },
        "hierarchy": {
            "root key": bytes(root.view()).hex(),
            "tenant key": bytes(tenant.view()).hex(),
            "system key": bytes(system.view()).hex(),
            **{name: bytes(each.view()).hex() for name, each in derived.items()},
            "name": "acme",
            "name index": name_index(derived["index key"], "acme").hex(),
        },
        "value": {
            "vault": VAULT.hex(),
            "tenant": TENANT.hex(),
            "generation": GENERATION,
            "secret": SECRET.hex(),
            "version": VERSION,
            "tenant key": bytes(tenant.view()).hex(),
            "data key": bytes(data_key.view()).hex(),
            "value": VALUE.hex(),
            "data key aad": values.data_key_context(*data_key_place).hex(),
            "value aad": values.value_context(*place).hex(),
            "attachment": (
                values.wrap_data_key(data_key_key, data_key, *data_key_place, nonce=fixed("data key nonce", 24))
                + values.seal_value(data_key, *place, value, nonce=fixed("value nonce", 24))
            ).hex(),
        },
        "passphrase slot": slot_example(SlotKind.PASSPHRASE, 1, "golden été", PASSPHRASE),
        "key-file slot": slot_example(SlotKind.KEY_FILE, 2, "", fixed("key file", 48)),
    }


def text() -> str:
    """The whole file."""
    return json.dumps(examples(), indent=1, ensure_ascii=True) + "\n"


def main() -> int:
    """Write the file, or compare it with what is there."""
    if "--check" in sys.argv[1:]:
        if TARGET.read_text() != text():
            print(f"{TARGET.name} is not what this code makes", file=sys.stderr)
            return 1
        return 0
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
