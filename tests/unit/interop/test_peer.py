"""The command line of Talos's own adapter, of the runner, and where adapters come from."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from interop import __main__ as runner
from interop import adapters
from interop.peer import arguments, leaves, target_of
from interop.peers.build import BuildFailed, ToolchainAbsent
from interop.stack import node_config
from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def test_options_stand_where_they_like() -> None:
    options = arguments(["dial", "/memory/1", "--stack", "memory/tls/mplex", "echo", "--bytes", "7"])
    assert (options.addr, options.operation, options.stack, options.bytes) == (
        "/memory/1",
        "echo",
        "memory/tls/mplex",
        7,
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dial"],
        ["dial", "/memory/1", "juggle"],
        ["dial", "/memory/1", "echo", "--bytes", "-1"],
        ["listen", "extra"],
    ],
)
def test_a_wrong_command_line_is_refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("addr", ["/ip4/127.0.0.1/tcp/1", "/unix/tmp/some/socket", "/memory/7"])
def test_a_target_is_cut_into_peer_and_address(addr: str) -> None:
    peer, found = target_of(f"{addr}/p2p/{PEER}")
    assert (str(peer), str(found)) == (PEER, addr)
    assert target_of(addr) == (None, found)


@pytest.mark.parametrize(
    "stack", ["tcp", "tcp/noise", "tcp/noise/yamux/more", "ufo/noise/yamux", "tcp/rot13/yamux", "tcp/tls/none"]
)
def test_a_stack_that_is_none_is_refused(stack: str) -> None:
    with pytest.raises(ConfigError):
        node_config(stack)


@pytest.mark.parametrize("security", ["noise", "tls", "plaintext"])
def test_only_plaintext_is_insecure(security: str) -> None:
    assert node_config(f"tcp/{security}/yamux").insecure == (security == "plaintext")


def test_leaves_of_a_group() -> None:
    one, two = ValueError(), KeyError()
    assert leaves(ExceptionGroup("", [ExceptionGroup("", [one]), two])) == [one, two]


async def test_adapters_are_ready_absent_or_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(name: str) -> object:
        match name:
            case "rust":
                raise ToolchainAbsent("rust", "cargo")
            case "py":
                raise BuildFailed("py", "pip install", "no such version")
            case _:
                return SimpleNamespace(name=name, version="9", argv=("run", name))

    monkeypatch.setattr(adapters, "command", command)
    found = await adapters.prepare(["talos", "go", "rust", "py"])
    assert found.ready["go"].command == ("run", "go")
    assert found.ready["talos"].command[1:] == ("-m", "interop.peer")
    assert list(found.absent) == ["rust"]
    assert "no such version" in found.failed["py"]


async def test_the_runner_lists_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert await runner.main(runner.arguments(["--list", "--peers", "go", "--cells", "tcp/tls/yamux"])) == 0
    assert capsys.readouterr().out.splitlines() == ["tcp/tls/yamux talos->go", "tcp/tls/yamux go->talos"]


@pytest.mark.parametrize("words", [["--peers", "cobol"], ["--cells", "no such cell"]])
async def test_the_runner_refuses_to_run_nothing(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        await runner.main(runner.arguments(words))


@pytest.mark.parametrize("broken", [False, True])
async def test_the_runner_fails_with_a_cell(
    broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def prepare(peers: Sequence[str]) -> adapters.Adapters:
        failed = dict.fromkeys(peers, "did not build") if broken else {}
        return adapters.Adapters(ready={}, absent={} if broken else {"go": "no go", "talos": "no talos"}, failed=failed)

    monkeypatch.setattr(runner, "prepare", prepare)
    code = await runner.main(runner.arguments(["--peers", "go"]))
    lines = capsys.readouterr().out.splitlines()
    assert code == broken
    told = re.fullmatch(r"0 passed, (\d+) failed, (\d+) skipped", lines[-1])
    assert told
    assert (int(told[1]) > 0) == broken
    assert int(told[2]) > 0, "what go does not have is no failure"
