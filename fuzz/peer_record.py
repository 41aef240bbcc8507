"""Signed peer records: the envelope as it comes, and the record behind a signature that holds."""

from talos.errors import BadSignature, RemoteProtocolError
from talos.identity.envelope import MAX_ENVELOPE_BYTES, Envelope
from talos.identity.keys import PrivateKey
from talos.identity.peer_record import RecordFormat, SignedPeerRecord

KEY = PrivateKey.from_seed(bytes(32))
FORM = RecordFormat.STANDARD


def target(data: bytes) -> None:
    """A record, RemoteProtocolError or BadSignature."""
    _consume(data)
    if len(data) < MAX_ENVELOPE_BYTES - 256:
        _consume(Envelope.seal(KEY, FORM.domain, FORM.payload_type, data).raw)


def _consume(data: bytes) -> None:
    try:
        consumed = SignedPeerRecord.consume(data)
    except (RemoteProtocolError, BadSignature):
        return
    if consumed.envelope.raw != data:
        raise AssertionError("the original bytes are lost")
