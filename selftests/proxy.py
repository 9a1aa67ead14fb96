#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""A way to the server on which something goes wrong when it is told to:

  proxy.py fin PORT SERVER_PORT
      After SIGUSR1 the next reply is the last of its connection: its last segment has the FIN too, so the client's
      kernel learns of both in the same moment.  Prints "last" then.

  proxy.py stall PORT SERVER_PORT BYTES
      Connections that are made between SIGUSR1 and SIGUSR2 get only so many bytes of their client's through until
      SIGUSR2.  Prints "stalled" when one has come so far.

  proxy.py cut PORT SERVER_PORT BYTES STALL
      After SIGUSR1 the next connection that brings BYTES of replies is ended there ("cut" is printed), and those that
      are made after it bring only STALL bytes of replies ("stalled") until SIGUSR2.

All forward everything else, and print "listening" when they do.
"""
import signal
import socket
import sys
import threading


class Broken(Exception):
    """The connection ends here."""


class Way:
    """What passes on the data of a new connection, pass_on(data, sink); None: nothing but that is to be done."""

    def to_server(self):
        return None

    def to_client(self):
        return None


class Fin(Way):
    def __init__(self):
        self.last = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: self.last.set())

    def to_client(self):
        def pass_on(data, sink):
            if self.last.is_set():
                self.last.clear()
                sink.send(data, socket.MSG_MORE)
                print("last", flush=True)
                raise Broken
            sink.sendall(data)
        return pass_on


class Stall(Way):
    def __init__(self, size):
        self.size = size
        self.open_way = threading.Event()
        self.open_way.set()
        signal.signal(signal.SIGUSR1, lambda *_: self.open_way.clear())
        signal.signal(signal.SIGUSR2, lambda *_: self.open_way.set())

    def stalled(self, size):
        room = size

        def pass_on(data, sink):
            nonlocal room
            if room is not None and len(data) >= room:
                sink.sendall(data[:room])
                data, room = data[room:], None
                print("stalled", flush=True)
                self.open_way.wait()
            elif room is not None:
                room -= len(data)
            sink.sendall(data)
        return pass_on

    def to_server(self):
        return None if self.open_way.is_set() else self.stalled(self.size)


class Cut(Stall):
    def __init__(self, size, stall):
        super().__init__(stall)
        self.cut = size
        self.armed = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: self.armed.set())

    def to_server(self):
        return None

    def to_client(self):
        if not self.open_way.is_set():
            return self.stalled(self.size)
        room = self.cut

        def pass_on(data, sink):
            nonlocal room
            if self.armed.is_set() and len(data) >= room:
                sink.sendall(data[:room])
                self.open_way.clear()
                self.armed.clear()
                print("cut", flush=True)
                raise Broken
            if self.armed.is_set():
                room -= len(data)
            sink.sendall(data)
        return pass_on


def pump(source, sink, pass_on):
    end = socket.SHUT_RDWR
    try:
        while data := source.recv(1 << 20):
            if pass_on:
                pass_on(data, sink)
            else:
                sink.sendall(data)
    except Broken:
        end = socket.SHUT_WR
    except OSError:
        pass
    for sock in (sink, source):
        try:
            sock.shutdown(end)
        except OSError:
            pass


def main():
    way = {"fin": Fin, "stall": Stall, "cut": Cut}[sys.argv[1]](*map(int, sys.argv[4:]))
    port, server_port = map(int, sys.argv[2:4])
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
        for args in ((client, server, way.to_server()), (server, client, way.to_client())):
            threading.Thread(target=pump, args=args, daemon=True).start()


main()
