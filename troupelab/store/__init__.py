"""The store: the one place that touches disk. One SQLite file a run, one thread that writes it, compressed blocks."""

from troupelab.store.store import MAX_META_BYTES, MAX_PAYLOAD_BYTES, Block, Salvage, Store, Transaction

__all__ = ["MAX_META_BYTES", "MAX_PAYLOAD_BYTES", "Block", "Salvage", "Store", "Transaction"]
