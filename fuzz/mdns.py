"""mDNS: packets as anybody on the link may send them, answered and believed."""

from ipaddress import ip_network

from talos.addr import parse
from talos.errors import RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mdns.config import MdnsConfig
from talos.mdns.machine import Found, Link, MdnsMachine, Neighbourhood, Reply

OWN = PeerId.from_key(PrivateKey.from_seed(bytes(32)).public_key)
LINK = Link("eth0", 2, (ip_network("192.168.1.0/24"),), "192.168.1.5")
CONFIG = MdnsConfig()


def target(data: bytes) -> None:
    """Replies within the limits and peers of this link, or RemoteProtocolError."""
    machine = MdnsMachine(OWN, "a" * 32, LINK, CONFIG)
    machine.announce([parse("/ip4/192.168.1.5/tcp/4001")])
    near = Neighbourhood(CONFIG)
    for port in (CONFIG.port, 40_000):
        try:
            effects = machine.receive(data, ("192.168.1.7", port), 0.0)
        except RemoteProtocolError:
            continue
        for effect in effects:
            match effect:
                case Reply(data=answer):
                    if len(answer) > CONFIG.max_message_bytes:
                        raise AssertionError("a reply over the limit")
                    machine.receive(answer, ("192.168.1.5", CONFIG.port), 0.0)
                case Found(peer=peer, addrs=addrs):
                    if peer == OWN or not 0 < len(addrs) <= CONFIG.max_addrs or not all(map(LINK.holds, addrs)):
                        raise AssertionError("a peer that is none")
                    near.take(effect, 0.0)
    if len(near.peers(0.0)) > CONFIG.new_peers_per_minute:
        raise AssertionError("too many new peers")
