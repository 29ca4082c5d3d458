"""The keys that are in memory while the vault is unsealed, and how they come there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.crypto.hierarchy import RootKeys, index_key, name_index
from vaultd.errors import Internal
from vaultd.vault import entries
from vaultd.vault.keyring import SYSTEM
from vaultd.vault.owed import owed_key
from vaultd.vault.vouching import vouching_key

if TYPE_CHECKING:
    from vaultd.crypto.memory import Key
    from vaultd.vault.keyring import Keyring

__all__ = ["UnsealedKeys"]


class UnsealedKeys:
    """Root key, what derives from it, and the index key; the logs' own keys are with the logs.

    Args:
        root: this object becomes its owner.
    """

    def __init__(self, root: Key) -> None:
        self.root = root
        self.root_keys = RootKeys(root)
        self._index: Key | None = None
        self._vouching: Key | None = None
        self._owed: Key | None = None

    def load_system(self, keyring: Keyring) -> None:
        """Open the system key, and with it the keys of the keyring's index and of vouching. Raises `IntegrityError`."""
        system = keyring.entry(SYSTEM)
        if system is None:
            raise Internal("the keyring has no system entry")
        with entries.tenant_key(keyring.vault_id, system, self.root_keys) as key:
            self._index, self._vouching, self._owed = index_key(key), vouching_key(key), owed_key(key)

    @property
    def vouching(self) -> Key:
        """What seals the journal lines that vouch for logs."""
        if self._vouching is None:
            raise Internal("the vouching key was not loaded")
        return self._vouching

    @property
    def owed(self) -> Key:
        """What seals events that a halted vault cannot record."""
        if self._owed is None:
            raise Internal("the key of what is owed was not loaded")
        return self._owed

    def index_of(self, name: str) -> bytes:
        """Where the keyring keeps the tenant of that name."""
        if self._index is None:
            raise Internal("the index key was not loaded")
        return name_index(self._index, name)

    def replace(self, root: Key) -> tuple[Key, RootKeys]:
        """Go over to another root key; returns the old ones, for whoever wipes them when they are no longer needed."""
        old = self.root, self.root_keys
        self.root, self.root_keys = root, RootKeys(root)
        return old

    def wipe(self) -> None:
        """Zero them all."""
        self.root.wipe()
        self.root_keys.wipe()
        for key in (self._index, self._vouching, self._owed):
            if key is not None:
                key.wipe()
