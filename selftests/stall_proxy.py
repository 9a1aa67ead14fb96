#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""A way to the server that ends in the middle of something: stall_proxy.py PORT SERVER_PORT BYTES

Forwards connections.  Those that are made between SIGUSR1 and SIGUSR2 get only so many bytes of their client's through
until SIGUSR2; "stalled" is printed when one has come so far.  Prints "listening" when it is.
"""
import signal
import socket
import sys
import threading

open_way = threading.Event()
open_way.set()


def pump(source, sink, room):
    """room: bytes before the stall, or None."""
    try:
        while data := source.recv(1 << 20):
            if room is not None and len(data) >= room:
                sink.sendall(data[:room])
                data, room = data[room:], None
                print("stalled", flush=True)
                open_way.wait()
            elif room is not None:
                room -= len(data)
            sink.sendall(data)
    except OSError:
        pass
    for sock in (sink, source):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main():
    port, server_port, stall = map(int, sys.argv[1:])
    signal.signal(signal.SIGUSR1, lambda *_: open_way.clear())
    signal.signal(signal.SIGUSR2, lambda *_: open_way.set())
    listener = socket.create_server(("127.0.0.1", port))
    print("listening", flush=True)
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", server_port))
        except OSError:
            client.close()
            continue
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for args in ((client, server, None if open_way.is_set() else stall), (server, client, None)):
            threading.Thread(target=pump, args=args, daemon=True).start()


main()
