"""Sealed logs: records in their places, staged and read back, and files that are opened when needed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.memory import Key
from vaultd.errors import IntegrityError, Internal, NotFound
from vaultd.store import MemoryStore
from vaultd.vault.heads import NO_RECORD, Head
from vaultd.vault.log import MAGIC, MAX_ATTACHMENT, Handles, LogFile, RecordCipher, Ref, SealedLog, tag_of

VAULT, UID = b"v" * 16, b"u" * 16


def _keys(byte: bytes = b"k") -> TenantKeys:
    with Key.copy_of(byte * 32) as key:
        return TenantKeys(key)


def _log(store: MemoryStore, path: str = "log.1") -> SealedLog:
    """A log whose first bytes are on the disk."""
    store.create(path, MAGIC)
    return SealedLog(VAULT, UID, _keys(), Handles(store).found(path), Head(1, 0, NO_RECORD))


def _land(log: SealedLog) -> None:
    """What a flush does."""
    start, records = log.vouch()
    file = log.file.open()
    assert file.size == start
    file.append(b"".join(records))
    file.flush()
    log.file.settle(start + sum(map(len, records)))


_headers = st.dictionaries(st.text(max_size=4), st.integers(0, 9) | st.binary(max_size=300), max_size=3)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(_headers, st.binary(max_size=2000), st.sampled_from(["", "vouch", "unstage", "land"])), max_size=12
    )
)
def test_what_is_staged_is_read(steps: list[tuple[dict[str, object], bytes, str]]) -> None:
    """Staged, flushed or half-way, every record and attachment reads back, and what was unstaged is gone."""
    log = _log(MemoryStore())
    kept: list[tuple[dict[str, object], bytes, Ref]] = []
    sure = 0
    for header, attachment, then in steps:
        kept.append((header, attachment, log.stage(header, attachment)))
        if then == "unstage":
            log.unstage()
            del kept[sure:]
        elif then == "land":
            _land(log)
            sure = len(kept)
        for _, known, ref in kept:
            assert log.read_attachment(ref) == known
        records, end = log.scan()
        assert records == [(known, ref) for known, _, ref in kept]
        assert end == log.size


def test_a_record_authenticates_its_place() -> None:
    """I3: another key, vault, log, generation, index, predecessor, length or attachment, and a record does not open."""
    keys = _keys()
    cipher = RecordCipher(keys.record, VAULT, UID, 3)
    record = cipher.seal(5, b"t" * 16, b"\x81\xa1a\x01", b"attached")
    assert cipher.open(5, b"t" * 16, record) == {"a": 1}
    others = [
        RecordCipher(_keys(b"o").record, VAULT, UID, 3),
        RecordCipher(keys.data_key, VAULT, UID, 3),
        RecordCipher(keys.record, b"w" * 16, UID, 3),
        RecordCipher(keys.record, VAULT, b"w" * 16, 3),
        RecordCipher(keys.record, VAULT, UID, 2),
    ]
    tries = [(other, 5, b"t" * 16, record) for other in others]
    tries += [(cipher, 6, b"t" * 16, record), (cipher, 5, b"s" * 16, record)]
    tries += [(cipher, 5, b"t" * 16, record[:-1] + b"D")]
    for bit in range(8 * len(record)):
        raw = bytearray(record)
        raw[bit // 8] ^= 1 << bit % 8
        size, attached = int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:8], "big")
        if size <= len(raw) and size - attached >= 8 + 40 + 64:
            tries.append((cipher, 5, b"t" * 16, bytes(raw)))
    assert len(tries) > 8 * len(record) // 2
    for other, index, previous, raw in tries:
        with pytest.raises(IntegrityError):
            other.open(index, previous, raw)


def test_padding_hides_lengths() -> None:
    """Headers of up to 62 bytes give records of one size; longer ones of few."""
    cipher = RecordCipher(_keys().record, VAULT, UID, 1)
    sizes = {len(cipher.seal(1, NO_RECORD, bytes(length), b"")) for length in range(63)}
    assert sizes == {8 + 24 + 64 + 16}
    assert len({len(cipher.seal(1, NO_RECORD, bytes(length), b"")) for length in range(1000, 1100)}) <= 5


def test_impossible_lengths_are_refused_unread() -> None:
    """A length that no record has is an error before anything is read or allocated for it."""
    store = MemoryStore()
    log = _log(store)
    for lengths in ((2**32 - 1, 0), (0, 0), (111, 0), (2**31, 2**31 - 200), (MAX_ATTACHMENT + 200, MAX_ATTACHMENT + 1)):
        raw = MAGIC + lengths[0].to_bytes(4, "big") + lengths[1].to_bytes(4, "big") + bytes(200)
        store.replace("log.1", raw)
        log = SealedLog(VAULT, UID, _keys(), Handles(store).found("log.1"), Head(1, 1, b"t" * 16))
        with pytest.raises(IntegrityError, match="impossible length"):
            log.scan()


def test_another_magic_is_refused() -> None:
    """A file that does not begin as a log is none, even if no record is vouched for."""
    store = MemoryStore()
    store.create("log.1", b"vaultdXX")
    log = SealedLog(VAULT, UID, _keys(), Handles(store).found("log.1"), Head(1, 0, NO_RECORD))
    with pytest.raises(IntegrityError, match="begin"):
        log.scan()


def test_the_last_tag_must_be_the_vouched_one() -> None:
    """A log that verifies but ends in another record than the journal says is refused."""
    store = MemoryStore()
    log = _log(store)
    log.stage({"a": 1})
    _land(log)
    other = SealedLog(VAULT, UID, _keys(), Handles(store).found("log.1"), Head(1, 1, b"t" * 16))
    with pytest.raises(IntegrityError, match="vouches"):
        other.scan()


def test_a_closed_log_takes_nothing() -> None:
    """After close the keys are gone: staging and scanning fail, but what was staged is still there to be flushed."""
    log = _log(MemoryStore())
    log.stage({"a": 1})
    start, records = log.vouch()
    log.stage({"a": 2})
    log.close()
    with pytest.raises(Internal):
        log.stage({"a": 3})
    with pytest.raises(Internal):
        log.scan()
    assert log.size == start + len(records[0])
    assert log.file.read(start, 1000) == records[0]


def test_an_overlong_attachment_is_a_bug() -> None:
    """Nothing is staged of a record that cannot be read again."""
    log = _log(MemoryStore())
    with pytest.raises(Internal):
        log.stage({}, bytes(MAX_ATTACHMENT + 1))
    with pytest.raises(Internal):
        log.stage({"x": 1.5})
    assert not log.unvouched
    assert log.head.record == 0


def test_a_ref_belongs_to_its_generation() -> None:
    """A place in an older log does not read from the newer one."""
    log = _log(MemoryStore())
    ref = log.stage({}, b"abc")
    with pytest.raises(Internal, match="another generation"):
        log.read_attachment(ref._replace(generation=2))
    with pytest.raises(IntegrityError, match="cut"):
        log.read_attachment(ref._replace(length=4))


def test_a_new_log_is_read_before_it_is_there() -> None:
    """A log that no flush has created yet serves its records from memory, magic and all."""
    store = MemoryStore()
    log = SealedLog(VAULT, UID, _keys(), LogFile(Handles(store), "log.1"), Head(1, 0, NO_RECORD))
    ref = log.stage({"a": 1}, b"abc")
    assert log.read_attachment(ref) == b"abc"
    assert log.scan()[0] == [({"a": 1}, ref)]
    start, parts = log.vouch()
    assert start == 0
    assert parts[0] == MAGIC
    assert tag_of(parts[1]) == log.head.tag


def test_few_files_stay_open() -> None:
    """However many logs are read, only so many are open; those with staged records stay so."""
    store = MemoryStore()
    handles = Handles(store, cap=3)
    files = []
    for number in range(10):
        store.create(f"log.{number}", MAGIC)
        files.append(handles.found(f"log.{number}"))
    files[0].open()
    files[0].stage(b"waiting")
    for _ in range(2):
        for file in files[1:]:
            assert file.read(0, 8) == MAGIC
            assert len(handles) <= 3
    assert files[0].is_open


def test_a_file_changed_while_closed_is_noticed() -> None:
    """A log that grew, shrank or vanished while its descriptor was given back is not read on."""
    store = MemoryStore()
    store.create("log.1", MAGIC)
    file = Handles(store).found("log.1")
    for data in (MAGIC + b"x", MAGIC[:-1]):
        store.replace("log.1", data)
        with pytest.raises(IntegrityError, match="changed"):
            file.read(0, 8)
    store.remove("log.1")
    with pytest.raises(NotFound):
        file.read(0, 8)


def test_cut_needs_a_clean_file() -> None:
    """Cutting under staged records would move their offsets: a bug."""
    log = _log(MemoryStore())
    log.stage({})
    with pytest.raises(Internal):
        log.file.cut(8)
