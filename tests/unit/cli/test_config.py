"""config.toml and the environment."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from talos.cli import config
from talos.cli.exits import Failure
from talos.errors import WalletError
from talos.identity import private_file
from talos.identity.home import Home

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


def put(home: Home, text: str) -> None:
    private_file.write(home.config, text.encode(), replace=True)


def test_no_file_is_the_defaults(home: Home) -> None:
    assert config.load(home, {}) == config.Config()
    assert config.Config().node.port == 8766


def test_the_environment_stands_over_the_file(home: Home) -> None:
    put(home, '[node]\nport = 1\nlisten = ["/ip4/127.0.0.1/tcp/1"]\n[mcp]\naudit = "each"\n')
    found = config.load(home, {"TALOS_NODE_PORT": "2", "TALOS_DIR": "/x", "TALOS_MCP_POLICY": "p.toml"})
    assert (found.node.port, found.node.listen) == (2, ("/ip4/127.0.0.1/tcp/1",))
    assert (found.mcp.audit, found.mcp.policy) == ("each", "p.toml")
    found = config.load(home, {"TALOS_NODE_LISTEN": "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.2/tcp/2,"})
    assert found.node.listen == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.2/tcp/2")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[node]\nprot = 1", 'unknown "node.prot"', 'did you mean "node.port"?'),
        ("[nod]\nport = 1", 'unknown "nod"', 'did you mean "node"?'),
        ("zzz = 1", 'unknown "zzz"', ""),
        ("node = 1", "[node] is a section", ""),
        ('[node]\nport = "1"', "node.port is a number", ""),
        ("[node]\nport = true", "node.port is a number", ""),
        ("[node]\nport = 70000", "node.port is 0 to 65535", ""),
        ("[node]\nlisten = [1]", "node.listen is a list of texts", ""),
        ('[chain]\nmode = "fleet"', 'chain.mode is "feed" or "shared"', ""),
        ("[chain]\nretention = -1", "chain.retention is days", ""),
        ("[chain]\nreplicas = 1", "chain.replicas is a list of texts", ""),
        ("[mcp]\npolicy = 1", "mcp.policy is a text", ""),
        ('[mcp]\naudit = "none"', 'mcp.audit is "calls"', ""),
        ("[node\n", "line 1", ""),
        ("a = " + "[" * 5000, "config.toml", ""),
    ],
)
def test_mistakes_are_named(home: Home, text: str, message: str, hint: str) -> None:
    put(home, text)
    with pytest.raises(Failure) as caught:
        config.load(home, {})
    assert caught.value.code == "config_invalid"
    assert message in str(caught.value)
    assert str(home.config) in str(caught.value)
    assert caught.value.hint == hint


def test_bytes_that_are_no_text(home: Home) -> None:
    private_file.write(home.config, b"\xff")
    with pytest.raises(Failure):
        config.load(home, {})


def test_a_mistake_has_its_line(home: Home) -> None:
    put(home, '# mine\n[node]\nport = 1\n\n[ dht ]\n  mode = "auto"\n  netwrok = "ipfs"\n')
    with pytest.raises(Failure, match=f'{home.config} line 7: unknown "dht.netwrok"') as caught:
        config.load(home, {})
    assert caught.value.hint == 'did you mean "dht.network"?'
    put(home, "[node]\nport = 1\n[dth]\n")
    with pytest.raises(Failure, match='line 3: unknown "dth"'):
        config.load(home, {})
    put(home, 'node.port = "x"\n')
    with pytest.raises(Failure, match=r"line 1: node\.port is a number"):
        config.load(home, {})


def test_a_file_is_not_nested_deeper_than_anybody_needs(home: Home) -> None:
    put(home, "[node]\nlisten = " + "[" * 20 + "]" * 20)
    with pytest.raises(Failure, match="nested deeper than 16"):
        config.load(home, {})


SOURCES = {
    "node.port": ("9", 9),
    "node.listen": ("/ip4/127.0.0.1/tcp/1", ("/ip4/127.0.0.1/tcp/1",)),
    "node.bootstrap": ("a,b", ("a", "b")),
    "node.mdns": ("true", True),
    "websocket.certificate": ("web.pem", "web.pem"),
    "websocket.private_key": ("key.pem", "key.pem"),
    "websocket.authorities": ("ca.pem", "ca.pem"),
    "dht.mode": ("client", "client"),
    "dht.network": ("ipfs", "ipfs"),
    "gossip.topics": ("fleet", ("fleet",)),
    "gossip.floodsub": ("true", True),
    "messages.strangers": ("ask", "ask"),
    "messages.read_receipts": ("true", True),
    "messages.channels": ("ops,lunch", ("ops", "lunch")),
    "files.from": ("ask", "ask"),
    "files.downloads": ("in", "in"),
    "files.types": ("known", "known"),
    "relay.use": ("never", "never"),
    "relay.relays": ("a,b", ("a", "b")),
    "relay.serve": ("true", True),
    "relay.reservations": ("9", 9),
    "relay.seconds": ("0", 0),
    "relay.bytes": ("0", 0),
    "chain.bits": ("12", 12),
    "chain.mode": ("shared", "shared"),
    "chain.replicas": ("bob,carol", ("bob", "carol")),
    "chain.retention": ("90", 90),
    "mcp.policy": ("x.toml", "x.toml"),
    "mcp.audit": ("each", "each"),
    "log.level": ("debug", "debug"),
    "log.file": ("x.log", "x.log"),
}


def test_every_key_is_in_the_table() -> None:
    keys = {
        f"{section.name}.{key.name.rstrip('_')}"
        for section in fields(config.Config)
        for key in fields(getattr(config.Config(), section.name))
    }
    assert keys == set(SOURCES)


@pytest.mark.parametrize("key", SOURCES)
def test_a_key_from_file_and_environment(home: Home, key: str) -> None:
    section, _, name = key.partition(".")
    text, value = SOURCES[key]
    field = "from_" if name == "from" else name
    assert getattr(getattr(config.load(home, {}), section), field) != value
    put(home, f"[{section}]\n{name} = {_toml(value)}\n")
    assert getattr(getattr(config.load(home, {}), section), field) == value
    put(home, "")
    found = config.load(home, {f"TALOS_{section.upper()}_{name.upper()}": text})
    assert getattr(getattr(found, section), field) == value


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    "name", ["TALOS_NODE_INSECURE", "TALOS_MCP_ALLOW_ANY", "TALOS_NODE_EXEMPT_LOOPBACK", "TALOS_METRICS_AUTH"]
)
def test_a_weakening_is_not_taken_from_the_environment(home: Home, name: str) -> None:
    with pytest.raises(Failure, match=f"{name}: a weakening"):
        config.load(home, {name: "true"})


def test_a_section_of_later_is_left_alone_in_the_environment(home: Home) -> None:
    assert config.load(home, {"TALOS_METRICS_LISTEN": "127.0.0.1:1"}) == config.Config()


def test_where_to_listen() -> None:
    def listen(node: config.NodeConfig, port: int | None, flags: tuple[str, ...] = ()) -> tuple[str, ...]:
        return config.listen_addrs(config.Config(node=node), port, flags)

    plain, named = config.NodeConfig(), config.NodeConfig(listen=("/x",))
    assert listen(plain, None) == ("/ip4/0.0.0.0/tcp/8766", "/ip6/::/tcp/8766")
    assert listen(config.NodeConfig(port=1), None) == ("/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1")
    assert listen(named, None) == ("/x",)
    assert listen(named, 0) == ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
    assert listen(named, None, ("/y",)) == ("/y",)
    with pytest.raises(Failure, match="exclude each other"):
        listen(plain, 1, ("/y",))


@pytest.mark.parametrize("name", ["TALOS_NODE_PROT", "TALOS_MCP_X", "TALOS_NODE_"])
def test_a_mistyped_variable_is_an_error(home: Home, name: str) -> None:
    with pytest.raises(Failure, match=f"{name}: unknown"):
        config.load(home, {name: "1"})


def test_a_variable_of_the_wrong_type(home: Home) -> None:
    with pytest.raises(Failure, match=r"TALOS_NODE_PORT: node\.port is a number"):
        config.load(home, {"TALOS_NODE_PORT": "x"})


def test_a_configuration_that_others_may_write_is_refused(home: Home) -> None:
    put(home, "")
    home.config.chmod(0o666)
    with pytest.raises(WalletError, match="chmod 600"):
        config.load(home, {})
