"""Taking one lease, without click: what `vaultctl lease` does, and the short way to it.

Agents call `vaultctl lease` as a helper process, many times; so its usual forms are read by `parse` below, and anything
else (a misspelt option, --help) returns None and goes the long way, through click.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultclient.cli.durations import duration, shown_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultclient.cli.app import App

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
    with app.receive_value("lease.acquire", keys) as found:
        about = {"tenant": wanted.tenant, **found.keys}
        if not show_value:
            app.out.json_line(about)
        elif app.as_json:
            from vaultclient.cli.values import as_text

            app.out.json_line({**about, **as_text(found.value)})
        else:
            app.out.write_bytes(found.value)
            if app.out.stdout.isatty():
                app.out.stdout.write("\n")
                app.out.note(f"{about['lease']} ends in {shown_duration(about['expires_in'])}")


_TEXTS: Final = {"--ttl": "ttl", "--purpose": "purpose", "--service": "service", "--out": "out", "--version": "version"}


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
