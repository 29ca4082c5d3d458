"""The real daemon, for every integration test that asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import Daemon
from tests.support.tenants import World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """An unsealed vault of its own, and its daemon; `daemon.admin` is an admin."""
    with Daemon() as running:
        yield running


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Two tenants and their agents, shared by a module's tests: they must leave it as they found it. Needs root."""
    with World() as running:
        yield running
