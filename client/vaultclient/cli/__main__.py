"""`python -m vaultclient.cli` is vaultctl."""

from __future__ import annotations

import sys

from vaultclient.cli import main

sys.exit(main())
