"""The one table of stacks, and nodes that are checked when they close."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import HealthCheck, settings

from talos.addr import parse
from talos.host import contain, log, presets
from talos.host.config import NodeConfig, Stack
from talos.host.node import Node, open_node
from talos.muxer.mplex import Mplex
from talos.muxer.yamux import Yamux
from talos.security.noise import Noise
from talos.security.tls import Tls
from talos.testing.web_certificate import WebCertificate, make_web_certificate
from talos.transport import Memory, Tcp, Unix, WebSocket
from talos.transport.quic import Quic
from tests.carriers import USUAL, carried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from contextlib import AbstractAsyncContextManager

    from talos.abc import ByteTransport, Muxer
    from talos.host.config import SecurityFactory, TransportFactory

    OpenNodes = Callable[..., AbstractAsyncContextManager[list[Node]]]
    MakeConfig = Callable[..., NodeConfig]


# Shared machines stall: a slow example is no finding, for nothing here is timed.
settings.register_profile("untimed", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Who runs the tests behind nohup or `&` ignores signals, which programs under test would inherit and honour.
for _ignored, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, _usual)

# Programs under test buffer as a user's do, whatever whoever runs the tests has set.
os.environ.pop("PYTHONUNBUFFERED", None)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """pytest-trio raises a skip anew without its reason, which those are to read who run everything."""
    try:
        return (yield)
    except pytest.skip.Exception as bare:
        if bare.msg or not isinstance(bare.__context__, BaseExceptionGroup):
            raise
        first: BaseException | None = bare.__context__.subgroup(pytest.skip.Exception)
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise pytest.skip.Exception(str(first), _use_item_location=True) from None


@dataclass(frozen=True)
class Row:
    """One stack that host-level tests run over; `{tmp}` and `{number}` make its addresses unique."""

    name: str
    transport: Callable[[], ByteTransport]
    listen: str
    security: SecurityFactory
    muxer: Callable[[], Muxer]

    def stack(self) -> Stack:
        return Stack(transports=(self.transport(),), security=(self.security,), muxers=(self.muxer(),))


@dataclass(frozen=True)
class WholeRow:
    """A stack whose transport brings its own security and streams."""

    name: str
    transport: TransportFactory
    listen: str

    def stack(self) -> Stack:
        return Stack(transports=(self.transport,))


TRANSPORTS: dict[str, tuple[Callable[[], ByteTransport], str]] = {
    "memory": (Memory, "/memory/0"),
    "tcp": (Tcp, "/ip4/127.0.0.1/tcp/0"),
    "ws": (WebSocket, "/ip4/127.0.0.1/tcp/0/ws"),
    "unix": (Unix, "/unix{tmp}/{number}"),
}
SECURITY: dict[str, SecurityFactory] = {"noise": Noise, "tls": Tls}
MUXERS: dict[str, Callable[[], Muxer]] = {"yamux": Yamux, "mplex": Mplex}

STACKS: list[Row | WholeRow] = [
    Row(f"{transport}-{security}-{muxer}", *TRANSPORTS[transport], SECURITY[security], MUXERS[muxer])
    for transport, security, muxer in itertools.product(TRANSPORTS, SECURITY, MUXERS)
]
STACKS.append(WholeRow("quic-v1", Quic, "/ip4/127.0.0.1/udp/0/quic-v1"))


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """No test is quiet because another one has said the same."""
    yield
    for name in logging.root.manager.loggerDict:
        logging.getLogger(name).removeFilter(log._shared)
    log._shared._categories.clear()
    contain._lines._kinds.clear()


@pytest.fixture(params=STACKS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row | WholeRow:
    """Each stack of the table in turn."""
    stack: Row | WholeRow = request.param
    return stack


@pytest.fixture
def stack_config(row: Row | WholeRow, tmp_path: Path) -> MakeConfig:
    """Makes configurations of nodes of that stack, which listen; keywords replace fields."""
    numbers = itertools.count()

    def make(**changes: object) -> NodeConfig:
        listen = row.listen.format(tmp=tmp_path, number=next(numbers))
        config = presets.testing(stack=row.stack(), listen=listen)
        return replace(config, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def carrier(request: pytest.FixtureRequest) -> str:
    """What `@over_carriers` chose; without it the usual."""
    return getattr(request, "param", USUAL)


@pytest.fixture
def memory_config(carrier: str) -> MakeConfig:
    """Makes configurations of nodes in memory, for tests with a virtual clock; keywords replace fields."""

    def make(**changes: object) -> NodeConfig:
        config = NodeConfig(stack=Stack(transports=(Memory(),)), listen=(parse("/memory/0"),))
        return replace(carried(config, carrier), **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def open_nodes() -> OpenNodes:
    """Opens nodes for a block; behind it nothing of them may be left: no charge, task or descriptor."""
    return _open_nodes


@asynccontextmanager
async def _open_nodes(*configs: NodeConfig) -> AsyncIterator[list[Node]]:
    tasks, descriptors = _tasks(), _descriptors()
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(config)) for config in configs]
        yield nodes
    assert_idle(*nodes)
    assert _tasks() <= tasks  # those of the test itself may have ended
    assert _descriptors() == descriptors


def assert_idle(*nodes: Node) -> None:
    """Nothing is charged, and nothing was when its scope was left."""
    for node in nodes:
        assert not {name: held for name, held in node.limits.snapshot().items() if held}
        assert node.limits.leaked == 0


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="session")
def web_certificate(tmp_path_factory: pytest.TempPathFactory) -> WebCertificate:
    """A certificate of this machine for /wss, and the authority that vouches for it."""
    return make_web_certificate(tmp_path_factory.mktemp("web"))
