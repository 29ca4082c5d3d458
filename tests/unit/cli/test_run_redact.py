"""`vaultctl run --redact`: no value comes out of the command, and all else comes out as without it."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

RUN = ("run", "--redact", "--tenant", "acme", "--env", "KEY=openai/prod")


@pytest.fixture(autouse=True)
def secrets(vault: Any) -> None:
    """What the commands below are given."""
    vault.tenants["acme"] = {
        "openai/prod": [b'sk-"1/2'],
        "file": [b"in a file\n"],
        "big": [random.Random(2).randbytes(300_000)],
    }


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


def test_both_outputs_are_redacted_and_stay_apart(ctl: Any) -> None:
    """In each encoding, on each stream; the status is the command's."""
    code = (
        "import base64, json, os, sys, urllib.parse as u; k = os.environ['KEY']; b = k.encode()\n"
        "w = [k, b.hex(), base64.b64encode(b'u:' + b).decode(), base64.urlsafe_b64encode(b).decode(),"
        " u.quote(k, safe=''), json.dumps(k)]\n"
        "print(*w, sep='\\n')\n"
        "print('err', open(os.environ['F']).read().strip(), k, file=sys.stderr); sys.exit(7)"
    )
    done = ctl.process(*RUN, "--fd", "F=file", *python(code))
    assert done.status == 7
    lines = done.text.splitlines()
    assert [lines[0], lines[1], lines[3].rstrip("="), lines[4], lines[5]] == ["[redacted]"] * 4 + ['"[redacted]"']
    assert lines[2].startswith("dT")
    assert "[redacted]" in lines[2]
    assert done.err == "err [redacted] [redacted]\n"


def test_a_value_written_in_pieces_is_redacted(ctl: Any) -> None:
    """Byte by byte, each in a write of its own; what only began like it is shown in the end."""
    code = "import os\nfor b in (os.environ['KEY'] + ' sk-').encode(): os.write(1, bytes([b]))"
    assert ctl.process(*RUN, *python(code)).out == b"[redacted] sk-"


def test_what_cannot_begin_a_value_comes_at_once(ctl: Any) -> None:
    """Only the suffix that could be the beginning of one waits for what follows it."""
    code = "import os, sys; os.write(1, b'ready sk-'); sys.stdin.read(1); os.write(1, b'!')"
    process = ctl.start(*RUN, *python(code), stdin=subprocess.PIPE)
    assert process.stdout.read(6) == b"ready "
    out, _ = process.communicate(b"\n", timeout=10)
    assert out == b"sk-!"


def test_everything_else_passes_unchanged(ctl: Any) -> None:
    """Megabytes of any bytes, to the last one."""
    code = (
        "import random, sys; r = random.Random(5)\n"
        "for _ in range(64): sys.stdout.buffer.write(r.randbytes(65_537))\n"
        "sys.stdout.flush()"
    )
    done = ctl.process(*RUN, *python(code))
    numbers = random.Random(5)
    wanted = hashlib.sha256(b"".join(numbers.randbytes(65_537) for _ in range(64)))
    assert (done.status, hashlib.sha256(done.out).digest()) == (0, wanted.digest())


def test_a_large_value_is_taught_whole(ctl: Any) -> None:
    """300,000 bytes, given by memory file, printed raw: one mark."""
    code = "import os, sys; sys.stdout.buffer.write(b'<' + open(os.environ['B'], 'rb').read() + b'>')"
    assert ctl.process(*RUN, "--fd", "B=big", *python(code)).out == b"<[redacted]>"


def test_one_file_for_both_keeps_the_order(ctl: Any) -> None:
    """After 2>&1 the lines come as they were written."""
    code = "import os\nfor n in range(50): os.write(1 + n % 2, b'%d %b\\n' % (n, os.environb[b'KEY']))"
    done = ctl.process(*RUN, *python(code), stderr=subprocess.STDOUT)
    assert done.text.splitlines() == [f"{n} [redacted]" for n in range(50)]


def test_what_is_left_behind_is_not_waited_for(ctl: Any) -> None:
    """A process that keeps the pipe open does not keep vaultctl."""
    process = ctl.start(*RUN, "--", "sh", "-c", "sleep 100 & echo $!; exit 3")
    out, err = process.communicate(timeout=10)
    os.kill(int(out), signal.SIGKILL)
    assert process.returncode == 3
    assert b"1 process that the command started still run" in err


def test_a_reader_that_goes_away_ends_the_command_as_always(ctl: Any) -> None:
    """The command's next writes fail with SIGPIPE: 141."""
    process = ctl.start(*RUN, "--", "sh", "-c", "while :; do echo line; done")
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.wait(timeout=10) == 141


def test_revocation_ends_a_redacted_run_and_shows_what_was_written(ctl: Any, vault: Any) -> None:
    """143, and the command's last words are redacted too."""
    code = "trap 'echo bye $KEY; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = ctl.start(*RUN, "--", "sh", "-c", code)
    assert process.stdout.readline() == b"ready\n"
    (lease,) = vault.leases
    vault.revoke(lease)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out) == (143, b"bye [redacted]\n")


def test_a_command_that_cannot_start_is_told_as_always(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """Refused before or after its values were taught, or not executable: the same status, and no hang."""
    vault.denied_secrets = {"stripe/live"}
    assert ctl.process(*RUN, "--env", "B=stripe/live", "--", "true").status == 125
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert ctl.process(*RUN, "--", str(script)).status == 126
    assert ctl.process(*RUN, "--", "no-such-command-here").status == 127


def test_the_command_inherits_nothing_more(ctl: Any) -> None:
    """No end of a pipe, nor of the socket that taught the values, is open in the command but its streams."""
    code = "import os; print(len(os.listdir('/proc/self/fd')))"
    plain = [word for word in RUN if word != "--redact"]
    assert ctl.process(*RUN, *python(code)).out == ctl.process(*plain, *python(code)).out
