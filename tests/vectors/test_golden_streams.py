"""The golden streams: made as they were made, read alike by a second reader, and refused with each fault."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vaultd.crypto.blobkeys import BlobKeys, stream_context
from vaultd.crypto.ciphers import Algorithm
from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.memory import Key
from vaultd.crypto.stream import HEADER, StreamOpener, StreamSealer
from vaultd.crypto.values import pad
from vaultd.errors import IntegrityError, VaultdError

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "streams.json").read_text())
STREAMS = {name: example for name, example in GOLDEN["examples"].items() if "header" in example}
KEPT = "fe62accfb73d3e7b4be81b1169ad09d79d0198bc82479bc73c908dadef6e5d20"


@pytest.fixture(scope="module")
def decoder() -> Any:
    spec = importlib.util.spec_from_file_location("independent_decoder", ROOT / "scripts" / "independent_decoder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def place(name: str) -> tuple[Key, bytes, bytes]:
    """Key, associated data and id of an example."""
    example = STREAMS[name]
    vault, tenant, file = (bytes.fromhex(example[part]) for part in ("vault", "tenant", "blob"))
    return Key.copy_of(bytes.fromhex(example["data key"])), stream_context(vault, tenant, file), file


@cache
def made(name: str) -> bytes:
    """An example, sealed anew from what the golden file says of it."""
    example = STREAMS[name]
    key, aad, file = place(name)
    content = hashlib.shake_256(b"vaultd golden stream " + name.encode()).digest(example["size"])
    assert hashlib.sha256(content).hexdigest() == example["content sha256"]
    sealer = StreamSealer(key, aad, file, algorithm=Algorithm(example["algorithm"]), chunk=16)
    plain, out, parts = content.ljust(pad(len(content)), b"\0"), bytearray(sealer.sealed_chunk), [sealer.header]
    for at in range(0, len(plain), sealer.chunk):
        end = len(content) if at + sealer.chunk >= len(plain) else None
        parts.append(bytes(out[: sealer.seal(plain[at : at + sealer.chunk], out, size=end)]))
    return b"".join(parts)


def open_ours(name: str, stream: bytes, size: int) -> bytes:
    """Read a stream in an example's place."""
    opener = StreamOpener(*place(name), stream[:HEADER], size)
    layout = opener.layout
    if len(stream) != layout.total:
        raise IntegrityError("another length")
    found = {}
    for index in (layout.chunks - 1, *range(layout.chunks - 1)):
        begin = layout.offset(index)
        sealed, plain = (
            bytearray(stream[begin : begin + layout.plain(index) + layout.algorithm.tag]),
            bytearray(1 << 20),
        )
        found[index] = bytes(plain[: opener.open(index, sealed, plain)])
    return b"".join(found[index] for index in range(layout.chunks))


def open_theirs(decoder: Any, name: str, stream: bytes, size: int) -> bytes:
    """The same with the independent decoder."""
    key, vault, tenant, file = (bytes.fromhex(STREAMS[name][part]) for part in ("data key", "vault", "tenant", "blob"))

    def read_at(offset: int, length: int) -> bytes:
        return stream[offset : offset + length]

    return b"".join(decoder.open_stream(key, vault, tenant, file, size, len(stream), read_at))


def test_the_generator_makes_the_committed_file() -> None:
    """The generator still makes exactly the committed bytes, which are those of the day they were made."""
    script = ROOT / "scripts" / "make_golden_streams.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert hashlib.sha256((Path(__file__).parent / "golden" / "streams.json").read_bytes()).hexdigest() == KEPT


@pytest.mark.parametrize("name", STREAMS)
def test_golden_streams_open_here_and_there(decoder: Any, name: str) -> None:
    """Both readers give the content of every example, of both algorithms."""
    example, stream = STREAMS[name], made(name)
    assert (len(stream), hashlib.sha256(stream).hexdigest()) == (example["length"], example["stream sha256"])
    assert stream[:HEADER].hex() == example["header"]
    assert stream.hex() == example.get("stream", stream.hex())
    for content in (open_ours(name, stream, example["size"]), open_theirs(decoder, name, stream, example["size"])):
        assert hashlib.sha256(content).hexdigest() == example["content sha256"]


def test_the_golden_wrapped_key(decoder: Any) -> None:
    """A blob's wrapped key opens here and there, from the tenant key on."""
    example = GOLDEN["examples"]["wrapped key"]
    vault, tenant, secret, wrapped = (bytes.fromhex(example[part]) for part in ("vault", "tenant", "secret", "wrapped"))
    tenant_key, data_key = bytes.fromhex(example["tenant key"]), bytes.fromhex(example["data key"])
    keys = BlobKeys(vault, tenant, example["generation"], TenantKeys(Key.copy_of(tenant_key)).data_key)
    assert keys.unwrap(secret, example["version"], wrapped) == data_key
    aad = decoder.context("blobkey", vault, tenant, example["generation"], secret, example["version"])
    assert decoder.unwrap(decoder.derive(tenant_key, b"vaultd.datakey"), aad, wrapped) == data_key


@pytest.mark.parametrize("fault", GOLDEN["faults"], ids=lambda fault: f"{fault['reader']}: {fault['fault']}")
def test_each_fault_gives_its_error(decoder: Any, fault: dict[str, Any]) -> None:
    """Each stream with one fault is refused by both readers, by ours with the class of error that the file names."""
    name, _, size = fault["reader"].partition(", size ")
    number = int(size) if size else STREAMS[name]["size"]
    pieces = [
        bytes.fromhex(piece) if isinstance(piece, str) else made(piece[0])[piece[1] : piece[2]]
        for piece in fault["pieces"]
    ]
    stream = b"".join(pieces)
    with pytest.raises(VaultdError) as caught:
        open_ours(name, stream, number)
    assert caught.value.code == fault["expect"]
    with pytest.raises((decoder.DoesNotFit, IndexError)):
        open_theirs(decoder, name, stream, number)


def test_there_are_faults_of_every_kind() -> None:
    """The list is not cut short unseen."""
    assert len(GOLDEN["faults"]) == 2 * 39
    assert {fault["expect"] for fault in GOLDEN["faults"]} == {"integrity", "format_version"}
