"""Every security transport against the suite of `talos.testing.check_security`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.security.noise import Noise
from talos.security.plaintext import Plaintext
from talos.security.tls import Tls
from talos.testing.check_security import SECURITY_CHECKS, SecuritySubject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

SUBJECTS = [
    pytest.param(SecuritySubject(make=Noise), id="noise"),
    # OpenSSL ignores the version that a record names, and what is in the dummy change of cipher.
    pytest.param(SecuritySubject(make=Tls, unauthenticated_bytes=3, afterthoughts=1, flip_every=11), id="tls"),
    pytest.param(
        SecuritySubject(make=lambda key: Plaintext(key, insecure=True), encrypts=False, early_muxers=False),
        id="plaintext",
    ),
]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("check", SECURITY_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_security(
    check: Callable[[SecuritySubject], Awaitable[None]], subject: SecuritySubject, autojump_clock: MockClock
) -> None:
    await check(subject)
