"""The stable codes of replies and errors, and the exit code that each becomes in `vaultctl`.

Scripts may rely on both. A code is never renamed or reused; a reader that meets an unknown one treats it as a failure
(exit code 70). `scripts/error_table.py` generates the README's table from here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CODES", "Code", "exit_code"]


class Code(NamedTuple):
    """One code: the process exit code it becomes, and its meaning in a line."""

    exit: int
    meaning: str


CODES: Final[dict[str, Code]] = {
    "invalid": Code(2, "the request is malformed: a name, a duration, a selector, a combination"),
    "ambiguous_service": Code(2, "two services match this process: name one"),
    "integrity": Code(65, "sealed bytes or the audit chain do not verify"),
    "closed": Code(65, "this tenant's files do not verify; it stays closed, others serve on"),
    "not_found": Code(66, "no such tenant, secret, version, service, grant, run or lease (told to admins only)"),
    "unavailable": Code(69, "no daemon answers, or a part of the system is missing"),
    "sealed": Code(69, "the vault's or the tenant's keys are not loaded"),
    "uninitialised": Code(69, "there is no vault yet"),
    "locked": Code(69, "another process holds the vault directory"),
    "unsupported": Code(69, "the kernel lacks what this needs"),
    "internal": Code(70, "a bug: please report it"),
    "exists": Code(73, "the name is taken"),
    "conflict": Code(73, "another version is current, or another change of this kind is under way"),
    "io": Code(74, "the file system refused or failed"),
    "halted": Code(74, "a durable write failed; reopen the vault"),
    "throttled": Code(75, "too many requests; try again after the time in the hint"),
    "quota": Code(75, "a cap is reached: on live runs, leases or connections, or on what a tenant keeps"),
    "busy": Code(75, "the queue for deriving slot keys is full"),
    "protocol": Code(76, "the bytes do not follow PROTOCOL.md"),
    "denied": Code(77, "not allowed, or not there"),
    "wrong_secret": Code(77, "no key slot opens with this secret"),
    "config": Code(78, "the configuration is not acceptable"),
    "format_version": Code(78, "the files were written by a newer format"),
}


def exit_code(code: str) -> int:
    """The exit code (0 to 255) for a reply's code; unknown codes are failures: 70."""
    known = CODES.get(code)
    return known.exit if known is not None else 70
