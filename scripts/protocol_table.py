#!/usr/bin/env python3
"""Write the generated parts of vaultd/protocol/PROTOCOL.md: `protocol_table.py`, or `--check` to only compare.

The tables come from vaultd/protocol/operations.py, the example's bytes from the code that sends them, so the
specification cannot drift from what runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vaultd.protocol import COMMON_CODES, EVENTS, OPERATIONS, Connection, Role, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaultd.protocol.fields import Kind
    from vaultd.protocol.operations import Operation, Tail

SPECIFICATION = Path(__file__).resolve().parent.parent / "vaultd" / "protocol" / "PROTOCOL.md"

NAMED = {
    "bool": fields.BOOL,
    "u32": fields.UINT32,
    "seconds": fields.DURATION,
    "instant": fields.INSTANT,
    "token": fields.TOKEN,
    "name": fields.NAME,
    "secret": fields.SECRET,
    "word": fields.WORD,
    "cursor": fields.CURSOR,
    "description": fields.DESCRIPTION,
    "text": fields.TEXT,
    "path": fields.PATH,
    "size": fields.SIZE,
    "map": fields.ANY_MAP,
    "items": fields.ITEMS,
}
"""What the tables call the kinds that several keys have; the first name of a kind is used."""


def kind_name(kind: Kind) -> str:
    """A kind as the tables show it."""
    return next((name for name, known in NAMED.items() if known is kind), kind.label)


def shown_keys(required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> str:
    """Keys with their kinds, optional ones with `?`."""
    parts = [f"`{key}` {kind_name(kind)}" for key, kind in required.items()]
    parts += [f"`{key}`? {kind_name(kind)}" for key, kind in optional.items()]
    return "; ".join(parts)


def shown_tail(tail: Tail) -> str:
    """A tail's meaning and bounds."""
    return f"**tail**: {tail.what}, {tail.least}–{tail.most:,} bytes" if tail.most else ""


def shown_message(required: Mapping[str, Kind], optional: Mapping[str, Kind], tail: Tail) -> str:
    """Keys and tail in one cell."""
    return "<br>".join(part for part in (shown_keys(required, optional), shown_tail(tail)) if part) or "–"


def operation_row(operation: Operation) -> str:
    """One operation as a table row."""
    reply = shown_message(operation.reply, operation.reply_optional, operation.reply_tail)
    if operation.items:
        reply += f"<br>**item**: {shown_keys(operation.items, operation.items_optional)}"
    cells = (
        f"`{operation.name}`<br>{operation.meaning}",
        shown_message(operation.required, operation.optional, operation.tail),
        reply,
        operation.who,
        " ".join(f"`{code}`" for code in operation.codes) or "–",
    )
    return "| " + " | ".join(cells) + " |"


def kinds() -> str:
    """The named kinds."""
    return "\n".join(["| kind | is |", "|---|---|", *(f"| {name} | {kind.label} |" for name, kind in NAMED.items())])


def operations() -> str:
    """Every operation."""
    common = " ".join(f"`{code}`" for code in COMMON_CODES)
    return "\n".join(
        [
            f"Any operation can answer {common}; the last column lists the further ones.",
            "",
            "| operation | request | reply | who may | codes |",
            "|---|---|---|---|---|",
            *map(operation_row, OPERATIONS.values()),
        ]
    )


def events() -> str:
    """Every push."""
    rows = (f"| `{e.name}` | {shown_keys(e.required, e.optional) or '–'} | {e.meaning} |" for e in EVENTS.values())
    return "\n".join(["| event | keys | when |", "|---|---|---|", *rows])


def example_frames() -> tuple[bytes, bytes]:
    """The worked example's request and reply."""
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    keys = {"tenant": "acme", "secret": "openai/prod", "ttl": 300}
    number, request = client.request("lease.acquire", keys)
    server.receive_data(request)
    server.next_event()
    lease = {
        "lease": "lease_abcdefghijklmnopqrst",
        "secret": "openai/prod",
        "version": 1,
        "expires_in": 300,
        "max_ttl": 3_600,
        "delivery": "fd",
    }
    return bytes(request), bytes(server.reply(number, lease, tail=b"sk-test"))


def dump(frame: bytes) -> str:
    """Bytes as lines of sixteen, in hex and in ASCII."""
    lines = []
    for start in range(0, len(frame), 16):
        row = frame[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"    {row.hex(' '):<47}  {text}")
    return "\n".join(lines)


def example() -> str:
    """The worked example."""
    request, reply = example_frames()
    return f"The request:\n\n{dump(request)}\n\nThe reply:\n\n{dump(reply)}"


def generated(document: str) -> str:
    """The document with every generated part brought up to date."""
    for name, make in {"example": example, "kinds": kinds, "operations": operations, "events": events}.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        if document.count(begin) != 1 or document.count(end) != 1:
            raise SystemExit(f"PROTOCOL.md must have one part named {name}")
        before, _, rest = document.partition(begin)
        document = before + begin + make() + "\n" + end + rest.partition(end)[2]
    return document


def main() -> int:
    """Write, or with --check compare; 1 when they differ."""
    document = SPECIFICATION.read_text(encoding="utf-8")
    wanted = generated(document)
    if "--check" in sys.argv[1:]:
        if wanted != document:
            print("PROTOCOL.md is not what scripts/protocol_table.py writes: run it", file=sys.stderr)
            return 1
        return 0
    SPECIFICATION.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
