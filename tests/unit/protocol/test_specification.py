"""PROTOCOL.md says what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vaultd.protocol import (
    EVENTS,
    MAX_FRAME,
    MAX_HEADER,
    MAX_OUTSTANDING,
    MAX_REQUEST_HEADER,
    MAX_TAIL,
    MAX_VALUE,
    OPERATIONS,
    VERSION,
    Connection,
    Request,
    Role,
    codec,
    messages,
)

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "vaultd" / "protocol" / "PROTOCOL.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script that writes the tables."""
    found = importlib.util.spec_from_file_location("protocol_table", ROOT / "scripts" / "protocol_table.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_tables_are_what_the_script_writes(generator: ModuleType) -> None:
    """The generated parts are up to date (run scripts/protocol_table.py when this fails)."""
    assert generator.generated(DOCUMENT) == DOCUMENT


def test_every_operation_and_event_has_one_row() -> None:
    """Each operation and each push stands in exactly one row of a table."""
    rows = re.findall(r"^\| `([a-z.]+)`", DOCUMENT, re.MULTILINE)
    assert sorted(rows) == sorted([*OPERATIONS, *EVENTS, "v", "id", "op", "run"])


def test_worked_example_is_parsed_from_the_document() -> None:
    """The bytes printed in the document are a request that the server reads as the text says."""
    block = DOCUMENT.split("The request:")[1].split("The reply:")[0]
    frame = bytes.fromhex("".join(line[4:52] for line in block.splitlines() if line.startswith("    ")))
    server = Connection(Role.SERVER)
    server.receive_data(frame)
    request = server.next_event()
    assert isinstance(request, Request)
    assert (request.id, request.op, request.run) == (1, "lease.acquire", None)
    assert request.keys == {"tenant": "acme", "secret": "openai/prod", "ttl": 300}


@pytest.mark.parametrize(
    ("figure", "sentence"),
    [
        (MAX_FRAME, "length of what follows: 2 to {}"),
        (MAX_HEADER, "any header at most {}"),
        (MAX_REQUEST_HEADER, "a request's header has at most {} bytes"),
        (codec.MAX_TEXT, "one text or `bin` at most {} bytes"),
        (codec.MAX_ITEMS, "one array {} items"),
        (codec.MAX_KEYS, "one map {} keys"),
        (codec.MAX_DEPTH, "containers nest {} deep"),
        (MAX_OUTSTANDING, "at most {} wait at a time"),
        (MAX_TAIL, "A value of at most {} bytes (48 KiB)"),
        (MAX_VALUE, "Up to {} bytes (1 MiB), `value.begin`"),
        (messages.MAX_MESSAGE, "at most {} characters each"),
        (VERSION, "version {}"),
    ],
)
def test_figures_are_the_codes(figure: int, sentence: str) -> None:
    """Each bound that the prose names is the constant that is enforced."""
    assert sentence.format(f"{figure:,}") in re.sub(r"\s+", " ", DOCUMENT)
