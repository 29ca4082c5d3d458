"""Fixtures of the access room's tests."""

from __future__ import annotations

import pytest

from tests.support.access_world import World


@pytest.fixture
def world() -> World:
    """A world with default limits."""
    return World()
