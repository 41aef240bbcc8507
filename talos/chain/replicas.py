"""The chains of others that a node keeps, beside its own: each in `replicas/<16 hex of its id>`, followed for good."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.chain.core import Core
from talos.chain.driver import now
from talos.chain.genesis import Mode
from talos.chain.noting import pass_on
from talos.chain.opening import open_replica
from talos.chain.repair import keep_whole
from talos.chain.schema import DATABASE_NAME
from talos.chain.sync import CHAIN, ChainService
from talos.chain.validation import check_genesis
from talos.errors import BlockRejected, LocalProtocolError, RemoteProtocolError
from talos.host.block import background
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from talos.abc import Host
    from talos.chain.block import Checked
    from talos.chain.config import ChainConfig
    from talos.chain.genesis import Params
    from talos.chain.messages import Status
    from talos.chain.opening import OpenChain

__all__ = ["Replicas", "SyncResult", "open_replicas"]

MAX_REPLICAS = 256
DIRECTORY = "replicas"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """What a comparison came to."""

    chain_id: str
    height: int
    log_size: int
    peers: int
    frozen: bool

    def fields(self) -> dict[str, object]:
        return asdict(self)


class Replicas:
    """A node's part in the chains of a network; made by `open_replicas`."""

    def __init__(self, host: Host, config: ChainConfig, own: Core, nursery: trio.Nursery) -> None:
        self._config = config
        self._own = own
        self._nursery = nursery
        self._cores: dict[bytes, Core] = {own.params.chain_id: own}
        self._opening = trio.Lock()
        self._base = own.store.directory / DIRECTORY
        self.service = ChainService(host, config, nursery)
        self._me = host.peer_id

    async def open(self) -> None:
        """The own chain and the copies that are here."""
        members = {author.peer_id for author in self._own.params.authors}
        readers = self._config.readers | set(self._config.replicas)
        self._nursery.start_soon(keep_whole, self._own)
        self.service.add(self._own, lambda peer: peer in readers or peer.to_bytes() in members, own=True)
        others = [PeerId.from_bytes(member) for member in members if member != self._me.to_bytes()]
        if self._config.replicas and self._own.params.mode is Mode.FEED:
            self._own.machine.guard(frozenset(self._config.replicas), now())
        for peer in {*self._config.replicas, *others}:
            self._nursery.start_soon(self.service.follow, peer, self._own.params.chain_id)
        directories = sorted(self._base.iterdir()) if self._base.is_dir() else []
        for directory in directories[:MAX_REPLICAS]:
            if (directory / DATABASE_NAME).is_file():
                self._follow(await trio.to_thread.run_sync(open_replica, directory, None))

    def close(self) -> None:
        for core in self._cores.values():
            if core is not self._own:
                core.close()

    async def sync(self, peer: PeerId | None) -> SyncResult:
        if peer is None:
            chain_id, peers = self._own.params.chain_id, self._config.replicas
            if not peers:
                raise LocalProtocolError("nobody keeps this chain: replicas is empty in the configuration")
        else:
            chain_id, peers = await self._chain_of(peer), (peer,)
        with trio.fail_after(self._config.sync_seconds):
            for one in peers:
                if one != self._me:
                    await self._agree(one, chain_id)
        core = self._cores[chain_id]
        header = core.machine.tip.header
        return SyncResult(
            chain_id=chain_id.hex(),
            height=header.height,
            log_size=header.log_size,
            peers=len(peers),
            frozen=core.machine.frozen,
        )

    async def _agree(self, peer: PeerId, chain_id: bytes) -> Status:
        """On the stream that is there, or one for this."""
        async with background() as nursery:
            nursery.start_soon(self.service.talk_with, peer, chain_id)
            return await self.service.agree(peer, chain_id)

    async def _chain_of(self, peer: PeerId) -> bytes:
        """The id of the peer's own chain, of which there is a copy from now on."""
        status = await self.service.own_chain_of(peer)
        if status is None:
            raise LocalProtocolError(f"peer {peer} has no chain that we may read")
        await self._keep(peer, status.chain_id, author=peer)
        return status.chain_id

    async def bring_back(self, peer: PeerId, chain_id: bytes) -> Path:
        """What a peer keeps of an earlier chain of ours; the directory of the copy."""
        with trio.fail_after(self._config.sync_seconds):
            await self._keep(peer, chain_id, author=self._me)
            await self._agree(peer, chain_id)
        return self._cores[chain_id].store.directory

    async def _keep(self, peer: PeerId, chain_id: bytes, *, author: PeerId) -> None:
        """From now on there is a copy of this chain of `author`, begun with what the peer shows."""
        async with self._opening:
            if chain_id in self._cores:
                return
            if len(self._cores) > MAX_REPLICAS:
                raise LocalProtocolError(f"there are copies of {MAX_REPLICAS} chains here already")
            params, genesis = await self._genesis(peer, chain_id, author)
            directory = self._base / params.chain_id.hex()[:16]
            self._follow(await trio.to_thread.run_sync(open_replica, directory, genesis))

    async def _genesis(self, peer: PeerId, chain_id: bytes, author: PeerId) -> tuple[Params, Checked]:
        response = await self.service.genesis_of(peer, chain_id)
        if len(response.blocks) != 1:
            raise LocalProtocolError(f"peer {peer} does not show how its chain began")
        try:
            params, genesis = check_genesis(response.blocks[0], chain_id=chain_id)
            params.check_bindings()
        except BlockRejected as error:
            raise RemoteProtocolError(f"peer {peer}: {error}") from error
        if author.to_bytes() not in {one.peer_id for one in params.authors}:
            raise RemoteProtocolError(f"peer {peer} shows a chain of which {author} is no author")
        return params, genesis

    def _follow(self, opened: OpenChain) -> None:
        core = Core(opened, self._config)
        params = core.params
        self._cores[params.chain_id] = core
        authors = {author.peer_id for author in params.authors}
        readers = self._config.readers
        self.service.add(core, lambda peer: peer.to_bytes() in authors or peer in readers)
        self._nursery.start_soon(core.run)
        self._nursery.start_soon(pass_on, core, self._own)
        self._nursery.start_soon(keep_whole, core)
        if params.mode is Mode.FEED:
            for author in authors - {self._me.to_bytes()}:
                peer = PeerId.from_bytes(author)
                self._nursery.start_soon(partial(self.service.follow, peer, params.chain_id))


@asynccontextmanager
async def open_replicas(host: Host, config: ChainConfig, own: Core) -> AsyncIterator[Replicas]:
    """Answers `/talos/chain/1.0.0` and follows, for the length of the block."""
    async with AsyncExitStack() as stack:
        after = stack.enter_context(ExitStack())  # no thread reads any more when files are closed
        nursery = await stack.enter_async_context(background())
        replicas = Replicas(host, config, own, nursery)
        after.callback(replicas.close)
        await replicas.open()
        with host.mounted(CHAIN, replicas.service.answer):
            yield replicas
