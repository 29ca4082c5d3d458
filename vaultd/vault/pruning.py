"""Taking whole segments off the journal's front, by a checkpoint of this vault; what is left goes on to verify."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaultd.audit.base import Base, TrailBase
from vaultd.audit.body import Event
from vaultd.audit.chain import GENESIS, Link, follow
from vaultd.audit.checkpoint import parse
from vaultd.audit.domain import SYSTEM_UID
from vaultd.audit.tags import Tag
from vaultd.errors import Conflict, FormatVersion, IntegrityError
from vaultd.vault.core import Core

if TYPE_CHECKING:
    from collections.abc import Generator

    from vaultd.audit.body import Actor
    from vaultd.audit.chain import Line
    from vaultd.audit.checkpoint import Checkpoint
    from vaultd.audit.receipt import Receipt

__all__ = ["PruneVerbs", "Pruning"]

_VAULT: Final = re.compile(r"vaultd/([0-9a-f]{32})\n")
_PAUSE: Final = 8
"""Lines that are walked between two moments at which others may have the processor."""


@dataclass(slots=True)
class Pruning:
    """What pruning by a checkpoint would take.

    Attributes:
        base: what the journal would begin after; that it begins after now, when nothing goes.
        lines, size, segments: what would go: how many lines, bytes, files.
        first, last: times of the first and last line that would go, as lines say them; empty when nothing goes.
        stays: lines before the checkpoint that stay, because their segment has later ones.
    """

    checkpoint: Checkpoint
    base: Base
    lines: int = 0
    size: int = 0
    segments: int = 0
    first: str = ""
    last: str = ""
    stays: int = 0


class PruneVerbs(Core):
    """See the module. All raise `Sealed` while the vault is."""

    def plan_pruning(self, signed: str) -> Generator[None, None, Pruning]:
        """Find what pruning by a checkpoint takes. Changes nothing; walks the journal up to the checkpoint.

        Args:
            signed: as `checkpoint` gave it.

        Returns:
            What would go. Yields now and then, so that others can be served.

        Raises:
            IntegrityError: it is no checkpoint, of another vault, not signed by this one, or does not fit the journal.
        """
        ledger = self.ledger
        said = _VAULT.match(signed)
        if said is not None and bytes.fromhex(said[1]) != ledger.vault_id:
            raise IntegrityError(
                f"the checkpoint is of vault {said[1]}, this one is {ledger.vault_id.hex()}",
                "give a file that 'audit checkpoint' wrote for this vault",
            )
        checkpoint = parse(signed, ledger.keyring.checkpoint_public)
        durable = ledger.journal.durable
        if checkpoint.size > durable.seq:
            raise IntegrityError(
                f"the journal has {durable.seq} lines; when the checkpoint was signed it had {checkpoint.size}",
                "it was cut, or an older copy of the vault was put back: find out before anything is removed",
            )
        plan = Pruning(checkpoint, ledger.base)
        yield from self._walk(plan, signed)
        return plan

    def _walk(self, plan: Pruning, signed: str) -> Generator[None]:
        journal, before, checkpoint = self.ledger.journal, plan.base, plan.checkpoint
        at, place, begun = Link(before.seq, before.head), before.begin.place, ""
        trails, rows = dict(before.trails), dict[bytes, TrailBase]()
        size = 0
        if at.seq > checkpoint.size:
            return  # it lies in what was pruned: there is nothing left to hold it against, and nothing to prune by it
        lines = journal.raw_from(place)
        while at.seq < checkpoint.size:
            raw, after = next(lines, (b"", place))
            try:
                line, at = follow(raw, at, first=not place.offset)
                if not isinstance(line, Tag):
                    _continue(line, rows, trails)
            except (IntegrityError, FormatVersion) as error:
                raise type(error)(
                    f"line {at.seq + 1} of the journal: {error.message}", "run 'vaultctl audit verify'"
                ) from error
            size += len(raw)
            begun = begun or line.time
            if after.segment != place.segment:  # a whole one, and not the one that is written to
                trails.update(rows)
                rows.clear()
                plan.base = Base(self.ledger.vault_id, after.segment, at.seq, at.head, signed, trails)
                plan.segments, plan.size, plan.first, plan.last = plan.segments + 1, size, begun, line.time
            place = after
            if not at.seq % _PAUSE:
                yield
        if at.head != checkpoint.head:
            raise IntegrityError(
                f"line {at.seq} of the journal is not the one that was signed",
                "it, or lines before it, were rewritten: find out before anything is removed",
            )
        plan.lines = plan.base.seq - before.seq
        plan.stays = checkpoint.size - plan.base.seq

    def prune(self, plan: Pruning, *, actor: Actor) -> Receipt | None:
        """Take off what `plan` says, in the next flush.

        Returns:
            The record's receipt; None when nothing goes, and nothing is recorded.

        Raises:
            Conflict: the journal was pruned since the plan was made.
            Halted: a flush failed before.
        """
        if not plan.lines:
            return None
        base = self.ledger.base
        if plan.base.seq - plan.lines != base.seq or plan.base.segment - plan.segments != base.segment:
            raise Conflict("the journal was pruned meanwhile", "look again at what there is to prune")
        public = {
            "begins": plan.base.seq + 1,
            "bytes": plan.size,
            "checkpoint": {"head": plan.checkpoint.head.hex(), "size": plan.checkpoint.size},
            "first": plan.first,
            "last": plan.last,
            "lines": plan.lines,
            "segments": plan.segments,
        }
        return self.ledger.stage_pruning(plan.base, Event("audit.prune", "ok", actor, public=public))


def _continue(line: Line, rows: dict[bytes, TrailBase], trails: dict[bytes, TrailBase]) -> None:
    uid = line.tenant or SYSTEM_UID
    known = rows.get(uid) or trails.get(uid) or TrailBase(0, GENESIS)
    if line.sub_seq != known.seq + 1:
        raise IntegrityError(f"record {line.sub_seq} of its trail stands where record {known.seq + 1} should")
    rows[uid] = TrailBase(line.sub_seq, line.sub_head)
