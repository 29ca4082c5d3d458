"""Client of vaultd."""
