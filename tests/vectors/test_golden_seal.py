"""The forward seal's golden file: the generator still makes it, two readers agree, and FORMAT.md shows its bytes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.support.seal_world import write_vault
from vaultd.audit.chain import decode, parse
from vaultd.audit.sealslots import choose
from vaultd.audit.tags import Tag
from vaultd.errors import IntegrityError
from vaultd.vault import offline

if TYPE_CHECKING:
    from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "audit-sealed.json").read_text())
LINES = [line["line"].encode() for line in GOLDEN["lines"]]
STATE = bytes.fromhex(GOLDEN["state"])
KEPT = "3421eedb5c27c6e9b0bffcae864e17100a5b583493f6fc4bad9326f1c21069fb"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checker() -> SimpleNamespace:
    """`scripts/verify_audit.py` and its `verify_seal.py`, written from FORMAT.md over `hashlib` alone."""
    return SimpleNamespace(main=_script("verify_audit").main, Seal=_script("verify_seal").Seal)


def test_the_file_is_the_one_that_was_kept() -> None:
    """Journals sealed on the day it was made verify for ever: neither the file nor what makes it has changed."""
    path = REPOSITORY / "tests" / "vectors" / "golden" / "audit-sealed.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == KEPT
    done = run(REPOSITORY / "scripts" / "make_golden_seal.py", "--check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [1, 2])
def test_both_readers_verify_it(tmp_path: Path, checker: SimpleNamespace, number: int) -> None:
    """Ours and the independent one follow every tag of either chain with its first key, and find the state to fit."""
    write_vault(tmp_path, LINES, STATE)
    key = GOLDEN[f"first_key_{number}"].encode()
    report = offline.verify(str(tmp_path), seal_key=bytearray(key))
    assert report.ok
    assert report.seal is not None
    assert (report.seal.over, report.seal.held) == (number == 1, number == 2)
    assert f"sealed up to line {report.seal.sealed}" in checker.main(tmp_path, checker.Seal(key))
    assert checker.main(tmp_path).endswith(LINES[-1][-67:-3].decode())


def test_slots_that_do_not_follow_each_other_are_refused_by_both(tmp_path: Path, checker: SimpleNamespace) -> None:
    """One of the state's two slots is from another time than its neighbour."""
    slots = [bytearray(STATE[at : at + 512]) for at in (0, 512)]
    newest = max(slots, key=lambda slot: slot[32:40])
    newest[32:40] = (int.from_bytes(newest[32:40], "big") + 2).to_bytes(8, "big")
    newest[480:] = hashlib.blake2b(newest[:480], digest_size=32, person=b"vaultd.seal.sum").digest()
    write_vault(tmp_path, LINES, b"".join(slots))
    key = GOLDEN["first_key_2"].encode()
    with pytest.raises(IntegrityError, match="do not follow each other"):
        offline.verify(str(tmp_path), seal_key=bytearray(key))
    with pytest.raises(SystemExit, match="do not follow each other"):
        checker.main(tmp_path, checker.Seal(key))


def test_the_script_as_people_run_it(tmp_path: Path) -> None:
    """It imports nothing of ours; a good key and a wrong one have their exit status."""
    write_vault(tmp_path / "v", LINES, STATE)
    for key, status in ((GOLDEN["first_key_2"], 0), (GOLDEN["first_key_2"].replace("a", "b"), 1)):
        (tmp_path / "key").write_text(key + "\n")
        script = REPOSITORY / "scripts" / "verify_audit.py"
        done = run(script, "--seal-key-file", tmp_path / "key", tmp_path / "v")
        assert done.returncode == status, done.stderr
    for name in ("verify_audit.py", "verify_seal.py"):
        assert "import vaultd" not in (REPOSITORY / "scripts" / name).read_text()


def test_every_step_is_what_the_file_says() -> None:
    """Key, proof, message and tag of each tag line, from `hashlib` and the first keys alone."""

    def b(person: bytes, data: bytes, key: bytes) -> bytes:
        return hashlib.blake2b(data, key=key, person=person, digest_size=32).digest()

    keys = {n: bytes.fromhex(GOLDEN[f"first_key_{n}"].split(":")[1]) for n in (1, 2)}
    assert b(b"vaultd.seal.id", b"", keys[2]).hex() == GOLDEN["identity_2"]
    for step in GOLDEN["lines"]:
        if "chain" not in step:
            continue
        key, proof = keys[step["chain"]], bytes(32)
        for _ in range(step["from"], step["to"]):
            proof, key = b(b"vaultd.seal.idle", proof, key), b(b"vaultd.seal.next", b"", key)
        assert (key.hex(), proof.hex()) == (step["key"], step["proof"])
        assert b(b"vaultd.seal.tag", bytes.fromhex(step["message"]), key).hex() == step["tag"]
        assert f'"tag":"{step["tag"]}"' in step["line"]
        keys[step["chain"]] = b(b"vaultd.seal.next", b"", key)
    with choose([bytearray(STATE[:512]), bytearray(STATE[512:])]).chain as state:
        assert (state.chain, state.first, state.key.epoch, state.tag_seq) == (2, 1, 3, len(LINES))


def test_any_changed_byte_is_found_by_both(tmp_path: Path, checker: SimpleNamespace) -> None:
    """Each byte of each tag line, and of the newest slot, in turn."""
    write_vault(tmp_path, LINES, STATE)
    key = GOLDEN["first_key_2"].encode()
    for number, raw in enumerate(LINES):
        if not isinstance(parse(raw), Tag):
            continue
        for at in range(0, len(raw), 3):
            changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            write_vault(tmp_path, [*LINES[:number], changed, *LINES[number + 1 :]], STATE)
            assert not offline.verify(str(tmp_path), seal_key=bytearray(key)).ok
            with pytest.raises((SystemExit, ValueError)):
                checker.main(tmp_path, checker.Seal(key))
    for at in range(0, 1024, 7):
        write_vault(tmp_path, LINES, STATE[:at] + bytes([STATE[at] ^ 1]) + STATE[at + 1 :])
        # One slot is torn then, the other counts: here the older speaks of the same tag line and epoch.
        assert offline.verify(str(tmp_path), seal_key=bytearray(key)).ok
        checker.main(tmp_path, checker.Seal(key))


def test_a_wrong_key_is_refused_by_both(tmp_path: Path, checker: SimpleNamespace) -> None:
    """The other chain's key under this one's number, a mistyped one, and one of a chain that is not there."""
    write_vault(tmp_path, LINES, STATE)

    def text(number: int, of: int) -> bytes:
        head = f"seal{number}:{GOLDEN[f'first_key_{of}'].split(':')[1]}".encode()
        checksum = hashlib.blake2b(head, person=b"vaultd.seal.key", digest_size=16).digest()[:4]
        return head + b":" + checksum.hex().encode()

    assert text(1, 1) == GOLDEN["first_key_1"].encode()
    for wrong in (text(1, 2), text(2, 1), text(3, 1), text(1, 1)[:-1] + b"x", text(1, 1).replace(b"seal1", b"seal2")):
        with pytest.raises(SystemExit):
            checker.main(tmp_path, checker.Seal(wrong))
        try:
            assert not offline.verify(str(tmp_path), seal_key=bytearray(wrong)).ok
        except IntegrityError as error:
            assert "seal key" in error.message  # noqa: PT017  either way it is refused


def test_records_are_still_of_version_1() -> None:
    """Everything but the tag lines is spelled as before there was a seal."""
    for raw in LINES:
        if raw.startswith(b'{"v":1,'):
            decode(raw)
        else:
            assert isinstance(parse(raw), Tag)
            with pytest.raises(IntegrityError, match="tag line"):
                decode(raw)


def test_specification_shows_the_golden_bytes() -> None:
    """Every example of the seal in FORMAT.md is the golden file's."""
    text = (REPOSITORY / "vaultd" / "audit" / "FORMAT.md").read_text()
    blocks = re.findall(r"^```sealed (\d )?(\w+)\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 9
    for number, name, shown in blocks:
        value = GOLDEN["lines"][int(number) - 1][name] if number else GOLDEN[name]
        assert shown.replace("\n", "") == value.replace("\n", ""), name
