"""The chain: a record of what happened that nobody rewrites unnoticed, its own writer included.

Each name is loaded on first use, so that reading entries loads no trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.chain.audit import Chain, open_chain, open_slot
    from talos.chain.config import ChainConfig, ChainKeys, Retention
    from talos.chain.entry import Entry, Kind, Meta
    from talos.chain.proof import BlockProof, LogProof, Opening
    from talos.chain.records import ChainReader, Record, chains_of
    from talos.chain.verifying import Verification, verify_reader

__all__ = [
    "BlockProof",
    "Chain",
    "ChainConfig",
    "ChainKeys",
    "ChainReader",
    "Entry",
    "Kind",
    "LogProof",
    "Meta",
    "Opening",
    "Record",
    "Retention",
    "Verification",
    "chains_of",
    "open_chain",
    "open_slot",
    "verify_reader",
]

__getattr__ = lazy_names(
    __name__,
    {
        "BlockProof": "talos.chain.proof",
        "Chain": "talos.chain.audit",
        "ChainConfig": "talos.chain.config",
        "ChainKeys": "talos.chain.config",
        "ChainReader": "talos.chain.records",
        "Entry": "talos.chain.entry",
        "Kind": "talos.chain.entry",
        "LogProof": "talos.chain.proof",
        "Meta": "talos.chain.entry",
        "Opening": "talos.chain.proof",
        "Record": "talos.chain.records",
        "Retention": "talos.chain.config",
        "Verification": "talos.chain.verifying",
        "chains_of": "talos.chain.records",
        "open_chain": "talos.chain.audit",
        "open_slot": "talos.chain.audit",
        "verify_reader": "talos.chain.verifying",
    },
)
