#!/usr/bin/env python3
"""A file into the vault and out again, against cp and age in the same run, and how much memory it takes (P7).

python benchmarks/seal_files.py [--size MIB] [--dir DIR] [--rounds N]

DIR should be a tmpfs, so that the device does not decide. age is measured where it is installed (the program, or the
`pyrage` package); where it is not, the table says so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _machine import facts, table

from vaultd import Vault
from vaultd.crypto.ciphers import preferred
from vaultd.crypto.kdf import CHEAPEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.vault.embedded import Tenant

PASSPHRASE = "correct horse battery staple"
PIECE = 1 << 18


def read_out(acme: Tenant, target: Path) -> None:
    """What `get --out` does: every chunk verified, written, and no copy kept."""
    buffer = bytearray(PIECE)
    with acme.open("file") as file, open(target, "wb", buffering=0) as out, memoryview(buffer) as view:
        while count := file.readinto(view):
            out.write(view[:count])


def memory(field: str) -> int:
    """KiB of this process, from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"no {field}")


def measured(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds that a call takes, and by how many MiB the process was larger at its largest."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before, start = memory("VmRSS"), time.perf_counter()
    call()
    return time.perf_counter() - start, max(0, memory("VmHWM") - before) / 1024


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def age_calls(folder: Path, source: Path) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """What there is of age, and what there is not."""
    calls: dict[str, Callable[[], object]] = {}
    missing = []
    program, keygen = shutil.which("age"), shutil.which("age-keygen")
    if program and keygen:
        key = folder / "age.key"
        run(keygen, "-o", key)
        recipient = subprocess.run([keygen, "-y", key], check=True, capture_output=True, text=True).stdout.strip()
        calls["age, in"] = partial(run, program, "-r", recipient, "-o", folder / "a.age", source)
        calls["age, out"] = partial(run, program, "-d", "-i", key, "-o", folder / "a.out", folder / "a.age")
    else:
        missing.append("age is not installed: not measured")
    if importlib.util.find_spec("pyrage") is not None:
        pyrage: Any = importlib.import_module("pyrage")
        identity = pyrage.x25519.Identity.generate()
        sealed, opened = str(folder / "r.age"), str(folder / "r.out")
        calls["pyrage, in"] = lambda: pyrage.encrypt_file(str(source), sealed, [identity.to_public()])
        calls["pyrage, out"] = lambda: pyrage.decrypt_file(sealed, opened, [identity])
    else:
        missing.append("pyrage is not installed: not measured")
    return calls, missing


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1024, help="MiB of the file (1024)")
    parser.add_argument("--dir", default="/dev/shm", help="where files go (/dev/shm)")  # noqa: S108  a fresh folder in it
    parser.add_argument("--rounds", type=int, default=5, help="each is measured so often, in turn (5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        source = folder / "source"
        with source.open("wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(options.size):
                file.write(block)
        Vault.create(folder / "vault", passphrase=PASSPHRASE, profile=CHEAPEST)
        with Vault.open(folder / "vault", passphrase=PASSPHRASE, minimum=CHEAPEST) as vault:
            acme = vault.create_tenant("acme")
            acme.put_file("file", source)

            def put() -> None:
                # The file of before goes with its secret, as a copy's target would be overwritten.
                acme.delete("file")
                acme.put_file("file", source)

            calls: dict[str, Callable[[], object]] = {
                "cp": partial(run, "cp", "--reflink=never", source, folder / "copy"),
                "vault, in": put,
                "vault, out": partial(read_out, acme, folder / "out"),
            }
            others, missing = age_calls(folder, source)
            calls |= others
            best, grown = dict.fromkeys(calls, float("inf")), dict.fromkeys(calls, 0.0)
            for turn in range(options.rounds + 1):
                for what, call in calls.items():
                    seconds, more = measured(call)
                    if turn:  # the first round makes the files that the others overwrite
                        best[what] = min(best[what], seconds)
                    grown[what] = max(grown[what], more)
            if (folder / "out").read_bytes() != source.read_bytes():
                raise RuntimeError("another file came out")
    print(f"a file of {options.size} MiB, {preferred().name}, in {options.dir}; {facts()}\n")
    size = options.size << 20
    ours = [what for what in calls if what.startswith(("vault", "pyrage"))]
    table(
        ["", "GB/s", "× cp", "memory, MiB more"],
        [
            [
                what,
                f"{size / best[what] / 1e9:.2f}",
                f"{best['cp'] / best[what]:.2f}",
                f"{grown[what]:.1f}" if what in ours else "",
            ]
            for what in calls
        ],
    )
    for line in missing:
        print(f"\n{line}")


if __name__ == "__main__":
    main()
