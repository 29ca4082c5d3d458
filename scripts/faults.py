#!/usr/bin/env python3
"""Let every system call of the running daemon fail, one at a time: `faults.py [--operation NAME]... [--call NAME]...`.

For each thing that is done (put, lease, create, delete, rotate, seal, unseal, slots, SIGTERM) and each system call that
it makes, the N-th such call fails with each errno, once and for good, or the daemon is killed in it, for N = 1, 2, ...
until nothing is hit any more. Needs root and strace. Prints what came of it and ends with 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from itertools import count

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.support.faults import CALLS, ERRORS, OPERATIONS, Fault, read, round_of, template


def main() -> int:
    """Run the loop; the exit code."""
    parser = argparse.ArgumentParser(description="Let every system call of the running daemon fail, one at a time.")
    parser.add_argument("--operation", action="append", choices=list(OPERATIONS))
    parser.add_argument("--call", action="append", choices=list(CALLS))
    parser.add_argument("--action", action="append", choices=[*ERRORS, "KILL"])
    parser.add_argument("--most", type=int, default=64, help="the highest N")
    parser.add_argument("--failures", type=int, default=20, help="after so many, give up")
    options = parser.parse_args()
    failures, rounds, came = [], 0, Counter[str]()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vaultd-faults-") as folder:
        made = template(folder)
        before = read(made)
        for name in options.operation or OPERATIONS:
            for call in options.call or CALLS:
                for action in options.action or (*ERRORS, "KILL"):
                    for lasting in (False, True) if action != "KILL" else (False,):
                        for at in count(1):
                            fault = Fault(call, action, at, lasting)
                            try:
                                outcome = round_of(made, name, fault, before)
                            except Exception:  # noqa: BLE001  every failure is told, and the loop goes on
                                failures.append((name, fault))
                                print(f"FAILED {name} {fault}\n{traceback.format_exc()}", flush=True)
                                if len(failures) >= options.failures:
                                    return 1
                                if at >= options.most:
                                    break
                                continue
                            if not outcome.hit or at >= options.most:
                                break
                            rounds += 1
                            came[f"{outcome.answer}, then {outcome.after}"] += 1
            print(f"{time.monotonic() - started:6.0f} s  {name}: {rounds} faults so far", flush=True)
    for what, number in came.most_common():
        print(f"{number:6}  {what}")
    print(f"{rounds} faults, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
