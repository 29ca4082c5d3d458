"""What every test shares: the Hypothesis profiles, and the rule that nothing important is skipped unseen."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

# `tests.support` holds helpers that several rooms' tests share; a plain `pytest` must find it as `python -m pytest`
# does.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Whoever started us may ignore hangups (nohup) and keyboard signals (a shell, in the background); what we start would
# inherit that, and is to be tried without.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In a pid namespace made without a session (unshare, nsenter) ours would be out of the daemon's sight, which binds
# neither tickets nor runs to such a one; test_containers.py makes such a place where it is wanted.
if os.getsid(0) == 0 and os.getpid() != 1:
    os.setsid()

_skipped_as_root: list[str] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs other uids is skipped, visibly, when we cannot take them."""
    if item.get_closest_marker("needs_root") is not None and os.geteuid() != 0:
        pytest.skip("needs root, to start processes under other uids")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a `needs_root` test that was skipped although we are root: that is a hole, not a choice."""
    report = yield
    if report.skipped and os.geteuid() == 0 and item.get_closest_marker("needs_root") is not None:
        _skipped_as_root.append(item.nodeid)
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """As root, a skipped `needs_root` test fails the run."""
    if _skipped_as_root and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the holes at the end, where they are read."""
    for nodeid in _skipped_as_root:
        terminalreporter.write_line(f"FAILED {nodeid} - skipped although running as root", red=True)
