"""Taking one lease, without click: what `vaultctl lease` does, and the short way to it.

Agents call `vaultctl lease` as a helper process, many times; so its usual forms are read by `parse` below, and anything
else (a misspelt option, --help) returns None and goes the long way, through click.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultclient.cli.durations import duration, shown_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultclient._calls import Answer
    from vaultclient.cli.app import App
    from vaultclient.cli.downloads import Range

__all__ = ["Wanted", "acquire", "parse"]


class Wanted(NamedTuple):
    """One lease as it was asked for on the command line."""

    tenant: str
    secret: str
    ttl: str | None = None
    purpose: str | None = None
    version: int | None = None
    service: str | None = None
    out: str | None = None
    part: str | None = None


def acquire(app: App, wanted: Wanted) -> None:
    """Lease, and print the value (`--out value`, the default) or what is known of the lease (`--out json`).

    Inside a run the run's token counts. Outside, the daemon opens an implicit run, anchored to the process that called
    vaultctl: the lease outlives vaultctl, and ends with that process.
    """
    show_value = wanted.out == "value" or (wanted.out is None and not app.as_json)
    delivery = "print" if show_value else "fd"
    keys: dict[str, Any] = {"tenant": wanted.tenant, "secret": wanted.secret, "delivery": delivery}
    ttl = duration(wanted.ttl, "TTL") if wanted.ttl is not None else None
    given = {"ttl": ttl, "purpose": wanted.purpose, "version": wanted.version}
    if app.token is None:
        given |= {"service": wanted.service, "anchor": "parent"}
    keys.update({name: what for name, what in given.items() if what is not None})
    part = None
    if wanted.part is not None:
        from vaultclient.cli.downloads import parse_range

        part = parse_range(wanted.part)
    with app.call("lease.acquire", keys) as found:
        about = {"tenant": wanted.tenant, **found.keys}
        if not show_value:
            app.out.json_line(about)
        elif found.fd is None and found.tail and part is None:  # nearly always: nothing more is loaded for it
            _show(app, about, found.tail)
        else:
            _show_long(app, about, found, part)


def _show(app: App, about: dict[str, Any], value: bytearray) -> None:
    if app.as_json:
        from vaultclient.cli.values import as_text

        app.out.json_line({**about, **as_text(value)})
        return
    app.out.write_bytes(value)
    _shown(app, about)


def _shown(app: App, about: dict[str, Any]) -> None:
    if app.out.stdout.isatty():
        app.out.stdout.write("\n")
        app.out.note(f"{about['lease']} ends in {shown_duration(about['expires_in'])}")


def _show_long(app: App, about: dict[str, Any], found: Answer, part: Range | None) -> None:
    """Print what is long or a range: as it comes, so of any size; with --json what fits a memory file."""
    from vaultclient.cli.downloads import WHOLE, copy, in_memory
    from vaultclient.cli.inputs import wipe

    lease = about["lease"]
    if part is not None or (found.fd is None and not app.as_json):
        keys = {"lease": lease, **(part or WHOLE).keys()}
        found = app.call("lease.read", keys if app.as_json else {**keys, "pipe": True})
    if app.as_json:
        with found:
            value = in_memory(found, "without --json it is printed as it comes")
            try:
                _show(app, about, value)
            finally:
                wipe(value)
        return

    def why(at: int) -> Answer:
        return app.call("lease.read", {"lease": lease, "offset": at, "length": 1})

    copy(app, found, part or WHOLE, app.out.write_bytes, why, f"leasing {about['tenant']} {about['secret']}")
    _shown(app, about)


_TEXTS: Final = {
    "--ttl": "ttl",
    "--purpose": "purpose",
    "--service": "service",
    "--out": "out",
    "--version": "version",
    "--range": "part",
}


def parse(arguments: Sequence[str]) -> tuple[Wanted, dict[str, Any]] | None:
    """Read `lease TENANT SECRET` with its options and the global ones, each spelt out; None for anything else."""
    names: list[str] = []
    options: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _TEXTS or name == "--socket":
            if not equals:
                value = next(rest, "")
                if not value:
                    return None
            (shared if name == "--socket" else options)[_TEXTS.get(name, "socket")] = value
        elif word == "--json":
            shared["as_json"] = True
        elif word in {"--quiet", "-q"}:
            shared["quiet"] = True
        elif word.startswith("-"):
            return None
        else:
            names.append(word)
    if len(names) != 3 or names[0] != "lease" or options.get("out", "value") not in {"value", "json"}:
        return None
    version = options.pop("version", None)
    if version is not None:
        if not (version.isascii() and version.isdigit() and 1 <= len(version) <= 9 and int(version) > 0):
            return None
        options["version"] = int(version)
    return Wanted(names[1], names[2], **options), shared
