"""Checks the blobs of a tenant: without a secret how they begin, with one every chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.crypto.memory import wipe
from vaultd.crypto.primitives import does_not_open
from vaultd.crypto.stream import HEADER, looks_like_one
from vaultd.errors import IntegrityError, NotFound
from vaultd.vault.blob_place import BlobPlace
from vaultd.vault.commit import blobs_path

if TYPE_CHECKING:
    from vaultd.store import Store
    from vaultd.vault.check import CheckReport
    from vaultd.vault.state import Blob, Secret, Version
    from vaultd.vault.tenant import OpenTenant

__all__ = ["blob_structures", "open_blob", "unnamed_blobs"]


def _names(store: Store, uid: bytes) -> list[str]:
    """What is in a tenant's directory of blobs."""
    try:
        return store.list(blobs_path(uid))
    except NotFound:
        return []


def blob_structures(store: Store, directory: str, report: CheckReport) -> None:
    """Hold that every file in a directory of blobs begins as a blob does."""
    for name in store.list(directory):
        report.files += 1
        report.attempt(f"{directory}/{name}", _structure, store, f"{directory}/{name}")


def _structure(store: Store, path: str) -> None:
    file = store.ranges(path)
    try:
        header = bytearray(HEADER)
        if file.read_into(0, header) != HEADER or not looks_like_one(bytes(header)):
            raise IntegrityError("it does not begin as a blob does")
    finally:
        file.close()


def unnamed_blobs(store: Store, opened: OpenTenant) -> list[str]:
    """Paths of blobs that no version names, as a crash leaves them."""
    known = {file.hex() for file in opened.state.files(opened.state.by_id)}
    return [f"{blobs_path(opened.uid)}/{name}" for name in _names(store, opened.uid) if name not in known]


def open_blob(store: Store, vault_id: bytes, opened: OpenTenant, secret: Secret, version: Version, blob: Blob) -> None:
    """Unwrap a version's data key and open every chunk of its blob; raises what is wrong, naming the file."""
    place = BlobPlace(store, vault_id, opened.uid, blob.file)
    path = place.path
    if version.ref is None:
        raise IntegrityError(f"{path}: a version has a file and no key")
    with opened.blob_keys.unwrap(secret.id, version.number, opened.log.read_attachment(version.ref)) as data_key:
        try:
            file, opener = place.open(data_key, blob.size)
        except IntegrityError as error:
            raise IntegrityError(f"{path}: {error.message}", error.hint) from error
    layout = opener.layout
    sealed, plain = bytearray(opener.sealed_chunk), bytearray(layout.chunk)
    try:
        for index in range(layout.chunks):
            length = layout.plain(index) + layout.algorithm.tag
            with memoryview(sealed) as whole, whole[:length] as part:
                if file.read_into(layout.offset(index), part) != length:
                    raise does_not_open()
                opener.open(index, part, plain)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: chunk {index} {error.message}", error.hint) from error
    finally:
        wipe(plain)
        opener.wipe()
        file.close()
