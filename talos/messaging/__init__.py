"""Messages between identities: sealed end to end, kept before they are sent, acknowledged by signed receipts.

async with open_messaging(node, WalletKeys(wallet), directory=home, audit=chain) as messaging:
    sent = await messaging.send(peer, "I am online.")
    await sent.wait()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.messaging.code import AckState, Code, MessageType
    from talos.messaging.config import (
        BroadcastLimits,
        DeliveryLimits,
        MessagingConfig,
        ReceiveLimits,
        StrangerLimits,
        Strangers,
    )
    from talos.messaging.content import Text
    from talos.messaging.handling import Received, Verdict
    from talos.messaging.letters import HistoryQuery, Incoming, Outgoing
    from talos.messaging.people import Acquaintances, Keyring, WalletKeys
    from talos.messaging.service import Messaging, open_messaging
    from talos.messaging.store import MessageState, OutboxRow, StoredMessage, WaitingLetter

__all__ = [
    "AckState",
    "Acquaintances",
    "BroadcastLimits",
    "Code",
    "DeliveryLimits",
    "HistoryQuery",
    "Incoming",
    "Keyring",
    "MessageState",
    "MessageType",
    "Messaging",
    "MessagingConfig",
    "OutboxRow",
    "Outgoing",
    "ReceiveLimits",
    "Received",
    "StoredMessage",
    "StrangerLimits",
    "Strangers",
    "Text",
    "Verdict",
    "WaitingLetter",
    "WalletKeys",
    "open_messaging",
]

_HOMES = {
    "AckState": "talos.messaging.code",
    "Acquaintances": "talos.messaging.people",
    "BroadcastLimits": "talos.messaging.config",
    "Code": "talos.messaging.code",
    "DeliveryLimits": "talos.messaging.config",
    "HistoryQuery": "talos.messaging.letters",
    "Incoming": "talos.messaging.letters",
    "Keyring": "talos.messaging.people",
    "MessageState": "talos.messaging.store",
    "MessageType": "talos.messaging.code",
    "Messaging": "talos.messaging.service",
    "MessagingConfig": "talos.messaging.config",
    "Outgoing": "talos.messaging.letters",
    "OutboxRow": "talos.messaging.store",
    "ReceiveLimits": "talos.messaging.config",
    "Received": "talos.messaging.handling",
    "StoredMessage": "talos.messaging.store",
    "StrangerLimits": "talos.messaging.config",
    "Strangers": "talos.messaging.config",
    "Text": "talos.messaging.content",
    "Verdict": "talos.messaging.handling",
    "WaitingLetter": "talos.messaging.store",
    "WalletKeys": "talos.messaging.people",
    "open_messaging": "talos.messaging.service",
}

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
