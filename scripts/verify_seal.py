"""The forward seal's part of verify_audit.py, from vaultd/audit/FORMAT.md, with Python's standard library alone."""

import hashlib
import pathlib
import re
import struct
import sys
from typing import NoReturn

KEY = re.compile(rb"(seal([1-9][0-9]*):([0-9a-f]{64})):([0-9a-f]{8})\s*")


def blake2b(person: bytes, data: bytes, key: bytes = b"", size: int = 32) -> bytes:
    return hashlib.blake2b(data, digest_size=size, key=key, person=person).digest()


def refuse(where: str, what: str) -> NoReturn:
    sys.exit(f"{where} is bad: {what}")


class Seal:
    """One seal chain, followed from its first key."""

    def __init__(self, text: bytes) -> None:
        found = KEY.fullmatch(text)
        if not found or blake2b(b"vaultd.seal.key", found[1], size=16)[:4].hex().encode() != found[4]:
            refuse("the seal key", "not one, or mistyped")
        self.chain, self.key, self.epoch = int(found[2]), bytes.fromhex(found[3].decode()), 0
        self.identity = blake2b(b"vaultd.seal.id", b"", self.key)
        self.tag, self.over, self.vault, self.named, self.at = 0, False, b"", "", {}

    def pass_over(self, proof: bytes, epochs: int) -> bytes:
        for _ in range(epochs):
            proof = blake2b(b"vaultd.seal.idle", proof, self.key)
            self.key = blake2b(b"vaultd.seal.next", b"", self.key)
            self.epoch += 1
        return proof

    def take(self, where: str, line: dict, before: bytes) -> None:
        """A tag line, which stands behind the line of that hash."""
        self.vault = self.vault or bytes.fromhex(line.get("vault", ""))
        seal = line.get("seal")
        if seal is None or seal["chain"] < self.chain:
            self.named = seal["next"] if seal is not None and "next" in seal else ""
            return
        if seal["chain"] > self.chain:
            self.over or refuse(where, "a later seal chain, and this one did not hand over to it")
            return
        if not self.tag and line["seq"] > 2 and seal["from"] > self.epoch:
            self.pass_over(bytes(32), seal["from"] - self.epoch)  # what came before was pruned
        if self.over or seal["from"] != self.epoch or not 0 <= seal["to"] - seal["from"] < 1024:
            refuse(where, "its epochs do not follow")
        if not self.tag and self.named not in ("", self.identity.hex()):
            refuse(where, "the seal chain before handed over to another key")
        proof = self.pass_over(bytes(32), seal["to"] - seal["from"])
        fields = [self.vault, self.chain, seal["from"], seal["to"], proof, line["seq"] - 1, before]
        fields += [line["time"].encode(), bytes.fromhex(seal.get("next", ""))]
        said = b"vaultd\x01\x09audit.tag"
        for field in fields:
            data = field.to_bytes(8, "big") if isinstance(field, int) else field
            said += len(data).to_bytes(4, "big") + data
        if blake2b(b"vaultd.seal.tag", said, self.key).hex() != seal["tag"]:
            refuse(
                where, f"its tag does not verify: a line from {self.tag + 1} on was changed, or the seal key is wrong"
            )
        self.key, self.epoch = blake2b(b"vaultd.seal.next", b"", self.key), self.epoch + 1
        self.tag, self.over = line["seq"], "next" in seal
        self.at[self.tag] = (bytes.fromhex(line["hash"]), self.key, self.epoch)

    def hold(self, state: pathlib.Path) -> str:
        """The vault's own state against the journal; it tells whether the end was cut."""
        if not self.tag:
            refuse("the journal", f"it has no tag of seal chain {self.chain}, so the seal key says nothing about it")
        if not state.exists():
            return "; without the seal's state a cut at the end cannot be seen"
        slots = [state.read_bytes()[at : at + 512] for at in (0, 512)]
        whole = [slot for slot in slots if blake2b(b"vaultd.seal.sum", slot[:480]) == slot[480:]]
        if not whole:
            refuse(str(state), "neither slot is whole")
        numbers = sorted(int.from_bytes(slot[32:40], "big") for slot in whole)
        if len(whole) == 2 and numbers[1] != numbers[0] + 1:
            refuse(str(state), "its slots do not follow each other: one was put back")
        newest = max(whole, key=lambda slot: slot[32:40])
        chain, first, epoch, tag = *struct.unpack_from(">I", newest, 12), *struct.unpack_from(">QQQ", newest, 40)
        if chain > self.chain and self.over:
            return "; a later seal chain follows"
        line_hash, self.key, self.epoch = self.at.get(tag, (b"", b"", -1))
        if (chain, first, line_hash) != (self.chain, self.epoch, newest[64:96]) or not 0 <= epoch - first < 1024:
            refuse(str(state), "it does not belong to this journal: that was cut, or this put back")
        if self.pass_over(bytes(32), epoch - first) + self.key != newest[96:160]:
            refuse(str(state), "no state that this seal chain comes to")
        if len([seq for seq in self.at if seq > tag]) > 1:
            refuse(str(state), "older than the journal: it was put back")
        return "; the seal's state fits"
