"""The script of a gossipsub simulation, and the names of its nodes."""

from __future__ import annotations

from typing import Any

import pytest

from interop.gossipsub import script
from interop.gossipsub.__main__ import arguments, loopback_ip, node_key, node_number
from interop.gossipsub.local import blob_script
from talos.errors import ConfigError
from talos.identity.peer_id import PeerId


def only(instruction: dict[str, Any]) -> script.Instruction:
    (found,) = script.parse({"script": [instruction]})
    return found


def test_each_instruction() -> None:
    subscribe = {"type": "subscribeToTopic", "topicID": "t", "partial": False}
    assert only(subscribe) == script.Subscribe("t")
    assert only({"type": "connect", "connectTo": [1, 2]}) == script.Connect((1, 2))
    assert only({"type": "waitUntil", "elapsedSeconds": 3}) == script.WaitUntil(3.0)
    assert only({"type": "setTopicValidationDelay", "topicID": "t", "delaySeconds": 0.5}) == script.ValidationDelay(
        "t", 0.5
    )
    assert only({"type": "publish", "messageID": 4, "messageSizeBytes": 9, "topicID": "t"}) == script.Publish(4, 9, "t")
    assert only({"type": "ifNodeIDEquals", "nodeID": 7, "instruction": subscribe}) == script.IfNode(
        7, script.Subscribe("t")
    )


def test_parameters_have_gos_names_and_nanoseconds() -> None:
    config = script.gossip_config({"D": 8, "HeartbeatInterval": 5e8, "Dlo": None, "Connectors": 8})
    assert (config.d, config.heartbeat_interval, config.score) == (8, 0.5, None)
    assert config.id_of(b"", b"", b"12345678rest", "t") == b"12345678"
    assert config.limits.rpc_bytes == 10 << 20


@pytest.mark.parametrize("parameters", [{"Dx": 1}, {"D": "six"}, {"D": True}, {"D": -1}])
def test_parameters_that_are_none(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        script.gossip_config(parameters)


def nested(depth: int) -> dict[str, Any]:
    instruction: dict[str, Any] = {"type": "waitUntil", "elapsedSeconds": 1}
    for _ in range(depth):
        instruction = {"type": "ifNodeIDEquals", "nodeID": 1, "instruction": instruction}
    return instruction


@pytest.mark.parametrize(
    "instruction",
    [
        {},
        {"type": ["publish"]},
        {"type": "addPartialMessage"},
        {"type": "subscribeToTopic", "topicID": "t", "partial": True},
        {"type": "subscribeToTopic"},
        {"type": "connect", "connectTo": [-1]},
        {"type": "waitUntil", "elapsedSeconds": float("nan")},
        {"type": "publish", "messageID": 1, "messageSizeBytes": 7, "topicID": "t"},
        {"type": "publish", "messageID": -1, "messageSizeBytes": 8, "topicID": "t"},
        nested(script.MAX_DEPTH + 1),
    ],
)
def test_instructions_that_are_none(instruction: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        only(instruction)


@pytest.mark.parametrize("document", [None, [], {}, {"script": 1}])
def test_a_document_without_a_script(document: object) -> None:
    with pytest.raises(ConfigError):
        script.parse(document)


def test_the_deepest_script() -> None:
    assert isinstance(only(nested(script.MAX_DEPTH)), script.IfNode)


def test_the_local_script_is_one() -> None:
    found = script.parse(blob_script(nodes=3, messages=2))
    assert sum(isinstance(each, script.Subscribe) for each in found) == 1


def test_nodes_by_number() -> None:
    # Node 1: a seed of 01 and zeros.
    assert str(PeerId.from_key(node_key(1).public_key)) != str(PeerId.from_key(node_key(256).public_key))
    assert node_key(1).to_bytes()[4:36] == b"\1" + bytes(31)
    assert (node_number("node12"), loopback_ip("127.0.9", 12)) == (12, "127.0.9.13")
    with pytest.raises(ConfigError):
        node_number("server")


def test_the_command_line() -> None:
    options = arguments(["--params", "params.json", "--hostname", "node3"])
    assert (options.params.name, options.hostname, options.loopback) == ("params.json", "node3", None)
