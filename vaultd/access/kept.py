"""What of runs is kept over a restart of the daemon: the runs themselves (`Run.to_dict`), and who stays confined.

A process stays confined when its run has ended, so that has to be kept as well: by the process's number, of which there
is one at a time, whatever number of runs it had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.access.facts import Process
from vaultd.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaultd.access.run import Run

__all__ = ["Confined", "kept_run"]

_CONFINED: Final = "process_"


class Confined(NamedTuple):
    """A process that stays confined although the run that confined it has ended.

    Attributes:
        process: with the boot that it lives in.
        opener_uid: whose count it is in.
    """

    process: Process
    opener_uid: int

    @property
    def id(self) -> str:
        """What it is kept under: another process with the same number takes its place."""
        return f"{_CONFINED}{self.process.pid}"

    @staticmethod
    def names(kept: str) -> bool:
        """Whether this id is of a confined process and not of a run."""
        return kept.startswith(_CONFINED)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for storing."""
        return {"id": self.id, "process": list(self.process), "opener_uid": self.opener_uid}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Confined:
        """Back from the store.

        Raises:
            Invalid: something is missing or malformed.
        """
        try:
            found = cls(Process.of(raw["process"]), int(raw["opener_uid"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Invalid("a stored confinement is malformed", "") from error
        if raw.get("id") != found.id:
            raise Invalid("a stored confinement is malformed", "")
        return found


def kept_run(run: Run, boot_id: str) -> dict[str, Any]:
    """A run as it is kept: its anchor and its deadline mean something in this boot only."""
    return {**run.to_dict(), "anchor": list(run.anchor._replace(boot_id=boot_id))}
