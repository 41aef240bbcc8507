"""Every muxer against the promises of `talos.abc.Muxer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from talos.muxer.mplex import Mplex
from talos.muxer.yamux import Yamux
from talos.testing.check_muxer import CHECKS, muxed_pair, stream_pair
from talos.testing.check_stream import check_muxed_stream

if TYPE_CHECKING:
    from talos.abc import MuxedStream, Muxer
    from talos.testing.check_muxer import MuxerCheck

MUXERS = [pytest.param(Yamux(), id="yamux"), pytest.param(Mplex(), id="mplex")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("muxer", MUXERS)
async def test_muxer(muxer: Muxer, check: MuxerCheck) -> None:
    with trio.fail_after(8):
        await check(muxer)


async def test_yamux_streams_that_are_clogged() -> None:
    """The same suite with a window that is used up, which mplex does not have."""
    async with muxed_pair(Yamux()) as (dialer, listener):

        async def clogged() -> tuple[MuxedStream, MuxedStream]:
            a, b = await stream_pair(dialer, listener)
            await a.send_all(bytes(256 * 1024))
            await b.send_all(bytes(256 * 1024))
            return a, b

        with trio.fail_after(8):
            await check_muxed_stream(lambda: stream_pair(dialer, listener), clogged)
