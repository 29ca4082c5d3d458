"""Who is at the other end: what the kernel says of real processes, and what is left without its newer options."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.serving import Caller, Child, Paused, Running, fork
from vaultd.daemon.kernel import SO_PASSRIGHTS, SO_PEERGROUPS, SO_PEERPIDFD, Kernel, libc
from vaultd.daemon.peer import attest, parse_cgroup
from vaultd.daemon.processes import (
    ancestors,
    boot_id,
    effective_uid,
    is_ancestor,
    open_process,
    parent_of,
    parse_stat,
    read_stat,
    reidentify,
)
from vaultd.errors import Denied, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OTHER = 54_321
GROUP = 54_999


def without(*absent: int) -> Kernel:
    """A kernel that lacks some socket options."""

    def getsockopt(sock: socket.socket, level: int, option: int, length: int) -> bytes:
        if option in absent:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return sock.getsockopt(level, option, length)

    def setsockopt(sock: socket.socket, level: int, option: int, value: int) -> None:
        if option in absent:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        sock.setsockopt(level, option, value)

    kernel = Kernel(getsockopt=getsockopt, setsockopt=setsockopt)
    kernel.probe()
    return kernel


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel()
    kernel.probe()
    return kernel


@pytest.fixture
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[socket.socket, str]]:
    """A socket that any uid can connect to."""
    with socket.socket(socket.AF_UNIX) as sock:
        name = f"\0vaultd-test-{os.getpid()}-{id(sock)}"
        sock.bind(name)
        sock.listen()
        sock.settimeout(10)
        yield sock, name


def connected(name: str, then: Callable[[socket.socket], Any] = lambda sock: sock.recv(1)) -> Callable[[], Any]:
    """A function for a child: connect, and stay until told."""

    def stay() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(name)
            then(sock)

    return stay


def test_facts_of_ourselves(kernel: Kernel, listening: tuple[socket.socket, str]) -> None:
    """Every fact is what this process can see of itself."""
    sock, name = listening
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
        accepted, _ = sock.accept()
        with accepted:
            peer = attest(accepted, kernel)
    with peer.process:
        facts = peer.facts
        assert (facts.uid, facts.gid, facts.pid) == (os.geteuid(), os.getegid(), os.getpid())
        assert facts.groups == frozenset(os.getgroups())
        assert facts.session == os.getsid(0)
        assert facts.start_time == read_stat(os.getpid()).start_time
        executable = os.stat("/proc/self/exe")
        assert facts.exe == (executable.st_dev, executable.st_ino)
        assert facts.exe_path == os.readlink("/proc/self/exe")
        assert facts.same_mount_ns
        assert facts.pidfd_inode == os.fstat(peer.process.pidfd).st_ino
        assert peer.process.is_alive()


@pytest.mark.needs_root
def test_facts_are_those_at_connect(kernel: Kernel, listening: tuple[socket.socket, str]) -> None:
    """A peer that changes its uid and groups after connecting keeps those that it connected with."""
    sock, name = listening

    def change(client: socket.socket) -> None:
        os.setgroups([])
        os.setresgid(OTHER + 1, OTHER + 1, OTHER + 1)
        os.setresuid(OTHER + 1, OTHER + 1, OTHER + 1)
        client.sendall(b"changed")
        client.recv(1)

    child = Child(connected(name, change))
    accepted, _ = sock.accept()
    with accepted:
        assert accepted.recv(7) == b"changed"
        peer = attest(accepted, kernel)
        with peer.process:
            assert peer.facts.uid == 0
            assert peer.process.uid == 0
    child.result()


@pytest.mark.needs_root
def test_other_uid_with_groups(kernel: Kernel, listening: tuple[socket.socket, str]) -> None:
    """Another uid is seen with its own uid, gid and groups."""
    sock, name = listening
    child = Child(connected(name), uid=OTHER, groups=(GROUP, GROUP + 1))
    accepted, _ = sock.accept()
    with accepted, attest(accepted, kernel).process:
        facts = attest(accepted, kernel).facts
        assert (facts.uid, facts.gid, facts.groups) == (OTHER, OTHER, frozenset({GROUP, GROUP + 1}))
        assert facts.pid == child.pid
    child.result()


@pytest.mark.needs_root
def test_more_groups_than_python_asks_for(kernel: Kernel, listening: tuple[socket.socket, str]) -> None:
    """A peer in 1,000 groups is in all of them."""
    sock, name = listening
    groups = tuple(range(60_000, 61_000))
    child = Child(connected(name), uid=OTHER, groups=groups)
    accepted, _ = sock.accept()
    with accepted:
        assert kernel.peer_groups(accepted) == frozenset(groups)
    child.result()


def test_peer_that_has_ended_is_refused(kernel: Kernel, listening: tuple[socket.socket, str]) -> None:
    """A connection whose process has ended is nobody's, even while a child of it holds the socket."""
    sock, name = listening
    read, write = os.pipe()

    def leave_to_a_child(client: socket.socket) -> None:
        if fork() == 0:
            client.recv(1)
            os._exit(0)

    child = Child(connected(name, leave_to_a_child))
    child.wait()
    accepted, _ = sock.accept()
    with accepted, pytest.raises(Denied, match="has ended"):
        attest(accepted, kernel)
    for descriptor in (read, write, child._pipe):
        os.close(descriptor)


def test_ends_while_it_is_looked_at(listening: tuple[socket.socket, str]) -> None:
    """A process that ends between the first question and the last is refused, not half described."""
    sock, name = listening
    child = Child(connected(name))

    def getsockopt(conn: socket.socket, level: int, option: int, length: int) -> bytes:
        answer = conn.getsockopt(level, option, length)
        if option == SO_PEERGROUPS and killing:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        return answer

    killing = False
    kernel = Kernel(getsockopt=getsockopt)
    kernel.probe()
    killing = True
    accepted, _ = sock.accept()
    before = set(os.listdir("/proc/self/fd"))
    with accepted:
        with pytest.raises(Denied, match="has ended"):
            attest(accepted, kernel)
        assert set(os.listdir("/proc/self/fd")) == before
    os.close(child._pipe)


@pytest.mark.needs_root
def test_reused_pid_is_not_the_peer(kernel: Kernel, listening: tuple[socket.socket, str]) -> None:
    """When the peer's pid is given to another process before it is looked at, that one is not taken for the peer."""
    sock, name = listening
    child = Child(connected(name, lambda client: None))
    child.wait()
    os.close(child._pipe)
    with _reused(child.pid):
        accepted, _ = sock.accept()
        with accepted, pytest.raises(Denied, match="has ended"):
            attest(accepted, kernel)


class _reused:  # noqa: N801  reads as a word
    """Give `pid` to a new process, for as long as the block lasts."""

    def __init__(self, pid: int, uid: int = 0) -> None:
        self._wanted = pid
        self._uid = uid

    def __enter__(self) -> int:
        for _ in range(200):
            with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as last:
                last.write(str(self._wanted - 1))
            self._child = Paused(self._uid)
            if self._child.pid == self._wanted:
                while effective_uid(self._wanted) != self._uid:
                    pass
                return self._wanted
            self._child.kill()
        raise AssertionError("the pid could not be taken again")

    def __exit__(self, *_: object) -> None:
        self._child.kill()


class TestFallbacks:
    """Each option that a kernel may lack: what takes its place, and that `status` says so."""

    def test_everything_is_used_here(self, kernel: Kernel) -> None:
        """A kernel that has them all uses them all (this one does, or the test says what it lacks)."""
        table = kernel.features.table()
        if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 16):
            pytest.skip("this kernel is older than the newest option")
        for name in ("peer_pidfd", "peer_groups", "pass_rights_off", "pidfd_inode"):
            assert table[name] == "used", name

    def test_without_peer_pidfd(self, listening: tuple[socket.socket, str]) -> None:
        """The pid of SO_PEERCRED is opened, and believed while it has the peer's uid."""
        kernel = without(SO_PEERPIDFD)
        sock, name = listening
        child = Child(connected(name))
        accepted, _ = sock.accept()
        with accepted:
            peer = attest(accepted, kernel)
            with peer.process:
                assert (peer.facts.pid, peer.process.is_alive()) == (child.pid, True)
        child.result()
        assert kernel.features.table()["peer_pidfd"] == "fallback"

    def test_without_peer_pidfd_an_ended_peer_is_refused(self, listening: tuple[socket.socket, str]) -> None:
        """There is no process of that number to open."""
        kernel = without(SO_PEERPIDFD)
        sock, name = listening
        child = Child(connected(name, lambda client: None))
        child.result()
        accepted, _ = sock.accept()
        with accepted, pytest.raises(Denied, match="has ended"):
            attest(accepted, kernel)

    @pytest.mark.needs_root
    def test_without_peer_pidfd_a_reused_pid_of_another_uid_is_refused(
        self, listening: tuple[socket.socket, str]
    ) -> None:
        """A later process under another uid is not the peer."""
        kernel = without(SO_PEERPIDFD)
        sock, name = listening
        child = Child(connected(name, lambda client: None))
        child.result()
        with _reused(child.pid, uid=OTHER):
            accepted, _ = sock.accept()
            with accepted, pytest.raises(Denied, match="has ended"):
                attest(accepted, kernel)

    def test_without_peer_groups(self, listening: tuple[socket.socket, str]) -> None:
        """The groups are read from /proc, under the same pidfd."""
        kernel = without(SO_PEERGROUPS)
        sock, name = listening
        child = Child(connected(name), uid=None)
        accepted, _ = sock.accept()
        with accepted:
            peer = attest(accepted, kernel)
            with peer.process:
                assert peer.facts.groups == frozenset(os.getgroups())
        child.result()
        assert kernel.features.table()["peer_groups"] == "fallback"

    def test_without_pass_rights(self) -> None:
        """The server serves all the same, and takes no descriptor in."""
        kernel = without(SO_PASSRIGHTS)
        with Running(kernel=kernel) as running, running.caller() as caller:
            assert caller.call("status").keys["kernel"]["pass_rights_off"] == "fallback"
            before = len(os.listdir("/proc/self/fd"))
            _number, frame = caller.wire.request("status", {})
            socket.send_fds(caller.socket, [frame], [0, 1, 2])
            assert caller.receive().ok  # type: ignore[union-attr]
            assert len(os.listdir("/proc/self/fd")) == before

    def test_without_unique_inodes(self, kernel: Kernel) -> None:
        """Where all pidfds share an inode, a process has none, and pid with start time tells it apart."""
        kernel.pidfd_inodes_are_unique = False
        with open_process(os.getpid(), kernel) as process:
            assert process.identity.pidfd_inode is None
            again = reidentify(process.record(), kernel)
            assert again is not None
            again.close()
            later = process.record()._replace(start_time=process.identity.start_time + 1)
            assert reidentify(later, kernel) is None

    def test_without_pidfd_open(self) -> None:
        """Nothing can take its place: the daemon refuses to start."""

        def absent(pid: int) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        with pytest.raises(Unsupported, match="pidfd_open"):
            Kernel(pidfd_open=absent).probe()


def test_pid_zero_is_refused(listening: tuple[socket.socket, str]) -> None:
    """A peer outside our pid namespace shows as pid 0 and is told so."""
    sock, name = listening

    def getsockopt(conn: socket.socket, level: int, option: int, length: int) -> bytes:
        if option == socket.SO_PEERCRED:
            return struct.pack("=iII", 0, 1000, 1000)
        return conn.getsockopt(level, option, length)

    kernel = Kernel(getsockopt=getsockopt)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
        accepted, _ = sock.accept()
        with accepted, pytest.raises(Denied, match="not visible"):
            attest(accepted, kernel)


@pytest.mark.needs_root
def test_root_of_a_user_namespace_is_its_outer_uid(kernel: Kernel, listening: tuple[socket.socket, str]) -> None:
    """uid 0 inside a user namespace of its own is the uid that made the namespace."""
    sock, name = listening

    def become_root_inside(client: socket.socket) -> None:
        assert libc.unshare(0x10000000) == 0  # CLONE_NEWUSER
        client.recv(1)

    child = Child(connected(name, become_root_inside), uid=OTHER)
    accepted, _ = sock.accept()
    with accepted, attest(accepted, kernel).process as process:
        assert process.uid == OTHER
    child.result()


class TestProcesses:
    """Parents, ancestors and finding a process again."""

    def test_stat_with_a_hostile_name(self) -> None:
        """A command's name with parentheses, spaces and a newline does not shift the fields."""
        line = b"42 (x) S 1 1 (\n) R 7 8 9 0 -1 0 " + b"0 " * 12 + b"12345 0 0\n"
        stat = parse_stat(line)
        assert (stat.pid, stat.comm, stat.parent, stat.session, stat.start_time) == (42, "x) S 1 1 (\n", 7, 9, 12345)

    def test_parent(self, kernel: Kernel) -> None:
        """The parent of a child of ours is this process, held."""
        with Paused() as child, open_process(child.pid, kernel) as process:
            parent = parent_of(process, kernel)
            assert parent is not None
            with parent:
                assert parent.pid == os.getpid()
                assert parent.identity.session == os.getsid(0)

    def test_ancestors_reach_the_top_and_close_behind_them(self, kernel: Kernel) -> None:
        """The walk ends at the first process without a parent, and leaves no descriptor."""
        before = set(os.listdir("/proc/self/fd"))
        with open_process(os.getpid(), kernel) as process:
            chain = [ancestor.pid for ancestor in ancestors(process, kernel)]
        assert chain[0] == os.getppid()
        assert read_stat(chain[-1]).parent == 0
        assert set(os.listdir("/proc/self/fd")) == before

    def test_ancestors_of_the_session(self, kernel: Kernel) -> None:
        """With `same_session` the walk stops at the border of the session."""
        with open_process(os.getpid(), kernel) as process:
            found = list(ancestors(process, kernel, same_session=True))
        assert all(ancestor.identity.session == os.getsid(0) for ancestor in found)

    def test_is_ancestor(self, kernel: Kernel) -> None:
        """We are an ancestor of our child's child; it is none of ours."""

        def with_grandchild() -> None:
            grandchild = fork()
            if grandchild:
                os.write(3, struct.pack("=i", grandchild))
            signal.pause()

        child = Child(with_grandchild)
        (number,) = struct.unpack("=i", os.read(child._pipe, 4))
        with open_process(number, kernel) as grandchild, open_process(os.getpid(), kernel) as ourselves:
            assert is_ancestor(ourselves, grandchild, kernel)
            assert not is_ancestor(grandchild, ourselves, kernel)
            assert not is_ancestor(ourselves, ourselves, kernel)
        os.kill(number, signal.SIGKILL)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        os.close(child._pipe)

    def test_ended_process(self, kernel: Kernel) -> None:
        """A process that has ended cannot be opened, and one that was held is not alive."""
        with Paused() as child:
            held = open_process(child.pid, kernel)
        with held:
            assert not held.is_alive()
            with pytest.raises(ProcessLookupError):
                parent_of(held, kernel)
        with pytest.raises(ProcessLookupError):
            open_process(child.pid, kernel)
        with pytest.raises(ProcessLookupError):
            open_process(0, kernel)

    def test_reidentify(self, kernel: Kernel) -> None:
        """A process is found again by its record, but not after its end, and not in another boot."""
        with Paused() as child:
            with open_process(child.pid, kernel) as process:
                record = process.record()
            assert record.boot_id == boot_id()
            again = reidentify(record, kernel)
            assert again is not None
            with again:
                assert again.identity == process.identity
            assert reidentify(record._replace(boot_id="another"), kernel) is None
        assert reidentify(record, kernel) is None

    @pytest.mark.needs_root
    @pytest.mark.parametrize("unique", [True, False])
    def test_reidentify_after_pid_reuse(self, kernel: Kernel, unique: bool) -> None:
        """A later process with the same pid is not the one that was recorded, by inode or by start time."""
        if unique and not kernel.pidfd_inodes_are_unique:
            pytest.skip("this kernel's pidfds share one inode")
        kernel.pidfd_inodes_are_unique = unique
        with Paused() as child, open_process(child.pid, kernel) as process:
            record = process.record()
        while not unique and _newest_start_time() <= record.start_time:
            pass  # start times are counted in ticks of 10 ms: let one pass, as between two runs of a daemon
        with _reused(child.pid):
            assert reidentify(record, kernel) is None


def _newest_start_time() -> int:
    with Paused() as child:
        return read_stat(child.pid).start_time


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/system.slice/agent.service\n", "/system.slice/agent.service"),
        (b"1:name=systemd:/system.slice/x.service\n0::/a b\n", "/a b"),
        (b"0::/\n", "/"),
        (b"0::/../other\n", None),
        (b"0::/..\n", None),
        (b"0::/gone (deleted)\n", None),
        (b"9:cpu:/system.slice/agent.service\n", None),
        (b"", None),
    ],
)
def test_cgroup(text: bytes, path: str | None) -> None:
    """Only a full path in the unified hierarchy counts."""
    assert parse_cgroup(text) == path


@pytest.mark.needs_root
def test_group_may_connect_and_others_may_not() -> None:
    """With socket_group its members connect; another uid, or the same without the group, cannot."""
    with Running(group=GROUP) as running:
        you = Child(lambda: Caller(running.path).call("status").keys["you"], uid=OTHER, groups=(GROUP,)).result()
        assert (you["uid"], you["gid"]) == (OTHER, OTHER)
        with pytest.raises(AssertionError, match="PermissionError"):
            Child(lambda: Caller(running.path), uid=OTHER).result()
