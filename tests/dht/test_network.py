"""DHT nodes among each other, over memory transport on a virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.errors import PeerNotFound
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from tests.dht.network import dht_network

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_three_nodes_with_one_bootstrap_find_each_other(autojump_clock: MockClock) -> None:
    async with dht_network(3) as (_, one, other):
        assert await one.dht.find_peer(other.id) == (other.node.config.listen[0],)
        connection = await other.node.connect(one.id)  # through peer routing: nobody told an address
        assert connection.remote_peer == one.id
        stranger = PeerId.from_key(PrivateKey.generate().public_key)
        with pytest.raises(PeerNotFound):
            await one.dht.find_peer(stranger)
