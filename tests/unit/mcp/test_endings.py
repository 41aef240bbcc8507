"""Exit codes, and what open requests are told; and failures before there is a node."""

from __future__ import annotations

import pytest
from trio.testing import memory_stream_one_way_pair

from talos.abc import StreamReset
from talos.errors import (
    ConfigError,
    DialError,
    HandshakeError,
    LimitExceeded,
    NegotiationError,
    PeerNotFound,
    RefusedByGate,
    RemoteProtocolError,
    StreamCode,
)
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mcp import McpExit, answer_and_leave
from talos.mcp.endings import of_closed, of_error, of_refusal
from talos.mcp.event import Closed
from talos.mcp.flight import Code
from talos.mcp.wire import Accept, CloseCode, Status
from tests.mcp.harness import call, error_of

PEER = PeerId.from_key(PrivateKey.from_seed(bytes(32)).public_key)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (Status.REFUSED, 3, "refused"),
        (Status.BUSY, 1, "busy"),
        (Status.VERSION, 6, "failed"),
        (Status.FAILED, 6, "failed"),
        (Status.NO_SESSION, 6, "failed"),
    ],
)
def test_refusals(status: Status, code: int, reason: str) -> None:
    end, owed = of_refusal(Accept(status=status, detail="because \x1b[1m"), PEER)
    assert (end.code, owed.code, owed.reason) == (code, Code.UNREACHABLE, reason)
    assert str(PEER) in end.message
    assert end.message.isprintable()


@pytest.mark.parametrize(
    ("closed", "code", "reason"),
    [
        (CloseCode.DONE, 6, "server-exited"),
        (CloseCode.GOING_AWAY, 6, "going-away"),
        (CloseCode.SERVER, 6, "server-exited"),
        (CloseCode.PROTOCOL, 1, "connection-lost"),
        (CloseCode.IDLE, 6, "connection-lost"),
        (CloseCode.AUDIT, 7, "audit"),
        (CloseCode.WITHDRAWN, 3, "connection-lost"),
        (None, 4, "connection-lost"),
        (99, 6, "server-exited"),
    ],
)
def test_closes(closed: CloseCode | int | None, code: int, reason: str) -> None:
    end, owed = of_closed(Closed(closed, "text", remote=True), PEER, open_requests=1)
    assert owed is not None
    assert (end.code, owed.reason) == (code, reason)


def test_a_server_that_is_done_is_no_failure() -> None:
    assert of_closed(Closed(CloseCode.DONE, "", remote=True), PEER, open_requests=0) == (McpExit(0), None)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RefusedByGate("no"), 3, "refused"),
        (StreamReset(StreamCode.RESOURCE_LIMIT, remote=True), 1, "busy"),
        (LimitExceeded("full"), 1, "busy"),
        (RemoteProtocolError("bad"), 1, "connection-lost"),
        (NegotiationError("none"), 6, "failed"),
        (HandshakeError("bad"), 6, "failed"),
        (ConfigError("bad"), 5, "failed"),
        (DialError("refused"), 4, "unreachable"),
        (PeerNotFound("nobody"), 4, "unreachable"),
        (StreamReset(remote=True), 4, "unreachable"),
    ],
)
def test_errors(error: Exception, code: int, reason: str) -> None:
    end, owed = of_error(error, PEER)
    assert (end.code, owed.reason) == (code, reason)


async def test_a_failure_before_the_node_is_answered() -> None:
    to, stdin = memory_stream_one_way_pair()
    stdout, answers = memory_stream_one_way_pair()
    await to.send_all(call("echo", "a", text="x") + b"\n" + b'[{"jsonrpc":"2.0","id":"b","method":"ping"}]\n')
    end = McpExit(5, "no identity")
    assert await answer_and_leave(stdin, stdout, end) is end
    await stdout.aclose()
    lines = (await answers.receive_some()).splitlines()
    assert [error_of(bytes(line)) for line in lines] == [(5031, "failed"), (5031, "failed")]


async def test_nobody_asks_before_the_end_of_stdin() -> None:
    to, stdin = memory_stream_one_way_pair()
    stdout, answers = memory_stream_one_way_pair()
    await to.aclose()
    await answer_and_leave(stdin, stdout, McpExit(5))
    await stdout.aclose()
    assert await answers.receive_some() == b""
