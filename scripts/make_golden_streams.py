#!/usr/bin/env python3
"""Write tests/vectors/golden/streams.json: streams of both algorithms, and the same with one fault each.

Small streams stand in it whole. Of those of whole chunks only what they are made of and their SHA-256 do: the content
is so many bytes of SHAKE-256 of a name. `full chunk` and `three chunks` have one key and id, so that nothing but number
and end tells their first chunks apart; writers never do that.

A fault is `pieces` of the examples, put one behind the other: `[example, begin, end]`, or bytes in hex. It says which
example's key, place, id and size the reader has, and the class of error that must come of it. Nothing is drawn, so the
file is the same on every run.

    python scripts/make_golden_streams.py [--check]
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from make_golden_crypto import GENERATION, SECRET, TARGET, TENANT, VAULT, VERSION, fixed, key

from vaultd.crypto.blobkeys import BlobKeys, stream_context
from vaultd.crypto.ciphers import Algorithm
from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.stream import HEADER, StreamSealer
from vaultd.crypto.values import pad

STREAMS = TARGET.with_name("streams.json")
CHUNK = 1 << 16
SIZES = {"one chunk": 20, "full chunk": CHUNK, "three chunks": 2 * CHUNK + 100, "other chunk": CHUNK}
NAMES = {Algorithm.XCHACHA20_POLY1305: "xchacha20-poly1305", Algorithm.AEGIS_256: "aegis-256"}

Piece = list[Any] | str
Fault = tuple[str, str, list[Piece], str]


def content(name: str, size: int) -> bytes:
    """What an example holds."""
    return hashlib.shake_256(b"vaultd golden stream " + name.encode()).digest(size)


def source(name: str) -> str:
    """Whose key and id an example has: its own, or those that two share."""
    return name.replace("full chunk", "shared").replace("three chunks", "shared")


def stream(name: str, algorithm: Algorithm, size: int) -> bytes:
    """One whole stream."""
    file, data_key = fixed(f"blob id {source(name)}", 16), key(f"data key {source(name)}")
    sealer = StreamSealer(data_key, stream_context(VAULT, TENANT, file), file, algorithm=algorithm, chunk=16)
    plain = content(name, size).ljust(pad(size), b"\0")
    out, parts = bytearray(sealer.sealed_chunk), [sealer.header]
    for at in range(0, len(plain), CHUNK):
        last = at + CHUNK >= len(plain)
        count = sealer.seal(plain[at : at + CHUNK], out, size=size if last else None)
        parts.append(bytes(out[:count]))
    return b"".join(parts)


def examples() -> dict[str, Any]:
    """Every example by name."""
    found: dict[str, Any] = {}
    wrapping = TenantKeys(key("tenant key")).data_key
    for algorithm, called in NAMES.items():
        for what, size in SIZES.items():
            name = f"{called}, {what}"
            made = stream(name, algorithm, size)
            found[name] = {
                "algorithm": int(algorithm),
                "vault": VAULT.hex(),
                "tenant": TENANT.hex(),
                "blob": fixed(f"blob id {source(name)}", 16).hex(),
                "data key": fixed(f"data key {source(name)}", 32).hex(),
                "size": size,
                "header": made[:HEADER].hex(),
                "content sha256": hashlib.sha256(content(name, size)).hexdigest(),
                "stream sha256": hashlib.sha256(made).hexdigest(),
                "length": len(made),
            }
            if size < CHUNK:
                found[name] |= {"content": content(name, size).hex(), "stream": made.hex()}
    wrapped = BlobKeys(VAULT, TENANT, GENERATION, wrapping).wrap(
        SECRET, VERSION, key("data key aegis-256, one chunk"), nonce=fixed("blob key nonce", 24)
    )
    found["wrapped key"] = {
        "tenant key": fixed("tenant key", 32).hex(),
        "vault": VAULT.hex(),
        "tenant": TENANT.hex(),
        "generation": GENERATION,
        "secret": SECRET.hex(),
        "version": VERSION,
        "data key": fixed("data key aegis-256, one chunk", 32).hex(),
        "wrapped": wrapped.hex(),
    }
    return found


def faults() -> list[Fault]:
    """Example whose place the reader is in, what was done, pieces, class of error."""
    found: list[Fault] = []
    for algorithm, called in NAMES.items():
        tag = algorithm.tag
        step = CHUNK + tag
        one, full, three, foreign = (f"{called}, {what}" for what in SIZES)
        small, end = HEADER + 64 + tag, HEADER + 2 * step + 4096 + tag
        head: list[Any] = [three, 0, HEADER]
        chunks: list[list[Any]] = [
            [three, HEADER, HEADER + step],
            [three, HEADER + step, HEADER + 2 * step],
            [three, HEADER + 2 * step, end],
        ]
        other = NAMES[Algorithm(3 - algorithm)]
        bad = "integrity"
        found += [
            (three, "empty", [], bad),
            (three, "header only", [head], bad),
            (three, "header cut", [[three, 0, HEADER - 1]], bad),
            (three, "last byte cut", [[three, 0, end - 1]], bad),
            (three, "last chunk dropped", [head, *chunks[:2]], bad),
            (three, "first chunk dropped", [head, *chunks[1:]], bad),
            (three, "middle chunk dropped", [head, chunks[0], chunks[2]], bad),
            (three, "chunks exchanged", [head, chunks[1], chunks[0], chunks[2]], bad),
            (three, "first chunk repeated in the second's place", [head, chunks[0], chunks[0], chunks[2]], bad),
            (three, "first chunk twice", [head, chunks[0], *chunks], bad),
            (three, "last chunk twice", [head, *chunks, chunks[2]], bad),
            (three, "byte appended", [[three, 0, end], "00"], bad),
            (three, "another stream behind it", [[three, 0, end], [one, 0, small]], bad),
            (three, "chunk of another stream", [head, [foreign, HEADER, HEADER + step], *chunks[1:]], bad),
            (three, "last chunk of another stream", [head, *chunks[:2], [one, HEADER, small]], bad),
            (three, "another stream's header", [[foreign, 0, HEADER], *chunks], bad),
            (full, "another stream", [[foreign, 0, HEADER + step]], bad),
            # The final flag: a whole chunk that is the last of its stream, and one that is not, in each other's place.
            (full, "a chunk that is not the last in the last one's place", [[full, 0, HEADER], chunks[0]], bad),
            (
                three,
                "a chunk that is the last in another one's place",
                [head, [full, HEADER, HEADER + step], *chunks[1:]],
                bad,
            ),
            (three, "a shorter one", [[full, 0, HEADER + step]], bad),
            (one, "the other algorithm's number", [[one, 0, 9], f"{3 - algorithm:02x}", [one, 10, small]], bad),
            (one, "the other algorithm's stream", [[f"{other}, one chunk", 0, HEADER + 64 + 48 - tag]], bad),
            (one, "algorithm 0", [[one, 0, 9], "00", [one, 10, small]], bad),
            (one, "algorithm 3", [[one, 0, 9], "03", [one, 10, small]], "format_version"),
            (one, "version 0", [[one, 0, 8], "00", [one, 9, small]], bad),
            (one, "version 2", [[one, 0, 8], "02", [one, 9, small]], "format_version"),
            (one, "other magic", ["00", [one, 1, small]], bad),
            (one, "chunks of 128 KiB", [[one, 0, 10], "11", [one, 11, small]], bad),
            (one, "chunks of 32 KiB", [[one, 0, 10], "0f", [one, 11, small]], bad),
            (one, "chunks of 2 MiB", [[one, 0, 10], "15", [one, 11, small]], bad),
            (one, "zeros that are none", [[one, 0, 11], "01", [one, 12, small]], bad),
            (one, "other id", [[one, 0, 16], "00" * 16, [one, 32, small]], bad),
            (one, "no commitment", [[one, 0, 32], "00" * 32, [one, 64, small]], bad),
            (one, "commitment of another stream", [[one, 0, 32], [foreign, 32, 64], [one, 64, small]], bad),
            (one, "ciphertext cleared", [[one, 0, 64], "00", [one, 65, small]], bad),
            (one, "tag cleared", [[one, 0, small - tag], "00" * tag], bad),
            (one, "tag cut off", [[one, 0, small - tag]], bad),
        ]
        found.append((f"{one}, size 19", "another size of the same padding", [[one, 0, small]], bad))
        found.append((f"{three}, size {2 * CHUNK + 99}", "another size of the same padding", [[three, 0, end]], bad))
    return found


def text() -> str:
    """The file."""
    listed = [
        {"reader": reader, "fault": fault, "pieces": pieces, "expect": expect}
        for reader, fault, pieces, expect in faults()
    ]
    return json.dumps({"examples": examples(), "faults": listed}, indent=1) + "\n"


def main() -> int:
    if "--check" in sys.argv[1:]:
        if STREAMS.read_text() != text():
            print(f"{STREAMS} is not what this code makes", file=sys.stderr)
            return 1
        return 0
    STREAMS.write_text(text())
    print(f"wrote {STREAMS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
