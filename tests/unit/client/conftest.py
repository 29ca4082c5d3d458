"""A small daemon for the client's tests: a real Unix socket, the shared sans-IO server half, and behaviour behind it.

It keeps secrets, runs and leases, gives values as tails or sealed memory files, insists on acknowledgements, pushes to
subscribers, and can misbehave on request: byte by byte, silent, cut, gone, restarted.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from vaultd.protocol import MAX_TAIL, Connection, LocalProtocolError, Malformed, RemoteProtocolError, Request, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Refusal(Exception):
    """What a handler raises to answer with a code."""

    def __init__(self, code: str, message: str = "refused", hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class Session:
    """One accepted connection: reads requests, sends frames; whole sends are atomic among threads."""

    def __init__(self, daemon: TinyDaemon, connected: socket.socket) -> None:
        self.daemon = daemon
        self.socket = connected
        self.connection = Connection(Role.SERVER)
        self.sending = threading.Lock()
        self.subscribed = False
        self.upload: bytearray | None = None

    def send(self, frame: bytes | bytearray, descriptor: int | None = None) -> None:
        with self.sending, contextlib.suppress(OSError):
            if descriptor is not None:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))]
                sent = self.socket.sendmsg([frame[:1] if self.daemon.chop else frame], rights)
                frame = frame[sent:]
            if self.daemon.chop:
                for index in range(len(frame)):
                    self.socket.sendall(frame[index : index + 1])
            else:
                self.socket.sendall(frame)

    def serve(self) -> None:
        try:
            while True:
                event = self.connection.next_event()
                if event is None:
                    data = self.socket.recv(1 if self.daemon.chop else 65_536)
                    if not data:
                        return
                    self.connection.receive_data(data)
                elif isinstance(event, Malformed):
                    self.send(self.connection.error(event.id, event.code, event.message))
                elif isinstance(event, Request):
                    self.daemon.handle(self, event)
        except RemoteProtocolError as error:
            self.send(self.connection.error(None, "protocol", error.message))
        except OSError:
            return
        finally:
            self.daemon.forget(self)
            self.socket.close()


class TinyDaemon:
    """The daemon's behaviour as far as a client can see it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.chop = False
        self.lease_seconds: Iterator[int] = itertools.repeat(3_600)
        self.renew_seconds: Iterator[int] = itertools.repeat(3_600)
        self.before: dict[str, Callable[[Session, Request], bool]] = {}
        """Per operation: called first; True means that it took care of the answer."""
        self.secrets: dict[tuple[str, str], list[bytes]] = {}
        self.runs: dict[bytes, dict[str, Any]] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.handled: list[str] = []
        self.seen = threading.Condition()
        self.state = "unsealed"
        self.numbers = itertools.count(1)
        self.sessions: list[Session] = []
        self.lock = threading.RLock()
        self.listener: socket.socket | None = None
        self.threads: list[threading.Thread] = []

    # -- life

    def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self._thread(self._accept, self.listener)

    def stop(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); close() alone does not
            listener.close()
        with self.lock:
            sessions = list(self.sessions)
        for session in sessions:
            with contextlib.suppress(OSError):
                session.socket.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
        self.threads.clear()

    def restart(self) -> None:
        """Leases die with the daemon; runs and secrets outlive it."""
        self.stop()
        self.leases.clear()
        self.start()

    def _thread(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            session = Session(self, connected)
            with self.lock:
                self.sessions.append(session)
            self._thread(session.serve)

    def forget(self, session: Session) -> None:
        with self.lock:
            if session in self.sessions:
                self.sessions.remove(session)

    # -- what a test asks of it

    def ops(self) -> list[str]:
        """Every operation asked for so far, acknowledgements left out."""
        with self.lock:
            return [request.op for request in self.requests if request.op != "ack"]

    def wait_for(self, op: str, times: int = 1) -> None:
        """Until `op` was asked for, and handled, that often (fails after ten seconds)."""
        with self.seen:
            assert self.seen.wait_for(lambda: self.handled.count(op) >= times, timeout=10), f"{op} never came"

    def push(self, event: str, **keys: Any) -> None:
        with self.lock:
            for session in self.sessions:
                if session.subscribed:
                    session.send(session.connection.push(event, keys))

    def revoke(self, lease: str, reason: str = "revoked") -> None:
        with self.lock:
            del self.leases[lease]
        self.push("lease.revoked", lease=lease, reason=reason)

    # -- what a client asks of it

    def handle(self, session: Session, request: Request) -> None:
        with self.lock:
            self.requests.append(request)
        before = self.before.get(request.op)
        if before is None or not before(session, request):
            self.answer(session, request)
        with self.seen:
            self.handled.append(request.op)
            self.seen.notify_all()

    def answer(self, session: Session, request: Request) -> None:
        connection = session.connection
        try:
            with self.lock:
                self._must_be_open(request)
                keys, value = getattr(self, "do_" + request.op.replace(".", "_"))(session, request)
        except Refusal as refusal:
            session.send(connection.error(request.id, refusal.code, refusal.message, refusal.hint))
            return
        if request.op == "lease.acquire" and (len(value) > MAX_TAIL or request.keys.get("memfd")):
            descriptor = os.memfd_create("value", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.write(descriptor, value)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
            try:
                session.send(connection.reply(request.id, keys, memfd=True), descriptor)
            except LocalProtocolError:
                session.send(connection.error(request.id, "unavailable", "a descriptor is not acknowledged yet"))
            finally:
                os.close(descriptor)
        else:
            session.send(connection.reply(request.id, keys, tail=value))

    def _must_be_open(self, request: Request) -> None:
        if self.state != "unsealed" and request.op not in {"status", "hello"}:
            raise Refusal("sealed", "the vault is sealed", "unseal it")

    def do_status(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        you = {"uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid(), "service": None, "admin": False}
        return {"state": self.state, "version": "0.1.0", "protocol": 1, "kernel": {}, "you": you}, b""

    def do_subscribe(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        session.subscribed = True
        return {}, b""

    def do_ack(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        return {}, b""

    def do_secret_put(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        value = bytes(session.upload or b"") if request.keys.get("upload") else bytes(request.tail)
        versions = self.secrets.setdefault((request.keys["tenant"], request.keys["secret"]), [])
        if request.keys.get("cas", len(versions)) != len(versions):
            raise Refusal("conflict", f"version {len(versions)} is current", "read it again")
        versions.append(value)
        return {"version": len(versions)}, b""

    def do_rotate_secret(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        keys, _ = self.do_secret_put(session, request)
        self.push("secret.rotated", tenant=request.keys["tenant"], secret=request.keys["secret"], **keys)
        return keys, b""

    def do_value_begin(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        session.upload = bytearray()
        return {}, b""

    def do_value_chunk(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        if session.upload is None or request.keys["offset"] != len(session.upload):
            raise Refusal("invalid", "chunks come in order")
        session.upload += request.tail
        return {"received": len(session.upload)}, b""

    def do_secret_list(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        names = sorted(name for tenant, name in self.secrets if tenant == request.keys["tenant"])
        names = [name for name in names if name > request.keys.get("after", "")]
        page = names[:2]
        return {"items": [{"secret": name} for name in page], **({"next": page[-1]} if len(names) > 2 else {})}, b""

    def do_run_open(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        token = bytes([next(self.numbers)]) * 32
        parent = self._run(request) if request.run else None
        tenant = request.keys["tenant"] if parent is None else parent["tenant"]
        if request.keys.get("tenant", tenant) != tenant:
            raise Refusal("denied", "not allowed, or not there")
        run = {"run": f"run_{next(self.numbers)}", "tenant": tenant, "scope": request.keys["scope"]}
        self.runs[token] = {**run, "parent": request.run, "uses": request.keys.get("uses"), "claimed": False}
        return {"run": run["run"], "token": token, "tenant": tenant, "expires_in": 3_600}, b""

    def do_run_claim(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        run = self._run(request)
        first, run["claimed"] = not run["claimed"], True
        return {
            "run": run["run"],
            "tenant": run["tenant"],
            "expires_in": 60,
            "claimed": first,
            "scope": run["scope"],
        }, b""

    def do_run_close(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        run = self._run(request)
        del self.runs[request.run or b""]
        self.push("run.ended", run=run["run"], reason="closed")
        return {}, b""

    def do_lease_acquire(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        run = self._run(request) if request.run else None
        tenant = run["tenant"] if run else request.keys.get("tenant")
        versions = self.secrets.get((tenant, request.keys["secret"]))
        if not versions:
            raise Refusal("denied", "not allowed, or not there", "ask an admin: vaultctl explain")
        version = request.keys.get("version", len(versions))
        lease = f"lease_{next(self.numbers)}"
        self.leases[lease] = {"run": request.run, "secret": request.keys["secret"]}
        keys = {
            "lease": lease,
            "secret": request.keys["secret"],
            "version": version,
            "expires_in": next(self.lease_seconds),
            "max_ttl": 3_600,
            "delivery": request.keys.get("delivery", "fd"),
            **({"run": run["run"]} if run else {}),
        }
        return keys, versions[version - 1]

    def do_lease_renew(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        self._lease(request)
        return {"expires_in": next(self.renew_seconds)}, b""

    def do_lease_release(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        self._lease(request)
        del self.leases[request.keys["lease"]]
        return {}, b""

    def do_audit_show(self, session: Session, request: Request) -> tuple[dict[str, Any], bytes]:
        after = int(request.keys.get("after", "0"))
        lines = [b'{"n":%d}\n' % n for n in range(after, min(after + 2, 5))]
        return {"next": str(after + len(lines)), "count": len(lines)}, b"".join(lines)

    def _run(self, request: Request) -> dict[str, Any]:
        run = self.runs.get(request.run or b"")
        if run is None:
            raise Refusal("denied", "not allowed, or not there")
        return run

    def _lease(self, request: Request) -> None:
        if request.keys["lease"] not in self.leases:
            raise Refusal("denied", "not allowed, or not there")


@pytest.fixture
def daemon(tmp_path: Any) -> Iterator[TinyDaemon]:
    """A running daemon that knows one secret of `acme`."""
    running = TinyDaemon(str(tmp_path / "vaultd.sock"))
    running.secrets["acme", "openai/prod"] = [b"sk-first"]
    running.start()
    yield running
    running.stop()
