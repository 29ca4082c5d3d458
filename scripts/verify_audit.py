#!/usr/bin/env python3
"""Check the hash chain of a vaultd journal, or of a tenant's export, with Python's standard library alone.

usage: verify_audit.py [--seal-key-file FILE] VAULT-DIRECTORY | EXPORT-FILE   (the rules: vaultd/audit/FORMAT.md)

Names the first bad line and exits 1. Without a key nobody can see that a chain was rewritten whole or cut at its end:
compare the size and head printed here with a checkpoint kept elsewhere, or give the first seal key: then every tag of
its seal chain is checked with its own epoch's key, and the vault's file `seal`, if it is there, against the last.
"""

import hashlib
import json
import pathlib
import re
import sys
from typing import Any

JOURNAL = re.compile(rb'(\{"v":[0-9]+,"seq":([0-9]+),.*),"hash":"([0-9a-f]{64})"\}\n')
EXPORT = re.compile(rb'\{"body":(\{.*"tseq":([0-9]+)[,}].*),"hash":"([0-9a-f]{64})"\}\n')
SEGMENT = re.compile(r"([0-9]{6}|[1-9][0-9]{6,8})\.jsonl")  # in the one spelling that a journal gives


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def header(path: pathlib.Path) -> dict:
    with path.open("rb") as lines:
        return json.loads(lines.readline())


def check(path, form: re.Pattern, end: bytes, number: int, head: bytes, skip: int = 0, seal: Any = None) -> tuple:
    """Walk a file's lines on from record `number` with hash `head`."""
    with path.open("rb") as lines:
        for place, line in enumerate(lines, 1):
            if place > skip:
                found = form.fullmatch(line)
                number += 1
                if not found or int(found[2]) != number:
                    sys.exit(f"{path}: line {place} is bad: not record {number}")
                before, head = head, sha256(head + sha256(found[1] + end))
                if head.hex().encode() != found[3]:
                    sys.exit(f"{path}: line {place} is bad: its hash does not follow from it and the line before")
                if seal and (place == 1 or line.startswith(b'{"v":2,')):
                    seal.take(f"{path}: line {place}", json.loads(line), before)
    return number, head


def main(path: pathlib.Path, seal: Any = None) -> str:
    number, head = 0, bytes(32)
    if path.is_dir():
        files = {int(file.stem): file for file in (path / "audit").iterdir() if SEGMENT.fullmatch(file.name)}
        last, texts = max(files, default=1), {n: file.with_suffix(".base") for n, file in sorted(files.items())}
        bases = [1, *(n for n, text in texts.items() if text.exists() and header(text)["segment"] == n)]
        # What begins earliest and has no gap: a base behind that is of a pruning that was not finished, or forged.
        whole = [n for n in bases if sum(n <= m for m in files) == last - n + 1]
        first = whole[0] if whole else bases[-1]
        if first != 1:
            base = header(texts[first])
            number, head = base["seq"], bytes.fromhex(base["head"])
        for segment in range(first, last + 1):
            if segment not in files:
                sys.exit(f"{path / 'audit' / f'{segment:06d}.jsonl'} is missing")
            number, head = check(files[segment], JOURNAL, b"}", number, head, seal=seal)
    elif (export := header(path)).get("format") == "vaultd audit export":
        number, head = check(path, EXPORT, b"", export["after"], bytes.fromhex(export["prev"]), 1)
    else:
        number, head = check(path, JOURNAL, b"}", number, head)
    said = f"{path}: all records to {number} follow; head {head.hex()}"
    return said + (f"\nsealed up to line {seal.tag}{seal.hold(path / 'seal')}" if seal else "")


if __name__ == "__main__":
    seal = None
    if sys.argv[1:2] == ["--seal-key-file"] and len(sys.argv) == 4:
        from verify_seal import Seal

        seal = Seal(pathlib.Path(sys.argv.pop(2)).read_bytes())
        del sys.argv[1]
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(main(pathlib.Path(sys.argv[1]), seal))
