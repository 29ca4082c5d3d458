"""The error tree and the table of codes are two views of one thing."""

from __future__ import annotations

import vaultd.errors as errors
from vaultd.protocol.codes import CODES, exit_code


def _classes() -> list[type[errors.VaultdError]]:
    return [
        c
        for n in errors.__all__
        if issubclass(c := getattr(errors, n), errors.VaultdError) and c is not errors.VaultdError
    ]


def test_every_error_has_a_code_of_the_table_and_every_code_an_error() -> None:
    """No code can be raised that scripts do not find in the table, and none stands there unused."""
    assert {c.code for c in _classes()} == set(CODES)


def test_no_two_errors_share_a_code() -> None:
    """A code says which error it was."""
    codes = [c.code for c in _classes()]
    assert len(codes) == len(set(codes))


def test_exit_codes_are_those_of_the_contract() -> None:
    """Only the contract's exit codes are used, and an unknown code is a failure."""
    assert {c.exit for c in CODES.values()} <= {2, 65, 66, 69, 70, 73, 74, 75, 76, 77, 78}
    assert exit_code("no-such-code") == 70
