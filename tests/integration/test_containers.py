"""Peers in containers: who they are, what they may name, and that the socket's folder reaches them and lasts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.containers import CGROUP, IPC, MOUNT, PID, USER, UTS, bind, contained, forked, private_mounts
from tests.support.daemon import PASSPHRASE, Daemon
from tests.support.peers import Peer
from tests.support.raw import GROUP, Answered, Raw, as_uid
from tests.support.serving import Child
from tests.support.tenants import ACME, AGENT, NOBODY, World
from vaultclient._address import check_server
from vaultclient.errors import UntrustedServer
from vaultd.access.facts import PeerFacts
from vaultd.access.services import Service
from vaultd.daemon.kernel import libc
from vaultd.daemon.peer import parse_cgroup
from vaultd.names import service_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs_root

EVERYTHING = MOUNT | UTS | IPC | PID | CGROUP
ROOTLESS = EVERYTHING | USER
PROD = {"tenant": "acme", "secret": "openai/prod"}
EXE = 4231
UNIT_UID = 4232


def inside(world: Daemon, ask: Callable[[Raw], Any], **where: Any) -> Any:
    """What `ask` returns of a connection from inside a container."""

    def there() -> Any:
        with Raw(world.socket) as raw:
            return ask(raw)

    return contained(there, **where)


def told(answered: Answered) -> tuple[str, str]:
    """A refusal's code and message."""
    return answered.code, str(answered.header.get("message", ""))


class TestIdentity:
    """Container root is nobody special."""

    @pytest.mark.parametrize("mapped", [True, False], ids=["root-inside", "unmapped-inside"])
    def test_root_of_a_container_is_the_uid_outside(self, world: World, mapped: bool) -> None:
        """Root, or nobody, inside a user namespace is the uid that made it: with its rights, and no others."""

        def ask(raw: Raw) -> Any:
            you = raw.call("status").header["you"]
            lease = raw.call("lease.acquire", PROD)
            return os.getuid(), you, lease.tail, raw.call("tenant.list").code, raw.call("service.list").code

        uid, you, value, *admin = inside(world, ask, uid=AGENT, flags=ROOTLESS, mapped=mapped)
        assert uid == (0 if mapped else 65534)
        assert (you["uid"], you["gid"], you["service"], you["admin"]) == (AGENT, AGENT, "acme-agent", False)
        assert value == ACME
        assert admin == ["denied", "denied"]

    def test_a_stranger_is_a_stranger_as_root_inside(self, world: World) -> None:
        """Byte for byte: being root of a container opens nothing."""

        def ask(raw: Raw) -> list[bytes]:
            ops: list[tuple[str, dict[str, Any]]] = [("lease.acquire", PROD), ("tenant.list", {}), ("seal", {})]
            return [raw.call(op, keys).frame for op, keys in ops]

        assert inside(world, ask, uid=NOBODY, flags=ROOTLESS) == as_uid(NOBODY, world.socket, ask)

    def test_without_a_user_namespace_uids_are_the_hosts(self, world: World) -> None:
        """Then root inside is root: here an admin's uid, and still no admin without a slot's secret."""

        def ask(raw: Raw) -> Any:
            return raw.call("status").header["you"], told(raw.call("tenant.list")), raw.call("secret.get", PROD).code

        you, refused, got = inside(world, ask, uid=0, flags=EVERYTHING)
        assert (you["uid"], you["admin"], you["responder"]) == (0, False, False)
        assert refused == ("denied", "this needs an admin ticket")
        assert got == "denied"

    def test_ids_that_the_daemon_has_no_number_for(self) -> None:
        """A daemon in a user namespace sees all unmapped uids as one: it refuses them, whatever is a service."""
        with Daemon(prefix=lambda folder: ["unshare", "--user", "--map-root-user"]) as daemon:
            os.chmod(daemon.socket, 0o666)  # noqa: S103  the socket's group has no number there either
            daemon.tenant("acme", openai__prod=ACME)
            daemon.service("nobody", uid=65534)
            daemon.grant("acme", "nobody", "**")

            def ask(raw: Raw) -> tuple[str, str]:
                return told(raw.receive())

            for uid in (AGENT, 65534):
                code, message = as_uid(uid, daemon.socket, ask)
                assert (code, message) == (
                    "denied",
                    "the peer's uid or gid has no number in the daemon's user namespace",
                )

    def test_outside_the_daemons_pid_namespace(self) -> None:
        """A daemon in a container does not see who connects from outside it, and says so."""
        prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with Daemon(prefix=lambda folder: prefix, unseal=False) as daemon, Raw(daemon.socket) as raw:
            assert told(raw.receive()) == ("denied", "the peer's process is not visible from here")


_OUT_OF_SIGHT = """
import os, sys
from tests.support.daemon import Daemon
assert os.getsid(0) == 0 and (os.getpid() == 1) == (sys.argv[1] == "1")
with Daemon() as daemon:
    daemon.tenant("acme", openai__prod=b"sk-1")
    assert daemon.admin.call("secret.get", {"tenant": "acme", "secret": "openai/prod"}).tail == b"sk-1"
    assert daemon.ctl("get", "acme", "openai/prod", "--reveal").stdout == b"sk-1"  # it descends from us
    if sys.argv[1] != "1":
        refused = daemon.ctl("login", "--passphrase-file", "-", data=b"correct horse battery staple")
        assert refused.returncode == 77 and b"out of the daemon's sight" in refused.stderr, refused
        assert b"setsid" in refused.stderr
        given = daemon.ctl("login", "--passphrase-file", "-", "--", sys.executable, "-m", "vaultclient.cli", "tenant",
            "list", data=b"correct horse battery staple")
        assert given.returncode == 0 and b"acme" in given.stdout, given
"""


@pytest.mark.parametrize("pid", [1, 2])
def test_a_session_out_of_sight(pid: int) -> None:
    """Where a pid namespace shows no session, no shell gets a ticket, and a command has one for what it starts."""
    python = [sys.executable, "-c", _OUT_OF_SIGHT, str(pid)]
    command = python if pid == 1 else ["bash", "-c", '"$@"; exit $?', "bash", *python]
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command],
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_server_that_only_looks_like_oneself_is_not_trusted(world: World) -> None:
    """Without a number inside, a client takes no other process without one for its own uid's."""
    path = f"{world.folder}/anybodys/v.sock"
    os.mkdir(os.path.dirname(path))
    os.chmod(os.path.dirname(path), 0o777)  # noqa: S103  anybody may put a socket there

    def serve() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            os.chmod(path, 0o666)  # noqa: S103
            server.listen()
            server.settimeout(10)
            server.accept()[0].close()

    def trusted() -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            while sock.connect_ex(path):
                pass
            try:
                return f"uid {check_server(sock, path)}"
            except UntrustedServer:
                return "not trusted"

    server = Child(serve, uid=NOBODY)
    assert contained(trusted, uid=AGENT, flags=USER, mapped=False) == "not trusted"
    server.result()
    os.unlink(path)
    server = Child(serve, uid=AGENT)
    assert Child(trusted, uid=AGENT).result() == f"uid {AGENT}"
    server.result()


class TestStatus:
    """What `status` says to a peer in a container."""

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (0, []),
            (MOUNT | IPC | UTS, []),
            (PID, ["another pid namespace"]),
            (USER, ["another user namespace"]),
            (ROOTLESS, ["another pid namespace", "another user namespace"]),
        ],
    )
    def test_warnings(self, world: World, flags: int, words: list[str]) -> None:
        """It names the namespace that changes numbers, and the numbers that are meant; others get no word of it."""

        def ask(raw: Raw) -> Any:
            header = raw.call("status").header
            return header["warnings"], header["you"]["pid"]

        uid = AGENT if flags & USER or not flags else 0  # only root makes the others without one of these
        warnings, pid = inside(world, ask, uid=uid, flags=flags)
        assert len(warnings) == len(words)
        for warning, word in zip(warnings, words, strict=True):
            assert word in warning
            assert str(pid if "pid" in word else AGENT) in warning


class TestProcesses:
    """Runs, anchors and tickets across a border of pid namespaces."""

    def test_a_lease_ends_with_its_process_inside(self, world: World) -> None:
        """The peer is held by its pidfd, whatever number it knows itself by: when it ends, so does its lease."""

        def ask(raw: Raw) -> Any:
            lease = raw.call("lease.acquire", PROD).header
            return os.getpid(), raw.call("lease.renew", {"lease": lease["lease"]}).code, lease["lease"]

        assert inside(world, ask, uid=AGENT, flags=ROOTLESS)[:2] == (1, "")
        deadline = 2_000
        while list(world.admin.pages("lease.list", {"tenant": "acme"})) and deadline:
            deadline -= 1
        assert deadline, "the lease outlived its process"

    def test_a_child_run_is_claimed_inside(self, world: World) -> None:
        """Where no child can be named by its number, a child run is handed to one by its token, and ends with it."""

        def there() -> Any:
            with Raw(world.socket) as raw:
                top = raw.call("run.open", {"tenant": "acme", "scope": ["openai/*"]}).header["token"]
                child = raw.call("run.open", {"scope": ["openai/prod"]}, run=top).header["token"]

                def below() -> Any:
                    os.setsid()
                    with Raw(world.socket) as own:
                        claimed = own.call("run.claim", run=child).header["claimed"]
                        return claimed, own.call("lease.acquire", {"secret": "openai/prod"}, run=child).code

                return forked(below), raw.call("lease.acquire", {"secret": "openai/prod"}, run=child).code

        assert contained(there, uid=AGENT, flags=ROOTLESS) == ((True, ""), "denied")

    def test_a_parent_outside_is_no_anchor(self, world: World) -> None:
        """The first process of a container has its runtime for a parent: nothing is tied to that."""
        keys = {**PROD, "anchor": "parent"}

        def there() -> Any:
            with Raw(world.socket) as raw:
                first = told(raw.call("lease.acquire", keys))

            def below() -> Any:
                with Raw(world.socket) as raw:
                    return raw.call("lease.acquire", keys).code

            return first, forked(below)

        first, second = contained(there, uid=AGENT, flags=ROOTLESS)
        assert first == ("denied", "the caller's parent is outside its container")
        assert second == ""

    def test_a_ticket_stays_inside(self, world: World) -> None:
        """Login binds a ticket to a parent in the container, never to one outside, whose other children it would
        serve."""

        def there() -> Any:
            with Raw(world.socket) as raw:
                first = told(raw.call("login", {"kind": "passphrase"}, PASSPHRASE))

            def below() -> Any:
                with Raw(world.socket) as raw:
                    return raw.call("login", {"kind": "passphrase"}, PASSPHRASE).code, raw.call("tenant.list").code

            return first, forked(below)

        first, second = contained(there, uid=0, flags=EVERYTHING)
        assert first == ("denied", "the caller's parent is outside its container")
        assert second == ("", "")

    def test_a_number_means_what_it_means_inside(self, world: World) -> None:
        """An anchor is named by its number in the caller's namespace; what has none there cannot be named."""
        outside = os.getpid()

        def there() -> Any:
            def below() -> Any:
                with Raw(world.socket) as raw:

                    def anchored(pid: int) -> Any:
                        keys = {"tenant": "acme", "scope": ["openai/*"], "anchor": pid}
                        answered = raw.call("run.open", keys)
                        return answered.code or answered.header["run"]

                    mine = [anchored(1), anchored(os.getpid())]
                    refused = [anchored(pid) for pid in (0, 99_999, outside, 2**31 - 1)]
                    listed = {run["run"]: run["anchor"]["pid"] for run in raw.call("run.list").header["items"]}
                    return mine, refused, listed, raw.call("status").header["you"]["pid"]

            return forked(below)

        mine, refused, listed, below = contained(there, uid=AGENT, flags=ROOTLESS)
        assert refused == ["denied"] * 4
        assert all(run in listed for run in mine)
        assert listed[mine[1]] == below
        assert listed[mine[0]] not in (1, below)

    def test_a_number_that_is_an_ancestors_outside(self, world: World) -> None:
        """When a number inside is also that of the caller's ancestor outside, the one outside is not meant."""

        def wrapped() -> Any:
            host = os.getpid()

            def ask(raw: Raw) -> Any:
                keys = {"tenant": "acme", "scope": ["openai/*"], "anchor": host}
                return raw.call("run.open", keys).code

            def there() -> Any:
                with Raw(world.socket) as raw:
                    return ask(raw)

            assert libc.unshare(PID) == 0
            return forked(there)

        def outer() -> Any:
            os.setsid()
            return wrapped()

        # Root may unshare; the service that asks is root's own.
        world.service("host-root", uid=0)
        grant = world.grant("acme", "host-root", "openai/*")
        try:
            assert Child(outer, groups=(GROUP,)).result() == "denied"
        finally:
            world.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
            world.admin.call("service.remove", {"service": "host-root"})


def test_exe_says_nothing_in_another_mount_namespace(world: World) -> None:
    """A service known by its program is not that service in a container, where a mount could forge any program."""
    world.service("by-program", uid=EXE, exe=os.path.realpath(sys.executable))

    def ask(raw: Raw) -> Any:
        return raw.call("status").header["you"]["service"]

    assert as_uid(EXE, world.socket, ask) == "by-program"
    assert inside(world, ask, uid=EXE, flags=USER | MOUNT) is None
    assert inside(world, ask, uid=EXE, flags=USER) == "by-program"


class TestFolder:
    """The socket's folder mounted into a container."""

    def test_a_read_only_mount_serves(self, world: World) -> None:
        """A container that cannot write to the folder connects all the same."""
        place = f"{world.folder}/mounted"
        os.mkdir(place)

        def there() -> Any:
            private_mounts()
            bind(os.path.dirname(world.socket), place, read_only=True)
            with contextlib.suppress(OSError):
                os.unlink(f"{place}/vaultd.sock")  # as root inside, and still not
            with Raw(f"{place}/vaultd.sock") as raw:
                return raw.call("lease.acquire", PROD).tail

        assert contained(there, uid=AGENT, flags=ROOTLESS) == ACME
        os.rmdir(place)

    def test_the_folder_outlives_a_restart_and_the_file_does_not(self) -> None:
        """vaultd makes its socket anew: who mounted the folder finds it, who mounted the file keeps the dead one."""
        with World() as world:
            place, file = f"{world.folder}/mounted", f"{world.folder}/file.sock"
            os.mkdir(place)
            with open(file, "wb"):
                pass
            ready, tell_ready = os.pipe()
            go, tell_go = os.pipe()

            def reach(path: str) -> str:
                try:
                    with Raw(path) as raw:
                        return str(raw.call("status").header["state"])
                except OSError as error:
                    return type(error).__name__

            def there() -> Any:
                private_mounts()
                bind(os.path.dirname(world.socket), place, read_only=True)
                bind(world.socket, file)
                before = reach(f"{place}/vaultd.sock"), reach(file)
                os.write(tell_ready, b".")
                os.read(go, 1)
                return before, (reach(f"{place}/vaultd.sock"), reach(file))

            results: list[Any] = []

            def run() -> None:
                try:
                    results.append(contained(there, uid=AGENT, flags=ROOTLESS, keep=(tell_ready, go)))
                finally:
                    os.write(tell_ready, b"!")

            thread = threading.Thread(target=run)
            thread.start()
            assert os.read(ready, 1) == b"."
            world.stop()
            assert world.process.stderr is not None
            world.process.stderr.close()
            world.start()
            os.write(tell_go, b".")
            thread.join(20)
            for descriptor in (ready, tell_ready, go, tell_go):
                os.close(descriptor)
            assert results == [(("unsealed", "unsealed"), ("sealed", "ConnectionRefusedError"))]

    def test_a_stale_socket_is_told_as_what_it_is(self) -> None:
        """The socket file of a daemon that is gone: unavailable, exit 69, with a hint."""
        with World() as gone:
            os.kill(gone.process.pid, 9)
            gone.process.wait()
            assert os.path.exists(gone.socket)
            ended = gone.ctl("--json", "status")
            error = json.loads(ended.stdout or ended.stderr)["error"]
            assert (ended.returncode, error["code"]) == (69, "unavailable")
            assert error["hint"]


SYSTEM = "/system.slice/system-acme.slice"
DOCKER = "docker-3b2f0c5d1f1c7d8f3f2f9c1f52d7c44e0e1c2b7a64f0b7d4f7a1d6d1c9f3e0aa.scope"


class TestUnits:
    """`--unit` and the cgroups that container runtimes make."""

    @pytest.mark.parametrize(
        ("cgroup", "unit", "matches"),
        [
            # docker and podman with --cgroup-parent=system-acme.slice, systemd's cgroup driver
            (f"0::{SYSTEM}/{DOCKER}", f"{SYSTEM}/", True),
            (f"0::{SYSTEM}/libpod-{'ab' * 32}.scope/container", f"{SYSTEM}/", True),
            # a container that a unit of its own started (podman with --cgroups=split), and systemd-nspawn --slice
            (f"0::/system.slice/acme.service/libpod-payload-{'ab' * 32}", "/system.slice/acme.service/", True),
            (r"0::/system.slice/system-acme.slice/systemd-nspawn@acme.service/payload", f"{SYSTEM}/", True),
            # the same slice of another tenant, and one whose name begins alike
            (f"0::/system.slice/system-globex.slice/{DOCKER}", f"{SYSTEM}/", False),
            (f"0::/system.slice/system-acme2.slice/{DOCKER}", f"{SYSTEM}/", False),
            # what runtimes make when nobody says where: not below the system's slice by name
            (f"0::/system.slice/{DOCKER}", f"{SYSTEM}/", False),
            (f"0::/docker/{'ab' * 32}", f"{SYSTEM}/", False),
            (f"0::/machine.slice/libpod-{'ab' * 32}.scope/container", f"{SYSTEM}/", False),
            ("0::/machine.slice/systemd-nspawn@acme.service/payload", f"{SYSTEM}/", False),
            (
                f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{'ab' * 32}.scope",
                f"{SYSTEM}/",
                False,
            ),
            # users make cgroups of any name below their own
            (f"0::/user.slice/user-1000.slice/user@1000.service{SYSTEM}/{DOCKER}", f"{SYSTEM}/", False),
            # outside the daemon's cgroup namespace, removed, and the other hierarchy, which says nothing
            (f"0::/../..{SYSTEM}/{DOCKER}", f"{SYSTEM}/", False),
            (f"0::{SYSTEM}/{DOCKER} (deleted)", f"{SYSTEM}/", False),
            (f"1:name=systemd:{SYSTEM}/{DOCKER}", f"{SYSTEM}/", False),
        ],
    )
    def test_cgroups_of_runtimes(self, cgroup: str, unit: str, matches: bool) -> None:
        """A prefix matches what is below it, whichever runtime made that, and nothing else."""
        found = parse_cgroup(cgroup.encode() + b"\n")
        facts = PeerFacts(uid=1, gid=1, pid=1, start_time=1, session=1, cgroup=found)
        assert Service(name=service_name("acme"), unit=unit).matches(facts) is matches

    @pytest.fixture
    def slices(self) -> Iterator[Callable[[str], str]]:
        """Makes cgroups in the unified hierarchy; gives the file to write a pid to."""
        with open("/proc/mounts", encoding="ascii") as file:
            mounts = [line.split() for line in file]
        roots = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
        if not roots or not os.access(roots[0], os.W_OK):
            pytest.xfail("there is no writable unified hierarchy here; the strings above stand for it")
        made: list[str] = []

        def make(path: str) -> str:
            where = roots[0]
            for part in path.strip("/").split("/"):
                where = f"{where}/{part}"
                if not os.path.isdir(where):
                    os.mkdir(where)
                    made.append(where)
            return f"{where}/cgroup.procs"

        yield make
        for path in reversed(made):
            os.rmdir(path)

    def test_a_container_is_known_by_its_slice(self, world: World, slices: Callable[[str], str]) -> None:
        """A process in a container's cgroup is the service of its slice; the same uid outside is not, nor another
        inside."""
        name = f"vaultd{os.getpid()}"
        prefix = f"/system.slice/system-{name}.slice"
        procs = slices(f"{prefix}/{DOCKER}")
        world.service("by-slice", unit=f"{prefix}/", uid=UNIT_UID)
        grant = world.grant("acme", "by-slice", "openai/*")

        def started(uid: int, into: str | None) -> Any:
            def there() -> Any:
                if into is not None:
                    with open(into, "wb") as file:
                        file.write(b"0")

                def ask() -> Any:
                    os.setgroups([GROUP])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                    with Raw(world.socket) as raw:
                        return raw.call("status").header["you"]["service"], raw.call("lease.acquire", PROD).code

                return forked(ask)

            return Child(there).result()

        assert started(UNIT_UID, procs) == ("by-slice", "")
        assert started(UNIT_UID, None) == (None, "denied")
        assert started(NOBODY, procs) == (None, "denied")
        world.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
        with Peer(world.socket, uid=UNIT_UID) as outside:
            assert outside.call("lease.acquire", PROD).code == "denied"
