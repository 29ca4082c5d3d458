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

JOURNAL = re.compile(rb'(\{"v":[0-9]+,"seq":([0-9]+),.*),"hash":"([0-9a-f]{64})"\}\n')
EXPORT = re.compile(rb'\{"body":(\{.*"tseq":([0-9]+)[,}].*),"hash":"([0-9a-f]{64})"\}\n')


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def main(path: pathlib.Path) -> str:
    source = path / "audit" / "000001.jsonl" if path.is_dir() else path
    form, end, number, head, first = JOURNAL, b"}", 0, bytes(32), 1
    with source.open("rb") as lines:
        if source is path and (header := json.loads(lines.readline())).get("format") == "vaultd audit export":
            form, end, number, head, first = EXPORT, b"", header["after"], bytes.fromhex(header["prev"]), 2
        else:
            lines.seek(0)
        for place, line in enumerate(lines, first):
            found = form.fullmatch(line)
            number += 1
            if not found or int(found[2]) != number:
                sys.exit(f"{source}: line {place} is bad: not record {number}")
            head = sha256(head + sha256(found[1] + end))
            if head.hex().encode() != found[3]:
                sys.exit(f"{source}: line {place} is bad: its hash does not follow from it and the line before")
    return f"{source}: all {number} records follow; head {head.hex()}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(main(pathlib.Path(sys.argv[1])))
