"""A small vault behind a real socket for the command line's tests, and vaultctl as a function and as a process."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from vaultclient import cli
from vaultd.protocol import MAX_TAIL, Connection, Malformed, RemoteProtocolError, Request, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PASSPHRASE = b"correct horse battery staple"


class Refused(Exception):
    """An answer with `ok` false."""

    def __init__(self, code: str, message: str = "refused", hint: str = "") -> None:
        super().__init__(code)
        self.code, self.message, self.hint = code, message, hint


@dataclass
class Peer:
    """One connection, and who is on its other end."""

    sock: socket.socket
    wire: Connection
    pid: int
    session: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    watches: str | None = None
    upload: bytearray = field(default_factory=bytearray)

    def send(self, frame: bytearray, descriptor: int | None = None) -> None:
        with self.lock:
            if descriptor is None:
                self.sock.sendall(frame)
            else:
                socket.send_fds(self.sock, [frame], [descriptor])


@dataclass
class RunState:
    """A live run: who anchors it (pid, session), and what it may."""

    id: str
    tenant: str
    anchor: int
    session: int
    scope: list[str]
    pidfd: int


class Vault:
    """Behaves as vaultd does where vaultctl can tell: state, secrets, runs tied to processes, leases, pushes.

    Not here: grants (everything in a run's scope is granted, `denied_secrets` apart), audit sealing, durability.
    """

    def __init__(self) -> None:
        self.state = "unsealed"
        self.tenants: dict[str, dict[str, list[bytes]]] = {"acme": {}, "globex": {}}
        self.services: dict[str, dict[str, Any]] = {}
        self.grants: dict[str, list[dict[str, Any]]] = {}
        self.passwd = b""
        self.slots: dict[int, dict[str, Any]] = {1: {"slot": 1, "kind": "passphrase", "label": "", "created": 1}}
        self.runs: dict[bytes, RunState] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.denied_secrets: set[str] = set()
        self.records: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.lease_ttl = 300
        self.page = 2
        self.renewed = threading.Event()
        self.peers: list[Peer] = []
        self.lock = threading.RLock()

    def do(self, peer: Peer, request: Request) -> Any:
        """What an operation does: the reply's keys, or (keys, value)."""
        if self.state == "sealed" and request.op not in {"status", "unseal", "login", "hello"}:
            raise Refused("sealed", "the vault is sealed", "vaultctl unseal")
        return getattr(self, "op_" + request.op.replace(".", "_"))(peer, request.keys, request)

    def op_hello(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return {"version": "0.1.0", "protocol": 1, "features": []}

    def op_status(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        you = {"uid": os.getuid(), "gid": os.getgid(), "pid": peer.pid, "service": None, "admin": True}
        kernel = {"pidfd": "used", "peergroups": "used", "exe": "refused"}
        return {
            "state": self.state, "vault": "ab" * 16, "version": "0.1.0", "protocol": 1, "kernel": kernel, "you": you,
        }  # fmt: skip

    def op_unseal(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._check_secret(request)
        self.state = "unsealed"
        return {"expires_in": 900, "slot": 1}

    def op_seal(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if "tenant" not in keys:
            self.state = "sealed"
            self.push("vault.sealed", {})
        else:
            self._tenant(keys)
            self.push("tenant.sealed", {"tenant": keys["tenant"]})
        return {}

    def op_login(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._check_secret(request)
        return {"expires_in": keys.get("ttl", 900), "slot": 1}

    def op_logout(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return {"ended": 1}

    def op_slot_add(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        number = max(self.slots) + 1
        self.slots[number] = {"slot": number, "kind": keys["kind"], "label": keys.get("label", ""), "created": 2}
        return {"slot": number}

    def op_slot_list(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return {"items": list(self.slots.values())}

    def op_slot_passwd(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if keys["slot"] not in self.slots:
            raise Refused("not_found", "no such slot")
        old, self.passwd = bytes(request.tail[: keys["old"]]), bytes(request.tail[keys["old"] :])
        if old != PASSPHRASE:
            raise Refused("wrong_secret", "no key slot opens with this secret")
        return {}

    def op_slot_remove(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if keys["slot"] not in self.slots:
            raise Refused("not_found", "no such slot")
        if len(self.slots) == 1:
            raise Refused("conflict", "this is the last slot")
        del self.slots[keys["slot"]]
        return {"receipt": {"rotated": "root"}} if keys.get("rotate_root") else {}

    def op_tenant_create(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if keys["tenant"] in self.tenants:
            raise Refused("exists", f"tenant {keys['tenant']} is there already", "choose another name")
        self.tenants[keys["tenant"]] = {}
        return {"uid": "00" * 16}

    def op_tenant_list(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return self._page([{"tenant": name, "state": "open", "created": 1_790_000_000} for name in self.tenants], keys)

    def op_tenant_show(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        secrets_ = self._tenant(keys)
        about = {"state": "open", "created": 1_790_000_000, "secrets": len(secrets_), "audit": {"records": 7}}
        return {"about": about}

    def op_tenant_delete(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._tenant(keys)
        if keys["confirm"] != keys["tenant"]:
            raise Refused("invalid", "not confirmed")
        del self.tenants[keys["tenant"]]
        receipt = {"gone": ["tenant key", "data keys"], "audit": "kept"}
        return {"receipt": receipt}

    def op_value_begin(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        peer.upload = bytearray()
        return {}

    def op_value_chunk(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if keys["offset"] != len(peer.upload):
            raise Refused("invalid", "out of order")
        peer.upload += request.tail
        return {"received": len(peer.upload)}

    def op_secret_put(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        versions = self._tenant(keys).setdefault(keys["secret"], [])
        if keys.get("cas", len(versions)) != len(versions):
            raise Refused("conflict", f"version {len(versions)} is current", "look at the history")
        versions.append(bytes(peer.upload if keys.get("upload") else request.tail))
        return {"version": len(versions)}

    def op_rotate_secret(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if keys["secret"] not in self._tenant(keys):
            raise Refused("not_found", "no such secret")
        return {**self.op_secret_put(peer, keys, request), "holders": len(self.leases)}

    def op_secret_get(self, peer: Peer, keys: dict[str, Any], request: Request) -> tuple[dict[str, Any], bytes]:
        version, value = self._value(keys)
        return {"version": version, "state": "current"}, value

    def op_secret_list(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        items = [
            {"secret": name, "version": len(values), "updated": 1_790_000_000, "description": "x\x1b[31m" + "y" * 90}
            for name, values in self._tenant(keys).items()
        ]
        return self._page(items, keys)

    def op_secret_history(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._value(keys)
        count = len(self.tenants[keys["tenant"]][keys["secret"]])
        states = ["retired"] * (count - 2) + ["previous"] * (count > 1) + ["current"]
        return self._page(
            [{"version": n + 1, "state": s, "created": 1_790_000_000} for n, s in enumerate(states)], keys
        )

    def op_secret_rollback(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        _, value = self._value({**keys, "version": keys["to"]})
        self.tenants[keys["tenant"]][keys["secret"]].append(value)
        return {"version": len(self.tenants[keys["tenant"]][keys["secret"]])}

    def op_secret_destroy(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._value(keys)
        if keys["version"] == len(self.tenants[keys["tenant"]][keys["secret"]]):
            raise Refused("conflict", "the current version is not destroyed", "put a new value first")
        return {}

    def op_secret_set(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._value(keys)
        return {}

    def op_secret_delete(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._value(keys)
        del self.tenants[keys["tenant"]][keys["secret"]]
        return {}

    def op_service_add(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if "uid" not in keys and "unit" not in keys:
            raise Refused("invalid", "a service needs a uid or a unit", "--uid U or --unit PATH")
        self.services[keys["service"]] = keys
        return {}

    def op_service_list(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return self._page(list(self.services.values()), keys)

    def op_service_remove(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if self.services.pop(keys["service"], None) is None:
            raise Refused("not_found", "no such service")
        return {}

    def op_grant_add(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._tenant(keys)
        grant = f"grant_{len(self.grants):020}"
        self.grants.setdefault(keys["tenant"], []).append({**keys, "grant": grant})
        return {"grant": grant}

    def op_grant_list(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._tenant(keys)
        return self._page(self.grants.get(keys["tenant"], []), keys)

    def op_grant_remove(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        kept = [grant for grant in self.grants.get(keys["tenant"], []) if grant["grant"] != keys["grant"]]
        if len(kept) == len(self.grants.get(keys["tenant"], [])):
            raise Refused("not_found", "no such grant")
        self.grants[keys["tenant"]] = kept
        return {}

    def op_explain(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        allowed = keys["secret"] not in self.denied_secrets and keys["tenant"] in self.tenants
        return {"allowed": allowed, "reason": "a grant allows it" if allowed else "no grant of this service covers it"}

    def op_run_open(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if keys["tenant"] not in self.tenants or self.denied_secrets & set(keys["scope"]):
            raise Refused("denied", "not allowed, or not there", "an admin can see why: vaultctl explain")
        anchor = keys.get("anchor", peer.pid)
        token = secrets.token_bytes(32)
        run = RunState(
            f"run_{len(self.runs):020}", keys["tenant"], anchor, os.getsid(anchor), keys["scope"], os.pidfd_open(anchor)
        )
        self.runs[token] = run
        threading.Thread(target=self._await_anchor, args=(token, run), daemon=True).start()
        return {"run": run.id, "token": token, "expires_in": keys.get("ttl", 3600)}

    def _await_anchor(self, token: bytes, run: RunState) -> None:
        import select

        poller = select.poll()
        poller.register(run.pidfd, select.POLLIN)
        poller.poll()
        os.close(run.pidfd)
        self.end_run(token, "its anchor ended")

    def op_run_close(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        for token, run in list(self.runs.items()):
            if run.id == keys.get("of_run"):
                return {"revoked": self.end_run(token, "closed")}
        raise Refused("denied", "not allowed, or not there")

    def op_run_list(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        items = [
            {"run": r.id, "tenant": r.tenant, "anchor": {"pid": r.anchor}, "expires_in": 3000}
            for r in self.runs.values()
        ]
        return self._page(items, keys)

    def op_lease_acquire(self, peer: Peer, keys: dict[str, Any], request: Request) -> tuple[dict[str, Any], bytes]:
        run = self._run(peer, request) if request.run is not None else self._implicit(peer, keys)
        if keys["secret"] in self.denied_secrets:
            raise Refused("denied", "not allowed, or not there", "an admin can see why: vaultctl explain")
        version, value = self._value({"tenant": run.tenant, **keys})
        lease = f"lease_{secrets.token_hex(10)}"
        delivery, ttl = keys.get("delivery", "fd"), keys.get("ttl", self.lease_ttl)
        self.leases[lease] = {
            "lease": lease, "run": run.id, "tenant": run.tenant, "secret": keys["secret"], "version": version,
            "delivery": delivery, "expires_in": ttl,
        }  # fmt: skip
        about = {"lease": lease, "secret": keys["secret"], "version": version, "expires_in": ttl, "max_ttl": 300}
        return {**about, "delivery": delivery, "run": run.id}, value

    def op_lease_renew(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if request.run is not None:
            self._run(peer, request)
        if keys["lease"] not in self.leases:
            raise Refused("denied", "not allowed, or not there")
        self.renewed.set()
        return {"expires_in": keys.get("ttl", self.lease_ttl)}

    def op_lease_release(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        if self.leases.pop(keys["lease"], None) is None:
            raise Refused("denied", "not allowed, or not there")
        return {}

    def op_lease_list(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return self._page([x for x in self.leases.values() if keys.get("tenant") in (None, x["tenant"])], keys)

    def op_lease_revoke(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        wanted = {"lease": keys.get("lease"), "run": keys.get("of_run"), "tenant": keys.get("tenant")}
        wanted["secret"] = keys.get("secret")
        gone = [
            x for x in self.leases.values() if all(x[key] == what for key, what in wanted.items() if what is not None)
        ]
        for lease in gone:
            self.revoke(lease["lease"])
        return {"revoked": len(gone)}

    def op_rotate_root(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return {"receipt": {"tenants": len(self.tenants), "slots": len(self.slots)}}

    def op_rotate_tenant(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        self._tenant(keys)
        return {"receipt": {"generation": 2, "versions": 1}}

    def op_audit_show(self, peer: Peer, keys: dict[str, Any], request: Request) -> tuple[dict[str, Any], bytes]:
        start = int(keys.get("after", "0"))
        end = time.monotonic() + keys.get("wait", 0)
        while len(self.records) <= start and time.monotonic() < end:
            self.lock.release()
            time.sleep(0.01)
            self.lock.acquire()
        some = self.records[start : start + self.page]
        lines = b"".join(json.dumps({"body": r, "hash": "00"}).encode() + b"\n" for r in some)
        done = start + len(some)
        return {"next": str(done), "count": len(some), "more": done < len(self.records)}, lines

    def op_audit_export(self, peer: Peer, keys: dict[str, Any], request: Request) -> tuple[dict[str, Any], bytes]:
        return self.op_audit_show(peer, {"after": keys.get("after", "0")}, request)

    def op_audit_checkpoint(self, peer: Peer, keys: dict[str, Any], request: Request) -> tuple[dict[str, Any], bytes]:
        return {}, b"vaultd/abab\n7\n"

    def op_audit_prune(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        """The records are the lines; a checkpoint that says 0 has nothing before it."""
        lines = 0 if bytes(request.tail) == b"0" else len(self.records)
        told = {"lines": lines, "bytes": 100 * lines, "segments": min(lines, 1), "begins": lines + 1, "stays": 2}
        if lines:
            told |= {"first": "2026-01-01T00:00:00.000000Z", "last": "2026-06-01T00:00:00.000000Z"}
        pruned = bool(lines) and not keys.get("dry_run", False)
        if pruned:
            self.records = []
        return told | {"pruned": pruned}

    def op_subscribe(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        peer.watches = self._run(peer, request).id if request.run is not None else ""
        return {}

    def op_ack(self, peer: Peer, keys: dict[str, Any], request: Request) -> dict[str, Any]:
        return {}

    # -- what they share

    def _check_secret(self, request: Request) -> None:
        if bytes(request.tail) != PASSPHRASE:
            raise Refused("wrong_secret", "no key slot opens with this secret")

    def _tenant(self, keys: dict[str, Any]) -> dict[str, list[bytes]]:
        if keys["tenant"] not in self.tenants:
            raise Refused("not_found", "no such tenant")
        return self.tenants[keys["tenant"]]

    def _value(self, keys: dict[str, Any]) -> tuple[int, bytes]:
        versions = self._tenant(keys).get(keys["secret"], [])
        version = keys.get("version", len(versions))
        if not 1 <= version <= len(versions):
            raise Refused("not_found", "no such secret or version")
        return version, versions[version - 1]

    def _run(self, peer: Peer, request: Request) -> RunState:
        """A token works only by its run's anchor, or in the anchor's session."""
        run = self.runs.get(request.run or b"")
        if run is None or (peer.pid != run.anchor and peer.session != run.session):
            raise Refused("denied", "not allowed, or not there")
        return run

    def _implicit(self, peer: Peer, keys: dict[str, Any]) -> RunState:
        """The run that a lease without a token is in: one for each tenant and process that it is tied to."""
        with open(f"/proc/{peer.pid}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
        anchor = parent if keys.get("anchor") == "parent" else peer.pid
        for run in self.runs.values():
            if (run.tenant, run.anchor) == (keys["tenant"], anchor):
                return run
        run = RunState(f"run_{len(self.runs):020}", keys["tenant"], anchor, os.getsid(anchor), ["**"], -1)
        self.runs[secrets.token_bytes(32)] = run
        return run

    def _page(self, items: list[dict[str, Any]], keys: dict[str, Any]) -> dict[str, Any]:
        start = int(keys.get("after", "0"))
        page = {"items": items[start : start + self.page]}
        return page if start + self.page >= len(items) else {**page, "next": str(start + self.page)}

    # -- what happens to runs and leases

    def push(self, event: str, keys: dict[str, Any], run: str | None = None) -> None:
        for peer in list(self.peers):
            if peer.watches is not None and (run is None or peer.watches == run):
                with contextlib.suppress(OSError):
                    peer.send(peer.wire.push(event, keys))

    def revoke(self, lease: str, reason: str = "revoked") -> None:
        with self.lock:
            gone = self.leases.pop(lease)
            self.push("lease.revoked", {"lease": lease, "run": gone["run"], "reason": reason}, gone["run"])

    def end_run(self, token: bytes, reason: str) -> int:
        with self.lock:
            run = self.runs.pop(token, None)
            if run is None:
                return 0
            mine = [lease for lease, about in self.leases.items() if about["run"] == run.id]
            for lease in mine:
                del self.leases[lease]
            self.push("run.ended", {"run": run.id, "reason": reason}, run.id)
            return len(mine)


class Server:
    """Serves a `Vault` at a path; can be stopped and started again, as a daemon is."""

    def __init__(self, path: Path, vault: Vault) -> None:
        self.path = path
        self.vault = vault
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path.unlink(missing_ok=True)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for peer in list(self.vault.peers):
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            try:
                peer = Peer(sock, Connection(Role.SERVER), pid, os.getsid(pid))
            except OSError:  # it has gone again already
                sock.close()
                continue
            self.vault.peers.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        try:
            while data := peer.sock.recv(65_536):
                peer.wire.receive_data(data)
                while (event := peer.wire.next_event()) is not None:
                    self._answer(peer, event)
        except (OSError, RemoteProtocolError):
            pass
        finally:
            self.vault.peers.remove(peer)
            peer.sock.close()

    def _answer(self, peer: Peer, event: Any) -> None:
        if isinstance(event, Malformed):
            peer.send(peer.wire.error(event.id, "protocol", event.message))
            return
        with self.vault.lock:
            self.vault.asked.append((event.op, dict(event.keys)))
            try:
                result = self.vault.do(peer, event)
            except Refused as error:
                peer.send(peer.wire.error(event.id, error.code, error.message, error.hint))
                return
        keys, value = result if isinstance(result, tuple) else (result, b"")
        if len(value) <= MAX_TAIL:
            peer.send(peer.wire.reply(event.id, keys, tail=value))
            return
        descriptor = os.memfd_create("value", os.MFD_ALLOW_SEALING)
        os.write(descriptor, value)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        peer.send(peer.wire.reply(event.id, keys, memfd=True), descriptor)
        os.close(descriptor)


@dataclass
class Done:
    """How one vaultctl ended."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Ctl:
    """vaultctl: called here, in this process, or started as one of its own."""

    def __init__(self, socket_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket = socket_path
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._started: list[subprocess.Popen[bytes]] = []
        for name in ("VAULTD_RUN", "VAULTD_RUN_FD", "XDG_RUNTIME_DIR", "NO_COLOR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("VAULTD_SOCKET", str(socket_path))

    def __call__(self, *arguments: str, data: bytes | None = None) -> Done:
        """Run a verb in this process, with files for its streams."""
        paths = [self._folder / name for name in ("stdin", "stdout", "stderr")]
        paths[0].write_bytes(data or b"")
        with self._monkeypatch.context() as patch, contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open(mode)) for path, mode in zip(paths, ("rb", "wb", "wb"), strict=True)]
            streams = [stack.enter_context(io.TextIOWrapper(file, write_through=True)) for file in files]
            for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            status = cli.run(arguments)
            for stream in streams[1:]:
                stream.flush()
        return Done(status, paths[1].read_bytes(), paths[2].read_text())

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start vaultctl as a process."""
        command = [sys.executable, "-m", "vaultclient.cli", *arguments]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, **{**streams, **options})
        self._started.append(process)
        return process

    def process(self, *arguments: str, **options: Any) -> Done:
        """Start vaultctl as a process, and wait for it."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=30)
        return Done(process.returncode, out or b"", (err or b"").decode())

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest.fixture
def server(tmp_path: Path, vault: Vault) -> Iterator[Server]:
    server = Server(tmp_path / "s", vault)
    yield server
    server.stop()


@pytest.fixture
def ctl(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ctl]:
    ctl = Ctl(server.path, tmp_path, monkeypatch)
    yield ctl
    ctl.close()


@pytest.fixture
def until() -> Callable[[str, Callable[[], object]], None]:
    """Wait until something holds that another process or thread brings about; fail after a while."""

    def wait(what: str, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < end, f"{what}: not in time"
            time.sleep(0.005)

    return wait
