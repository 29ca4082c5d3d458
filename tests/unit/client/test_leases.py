"""Keeping leases: when they are renewed, what a restart does, and what ends them."""

from __future__ import annotations

import gc
import os
import socket
import threading
from typing import Any

import pytest

from vaultclient import Client, errors
from vaultclient._calls import Answer, keys_of
from vaultclient._leases import HeldValue
from vaultclient._memory import read_descriptor, sealed_memfd
from vaultclient._schedule import LEAST_INTERVAL, RETRY_AFTER, Schedule
from vaultclient._transport import Descriptors
from vaultd.protocol import MAX_VALUE, codes


def held(seconds: int, name: str = "s") -> HeldValue:
    """A lease that was given for so many seconds."""
    lease = HeldValue("acme", name, None, {}, None)
    keys = {"lease": f"lease_{name}", "version": 1, "expires_in": seconds}
    lease._hold(Answer(keys, bytearray(b"value")))
    return lease


def test_lease_is_due_at_half_its_time() -> None:
    """A lease of 100 s taken at 1,000 is due at 1,050, and after its renewal then at 1,100."""
    schedule, lease = Schedule(), held(100)
    assert schedule.next_due() is None
    schedule.held(lease, 1_000.0)
    assert schedule.next_due() == 1_050.0
    assert schedule.take_due(1_049.9) is None
    assert schedule.take_due(1_050.0) is lease
    schedule.held(lease, 1_050.0)
    assert schedule.next_due() == 1_100.0


def test_lease_of_no_time_is_not_renewed_without_pause() -> None:
    """A lease that is given for zero seconds, as its run ends, is due a little later, not at once for ever."""
    schedule, lease = Schedule(), held(0)
    schedule.held(lease, 10.0)
    assert schedule.next_due() == 10.0 + LEAST_INTERVAL


def test_failed_renewal_is_tried_again_until_the_end() -> None:
    """A renewal that could not be made is due again soon, last at the lease's end."""
    schedule, lease = Schedule(), held(100)
    schedule.held(lease, 0.0)
    schedule.failed(lease, 50.0)
    assert schedule.next_due() == 50.0 + RETRY_AFTER
    schedule.failed(lease, 99.5)
    assert schedule.next_due() == 100.0
    assert not schedule.expired(lease, 99.9)
    assert schedule.expired(lease, 100.0)


def test_leases_are_due_in_order_and_dropped_ones_never() -> None:
    """Of many leases the earliest is due first; one that was dropped or entered anew is not found at its old place."""
    schedule = Schedule()
    leases = [held(seconds, f"s{seconds}") for seconds in (60, 20, 40, 80)]
    for lease in leases:
        schedule.held(lease, 0.0)
    schedule.drop(leases[1])
    schedule.drop(leases[1])
    schedule.held(leases[2], 100.0)
    order = []
    while (lease := schedule.take_due(1_000.0)) is not None:
        order.append(lease)
        schedule.drop(lease)
    assert order == [leases[0], leases[3], leases[2]]
    assert schedule.next_due() is None
    assert len(schedule) == 0


def test_all_due_makes_every_lease_due() -> None:
    """After a reconnection every lease is looked at once."""
    schedule = Schedule()
    for seconds in (60, 20):
        schedule.held(held(seconds, f"s{seconds}"), 0.0)
    schedule.all_due(1.0)
    assert schedule.next_due() == 1.0
    assert len(schedule.leases()) == 2


def waiter() -> tuple[threading.Event, list[str], Any]:
    """A callback for `on_revoked`, what it was told, and an event for when it was."""
    called, told = threading.Event(), []

    def on_revoked(lease: Any, reason: str) -> None:
        told.append(reason)
        called.set()

    return called, told, on_revoked


def test_lease_is_taken_anew_after_a_restart(daemon: Any) -> None:
    """When the daemon restarts, a lease goes on in its run under a new id, with the version and the value it had."""
    with Client(daemon.path, environ={}) as client:
        client._keeper()._schedule.retry_after = 0.0
        with client.run("acme", scope=["**"]) as run, run.lease("openai/prod") as lease:
            before, view = lease.id, lease.value
            daemon.secrets["acme", "openai/prod"].append(b"sk-second")
            daemon.restart()
            daemon.wait_for("lease.acquire", 2)
            assert [r.keys.get("version") for r in daemon.requests if r.op == "lease.acquire"] == [None, 1]
            assert bytes(view) == b"sk-first"
            daemon.wait_for("lease.renew")
            client.status()
            while lease.id == before:  # the keeper has the answer on its way; no clock is needed to wait for it
                client.status()
            assert lease.active
            assert list(daemon.leases) == [lease.id]
        assert not daemon.leases


def test_lease_waits_for_a_restarted_daemon_to_be_unsealed(daemon: Any) -> None:
    """A daemon that comes back sealed is asked again until somebody unseals it; the lease then goes on."""
    with Client(daemon.path, environ={}) as client:
        client._keeper()._schedule.retry_after = 0.0
        with client.run("acme", scope=["**"]) as run, run.lease("openai/prod") as lease:
            before = lease.id
            daemon.state = "sealed"
            daemon.restart()
            daemon.wait_for("subscribe", 4)
            assert lease.active
            daemon.state = "unsealed"
            daemon.wait_for("lease.acquire", 2)
            while lease.id == before:
                client.status()
            assert lease.active
            assert bytes(lease.value) == b"sk-first"


def test_lease_that_is_refused_for_now_is_asked_for_again(daemon: Any) -> None:
    """A restarted daemon that is too busy to give the lease at once is asked again; nothing is over before its time."""
    with Client(daemon.path, environ={}) as client:
        keeper = client._keeper()
        keeper._schedule.retry_after = 0.0
        with client.lease("acme", "openai/prod") as lease:
            before = lease.id
            refusals = iter([True, False])

            def busy(session: Any, request: Any) -> bool:
                if next(refusals, False):
                    session.send(session.connection.error(request.id, "throttled", "too many", "in a second"))
                    return True
                return False

            daemon.before["lease.acquire"] = busy
            daemon.restart()
            daemon.wait_for("lease.acquire", 3)
            while lease.id == before:
                client.status()
            assert lease.active


def test_lease_of_a_run_that_did_not_survive_is_over(daemon: Any) -> None:
    """When the client's own run is gone after a restart, its leases are too, although nobody may subscribe any more."""
    called, told, on_revoked = waiter()
    token = bytes(32)
    daemon.runs[token] = {"run": "run_x", "tenant": "acme", "scope": ["**"], "parent": None, "claimed": True}

    def only_in_a_run(session: Any, request: Any) -> bool:
        if request.run in daemon.runs:
            return False
        session.send(session.connection.error(request.id, "denied", "not allowed, or not there"))
        return True

    daemon.before["subscribe"] = only_in_a_run
    with Client(daemon.path, run=token, environ={}, on_revoked=on_revoked) as client:
        client._keeper()._schedule.retry_after = 0.0
        with client.lease(None, "openai/prod"):
            daemon.runs.clear()
            daemon.restart()
            assert called.wait(10)
            assert told == ["not allowed, or not there"]


def test_lease_that_a_restarted_daemon_refuses_is_over(daemon: Any) -> None:
    """When the lease is not given again, its holder is told why and the value is gone."""
    called, told, on_revoked = waiter()
    with Client(daemon.path, environ={}, on_revoked=on_revoked) as client:
        client._keeper()._schedule.retry_after = 0.0
        with client.lease("acme", "openai/prod") as lease:
            view = lease.value
            daemon.secrets.clear()
            daemon.restart()
            assert called.wait(10)
            assert told == ["not allowed, or not there"]
            assert bytes(view) == bytes(8)


def test_lease_expires_while_the_daemon_is_away(daemon: Any) -> None:
    """A daemon that does not come back ends the lease at its time, not before and not never."""
    called, told, on_revoked = waiter()
    clock = [0.0]
    with Client(daemon.path, environ={}, on_revoked=on_revoked) as client:
        keeper = client._keeper()
        keeper._schedule.retry_after, keeper._now = 0.0, lambda: clock[0]
        with client.lease("acme", "openai/prod") as lease:
            view = lease.value
            daemon.stop()
            assert lease.active
            assert bytes(view) == b"sk-first"
            clock[0] = 3_601.0
            assert called.wait(10)
            assert told == ["expired while the daemon was away"]
            assert bytes(view) == bytes(8)


@pytest.mark.parametrize(
    ("event", "keys", "reason"),
    [
        ("run.ended", {"run": "RUN", "reason": "its anchor died"}, "its run ended: its anchor died"),
        ("vault.sealed", {}, "the vault was sealed"),
    ],
)
def test_end_of_the_run_or_the_vault_ends_the_lease(daemon: Any, event: str, keys: dict[str, str], reason: str) -> None:
    """A lease ends with its run, and with the vault's keys."""
    called, told, on_revoked = waiter()
    with (
        Client(daemon.path, environ={}) as client,
        client.run("acme", scope=["**"]) as run,
        run.lease("openai/prod", on_revoked=on_revoked) as lease,
    ):
        daemon.push(event, **{key: run.id if value == "RUN" else value for key, value in keys.items()})
        assert called.wait(10)
        assert told == [reason]
        assert lease.ended == reason


@pytest.mark.parametrize("event", ["tenant.sealed", "tenant.contained"])
def test_end_of_the_tenant_ends_its_leases_only(daemon: Any, event: str) -> None:
    """A sealed or contained tenant's leases end; another tenant's go on."""
    daemon.secrets["globex", "openai/prod"] = [b"sk-globex"]
    called, told, on_revoked = waiter()
    with (
        Client(daemon.path, environ={}, on_revoked=on_revoked) as client,
        client.run("acme", scope=["**"]) as run,
        run.lease("openai/prod") as mine,
        client.lease("globex", "openai/prod") as other,
    ):
        daemon.push(event, tenant="acme")
        assert called.wait(10)
        assert told == [event.replace("tenant.", "its tenant was ")]
        assert not mine.active
        assert other.active


def test_other_peoples_revocations_are_no_concern(daemon: Any) -> None:
    """A push about another lease or run ends nothing here; a lease revoked before it was kept is over at once."""
    called, told, on_revoked = waiter()

    def revoke_early(session: Any, request: Any) -> bool:
        daemon.answer(session, request)
        daemon.revoke(next(reversed(daemon.leases)), "early")
        return True

    with (
        Client(daemon.path, environ={}, on_revoked=on_revoked) as client,
        client.lease("acme", "openai/prod") as lease,
    ):
        daemon.push("lease.revoked", lease="lease_other")
        daemon.push("run.ended", run="run_other")
        daemon.push("secret.rotated", tenant="acme", secret="openai/prod", version=2)
        daemon.before["lease.acquire"] = revoke_early
        with client.lease("acme", "openai/prod") as second:
            assert called.wait(10)
            assert told == ["early"]
            assert not second.active
        assert lease.active


def test_broken_callback_does_not_stop_renewals(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that raises is reported as an error of its thread; other leases are renewed all the same."""
    reported = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.set())

    def on_revoked(lease: Any, reason: str) -> None:
        raise RuntimeError("a bug of the caller's")

    with Client(daemon.path, environ={}, on_revoked=on_revoked) as client, client.lease("acme", "openai/prod") as first:
        daemon.revoke(first.id)
        assert reported.wait(10)
        daemon.lease_seconds = iter([0])
        with client.lease("acme", "openai/prod") as second:
            daemon.wait_for("lease.renew")
            assert second.active


def test_release_of_what_is_over_is_no_error(daemon: Any) -> None:
    """Leaving a block whose lease the daemon no longer knows, or whose daemon is gone, is no error of the block."""
    with Client(daemon.path, environ={}) as client:
        with client.lease("acme", "openai/prod"):
            daemon.leases.clear()
        with client.lease("acme", "openai/prod") as lease:
            view = lease.value
            daemon.stop()
        assert bytes(view) == bytes(8)


def test_error_of_the_block_comes_through(daemon: Any) -> None:
    """An exception inside a lease is the one that leaves the block, and the value is wiped."""
    with Client(daemon.path, environ={}) as client:
        lease = client.lease("acme", "openai/prod")
        daemon.before["lease.release"] = lambda session, request: True  # the release will not be answered

        def block() -> None:
            with lease:
                client._channel.timeout = 0.05
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            block()
        with pytest.raises(errors.LeaseEnded):
            _ = lease.value


def test_closing_does_not_wait_for_a_renewal_that_hangs(daemon: Any) -> None:
    """A client whose renewal the daemon does not answer closes at once, and a lease left open then is no trouble."""
    daemon.before["lease.renew"] = lambda session, request: True  # never answers
    daemon.lease_seconds = iter([0])
    client = Client(daemon.path, environ={}, timeout=600)
    lease = client.lease("acme", "openai/prod")
    lease.__enter__()
    daemon.wait_for("lease.renew")
    thread = client._keeper()._thread
    client.close()
    assert thread is not None
    assert not thread.is_alive()
    lease.__exit__(None, None, None)
    client.close()
    assert lease.ended


def test_manual_lease_is_the_callers(daemon: Any) -> None:
    """`acquire`, `renew` and `release` do each one thing, without a background thread."""
    with Client(daemon.path, environ={}) as client:
        lease = client.lease("acme", "openai/prod", ttl=60)
        with pytest.raises(errors.LeaseEnded, match="not acquired"):
            lease.renew()
        assert lease.acquire() is lease
        assert lease.renew() == 3_600
        assert lease.renew(5) == 3_600
        assert [r.keys.get("ttl") for r in daemon.requests if r.op == "lease.renew"] == [60, 5]
        lease.release()
        lease.release()
        assert daemon.ops().count("lease.release") == 1
        assert "subscribe" not in daemon.ops()
        with pytest.raises(errors.LeaseEnded, match="released"):
            lease.renew()


def test_nothing_shows_a_value_or_a_token(daemon: Any) -> None:
    """Reprs of clients, leases, runs and answers show names and states only."""
    with Client(daemon.path, environ={}) as client, client.run("acme", scope=["**"]) as run:
        with run.lease("openai/prod") as lease:
            shown = [repr(thing) for thing in (client, run, lease, client.call("status"))]
            assert run.token.hex() not in "".join(shown)
            for text in shown:
                assert "sk-first" not in text
                assert str(run.token) not in text
        assert "acme" in repr(run)
        assert "openai/prod" in repr(lease)
    with pytest.raises(errors.Invalid, match="not open"):
        _ = run.token


def test_descriptors_are_all_given_back(daemon: Any) -> None:
    """Leases, large values, runs and restarts leave no descriptor open behind them."""
    daemon.secrets["acme", "big"] = [b"b" * 100_000]
    with Client(daemon.path, environ={}) as client:
        client.status()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Client(daemon.path, environ={}) as client, client.run("acme", scope=["**"]) as run:
            os.close(run.open_fd())
            with run.lease("openai/prod") as small, run.lease("big") as large:
                small.fd()
                large.fd()
            with client.call("lease.acquire", {"tenant": "acme", "secret": "big"}) as answer:
                assert answer.fd is not None
    daemon.stop()
    daemon.start()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def send_descriptors(count: int) -> Descriptors:
    """Have so many descriptors arrive in one message."""
    descriptors = Descriptors()
    left, right = socket.socketpair()
    opened = [sealed_memfd("d", b"x") for _ in range(count)]
    rights = b"".join(number.to_bytes(4, "little") for number in opened)
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    for number in opened:
        os.close(number)
    _, ancillary, flags, _ = right.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    left.close()
    right.close()
    try:
        descriptors.receive(ancillary, flags)
    except BaseException:
        descriptors.close()
        raise
    return descriptors


def test_second_descriptor_is_refused_and_closed() -> None:
    """A server that sends two descriptors at once gets an error, and none of them stays open here."""
    before = len(os.listdir("/proc/self/fd"))
    descriptors = send_descriptors(1)
    number = descriptors.take()
    assert os.pread(number, 9, 0) == b"x"
    assert not os.get_inheritable(number)
    os.close(number)
    with pytest.raises(errors.ProtocolError, match="more descriptors"):
        send_descriptors(2)
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptor_that_did_not_come_is_an_error() -> None:
    """A reply that announces a descriptor and has none, or whose descriptor the kernel dropped, gives no value."""
    descriptors = Descriptors()
    with pytest.raises(errors.ProtocolError, match="sent none"):
        descriptors.take()
    descriptors.receive([], socket.MSG_CTRUNC)
    with pytest.raises(errors.Unavailable, match="lost on the way") as caught:
        descriptors.take()
    assert "too many files" in caught.value.hint


def test_descriptor_that_is_no_sealed_value_is_refused() -> None:
    """A file, an unsealed memory file, an empty and a too long one: none of them is taken for a value."""
    unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(unsealed, b"x")
    reader, writer = os.pipe()
    for descriptor in (unsealed, reader, writer, sealed_memfd("x", b""), sealed_memfd("x", bytes(MAX_VALUE + 1))):
        with pytest.raises(errors.ProtocolError):
            read_descriptor(descriptor)
        os.close(descriptor)
    longest = sealed_memfd("x", bytes(MAX_VALUE))
    assert len(read_descriptor(longest)) == MAX_VALUE
    assert os.lseek(longest, 0, os.SEEK_CUR) == 0
    os.close(longest)


def test_every_code_becomes_an_error_with_its_exit_code() -> None:
    """Codes with a class of their own and those without, known and unknown, carry code, message, hint and exit code."""
    for code, known in codes.CODES.items():
        error = errors.from_code(code, "message", "hint")
        assert (error.code, error.message, error.hint, error.exit_code) == (code, "message", "hint", known.exit)
        assert str(error) == "message"
    assert errors.from_code("some_later_code", "m").exit_code == 70
    assert isinstance(errors.from_code("quota", "m"), errors.Throttled)


def test_keys_left_out_are_not_sent() -> None:
    """None stands for an optional key left out; sequences become lists; zero and False are sent."""
    assert keys_of(a=None, b=0, c=False, d=("x",), e="") == {"b": 0, "c": False, "d": ["x"], "e": ""}
