"""The audit's golden file: the generator still makes it, a second reader agrees, and FORMAT.md shows its bytes."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaultd.audit.chain import verify
from vaultd.audit.checkpoint import parse
from vaultd.audit.reader import TrailReader
from vaultd.audit.verify import verify_export
from vaultd.crypto.memory import Key
from vaultd.crypto.primitives import x25519_public

if TYPE_CHECKING:
    from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "audit.json").read_text())
LINES = [line["line"].encode() for line in GOLDEN["lines"]]
VAULT = bytes.fromhex(GOLDEN["vault_id"])


def test_generator_makes_the_committed_file() -> None:
    """The generator, with its fixed randomness, still makes exactly the committed bytes."""
    script = REPOSITORY / "scripts" / "make_golden_audit.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_our_readers_accept_it() -> None:
    """Chain, export, checkpoint and both trails read back as the file says."""
    verdict = verify(LINES)
    assert verdict.ok
    point = parse(GOLDEN["checkpoint"], bytes.fromhex(GOLDEN["checkpoint_public"]))
    assert (point.vault_id, point.size, point.head) == (VAULT, verdict.seq, verdict.head)
    assert verify_export([line.encode() for line in GOLDEN["export"]]).seq == 2
    for uid, private in GOLDEN["audit_private"].items():
        with Key.copy_of(bytes.fromhex(private)) as secret:
            reader = TrailReader(VAULT, bytes.fromhex(uid), x25519_public(secret), secret)
            records = list(reader.records([(line, 0) for line in LINES]))
        ours = [line for line in GOLDEN["lines"] if (json.loads(line["line"])["tenant"] or "0" * 32) == uid]
        assert [record and record.body for record in records] == [line["body"] for line in ours]


def test_a_second_reader_opens_it(second: SimpleNamespace) -> None:
    """Written from FORMAT.md over `hashlib` and `cryptography`: chain, sub-chains, boxes and bodies all come out."""
    head, sub_heads, session_keys = bytes(32), dict[bytes, bytes](), dict[int, bytes]()
    for raw, step in zip(LINES, GOLDEN["lines"], strict=True):
        line: dict[str, Any] = json.loads(raw)
        head = hashlib.sha256(head + hashlib.sha256(raw[:-76] + b"}").digest()).digest()
        assert line["hash"] == head.hex()
        uid = bytes.fromhex(line["tenant"] or "0" * 32)
        body = json.dumps(line.get("body"), separators=(",", ":"), sort_keys=True).encode()
        if "session" in line:
            aad = second.context("audit.session", VAULT, uid, line["seq"])
            private = bytes.fromhex(GOLDEN["audit_private"][uid.hex()])
            session_keys[line["seq"]] = second.open_box(private, aad, b64decode(line["session"]))
            assert session_keys[line["seq"]].hex() == step["session_key"]
        if "sealed" in line:
            aad = second.context("audit.body", VAULT, uid, line["seq"], line["key"])
            nonce = bytes(16) + line["seq"].to_bytes(8, "big")
            padded = second.open_sealed(session_keys[line["key"]], aad, nonce + b64decode(line["sealed"]))
            assert len(padded) == step["padded_size"]
            body = padded[4 : 4 + int.from_bytes(padded[:4], "big")]
            assert not any(padded[4 + len(body) :])
        assert body.decode() == step["body"]
        sub_heads[uid] = hashlib.sha256(sub_heads.get(uid, bytes(32)) + hashlib.sha256(body).digest()).digest()
        assert line["sub"]["head"] == sub_heads[uid].hex()


def test_specification_shows_the_golden_bytes() -> None:
    """Every example in FORMAT.md is the golden file's."""
    text = (REPOSITORY / "vaultd" / "audit" / "FORMAT.md").read_text()
    blocks = re.findall(r"^```text (\d )?(\w+)\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 10
    for number, name, shown in blocks:
        value = GOLDEN["lines"][int(number) - 1][name] if number else GOLDEN[name]
        if isinstance(value, dict):
            value = value[GOLDEN["tenant_uid"]]
        assert shown.replace("\n", "") == value.replace("\n", ""), name
    assert GOLDEN["checkpoint_public"] in text
