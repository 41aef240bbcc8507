"""Only the protocol: the yamux machine does no IO, so it runs on any event loop, here on plain sockets and a thread.

python examples/yamux_machine.py
"""

from __future__ import annotations

import socket
import threading
import time

from talos.muxer.event import DataReceived, StreamEnded, StreamOpened
from talos.muxer.yamux import YamuxMachine


def flush(sock: socket.socket, machine: YamuxMachine) -> None:
    while data := machine.data_to_send():
        sock.sendall(data)


def serve(sock: socket.socket) -> None:
    """Counts what comes on each stream and answers with the sum."""
    machine = YamuxMachine(dialer=False, now=time.monotonic())
    totals: dict[int, int] = {}
    while data := sock.recv(65536):
        for event in machine.receive_data(data, time.monotonic()):
            match event:
                case StreamOpened(stream_id):
                    machine.accept(stream_id)
                    totals[stream_id] = 0
                case DataReceived(stream_id, payload):
                    totals[stream_id] += len(payload)
                    machine.consumed(stream_id, len(payload), time.monotonic())
                case StreamEnded(stream_id):
                    machine.send(stream_id, b"%d bytes" % totals.pop(stream_id))
                    machine.close(stream_id)
                    machine.abandon(stream_id)
                case _:
                    pass
        flush(sock, machine)
    sock.close()


def main() -> None:
    near, far = socket.socketpair()
    server = threading.Thread(target=serve, args=(far,))
    server.start()
    machine = YamuxMachine(dialer=True, now=time.monotonic())
    for size in (10, 2000, 60000):
        stream_id = machine.open_stream()
        machine.send(stream_id, bytes(size))  # takes what the window has room for: all of it here
        machine.close(stream_id)
    flush(near, machine)
    ended = 0
    while ended < 3:
        for event in machine.receive_data(near.recv(65536), time.monotonic()):
            match event:
                case DataReceived(stream_id, payload):
                    print(f"stream {stream_id}: {payload.decode()}")
                case StreamEnded(stream_id):
                    machine.abandon(stream_id)
                    ended += 1
                case _:
                    pass
    near.close()
    server.join()


if __name__ == "__main__":
    main()
