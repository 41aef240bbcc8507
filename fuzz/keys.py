"""Public keys from a peer."""

from talos.errors import BadSignature, RemoteProtocolError
from talos.identity.keys import PublicKey


def target(data: bytes) -> None:
    """A key that encodes to the same bytes, RemoteProtocolError or BadSignature."""
    try:
        key = PublicKey.from_bytes(data)
    except (RemoteProtocolError, BadSignature):
        return
    if key.to_bytes() != data:
        raise AssertionError("a key has two encodings")
    try:
        key.verify(data, data)
    except BadSignature:
        return
    raise AssertionError("a signature by nobody holds")
