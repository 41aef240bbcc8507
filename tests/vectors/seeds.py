"""Inputs for the fuzz targets, taken out of recorded sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.identify.machine import IdentifyReader, ReadLimits
from talos.security.noise import wire
from tests.vectors.transcript import IDENTIFY, RECEIVED, converse, joined, noise_payload, run_muxer, whole

if TYPE_CHECKING:
    from tests.vectors.transcript import Session


def seeds_of(session: Session) -> dict[str, dict[str, bytes]]:
    """By target and kind; the first byte is often the one by which the target chooses what to do."""
    muxed = run_muxer(session, whole)
    plaintext = joined(session.secure, RECEIVED)[muxed.negotiated :]
    payload = noise_payload(session)
    talks = {stream_id: converse(muxed, stream_id, whole) for stream_id in sorted(muxed.said)}
    [refused] = [stream_id for stream_id, talk in talks.items() if talk.refused]
    [asked] = [stream_id for stream_id, talk in talks.items() if talk.protocol == IDENTIFY and not talk.ours]
    [told] = [talk.received for talk in talks.values() if talk.protocol == IDENTIFY and talk.ours]
    reader = IdentifyReader(ReadLimits())
    reader.receive_data(told)
    seeds = {
        "yamux": {"": b"\x0f" + plaintext, "-bytewise": b"\x8f" + plaintext[:1024]},
        "multistream": {
            "-security": b"\x07" + joined(session.raw, RECEIVED)[:64],
            "-refused": b"\x07" + muxed.heard(refused)[:64],
            "-proposed": b"\x07" + muxed.heard(asked)[:64],
        },
        "noise": {"": b"\x02" + payload},
        "identify": {"": told},
        "keys": {"": wire.decode(payload).identity_key},
    }
    if record := reader.end().signed_peer_record:
        seeds["peer_record"] = {"": record}
    return seeds
