"""Shell completion: a script for each shell, and answers with verbs, options and, for admins, names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from vaultclient.cli.completion import SHELLS

if TYPE_CHECKING:
    from pathlib import Path


def complete(*words: str, **environment: str) -> list[str]:
    """What vaultctl offers a bash for the last of the words."""
    asked = {"_VAULTCTL_COMPLETE": "bash_complete", "COMP_CWORD": str(len(words)), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "vaultclient.cli"],
        env={**os.environ, "COMP_WORDS": " ".join(["vaultctl", *words]), **asked},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_each_shell(ctl: Any, shell: str) -> None:
    """It calls vaultctl back, and where the shell is there, the shell accepts it."""
    done = ctl("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert f"_VAULTCTL_COMPLETE={shell}_complete" in done.text
    assert ctl("--json", "completion", shell).rows == [{"shell": shell, "script": ctl("completion", shell).text[:-1]}]
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=done.out, check=True, timeout=10)


def test_bash_completes_with_it(ctl: Any, tmp_path: Path) -> None:
    """In a real bash, the function that the script defines fills COMPREPLY."""
    vaultctl = tmp_path / "vaultctl"
    vaultctl.write_text(f'#!/bin/sh\nexec {sys.executable} -m vaultclient.cli "$@"\n')
    vaultctl.chmod(0o755)
    script = (
        f'PATH={tmp_path}:$PATH; eval "$(vaultctl completion bash)"\n'
        "COMP_WORDS=(vaultctl rot); COMP_CWORD=1; _vaultctl_completion vaultctl rot vaultctl\n"
        'printf "%s\\n" "${COMPREPLY[@]}"; complete -p vaultctl'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[0] == "rotate"
    assert "-F _vaultctl_completion vaultctl" in done.stdout
    assert done.stderr == ""


def test_verbs_and_options_are_offered(ctl: Any) -> None:
    """At the top, within a family, after an option, and for a value from a list."""
    assert {"rotate", "rollback", "run", "run-open", "run-close", "runs"} <= set(complete("r"))
    assert complete("tenant", "cr") == ["create"]
    assert complete("--json", "audit", "ver") == ["verify"]
    assert complete("put", "acme", "x", "--fi") == ["--file"]
    assert complete("completion", "z") == ["zsh"]
    assert complete("put", "a", "b", "too", "many", "") == []


def test_paths_are_left_to_the_shell(ctl: Any) -> None:
    """For a file or a directory the answer is its kind."""
    script = {"_VAULTCTL_COMPLETE": "bash_complete"}
    for words, kind in ((("put", "a", "b", "--file", ""), "file"), (("check", "--dir", ""), "dir")):
        done = subprocess.run(
            [sys.executable, "-m", "vaultclient.cli"],
            env={**os.environ, **script, "COMP_WORDS": " ".join(["vaultctl", *words]), "COMP_CWORD": str(len(words))},
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert done.stdout.startswith(kind + ",")


def test_names_are_offered_to_an_admin(ctl: Any, vault: Any) -> None:
    """Tenants, and the secrets of the tenant that stands before; page by page."""
    vault.tenants["acme"] = {f"openai/{n}": [b"x"] for n in range(5)}
    assert complete("secrets", "") == ["acme", "globex"]
    assert complete("run", "--tenant", "g") == ["globex"]
    assert complete("history", "acme", "openai/") == [f"openai/{n}" for n in range(5)]
    assert complete("history", "none", "") == []


def test_nobody_else_asks_for_names(ctl: Any, vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a ticket the question is not put: it would be a denial on record for each TAB. Nor without a daemon."""
    status = vault.op_status

    def not_admin(*arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = status(*arguments)
        return {**answer, "you": {**answer["you"], "admin": False}}

    monkeypatch.setattr(vault, "op_status", not_admin)
    assert complete("secrets", "") == []
    assert [op for op, _ in vault.asked] == ["status"]
    assert complete("--socket", "/no/such/socket", "secrets", "") == []
    assert complete("secrets", "", VAULTD_RUN="not a token") == []


@pytest.mark.parametrize("instruction", ["", "bash_source", "tcsh_complete", "complete"])
def test_other_instructions_are_refused(instruction: str) -> None:
    """Nothing is printed for what is no question of the three scripts."""
    done = subprocess.run(
        [sys.executable, "-m", "vaultclient.cli"],
        env={**os.environ, "_VAULTCTL_COMPLETE": instruction},
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_an_unknown_shell_is_refused(ctl: Any) -> None:
    """With the ones that are known."""
    done = ctl("completion", "tcsh")
    assert done.status == 2
    assert "bash" in done.err
    assert done.out == b""
