"""R14 for this room: after keys are wiped, no copy of them is left anywhere in the process's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

FLOW = r"""
import gc, sys
from vaultd.crypto import kdf, values
from vaultd.crypto.box import box, open_box
from vaultd.crypto.hierarchy import RootKeys, TenantKeys, index_key
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import ed25519_public, seal, open_sealed, sign, x25519_pair
from vaultd.crypto.slots import Slot, SlotKind, derive_slot_key, new_slot, open_slot_with_key, rebox, slot_public
from vaultd.crypto.wrap import unwrap_key, wrap
from vaultd.errors import IntegrityError

def tell(name, secret):
    # Masked byte by byte, so that telling the parent makes no copy of the secret itself.
    print(name, bytes(byte ^ 0xA5 for byte in secret.view()).hex(), flush=True)

def flow():
    vault, tenant, ident = bytes(16), b"\1" * 16, b"\2" * 16
    passphrase = SecretBytes.random(24)
    root = Key.random()
    root_keys = RootKeys(root)
    slot = new_slot(vault_id=vault, slot_id=1, kind=SlotKind.PASSPHRASE, label="", created=0, secret=passphrase,
                    root=root, wrap_key=root_keys.wrap, profile=kdf.CHEAPEST)
    slot_key = derive_slot_key(Slot.parse(slot.serialise(), vault), passphrase, minimum=kdf.CHEAPEST)
    opened = open_slot_with_key(slot, slot_key)
    rebox(slot, slot_public(slot, root_keys.wrap), root, root_keys.wrap)
    tenant_key = Key.random()
    unwrapped = unwrap_key(root_keys.wrap, b"aad", wrap(root_keys.wrap, b"aad", tenant_key))
    tenant_keys = TenantKeys(unwrapped)
    index = index_key(unwrapped)
    envelope = values.Envelope(vault, tenant, 1, tenant_keys.data_key)
    value = SecretBytes.random(60)
    data_key = values.new_data_key()
    where = (vault, tenant, 1, ident, 1)
    attachment = (values.wrap_data_key(tenant_keys.data_key, data_key, *where)
                  + values.seal_value(data_key, vault, tenant, ident, 1, value))
    leased = envelope.open(ident, 1, attachment)
    envelope.rewrap(values.Envelope(vault, tenant, 2, tenant_keys.record), ident, 1, attachment)
    envelope.seal(ident, 2, leased)
    try:
        envelope.open(ident, 2, attachment)
    except IntegrityError:
        pass
    private, public = x25519_pair()
    open_box(private, public, b"", box(public, b"", tenant_key)).wipe()
    seed = Key.random()
    sign(seed, b"m")
    plain = SecretBytes.take(open_sealed(tenant_keys.record, b"", seal(tenant_keys.record, b"", value)))
    secrets = {"passphrase": passphrase, "root": root, "wrap": root_keys.wrap, "anchor": root_keys.anchor,
               "slot_key": slot_key, "opened": opened, "tenant": tenant_key, "unwrapped": unwrapped,
               "record": tenant_keys.record, "data_key_key": tenant_keys.data_key, "index": index, "value": value,
               "data_key": data_key, "leased": leased, "private": private, "seed": seed, "plain": plain}
    for name, secret in secrets.items():
        tell(name, secret)
    print("held", flush=True)
    sys.stdin.readline()
    if sys.argv[1] == "wipe":
        for secret in secrets.values():
            secret.wipe()
    else:
        secrets.clear()  # nobody wipes: the objects' own end must do

flow()
gc.collect()
print("wiped", flush=True)
sys.stdin.readline()
"""


def copies(pid: int, needles: dict[str, bytes]) -> dict[str, int]:
    """How often each needle stands in a process's readable memory, stacks and heap included."""
    found = dict.fromkeys(needles, 0)
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, permissions, *_, name = [*line.split(maxsplit=5), ""][:6]
            if not permissions.startswith("r") or "[vvar" in name or "[vsyscall" in name:
                continue
            start, stop = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            image = memory.read(stop - start)
            for key, needle in needles.items():
                found[key] += image.count(needle)
    return found


@pytest.fixture(params=["wipe", "drop"])
def child(request: pytest.FixtureRequest) -> Generator[subprocess.Popen[str]]:
    """A process that runs every construction, tells (masked) which secrets it used, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", FLOW, request.param], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def test_wiped_keys_leave_no_copy(child: subprocess.Popen[str]) -> None:
    """Every secret is found while it is held, and none, not even half of one, after it was wiped or dropped."""
    assert child.stdin is not None
    assert child.stdout is not None
    secrets: dict[str, bytes] = {}
    while (line := child.stdout.readline().split()) != ["held"]:
        secrets[line[0]] = bytes(byte ^ 0xA5 for byte in bytes.fromhex(line[1]))
    assert len(secrets) == 17
    held = copies(child.pid, secrets)
    assert all(held.values()), held  # the control: the scan does find what is there
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "wiped\n"
    halves = {f"{name} {part}": secret[part : part + 12] for name, secret in secrets.items() for part in (0, 12, 20)}
    halves = {name: half for name, half in halves.items() if len(half) == 12}
    left = {name: count for name, count in copies(child.pid, secrets | halves).items() if count}
    assert left == {}
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.wait(timeout=30) == 0


def test_a_core_of_this_process_would_hold_no_key() -> None:
    """The arena's pages are marked so that the kernel leaves them out of core files."""
    from vaultd.crypto.memory import Key

    key = Key.random()
    address = int(str(key.pointer).split("0x")[1].rstrip(">").split()[0], 16)
    with open(f"/proc/{os.getpid()}/smaps") as smaps:
        inside = False
        for line in smaps:
            words = line.split()
            if not words[0].endswith(":"):
                start, stop = (int(part, 16) for part in words[0].split("-"))
                inside = start <= address < stop
            elif inside and words[0] == "VmFlags:":
                assert "dd" in words
                return
    pytest.fail("the key's address is in no mapping")
