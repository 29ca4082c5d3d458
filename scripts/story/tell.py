"""The story of the main job: every step is done by real processes, checked, and told in a line or two.

Exits non-zero at the first step that did not do what it says. Everything lives in a throw-away folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
WORKERS = 8
CALLS = 2_000
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


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
        self.environment = {**os.environ, "VAULTD_SOCKET": str(self.socket), "NO_COLOR": "1"}
        for name in ("VAULTD_RUN", "VAULTD_RUN_FD"):
            self.environment.pop(name, None)

    # -- telling ---------------------------------------------------------------------------------------------------

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{paint('1', f'{self.steps:2}. {title}')}", flush=True)

    def did(self, text: str) -> None:
        print(f"    {paint('2', '$ ' + text.replace(str(self.folder), '.'))}", flush=True)

    def saw(self, text: str) -> None:
        print(f"    {text}", flush=True)

    # -- doing -----------------------------------------------------------------------------------------------------

    def ctl(self, *arguments: str, data: bytes | None = None, status: int = 0, show: bool = True) -> str:
        """Run one `vaultctl`; its exit status must be `status`. Returns its standard output."""
        if show:
            self.did("vaultctl " + " ".join(arguments) + (" < key" if data is not None else ""))
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
        process = subprocess.Popen(command, env=self.environment, **options)
        self.processes.append(process)
        return process

    def run_agent(self, options: Sequence[str], *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        """`vaultctl run` with an agent (a separate Python program) below it."""
        command = [BIN / "vaultctl", "run", "--tenant", "acme", "--service", "agents", *options, "--", sys.executable]
        return self.start([*command, HERE / "agent.py", *arguments], stdout=subprocess.PIPE, **more)

    def new_key(self, prefix: str, owner: str) -> bytes:
        """A key of a provider's shape that works at our provider, and nowhere else."""
        key = prefix + secrets.token_urlsafe(36).replace("_", "a").replace("-", "b")
        self.owners[key] = owner
        fresh = self.keys.with_suffix(".new")
        fresh.write_text(json.dumps(self.owners))
        fresh.replace(self.keys)
        return key.encode()

    def wait_for(self, what: str, condition: Callable[[], bool], seconds: float = 15) -> float:
        """Wait until `condition` holds; returns the seconds it took."""
        began = time.monotonic()
        while not condition():
            expect(time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s")
            time.sleep(0.005)
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


@contextlib.contextmanager
def load(story: Story, port: int) -> Iterator[list[dict[str, Any]]]:
    """Eight workers, each its own process and run, calling until the body is done; then their reports."""
    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=story.folder) as folder:
        files = [Path(folder) / f"worker-{n}.json" for n in range(WORKERS)]
        command = [BIN / "vaultctl", "run", "--tenant", "acme", "--service", "agents", "--allow", "openai/*", "--"]
        workers = [story.start([*command, sys.executable, HERE / "worker.py", str(port), file]) for file in files]
        story.wait_for("workers ready", lambda: all(file.with_suffix(".ready").exists() for file in files), 30)
        yield reports
        for file in files:
            file.with_suffix(".stop").touch()
        for worker in workers:
            expect(worker.wait(timeout=30) == 0, "a worker failed")
        reports.extend(json.loads(file.read_text()) for file in files)


def tally(story: Story, reports: list[dict[str, Any]], seconds: float) -> None:
    """Say what the load saw; a failed call fails the story."""
    calls = sum(report["calls"] for report in reports)
    failed = [text for report in reports for text in report["failed"]]
    expect(not failed, f"{len(failed)} calls failed, the first: {failed[:1]}")
    story.saw(f"{WORKERS} workers, {calls:,} calls, 0 failed, {calls / seconds:,.0f} calls/s")


def tell(story: Story) -> None:
    folder, vault = story.folder, story.vault
    story.passphrase.touch(0o600)
    story.passphrase.write_text(secrets.token_urlsafe(24))
    unlock = ("--passphrase-file", str(story.passphrase))
    (folder / "run").mkdir(mode=0o755)

    story.step("A new vault, and the daemon as a process of its own")
    story.ctl("init", "--dir", str(vault), *unlock)
    daemon = story.start([BIN / "vaultd", "--dir", vault, "--socket", story.socket], stderr=subprocess.PIPE)
    expect(daemon.stderr is not None, "no pipe to the daemon")
    first = daemon.stderr.readline().decode() if daemon.stderr else ""
    expect(first.startswith("listening on "), f"vaultd said {first!r}")
    expect(story.ask("status")["state"] == "sealed", "a fresh daemon must be sealed")
    began = time.monotonic()
    story.ctl("unseal", *unlock)
    status = story.ask("status")
    expect(status["state"] == "unsealed", "unseal did not unseal")
    story.saw(
        f"unsealed in {(time.monotonic() - began) * 1e3:.0f} ms, Argon2id and the process included; pid {daemon.pid}"
    )
    fallen = [f"{name}: {state}" for name, state in sorted(status["kernel"].items()) if state != "used"]
    story.saw(
        f"of the kernel it uses {len(status['kernel']) - len(fallen)} features, "
        + (", ".join(fallen) or "all it asks for")
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
    story.saw(f"{len(on_disk):,} bytes on disk: neither key, neither secret's name, neither tenant's name among them")

    story.step("A service the kernel can recognise, and what it may do")
    story.ctl("service", "add", "agents", "--uid", str(os.getuid()))
    story.ctl("service", "add", "billing", "--unit", "/system.slice/globex-billing.service")
    story.ctl("grant", "add", "acme", "--service", "agents", "--secret", "openai/*", "--max-ttl", "5m")
    story.ctl("grant", "add", "globex", "--service", "billing", "--secret", "stripe/*")

    story.step("An agent works with its tenant's key")
    agent = story.run_agent(["--env", "OPENAI_API_KEY=openai/prod"], "call", str(port))
    story.did("vaultctl run --tenant acme --service agents --env OPENAI_API_KEY=openai/prod -- python agent.py call")
    said = json.loads(agent.communicate(timeout=30)[0])
    expect(agent.returncode == 0 and said == {"owner": "acme"}, f"the agent said {said}")
    story.saw(f"the provider says the key that arrived is {said['owner']}'s; the agent never saw another")

    story.step("The same agent asks for the other tenant's key")
    agent = story.run_agent(["--allow", "openai/*"], "ask", "globex", "stripe/payments")
    foreign = json.loads(agent.communicate(timeout=30)[0])
    agent = story.run_agent(["--allow", "openai/*"], "ask", "no-such-tenant", "stripe/payments")
    absent = json.loads(agent.communicate(timeout=30)[0])
    expect(foreign["code"] == "denied", f"wanted a denial, got {foreign}")
    expect(foreign == absent, f"foreign {foreign} differs from absent {absent}")
    story.saw(f"{foreign['code']}: {foreign['message']} (word for word the answer for a tenant that does not exist)")
    explained = story.ask("explain", "globex", "stripe/payments", "--service", "agents")
    expect(explained["allowed"] is False, "explain must say no")
    story.did("vaultctl explain globex stripe/payments --service agents")
    story.saw(f"explain: {explained['reason']}")

    story.step(f"New key under load: rotate secret, {WORKERS} workers")
    began = time.monotonic()
    with load(story, port) as reports:
        time.sleep(0.5)
        new = story.new_key("sk-proj-", "acme")
        story.ctl("rotate", "secret", "acme", "openai/prod", data=new)
        rotated = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        enough_calls(story, daemon)
    tally(story, reports, time.monotonic() - began)
    expect(sum(r["calls"] for r in reports) >= CALLS, f"fewer than {CALLS:,} calls")
    for number, report in enumerate(reports):
        before = {version for asked, version in report["leases"] if asked < rotated}
        after = {version for asked, version in report["leases"] if asked > rotated}
        expect(1 in before and after == {2}, f"worker {number} saw {before} before and {after} after the rotation")
    story.saw("each worker had version 1 before, and its next lease after the rotation carried version 2")

    story.step("New tenant key and new root key under the same load")
    began = time.monotonic()
    with load(story, port) as reports:
        time.sleep(0.3)
        story.ctl("rotate", "tenant", "acme")
        time.sleep(0.3)
        story.ctl("rotate", "root")
        time.sleep(0.3)
    tally(story, reports, time.monotonic() - began)

    story.step("Taking a lease back ends the agent that held it")
    agent = story.run_agent(["--env", "OPENAI_API_KEY=openai/prod"], "stay", stderr=subprocess.PIPE)
    expect(agent.stdout and agent.stdout.readline() == b"working\n", "the agent did not start")
    lease = story.rows("leases", "acme")[0]
    story.ctl("revoke", lease["lease"])
    _, words = agent.communicate(timeout=15)
    expect(agent.returncode == 143, f"vaultctl run ended with {agent.returncode}, wanted 143")
    story.saw(words.decode().strip())
    expect(story.rows("leases", "acme") == [], "a lease is left")
    story.saw("the agent was ended (vaultctl run: exit 143) and no lease is left")

    story.step("An agent killed with -9 leaves nothing behind")
    agent = story.run_agent(["--env", "OPENAI_API_KEY=openai/prod"], "stay")
    expect(agent.stdout and agent.stdout.readline() == b"working\n", "the agent did not start")
    run = story.rows("runs", "acme")[0]
    os.kill(run["anchor"]["pid"], signal.SIGKILL)
    took = story.wait_for("lease gone", lambda: story.rows("leases", "acme") == [], 5)
    expect(agent.wait(timeout=15) == 128 + signal.SIGKILL, f"vaultctl run ended with {agent.returncode}, wanted 137")
    story.saw(
        f"kill -9 {run['anchor']['pid']}: its lease was gone from `leases` when next asked, {took * 1e3:.0f} ms later"
    )

    story.step("What each tenant's audit trail shows, side by side")
    show_side_by_side(story)

    story.step("The audit chain, checked without any key, and found out when touched")
    story.saw(story.ctl("audit", "verify", "--dir", str(vault)).strip().replace("\n", "\n    "))
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
    words = (found.stdout + found.stderr).decode()
    expect(
        f"line {target + 1}" in words or f'"line":{target + 1}' in words.replace(" ", ""),
        f"line {target + 1} not named: {words}",
    )
    story.saw(f"one bit of line {target + 1} changed on a copy: exit 65, and line {target + 1} is named")

    story.step("Seal: no key is left in memory")
    story.ctl("seal")
    expect(story.ask("status")["state"] == "sealed", "seal did not seal")
    refused = story.ctl("get", "acme", "openai/prod", status=69, show=False)
    expect(refused == "", "a sealed vault printed something")
    daemon.send_signal(signal.SIGTERM)
    expect(daemon.wait(timeout=15) == 0, f"vaultd ended with {daemon.returncode}")
    story.saw("sealed; a get is refused (exit 69); vaultd ended cleanly on SIGTERM")


def enough_calls(story: Story, daemon: subprocess.Popen[bytes]) -> None:
    """Let the load run until the tenant's trail holds as many leases as the story promises calls."""

    def enough() -> bool:
        expect(daemon.poll() is None, "vaultd ended under load")
        return story.ask("tenant", "show", "acme")["audit"]["records"] >= 2 * CALLS + 100

    story.wait_for(f"{CALLS:,} calls", enough, 40)


def show_side_by_side(story: Story) -> None:
    """The last records of both tenants in two columns; each knows nothing of the other."""
    columns = []
    for tenant, other in (("acme", "globex"), ("globex", "acme")):
        text = story.ctl("--json", "audit", "show", tenant, show=False)
        story.did(f"vaultctl audit show {tenant}")
        records = [json.loads(line) for line in text.splitlines()]
        expect(records, f"{tenant} has no trail")
        for stranger in [other] if tenant == "globex" else []:
            expect(stranger not in text, f"{tenant}'s trail names {stranger}")
        columns.append([f"{r['kind']:<16} {r['outcome']}" for r in records[-8:]])
    height = max(map(len, columns))
    left, right = (column + [""] * (height - len(column)) for column in columns)
    story.saw(f"{'acme':<36}globex")
    for one, two in zip(left, right, strict=True):
        story.saw(f"{one:<36}{two}")


def main() -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep = "--keep" in sys.argv[1:]
    folder = Path(tempfile.mkdtemp(prefix="vaultd-quickstart-"))
    story = Story(folder)
    status = 1
    try:
        tell(story)
        status = 0
    except StepFailed as failure:
        print(paint("31", f"\nquickstart: step {story.steps} did not do what it says: {failure}"), file=sys.stderr)
    finally:
        story.clean_up()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if status == 0:
        print(f"\n{paint('32', 'All of it did what it says')}, in {time.monotonic() - story.began:.0f} s.", end=" ")
        print(f"The folder {'is ' + str(folder) if keep else 'was thrown away (--keep keeps it)'}.")
    sys.exit(status)


if __name__ == "__main__":
    main()
