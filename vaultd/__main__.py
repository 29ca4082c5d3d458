"""`python -m vaultd` is `vaultd`."""

import sys

from vaultd.daemon.main import main

sys.exit(main())
