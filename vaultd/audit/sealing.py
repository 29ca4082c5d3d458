"""How a body is sealed to its trail's audit pair: the associated data, the nonce, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.audit.body import pad, unpad
from vaultd.crypto.box import box, open_box_key
from vaultd.crypto.context import context, field
from vaultd.crypto.memory import Key
from vaultd.crypto.primitives import open_with_nonce, seal_with_nonce
from vaultd.errors import Internal

if TYPE_CHECKING:
    from vaultd.crypto.memory import SecretBytes

__all__ = ["Opener", "Session"]

_NONCE_PREFIX: Final = bytes(16)


def _nonce(seq: int) -> bytes:
    # Unique under its key: the key is random, made for one session of one trail, and used for each line's sequence
    # number at most once, because those only grow. After a crash numbers may come again, but never this key.
    return _NONCE_PREFIX + seq.to_bytes(8, "big")


def _session_context(vault_id: bytes, uid: bytes, seq: int) -> bytes:
    return context("audit.session", vault_id, uid, seq)


def _body_context(vault_id: bytes, uid: bytes) -> bytes:
    return context("audit.body", vault_id, uid)


class Session:
    """A fresh key for one trail and minute, boxed once to its audit pair in the line that starts it.

    Args:
        vault_id, uid: where the bodies belong, 16 bytes each.
        audit_public: whom they are sealed to.
        seq: sequence number of the line that starts the session.
        expires: boot time, ns, after which the key is wiped.
        key, ephemeral, nonce: only for generators of golden files.
    """

    __slots__ = ("_key", "_prefix", "_suffix", "boxed", "expires", "seq")

    def __init__(
        self,
        vault_id: bytes,
        uid: bytes,
        audit_public: bytes,
        seq: int,
        expires: int,
        *,
        key: Key | None = None,
        ephemeral: Key | None = None,
        nonce: bytes | None = None,
    ) -> None:
        self._key = Key.random() if key is None else key
        self.seq = seq
        self.expires = expires
        aad = _session_context(vault_id, uid, seq)
        self.boxed = box(audit_public, aad, self._key, ephemeral=ephemeral, nonce=nonce)
        """For the line that starts the session, and no other."""
        self._prefix = _body_context(vault_id, uid) + b"\0\0\0\x08"
        self._suffix = field(seq)

    def seal(self, seq: int, body: bytes) -> bytes:
        """`body`, padded, sealed as that of line `seq`; never twice for one `seq`."""
        number = seq.to_bytes(8, "big")
        # The nonce is `_nonce(seq)`, which says why it is safe.
        return seal_with_nonce(self._key, _NONCE_PREFIX + number, self._prefix + number + self._suffix, pad(body))

    def wipe(self) -> None:
        """Forget the key: from here on only the audit pair opens what it sealed."""
        self._key.wipe()


class Opener:
    """Opens one trail's bodies with the private half of its audit pair, which stays the caller's to wipe.

    Keeps the key of the newest session only: no later line can name an older one.
    """

    def __init__(self, vault_id: bytes, uid: bytes, audit_public: bytes, audit_private: SecretBytes) -> None:
        self._vault_id = vault_id
        self._uid = uid
        self._public = audit_public
        self._private = audit_private
        self._prefix = _body_context(vault_id, uid)
        self._key: Key | None = None
        self.session: int | None = None
        """Sequence number of the line that started the session at hand."""

    def start(self, seq: int, boxed: bytes) -> None:
        """Take in the session that line `seq` starts.

        Raises:
            IntegrityError: it does not open.
        """
        key = open_box_key(self._private, self._public, _session_context(self._vault_id, self._uid, seq), boxed)
        self.wipe()
        self._key, self.session = key, seq

    def open(self, seq: int, sealed: bytes) -> bytes:
        """The body of line `seq`, sealed in the session at hand.

        Raises:
            IntegrityError: it does not open, or is not padded as it must be.
        """
        if self._key is None or self.session is None:
            raise Internal("an audit body was to be opened before its session")
        aad = self._prefix + field(seq) + field(self.session)
        return unpad(open_with_nonce(self._key, _nonce(seq), aad, sealed))

    def wipe(self) -> None:
        """Forget the session's key."""
        if self._key is not None:
            self._key.wipe()
            self._key = self.session = None
