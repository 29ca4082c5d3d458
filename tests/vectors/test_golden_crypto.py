"""The golden file: what this code makes today is what it made when the format was fixed, and a second reader agrees."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vaultd.crypto import kdf, labels, primitives, values
from vaultd.crypto.box import open_box
from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.slots import Slot, open_slot, slot_public
from vaultd.crypto.wrap import unwrap
from vaultd.errors import IntegrityError, VaultdError

if TYPE_CHECKING:
    from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "crypto.json").read_text())
FAULTS = json.loads((Path(__file__).parent / "golden" / "crypto-faults.json").read_text())
SLOTS = ["passphrase slot", "key-file slot"]


def of(name: str) -> dict[str, Any]:
    """One example, its hex read."""
    return {
        field: bytes.fromhex(value) if isinstance(value, str) and re.fullmatch("(?:[0-9a-f]{2})*", value) else value
        for field, value in GOLDEN[name].items()
    }


@pytest.mark.parametrize("name", ["make_golden_crypto.py", "make_golden_crypto_faults.py"])
def test_generator_makes_the_committed_file(name: str) -> None:
    """The generator, with its fixed randomness, still makes exactly the committed bytes."""
    script = REPOSITORY / "scripts" / name
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_context_and_hashes(second: SimpleNamespace) -> None:
    """Associated data, keyed hash, derivations and name index are what the second implementation says."""
    example = of("context")
    assert second.context(example["kind"], bytes.fromhex(example["fields"][0]), example["fields"][1]) == example["aad"]
    example = of("keyed hash")
    assert second.blake2b(example["data"], example["person"], example["key"]) == example["hash"]
    keys = of("hierarchy")
    for name, upper, label in (
        ("wrap key", "root key", b"vaultd.wrap"),
        ("anchor key", "root key", b"vaultd.anchor"),
        ("record key", "tenant key", b"vaultd.record"),
        ("data-key key", "tenant key", b"vaultd.datakey"),
        ("index key", "system key", b"vaultd.index"),
    ):
        assert second.blake2b(b"", label, keys[upper]) == keys[name]
    name_index = second.blake2b(keys["name"].encode(), b"vaultd.name", keys["index key"], size=16)
    assert name_index == keys["name index"]


def test_seals(second: SimpleNamespace) -> None:
    """Seals open here and there."""
    example = of("seal")
    key = Key.copy_of(example["key"])
    assert primitives.open_sealed(key, example["aad"], example["sealed"]) == example["plaintext"]
    assert second.open_sealed(example["key"], example["aad"], example["sealed"]) == example["plaintext"]
    example = of("seal with nonce")
    opened = primitives.open_with_nonce(key, example["nonce"], example["aad"], example["sealed"])
    assert opened == example["plaintext"]
    theirs = second.seal(example["key"], example["nonce"], example["aad"], example["plaintext"])
    assert theirs == example["sealed"]


def test_wrap_and_box(second: SimpleNamespace) -> None:
    """Wraps and boxes open here and there."""
    example = of("wrap")
    assert unwrap(Key.copy_of(example["key"]), example["aad"], example["wrapped"]) == example["secret"]
    assert second.unwrap(example["key"], example["aad"], example["wrapped"]) == example["secret"]
    example = of("box")
    private = Key.copy_of(example["private"])
    assert open_box(private, example["public"], example["aad"], example["boxed"]) == example["plaintext"]
    assert second.open_box(example["private"], example["aad"], example["boxed"]) == example["plaintext"]


def test_signature() -> None:
    """The signature verifies here and there."""
    example = of("signature")
    primitives.verify(example["public"], example["message"], example["signature"])
    theirs = Ed25519PublicKey.from_public_bytes(example["public"])
    theirs.verify(example["signature"], example["message"])


def test_value(second: SimpleNamespace) -> None:
    """The value of an attachment opens here and there, from the tenant key on."""
    example = of("value")
    place = (example["vault"], example["tenant"], example["secret"], example["version"])
    envelope = values.Envelope(
        *place[:2], example["generation"], TenantKeys(Key.copy_of(example["tenant key"])).data_key
    )
    assert envelope.open(*place[2:], example["attachment"]) == example["value"]
    wrapping = second.blake2b(b"", b"vaultd.datakey", example["tenant key"])
    aad = second.context("datakey", *place[:2], example["generation"], *place[2:])
    assert aad == example["data key aad"]
    data_key = second.unwrap(wrapping, aad, example["attachment"][:104])
    assert data_key == example["data key"]
    aad = second.context("value", *place)
    assert aad == example["value aad"]
    assert second.open_value(data_key, aad, example["attachment"][104:]) == example["value"]


@pytest.mark.parametrize("name", SLOTS)
def test_slot(second: SimpleNamespace, name: str) -> None:
    """A slot opens here and there with its secret, and names the same public key."""
    example, vault = of(name), of("value")["vault"]
    slot = Slot.parse(example["slot"], vault)
    assert open_slot(slot, SecretBytes.copy_of(example["secret"]), minimum=kdf.CHEAPEST) == example["root"]
    assert slot_public(slot, Key.copy_of(of("hierarchy")["wrap key"])) == example["public"]
    assert second.open_slot(example["slot"], example["secret"]) == (example["root"], example["public"])


@pytest.mark.parametrize("name", SLOTS)
def test_default_minimum_refuses_the_golden_passphrase_slot(name: str) -> None:
    """The golden passphrase slot is cheap on purpose, and so refused unless a test says otherwise."""
    slot = Slot.parse(of(name)["slot"], of("value")["vault"])
    secret = SecretBytes.copy_of(of(name)["secret"])
    if name == "passphrase slot":
        with pytest.raises(IntegrityError, match="below"):
            open_slot(slot, secret)
    else:
        assert open_slot(slot, secret) == of(name)["root"]


def test_specification_shows_the_golden_bytes() -> None:
    """Every worked example in FORMAT.md is the golden file's, byte for byte."""
    text = (REPOSITORY / "vaultd" / "crypto" / "FORMAT.md").read_text()
    blocks = re.findall(r"```hex (.+?): (.+?)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 9
    for construction, field, hexadecimal in blocks:
        assert "".join(hexadecimal.split()) == GOLDEN[construction][field], (construction, field)


def test_specification_names_every_label_and_size() -> None:
    """FORMAT.md's table of labels is the one in the code."""
    text = (REPOSITORY / "vaultd" / "crypto" / "FORMAT.md").read_text()
    table = set(re.findall(r"^\| `(vaultd\.[a-z.]+)` \|", text, re.MULTILINE))
    assert table == {getattr(labels, name).decode() for name in labels.__all__}


def open_ours(construction: str, data: bytes) -> object:
    """Open an object of a construction in the golden example's place, with this code."""
    good = of(construction)
    if construction == "seal":
        return primitives.open_sealed(Key.copy_of(good["key"]), good["aad"], data)
    if construction == "wrap":
        return unwrap(Key.copy_of(good["key"]), good["aad"], data)
    if construction == "box":
        return open_box(Key.copy_of(good["private"]), good["public"], good["aad"], data)
    if construction == "value":
        keys = TenantKeys(Key.copy_of(good["tenant key"]))
        envelope = values.Envelope(good["vault"], good["tenant"], good["generation"], keys.data_key)
        return envelope.open(good["secret"], good["version"], data)
    slot = Slot.parse(data, of("value")["vault"])
    root = open_slot(slot, SecretBytes.copy_of(good["secret"]), minimum=kdf.CHEAPEST)
    slot_public(slot, Key.copy_of(of("hierarchy")["wrap key"]))
    return root


def open_theirs(second: SimpleNamespace, construction: str, data: bytes) -> object:
    """The same with the second implementation."""
    good = of(construction)
    if construction in ("seal", "wrap"):
        return {"seal": second.open_sealed, "wrap": second.unwrap}[construction](good["key"], good["aad"], data)
    if construction == "box":
        return second.open_box(good["private"], good["aad"], data)
    if construction == "value":
        wrapping = second.blake2b(b"", b"vaultd.datakey", good["tenant key"])
        data_key = second.unwrap(wrapping, good["data key aad"], data[:104])
        return second.open_value(data_key, good["value aad"], data[104:])
    return second.open_slot(data, good["secret"])


@pytest.mark.parametrize("construction", ["seal", "wrap", "box", "value", "passphrase slot"])
def test_golden_objects_open(second: SimpleNamespace, construction: str) -> None:
    """The control: what the faults were made from opens for both readers."""
    field = {"seal": "sealed", "wrap": "wrapped", "box": "boxed", "value": "attachment"}.get(construction, "slot")
    open_ours(construction, of(construction)[field])
    open_theirs(second, construction, of(construction)[field])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault['construction']}: {fault['fault']}")
def test_each_fault_gives_its_error(second: SimpleNamespace, fault: dict[str, str]) -> None:
    """Each object with one fault is refused by both readers, by ours with the class of error that the file names."""
    data = bytes.fromhex(fault["data"])
    with pytest.raises(VaultdError) as caught:
        open_ours(fault["construction"], data)
    assert caught.value.code == fault["expect"]
    with pytest.raises((ValueError, InvalidTag)):
        open_theirs(second, fault["construction"], data)
