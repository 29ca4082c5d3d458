"""The overlay: shows what a store with the same changes would, and leaves its base alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.errors import Internal, VaultdError
from vaultd.store import MemoryStore, OverlayStore

if TYPE_CHECKING:
    from vaultd.store import Store

FILES = ["a", "b", "d/a", "d/b", "d/e/a", "g/a"]
DIRECTORIES = ["d", "d/e", "g"]


def base() -> MemoryStore:
    store = MemoryStore()
    store.create("a", b"0123456789")
    store.mkdir("d")
    store.create("d/a", b"inner")
    store.mkdir("d/e")
    store.create("d/e/a", b"deep")
    return store


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                ["read", "exists", "replace", "create", "rename", "remove", "append", "cut", "slot"],
            ),
            st.sampled_from(FILES),
            st.sampled_from(FILES),
            st.binary(max_size=20),
        ),
        st.tuples(
            st.sampled_from(["exists", "list", "mkdir", "tree"]),
            st.sampled_from(DIRECTORIES),
            st.sampled_from(DIRECTORIES),
            st.binary(max_size=20),
        ),
    ),
    max_size=40,
)


def perform(store: Store, operation: str, path: str, other: str, data: bytes) -> object:
    match operation:
        case "read":
            return store.read(path, 12)
        case "exists":
            return store.exists(path)
        case "list":
            return store.list(path)
        case "replace":
            return store.replace(path, data)
        case "create":
            return store.create(path, data)
        case "rename":
            return store.rename(path, other)
        case "remove":
            return store.remove(path, missing_ok=len(data) % 2 == 0)
        case "mkdir":
            return store.mkdir(path, exist_ok=len(data) % 2 == 0)
        case "tree":
            return store.remove_tree(path, missing_ok=len(data) % 2 == 0)
        case "append":
            file = store.append(path)
            found = (file.append(data), file.size, file.pread(1, 30))
            file.flush()
            file.check()
            file.close()
            return found
        case "cut":
            file = store.append(path)
            file.truncate(min(len(data), file.size))
            file.close()
            return file.size
        case _:
            slots = store.slots(path, 5, 2)
            slots.write(1, data[:5].ljust(5, b"."))
            slots.close()
            return slots.read(0) + slots.read(1)


def outcome(store: Store, operation: tuple[str, str, str, bytes]) -> object:
    try:
        return perform(store, *operation)
    except VaultdError as error:
        return type(error)


@given(OPERATIONS)
def test_it_shows_what_a_store_with_the_same_changes_shows(operations: list[tuple[str, str, str, bytes]]) -> None:
    """Every answer equals that of a store that was really changed, and the base has not a byte changed."""
    below, model = base(), base()
    before = below.disk.files()
    overlay = OverlayStore(below)
    for operation in operations:
        assert outcome(overlay, operation) == outcome(model, operation), operation
    for path in FILES:
        assert outcome(overlay, ("read", path, path, b"")) == outcome(model, ("read", path, path, b""))
    for path in ["", *DIRECTORIES]:
        assert outcome(overlay, ("list", path, path, b"")) == outcome(model, ("list", path, path, b""))
    assert below.disk.files() == before


def test_bounds_are_those_of_every_store() -> None:
    """Unsafe paths, stretched files, slots that are not there, renames across directories: bugs, as everywhere."""
    overlay = OverlayStore(base())
    slots = overlay.slots("a", 5, 2)
    for call in (
        lambda: overlay.read("../a", 1),
        lambda: overlay.replace("/a", b""),
        lambda: overlay.append("a").truncate(11),
        lambda: slots.write(0, b"1234"),
        lambda: slots.read(2),
        lambda: overlay.rename("a", "d/z"),
    ):
        with pytest.raises(Internal):
            call()
    with overlay:
        assert overlay.location == "memory"
