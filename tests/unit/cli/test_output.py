"""Tables and records: nothing lost, nothing too wide, nothing that drives a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultclient.cli.failures import CliError, describe, plain, report
from vaultclient.cli.group import ROOT
from vaultclient.cli.output import Output, counted, fields

NAMES = st.text(alphabet="abcdefghij_/.", min_size=1, max_size=255)


def printed(**options: bool) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return (
        Output(as_json=options.get("as_json", False), quiet=options.get("quiet", False), stdout=out, stderr=err),
        out,
        err,
    )


@given(st.lists(st.fixed_dictionaries({"a": NAMES, "b": NAMES, "n": st.integers(0, 10**6)}), min_size=1, max_size=8))
def test_a_table_fits_and_loses_nothing(rows: list[dict[str, Any]]) -> None:
    """Any cells: no line over 80 columns, and every character of every cell is somewhere in its column."""
    output, out, _ = printed()
    columns = [("NAME", lambda r: r["a"]), ("OTHER", lambda r: r["b"]), ("N", lambda r: r["n"])]
    output.table(rows, columns, empty="none", wrap=["NAME"])
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    everything = "".join(lines[1:])
    for letter in "abcdefghij_/.":
        assert everything.count(letter) == sum((row["a"] + row["b"]).count(letter) for row in rows)


class _Listing:
    """An app whose daemon lists one thing, everything about it at its longest."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.out, self.shown, _ = printed()
        self._item = item

    def items(self, *_: object) -> list[dict[str, Any]]:
        return [self._item]


@pytest.mark.parametrize(("verb", "key"), [("leases", "lease"), ("runs", "run"), ("grant list", "grant")])
def test_ids_are_whole_however_long_the_names_are(verb: str, key: str) -> None:
    """What a person copies into the next command is not broken in two, in 80 columns, with names of 64 letters."""
    name = "a-rather-long-name-" * 3 + "of-it"
    key_id = f"{key}_" + "x" * 20
    item = {
        key: key_id, "tenant": name, "service": name, "secret": f"{name}/{name}", "secrets": [f"{name}/**"] * 3,
        "version": 1_234_567, "delivery": "print", "expires_in": 86_399, "purpose": name, "purposes": [name] * 2,
        "anchor": {"pid": 4_194_303}, "can": ["lease", "put", "rotate", "list", "manage", "audit"],
        "deliver": ["fd", "env", "print"], "max_ttl": 3_600, "max_uses": 1_000, "rate": [1_000, 3_600],
        "hours": "08:00-18:00", "tz": "America/Argentina/Buenos_Aires", "expires": 1_800_000_000,
    }  # fmt: skip
    command: Any = ROOT
    for word in verb.split():
        command = command.get_command(click.Context(command), word)
    app = _Listing(item)
    with click.Context(command, obj=app):
        command.callback(**({"tenant": name} if verb == "grant list" else {"tenant": None}))
    lines = app.shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert key_id in lines[1]


@given(st.text(max_size=300))
def test_no_text_drives_a_terminal(text: str) -> None:
    """Whatever a name, a description or an error holds: what is printed of it is printable."""
    assert plain(text).isprintable()
    output, out, _ = printed()
    output.record({}, [("field", text)])
    output.table([{"a": text}], [("A", lambda r: r["a"])], empty="none")
    assert all(line.isprintable() for line in out.getvalue().split("\n"))


def test_json_is_ascii_one_object_a_line() -> None:
    """Names beyond ASCII and newlines are escaped, so that a line is always an object."""
    output, out, err = printed(as_json=True)
    output.table([{"a": "ä\n\x1b"}, {"a": b"\x01"}], [("A", lambda r: r["a"])], empty="none")
    output.note("a hint")
    output.next("a command")
    output.warn("a warning")
    lines = out.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == [{"a": "ä\n\x1b"}, {"a": "01"}]
    assert out.getvalue().isascii()
    assert err.getvalue() == ""


def test_quiet_keeps_data_and_warnings() -> None:
    """--quiet leaves out confirmations, hints and notes, and nothing else."""
    output, out, err = printed(quiet=True)
    output.done("done", {})
    output.next("a command")
    output.table([], [("A", str)], empty="none")
    output.warn("careful")
    output.say("data")
    assert out.getvalue() == "data\n"
    assert err.getvalue() == "vaultctl: warning: careful\n"


def test_columns_without_content_are_left_out() -> None:
    """A column in which no row has anything takes no room, unless it is the first."""
    output, out, _ = printed()
    output.table([{"a": None, "b": None, "c": 1}], [(k.upper(), lambda r, k=k: r[k]) for k in "abc"], empty="none")
    assert out.getvalue() == "A  C\n-  1\n"


def test_errors_have_one_form() -> None:
    """For people two lines, for programs one object; both alone on standard error, with the code's exit code."""
    failure = CliError("conflict", "version 3 is current", "look at the history")
    stream = io.StringIO()
    assert report(failure, as_json=False, stream=stream) == 73
    assert stream.getvalue() == "vaultctl: error: version 3 is current\nhint: look at the history\n"
    stream = io.StringIO()
    assert report(failure, as_json=True, stream=stream) == 73
    assert json.loads(stream.getvalue()) == {
        "error": {"code": "conflict", "message": "version 3 is current", "hint": "look at the history"}
    }


def test_an_unforeseen_exception_is_told_without_its_text() -> None:
    """Its text may hold the bytes it stumbled over: the type and the place are enough for a report."""
    try:
        b"\xffsk-live".decode("utf-8")
    except UnicodeDecodeError as error:
        code, message, hint = describe(error)
    assert code == "internal"
    assert "sk-live" not in message + hint
    assert "UnicodeDecodeError at test_output.py:" in message


def test_fields_and_counts() -> None:
    """Maps within maps get their path, instants are dates, lists stay lists; one is one, and two are many."""
    data = {"a_b": 1, "live": {"runs": 2}, "created": 0, "gone": ["x"], "left": True, "skip": 1}
    assert fields(data, without=["skip"]) == [
        ("a b", 1),
        ("live runs", 2),
        ("created", "1970-01-01 00:00:00"),
        ("gone", ["x"]),
        ("left", True),
    ]
    assert [counted(1, "process"), counted(2_000, "process"), counted(0, "line")] == [
        "1 process",
        "2,000 processes",
        "0 lines",
    ]


def test_ids_and_times_stay_whole() -> None:
    """What gives way is what was named: an id can be copied from a table that is too wide for its names."""
    output, out, _ = printed()
    row = {"id": "grant_abcdefghijklmnopqrst", "names": "openai/*, " * 8, "time": "2026-11-24 10:00:00"}
    columns = [("ID", lambda r: r["id"]), ("NAMES", lambda r: r["names"]), ("TIME", lambda r: r["time"])]
    output.table([row], columns, empty="none", wrap=["NAMES"])
    lines = out.getvalue().splitlines()
    assert "grant_abcdefghijklmnopqrst" in lines[1]
    assert "2026-11-24 10:00:00" in lines[1]
    assert max(map(len, lines)) <= 80
