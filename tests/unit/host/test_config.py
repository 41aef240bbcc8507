"""Configurations are checked when they are made."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from talos.addr import parse
from talos.errors import ConfigError
from talos.host.config import NodeConfig, Stack, TimeoutsConfig
from talos.identity.keys import PrivateKey
from talos.muxer.yamux import Yamux
from talos.security.noise import Noise
from talos.security.plaintext import Plaintext
from talos.transport import Tcp

KEY = PrivateKey.generate()


def test_a_stack_is_tcp_noise_yamux_by_default() -> None:
    stack = Stack()
    assert isinstance(stack.transports[0], Tcp)
    assert isinstance(stack.muxers[0], Yamux)
    assert [type(part) for part in stack.securities(KEY)] == [Noise]


def test_security_comes_ready_or_as_a_class_called_with_the_key() -> None:
    ready = Noise(KEY)
    first, second, third = Stack(security=(ready, Noise, partial(Noise))).securities(KEY)
    assert first is ready
    assert isinstance(second, Noise)
    assert isinstance(third, Noise)


@pytest.mark.parametrize("changes", [{"transports": ()}, {"muxers": ()}, {"transports": (object(),)}])
def test_a_stack_that_cannot_work_is_refused(changes: Any) -> None:
    with pytest.raises(ConfigError):
        Stack(**changes)


@pytest.mark.parametrize("plain", [Plaintext, Plaintext(KEY, insecure=True)], ids=["class", "object"])
def test_plaintext_needs_the_word_insecure(plain: Any) -> None:
    stack = Stack(security=(Noise, plain))
    with pytest.raises(ConfigError, match="insecure=True"):
        NodeConfig(stack=stack)
    assert NodeConfig(stack=stack, insecure=True).insecure


def test_plaintext_out_of_a_factory_is_seen_when_it_is_made() -> None:
    stack = Stack(security=(lambda key: Plaintext(key, insecure=True),))
    with pytest.raises(ConfigError, match="insecure=True"):
        stack.securities(KEY)
    assert [part.protocol_id for part in stack.securities(KEY, insecure=True)] == ["/plaintext/2.0.0"]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", TimeoutsConfig.__slots__)
def test_timeouts_are_positive_and_finite(name: str, seconds: float) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(TimeoutsConfig(), **{name: seconds})


def test_the_deadlines_are_those_of_the_design() -> None:
    timeouts = TimeoutsConfig()
    assert (timeouts.connect, timeouts.dial, timeouts.authenticate, timeouts.upgrade) == (5, 15, 10, 15)
    assert (timeouts.negotiate, timeouts.open_stream, timeouts.flush) == (10, 15, 2)


def test_addresses_to_listen_on_name_no_peer() -> None:
    named = parse("/ip4/127.0.0.1/tcp/1/p2p/12D3KooWNF29sDgwNZN7qYqVqm3DTDh7ZvC5oua7gB3T1wwzbksG")
    with pytest.raises(ConfigError, match="p2p"):
        NodeConfig(listen=(named,))
    with pytest.raises(ConfigError, match="p2p"):
        NodeConfig(announce=(named,))
