"""Ping: 32 random bytes there and back (libp2p ping)."""

from talos.ping.service import PING, PingConfig, Pings, WrongEcho, open_ping, ping, pinging

__all__ = ["PING", "PingConfig", "Pings", "WrongEcho", "open_ping", "ping", "pinging"]
