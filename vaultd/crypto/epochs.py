"""A key that moves on: each epoch's comes out of the one before it, which is gone then, and there is no way back.

    K_(i+1) = B(K_i, "vaultd.seal.next", "")         the next epoch's key
    P_(i+1) = B(K_i, "vaultd.seal.idle", P_i)        the proof that epochs were idle, over an idle epoch i
    tag     = B(K_i, "vaultd.seal.tag", message)

B is keyed, personalised BLAKE2b-256. The personalisations differ, so what one use shows says nothing about another, and
nothing that is shown says anything about a key. (The forward-secure MAC of Bellare and Yee, "Forward-Security in
Private-Key Cryptography", 2003; the proof aggregates as in Ma and Tsudik, "A New Approach to Secure Logging", 2008.)
"""

from __future__ import annotations

from typing import Final, Self

from vaultd.crypto import labels, sodium
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import constant_time_equal, keyed_hash, padded_label
from vaultd.errors import Internal

__all__ = ["NO_PROOF", "PROOF", "EpochKey", "seal_key_checksum"]

PROOF: Final = 32
NO_PROOF: Final = bytes(PROOF)
"""The proof before the first idle epoch of a run."""

_NEXT: Final = padded_label(labels.SEAL_NEXT)
_IDLE: Final = padded_label(labels.SEAL_IDLE)


class EpochKey:
    """The key of one epoch of a seal chain. It owns its memory: `wipe` ends it.

    Args:
        key: of `epoch`; becomes this object's to wipe.
        epoch: counted from 0.
    """

    __slots__ = ("_key", "epoch")

    def __init__(self, key: Key, epoch: int) -> None:
        self._key = key
        self.epoch = epoch

    def copy(self) -> EpochKey:
        """A second one, to look ahead with; the caller's to wipe."""
        return EpochKey(Key.copy_of(self._key), self.epoch)

    def advance(self, epochs: int = 1) -> None:
        """Become the key of a later epoch; those before are wiped."""
        self._move(epochs, None)

    def idle(self, proof: bytes, epochs: int = 1) -> bytes:
        """Pass over idle epochs, the present one first.

        Args:
            proof: over the idle epochs before, `NO_PROOF` if there are none.

        Returns:
            The proof over these as well: only who had each of their keys can make it.
        """
        if len(proof) != PROOF:
            raise Internal("a proof of idle epochs has 32 bytes")
        carried = bytearray(proof)
        self._move(epochs, carried)
        return bytes(carried)

    def _move(self, epochs: int, proof: bytearray | None) -> None:
        # Two places take turns, and nothing is made in between: a year of epochs is 31 million rounds of this.
        if epochs < 0:
            raise Internal("an epoch's key does not go back")
        here, there = self._key, Key()
        blake2b, null, size = sodium.blake2b, sodium.NULL, sodium.KEY
        kept = None if proof is None else sodium.from_buffer(proof)
        for _ in range(epochs):
            key = here.pointer
            # libsodium takes the key in before it writes the result, so the proof may be written where it was read.
            if kept is not None and blake2b(kept, PROOF, kept, PROOF, key, size, null, _IDLE):
                raise Internal("blake2b refused its parameters")
            if blake2b(there.pointer, size, null, 0, key, size, null, _NEXT):
                raise Internal("blake2b refused its parameters")
            here, there = there, here
        there.wipe()  # the last key before; those before it were overwritten on the way
        self._key = here
        self.epoch += epochs

    def tag(self, message: bytes) -> bytes:
        """The MAC over `message` in this epoch, 32 bytes."""
        return keyed_hash(self._key, message, person=labels.SEAL_TAG)

    def verifies(self, message: bytes, tag: bytes) -> bool:
        """Whether `tag` is this epoch's over `message`; in constant time."""
        return constant_time_equal(self.tag(message), tag)

    def identity(self) -> bytes:
        """What names this key without telling it, 32 bytes: an earlier chain's last tag names the next chain's key."""
        return keyed_hash(self._key, b"", person=labels.SEAL_ID)

    def equals(self, other: EpochKey) -> bool:
        """Whether both are the same key of the same epoch; in constant time."""
        return self.epoch == other.epoch and constant_time_equal(self._key, other._key)

    def write_to(self, place: memoryview) -> None:
        """Put the key's 32 bytes into `place`, which is the caller's to wipe."""
        place[:] = self._key.view()

    def wipe(self) -> None:
        """Zero the key."""
        self._key.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<EpochKey of epoch {self.epoch}, redacted>"


def seal_key_checksum(text: SecretBytes) -> bytes:
    """Four bytes that tell a mistyped seal key from a wrong one; of a first key's text before its own checksum."""
    return keyed_hash(None, text, person=labels.SEAL_TYPED, size=16)[:4]
