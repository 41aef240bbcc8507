"""Who is granted what, and every file that is no policy."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from talos.errors import ConfigError, NotSupported
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mcp.limits import GrantLimits
from talos.mcp.policy import MAX_POLICY_BYTES, parse_policy, quick_policy
from talos.mcp.policy_file import load_policy

if TYPE_CHECKING:
    from pathlib import Path

ALICE, BOB, EVE = (PeerId.from_key(PrivateKey.from_seed(bytes([n]) * 32).public_key) for n in range(3))

FULL = f"""
version = 1
[servers.files]
command  = ["npx", "-y", "files server", ""]
cwd      = "/srv"
env      = {{ LOG_LEVEL = "warn", EMPTY = "" }}
pass_env = ["NODE_EXTRA_CA_CERTS"]
[servers.echo]
command = 'python "my echo.py"'
[peers.alice]
id = "{ALICE}"
[peers.bob]
id = "{BOB}"
[[grants]]
peer = "alice"
server = "files"
limits = {{ sessions = 4, in_flight = 32, rate = 20, burst = 40, call_timeout = 120.5 }}
[[grants]]
peer = "bob"
server = "files"
[[grants]]
peer = "bob"
server = "echo"
"""


def test_the_full_form() -> None:
    policy = parse_policy(FULL.encode())
    files = policy.servers["files"]
    assert files.command == ("npx", "-y", "files server", "")
    assert (files.cwd, files.env, files.pass_env) == (
        "/srv",
        {"LOG_LEVEL": "warn", "EMPTY": ""},
        ("NODE_EXTRA_CA_CERTS",),
    )
    assert policy.servers["echo"].command == ("python", "my echo.py")
    assert policy.policy_hash == hashlib.sha256(FULL.encode()).digest()
    assert not policy.allow_any
    grant = policy.grant_for(ALICE, "files")
    assert grant is not None
    assert grant.limits == GrantLimits(sessions=4, in_flight=32, rate=20, burst=40, call_timeout=120.5)


def test_what_is_not_granted_is_refused() -> None:
    policy = parse_policy(FULL.encode())
    assert policy.knows(ALICE)
    assert not policy.knows(EVE)
    assert policy.grant_for(EVE, "files") is policy.grant_for(EVE, "") is None
    assert policy.grant_for(ALICE, "echo") is policy.grant_for(ALICE, "nothing") is None
    only = policy.grant_for(ALICE, "")
    assert only is not None
    assert only.server == "files"
    assert policy.grant_for(BOB, "") is None  # which of two?
    assert policy.grant_for(BOB, "echo") is not None


def test_any_peer_has_to_be_written_out() -> None:
    text = FULL.replace('"bob"\nserver = "echo"', '"*"\nserver = "files"')
    with pytest.raises(ConfigError, match="allow_any"):
        parse_policy(text.encode())
    policy = parse_policy(text.replace("version = 1", "version = 1\nallow_any = true").encode())
    assert policy.grant_for(EVE, "").peer is None  # type: ignore[union-attr]
    assert policy.grant_for(ALICE, "").peer == ALICE  # type: ignore[union-attr]


def test_a_peers_own_grant_goes_before_the_one_for_any_wherever_it_stands() -> None:
    any_first = FULL.replace("version = 1", "version = 1\nallow_any = true").replace(
        "[[grants]]", '[[grants]]\npeer = "*"\nserver = "files"\n[[grants]]', 1
    )
    assert parse_policy(any_first.encode()).grant_for(ALICE, "files").peer == ALICE  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", "version must be 1"),
        ("version = 1", "version = true", "version must be 1"),
        ("version = 1", "", "version must be 1"),
        ("version = 1", "version = 1\nextra = 1", "unknown key 'extra'"),
        ("version = 1", 'version = 1\nallow_any = "yes"', "allow_any"),
        ("version = 1", "version = ", "not TOML"),
        ("[servers.files]", '[servers."Files"]', "name"),
        ("[servers.files]", "[servers.files]\nshell = true", "unknown key 'shell'"),
        ("command = 'python \"my echo.py\"'", "command = ''", "command is missing"),
        ("command = 'python \"my echo.py\"'", "command = []", "command is missing"),
        ("command = 'python \"my echo.py\"'", "command = ['']", "command is missing"),
        ("command = 'python \"my echo.py\"'", "command = [1]", "must be a text"),
        ("command = 'python \"my echo.py\"'", 'command = "\'"', "No closing quotation"),
        ("command = 'python \"my echo.py\"'", "", "list of texts"),
        ("command = 'python \"my echo.py\"'", 'command = ["a\\u0000b"]', "must be a text"),
        ('"/srv"', '""', "cwd must be a text"),
        ('"/srv"', "5", "cwd must be a text"),
        ('LOG_LEVEL = "warn"', "LOG_LEVEL = 5", "env LOG_LEVEL must be a text"),
        ("LOG_LEVEL =", '"A=B" =', "no name of a variable"),
        ("LOG_LEVEL =", "TALOS_DIR =", "not handed on"),
        ("NODE_EXTRA_CA_CERTS", "TALOS_UNLOCK", "not handed on"),
        ("NODE_EXTRA_CA_CERTS", "MCP_TUNNEL_TAG", "not handed on"),
        ('["NODE_EXTRA_CA_CERTS"]', '"NODE"', "list of texts"),
        ('env      = { LOG_LEVEL = "warn", EMPTY = "" }', "env = []", "must be a table"),
        ("[peers.alice]", '[peers."*"]', "name"),
        ("[peers.alice]", "[peers.alice]\nkey = 1", "unknown key 'key'"),
        (f'id = "{ALICE}"', 'id = "12D3KooWnonsense"', "alice"),
        (f'id = "{ALICE}"', 'id = "z"', "alice"),
        (f'id = "{ALICE}"', "", "id must be a text"),
        ('peer = "alice"', 'peer = "carol"', "no peer 'carol'"),
        ('peer = "alice"', "", "peer must be a text"),
        ('peer = "alice"', 'peer = "alice"\nnote = 1', "unknown key 'note'"),
        ('server = "echo"', 'server = "ech"', "no server 'ech'"),
        ('server = "echo"', 'server = "files"', "two grants"),
        ("sessions = 4", "session = 4", "unknown key 'session'"),
        ("sessions = 4", "sessions = 0", "sessions is 0"),
        ("sessions = 4", "sessions = 4.5", "sessions must be a number"),
        ("sessions = 4", "sessions = true", "sessions must be a number"),
        ("rate = 20", "rate = nan", "rate is nan"),
        ("rate = 20, ", "", "burst needs a rate"),
    ],
)
def test_a_bad_file_is_no_policy(old: str, new: str, words: str) -> None:
    assert old in FULL
    with pytest.raises(ConfigError, match=words):
        parse_policy(FULL.replace(old, new).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"version = 1",
        b"version = 1\ngrants = 5",
        b"version = 1\ngrants = [5]",
        b"version = 1\nservers = 5",
        b"version = 1\n[servers]\na = 5",
        b"version = 1\n[peers]\na = 5",
        b"#" * (MAX_POLICY_BYTES + 1),
    ],
)
def test_what_grants_nothing_is_no_policy(data: bytes) -> None:
    with pytest.raises(ConfigError, match="policy"):
        parse_policy(data)


@pytest.mark.parametrize("rule", ["tools", "resources", "prompts", "methods", "pins"])
def test_rules_that_are_not_enforced_are_refused(rule: str) -> None:
    with pytest.raises(NotSupported, match=rule):
        parse_policy((FULL + f'{rule} = {{ deny = ["*"] }}\n').encode())


def test_servers_that_cannot_be_reached_are_refused() -> None:
    with pytest.raises(NotSupported, match="url"):
        parse_policy(FULL.replace("[servers.echo]", '[servers.echo]\nurl = "http://127.0.0.1"').encode())
    with pytest.raises(NotSupported, match="connect"):
        parse_policy((FULL + '[connect."x/y"]\n').encode())


# ----------------------------------------------------------------------------------- the quick form


def test_the_quick_form_is_a_file() -> None:
    policy = quick_policy("python 'my server.py'", [BOB, ALICE, BOB])
    assert policy.servers["default"].command == ("python", "my server.py")
    assert policy.grant_for(ALICE, "") is not None
    assert policy.grant_for(BOB, "default") is not None
    assert not policy.knows(EVE)
    assert parse_policy(policy.text) == policy
    assert policy == quick_policy(["python", "my server.py"], [ALICE, BOB])
    assert b'[servers."default"]\ncommand = ["python", "my server.py"]' in policy.text


def test_the_quick_form_takes_odd_texts() -> None:
    odd = ['a"b\\c', "\x7f\x1b\t", "caf\u00e9 \U0001f600", "", "#"]
    policy = quick_policy(["x", *odd], [ALICE], name="n", cwd="/a b", env={"K": odd[1]}, pass_env=["P"])
    spec = policy.servers["n"]
    assert spec.command == ("x", *odd)
    assert (spec.cwd, spec.env, spec.pass_env) == ("/a b", {"K": odd[1]}, ("P",))


def test_the_quick_form_needs_somebody() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        quick_policy("x", [])
    assert quick_policy("x", [], allow_any=True).knows(EVE)
    with pytest.raises(ConfigError, match="not handed on"):
        quick_policy("x", [ALICE], env={"TALOS_DIR": "x"})
    with pytest.raises(ConfigError, match="name"):
        quick_policy("x", [ALICE], name="")
    with pytest.raises(ConfigError, match="quotation"):
        quick_policy("'", [ALICE])


# ----------------------------------------------------------------------------------- the file


def test_a_file_is_read_if_only_we_can_write_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(path)
    path.write_text(FULL)
    path.chmod(0o600)
    assert load_policy(path) == load_policy(str(path)) == parse_policy(FULL.encode())
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="chmod go-w"):
            load_policy(path)
    path.chmod(0o644)
    load_policy(path)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(FULL)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match="another user"):
        load_policy(path)
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    load_policy(path)
