"""Both sides of a negotiation: the first byte chooses how the rest is cut into chunks."""

from __future__ import annotations

from talos.errors import RemoteProtocolError
from talos.multistream.machine import Agreed, Dialer, Listener, message

HEADER = message("/multistream/1.0.0")
SEEDS = (
    b"\x00" + HEADER + message("/noise"),
    b"\x03" + HEADER + message("ls") + message("/tls/1.0.0") + b"leftover",
    b"\x01" + HEADER + message("na") + message("na") + message("/noise"),
    b"\x05" + HEADER + b"\x80\x80\x80\x80\x04",
)


def target(data: bytes) -> None:
    size = (data[0] if data else 0) + 1
    rest = data[1:]
    for machine in (Dialer(["/tls/1.0.0", "/noise"]), Listener({"/noise"})):
        machine.data_to_send()
        try:
            for start in range(0, len(rest), size):
                chunk = rest[start : start + size]
                for event in machine.receive_data(chunk):
                    if isinstance(event, Agreed):
                        consumed = rest[: start + len(chunk) - len(event.leftover)]
                        assert consumed.endswith(event.protocol.encode() + b"\n")
                        assert rest[len(consumed) :].startswith(event.leftover)
                if machine.done:
                    break
                assert len(machine.data_to_send()) <= 64 * 4 + 64
        except RemoteProtocolError:
            assert machine.done
