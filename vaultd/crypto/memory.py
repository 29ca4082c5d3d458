"""Wipeable memory for keys and values, and types that do not show what they hold.

`SecretBytes` owns one buffer of fixed size that is zeroed by `wipe`, at the end of a `with` block, or when the object
goes. `Key` is 32 of them in an arena of pages that are locked against swapping (as far as RLIMIT_MEMLOCK reaches) and
left out of core files.

What this does not promise: the interpreter may copy what a caller turns into `bytes` or `str`; registers and the C
stack are libsodium's; a thread that uses a secret while another wipes it works on zeros (a key's place may then even
hold another key), so whoever wipes must first know that no call is under way.
"""

from __future__ import annotations

import mmap
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, Self

from vaultd.crypto import sodium
from vaultd.errors import Internal

__all__ = ["ArenaStatus", "Buffer", "Key", "SecretBytes", "arena_status", "pointer_to", "wipe"]

Buffer = bytes | bytearray | memoryview
"""Bytes that are not secret, or that their owner wipes."""


def wipe(buffer: bytearray | memoryview) -> None:
    """Zero a writable buffer in a way that no compiler drops."""
    if isinstance(buffer, memoryview) and buffer.readonly:
        raise Internal("a read-only buffer cannot be wiped")
    pointer = sodium.from_buffer(buffer)
    sodium.memzero(pointer, len(pointer))


class SecretBytes:
    """A secret of any length in one wipeable buffer.

    Make one with `take`, `copy_of` or `random`. Comparison is in constant time for equal lengths. It has no `bytes()`,
    no iteration, no hash, no pickle and no copy, and every text form of it is redacted.

    Attributes:
        pointer: where the secret starts, for this room's calls into libsodium. Gone after `wipe`.
    """

    __slots__ = ("_base", "_size", "_start", "_view", "pointer")

    # On the class, not the module: `__del__` must still find it when the interpreter has cleared the module's names.
    _memzero: ClassVar = staticmethod(sodium.memzero)

    pointer: sodium.Pointer
    _base: sodium.Pointer | None
    _start: int
    _size: int
    _view: memoryview | None

    def __init__(self, base: sodium.Pointer, start: int, size: int) -> None:
        """Strictly for this room: own the buffer behind `base`; the secret is `size` bytes of it from `start`."""
        # The pointer exports its bytearray: from here on that cannot be resized, so no reallocation can leave a stale
        # copy behind.
        self._base = base
        self._start = start
        self._size = size
        self._view = None
        if not start:
            self.pointer = base

    @classmethod
    def take(cls, buffer: bytearray) -> Self:
        """Become the owner of `buffer`; the caller must not use it again."""
        return cls(sodium.from_buffer(buffer), 0, len(buffer))

    @classmethod
    def copy_of(cls, buffer: Buffer | SecretBytes) -> Self:
        """A copy; wiping the source stays the caller's duty."""
        return cls.take(bytearray(buffer.view() if isinstance(buffer, SecretBytes) else buffer))

    @classmethod
    def random(cls, size: int = sodium.KEY) -> Self:
        """`size` bytes from the kernel's generator, drawn straight into wipeable memory."""
        secret = cls.take(bytearray(size))
        sodium.randombytes(secret.pointer, size)
        return secret

    def view(self) -> memoryview:
        """A read-only view for the time of one use; it is released by `wipe`.

        Do not keep it or a slice of it: a slice outlives the wipe and shows whatever the place holds later.
        """
        if self._view is None or _is_released(self._view):
            whole = sodium.memory(self._live()).toreadonly()
            self._view = whole[self._start : self._start + self._size]
        return self._view

    def wipe(self) -> None:
        """Zero the whole buffer; any later use raises `Internal`. Wiping twice is harmless."""
        # First no longer live, then zeroed: the call lets other threads run, and one of them may wipe as well.
        base, self._base = self._base, None
        if base is not None:
            self.pointer = base
            del self.pointer
            self._memzero(base, len(base))
            self._release()

    def __del__(self) -> None:
        base = self._base
        if base is not None:
            self._memzero(base, len(base))
            if self._view is not None:
                self._release()  # a view of a secret that nobody kept raises, instead of showing zeros

    def _live(self) -> sodium.Pointer:
        if self._base is None:
            raise Internal("a secret was used after it was wiped")
        return self._base

    def _release(self) -> bool:
        """Release the view; False when something still looks through it."""
        view, self._view = self._view, None
        if view is not None:
            try:
                view.release()
            except BufferError:
                return False
        return True

    def __len__(self) -> int:
        return self._size

    def __getattr__(self, name: str) -> sodium.Pointer:
        # Only reached when a slot is empty. `wipe` empties `pointer`, which keeps the check for use after wipe out of
        # the fast path; and a secret that does not start its buffer computes it on first use.
        if name == "pointer":
            self.pointer = self._live() + self._start
            return self.pointer
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SecretBytes | bytes | bytearray | memoryview):
            theirs, size = pointer_to(other)
            # The length is not hidden: sizes are public (padded) everywhere in the formats.
            return size == self._size and sodium.memcmp(self.pointer, theirs, size) == 0
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a hash would be a fingerprint of the secret in any set or dict

    def __repr__(self) -> str:
        return f"<{type(self).__name__} redacted>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise Internal("a secret cannot be pickled or copied", "use SecretBytes.copy_of where a second owner is meant")

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(2)

    def __deepcopy__(self, _: object) -> NoReturn:
        self.__reduce_ex__(2)


def _is_released(view: memoryview) -> bool:
    try:
        _ = view.nbytes
    except ValueError:
        return True  # by a `with` block around it
    return False


class ArenaStatus(NamedTuple):
    """What `status` reports of the keys' memory: bytes mapped, and how many of them are locked in memory."""

    mapped: int
    locked: int


class _Arena:
    """Key places of 32 bytes in anonymous private mappings that are never unmapped, so no pointer into them dangles.

    Python's own lock makes `pop` and `append` atomic, so threads need none here; two that grow at once waste a chunk.
    """

    CHUNK: Final = 4 * mmap.PAGESIZE

    def __init__(self) -> None:
        self._chunks: list[memoryview] = []
        self._free: list[tuple[memoryview, sodium.Pointer]] = []
        self.mapped = 0
        self.locked = 0

    def acquire(self) -> tuple[memoryview, sodium.Pointer]:
        try:
            return self._free.pop()
        except IndexError:
            self._grow()
            return self._free.pop()

    def give_back(self, place: memoryview, pointer: sodium.Pointer) -> None:
        self._free.append((place, pointer))

    def _grow(self) -> None:
        # Private, not Python's default of shared: a forked child must not see, or wipe, its parent's keys.
        chunk = mmap.mmap(-1, self.CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        chunk.madvise(mmap.MADV_DONTDUMP)
        view = memoryview(chunk)
        start = sodium.from_buffer(view)
        if sodium.mlock(start, self.CHUNK) == 0:
            self.locked += self.CHUNK
        self.mapped += self.CHUNK
        self._chunks.append(view)
        self._free.extend((view[at : at + sodium.KEY], start + at) for at in reversed(range(0, self.CHUNK, sodium.KEY)))


class Key(SecretBytes):
    """A secret of exactly 32 bytes in the locked arena."""

    __slots__ = ("_place",)

    _arena: ClassVar = _Arena()

    _place: memoryview

    def __init__(self) -> None:
        """An all-zero key, to be filled; use `take`, `copy_of` or `random` instead."""
        self._base = None
        self._place, self.pointer = self._arena.acquire()
        self._base = self.pointer
        self._start = 0
        self._size = sodium.KEY
        self._view = None

    @classmethod
    def take(cls, buffer: bytearray) -> Self:
        """Move 32 bytes into the arena and wipe where they came from."""
        key = cls.copy_of(buffer)
        wipe(buffer)
        return key

    @classmethod
    def copy_of(cls, buffer: Buffer | SecretBytes) -> Self:
        """A copy in the arena; wiping the source stays the caller's duty."""
        if len(buffer) != sodium.KEY:
            raise Internal("a key has 32 bytes")
        key = cls()
        key._place[:] = buffer.view() if isinstance(buffer, SecretBytes) else buffer
        return key

    @classmethod
    def random(cls, size: int = sodium.KEY) -> Self:
        """A fresh key, drawn straight into the arena."""
        if size != sodium.KEY:
            raise Internal("a key has 32 bytes")
        key = cls()
        sodium.randombytes(key.pointer, sodium.KEY)
        return key

    def view(self) -> memoryview:
        """A read-only view for the time of one use; it is released by `wipe`."""
        if self._view is None or _is_released(self._view):
            self._live()  # the place may be another key's by now
            self._view = self._place.toreadonly()
        return self._view

    def wipe(self) -> None:
        """Zero the key and give its place back; any later use raises `Internal`. Wiping twice is harmless."""
        # First no longer live, then zeroed: the call lets other threads run, and a place given back twice would come
        # to hold two keys.
        base, self._base = self._base, None
        if base is not None:
            del self.pointer
            self._memzero(base, self._size)
            # Nor must a place that somebody still looks at come to hold another key.
            if self._release():
                self._arena.give_back(self._place, base)

    __del__ = wipe


def arena_status() -> ArenaStatus:
    """How much of the keys' memory is locked; less than mapped means RLIMIT_MEMLOCK was reached."""
    return ArenaStatus(Key._arena.mapped, Key._arena.locked)


def pointer_to(data: Buffer | SecretBytes) -> tuple[sodium.Pointer | bytes, int]:
    """What libsodium takes for `data`, and its length in bytes; `bytes` pass as they are, without a copy."""
    if isinstance(data, SecretBytes):
        return data.pointer, len(data)
    if isinstance(data, bytes):
        return data, len(data)
    pointer = sodium.from_buffer(data)
    return pointer, len(pointer)
