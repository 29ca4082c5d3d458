"""Errors that are kept in cycles, as a server keeps them: collecting them must not bring the process down."""

from __future__ import annotations

import subprocess
import sys

import pytest

KEEPER = """
import gc
from vaultd.crypto.context import context
from vaultd.crypto.memory import Key
from vaultd.crypto.primitives import open_sealed, open_with_nonce, seal, seal_with_nonce
from vaultd.errors import IntegrityError

class Refusal:
    pass

def refused(key, {arguments}):
    refusal = Refusal()
    try:
        {call}
    except IntegrityError as error:
        refusal.error = error  # the error knows this frame, which knows the refusal

gc.disable()
with Key.random() as key:
    sealed = bytearray(seal(key, b"aad", b"text"))
    sealed[-1] ^= 1
    for _ in range(100):
        refused(key, {given})
gc.collect()
print("alive")
"""


@pytest.mark.parametrize(
    ("arguments", "call", "given"),
    [
        ("sealed", 'open_sealed(key, b"aad", memoryview(bytes(sealed))[:])', "sealed"),
        ("sealed", 'open_sealed(key, b"aad", sealed)', "memoryview(sealed)"),
        ("sealed", 'open_sealed(key, b"aad", sealed)', "sealed"),
        ("sealed", 'open_with_nonce(key, bytes(24), b"aad", sealed)', "memoryview(sealed)[24:]"),
    ],
)
def test_collecting_kept_errors(arguments: str, call: str, given: str) -> None:
    """A memoryview and a pointer into it, both known to a kept error, would be cleared in an order that crashes."""
    source = KEEPER.format(arguments=arguments, call=call, given=given)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
