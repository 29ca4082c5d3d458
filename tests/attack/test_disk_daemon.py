"""A disk writer against the real daemon: one tenant's files spoilt while the others are served."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import OLD, Hurt, checked, template
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a vault with the tenants acme and globex."""
    return template(str(tmp_path_factory.mktemp("made")))


def _flipped(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))


def _cut(path: str) -> None:
    os.truncate(path, 60)


def _a_directory(path: str) -> None:
    os.remove(path)
    os.mkdir(path, 0o700)


def _open_to_others(path: str) -> None:
    os.chmod(path, 0o644)


def _a_link(path: str) -> None:
    os.rename(path, path + ".away")
    os.symlink(path + ".away", path)


def _without_its_directory(path: str) -> None:
    shutil.rmtree(os.path.dirname(path))


def _code(action: Callable[[], object]) -> str:
    with pytest.raises(VaultError) as caught:
        action()
    assert caught.value.message
    assert caught.value.hint
    return caught.value.code


SPOILS = [_flipped, _cut, os.remove, _a_directory, _open_to_others, _a_link, _without_its_directory]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_one_tenant_spoilt(made: str, spoil: Callable[[str], None]) -> None:
    """The others are served on for as long as they ask; the spoilt one is refused, shown, listed and deleted."""
    with Hurt(made, unseal=False) as hurt:
        hurt.unseal()
        uid = hurt.admin.call("tenant.show", {"tenant": "acme"})["about"]["uid"]
        assert hurt.stop() == 0
        spoil(os.path.join(hurt.dir, "tenants", uid, "log.1"))
        hurt.start()
        hurt.unseal()
        prod = {"tenant": "acme", "secret": "openai/prod"}
        refused = {_code(lambda: hurt.admin.call("secret.get", prod)) for _ in range(50)}
        assert len(refused) == 1
        assert refused <= {"closed", "io", "config"}
        assert _code(lambda: hurt.admin.call("lease.acquire", prod)) in refused
        assert _code(lambda: hurt.admin.call("rotate.tenant", {"tenant": "acme"})) in refused
        answer = hurt.admin.call("lease.acquire", prod | {"tenant": "globex"})
        assert bytes(answer.tail) == OLD
        assert hurt.admin.status()["state"] == "unsealed"
        about = hurt.admin.call("tenant.show", {"tenant": "acme"})["about"]
        assert (about["uid"], about["secrets"]) == (uid, None)
        assert {one["tenant"] for one in hurt.admin.pages("tenant.list")} == {"acme", "globex"}
        assert list(hurt.admin.audit_lines("audit.show", {"tenant": "acme"}))
        receipt = hurt.admin.call("tenant.delete", {"tenant": "acme", "confirm": "acme", "rotate_root": True})
        assert receipt["receipt"]["secrets"] is None
        assert [one["tenant"] for one in hurt.admin.pages("tenant.list")] == ["globex"]
        assert hurt.stop() == 0
        assert not os.path.exists(os.path.join(hurt.dir, "tenants", uid))
        assert not checked(hurt.dir).notes
