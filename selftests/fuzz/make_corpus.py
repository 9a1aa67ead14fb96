#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Make the corpus that fuzzing starts from: a real frame of each operation, out of a talk with a wfsd.

Run as root after a change of the protocol: selftests/fuzz/make_corpus.py.  Writes corpus/request/OP and
corpus/reply/OP beside itself; formats: fuzz_request.c, fuzz_reply.c.
"""

import os
import struct
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from server_test import *   # noqa: E402

ROOM = 192      # bytes of a request's body that fuzz_reply.c takes


def save(kind, name, data):
    os.makedirs("%s/corpus/%s" % (HERE, kind), exist_ok=True)
    with open("%s/corpus/%s/%s" % (HERE, kind, name), "wb") as f:
        f.write(data)


class Recorder:
    """Sends requests as they come and keeps them with their replies."""

    def __init__(self, server, session=bytes(16), seq=4):
        self.c = conn(server, session=session)
        self.seq = seq

    def __call__(self, op, body=b"", data=b"", room=0, name=None):
        c = self.c
        frame = pack_request(op, body, data, cred=(0, 0, (7, 8)), slot=3, seq=5)
        # the server remembers what a slot has done
        self.seq += 1
        c.sock.sendall(pack_request(op, body, data, cred=(0, 0, (7, 8)), slot=3, seq=self.seq))
        rep = c.recv()
        hdr = REP.pack(MAGIC, op, 0, 3, 5, len(rep.body), len(rep.data), rep.status, rep.info)
        name = name or OPS[op]
        save("request", name, b"\1" + frame)
        save("reply", name, struct.pack("<B3xI", op, room) + body[:ROOM].ljust(ROOM, b"\0") + hdr + rep.body +
             rep.data)
        if rep.status:
            print("%s: status %d" % (name, rep.status))
        return rep


def hello(server, name, session=bytes(16), index=0):
    """HELLO and its reply; and the session."""
    body = HELLO_REQ.pack(1, 1, 0, session, index, 0, 1 << 20, 1 << 20, 64)
    h = Conn(server, hello=False)
    rep = h.hello(session=session, conn=index, max_read=1 << 20, max_write=1 << 20, inflight=64)
    h.close()
    save("request", name, b"\0" + pack_request(HELLO, body, seq=0) + pack_request(ROOT))
    save("reply", name, struct.pack("<B3xI", HELLO, 0) + body.ljust(ROOM, b"\0") +
         REP.pack(MAGIC, HELLO, 0, 0, 0, len(rep.body), 0, 0, 0) + rep.body)
    return HELLO_REP.unpack(rep.body)[3]


def main():
    s = Server(args=["--no-root-squash"])
    try:
        talk = Recorder(s)
        c = talk.c
        root, u32, u64 = c.root, struct.Struct("<I").pack, struct.Struct("<Q").pack
        frame = pack_request(HELLO, HELLO_REQ.pack(1, 1, 0, bytes(16), 0, 0, 1 << 20, 1 << 20, 64), seq=0)
        session = hello(s, "HELLO")
        hello(s, "HELLO-again", session, 1)

        talk(ROOT)
        create = talk(CREATE, b_create(root, "file", 0o644, 0o22, RW))
        fh, io = create.body[:FH], create.body[ENTRY:ENTRY + FH]
        other = c.create(root, "other", cred=ROOTCRED)
        talk(LOOKUP, b_name(root, "file"))
        talk(GETATTR, fh)
        talk(SETATTR, b_setattr(fh, SET_SIZE | SET_MODE | SET_MTIME, mode=0o600, size=5000, mtime=5))
        talk(ACCESS, fh + struct.pack("<II", 7, 0))
        talk(OPEN, fh + struct.pack("<II", RW, 0))
        talk(WRITE, b_write(io, 3), b"some data")
        talk(READ, b_read(io, 0, 64), room=64)
        talk(COMMIT, io + struct.pack("<II", 1, 0))
        talk(MKDIR, b_create(root, "dir", 0o755, 0, 0))
        talk(MKNOD, b_create(root, "fifo", stat.S_IFIFO | 0o600, 0, 0))
        link = talk(SYMLINK, b_create(root, "link", 0o777, 0, 0, target="dir/target")).body[:FH]
        talk(LINK, b_link(fh, root, "second"))
        talk(RENAME, b_rename(root, "second", root, "third"))
        talk(UNLINK, b_name(root, "third"))
        talk(READLINK, link, room=4095)
        talk(READDIR, b_readdir(root, 0, 4096, PLUS), room=4096)
        talk(READDIR, b_readdir(root, 0, 4096, 0), room=4096, name="READDIR-names")
        talk(RMDIR, b_name(root, "dir"))
        talk(STATFS, root)
        talk(SETXATTR, b_xattr(fh, "user.a"), b"value")
        talk(SETXATTR, b_xattr(fh, "user.b"), b"other", name="SETXATTR-b")
        talk(GETXATTR, b_xattr(fh, "user.a", 100), room=100)
        talk(GETXATTR, b_xattr(fh, "user.a"), name="GETXATTR-size")
        talk(LISTXATTR, b_xattr(fh, "", 100), room=100)
        talk(REMOVEXATTR, b_xattr(fh, "user.a"))
        talk(LOCK, b_lock(io, 1, WR, 10, 19, pid=77))
        talk(LOCK, b_lock(io, 2, RD, 5, 14, L_TEST, pid=78), name="LOCK-conflict")
        talk(LOCK, b_lock(io, 2, RD, 20, flags=L_TEST, pid=78), name="LOCK-test")
        talk(LOCK, b_lock(io, 1, UN, 15, 19), name="LOCK-unlock")
        talk(ALLOCATE, io + struct.pack("<QQII", 0, 8192, 0, 0))
        talk(SEEK, b_seek(io, 2, SEEK_HOLE))
        talk(COPY, b_copy(io, 0, other.io, 0, 100))
        talk(OPEN, fh + struct.pack("<II", RW, 0), name="OPEN-again")
        talk(CLOSE, io)
        talk(LOOKUP, b_name(root, "none"), name="LOOKUP-error")
        # what comes after a restart
        c.close()
        s.stop()
        s.start()
        hello(s, "HELLO-restart", c.session, 1)
        again = Recorder(s, c.session, talk.seq)
        again(SESSION, io + struct.pack("<II", 1, 1), name="SESSION-hold")
        again(LOCK, b_lock(io, 1, WR, 10, 14, L_RECLAIM), name="LOCK-reclaim")
        again(SESSION, bytes(FH) + struct.pack("<II", 2, 0), name="SESSION-reclaimed")
        again(SESSION, bytes(FH) + struct.pack("<II", 3, 0))
        # several in a row
        save("request", "stream", b"\0" + frame + pack_request(ROOT) + pack_request(WRITE, b_write(io, 0), b"x" * 64) +
             pack_request(READDIR, b_readdir(root, 0, 4096, PLUS)) + pack_request(GETATTR, fh))
    finally:
        s.stop()
        s.clean()
    return 0


if __name__ == "__main__":
    sys.exit(main())
