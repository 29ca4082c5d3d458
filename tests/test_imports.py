"""What importing costs: the client and the protocol load msgpack and the standard library, nothing of the daemon's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"nacl", "argon2", "cffi", "_cffi_backend", "click", "watchdog", "cryptography", "rich"}


def loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement`."""
    program = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def top(modules: set[str]) -> set[str]:
    """Their top-level names."""
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "statement",
    [
        "import vaultd",
        "import vaultd.protocol",
        "import vaultclient",
        "from vaultclient import Client, Lease, Run, VaultError, errors",
        "from vaultclient import AsyncClient",
    ],
)
def test_import_loads_nothing_heavy(statement: str) -> None:
    """None of the daemon's libraries, nor click, is loaded by importing the protocol or the client."""
    assert not top(loaded(statement)) & HEAVY


def test_protocol_loads_no_other_room() -> None:
    """Of vaultd, importing the protocol loads the light package itself and the protocol."""
    ours = {name for name in loaded("import vaultd.protocol") if name.startswith("vaultd")}
    assert all(name == "vaultd" or name.startswith("vaultd.protocol") for name in ours)


def test_protocol_loads_no_network_no_threads_no_asyncio() -> None:
    """The protocol's own modules bring no socket, no asyncio and no dataclasses (which would load inspect)."""
    bare = loaded("import msgpack")
    assert not (loaded("import vaultd.protocol") - bare) & {"socket", "asyncio", "select", "dataclasses", "inspect"}


def test_client_loads_of_vaultd_only_the_protocol() -> None:
    """The client brings the protocol and no other room; the sync one brings no asyncio."""
    modules = loaded("from vaultclient import Client")
    ours = {name for name in modules if name.startswith("vaultd")}
    assert all(name == "vaultd" or name.startswith("vaultd.protocol") for name in ours)
    assert "asyncio" not in modules


def test_public_names_resolve() -> None:
    """Every public name of both packages can be imported, and an unknown one is an AttributeError."""
    statement = """
import vaultclient, vaultd.protocol
for package in (vaultclient, vaultd.protocol):
    for name in package.__all__:
        assert getattr(package, name) is not None, name
    try:
        package.absent
    except AttributeError:
        pass
    else:
        raise SystemExit("an unknown name resolves")
"""
    loaded(statement)
