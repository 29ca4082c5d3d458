"""The documents say what is so: links lead somewhere, code compiles, named tests exist, tables are current."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", ".git", "node_modules"} & set(path.relative_to(ROOT).parts) and path.name != "PLAN.md"
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_of_the_tree(document: Path) -> None:
    """Every relative link of every document names a file or folder that is there."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_documents_compiles(document: Path) -> None:
    """Every Python block parses, so nobody copies a typing error."""
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        ast.parse(block)


def test_no_document_is_empty() -> None:
    """Each document has a title first: none was emptied by a slip."""
    assert not [str(document) for document in DOCUMENTS if not document.read_text().startswith("# ")]


def test_every_promise_names_tests_that_exist() -> None:
    """Each test that THREAT_MODEL.md names beside a promise is a test of this tree, and every promise names one."""
    text = (ROOT / "THREAT_MODEL.md").read_text()
    rows = re.findall(r"^\| (P\d+) \|(.*)\|$", text, re.MULTILINE)
    assert rows, "no promises found"
    for number, row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, f"{number} names no test"
        for file, function in named:
            source = ROOT / file
            assert source.exists(), f"{number} names {file}"
            assert f"def {function}(" in source.read_text() or not function, f"{number} names {file}::{function}"
            if function:
                assert re.search(rf"(?:def|class) {function}\b", source.read_text()), f"{number} names {function}"


def test_the_table_of_exit_codes_is_the_generated_one() -> None:
    """README's exit codes are those of `vaultd/protocol/codes.py`."""
    table = subprocess.run(
        [sys.executable, ROOT / "scripts" / "error_table.py"], capture_output=True, text=True, check=True
    )
    assert table.stdout.strip() in (ROOT / "README.md").read_text()


def test_no_document_or_source_names_a_path_of_one_machine() -> None:
    """What is committed would read the same had it been written anywhere."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".service", ".lock", ""} and path.is_file():
            text = path.read_text(errors="replace")
            assert str(ROOT) + "/" not in text, name
            assert "/" + "root/" not in text, name
