"""The plaintext exchange."""

from __future__ import annotations

from talos.errors import HandshakeError
from talos.identity.keys import PrivateKey
from talos.security.plaintext import PlaintextMachine

KEY = PrivateKey.from_seed(bytes([1]) * 32).public_key


def target(data: bytes) -> None:
    try:
        PlaintextMachine(KEY).receive_data(data)
    except HandshakeError:
        pass
