"""What a restart of the daemon costs agents that are at work: 50 live runs of 20 tenants, stopped and killed.

"away" is from the signal until the vault is unsealed again, the passphrase's cheap derivation included; "longest" is
the longest lease call that any agent saw, waiting for the daemon included.

Claim (issue 3): a restart ends no agent and fails no lease.

    python benchmarks/restart.py [--rounds 3] [--check]

`--check` exits 1 where the claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks._machine import facts
from tests.support.daemon import Daemon
from tests.support.fleet import RUNS, TENANTS, Fleet


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    print(facts())
    print(f"{RUNS} runs of {TENANTS} tenants")
    fine = True
    print(f"{'restart by':<12}{'away, ms':>10}{'longest, ms':>13}{'calls':>8}{'failed':>8}{'agents ended':>14}")
    for name, number in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
        with Daemon() as daemon:
            fleet = Fleet(daemon)
            try:
                before = fleet.runs()
                away = []
                for _ in range(options.rounds):
                    away.append(fleet.restart(number))
                    fleet.wait()
                lost = len(before - fleet.runs())
                outcome = fleet.end()
            finally:
                fleet.kill()
        fine = fine and not (lost or outcome.failed or outcome.ended)
        print(
            f"{name:<12}{max(away) * 1e3:>10.0f}{outcome.longest * 1e3:>13.0f}{outcome.calls:>8}"
            f"{len(outcome.failed):>8}{outcome.ended + lost:>14}"
        )
        for problem in outcome.failed[:5]:
            print(f"  {problem}")
    return 1 if options.check and not fine else 0


if __name__ == "__main__":
    sys.exit(main())
