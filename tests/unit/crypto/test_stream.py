"""Streams: chunks that open one by one, in their place, under their key, and nowhere else."""

from __future__ import annotations

import random

import pytest

from vaultd.crypto.blobkeys import BlobKeys, stream_context
from vaultd.crypto.ciphers import Algorithm, preferred
from vaultd.crypto.memory import Key
from vaultd.crypto.sodium import has_aes
from vaultd.crypto.stream import HEADER, MAX_SIZE, Layout, StreamOpener, StreamSealer, looks_like_one
from vaultd.crypto.values import pad
from vaultd.errors import FormatVersion, IntegrityError, Internal

CHUNK = 1 << 16
VAULT, TENANT, FILE = b"v" * 16, b"t" * 16, b"f" * 16
AAD = stream_context(VAULT, TENANT, FILE)
ALGORITHMS = pytest.mark.parametrize("algorithm", list(Algorithm))


def sealed_stream(
    key: Key, value: bytes, algorithm: Algorithm, *, aad: bytes = AAD, file: bytes = FILE, chunk: int = 16
) -> bytes:
    sealer = StreamSealer(key, aad, file, algorithm=algorithm, chunk=chunk)
    plain = value.ljust(pad(len(value)), b"\0")
    out, parts = bytearray(sealer.sealed_chunk), [sealer.header]
    for at in range(0, len(plain), sealer.chunk):
        last = at + sealer.chunk >= len(plain)
        count = sealer.seal(plain[at : at + sealer.chunk], out, size=len(value) if last else None)
        parts.append(bytes(out[:count]))
    sealer.wipe()
    return b"".join(parts)


def open_stream(key: Key, stream: bytes, size: int, *, aad: bytes = AAD, file: bytes = FILE) -> bytes:
    """Read as FORMAT.md says: header, length, last chunk, then the rest."""
    opener = StreamOpener(key, aad, file, stream[:HEADER], size)
    layout = opener.layout
    if len(stream) != layout.total:
        raise IntegrityError("another length")
    chunks = {}
    for index in (layout.chunks - 1, *range(layout.chunks - 1)):
        begin = layout.offset(index)
        sealed = bytearray(stream[begin : begin + layout.plain(index) + layout.algorithm.tag])
        plain = bytearray(layout.chunk)
        chunks[index] = bytes(plain[: opener.open(index, sealed, plain)])
    return b"".join(chunks[index] for index in range(layout.chunks))


SIZES = [1, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK - 1, 300_000]


@ALGORITHMS
@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back(algorithm: Algorithm, size: int) -> None:
    """Content of any size comes back, and the stream has the length that its layout says."""
    value = random.Random(size).randbytes(size)
    with Key.random() as key:
        stream = sealed_stream(key, value, algorithm)
        assert open_stream(key, stream, size) == value
    layout = Layout(algorithm, CHUNK, size)
    assert len(stream) == layout.total
    assert looks_like_one(stream[:HEADER])
    assert sum(layout.content(index) for index in range(layout.chunks)) == size
    assert sum(layout.plain(index) for index in range(layout.chunks)) == pad(size)


def test_the_choice_is_by_the_processor() -> None:
    """New streams are AEGIS-256 where there are AES instructions, else XChaCha20-Poly1305; the header says which."""
    assert preferred() is (Algorithm.AEGIS_256 if has_aes() else Algorithm.XCHACHA20_POLY1305)
    with Key.random() as key:
        assert StreamSealer(key, AAD, FILE).header[9] == preferred()


@ALGORITHMS
def test_every_flipped_bit_is_found(algorithm: Algorithm) -> None:
    """No bit of a small stream can be flipped unseen; a version or an algorithm from the future is a newer format."""
    value = b"short"
    with Key.random() as key:
        stream = sealed_stream(key, value, algorithm)
        for bit in range(len(stream) * 8):
            changed = bytearray(stream)
            changed[bit // 8] ^= 1 << bit % 8
            newer = changed[8] > 1 or changed[9] > max(Algorithm)
            with pytest.raises(FormatVersion if newer else IntegrityError):
                open_stream(key, bytes(changed), len(value))


@ALGORITHMS
@pytest.mark.parametrize("size", [1, CHUNK, 2 * CHUNK + 100])
def test_another_size_does_not_open(algorithm: Algorithm, size: int) -> None:
    """The exact size is bound: one that gives the same layout does not open the last chunk."""
    with Key.random() as key:
        stream = sealed_stream(key, bytes(size), algorithm)
        for other in (size - 1, size + 1, size + CHUNK, 0, MAX_SIZE, MAX_SIZE + 1):
            with pytest.raises(IntegrityError):
                open_stream(key, stream, other)


@ALGORITHMS
def test_chunks_stay_in_their_place(algorithm: Algorithm) -> None:
    """Chunks exchanged, repeated, dropped, moved from another stream, or cut off behind one of them are found."""
    value, size = random.Random(1).randbytes(4 * CHUNK), 4 * CHUNK
    with Key.random() as key, Key.random() as other:
        stream = sealed_stream(key, value, algorithm)
        step = CHUNK + algorithm.tag
        head, parts = stream[:HEADER], [stream[at : at + step] for at in range(HEADER, len(stream), step)]
        foreign = sealed_stream(other, value, algorithm)
        first = foreign[HEADER : HEADER + step]
        for wrong in (
            [parts[1], parts[0], *parts[2:]],
            [parts[0], parts[0], *parts[2:]],
            [*parts[:2], parts[3]],
            parts[:3],
            [*parts, parts[3]],
            [*parts[:3], parts[2]],
            [first, *parts[1:]],
            [],
        ):
            with pytest.raises(IntegrityError):
                open_stream(key, head + b"".join(wrong), size)
            for shorter in (size - CHUNK, size + CHUNK):  # nor with a size to match
                with pytest.raises(IntegrityError):
                    open_stream(key, head + b"".join(wrong), shorter)
        for cut in (0, 1, HEADER - 1, HEADER, HEADER + 1, len(stream) - 1):
            with pytest.raises(IntegrityError):
                open_stream(key, stream[:cut], size)
        with pytest.raises(IntegrityError):
            open_stream(key, stream + b"\0", size)


@ALGORITHMS
def test_a_stream_opens_in_one_place_only(algorithm: Algorithm) -> None:
    """Another key, vault, tenant or id does not open it, nor does the other algorithm's number in its header."""
    with Key.random() as key, Key.random() as other:
        stream = sealed_stream(key, b"value", algorithm)
        moves = (
            (other, AAD, FILE),
            (key, stream_context(b"w" * 16, TENANT, FILE), FILE),
            (key, stream_context(VAULT, b"u" * 16, FILE), FILE),
            (key, stream_context(VAULT, TENANT, b"g" * 16), FILE),
            (key, AAD, b"g" * 16),
        )
        for where, aad, file in moves:
            with pytest.raises(IntegrityError):
                open_stream(where, stream, 5, aad=aad, file=file)
        swapped = bytearray(stream)
        swapped[9] = 3 - algorithm
        with pytest.raises(IntegrityError):
            open_stream(key, bytes(swapped), 5)


def test_wrapped_keys_stay_in_their_place() -> None:
    """A blob's data key opens for one vault, tenant, generation, secret and version; `rewrap` is what moves it."""
    with Key.random() as wrapping, Key.random() as newer, Key.random() as data_key:
        keys = BlobKeys(VAULT, TENANT, 1, wrapping)
        wrapped = keys.wrap(b"s" * 16, 1, data_key)
        assert keys.unwrap(b"s" * 16, 1, wrapped) == data_key
        for other, secret, version in (
            (keys, b"s" * 16, 2),
            (keys, b"z" * 16, 1),
            (BlobKeys(VAULT, TENANT, 2, wrapping), b"s" * 16, 1),
            (BlobKeys(VAULT, FILE, 1, wrapping), b"s" * 16, 1),
            (BlobKeys(FILE, TENANT, 1, wrapping), b"s" * 16, 1),
            (BlobKeys(VAULT, TENANT, 1, newer), b"s" * 16, 1),
        ):
            with pytest.raises(IntegrityError):
                other.unwrap(secret, version, wrapped)
        target = BlobKeys(VAULT, TENANT, 2, newer)
        assert target.unwrap(b"s" * 16, 1, keys.rewrap(target, b"s" * 16, 1, wrapped)) == data_key


@ALGORITHMS
def test_what_does_not_open_leaves_nothing(algorithm: Algorithm) -> None:
    """A chunk that fails leaves zeros where its plaintext would be; so does one whose padding is not zeros."""
    with Key.random() as key:
        stream = bytearray(sealed_stream(key, b"x" * 50, algorithm))
        opener = StreamOpener(key, AAD, FILE, bytes(stream[:HEADER]), 50)
        stream[-1] ^= 1
        out = bytearray(b"\xff" * CHUNK)
        with pytest.raises(IntegrityError):
            opener.open(0, stream[HEADER:], out)
        assert not any(out[:64])
        # A holder of the key who padded otherwise.
        sealer = StreamSealer(key, AAD, FILE, algorithm=algorithm, chunk=16)
        sealed = bytearray(sealer.sealed_chunk)
        count = sealer.seal(b"x" * 50 + b"\1" + bytes(13), sealed, size=50)
        out = bytearray(b"\xff" * CHUNK)
        with pytest.raises(IntegrityError):
            opener.open(0, sealed[:count], out)
        assert not any(out[:64])


def test_a_misused_sealer_is_a_bug() -> None:
    """Short chunks in the middle, chunks behind the last, a wrong end, no room, and wrong parameters are refused."""
    with Key.random() as key:
        for chunk in (15, 21):
            with pytest.raises(Internal):
                StreamSealer(key, AAD, FILE, chunk=chunk)
        with pytest.raises(Internal):
            StreamSealer(key, AAD, b"short")
        sealer = StreamSealer(key, AAD, FILE, chunk=16)
        out = bytearray(sealer.sealed_chunk)
        for plain, room, size in (
            (b"", out, None),
            (bytes(CHUNK - 1), out, None),
            (bytes(CHUNK + 1), out, None),
            (bytes(CHUNK), out[:-1], None),
            (bytes(64), out, 65),
            (bytes(63), out, 63),
        ):
            with pytest.raises(Internal):
                sealer.seal(plain, room, size=size)
        sealer.seal(bytes(64), out, size=64)
        with pytest.raises(Internal):
            sealer.seal(bytes(CHUNK), out)
        opener = StreamOpener(key, AAD, FILE, sealer.header, 64)
        for index in (-1, 1):
            with pytest.raises(Internal):
                opener.open(index, out, bytearray(CHUNK))
        with pytest.raises(Internal):
            opener.open(0, out[: 64 + sealer.algorithm.tag], bytearray(63))
