"""The vault in one's own process: the contract's six lines, on a real directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import vaultd
from vaultd.audit.segments import SegmentLimits
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.errors import (
    ConfigError,
    Conflict,
    Exists,
    IntegrityError,
    Invalid,
    Locked,
    NotFound,
    StoreError,
    Uninitialised,
    WrongSecret,
)
from vaultd.vault import embedded, offline
from vaultd.vault.embedded import Vault
from vaultd.vault.given import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORDS = "correct horse battery staple"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Vault.create(tmp_path / "vault", passphrase=WORDS, profile=CHEAPEST, clock=ManualClock())
    return tmp_path / "vault"


def opened(path: Path, passphrase: object = WORDS) -> Vault:
    return Vault.open(path, passphrase=passphrase, minimum=CHEAPEST, clock=ManualClock())  # type: ignore[arg-type]


def test_the_package_s_name_is_the_class() -> None:
    """`from vaultd import Vault` is this very class."""
    assert vaultd.Vault is Vault


@pytest.mark.parametrize(
    "ask",
    [WORDS, WORDS.encode(), bytearray(WORDS.encode()), lambda: WORDS, lambda: bytearray(WORDS.encode())],
    ids=["str", "bytes", "bytearray", "function to str", "function to bytearray"],
)
def test_the_six_lines(path: Path, ask: object) -> None:
    """Put and get through the documented lines, with every kind of passphrase; what was put is there next time."""
    with opened(path, ask) as vault:
        acme = vault.create_tenant("acme")
        assert acme.put("openai/prod", "sk-live") == 1
        assert acme.get("openai/prod") == b"sk-live"
    with opened(path) as vault:
        assert vault.tenants() == ["acme"]
        assert vault.tenant("acme").get("openai/prod") == b"sk-live"


def test_a_key_file_opens_it(tmp_path: Path) -> None:
    """A key file works in the passphrase's place; both or neither is an error, an absent file too."""
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    report = Vault.create(tmp_path / "vault", key_file=key)
    with Vault.open(tmp_path / "vault", key_file=key) as vault:
        assert vault.id == report.vault_id.hex()
    for options in ({}, {"key_file": key, "passphrase": "x"}):
        with pytest.raises(Invalid):
            Vault.open(tmp_path / "vault", **options)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="no such file"):
        Vault.open(tmp_path / "vault", key_file=tmp_path / "absent")
    with pytest.raises(Invalid):
        Vault.open(tmp_path / "vault", passphrase=lambda: 7)  # type: ignore[arg-type, return-value]
    Vault.open(tmp_path / "vault", key_file=key).close()


def test_a_credential_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential of this process's unit works by its name, as a kind of its own; else an error."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "vault").write_bytes(bytes(range(64)))
    (folder / "short").write_bytes(bytes(31))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    report = Vault.create(tmp_path / "vault", credential="vault")
    with Vault.open(tmp_path / "vault", credential="vault") as vault:
        assert vault.id == report.vault_id.hex()
    with pytest.raises(WrongSecret):
        Vault.open(tmp_path / "vault", key_file=folder / "vault")
    for name in ("", "..", "a/b", "../credentials/vault", "a\0b"):
        with pytest.raises(Invalid, match="name"):
            Vault.open(tmp_path / "vault", credential=name)
    for name, words in (("absent", "no such file"), ("short", "32 to 4096")):
        with pytest.raises(ConfigError, match=words):
            Vault.open(tmp_path / "vault", credential=name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match="handed none over"):
        Vault.open(tmp_path / "vault", credential="vault")
    with pytest.raises(Invalid, match="exactly one"):
        Vault.open(tmp_path / "vault", credential="vault", passphrase="x")


def test_what_names_the_secret_does_not_show_it() -> None:
    """The text form of what was given has no passphrase in it."""
    assert WORDS not in repr(Source(passphrase=WORDS))


def test_the_whole_life_of_a_secret(path: Path) -> None:
    """Every method of a tenant does what its barrier's verb does."""
    with opened(path) as vault:
        acme = vault.create_tenant("acme")
        acme.put("k", b"one", description="first", rotate_after=60)
        acme.put("k", bytearray(b"two"), cas=1)
        with pytest.raises(Conflict):
            acme.put("k", b"x", cas=1)
        assert acme.rollback("k", 1) == 3
        acme.destroy("k", 2)
        acme.set_metadata("k", description="later")
        info = acme.history("k")
        assert (info.current, info.description, info.rotate_after) == (3, "later", 60)
        assert [(v.number, v.state) for v in info.versions] == [(1, "previous"), (2, "destroyed"), (3, "current")]
        assert acme.secrets() == [info]
        acme.rotate()
        vault.rotate_root()
        with acme.reveal("k", 1) as value:
            assert value == b"one"
        acme.delete("k")
        for call in (lambda: acme.get("k"), lambda: acme.history("k"), lambda: vault.tenant("nobody")):
            with pytest.raises(NotFound):
                call()


def test_another_process_is_told_who_has_it(path: Path) -> None:
    """While a process has the vault, another one's opening is `Locked`, with its pid and what to do instead."""
    script = "import sys; from vaultd import Vault; Vault.open(sys.argv[1], passphrase=lambda: 1/0)"
    with opened(path):
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
        assert "Locked" in done.stderr
        assert f"process {os.getpid()} " in done.stderr
        with pytest.raises(Locked) as caught:
            opened(path)
    assert "daemon" in caught.value.hint
    opened(path).close()


def test_a_wrong_passphrase_opens_nothing_and_is_recorded(path: Path) -> None:
    """It is `WrongSecret`, leaves the directory free, and a record for whoever opens it next."""
    for _ in range(2):
        with pytest.raises(WrongSecret):
            opened(path, "wrong")
    with opened(path) as vault:
        trail = [json.loads(record.body) for record in vault._barrier.trail(bytes(16)) if record is not None]
    tries = [(body["outcome"], body.get("reason")) for body in trail if body["kind"] == "vault.unseal"]
    assert tries == [("failed", "wrong_secret")] * 2 + [("ok", None)]


def test_everything_is_recorded_as_embedded(path: Path) -> None:
    """The actor of every record is `embedded` with this uid and pid; a value read is a record with its version."""
    with opened(path) as vault:
        acme = vault.create_tenant("acme")
        acme.put("k", b"v")
        acme.get("k")
        uid = vault._barrier.uid("acme")
        trail = [json.loads(record.body) for record in vault._barrier.trail(uid) if record is not None]
    assert [body["kind"] for body in trail] == ["tenant.create", "secret.put", "secret.get"]
    assert all(body["actor"]["kind"] == "embedded" for body in trail)
    assert all((body["actor"]["uid"], body["actor"]["pid"]) == (os.getuid(), os.getpid()) for body in trail)
    assert (trail[-1]["secret"], trail[-1]["version"]) == ("k", 1)


def test_deleting_a_tenant_gives_its_receipt(path: Path) -> None:
    """The receipt says what is gone; the name is free."""
    with opened(path) as vault:
        vault.create_tenant("acme").put("k", b"v")
        receipt = vault.delete_tenant("acme", with_audit=True)
        assert (receipt.secrets, receipt.audit) == (1, "unreadable")
        vault.create_tenant("acme")
        assert vault.checkpoint().startswith(f"vaultd/{vault.id}\n")


def test_much_rewriting_is_compacted(path: Path) -> None:
    """A secret that is rewritten with large values does not make the directory grow without bound."""
    with opened(path) as vault:
        acme = vault.create_tenant("acme")
        for number in range(60):
            acme.put("k", bytes([number]) * 200_000)
        assert acme.get("k") == bytes([59]) * 200_000
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size < 60 * 200_000 * 0.75


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.chmod(0o755), ConfigError),
        (lambda path: (path / "keyring").chmod(0o644), ConfigError),
        (lambda path: (path / "state").write_bytes(bytes(1024)), IntegrityError),
        (lambda path: (path / "keyring").unlink(), IntegrityError),
        (lambda path: (path / "audit" / "000001.jsonl").unlink(), IntegrityError),
    ],
    ids=["open directory", "open file", "no anchor", "no keyring", "no journal"],
)
def test_a_spoilt_directory_is_refused(path: Path, spoil: Callable[[Path], object], error: type[Exception]) -> None:
    """What is wrong with the directory is said before the passphrase is asked for."""
    spoil(path)
    with pytest.raises(error):
        Vault.open(path, passphrase=lambda: pytest.fail("asked for the passphrase"), minimum=CHEAPEST)


def test_cheap_slots_are_refused_unless_asked_for(path: Path) -> None:
    """A slot cheaper than the floor is taken for tampering, and nothing is derived from the passphrase."""
    with pytest.raises(IntegrityError, match="below the accepted minimum"):
        Vault.open(path, passphrase=WORDS)


def test_creating_twice_is_refused(path: Path, tmp_path: Path) -> None:
    """A directory with a vault, or with anything else, is left as it is; an absent one is no vault."""
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock"}
    with pytest.raises(Exists):
        Vault.create(path, passphrase="x", profile=CHEAPEST)
    assert before == {file: file.read_bytes() for file in before}
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "other" / "thesis.tex").write_bytes(b"precious")
    with pytest.raises(Exists):
        Vault.create(tmp_path / "other", passphrase="x", profile=CHEAPEST)
    assert (tmp_path / "other" / "thesis.tex").read_bytes() == b"precious"
    with pytest.raises(Uninitialised):
        opened(tmp_path / "absent")


def test_names_are_checked(path: Path) -> None:
    """Tenants' and secrets' names outside the grammar are `Invalid`, wherever they come in."""
    with opened(path) as vault:
        for name in ("ACME", "a/b", "root", "x" * 65, "a\n"):
            with pytest.raises(Invalid):
                vault.create_tenant(name)
        acme = vault.create_tenant("acme")
        for name in ("", "../x", "A", "a//b", "a" * 65):
            with pytest.raises(Invalid):
                acme.put(name, b"v")


def test_pruning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments end in one's own process as in the daemon, and go by a checkpoint; it opens and verifies afterwards."""
    monkeypatch.setattr(embedded, "DEFAULT", SegmentLimits(size=4_000))
    with opened(path) as vault:
        acme = vault.create_tenant("acme")
        for number in range(9):
            acme.put(f"key/{number}", b"v")
        signed = vault.checkpoint()
        assert vault.prune(signed) > 0
        assert vault.prune(signed) == 0
        with pytest.raises(IntegrityError):
            vault.prune("not a checkpoint")
    assert offline.verify(str(path), checkpoint=signed.encode()).begins > 1
    with opened(path) as vault:
        assert len(vault.tenant("acme").secrets()) == 9
