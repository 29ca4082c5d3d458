"""What of runs is kept over a restart of the daemon: the runs themselves (`Run.to_dict`), what they have used, and who
stays confined.

What a run has used is kept apart from it: an acquisition that a budget bounds is kept of the run and of each above it,
whose scopes would be written anew every time.

A process stays confined when its run has ended, so that has to be kept as well: by the process's number, of which there
is one at a time, whatever number of runs it had.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.access.facts import Process
from vaultd.access.run import MOST_DEEP, Run
from vaultd.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Confined", "Used", "kept_run", "parents_first", "restored_run"]

_CONFINED: Final = "process_"
_USED: Final = "uses_"

_MOST_HELD: Final = 64
"""Secrets whose leases a run may take anew without counting: a record's header has little room."""


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


def _to_take_anew(run: Run, held: Iterable[tuple[bytes, int]]) -> list[list[Any]]:
    anew = Counter(run.anew)
    anew.update(held)
    return [[secret, version, count] for (secret, version), count in sorted(anew.items())[:_MOST_HELD]]


def _taken_anew(raw: Iterable[Any]) -> dict[tuple[bytes, int], int]:
    return {(bytes(secret), int(version)): int(count) for secret, version, count in raw}


class Used(NamedTuple):
    """What a run has used, and holds: of a run that is kept, and later than it was.

    Attributes:
        run: its id.
        uses, total, anew: as in `Run`.
    """

    run: str
    uses: dict[str, int]
    total: int
    anew: dict[tuple[bytes, int], int]

    @staticmethod
    def id_of(run_id: str) -> str:
        """What it is kept under."""
        return f"{_USED}{run_id}"

    @staticmethod
    def names(kept: str) -> bool:
        """Whether this id is of what a run has used."""
        return kept.startswith(_USED)

    @classmethod
    def kept(cls, run: Run, held: Iterable[tuple[bytes, int]] = ()) -> dict[str, Any]:
        """Plain data for storing; `held` as in `kept_run`."""
        used = {"uses": dict(run.uses), "total": run.total, "held": _to_take_anew(run, held)}
        return {"id": cls.id_of(run.id), "run": run.id, **used}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Used:
        """Back from the store.

        Raises:
            Invalid: something is missing or malformed.
        """
        try:
            uses = {str(grant): int(count) for grant, count in raw["uses"].items()}
            found = cls(str(raw["run"]), uses, int(raw["total"]), _taken_anew(raw["held"]))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise Invalid("what a stored run has used is malformed", "") from error
        if raw.get("id") != cls.id_of(found.run):
            raise Invalid("what a stored run has used is malformed", "")
        return found

    def give_to(self, run: Run) -> None:
        """Have the run as it was then. Never fewer uses than it has: no use is given back, whatever was read."""
        for grant, count in self.uses.items():
            run.uses[grant] = max(run.uses.get(grant, 0), count)
        run.total = max(run.total, self.total)
        run.anew = dict(self.anew)


def kept_run(run: Run, boot_id: str, held: Iterable[tuple[bytes, int]] = ()) -> dict[str, Any]:
    """A run as it is kept: its anchor and its deadline mean something in this boot only.

    Args:
        run: live.
        boot_id: this boot's.
        held: id of the secret and version of each of its live leases.
    """
    anchor = list(run.anchor._replace(boot_id=boot_id))
    return {**run.to_dict(), "anchor": anchor, "held": _to_take_anew(run, held)}


def restored_run(raw: Mapping[str, Any]) -> Run:
    """A run back from the store, its anchor still with the boot that it lived in.

    Raises:
        Invalid: something is missing or malformed.
    """
    run = Run.from_dict(raw)
    try:
        run.anew = _taken_anew(raw["held"])
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid("a stored run is malformed", "") from error
    return run


def parents_first(kept: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """What is kept, by id, each run behind the one that it was opened in, when that is kept too."""

    def above(one: Mapping[str, Any]) -> int:
        count = 0
        # No further than a tree is deep: what was read may say anything, a circle included.
        while count <= MOST_DEEP and type(parent := one.get("parent")) is str and parent in kept:
            one = kept[parent]
            count += 1
        return count

    return sorted(kept.items(), key=lambda item: above(item[1]))
