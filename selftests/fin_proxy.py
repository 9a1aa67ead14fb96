#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""A way to the server whose end comes with the last reply: fin_proxy.py PORT SERVER_PORT

Forwards connections.  After SIGUSR1 the next reply is the last of its connection: its last segment has the FIN
too, so the client's kernel learns of both in the same moment.  Prints "listening" when it is.
"""
import signal
import socket
import sys
import threading

last = threading.Event()


def pump(source, sink, replies):
    while True:
        try:
            data = source.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            break
        if replies and last.is_set():
            last.clear()
            sink.send(data, socket.MSG_MORE)
            print("last", flush=True)
            break
        sink.sendall(data)
    for sock in (sink, source):
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def main():
    port, server_port = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGUSR1, lambda *_: last.set())
    listener = socket.create_server(("127.0.0.1", port))
    print("listening", flush=True)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", server_port))
        for args in ((client, server, False), (server, client, True)):
            threading.Thread(target=pump, args=args, daemon=True).start()


main()
