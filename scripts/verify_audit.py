#!/usr/bin/env python3
"""Check the hash chain of a vaultd journal, or of a tenant's export, with Python's standard library alone.

usage: verify_audit.py VAULT-DIRECTORY | EXPORT-FILE      (the rules are in vaultd/audit/FORMAT.md)

Names the first bad line and exits 1. Without a key nobody can see that a chain was rewritten whole or cut at its end:
compare the size and head printed here with a checkpoint kept elsewhere.
"""

import hashlib
import json
import pathlib
import re
import sys

SEGMENT = re.compile(r"[0-9]{6,}\.jsonl")
JOURNAL = re.compile(rb'(\{"v":[0-9]+,"seq":([0-9]+),.*),"hash":"([0-9a-f]{64})"\}\n')
EXPORT = re.compile(rb'\{"body":(\{.*"tseq":([0-9]+)[,}].*),"hash":"([0-9a-f]{64})"\}\n')


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def segments(folder: pathlib.Path) -> tuple[list[pathlib.Path], int, bytes]:
    """The journal's files in order, and number and hash of the line before the first: a pruned journal says them."""
    files = sorted(file for file in folder.iterdir() if SEGMENT.fullmatch(file.name))
    bases = [file for file in files if file.with_suffix(".base").exists()]
    first = int(files[0].stem) if files else 1
    number, head = 0, bytes(32)
    if first != 1 and bases:
        # Files before it are what a pruning left that was interrupted.
        with bases[-1].with_suffix(".base").open("rb") as lines:
            base = json.loads(lines.readline())
        first, number, head = base["segment"], base["seq"], bytes.fromhex(base["head"])
    else:
        first = 1
    files = [file for file in files if int(file.stem) >= first]
    for place, file in enumerate(files, first):
        if int(file.stem) != place:
            sys.exit(f"{folder}: segment {place:06d}.jsonl is missing")
    if not files:
        sys.exit(f"{folder}: there is no journal")
    return files, number, head


def main(path: pathlib.Path) -> str:
    if path.is_dir():
        files, number, head = segments(path / "audit")
        for source in files:
            number, head = check(source, JOURNAL, b"}", number, head, 1)
        return f"{path}: all records to {number} follow; head {head.hex()}"
    with path.open("rb") as lines:
        header = json.loads(lines.readline())
    if header.get("format") != "vaultd audit export":
        number, head = check(path, JOURNAL, b"}", 0, bytes(32), 1)
    else:
        number, head = check(path, EXPORT, b"", header["after"], bytes.fromhex(header["prev"]), 2)
    return f"{path}: all records to {number} follow; head {head.hex()}"


def check(
    source: pathlib.Path, form: re.Pattern[bytes], end: bytes, number: int, head: bytes, first: int
) -> tuple[int, bytes]:
    """Walk the lines of a file from its line `first` on; returns the last one's number and hash."""
    with source.open("rb") as lines:
        for place, line in enumerate(lines, 1):
            if place < first:
                continue
            found = form.fullmatch(line)
            number += 1
            if not found or int(found[2]) != number:
                sys.exit(f"{source}: line {place} is bad: not record {number}")
            head = sha256(head + sha256(found[1] + end))
            if head.hex().encode() != found[3]:
                sys.exit(f"{source}: line {place} is bad: its hash does not follow from it and the line before")
    return number, head


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(main(pathlib.Path(sys.argv[1])))
