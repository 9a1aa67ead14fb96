#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Something that listens where wfsd should: fake_server.py PORT MODE

  garbage   answers with bytes that are no wfs reply
  banner    greets as an SSH server does, before it is asked
  silent    accepts and says nothing
  close     closes every connection at once
  halfway   sends half a reply header and then nothing
  version   is a later wfsd: refuses HELLO with EPROTONOSUPPORT, speaks versions 7 to 9
  limits    agrees on more than it was asked for

Prints "listening" when it is.
"""
import os
import socket
import sys
import threading

from wfs_proto import HELLO_REP, MAGIC, REP, REQ

EPROTONOSUPPORT = 93


def read_exactly(conn, length):
    data = b""
    while len(data) < length:
        piece = conn.recv(length - len(data))
        if not piece:
            return None
        data += piece
    return data


def serve(conn, mode):
    if mode == "banner":
        conn.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    if mode == "close":
        conn.close()
        return
    while True:
        header = read_exactly(conn, REQ.size)
        if not header:
            return
        _, op, _, slot, seq, body_len, data_len, _, _, ngroups, _ = REQ.unpack(header)
        read_exactly(conn, ngroups * 4 + body_len + data_len)
        if mode == "garbage":
            conn.sendall(os.urandom(4096))
        elif mode == "halfway":
            conn.sendall(REP.pack(MAGIC, op, 0, slot, seq, HELLO_REP.size, 0, 0, 0)[:16])
        elif mode == "version":
            conn.sendall(REP.pack(MAGIC, op, 0, slot, seq, 0, 0, EPROTONOSUPPORT, 7 | 9 << 32))
        elif mode == "limits":
            conn.sendall(REP.pack(MAGIC, op, 0, slot, seq, HELLO_REP.size, 0, 0, 0) +
                         HELLO_REP.pack(1, 0, 0, b"x" * 16, 1, 1 << 30, 1 << 30, 5000, 5000, 0, 0, 1, 90, 0))


def main():
    port, mode = int(sys.argv[1]), sys.argv[2]
    listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
    print("listening", flush=True)
    kept = []
    while True:
        conn, _ = listener.accept()
        kept.append(conn)
        threading.Thread(target=serve, args=(conn, mode), daemon=True).start()


main()
