"""Holding a journal against a first seal key: every tag with its own epoch's key, and the state that the vault keeps.

Beside a walk along the chain, which has seen to it that hashes follow and that epochs are counted without a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from vaultd.audit.seal import FirstKey, SealChain
from vaultd.crypto.primitives import constant_time_equal
from vaultd.errors import IntegrityError

if TYPE_CHECKING:
    from vaultd.audit.chain import Link
    from vaultd.audit.tags import Tag

__all__ = ["Finding", "SealCheck"]

_MOST_EPOCHS: Final = 2**33
"""Epochs that a pruned journal may begin behind: a number beyond it was made up, and would cost years to reach."""


class Finding(NamedTuple):
    """What a check with a seal key found to be well."""

    chain: int
    begins: int
    """The chain's first tag line."""
    sealed: int
    """The newest tag line that verifies: everything before it is as it was when its epoch ended."""
    time: str
    """As that line says."""
    unsealed: int
    """Lines behind it."""
    tags: int
    epochs: int
    """Epochs that the tags stand for."""
    over: bool
    """The chain ended with its newest tag, and handed over to the next."""
    held: bool
    """The state that the vault keeps belongs to the journal's end."""


class SealCheck:
    """One walk's check of one seal chain. Owns the keys that it makes; the first key stays the caller's.

    Args:
        first: the chain's first key.
        state: what the vault's own state said before the walk began; None for a copy without one.

    Attributes:
        begins: number of the chain's first tag line, 0 before it was met.
        sealed: number of the chain's newest tag line that verifies, 0 for none.
        time: as that line says.
        tags: how many verify.
        epochs: how many they stand for.
        over: the chain has ended, and handed over to the next.
        held: the state fits.
    """

    def __init__(self, first: FirstKey, state: SealChain | None = None) -> None:
        self._first = first
        self._state = state
        self._chain: SealChain | None = None
        self._before: Tag | None = None
        self._previous = 0
        self.begins = 0
        self.sealed = 0
        self.time = ""
        self.tags = 0
        self.epochs = 0
        self.over = False
        self.held = False

    @property
    def number(self) -> int:
        """The chain's number."""
        return self._first.chain

    def take(self, tag: Tag, before: Link, vault_id: bytes) -> None:
        """Take the walk's next tag line.

        Args:
            before: where the walk stood in front of it.

        Raises:
            IntegrityError: the tag does not verify, or something with it was left out. The check is over then.
        """
        if tag.chain < self.number:
            self._before = tag
            return
        if tag.chain > self.number:
            self._past(tag)
            return
        if self._chain is None:
            self._begin(tag, vault_id)
        chain = self._chain
        assert chain is not None  # noqa: S101  `_begin` made it
        try:
            chain.accept(tag, before)
        except IntegrityError as error:
            raise IntegrityError(f"{error.message}: {self._suspects(tag)}") from error
        self._previous, self.sealed, self.time = self.sealed, tag.seq, tag.time
        self.tags += 1
        self.epochs += tag.last - tag.first + 1
        self.over = bool(tag.following)
        self._hold(chain)

    def _suspects(self, tag: Tag) -> str:
        if self.sealed:
            return f"it, or a line from {self.sealed + 1} on, is not what was sealed"
        return f"the seal key is not the first one of seal chain {self.number}, or lines 1 to {tag.seq} were changed"

    def _begin(self, tag: Tag, vault_id: bytes) -> None:
        key = self._first.epoch_key()
        named = self._before.following if self._before is not None and self._before.chain == self.number - 1 else b""
        if named and tag.first == 0 and not constant_time_equal(key.identity(), named):
            key.wipe()
            raise IntegrityError(
                f"the seal key is not the first one of seal chain {self.number}, or another chain was put in its place"
            )
        if tag.first > _MOST_EPOCHS:
            key.wipe()
            raise IntegrityError("the journal's first tag line is of an epoch that no clock has come to")
        key.advance(tag.first)  # behind 0 only where what came before was pruned
        self._chain = SealChain(vault_id, self.number, key, first=tag.first)
        self.begins = tag.seq

    def _past(self, tag: Tag) -> None:
        """A later chain's tag: this one must have ended, under a key that only its own time had."""
        if self._chain is None:
            raise IntegrityError(f"there is no tag line of seal chain {self.number} before one of chain {tag.chain}")
        if not self.over:
            raise IntegrityError(
                f"seal chain {tag.chain} begins, and chain {self.number} did not hand over to it: "
                "lines before may have been cut away"
            )

    def _hold(self, chain: SealChain) -> None:
        """Hold the state against the chain, where it was when the state's newest tag line was written."""
        state = self._state
        if state is None or self.held or state.chain != self.number or state.tag_seq != chain.tag_seq:
            return
        with chain.copy() as then:
            fits = state.tag_hash == then.tag_hash and state.first == then.first
            if fits and state.key.epoch >= then.key.epoch:
                # At most `MAX_EPOCHS` rounds: reading the state has seen to that.
                then.proof = then.key.idle(then.proof, state.key.epoch - then.key.epoch)
                fits = then.key.equals(state.key) and constant_time_equal(then.proof, state.proof)
        if not fits:
            raise IntegrityError("the seal's state is not the one that belongs to this tag line")
        self.held = True

    def finish(self, newer: SealChain | None = None) -> None:
        """The walk is over, and found no other fault.

        Args:
            newer: what the state says now.

        Raises:
            IntegrityError: the chain was never met, or the journal was cut, or the state was put back.
        """
        if not self.begins:
            raise IntegrityError(
                f"the journal has no tag line of seal chain {self.number}: nothing of it can be checked with this key"
            )
        state = self._state
        if state is None:
            return
        if state.chain < self.number:
            raise IntegrityError(f"the seal's state is of chain {state.chain}, older than the journal")
        if state.chain > self.number and not self.over:
            raise IntegrityError(
                f"the seal's state is of chain {state.chain}, and the journal was cut before that began"
            )
        if state.chain == self.number and not self.held:
            raise IntegrityError(
                f"the seal's state speaks of a tag line {state.tag_seq}: the journal was cut at its end"
            )
        # A daemon may have written on since: then its state has as well. One tag line may be ahead of it.
        if newer is not None and newer.chain == self.number and newer.tag_seq < self._previous:
            raise IntegrityError(
                f"the seal's state speaks of tag line {newer.tag_seq}, and older ones: it was put back"
            )

    def finding(self, lines: int) -> Finding:
        """What was found in a journal whose last line has the number `lines`."""
        return Finding(
            self.number,
            self.begins,
            self.sealed,
            self.time,
            lines - self.sealed,
            self.tags,
            self.epochs,
            self.over,
            self.held,
        )

    def wipe(self) -> None:
        """Zero the keys that were made on the way."""
        if self._chain is not None:
            self._chain.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
