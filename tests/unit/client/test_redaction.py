"""Leased values in logs: hidden while their lease is held, by a filter or a formatter, and forgotten afterwards."""

from __future__ import annotations

import base64
import gc
import io
import logging
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from vaultclient import Client, RedactingFilter, RedactingFormatter, RedactingStream, _live
from vaultclient._forms import MOST_ENCODED
from vaultclient._redactor import Redactor, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUE = b"sk-first"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a process's redactor of its own."""
    monkeypatch.setattr(_live, "_redactor", None)


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO, logging.Handler]]:
    """A logger with one handler that writes into a text."""
    written = io.StringIO()
    logger, handler = logging.getLogger("tests.redaction"), logging.StreamHandler(written)
    logger.addHandler(handler)
    yield logger, written, handler
    logger.removeHandler(handler)
    handler.close()


def test_a_live_value_is_hidden_until_its_lease_ends(daemon: Any, log: Any) -> None:
    """A filter made before the lease, or while it is held, hides it; after the lease nothing of it is kept."""
    logger, written, handler = log
    with Client(daemon.path) as client, client.lease("acme", "openai/prod") as lease:
        handler.addFilter(RedactingFilter())
        logger.warning("key %s, %r", bytes(lease.value).decode(), bytes(lease.value))
        logger.warning("Basic %s", base64.b64encode(b"me:" + VALUE).decode())
        known = list(_live.redactor()._forms())
        assert VALUE in known
        with client.lease("acme", "openai/prod"):
            logger.warning("again sk-first")
        logger.warning("still sk-first")
    assert written.getvalue().splitlines()[::2] == ["key [redacted], b'[redacted]'", "again [redacted]"]
    assert "c2stZmly" not in written.getvalue()
    assert "still [redacted]" in written.getvalue()
    assert all(not any(form) for form in known)  # wiped, not only dropped
    assert list(_live.redactor()._forms()) == []
    logger.warning("the word sk-first")
    assert written.getvalue().endswith("the word sk-first\n")


def test_a_lease_in_a_memory_file_is_hidden_too(daemon: Any, log: Any) -> None:
    """The value is read from its descriptor, which stays where it was."""
    logger, written, handler = log
    handler.addFilter(RedactingFilter())
    with Client(daemon.path) as client, client.lease("acme", "openai/prod", memfd=True) as lease:
        logger.warning("sk-first")
        assert bytes(lease.value) == VALUE
    assert written.getvalue() == "[redacted]\n"


def test_a_lease_that_nobody_holds_any_more_is_forgotten(daemon: Any) -> None:
    """Dropped without release, its forms are wiped with it."""
    redactor = _live.redactor()
    with Client(daemon.path) as client:
        lease = client.lease("acme", "openai/prod").acquire()
        known = list(redactor._forms())
        assert VALUE in known
        del lease
        gc.collect()
    assert list(redactor._forms()) == []
    assert all(not any(form) for form in known)


def test_a_lease_that_ended_while_it_was_learnt_is_not_kept(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the value and keeping its forms the lease ends: nothing is kept."""
    redactor = Redactor()
    with Client(daemon.path) as client:
        lease = client.lease("acme", "openai/prod").acquire()
        copy = lease._copy

        def ends_meanwhile() -> bytearray | None:
            value = copy()
            lease._end("revoked")
            return value

        monkeypatch.setattr(lease, "_copy", ends_meanwhile)
        redactor.add_lease(lease)
    assert list(redactor._forms()) == []


def test_the_filter_redacts_all_of_a_record(daemon: Any, log: Any) -> None:
    """Message, arguments, exception, stack and extra fields; types that a formatter relies on stay."""
    logger, written, handler = log
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(message)s %(deep)s %(number)d"))
    deep: Any = "sk-first"
    for _ in range(9):
        deep = [deep]
    extra = {"deep": {"sk-first": [b"sk-first", ("x", {"sk-first"})], "more": deep}, "number": 7}
    with Client(daemon.path) as client, client.lease("acme", "openai/prod"):
        try:
            int("bad key sk-first")
        except ValueError:
            logger.exception("failed with %(key)s", {"key": "sk-first"}, extra=extra, stack_info=True)
        assert "sk-" not in written.getvalue()
        assert "'bad key [redacted]'" in written.getvalue()
        assert "{'[redacted]': [b'[redacted]', ('x', {'[redacted]'})]" in written.getvalue()


def test_arguments_that_do_not_fit_are_not_printed(daemon: Any, log: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`logging` prints a record's arguments when they do not fit its message; they are left out."""
    logger, written, handler = log
    handler.addFilter(RedactingFilter())
    with Client(daemon.path) as client, client.lease("acme", "openai/prod"):
        logger.warning("%d", "sk-first")
    assert written.getvalue() == "%d (its arguments do not fit and are left out)\n"
    assert capsys.readouterr().err == ""


def test_the_formatter_redacts_what_another_made(daemon: Any, log: Any) -> None:
    """Whatever the inner formatter does, such as showing objects by their own words."""
    logger, written, handler = log

    class Words:
        def __str__(self) -> str:
            return "sk-first"

    handler.setFormatter(RedactingFormatter(logging.Formatter("%(message)s %(thing)s")))
    with Client(daemon.path) as client, client.lease("acme", "openai/prod"):
        logger.warning("sk-first", extra={"thing": Words()})
    assert written.getvalue() == "[redacted] [redacted]\n"


def test_what_is_printed_in_pieces_is_hidden(daemon: Any) -> None:
    """A value written in pieces, or encoded over several writes, is hidden; the rest comes at once, or at the end."""
    shown = io.StringIO()
    stream = RedactingStream(shown)
    with Client(daemon.path) as client, client.lease("acme", "openai/prod"):
        for piece in ("the key is s", "k-", "fir", "st, été 日本; ", base64.b64encode(VALUE).decode()[:5]):
            print(piece, end="", file=stream, flush=True)
        assert shown.getvalue() == "the key is [redacted], été 日本; "
        print(base64.b64encode(VALUE).decode()[5:], "\udc80 s", end="", file=stream)
        assert shown.getvalue().endswith("; [redacted]= \\udc80 ")
    stream.close()
    assert shown.getvalue().endswith(" s")
    stream.close()
    assert not shown.closed
    with pytest.raises(ValueError, match="closed"):
        stream.write("x")


def test_a_program_that_prints_loses_nothing_at_its_end(daemon: Any) -> None:
    """What still waits when the program ends comes then, and from a forked child as well."""
    program = (
        "import os, sys; from vaultclient import Client, RedactingStream\n"
        "sys.stdout, sys.stderr = RedactingStream(sys.stdout), RedactingStream(sys.stderr)\n"
        "client = Client(sys.argv[1]); lease = client.lease('acme', 'openai/prod').__enter__()\n"
        "out = sys.stdout; print(bytes(lease.value).decode(), out.isatty(), out.encoding, out.fileno(), flush=True)\n"
        "if os.fork() == 0: print('child', end=' sk-fi'); sys.stdout.close(); sys.stdout.flush(); os._exit(0)\n"
        "os.wait(); print('end', end=' sk')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, daemon.path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[redacted] False utf-8 1\nchild sk-fiend sk", "")


def test_text_that_is_no_unicode_comes_back_as_it_went() -> None:
    """Lone surrogates of either kind survive, beside a mark and without one."""
    redactor = Redactor()
    redactor.add(bytearray(b"se\xffcret"))
    for text in ("\udcff plain", "\ud800 plain", "ok"):
        assert redactor.redact_text(text) == text
    assert redactor.redact_text("a se\udcffcret b") == "a [redacted] b"
    assert redactor.redact_text("a seÿcret b") == "a [redacted] b"  # each byte for a character
    assert redactor.redact_text("\ud800 se\xffcret") == "\ud800 [redacted]"


def test_a_megabyte_is_hidden_in_its_raw_form() -> None:
    """Above 64 KiB only the raw form is looked for, and a stream holds back what it must of it."""
    value = random.Random(1).randbytes(1 << 20)
    redactor = Redactor()
    redactor.add(bytearray(value))
    assert len(list(redactor._forms())) == 1
    assert len(value) > MOST_ENCODED
    stream = Stream(redactor)
    out = b"".join(stream.feed(value[at : at + 65_536]) for at in range(0, len(value), 65_536))
    assert out + stream.feed(b"!") == b"[redacted]!"


def test_values_come_and_go_while_others_log() -> None:
    """Threads that redact see each value either whole or not at all, never a wiped form."""
    redactor = Redactor()
    redactor.add(bytearray(b"always-here"))
    seen: set[bytes] = set()
    stop = threading.Event()

    def show() -> None:
        while not stop.is_set():
            seen.add(redactor.redact(b"\0\0\0\0\0\0 always-here sometimes-here \0\0\0\0\0\0"))

    class Held:
        active = True

        def _copy(self) -> bytearray:
            return bytearray(b"sometimes-here")

    threads = [threading.Thread(target=show) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        lease: Any = Held()
        redactor.add_lease(lease)
        redactor.forget_lease(lease)
    stop.set()
    for thread in threads:
        thread.join()
    around = b"\0\0\0\0\0\0 %b %b \0\0\0\0\0\0"
    assert seen <= {around % (b"[redacted]", b"sometimes-here"), around % (b"[redacted]", b"[redacted]")}


def test_what_is_known_shows_itself_nowhere() -> None:
    """No form is in the text that a debugger or a traceback prints of the redactor's parts."""
    redactor = Redactor()
    redactor.add(bytearray(VALUE))
    assert "sk-" not in repr(redactor._others) + repr(redactor)
    redactor.forget_all()
    assert list(redactor._forms()) == []


def test_a_forked_child_redacts_on() -> None:
    """A lock that another thread held at the fork does not hang the child, which still knows what was live."""
    program = """
import os, threading
from vaultclient import _live
redactor = _live.redactor()
redactor.add(bytearray(b"sk-first"))
held, go = threading.Event(), threading.Event()
def hold():
    with _live._guard, redactor.lock:
        held.set()
        go.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(0 if _live.redactor().redact(b"a sk-first") == b"a [redacted]" else 1)
_, status = os.waitpid(child, 0)
go.set()
thread.join()
raise SystemExit(status)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=20)
