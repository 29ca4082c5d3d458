"""What each operation of the protocol does: one module a family, one function an operation.

`TABLE` is filled by `operation` when the modules are imported; a test holds it equal to the protocol's table.
"""

# ruff: noqa: F401  imported for what they enter into the table
import vaultd.daemon.ops.audits
import vaultd.daemon.ops.basics
import vaultd.daemon.ops.keys
import vaultd.daemon.ops.leases
import vaultd.daemon.ops.policies
import vaultd.daemon.ops.pruning
import vaultd.daemon.ops.ranges
import vaultd.daemon.ops.rotation
import vaultd.daemon.ops.runs
import vaultd.daemon.ops.secrets
import vaultd.daemon.ops.tenants
from vaultd.daemon.ops.table import TABLE

__all__ = ["TABLE"]
