"""Turns events into chained lines: the one way a record comes to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.audit.body import body_json, sub_link
from vaultd.audit.canonical import timestamp
from vaultd.audit.chain import link, render
from vaultd.audit.receipt import Receipt
from vaultd.audit.sealing import Session
from vaultd.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultd.audit.body import Event
    from vaultd.audit.chain import Vouch
    from vaultd.audit.domain import Domain
    from vaultd.audit.journal import Journal
    from vaultd.clock import Clock

__all__ = ["SESSION_NS", "Trail"]

SESSION_NS: Final = 60_000_000_000
"""How long a session key lives: it is what a thief of the running daemon could still open records with."""

_SALT: Final = 16
_SALTS_DRAWN: Final = 64


class Trail:
    """Writes records into a journal: body, sub-chain, sealing, line, chain. All in the thread that decides.

    A trail that is made anew (after a restart, after a failure) starts fresh sessions; it must be made anew whenever
    the journal is, because sequence numbers may then come again, and no session key may see one twice.

    Args:
        vault_id: 16 bytes.
        journal: resumed.
        clock: dates records, ends sessions.
        random: the source of salts.
        system: the system's trail.
    """

    def __init__(
        self, vault_id: bytes, journal: Journal, clock: Clock, random: Callable[[int], bytes], system: Domain
    ) -> None:
        self.system = system
        self._vault_id = vault_id
        self._journal = journal
        self._clock = clock
        self._random = random
        self._salts: list[str] = []
        self._sessions: dict[bytes, Session] = {}  # by start, so by end as well

    def record(self, event: Event, domain: Domain | None = None, heads: Sequence[Vouch] = ()) -> Receipt:
        """Stage one record.

        Args:
            event: what happened, or is about to.
            domain: whose trail; the system's when left out.
            heads: the sealed logs' new heads that this line vouches for.

        Returns:
            A receipt, durable once the flush that takes this line has succeeded.

        Raises:
            Halted: the journal failed before.
            Internal: the event says what a body cannot; nothing was staged.
        """
        domain = self.system if domain is None else domain
        journal = self._journal
        journal.require_open()
        seq = journal.seq + 1
        sub_seq = domain.sub_seq + 1
        time = timestamp(self._clock.wall())
        clear: str | None = None
        if domain.tenant_hex is None:
            clear = body_json(event, time, sub_seq, None)
        if clear is not None and not event.needs_sealing:
            head = sub_link(domain.sub_head, clear.encode("ascii"))
            rendered = render(seq, time, None, sub_seq, head.hex(), vault=self._vault_hex(), heads=heads, body=clear)
        else:
            body = body_json(event, time, sub_seq, self._salt()).encode("ascii")
            head = sub_link(domain.sub_head, body)
            session = self._session(domain, seq)
            try:
                rendered = render(
                    seq,
                    time,
                    domain.tenant_hex,
                    sub_seq,
                    head.hex(),
                    vault=self._vault_hex(),
                    heads=heads,
                    body=clear,
                    key=session.seq,
                    session=session.boxed if session.seq == seq else None,
                    sealed=session.seal(seq, body),
                )
            except BaseException:
                # This number may come again with another body, and must not under this key.
                self._sessions.pop(domain.uid).wipe()
                raise
        line, line_hash = link(journal.head, rendered)
        allowed = event.outcome == "ok"
        receipt = Receipt(
            seq,
            domain.uid,
            event.kind,
            secret_id=event.secret_id if allowed else None,
            version=event.version if allowed else None,
        )
        journal.stage(line, line_hash, receipt)
        domain.advance(head)
        return receipt

    def expire_sessions(self) -> None:
        """Wipe the keys of sessions that are over; to be called now and then, as a quiet trail never asks."""
        now = self._clock.boot()
        while self._sessions:
            uid, session = next(iter(self._sessions.items()))
            if session.expires > now:
                break
            self._forget(uid)

    def forget_sessions(self) -> None:
        """Wipe every session key: when the vault is sealed, when a segment ends, and before this trail is let go."""
        for uid in list(self._sessions):
            self._forget(uid)

    def _forget(self, uid: bytes) -> None:
        self._sessions.pop(uid).wipe()

    def _session(self, domain: Domain, seq: int) -> Session:
        now = self._clock.boot()
        session = self._sessions.get(domain.uid)
        if session is not None:
            if session.expires > now:
                return session
            self._forget(domain.uid)
        if domain.audit_public is None:
            raise Internal("a record has something to keep sealed before there is a key to seal it to")
        session = Session(self._vault_id, domain.uid, domain.audit_public, seq, now + SESSION_NS)
        self._sessions[domain.uid] = session
        return session

    def _salt(self) -> str:
        if not self._salts:  # many at once: asking the kernel for each would cost more than hashing the record
            drawn = self._random(_SALT * _SALTS_DRAWN).hex()
            self._salts = [drawn[at : at + 2 * _SALT] for at in range(0, len(drawn), 2 * _SALT)]
        return self._salts.pop()

    def _vault_hex(self) -> str | None:
        # The first line of each segment says whose it is, so that the chain binds every later one to the vault.
        return self._vault_id.hex() if self._journal.begins_segment else None
