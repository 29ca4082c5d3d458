"""Streams: content of any size, sealed in chunks that open one by one, in any order, and nowhere else.

    stream    = header (64) ‖ chunk 0 ‖ chunk 1 ‖ … ‖ chunk n - 1
    header    = "vaultdBL" ‖ u8 version ‖ u8 algorithm ‖ u8 log2 chunk size ‖ zeros (5) ‖ id (16) ‖ commitment (32)
    plaintext = content ‖ zeros up to pad(size of the content), cut into chunks; only the last may be shorter

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", CRYPTO 2015), as age has it too: a chunk's nonce is its number and whether it is the last, so that
chunks cannot be reordered, repeated, dropped or added to. The last one also authenticates the content's exact size.

The stream's key derives from the data key and the header: another algorithm, chunk size or id is another key. It is
committed to, as every wrap is, and the commitment is compared before anything is opened.
"""

from __future__ import annotations

import struct
from hmac import compare_digest
from typing import Final, NamedTuple

from vaultd.crypto.ciphers import Algorithm, preferred
from vaultd.crypto.context import field
from vaultd.crypto.labels import COMMIT, STREAM
from vaultd.crypto.memory import Buffer, Key, SecretBytes, wipe
from vaultd.crypto.primitives import derive, does_not_open, keyed_hash
from vaultd.crypto.values import pad
from vaultd.errors import FormatVersion, IntegrityError, Internal, Invalid

__all__ = [
    "CHUNK",
    "HEADER",
    "MAX_SIZE",
    "Layout",
    "StreamOpener",
    "StreamSealer",
    "check_size",
    "looks_like_one",
]

HEADER: Final = 64
"""Bytes of a stream's header."""
CHUNK: Final = 18
"""Log2 of the chunk size that new streams get: 256 KiB. It and its ciphertext stay in a core's cache."""
MAX_SIZE: Final = 1 << 48
"""Bytes of the largest content: 256 TiB."""

_MAGIC: Final = b"vaultdBL"
_HEADER: Final = struct.Struct(">8sBBB5s16s")
_MIN_CHUNK: Final = 16
_MAX_CHUNK: Final = 20
_ID: Final = 16
_PAGE: Final = bytes(1 << 16)


class Layout(NamedTuple):
    """Where the bytes of a stream are, from its header and the content's size.

    Attributes:
        algorithm: of its chunks.
        chunk: bytes of a chunk's plaintext, but for the last one.
        size: bytes of the content.
    """

    algorithm: Algorithm
    chunk: int
    size: int

    @property
    def padded(self) -> int:
        """Bytes of the plaintext."""
        return pad(self.size)

    @property
    def chunks(self) -> int:
        return -(-self.padded // self.chunk)

    @property
    def total(self) -> int:
        """Bytes of the whole stream."""
        return HEADER + self.padded + self.chunks * self.algorithm.tag

    def offset(self, index: int) -> int:
        """Where a sealed chunk begins."""
        return HEADER + index * (self.chunk + self.algorithm.tag)

    def plain(self, index: int) -> int:
        """Bytes of a chunk's plaintext."""
        return min(self.chunk, self.padded - index * self.chunk)

    def content(self, index: int) -> int:
        """Bytes of content in a chunk; the rest of it is padding."""
        return max(0, min(self.chunk, self.size - index * self.chunk))


class _Cipher:
    """One stream's key and what every chunk of it shares."""

    def __init__(self, data_key: Key, aad: bytes, prefix: bytes, algorithm: Algorithm) -> None:
        self.key = derive(data_key, STREAM, prefix)
        # The prefix has a fixed length, so nothing need stand between the two. The length of the hash is that of a
        # wrap's commitment, and so is what is compared: whoever finds two keys for one header has broken BLAKE2b.
        self.commitment = keyed_hash(self.key, prefix + aad, person=COMMIT)
        self.aad = aad
        self._zeros = bytes(algorithm.nonce - 9)

    def nonce(self, index: int, *, last: bool) -> bytes:
        # Never twice under one key: the key is this stream's alone (its data key is fresh, its id random), the number
        # counts its chunks, and only the last byte tells a last chunk from another of the same number.
        return b"%b%b%c" % (self._zeros, index.to_bytes(8, "big"), last)

    def bound(self, size: int | None) -> bytes:
        """A chunk's associated data; that of the last one ends with the content's size."""
        return self.aad if size is None else self.aad + field(size)


class StreamSealer:
    """Seals chunks, one after another. One thread at a time.

    Args:
        data_key: fresh; for this stream alone. Stays the caller's.
        aad: from `context`: where the stream belongs.
        stream_id: 16 random bytes, in the header.
        algorithm: `preferred()` unless said otherwise.
        chunk: log2 of the chunk size, 16 to 20.

    Attributes:
        header: the first bytes of the stream.
        chunk: bytes of a chunk's plaintext, but for the last one.
        algorithm: of the chunks.
    """

    def __init__(
        self,
        data_key: Key,
        aad: bytes,
        stream_id: bytes,
        *,
        algorithm: Algorithm | None = None,
        chunk: int = CHUNK,
    ) -> None:
        if len(stream_id) != _ID or not _MIN_CHUNK <= chunk <= _MAX_CHUNK:
            raise Internal("a stream has an id of 16 bytes and chunks of 64 KiB to 1 MiB")
        self.algorithm = preferred() if algorithm is None else algorithm
        self.chunk = 1 << chunk
        prefix = _HEADER.pack(_MAGIC, 1, self.algorithm, chunk, bytes(5), stream_id)
        self._cipher = _Cipher(data_key, aad, prefix, self.algorithm)
        self.header = prefix + self._cipher.commitment
        self._index = 0
        self._ended = False

    @property
    def sealed_chunk(self) -> int:
        """Bytes of a whole sealed chunk: room that `seal` needs."""
        return self.chunk + self.algorithm.tag

    def seal(self, plaintext: Buffer | SecretBytes, out: bytearray | memoryview, *, size: int | None = None) -> int:
        """Seal the next chunk.

        Args:
            plaintext: a whole chunk; the last one may be shorter. Read only while this runs.
            out: where the sealed chunk goes, `sealed_chunk` bytes at least; may not overlap.
            size: bytes of the content, for the last chunk; None for any other.

        Returns:
            Bytes written to `out`.
        """
        length, last = len(plaintext), size is not None
        if self._ended or not 1 <= length <= self.chunk or (length < self.chunk and not last):
            raise Internal("a chunk is whole unless it is the last, and nothing follows that")
        if size is not None and self._index * self.chunk + length != pad(size):
            raise Internal("a stream does not end where its content's padding does")
        count = self.algorithm.seal_into(
            out,
            self._cipher.key,
            self._cipher.nonce(self._index, last=last),
            self._cipher.bound(size),
            plaintext,
        )
        self._index += 1
        self._ended = last
        return count

    def wipe(self) -> None:
        """Zero the stream's key."""
        self._cipher.key.wipe()


class StreamOpener:
    """Opens any chunk of a stream. One thread at a time.

    Args:
        data_key: the stream's. Stays the caller's.
        aad: what it was sealed with.
        stream_id: the id it must have.
        header: its first 64 bytes.
        size: bytes of its content, from a place that is authenticated; a wrong one does not open the last chunk.

    Attributes:
        layout: where its bytes are.

    Raises:
        FormatVersion: a newer version, or an algorithm that this one does not know.
        IntegrityError: another key, place or id, or a changed header.
    """

    def __init__(self, data_key: Key, aad: bytes, stream_id: bytes, header: bytes, size: int) -> None:
        algorithm, chunk = _parse(header, stream_id)
        if not 1 <= size <= MAX_SIZE:
            raise does_not_open()
        self.layout = Layout(algorithm, 1 << chunk, size)
        self._cipher = _Cipher(data_key, aad, header[: _HEADER.size], algorithm)
        # First of all, and in constant time: nothing is opened under a key that the stream does not commit to.
        if not compare_digest(self._cipher.commitment, header[_HEADER.size :]):
            self.wipe()
            raise does_not_open()

    @property
    def sealed_chunk(self) -> int:
        """Bytes of a whole sealed chunk."""
        return self.layout.chunk + self.layout.algorithm.tag

    def open(self, index: int, sealed: bytearray | memoryview, out: bytearray | memoryview) -> int:
        """Verify and open one chunk.

        Args:
            index: which, from 0.
            sealed: that chunk, whole.
            out: where the plaintext goes, room for all of it; zeroed when the chunk does not open. May begin where
                `sealed` does.

        Returns:
            Bytes of content; padding, which is zeros, follows them.

        Raises:
            IntegrityError: it does not open here, or its padding is not zeros.
        """
        layout = self.layout
        if not 0 <= index < layout.chunks:
            raise Internal("there is no such chunk")
        plain, tag = layout.plain(index), layout.algorithm.tag
        if len(sealed) != plain + tag:
            raise does_not_open()
        last = index == layout.chunks - 1
        layout.algorithm.open_into(
            out,
            self._cipher.key,
            self._cipher.nonce(index, last=last),
            self._cipher.bound(layout.size if last else None),
            sealed,
        )
        content = layout.content(index)
        # One plaintext per content: only a holder of the key could have put something else here.
        if not _zeros(memoryview(out)[content:plain]):
            wipe(memoryview(out)[:plain])
            raise does_not_open()
        return content

    def wipe(self) -> None:
        """Zero the stream's key."""
        self._cipher.key.wipe()


def looks_like_one(header: bytes) -> bool:
    """Whether a file that begins with these 64 bytes may be a stream; takes no key, and vouches for nothing."""
    return len(header) == HEADER and header.startswith(_MAGIC)


def check_size(size: int) -> None:
    """Hold that a content has a size that can be sealed; raises `Invalid`."""
    if not 1 <= size <= MAX_SIZE:
        raise Invalid("the content is empty or longer than 256 TiB", "give at least one byte")


def _zeros(rest: memoryview) -> bool:
    return all(rest[at : at + len(_PAGE)] == _PAGE[: len(rest) - at] for at in range(0, len(rest), len(_PAGE)))


def _parse(header: bytes, stream_id: bytes) -> tuple[Algorithm, int]:
    if len(header) != HEADER:
        raise does_not_open()
    magic, version, number, chunk, zeros, found = _HEADER.unpack_from(header)
    if magic != _MAGIC:
        raise IntegrityError("not a sealed stream", "restore the file from a backup")
    if version > 1 or number > max(Algorithm):
        raise FormatVersion("a sealed stream is of a newer format", "use a newer vaultd")
    if version != 1 or number not in iter(Algorithm) or any(zeros) or not _MIN_CHUNK <= chunk <= _MAX_CHUNK:
        raise does_not_open()
    if found != stream_id:
        raise does_not_open()
    return Algorithm(number), chunk
