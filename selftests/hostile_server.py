#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""A small server that speaks the protocol honestly out of memory, until it is told to lie.

serve(listener, lie, armed) serves one tree; while armed() is true each reply goes through lie(reply, request), which
may change the reply, or send what it likes by itself.

hostile_server.py PORT MODE listens on a port and never says HELLO as wfsd would: see MODES.  Prints "listening" when
it does.
"""

import errno
import os
import socket
import stat
import struct
import sys
import threading
import time

from wfs_proto import *

MAX_NAME = 255


class Gone(Exception):
    """The peer closed the connection."""


class Node:
    def __init__(self, ino, mode, data=b"", parent=None):
        self.ino, self.mode, self.data, self.children = ino, mode, bytearray(data), {}
        self.nlink = 2 if stat.S_ISDIR(mode) else 1
        self.parent = parent or self
        self.change = 1
        self.xattrs = {}
        self.size = None        # what it says, when that is not the length of the data

    @property
    def fh(self):
        return (bytes([9]) + struct.pack("<Q", self.ino) + b"n").ljust(FH, b"\0")

    @property
    def io(self):
        return (bytes([9]) + struct.pack("<Q", self.ino) + b"i").ljust(FH, b"\0")

    def attr(self):
        return ATTR.pack(self.ino, len(self.data) if self.size is None else self.size, 8, self.change, 5, 5, 5, 5, 0, 0, 0, 0, self.mode, self.nlink,
                         0, 0, 0, 0, 4096, 1, 0, 0)

    def entry(self):
        return self.fh + self.attr()


class Failed(Exception):
    pass


class Tree:
    def __init__(self):
        self.lock = threading.Lock()
        self.nodes = {}
        self.root = self.new(stat.S_IFDIR | 0o755)
        self.add(self.root, b"file", stat.S_IFREG | 0o644, b"honest data " * 700)
        self.add(self.root, b"other", stat.S_IFREG | 0o644, b"other data " * 500)
        self.add(self.root, b"big", stat.S_IFREG | 0o644).size = 1 << 40
        self.add(self.root, b"link", stat.S_IFLNK | 0o777, b"file")
        self.add(self.add(self.root, b"dir", stat.S_IFDIR | 0o755), b"sub", stat.S_IFREG | 0o644)
        self.add(self.root, b"empty", stat.S_IFDIR | 0o755)
        self.root.children[b"file"].xattrs[b"user.a"] = b"value"

    def new(self, mode, data=b"", parent=None):
        node = Node(len(self.nodes) + 100, mode, data, parent)
        self.nodes[node.ino] = node
        return node

    def add(self, dir, name, mode, data=b""):
        if name in dir.children:
            raise Failed(errno.EEXIST)
        node = dir.children[name] = self.new(mode, data, dir)
        return node

    def node(self, fh):
        node = self.nodes.get(struct.unpack_from("<Q", fh, 1)[0])
        if not node:
            raise Failed(errno.ESTALE)
        return node

    @staticmethod
    def changed(dir):
        before = dir.change
        dir.change += 1
        return struct.pack("<Q", before) + dir.attr()

    def child(self, dir, name):
        if name not in dir.children:
            raise Failed(errno.ENOENT)
        return dir.children[name]

    def entries(self, dir, cookie, plus):
        """READDIR's data and eof; a cookie is an entry's place in the order of making."""
        data = b""
        all_ = [(b".", dir), (b"..", dir.parent)] + list(dir.children.items())
        for place, (name, node) in enumerate(all_, 1):
            if place <= cookie:
                continue
            with_entry = plus and place > 2
            data += dirent(name, place, node, with_entry)
        return data

    def do(self, req):
        """Body and data of the reply to a request."""
        op, b = req.op, req.body
        if op == ROOT:
            return self.root.entry(), b""
        node = self.node(b)
        if op in (LOOKUP, UNLINK, RMDIR):
            name = b[72:]
            child = self.child(node, name)
            if op == LOOKUP:
                return child.entry(), b""
            del node.children[name]
            return self.changed(node), b""
        if op in (GETATTR, SETXATTR, REMOVEXATTR):
            return node.attr(), b""
        if op == SETATTR:
            valid, mode, _uid, _gid, size = struct.unpack_from("<IIIIQ", b, FH)
            if valid & 1:
                node.mode = stat.S_IFMT(node.mode) | mode
            if valid & 8:
                node.data = node.data[:size].ljust(min(size, 1 << 20), b"\0")
            node.change += 1
            return node.attr(), b""
        if op == ACCESS:
            return b[FH:FH + 4] + bytes(4) + node.attr(), b""
        if op == OPEN:
            return node.io + node.attr(), b""
        if op in (CREATE, MKDIR, MKNOD, SYMLINK):
            mode, = struct.unpack_from("<I", b, FH)
            n, t = struct.unpack_from("<HH", b, FH + 20)
            name, target = b[FH + 24:FH + 24 + n], b[FH + 24 + n:]
            mode |= {CREATE: stat.S_IFREG, MKDIR: stat.S_IFDIR, SYMLINK: stat.S_IFLNK, MKNOD: 0}[op]
            made = name not in node.children
            child = self.add(node, name, mode, target) if made or op != CREATE else node.children[name]
            io = child.io + struct.pack("<II", made, 0) if op == CREATE else b""
            return child.entry() + io + self.changed(node), b""
        if op in (CLOSE, SESSION):
            return b"", b""
        if op == READ:
            offset, count = struct.unpack_from("<QI", b, FH)
            return b"", bytes(node.data[offset:offset + count])
        if op == WRITE:
            offset, = struct.unpack_from("<Q", b, FH)
            if offset < 1 << 20:
                node.data[offset:offset + len(req.data)] = req.data
            node.change += 1
        if op == ALLOCATE:
            offset, length, mode = struct.unpack_from("<QQI", b, FH)
            if not mode & 1:
                node.data = node.data.ljust(min(offset + length, 1 << 20), b"\0")
            node.change += 1
        if op in (WRITE, COMMIT, ALLOCATE):
            return struct.pack("<Q", 7) + node.attr(), b""
        if op == SEEK:
            offset, whence = struct.unpack_from("<QI", b, FH)
            if offset >= len(node.data):
                raise Failed(errno.ENXIO)
            return struct.pack("<Q", offset if whence == 3 else len(node.data)), b""
        if op == COPY:
            to = self.node(b[FH:])
            at, to_at, length = struct.unpack_from("<QQQ", b, 2 * FH)
            data = node.data[at:at + length]
            to.data[to_at:to_at + len(data)] = data
            to.change += 1
            return struct.pack("<QQ", len(data), 7) + to.attr(), b""
        if op == LINK:
            dir = self.node(b[FH:])
            dir.children[b[2 * FH + 8:]] = node
            node.nlink += 1
            return node.attr() + self.changed(dir), b""
        if op == RENAME:
            to = self.node(b[FH:])
            _flags, o, n = struct.unpack_from("<IHH", b, 2 * FH)
            names = b[2 * FH + 8:]
            to.children[names[o:o + n]] = node.children.pop(names[:o])
            return self.changed(node) + self.changed(to), b""
        if op == READLINK:
            return b"", bytes(node.data)
        if op == READDIR:
            cookie, _count, flags = struct.unpack_from("<QII", b, FH)
            return struct.pack("<II", 1, 0), self.entries(node, cookie, flags & 1)
        if op == STATFS:
            return STATFS_REP.pack(1000, 500, 500, 100, 50, 4096, 255), b""
        if op in (GETXATTR, LISTXATTR):
            size, = struct.unpack_from("<I", b, FH)
            value = b"".join(x + b"\0" for x in node.xattrs) if op == LISTXATTR else node.xattrs.get(b[FH + 16:])
            if value is None:
                raise Failed(errno.ENODATA)
            return struct.pack("<II", len(value), 0), value if size else b""
        if op == LOCK:
            start, end, type, flags = struct.unpack_from("<QQII", b, FH + 8)
            return struct.pack("<QQII", start, end, 2 if flags & 2 else type, 0), b""
        raise Failed(errno.EOPNOTSUPP)


def dirent(name, cookie, node, plus, name_len=None, type=None):
    if type is None:
        type = stat.S_IFMT(node.mode) >> 12
    e = DIRENT.pack(cookie, node.ino, len(name) if name_len is None else name_len, type, plus, 0)
    e += node.entry() if plus else b""
    e += name
    return e + bytes(-len(e) % 8)


class Request:
    def __init__(self, op, slot, seq, body, data):
        self.op, self.slot, self.seq, self.body, self.data = op, slot, seq, body, data


class Reply:
    """A reply before it is sent; what is None is as the rest says."""

    def __init__(self, conn, tree, req, status=0, body=b"", data=b""):
        self.conn, self.tree = conn, tree
        self.magic, self.op, self.flags, self.slot, self.seq = MAGIC, req.op, 0, req.slot, req.seq
        self.status, self.info = status, 0
        self.body, self.data = bytearray(body), bytearray(data)
        self.body_len = self.data_len = None

    def pack(self):
        return REP.pack(self.magic, self.op, self.flags, self.slot, self.seq & 0xffffffff,
                        len(self.body) if self.body_len is None else self.body_len,
                        len(self.data) if self.data_len is None else self.data_len, self.status,
                        self.info) + bytes(self.body) + bytes(self.data)

    def send(self):
        self.conn.sendall(self.pack())


def hello(conn, tree, req, export_flags):
    _, _, _, session, _, _, r, w, n = HELLO_REQ.unpack(req.body)
    known = any(session)
    return Reply(conn, tree, req, body=HELLO_REP.pack(1, export_flags, 0, session if known else b"s" * 16, 7, r, w, min(n, 16),
                                                      4, 65534, 65534, 1, 90, known))


def receive(conn, length):
    data = b""
    while len(data) < length:
        piece = conn.recv(length - len(data))
        if not piece:
            raise Gone
        data += piece
    return data


def talk(conn, tree, lie, armed, export_flags):
    while True:
        _, op, _, slot, seq, body_len, data_len, _, _, ngroups, _ = REQ.unpack(receive(conn, REQ.size))
        rest = receive(conn, ngroups * 4 + body_len + data_len)[ngroups * 4:]
        req = Request(op, slot, seq, rest[:body_len], rest[body_len:])
        if op == HELLO:
            rep = hello(conn, tree, req, export_flags)
        else:
            try:
                with tree.lock:
                    rep = Reply(conn, tree, req, 0, *tree.do(req))
            except Failed as e:
                rep = Reply(conn, tree, req, e.args[0])
        if armed() and lie(rep, req):
            continue
        rep.send()


def serve(listener, lie, armed, export_flags=0):
    tree = Tree()

    def run(conn):
        with conn:
            try:
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                talk(conn, tree, lie, armed, export_flags)
            except (Gone, OSError):
                pass

    while True:
        conn, _ = listener.accept()
        threading.Thread(target=run, args=(conn,), daemon=True).start()


def wait_while(armed, seconds=120):
    """Say nothing until we are honest again."""
    end = time.monotonic() + seconds
    while armed() and time.monotonic() < end:
        time.sleep(0.05)


# ---- what is no wfsd ----

def instead(raw, close=False):
    """A lie: send something else, and then nothing."""
    def change(rep, _req):
        rep.conn.sendall(raw(rep) if callable(raw) else raw)
        if close:
            rep.conn.shutdown(socket.SHUT_RDWR)
        return True
    return change


def later_version(rep, _req):
    rep.status, rep.info, rep.body = errno.EPROTONOSUPPORT, 7 | 9 << 32, b""


def more_than_asked(rep, _req):
    rep.body = HELLO_REP.pack(1, 0, 0, b"x" * 16, 1, 1 << 30, 1 << 30, 5000, 5000, 0, 0, 1, 90, 0)


MODES = {
    "garbage": instead(lambda rep: os.urandom(4096)),               # bytes that are no wfs reply
    "banner": instead(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),       # as an SSH server greets
    "silent": instead(b""),
    "close": instead(b"", True),                                    # as soon as it is asked
    "halfway": instead(lambda rep: rep.pack()[:16]),                # half a header, then nothing
    "version": later_version,                                       # a later wfsd, which speaks versions 7 to 9
    "limits": more_than_asked,
}


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print("listening", flush=True)
    serve(listener, MODES[sys.argv[2]], lambda: True)


if __name__ == "__main__":
    main()
