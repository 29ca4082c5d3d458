"""The forward seal: tags under keys that are gone, so that who takes the machine over cannot change what was before.

Time is cut into counted epochs, of a second while a daemon runs. Each has its own key, out of the one before, which
is wiped. A tag line stands for all epochs since the tag before: for the idle ones by a proof that each one's key had a
part in, for the last one by a MAC in that epoch over its place in the chain. Whoever holds the first key can follow and
check all of it; whoever has a later key can make none of the tags before, nor leave an epoch out. Pure functions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Self

from vaultd.audit import tags
from vaultd.crypto.context import context
from vaultd.crypto.epochs import NO_PROOF, EpochKey, seal_key_checksum
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.errors import IntegrityError, Internal

if TYPE_CHECKING:
    from vaultd.audit.chain import Link
    from vaultd.audit.tags import Tag

__all__ = ["FIRST_KEY_SIZE", "RUN", "FirstKey", "SealChain", "message"]

RUN: Final = 900
"""Epochs after which a tag is due though nothing happened: an idle hour costs four lines."""

FIRST_KEY_SIZE: Final = 128
"""Bytes that no first key's text exceeds."""

_FORM: Final = re.compile(rb"seal([1-9][0-9]{0,9}):([0-9a-f]{64}):([0-9a-f]{8})\r?\n?")
_DIGITS: Final = b"0123456789abcdef"


def message(
    vault_id: bytes, chain: int, first: int, last: int, proof: bytes, before: Link, time: str, following: bytes = b""
) -> bytes:
    """What a tag is over: everything that its line says, and what stands before it.

    Args:
        proof: of the idle epochs `first` to `last` - 1.
        before: the line before the tag line, and so all lines before.
        time: as in the tag line.
        following: as in the tag line.
    """
    return context(
        "audit.tag", vault_id, chain, first, last, proof, before.seq, before.head, time.encode("ascii"), following
    )


class FirstKey:
    """The key of a chain's epoch 0, for the operator to keep. It checks all tags of the chain, and could forge them.

    Its text is `seal<chain>:<64 hex digits>:<8 hex digits>`: the number of the chain, the key, a checksum against
    typing errors. The object owns the key: `wipe` ends it.
    """

    def __init__(self, chain: int, key: Key) -> None:
        self.chain = chain
        self._key = key

    @classmethod
    def parse(cls, text: bytearray) -> Self:
        """Read the text, with or without a newline behind it; the text stays the caller's to wipe.

        Raises:
            IntegrityError: it is not a first key, or was mistyped.
        """
        found = _FORM.fullmatch(text)
        if found is None or int(text[4 : found.end(1)]) > tags.MAX_CHAIN:
            raise IntegrityError("not a seal key", "give the line that 'init' or 'audit seal-key' printed: seal1:...")
        place, ending = found.start(2), found.start(3)
        with SecretBytes.take(text[: ending - 1]) as signed:
            checksum = seal_key_checksum(signed)
        if checksum.hex().encode() != text[ending : found.end(3)]:  # against accidents: anybody can compute it
            raise IntegrityError("the seal key is mistyped: its checksum does not fit", "copy the whole line again")
        binary = bytearray(32)  # filled by hand: bytes.fromhex would leave an immutable copy
        for at in range(32):
            high, low = text[place + 2 * at], text[place + 2 * at + 1]
            binary[at] = _DIGITS.index(high) << 4 | _DIGITS.index(low)
        return cls(int(text[4 : found.end(1)]), Key.take(binary))

    def text(self) -> SecretBytes:
        """The text to keep, without a newline; the caller's to wipe."""
        head = b"seal%d:" % self.chain
        written = bytearray(len(head) + 64 + 1 + 8)
        written[: len(head)] = head
        for at, byte in enumerate(self._key.view()):
            written[len(head) + 2 * at] = _DIGITS[byte >> 4]
            written[len(head) + 2 * at + 1] = _DIGITS[byte & 15]
        written[-9:-8] = b":"
        with SecretBytes.take(written[:-9]) as signed:
            written[-8:] = seal_key_checksum(signed).hex().encode()
        return SecretBytes.take(written)

    def epoch_key(self) -> EpochKey:
        """The key of epoch 0; the caller's to wipe."""
        return EpochKey(Key.copy_of(self._key), 0)

    def identity(self) -> bytes:
        """What names the key without telling it, 32 bytes."""
        with self.epoch_key() as key:
            return key.identity()

    def wipe(self) -> None:
        """Zero the key."""
        self._key.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<FirstKey of seal chain {self.chain}, redacted>"


class SealChain:
    """Where a seal chain stands: what makes its next tag. Owns the key of the present epoch.

    Attributes:
        chain: its number.
        first: the first epoch that no tag stands for yet; those from there to the present one were idle.
        proof: of these idle epochs.
        tag_seq, tag_hash: the newest tag line.
    """

    def __init__(
        self,
        vault_id: bytes,
        chain: int,
        key: EpochKey,
        *,
        first: int = 0,
        proof: bytes = NO_PROOF,
        tag_seq: int = 0,
        tag_hash: bytes = bytes(32),
    ) -> None:
        self.vault_id = vault_id
        self.chain = chain
        self.key = key
        self.first = first
        self.proof = proof
        self.tag_seq = tag_seq
        self.tag_hash = tag_hash

    @property
    def idle_epochs(self) -> int:
        """Epochs that are over and that no tag stands for."""
        return self.key.epoch - self.first

    def idle(self) -> None:
        """The present epoch is over, and nothing happened in it."""
        if self.idle_epochs >= tags.MAX_EPOCHS - 1:
            raise Internal("a run of idle epochs was not tagged in time")
        self.proof = self.key.idle(self.proof)

    def tag(self, before: Link, time: str, following: bytes = b"", vault: str | None = None) -> bytes:
        """End the present epoch with a tag over all lines up to `before`; its key is wiped.

        Returns:
            The tag line up to its hash. `tagged` must hear of the whole line's.
        """
        last = self.key.epoch
        said = message(self.vault_id, self.chain, self.first, last, self.proof, before, time, following)
        tag = self.key.tag(said)
        rendered = tags.render(
            before.seq + 1, time, self.chain, self.first, last, tag, following=following, vault=vault
        )
        self._over()
        return rendered

    def tagged(self, seq: int, line_hash: bytes) -> None:
        """The tag line of the number and hash is in the journal."""
        self.tag_seq, self.tag_hash = seq, line_hash

    def accept(self, tag: Tag, before: Link) -> None:
        """Take in a tag line that is in the journal: hold it against its own epoch's key, and go on behind it.

        Args:
            before: where the chain of lines stands in front of it.

        Raises:
            IntegrityError: the tag is not the one that this chain makes there. The chain must not be used any more.
        """
        if (tag.chain, tag.first) != (self.chain, self.first) or tag.last < self.key.epoch:
            raise IntegrityError("the tag line is not of the epochs that follow")
        # Every epoch on the way has its own key, and an idle one's has a part in the proof: neither of these can be
        # left out by somebody who has a later key only.
        self.proof = self.key.idle(self.proof, tag.last - self.key.epoch)
        said = message(self.vault_id, self.chain, tag.first, tag.last, self.proof, before, tag.time, tag.following)
        if not self.key.verifies(said, tag.tag):
            raise IntegrityError("the tag does not verify")
        self._over()
        self.tagged(tag.seq, tag.hash)

    def _over(self) -> None:
        self.key.advance()
        self.first, self.proof = self.key.epoch, NO_PROOF

    def copy(self) -> SealChain:
        """A second one, to look ahead with; the caller's to wipe."""
        return SealChain(
            self.vault_id,
            self.chain,
            self.key.copy(),
            first=self.first,
            proof=self.proof,
            tag_seq=self.tag_seq,
            tag_hash=self.tag_hash,
        )

    def wipe(self) -> None:
        """Zero the key."""
        self.key.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<SealChain {self.chain} in epoch {self.key.epoch}>"
