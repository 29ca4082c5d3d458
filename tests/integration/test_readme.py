"""The programs in README.md, taken from it and run as they stand: the agent, the orchestrator, the embedded vault."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vaultd import Vault

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()

PROVIDER = """
import json, os

def call_provider(key):
    assert type(key) is memoryview
    about = {"key": bytes(key).decode(), "pid": os.getpid(), "arguments": sorted(os.environ)}
    with open(f"called.{os.getpid()}", "w") as file:
        json.dump(about, file)
"""


def example(heading: str, lines: int) -> str:
    """The Python block below a heading, which promises how short it is."""
    section = README.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= lines
    return str(block)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the programs are, with the reader's own module beside them."""
    (tmp_path / "provider.py").write_text(PROVIDER)
    (tmp_path / "agent.py").write_text(example("An agent", 10))
    return tmp_path


@pytest.fixture
def tenants(daemon: Daemon) -> Daemon:
    """Two tenants whose keys this uid's agents may lease for chatting."""
    daemon.service("agents")
    for tenant in ("acme", "globex"):
        daemon.tenant(tenant, openai__prod=f"sk-{tenant}".encode(), db__main=b"pw")
        daemon.grant(tenant, "agents", "openai/*", purposes=["chat"])
    return daemon


def start(daemon: Daemon, folder: Path, program: str) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], "VAULTD_SOCKET": daemon.socket}
    return subprocess.run([sys.executable, program], cwd=folder, env=environment, timeout=60, check=False)


def calls(folder: Path) -> list[dict[str, object]]:
    """What the provider's module was called with, by whichever process."""
    return sorted((json.loads(file.read_text()) for file in folder.glob("called.*")), key=lambda call: str(call["key"]))


def test_the_agent_by_itself(tenants: Daemon, folder: Path) -> None:
    """Started as any program is, the agent gets its tenant's key and leaves no lease behind."""
    assert start(tenants, folder, "agent.py").returncode == 0
    assert [call["key"] for call in calls(folder)] == ["sk-acme"]
    assert list(tenants.admin.pages("lease.list", {"tenant": "acme"})) == []
    assert list(tenants.admin.pages("run.list", {"tenant": "acme"})) == []


def test_the_agent_under_vaultctl_run(tenants: Daemon, folder: Path) -> None:
    """README's line to start it in a run: the key comes over the socket, and is not in the environment."""
    (line,) = re.findall(r"`vaultctl (run [^`]* agent\.py)`", README)
    command = [sys.executable if word == "python" else word.strip("'") for word in line.split()]
    purpose = ["run", "--purpose", "chat", *command[1:]]
    for arguments in (command, purpose):
        done = tenants.ctl(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr.decode()
    assert {str(call["key"]) for call in calls(folder)} == {"sk-acme"}
    for call in calls(folder):
        assert "VAULTD_RUN_FD" in call["arguments"]  # type: ignore[operator]
        assert "OPENAI_API_KEY" not in call["arguments"]  # type: ignore[operator]


def test_the_orchestrator(tenants: Daemon, folder: Path) -> None:
    """Two tenants' workers, each a process that claims its run from the token it is handed; all is over at the end."""
    assert "`worker.py` is an agent as above, with `None` for the tenant" in README
    (folder / "worker.py").write_text((folder / "agent.py").read_text().replace('"acme"', "None"))
    (folder / "orchestrator.py").write_text(example("An orchestrator", 20))
    assert start(tenants, folder, "orchestrator.py").returncode == 0
    assert [call["key"] for call in calls(folder)] == ["sk-acme", "sk-globex"]
    assert len({call["pid"] for call in calls(folder)}) == 2
    for tenant in ("acme", "globex"):
        kinds = [json.loads(line)["body"]["kind"] for line in tenants.admin.audit_lines(keys={"tenant": tenant})]
        assert [kind for kind in kinds if kind.startswith("run.")] == ["run.open", "run.claim", "run.ended"]
        assert list(tenants.admin.pages("run.list", {"tenant": tenant})) == []


def test_the_agent_that_starts_one(tenants: Daemon, folder: Path) -> None:
    """The outer agent's program under vaultctl run: its sub-agent has a child run, for its own process, and no more."""
    (folder / "sub_agent.py").write_text((folder / "agent.py").read_text().replace('"acme"', "None"))
    (folder / "main_agent.py").write_text(example("Agents that start agents", 8))
    line = [
        "run",
        "--tenant",
        "acme",
        "--purpose",
        "chat",
        "--allow",
        "openai/*",
        "--",
        sys.executable,
        "main_agent.py",
    ]
    done = tenants.ctl(*line, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert [call["key"] for call in calls(folder)] == ["sk-acme"]
    bodies = [json.loads(line)["body"] for line in tenants.admin.audit_lines(keys={"tenant": "acme"})]
    top, child = (body for body in bodies if body["kind"] == "run.open")
    assert child["extra"]["parent"] == top["run"]
    assert [body["run"] for body in bodies if body["kind"] == "lease.acquire"] == [child["run"]]
    assert list(tenants.admin.pages("run.list", {"tenant": "acme"})) == []


def test_embedded(tmp_path: Path) -> None:
    """The six lines put a value into a vault and read it back, without a daemon."""
    Vault.create(tmp_path / "vault", passphrase=b"correct horse")
    with Vault.open(tmp_path / "vault", passphrase=b"correct horse") as vault:
        vault.create_tenant("acme")
    used: list[bytes] = []
    names = {
        "path": tmp_path / "vault",
        "ask": lambda: bytearray(b"correct horse"),
        "value": b"sk-embedded",
        "use": lambda view: used.append(bytes(view)),
    }
    exec(example("Embedded", 6), names)  # noqa: S102 - the program under test
    assert used == [b"sk-embedded"]
