"""The story of the main job: every step is done by real processes, checked, and told in a line or two.

Exits non-zero at the first step that did not do what it says. Everything lives in a throw-away folder.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
WORKERS = 8
CALLS = 2_000
WIDTH = 80
INDENT = "    "
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def folded(words: Sequence[str]) -> list[str]:
    """A command for a reader: in lines of at most WIDTH, each but the last ending as a shell goes on, with ` \\`."""
    parts: list[str] = []
    for word in words:  # an option and its value stay together
        if parts and parts[-1].startswith("--") and parts[-1] != "--" and " " not in parts[-1] and word[:1] != "-":
            parts[-1] += " " + word
        else:
            parts.append(word)
    lines = [INDENT + "$ " + parts[0]]
    for n, part in enumerate(parts[1:], 2):
        room = WIDTH if n == len(parts) else WIDTH - len(" \\")
        if len(lines[-1]) + 1 + len(part) > room:
            lines[-1] += " \\"
            lines.append(INDENT + " " * 4 + part)
        else:
            lines[-1] += " " + part
    return lines


class StepFailed(Exception):
    """A step did not do what it says."""


def expect(condition: object, message: str) -> None:
    """A check of the story; unlike `assert` it is never compiled away."""
    if not condition:
        raise StepFailed(message)


class Story:
    """The folder, the processes in it, and the voice that tells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vault = folder / "vault"
        self.socket = folder / "run" / "vaultd.sock"
        self.keys = folder / "provider-keys.json"
        self.passphrase = folder / "passphrase"
        self.owners: dict[str, str] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.steps = 0
        self.began = time.monotonic()
        self.environment = {
            **os.environ,
            "VAULTD_SOCKET": str(self.socket),
            "NO_COLOR": "1",
            "COLUMNS": str(WIDTH - len(INDENT)),
        }
        for name in ("VAULTD_RUN", "VAULTD_RUN_FD"):
            self.environment.pop(name, None)

    # -- telling ---------------------------------------------------------------------------------------------------

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{paint('1', f'{self.steps:2}. {title}')}", flush=True)

    def did(self, *command: str, after: str = "") -> None:
        """Show a command as one would type it, quoted for a shell."""
        words = [shlex.quote(word.replace(str(self.folder), ".")) for word in command]
        print("\n".join(paint("2", line) for line in folded([*words, *([after] if after else [])])), flush=True)

    def saw(self, text: str) -> None:
        """Tell what came out; a line that is too wide goes on below itself."""
        for line in text.splitlines():
            print(textwrap.fill(line, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT + "  "), flush=True)

    # -- doing -----------------------------------------------------------------------------------------------------

    def ctl(self, *arguments: str, data: bytes | None = None, status: int = 0, show: bool = True) -> str:
        """Run one `vaultctl`; its exit status must be `status`. Returns its standard output."""
        if show:
            self.did("vaultctl", *arguments, after="< key" if data is not None else "")
        done = subprocess.run(
            [BIN / "vaultctl", *arguments], input=data if data is not None else b"", capture_output=True,
            env=self.environment, timeout=60, check=False,
        )  # fmt: skip
        words = f"vaultctl {' '.join(arguments)}"
        expect(
            done.returncode == status,
            f"{words}: exit {done.returncode}, wanted {status}\n{done.stdout.decode()}{done.stderr.decode()}",
        )
        return done.stdout.decode()

    def ask(self, *arguments: str) -> Any:
        """Run one `vaultctl --json` quietly and return what it printed: an object, or a list of objects, one a line."""
        lines = self.ctl("--json", *arguments, show=False).splitlines()
        return json.loads(lines[0]) if len(lines) == 1 else [json.loads(line) for line in lines]

    def rows(self, *arguments: str) -> list[Any]:
        """The objects that one `vaultctl --json` printed, one a line."""
        return [json.loads(line) for line in self.ctl("--json", *arguments, show=False).splitlines()]

    def start(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        # Without the terminal: each `vaultctl run` would take it for its command, and eight of them do not share it.
        process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def run_agent(self, options: Sequence[str], *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        """`vaultctl run` with an agent (a separate Python program) below it."""
        agent = (sys.executable, str(HERE / "agent.py"), *arguments)
        run = ("run", "--tenant", "acme", "--service", "agents", *options, "--", *agent)
        return self.start([BIN / "vaultctl", *run], stdout=subprocess.PIPE, **more)

    def new_key(self, prefix: str, owner: str) -> bytes:
        """A key of a provider's shape that works at our provider, and nowhere else."""
        key = prefix + secrets.token_urlsafe(36).replace("_", "a").replace("-", "b")
        self.owners[key] = owner
        fresh = self.keys.with_suffix(".new")
        fresh.write_text(json.dumps(self.owners))
        fresh.replace(self.keys)
        return key.encode()

    def wait_for(self, what: str, condition: Callable[[], bool], seconds: float = 15, *, pause: float = 0.005) -> float:
        """Wait until `condition` holds; returns the seconds it took."""
        began = time.monotonic()
        while not condition():
            expect(time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s")
            time.sleep(pause)
        return time.monotonic() - began

    def clean_up(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
                continue
            process.kill()
            process.wait()


class Load:
    """Eight workers, each a process and a run of its own, that call the provider until told to stop.

    A context manager: they all work when its block begins, and have reported when it has ended.

    Attributes:
        calls: answered calls of all of them.
        seconds: from the first call to the last.
        leases: of each worker, [boot-time nanoseconds before the lease was asked for, version that came].
    """

    def __init__(self, story: Story, port: int) -> None:
        self._story = story
        self._folder = story.folder / "load"
        self._folder.mkdir()
        self._files = [self._folder / f"worker-{n}.json" for n in range(WORKERS)]
        run = ("run", "--tenant", "acme", "--service", "agents", "--allow", "openai/*", "--", sys.executable)
        worker = (BIN / "vaultctl", *run, HERE / "worker.py", str(port))
        self._workers = [story.start([*worker, file]) for file in self._files]
        self.calls = 0
        self.seconds = 0.0
        self.leases: list[list[tuple[int, int]]] = []

    def __enter__(self) -> Load:
        ready = [file.with_suffix(".ready") for file in self._files]

        def all_work() -> bool:
            expect(all(worker.poll() is None for worker in self._workers), "a worker ended before it began")
            return all(file.exists() for file in ready)

        self._story.wait_for("workers ready", all_work, 60)
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self._files:
            file.with_suffix(".stop").touch()
        if kind is not None:
            return
        for worker in self._workers:
            expect(worker.wait(timeout=30) == 0, "a worker failed")
        self.seconds = time.monotonic() - self._began
        reports = [json.loads(file.read_text()) for file in self._files]
        failed = [text for report in reports for text in report["failed"]]
        expect(not failed, f"{len(failed)} calls failed, the first: {failed[:1]}")
        self.calls = sum(report["calls"] for report in reports)
        self.leases = [report["leases"] for report in reports]

    def while_doing(self, action: Callable[[], object]) -> tuple[int, int]:
        """Do something under the load, with a moment of load before and after; boot time at its begin and its end."""
        time.sleep(0.3)
        began = now()
        action()
        ended = now()
        time.sleep(0.3)
        return began, ended

    def leased_between(self, span: tuple[int, int]) -> int:
        """How many leases the workers asked for within a span of boot time."""
        return sum(span[0] <= asked <= span[1] for leases in self.leases for asked, _ in leases)


def now() -> int:
    """Boot time in nanoseconds, one clock for all processes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def seconds_of(span: tuple[int, int]) -> float:
    return (span[1] - span[0]) / 1e9


def tell(story: Story) -> None:
    folder, vault = story.folder, story.vault
    story.passphrase.touch(0o600)
    story.passphrase.write_text(secrets.token_urlsafe(24))
    unlock = ("--passphrase-file", str(story.passphrase))
    (folder / "run").mkdir(mode=0o755)

    story.step("A new vault, and the daemon as a process of its own")
    story.ctl("init", "--dir", str(vault), *unlock)
    story.did("vaultd", "--dir", str(vault), "--socket", str(story.socket), after="&")
    daemon = story.start([BIN / "vaultd", "--dir", vault, "--socket", story.socket], stderr=subprocess.PIPE)
    expect(daemon.stderr is not None, "no pipe to the daemon")
    first = daemon.stderr.readline().decode() if daemon.stderr else ""
    expect(first.startswith("listening on "), f"vaultd said {first!r}")
    expect(story.ask("status")["state"] == "sealed", "a fresh daemon must be sealed")
    began = time.monotonic()
    story.ctl("unseal", *unlock)
    status = story.ask("status")
    expect(status["state"] == "unsealed", "unseal did not unseal")
    story.saw(f"unsealed in {(time.monotonic() - began) * 1e3:.0f} ms, Argon2id and starting vaultctl included")
    features = status["kernel"]
    lacking = [f"{name} {state}" for name, state in sorted(features.items()) if state != "used"]
    story.saw(
        f"it uses {len(features) - len(lacking)} of {len(features)} kernel features"
        + "".join(f", {x}" for x in lacking)
    )

    story.step("Two tenants, a key each, from standard input")
    provider = story.start([sys.executable, HERE / "provider.py", story.keys], stdout=subprocess.PIPE)
    acme_key = story.new_key("sk-proj-", "acme")
    globex_key = story.new_key("rk_live_", "globex")
    port = int(provider.stdout.readline()) if provider.stdout else 0
    for tenant, secret, key in (("acme", "openai/prod", acme_key), ("globex", "stripe/payments", globex_key)):
        story.ctl("tenant", "create", tenant)
        story.ctl("put", tenant, secret, data=key)
    on_disk = b"".join(p.read_bytes() for p in sorted(vault.rglob("*")) if p.is_file())
    for word in (acme_key, globex_key, b"openai", b"stripe", b"acme", b"globex"):
        expect(word not in on_disk, f"{word[:6]!r} stands in clear in the vault's files")
    story.saw(f"{len(on_disk):,} bytes on disk: no key, no secret's name and no tenant's name in them")

    story.step("A service the kernel can recognise, and what it may do")
    story.ctl("service", "add", "agents", "--uid", str(os.getuid()))
    story.ctl("service", "add", "billing", "--unit", "/system.slice/globex-billing.service")
    story.ctl("grant", "add", "acme", "--service", "agents", "--secret", "openai/*", "--max-ttl", "5m")
    story.ctl("grant", "add", "globex", "--service", "billing", "--secret", "stripe/*")

    story.step("An agent works with its tenant's key")
    agent = story.run_agent(["--env", "OPENAI_API_KEY=openai/prod"], "call", str(port))
    run = ("run", "--tenant", "acme", "--service", "agents", "--env", "OPENAI_API_KEY=openai/prod")
    story.did("vaultctl", *run, "--", "python", "agent.py", "call")
    said = json.loads(agent.communicate(timeout=30)[0])
    expect(agent.returncode == 0 and said == {"owner": "acme"}, f"the agent said {said}")
    story.saw(f"the provider says: the key that arrived is {said['owner']}'s")

    story.step("The same agent asks for the other tenant's key")
    agent = story.run_agent(["--allow", "openai/*"], "ask", "globex", "stripe/payments")
    foreign = json.loads(agent.communicate(timeout=30)[0])
    agent = story.run_agent(["--allow", "openai/*"], "ask", "no-such-tenant", "stripe/payments")
    absent = json.loads(agent.communicate(timeout=30)[0])
    expect(foreign["code"] == "denied", f"wanted a denial, got {foreign}")
    expect(foreign == absent, f"foreign {foreign} differs from absent {absent}")
    story.saw(f"{foreign['code']}: {foreign['message']}")
    story.saw("word for word the answer for a tenant that does not exist")
    story.did("vaultctl", "explain", "globex", "stripe/payments", "--service", "agents")
    explained = story.ask("explain", "globex", "stripe/payments", "--service", "agents")
    expect(explained["allowed"] is False, "explain must say no")
    story.saw(f"an admin sees why: {explained['reason']}")

    story.step(f"Three rotations under load: {WORKERS} workers call with the key meanwhile")
    with Load(story, port) as load:
        new = story.new_key("sk-proj-", "acme")
        new_value = load.while_doing(lambda: story.ctl("rotate", "secret", "acme", "openai/prod", data=new))
        new_tenant_key = load.while_doing(lambda: story.ctl("rotate", "tenant", "acme"))
        new_root_key = load.while_doing(lambda: story.ctl("rotate", "root"))
        enough_calls(story, port, daemon)
    expect(load.calls >= CALLS, f"only {load.calls:,} calls")
    for number, leases in enumerate(load.leases):
        before = {version for asked, version in leases if asked < new_value[0]}
        after = {version for asked, version in leases if asked > new_value[1]}
        expect(before == {1} and after == {2}, f"worker {number} saw {before} before and {after} after the rotation")
        expect(leases[-1][0] > new_root_key[1], f"worker {number} leased nothing after the root's rotation")
    story.saw(f"{load.calls:,} calls, 0 failed, {load.calls / load.seconds:,.0f} calls/s")
    story.saw("secret: each worker's next lease after it carried the new value (version 2)")
    for name, span in (("tenant", new_tenant_key), ("root", new_root_key)):
        story.saw(f"{name}: new key in {seconds_of(span):.1f} s; {load.leased_between(span):,} leases meanwhile")

    story.step("Taking a lease back ends the agent that held it")
    agent = story.run_agent(["--env", "OPENAI_API_KEY=openai/prod"], "stay", stderr=subprocess.PIPE)
    expect(agent.stdout and agent.stdout.readline() == b"working\n", "the agent did not start")
    lease = story.rows("leases", "acme")[0]
    story.ctl("revoke", lease["lease"])
    _, told = agent.communicate(timeout=15)
    expect(agent.returncode == 143, f"vaultctl run ended with {agent.returncode}, wanted 143")
    story.saw(told.decode().strip())
    expect(story.rows("leases", "acme") == [], "a lease is left")
    story.saw("the agent was ended (vaultctl run: exit 143) and no lease is left")

    story.step("An agent killed with -9 leaves nothing behind")
    agent = story.run_agent(["--env", "OPENAI_API_KEY=openai/prod"], "stay")
    expect(agent.stdout and agent.stdout.readline() == b"working\n", "the agent did not start")
    run = story.rows("runs", "acme")[0]
    os.kill(run["anchor"]["pid"], signal.SIGKILL)
    took = story.wait_for("lease gone", lambda: story.rows("leases", "acme") == [], 5)
    expect(agent.wait(timeout=15) == 128 + signal.SIGKILL, f"vaultctl run ended with {agent.returncode}, wanted 137")
    story.did("kill", "-9", str(run["anchor"]["pid"]))
    story.did("vaultctl", "leases", "acme")
    story.saw(f"no lease is left, when next asked, {took * 1e3:.0f} ms later")

    story.step("What each tenant's audit trail shows, side by side")
    show_side_by_side(story)

    story.step("The audit chain, checked without any key, and found out when touched")
    story.did("vaultctl", "audit", "verify", "--dir", str(vault))
    verdict = story.ask("audit", "verify", "--dir", str(vault))
    story.saw(f"{verdict['lines']:,} lines of {verdict['trails']} trails verify")
    for heading, part in (("ruled out", "ruled_out"), ("not ruled out", "not_ruled_out")):
        for statement in verdict[part]:
            story.saw(f"{heading}: {statement}")
    copy = folder / "copy"
    shutil.copytree(vault, copy)
    journal = min((copy / "audit").iterdir())
    lines = journal.read_bytes().splitlines(keepends=True)
    target = len(lines) // 2
    offset = sum(map(len, lines[:target])) + lines[target].index(b'"time":"') + 10
    changed = bytearray(journal.read_bytes())
    changed[offset] ^= 1
    journal.write_bytes(changed)
    found = subprocess.run(
        [BIN / "vaultctl", "--json", "audit", "verify", "--dir", copy],
        capture_output=True,
        env=story.environment,
        check=False,
    )
    expect(found.returncode == 65, f"a changed journal: exit {found.returncode}, wanted 65")
    named = (found.stdout + found.stderr).decode()
    expect(re.search(rf'\bline"?:? ?{target + 1}\b', named), f"line {target + 1} not named: {named}")
    story.saw(f"one bit of line {target + 1} changed on a copy: exit 65, and line {target + 1} is named")

    story.step("Seal: no key is left in memory")
    story.ctl("seal")
    expect(story.ask("status")["state"] == "sealed", "seal did not seal")
    refused = story.ctl("get", "acme", "openai/prod", status=69, show=False)
    expect(refused == "", "a sealed vault printed something")
    daemon.send_signal(signal.SIGTERM)
    expect(daemon.wait(timeout=15) == 0, f"vaultd ended with {daemon.returncode}")
    story.saw("sealed; a get is refused (exit 69); vaultd ended cleanly on SIGTERM")


def calls_with_key_of(tenant: str, port: int) -> int:
    """How many calls the provider has answered that came with a key of the tenant's."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/calls")
        counts: dict[str, int] = json.loads(connection.getresponse().read())
    return counts.get(tenant, 0)


def enough_calls(story: Story, port: int, daemon: subprocess.Popen[bytes]) -> None:
    """Let the load run until the provider has counted as many calls as the story promises, and the first agent's."""

    def enough() -> bool:
        expect(daemon.poll() is None, "vaultd ended under load")
        return calls_with_key_of("acme", port) > CALLS

    story.wait_for(f"{CALLS:,} calls", enough, 120, pause=0.1)


def show_side_by_side(story: Story) -> None:
    """Both tenants' own records in two columns, what is told twice told once; neither knows of the other."""
    columns = []
    for tenant, other in (("acme", "globex"), ("globex", "acme")):
        story.did("vaultctl", "audit", "show", tenant)
        text = story.ctl("--json", "audit", "show", tenant, show=False)
        records = [json.loads(line) for line in text.splitlines()]
        expect(records, f"{tenant} has no trail")
        # acme's own agent asked for globex by that name, so acme's trail has the word; globex heard of nothing.
        expect(tenant == "acme" or other not in text, f"{tenant}'s trail names {other}")
        kinds = Counter(
            f"{r['kind']:<13} {r.get('secret') or ''} {'' if r['outcome'] == 'ok' else r['outcome']}".rstrip()
            for r in records
        )
        digits = max(len(f"{count:,}") for count in kinds.values())
        columns.append(
            [f"{tenant:>{digits + 1 + len(tenant)}}"] + [f"{n:>{digits},} {kind}" for kind, n in kinds.items()]
        )
    width = max(map(len, columns[0])) + 2
    for one, two in itertools.zip_longest(*columns, fillvalue=""):
        print(f"{INDENT}{one:<{width}}{two}".rstrip(), flush=True)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="quickstart", description="The main job, end to end, in a throw-away folder.")
    parser.add_argument("--keep", action="store_true", help="keep the folder, with the vault and its passphrase")
    keep = parser.parse_args().keep
    if os.getsid(0) == 0:
        os.setsid()  # ours is out of sight in here (a pid namespace entered from outside), and tickets need one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="vaultd-quickstart-"))
    story = Story(folder)
    status = 1
    try:
        tell(story)
        status = 0
    except (StepFailed, OSError, ValueError, LookupError, subprocess.SubprocessError) as failure:
        print(paint("31", f"\nquickstart: step {story.steps} did not do what it says: {failure!s}"), file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    finally:
        story.clean_up()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if status == 0:
        print(f"\n{paint('32', 'All of it did what it says')}, in {time.monotonic() - story.began:.0f} s.")
    print(f"The folder is {folder}." if keep else "The folder was thrown away; --keep keeps it.")
    sys.exit(status)


if __name__ == "__main__":
    main()
