"""The committed vault directory: what was written once opens for ever, for us and for the independent decoder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.audit.checkpoint import parse
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.primitives import keyed_hash
from vaultd.crypto.slots import SlotKind
from vaultd.errors import FormatVersion, IntegrityError
from vaultd.names import secret_name
from vaultd.store import DirectoryStore
from vaultd.vault import offline
from vaultd.vault.create import create
from vaultd.vault.embedded import Vault
from vaultd.vault.rotation import finish

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "vectors" / "golden" / "vault-v1"
DECODER = ROOT / "scripts" / "independent_decoder.py"
KEPT = "24301bf761f956ad7423e8d7924b7176bafefdccff5840ef7169cc607942c84e"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
SEALED = ROOT / "tests" / "vectors" / "golden" / "vault-v2"
"""A vault whose journal is sealed forward, and so one whose `state` is of version 2."""
KEPT_SEALED = "e642a8726940358f60082301b92cb05cdd08acc98659444aaf8ef6497a6ff9c9"


def copied(golden: Path, path: Path) -> Path:
    """A copy with the modes that a checkout does not keep."""
    shutil.copytree(golden / "vault", path)
    for item in [path, *path.rglob("*")]:
        item.chmod(0o700 if item.is_dir() else 0o600)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy with the modes that a checkout does not keep."""
    return copied(GOLDEN, tmp_path / "vault")


def digest_of(golden: Path) -> str:
    """Of every file's name and bytes."""
    whole = hashlib.sha256()
    for file in sorted(golden.rglob("*")):
        if file.is_file():
            whole.update(str(file.relative_to(golden)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def current_values() -> dict[tuple[str, str], tuple[int, str]]:
    """Version and SHA-256 of every secret's current value."""
    return {
        (tenant, name): (secret["current"], secret["versions"][str(secret["current"])]["sha256"])
        for tenant, secrets in EXPECTED["tenants"].items()
        for name, secret in secrets.items()
    }


def decode(path: Path, *arguments: str, passphrase: str = EXPECTED["passphrase"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DECODER), str(path), "--passphrase-file", "-", *arguments],
        input=passphrase,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def decoder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("independent_decoder", DECODER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("way", ["passphrase", "key file"])
def test_the_golden_vault_opens(path: Path, tmp_path: Path, way: str) -> None:
    """Both slots open it, and every version has the state, and every value the bytes, that it had."""
    (tmp_path / "key").write_bytes(bytes.fromhex(EXPECTED["key_file"]))
    how: dict[str, Any] = {"key_file": tmp_path / "key"}
    if way == "passphrase":
        how = {"passphrase": EXPECTED["passphrase"]}
    with Vault.open(path, clock=ManualClock(EXPECTED["wall"]), **how) as vault:
        assert vault.id == EXPECTED["vault"]
        assert vault.tenants() == sorted(EXPECTED["tenants"])
        for tenant, secrets in EXPECTED["tenants"].items():
            opened = vault.tenant(tenant)
            assert [info.name for info in opened.secrets()] == sorted(secrets)
            for name, expected in secrets.items():
                info = opened.history(name)
                assert (info.current, info.description, info.rotate_after) == (
                    expected["current"],
                    expected["description"],
                    expected["rotate_after"],
                )
                assert {str(v.number): v.state for v in info.versions} == {
                    number: version["state"] for number, version in expected["versions"].items()
                }
                for number, version in expected["versions"].items():
                    if version["sha256"] is not None:
                        with opened.reveal(name, int(number)) as value:
                            assert hashlib.sha256(value.view()).hexdigest() == version["sha256"]


@pytest.mark.parametrize(("golden", "kept"), [(GOLDEN, KEPT), (SEALED, KEPT_SEALED)], ids=["v1", "v2"])
def test_the_golden_vault_is_the_one_that_was_kept(golden: Path, kept: str) -> None:
    """What today's code would write instead is no fixture: the files are those of the day they were made, for ever."""
    assert digest_of(golden) == kept


def test_the_sealed_golden_vault(tmp_path: Path) -> None:
    """Its values, its seal under the first key, its seals under a slot's secret, and the decoder: all as they were."""
    path = copied(SEALED, tmp_path / "vault")
    expected = json.loads((SEALED / "expected.json").read_text())
    report = offline.verify(str(path), seal_key=bytearray(expected["seal_key"].encode()))
    assert report.ok
    assert report.seal is not None
    assert (report.seal.chain, report.seal.unsealed, report.seal.held) == (1, 0, True)
    assert report.seal.epochs > 3 * report.seal.tags
    assert offline.verify(str(path), checkpoint=expected["checkpoint"].encode()).ok
    secret = bytearray(expected["passphrase"].encode())
    checked = offline.check(str(path), secret=secret)
    assert (checked.problems, checked.notes) == ([], [])
    found = json.loads(decode(path, "--json").stdout)
    with Vault.open(path, clock=ManualClock(expected["wall"]), passphrase=expected["passphrase"]) as vault:
        for item in found["secrets"]:
            secret_ = expected["tenants"][item["tenant"]][item["secret"]]
            assert item["sha256"] == secret_["versions"][str(secret_["current"])]["sha256"]
            with vault.tenant(item["tenant"]).reveal(item["secret"]) as value:
                assert hashlib.sha256(value.view()).hexdigest() == item["sha256"]
        vault.create_tenant("later")
    assert offline.verify(str(path), seal_key=bytearray(expected["seal_key"].encode())).ok


@pytest.mark.parametrize("version", [3, 65_535])
@pytest.mark.parametrize("name", ["keyring", "state", "heads"])
def test_a_newer_version_of_it_is_refused(path: Path, name: str, version: int) -> None:
    """In whichever file it stands, whole in every other way, it is told from damage, and nothing is written."""
    file = path / name
    if name == "heads":
        files = sorted(path.glob("heads.*"))
        for one in files:
            one.write_bytes(b"vaultdHD" + version.to_bytes(2, "big") + one.read_bytes()[10:])
    elif name == "keyring":
        file.write_bytes(b"vaultdKR" + version.to_bytes(2, "big") + file.read_bytes()[10:])
    else:
        slots = [bytearray(file.read_bytes()[at : at + 512]) for at in (0, 512)]
        for slot in slots:
            slot[8:10] = version.to_bytes(2, "big")
            slot[480:] = keyed_hash(None, bytes(slot[:480]), person=b"vaultd.state.sum", size=32)
        file.write_bytes(b"".join(slots))
    before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file()}
    with pytest.raises((FormatVersion, IntegrityError)) as caught:
        Vault.open(path, clock=ManualClock(EXPECTED["wall"]), passphrase=EXPECTED["passphrase"])
    # The anchor vouches for the heads file by hash, which is looked at before what stands in it.
    assert name == "heads" or isinstance(caught.value, FormatVersion)
    after = {one: one.read_bytes() for one in path.rglob("*") if one.is_file() and one.name != "lock"}
    assert after == {one: data for one, data in before.items() if one.name != "lock"}


def test_the_golden_vault_checks_out(path: Path) -> None:
    """Every structure, seal, audit record and the kept checkpoint verify, and it can be written on."""
    secret = bytearray(EXPECTED["passphrase"].encode())
    report = offline.check(str(path), secret=secret)
    assert (report.problems, report.notes) == ([], [])
    assert report.values > 8
    assert offline.verify(str(path), checkpoint=EXPECTED["checkpoint"].encode()).ok
    with DirectoryStore(path) as store:
        world = BarrierWorld(store, secret=bytes(secret), clock=ManualClock(EXPECTED["wall"]))
        keyring = world.barrier.ledger.keyring
        assert parse(EXPECTED["checkpoint"], keyring.checkpoint_public).vault_id == keyring.vault_id
        assert list(world.barrier.grants("acme").values()) == EXPECTED["grants"]["acme"]
        assert list(world.barrier.services()) == ["agent"]
        assert list(world.barrier.runs()) == ["run_golden"]
        deleted = [facts.name for facts in world.barrier.tenants(deleted=True) if facts.state == "deleted"]
        assert deleted == EXPECTED["deleted"]
        world.rotate_root()
        world.rotate_tenant("acme")
        world.put("acme", "openai/prod", b"sk-new")
        assert world.reopen().get("acme", "openai/prod") == b"sk-new"


def test_the_decoder_reads_the_golden_vault(path: Path, tmp_path: Path) -> None:
    """A second reader, written from the specifications alone, finds the same names and values."""
    done = decode(path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["vault"], found["tenants"]) == (EXPECTED["vault"], sorted(EXPECTED["tenants"]))
    assert {
        (item["tenant"], item["secret"]): (item["version"], item["sha256"]) for item in found["secrets"]
    } == current_values()
    key = tmp_path / "key"
    key.write_bytes(bytes.fromhex(EXPECTED["key_file"]))
    command = [sys.executable, str(DECODER), str(path), "--key-file", str(key), "--json"]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout) == found


def test_the_decoder_exports_files(path: Path, tmp_path: Path) -> None:
    """`--out` writes each value to a file of mode 0600, and overwrites nothing."""
    out = tmp_path / "out"
    assert decode(path, "--out", str(out)).returncode == 0
    written = {(file.parent.name, file.name): file for file in out.rglob("*") if file.is_file()}
    values = current_values()
    assert set(written) == {(tenant, name.replace("/", "%2F")) for tenant, name in values}
    for (tenant, name), (_, digest) in values.items():
        file = written[tenant, name.replace("/", "%2F")]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
        assert file.stat().st_mode & 0o777 == 0o600
    assert decode(path, "--out", str(out)).returncode == 74


def test_the_decoder_knows_nothing_of_vaultd() -> None:
    """It imports nothing of ours, so what it reads it reads from the specifications."""
    script = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "try: runpy.run_path(sys.argv_path, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('vaultd', 'vaultclient', 'nacl', 'argon2')])"
    ).replace("sys.argv_path", repr(str(DECODER)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_decoder_reads_a_fresh_vault(tmp_path: Path, decoder: ModuleType) -> None:
    """What today's code writes, rotations and deletions included, reads the same through the specifications."""
    with DirectoryStore(tmp_path / "vault", create=True) as empty:
        with SecretBytes.copy_of(b"pw") as given:
            create(
                empty,
                ManualClock(),
                secret=given,
                kind=SlotKind.PASSPHRASE,
                label="",
                admin_uids=[1],
                actor=ADMIN,
                profile=CHEAPEST,
            )
        world = BarrierWorld(empty, secret=b"pw")
        with SecretBytes.copy_of(b"c" * 32) as given:
            world.barrier.add_slot(world.barrier.slot_maker(given, SlotKind.CREDENTIAL, "")(), actor=ADMIN)
        expected = {}
        for name in ("acme", "beta"):
            world.tenant(name)
            for number in range(20):
                for value in (b"first", os.urandom(number * 50 + 1)):
                    world.put(name, f"k/{number}", value)
                    expected[name, f"k/{number}"] = value
        world.rotate_tenant("acme")
        world.put("acme", "k/3", b"after")
        expected["acme", "k/3"] = b"after"
        for name in ("large/moved", "large/back", "large/new"):
            if name == "large/new":
                world.rotate_tenant("acme")  # the first two are restated, with their keys wrapped anew
            expected["acme", name] = os.urandom((1 << 20) + 1000)
            world.put("acme", name, expected["acme", name])
        world.put("acme", "large/back", b"small")
        world.barrier.rollback("acme", secret_name("large/back"), 1, actor=ADMIN)
        world.rotate_root()
        world.barrier.delete_tenant("beta", actor=ADMIN)
        world.flush()
        # Not sealed, not closed: as a power cut would leave it.
        shutil.copytree(tmp_path / "vault", tmp_path / "copy")
        world.barrier.close()
    for directory, secret in (("vault", (b"pw", 1)), ("copy", (b"pw", 1)), ("copy", (b"c" * 32, 3))):
        _, names, values = decoder.decode(str(tmp_path / directory), *secret)
        assert names == ["acme"]
        found = {(item.tenant, item.secret): b"".join(item.pieces()) for item in values}
        assert found == {key: value for key, value in expected.items() if key[0] == "acme"}


def digests(decoded: tuple[bytes, list[str], list[Any]]) -> tuple[bytes, list[str], list[tuple[str, str, int, str]]]:
    """What was decoded, every value opened."""
    vault, names, values = decoded
    return vault, names, [(item.tenant, item.secret, item.version, item.digest()) for item in values]


def test_the_decoder_refuses_what_does_not_fit(path: Path, decoder: ModuleType) -> None:
    """A wrong secret, and a changed byte anywhere in what counts, stop it; it never returns other values."""
    with pytest.raises(decoder.DoesNotFit, match="no key slot"):
        decoder.decode(str(path), b"wrong", 1)
    secret = EXPECTED["passphrase"].encode()
    good = decoder.decode(str(path), secret, 1)
    for file in sorted(path.rglob("*")):
        if file.is_dir() or file.name.startswith("heads"):  # the snapshot only spares reading the journal
            continue
        data = file.read_bytes()
        for at in (0, 9, len(data) // 3, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:
                found = decoder.decode(str(path), secret, 1)
            except (decoder.DoesNotFit, ValueError, KeyError, OSError):
                continue
            # One torn anchor of two counts as what a crash leaves: then the other one speaks, and of the same state.
            assert file.name == "state"
            assert digests(found) == digests(good)
        file.write_bytes(data)


# -- the same, with a journal of several segments


LATER = {
    "segments": "1331e7ca5b3204434ebe3d9ded119e3a99319f8443076fc47377ad350a51894d",
    "pruned": "7d9ed4b01f08285114e108ae5d904d6b3df800a09e6c36a85c0a61b2b9be823a",
}


@pytest.mark.parametrize("name", LATER)
def test_golden_journals_of_several_segments(tmp_path: Path, name: str) -> None:
    """Whole and pruned, they are as they were kept, open, verify, read the same through the decoder, and go on."""
    golden = Path(f"{GOLDEN}-{name}")
    assert digest_of(golden) == LATER[name]
    expected = json.loads((golden / "expected.json").read_text())
    path = copied(golden, tmp_path / "vault")
    secret = bytearray(expected["passphrase"].encode())
    report = offline.check(str(path), secret=secret)
    assert (report.problems, report.notes) == ([], [])
    verified = offline.verify(str(path), checkpoint=expected["checkpoint"].encode())
    assert verified.ok, verified
    assert verified.begins == expected["begins"]
    script = [sys.executable, str(ROOT / "scripts" / "verify_audit.py"), str(path)]
    assert verified.verdict.head.hex() in subprocess.run(script, capture_output=True, text=True, check=True).stdout
    done = decode(path, "--json", passphrase=expected["passphrase"])
    assert done.returncode == 0, done.stderr
    found = {(item["tenant"], item["secret"]): item["sha256"] for item in json.loads(done.stdout)["secrets"]}
    assert found == {
        (tenant, secret): facts["versions"][str(facts["current"])]["sha256"]
        for tenant, secrets in expected["tenants"].items()
        for secret, facts in secrets.items()
    }
    with DirectoryStore(path) as store:
        world = BarrierWorld(store, secret=bytes(secret), clock=ManualClock(expected["wall"]))
        assert sorted(world.values()) == sorted(expected["tenants"])
        before = len(world.bodies("acme"))
        world.barrier.prune(finish(world.barrier.plan_pruning(world.barrier.checkpoint())), actor=ADMIN)
        world.flush()
        world = world.reopen()
        assert len(world.bodies("acme")) < before
        world.barrier.close()
    assert offline.verify(str(path), checkpoint=expected["checkpoint"].encode()).ok
