"""js-libp2p in a page of Chromium dials Talos over ws and meets it in a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from interop.browser.run import ANSWER, BROWSERS, QUESTION, find_browser, meet
from interop.peers.build import ToolchainAbsent

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

SECONDS = 300
"""The build of the page among them."""
PNG = b"\x89PNG\r\n\x1a\n"


async def test_a_page_pings_and_gossips(tmp_path: Path) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip(f"no browser is here: none of {', '.join(BROWSERS)} is on PATH")
    screenshot = tmp_path / "page.png"
    try:
        with trio.fail_after(SECONDS):
            meeting = await meet(browser, screenshot)
    except ToolchainAbsent as absent:
        pytest.skip(str(absent))
    page = meeting.page
    assert "Chrom" in page["browser"]
    assert page["agent"].startswith("talos/")
    assert len(page["rtt_ms"]) == 3
    assert page["heard"] == {"from": meeting.peer_id, "text": ANSWER}
    assert meeting.heard == (page["peer_id"], QUESTION)
    assert screenshot.read_bytes().startswith(PNG)
