"""What a person at a terminal sees: hidden prompts, no values unasked, colour, and a run with a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from vaultclient.cli.output import Output
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSPHRASE = "correct horse battery staple"


class Screen:
    """vaultctl at a pseudo-terminal of 80 columns, as a shell would start it: a job in the foreground.

    Args:
        arguments: its own.
        environment: added to this process's.
        stdout: standard output, where it is not the terminal.
        shell: a program that leads the session in its place, and starts what it finds in its arguments.
        owned: whether the terminal is the session's own; else it is only what the standard streams lead to.
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        shell: str = "",
        stdout: int | None = None,
        owned: bool = True,
    ) -> None:
        self.near, far = os.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        between = [sys.executable, "-c", shell] if shell else []
        # What a shell does between fork and exec; here by a program, because this process has threads.
        take = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        first = [sys.executable, "-c", take] if owned else []
        self.process = subprocess.Popen(
            [*first, *between, sys.executable, "-m", "vaultclient.cli", *arguments],
            stdin=far,
            stdout=far if stdout is None else stdout,
            stderr=far,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **(environment or {})},
        )
        os.close(far)
        self.shown = ""

    def read(self, seconds: float = 0.05) -> bool:
        """Take what is shown within some time; False when nothing came, or nothing will."""
        if not select.select([self.near], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.near, 65_536)
        except OSError:
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern: str) -> re.Match[str]:
        """Read until the pattern is on the screen."""
        end = time.monotonic() + 15
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < end, f"{pattern!r} is not in {self.shown!r}"
            self.read()
        return found

    def type(self, keys: str) -> None:
        os.write(self.near, keys.encode())

    def end(self, again: str = "") -> int:
        """Read to the end; returns the exit status. `again` is typed now and then, as a person would."""
        end = time.monotonic() + 15
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running: {self.shown!r}"
            if again and not self.read(0.5):
                self.type(again)
            self.read()
        while self.read(0):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.near)


@pytest.fixture
def screen(ctl: Any) -> Iterator[Any]:
    made: list[Screen] = []

    def make(*arguments: str, **options: Any) -> Screen:
        made.append(Screen(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_passphrase_is_asked_for_and_not_shown(screen: Any, vault: Any) -> None:
    """What is typed appears nowhere, and opens the vault."""
    vault.state = "sealed"
    at = screen("unseal")
    at.expect("passphrase: ")
    at.type(PASSPHRASE + "\r")
    assert at.end() == 0
    assert "correct" not in at.shown
    assert "the vault is unsealed; this shell is admin for 15m" in at.shown
    assert vault.state == "unsealed"


def test_a_session_without_a_terminal_of_its_own_is_asked_where_its_input_is(screen: Any, vault: Any) -> None:
    """As under `su -c`: there is no /dev/tty, but standard input is a terminal, and what is typed is not shown."""
    vault.state = "sealed"
    at = screen("unseal", owned=False)
    at.expect("passphrase: ")
    at.type(PASSPHRASE + "\r")
    assert at.end() == 0
    assert "correct" not in at.shown
    assert vault.state == "unsealed"


def test_no_terminal_at_all_names_the_option_instead(ctl: Any) -> None:
    """A prompt that nobody could answer is refused, with what to do."""
    done = ctl.process("unseal", start_new_session=True)
    assert done.status == 2
    assert "there is no terminal to ask for the passphrase" in done.err
    assert "hint: --passphrase-file F reads it from a file; - is standard input" in done.err


def test_prose_is_broken_between_words_and_commands_are_whole(screen: Any, tmp_path: Path) -> None:
    """Notes, warnings and errors fit 80 columns; what is to be copied stays one line."""
    (tmp_path / "key").write_bytes(b"key\n")
    at = screen("put", "acme", "a/" + "long/" * 12 + "name", "--file", str(tmp_path / "key"))
    assert at.end() == 0
    note, _, command = at.shown.partition("the value ends")[2].partition("next: ")
    assert "\r\n  " in note
    assert max(map(len, ("the value ends" + note).splitlines())) <= 80
    assert "--strip-newline" in note
    assert command.count("\n") == 1
    at = screen("--socket", "/" + "long/" * 14 + "name", "status", environment={"NO_COLOR": "1"})
    assert at.end() == 69
    assert all(len(line) <= 80 for line in at.shown.splitlines() if "long/" not in line)
    assert at.shown.startswith("vaultctl: error: ")


def test_the_prompt_can_be_edited(screen: Any, vault: Any) -> None:
    """Backspace takes a character (of several bytes too), ^U the line."""
    at = screen("login")
    at.expect("passphrase: ")
    at.type("rubbish\x15" + PASSPHRASE[:-1] + "äx\x7f\x7f" + PASSPHRASE[-1] + "\r")
    assert at.end() == 0


def test_ctrl_c_at_a_prompt_ends_with_130_and_restores_the_terminal(screen: Any, vault: Any) -> None:
    """No traceback, no question asked of the daemon, and what is typed next shows again."""
    at = screen("login")
    at.expect("passphrase: ")
    assert not termios.tcgetattr(at.near)[3] & termios.ECHO
    at.type("\x03")
    assert at.end() == 130
    assert termios.tcgetattr(at.near)[3] & termios.ECHO
    assert "Traceback" not in at.shown
    assert vault.asked == []


def test_a_new_passphrase_is_asked_for_twice(screen: Any, vault: Any) -> None:
    """Two that differ change nothing."""
    at = screen("slot", "add")
    at.expect("new slot's passphrase: ")
    at.type("one\r")
    at.expect("new slot's passphrase, again: ")
    at.type("two\r")
    assert at.end() == 2
    assert "not the same" in at.shown
    assert vault.asked == []


def test_put_asks_for_the_value_at_a_terminal(screen: Any, vault: Any) -> None:
    """A hidden line longer than a terminal's own 4,095 characters is stored whole."""
    at = screen("put", "acme", "jwt")
    at.expect("value of acme jwt: ")
    value = "e" * 9_000
    for start in range(0, len(value), 1_000):
        at.type(value[start : start + 1_000])
    at.type("\r")
    assert at.end() == 0
    assert vault.tenants["acme"]["jwt"] == [value.encode()]
    assert "eee" not in at.shown


def test_a_paste_of_several_lines_is_refused(screen: Any, vault: Any) -> None:
    """A key of several lines would be cut at the first; the rest must not reach the shell either."""
    at = screen("put", "acme", "pem")
    at.expect("value of acme pem: ")
    at.type("-----BEGIN\rabc\r")
    assert at.end() == 2
    assert "--file" in at.shown
    assert vault.asked == []


def test_a_value_is_not_printed_to_a_terminal_unasked(screen: Any, vault: Any) -> None:
    """get refuses before it asks, so nothing is recorded as read; --reveal prints."""
    vault.tenants["acme"]["k"] = [b"sk-1"]
    for line in (["get", "acme", "k"], ["--json", "get", "acme", "k"]):
        at = screen(*line)
        assert at.end() == 2
        assert "sk-1" not in at.shown
    assert vault.asked == []
    at = screen("get", "acme", "k", "--reveal")
    assert at.end() == 0
    assert at.shown.startswith("sk-1\r\n")


def test_colour_is_for_terminals_that_want_it(screen: Any, ctl: Any) -> None:
    """Coloured at a terminal; plain with NO_COLOR, at a dumb one, and in a pipe."""
    at = screen("status")
    assert at.end() == 0
    assert "\x1b[32munsealed\x1b[0m" in at.shown
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        at = screen("status", environment=environment)
        assert at.end() == 0
        assert "\x1b" not in at.shown
    assert "\x1b" not in ctl("status").text


def test_tables_fit_eighty_columns_and_show_escape_sequences_as_text(screen: Any, vault: Any) -> None:
    """Long cells go on below themselves, and a description cannot drive the terminal."""
    vault.tenants["acme"] = {f"team-{n}/" + "segment/" * 6 + "key": [b"1"] for n in range(3)}
    at = screen("secrets", "acme", environment={"NO_COLOR": "1"})
    assert at.end() == 0
    assert "\x1b" not in at.shown
    assert "\\x1b[31m" in at.shown
    assert max(map(len, at.shown.split("\r\n"))) <= 80


def test_a_run_has_a_terminal_of_its_own(screen: Any) -> None:
    """Its streams are one, it leads the foreground there, and has a size and /dev/tty; not the person's terminal."""
    code = (
        "import os, sys; t = os.ttyname(0)\n"
        "print('tty', [os.isatty(n) for n in (0, 1, 2)], os.tcgetpgrp(0) == os.getpgrp(), os.get_terminal_size())\n"
        "print('same', t == sys.argv[1]); os.close(os.open('/dev/tty', os.O_RDWR)); print('devtty')\n"
        "print('got', input())"
    )
    at = screen("run", "--tenant", "acme", "--", sys.executable, "-c", code, "/dev/pts/none")
    at.expect(r"tty \[True, True, True\] True os.terminal_size\(columns=80, lines=24\)")
    at.expect("devtty")
    at.type("hello\r")
    assert at.end() == 0
    assert "got hello" in at.shown
    assert termios.tcgetattr(at.near)[3] & termios.ICANON  # given back as it was


def test_keys_and_size_reach_the_run(screen: Any) -> None:
    """^C interrupts the command alone, which decides; a new size of the window arrives."""
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b'size %d\\n' % os.get_terminal_size().columns))\n"
        "try:\n    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: print('interrupted'); sys.exit(6)"
    )
    at = screen("run", "--tenant", "acme", "--", sys.executable, "-c", code)
    at.expect("ready")
    fcntl.ioctl(at.near, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    at.expect("size 100")
    at.type("\x03")
    assert at.end() == 6
    assert "interrupted" in at.shown


def test_ctrl_z_stops_the_whole_job(screen: Any) -> None:
    """The command and vaultctl stop, the terminal is the shell's again; SIGCONT goes on where it was."""
    at = screen("run", "--tenant", "acme", "--", "sh", "-c", "echo ready; read line; echo got $line")
    at.expect("ready")
    at.type("\x1a")
    _, status = os.waitpid(at.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert termios.tcgetattr(at.near)[3] & termios.ICANON
    at.process.send_signal(signal.SIGCONT)
    at.type("on\r")
    at.expect("got on")
    assert at.end() == 0


def test_a_revoked_run_gives_the_terminal_back(screen: Any, vault: Any) -> None:
    """In the middle of a full-screen program: 143, and the terminal as it was."""
    vault.tenants["acme"]["k"] = [b"1"]
    at = screen("run", "--tenant", "acme", "--env", "K=k", "--", "sh", "-c", "stty raw -echo; echo ready; sleep 60")
    at.expect("ready")
    (lease,) = vault.leases
    vault.revoke(lease)
    assert at.end() == 143
    assert termios.tcgetattr(at.near)[3] & termios.ICANON
    assert "was revoked" in at.shown


def test_a_job_in_the_background_leaves_the_terminal_alone_until_it_is_in_front(screen: Any, until: Any) -> None:
    """Stopped, continued in the background (bg), brought to the front (fg): as a shell does it with any command."""
    shell = (
        "import os, signal, subprocess, sys, termios, time\n"
        "signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
        "job = subprocess.Popen(sys.argv[1:], process_group=0)\n"
        "os.tcsetpgrp(0, job.pid)\n"
        "os.waitpid(job.pid, os.WUNTRACED); os.tcsetpgrp(0, os.getpgrp()); print('stopped', flush=True)\n"
        "os.killpg(job.pid, signal.SIGCONT); print('shell has', input(), flush=True)\n"
        "os.tcsetpgrp(0, job.pid); print('front', flush=True); job.wait(); print('status', job.returncode)\n"
    )
    run = ["run", "--tenant", "acme", "--", "sh", "-c", "echo ready; read line; echo job has $line; exit 3"]
    at = screen(*run, shell=shell)
    at.expect("ready")
    at.type("\x1a")
    at.expect("stopped")
    at.type("one\r")
    at.expect("shell has one")
    at.expect("front")
    until("it has the terminal", lambda: not termios.tcgetattr(at.near)[3] & termios.ICANON)
    at.type("two\r")
    at.expect("job has two")
    at.expect("status 3")
    at.end()


def test_two_runs_in_one_job_share_the_terminal(screen: Any, tmp_path: Path) -> None:
    """One has the keys, then the other, whose own terminal is a usual one; in the end the person's is as it was."""
    both = (
        "import os, subprocess, sys, time\n"
        "def run(script): return subprocess.Popen([*sys.argv[1:-1], script])\n"
        "first = run(f'echo first ready; read it; touch {sys.argv[-1]}; read it; echo first has $it')\n"
        "while not os.path.exists(sys.argv[-1]): time.sleep(0.01)\n"
        "second = run('stty -a | grep -ow -- .*icanon; echo second ready; read it; echo second has $it')\n"
        "first.wait(); print('first is over', flush=True); second.wait(); print('both are over')\n"
    )
    at = screen("run", "--tenant", "acme", "--", "sh", "-c", str(tmp_path / "there"), shell=both)
    at.expect("first ready")
    at.type("\r")
    at.expect("icanon")
    at.expect("second ready")
    assert "-icanon" not in at.shown
    at.type("one\r")
    at.expect("first is over")
    at.type("two\r")
    assert at.end() == 0
    assert "first has one" in at.shown
    assert "second has two" in at.shown
    assert termios.tcgetattr(at.near)[3] & termios.ICANON  # each gave it back as it had found it


def test_output_that_leads_elsewhere_stays_apart_from_the_terminal(screen: Any) -> None:
    """`vaultctl run ... | program`: the pipe gets standard output alone, the screen everything else."""
    reader, writer = os.pipe()
    code = "echo out; echo err >&2; echo tty >/dev/tty"
    at = screen("run", "--tenant", "acme", "--", "sh", "-c", code, stdout=writer)
    os.close(writer)
    assert at.end() == 0
    assert os.read(reader, 99) == b"out\n"
    os.close(reader)
    assert at.shown == "err\r\ntty\r\n"


def test_a_terminal_that_hangs_up_ends_a_command_that_does_not_mind_otherwise(screen: Any, until: Any) -> None:
    """SIGHUP reaches the command, as if the terminal were its own."""
    at = screen("run", "--tenant", "acme", "--", "sh", "-c", "echo $$; exec sleep 100")
    pid = int(at.expect(r"(\d+)\r\n")[1])
    os.close(at.near)
    at.near = os.open(os.devnull, os.O_RDONLY)
    assert at.process.wait(timeout=15) == 128 + signal.SIGHUP
    until("the command is gone", lambda: not os.path.exists(f"/proc/{pid}"))


REDACTED = ("run", "--redact", "--tenant", "acme", "--env", "KEY=openai/prod")


def test_a_redacted_run_keeps_its_terminal(screen: Any, vault: Any) -> None:
    """The command sees a terminal, keys reach it, what it shows is redacted, and a prompt's last letters show."""
    vault.tenants["acme"]["openai/prod"] = [b"sk-1"]
    code = '[ -t 1 ] && [ -t 2 ] && echo all terminals; printf \'tell %s: sk\' "$KEY"; read x; echo "<$x> $KEY"; exit 4'
    at = screen(*REDACTED, "--", "sh", "-c", code)
    at.expect("all terminals")
    at.expect(r"tell \[redacted\]: sk$")  # "sk" begins the value, and is shown after a moment
    at.type("word\r")
    assert at.end() == 4
    assert "<word> [redacted]" in at.shown
    assert "sk-1" not in at.shown


def test_output_to_a_file_from_a_terminal_is_redacted_apart(screen: Any, vault: Any, tmp_path: Path) -> None:
    """Standard output in a file, standard error on the terminal: both redacted, each where it belongs."""
    vault.tenants["acme"]["openai/prod"] = [b"sk-1"]
    with open(tmp_path / "out", "wb") as file:
        at = screen(*REDACTED, "--", "sh", "-c", 'echo "out $KEY"; echo "err $KEY" >&2', stdout=file.fileno())
        assert at.end() == 0
    assert (tmp_path / "out").read_text() == "out [redacted]\n"
    assert "err [redacted]" in at.shown
    assert "out" not in at.shown


@pytest.fixture
def slow(vault: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A daemon whose rotation of the root takes until the event is set."""
    go = threading.Event()
    rotate = vault.op_rotate_root

    def when_told(*arguments: Any) -> Any:
        assert go.wait(20)
        return rotate(*arguments)

    monkeypatch.setattr(vault, "op_rotate_root", when_told)
    yield go
    go.set()


def test_what_takes_longer_than_a_second_says_so(screen: Any, slow: threading.Event) -> None:
    """On the terminal the time goes on; in the end the line is taken back, and the result stands alone."""
    at = screen("rotate", "root")
    at.expect("rotating the root key: 1s")
    at.expect("\r\x1b\\[Krotating the root key: 2s")
    slow.set()
    assert at.end() == 0
    assert re.search(r"2s\r\x1b\[K\x1b\[2mrotated\x1b\[0m +root key", at.shown)


def test_a_slot_s_secret_that_has_to_wait_says_so(
    screen: Any, vault: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Deriving a key takes its time, and after wrong secrets longer: a person sees that something goes on."""
    (tmp_path / "words").write_text(PASSPHRASE)
    (tmp_path / "words").chmod(0o600)
    vault.state = "sealed"
    go, unseal = threading.Event(), vault.op_unseal

    def when_told(*arguments: Any) -> Any:
        assert go.wait(20)
        return unseal(*arguments)

    monkeypatch.setattr(vault, "op_unseal", when_told)
    at = screen("unseal", "--passphrase-file", str(tmp_path / "words"))
    at.expect("trying the slots: 1s")
    go.set()
    assert at.end() == 0
    assert re.search(r"\r\x1b\[K.*the vault is unsealed", at.shown)


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_progress_is_for_people_only(option: str, ctl: Any) -> None:
    """Not with --quiet or --json, not into a file, not on a terminal that cannot take a line back."""
    near, far = os.openpty()
    with os.fdopen(far, "w") as terminal, open(os.devnull, "w") as file:
        quiet = Output(as_json=option == "--json", quiet=option == "--quiet", stderr=terminal)
        for out in (quiet, Output(as_json=False, quiet=False, stderr=file)):
            before = threading.active_count()
            with working(out, "waiting", patience=0.001):
                assert threading.active_count() == before
        assert not select.select([near], [], [], 0)[0]
    os.close(near)


def test_a_failure_takes_the_line_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is told on a line of its own; and a quick verb shows nothing at all."""
    monkeypatch.setenv("TERM", "xterm")
    near, far = os.openpty()
    with os.fdopen(far, "w") as terminal:
        out = Output(as_json=False, quiet=False, stderr=terminal)
        with working(out, "quick"):
            pass
        assert not select.select([near], [], [], 0)[0]

        def fails() -> None:
            with working(out, "bad \x1b[31m", patience=0.001):
                assert b"bad" in os.read(near, 1_000)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails()
        shown = b""
        while select.select([near], [], [], 0)[0]:
            shown += os.read(near, 1_000)
        assert shown.endswith(b"\r\x1b[K")
        assert b"[31m" not in shown.replace(b"\\x1b[31m", b"")
    os.close(near)


@pytest.mark.parametrize(("key", "status", "left"), [("y\r", 0, 0), ("n\r", 2, 3), ("\r", 2, 3), ("\x04", 130, 3)])
def test_pruning_asks_first(screen: Any, vault: Any, tmp_path: Path, key: str, status: int, left: int) -> None:
    """What goes is said, and goes only when the person says so; nothing typed is no."""
    vault.records = [{"kind": "x"}] * 3
    (tmp_path / "checkpoint").write_bytes(b"7")
    shown = screen("audit", "prune", "--before", str(tmp_path / "checkpoint"))
    shown.expect(r"(?s)3 lines from .*remove them \[y/N\]")
    shown.type(key)
    # Python's readline misses an interrupt that comes after it has shown its prompt and before it waits for a key.
    assert shown.end(again="\x03" if key == "\x03" else "") == status
    assert len(vault.records) == left


def test_pruning_does_not_ask_with_yes(screen: Any, vault: Any, tmp_path: Path) -> None:
    """`--yes` has it said and done at once."""
    vault.records = [{"kind": "x"}] * 3
    (tmp_path / "checkpoint").write_bytes(b"7")
    shown = screen("audit", "prune", "--before", str(tmp_path / "checkpoint"), "--yes")
    assert shown.end() == 0
    assert "3 lines from" in shown.shown
    assert not vault.records


def test_progress_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for a detail is asked each time, and shown before the time."""
    monkeypatch.setenv("TERM", "xterm")
    near, far = os.openpty()
    with os.fdopen(far, "w") as terminal:
        out = Output(as_json=False, quiet=False, stderr=terminal)
        counts = iter(range(1, 1_000_000))
        with working(out, "storing f", detail=lambda: f"{next(counts)} B of 9 B", patience=0.001):
            shown = b""
            while b"storing f: 2 B of 9 B, 0s" not in shown:
                shown += os.read(near, 1_000)
        assert b"storing f: 1 B of 9 B, 0s" in shown
    os.close(near)
