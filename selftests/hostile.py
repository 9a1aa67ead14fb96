#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The module against a server that lies: hostile.py [-j N] [-e N] [PATTERN]...   (hostile.test runs it in the guest)

-j: so many at a time; -e: only one in so many.  WFS_SLOW=N multiplies the limits of time.

For each lie: mount a server that is honest, arm the lie, make the calls that meet it, and see that they end as the lie
deserves: with an error; either way; or, where the server keeps them waiting, when killed.  Then the server is honest
again, and so must be what the mount shows; it must unmount.  Some lies are told when the connection is made again, some
after a restart, some to umount.  Prints TAP.  That the kernel has nothing to say, and that nothing is left when the
module goes, is for who runs this to see.
"""

import ctypes
import errno
import fcntl
import fnmatch
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback

from hostile_server import *

libc = ctypes.CDLL(None, use_errno=True)
SLOW = int(os.environ.get("WFS_SLOW") or 1)
lies = {}           # name: Lie

HELLO_FIELDS = ("version I", "export_flags I", "features Q", "session 16s", "verifier Q", "max_read I", "max_write I",
                "max_inflight I", "max_conns I", "anon_uid I", "anon_gid I", "life Q", "lease I", "session_flags I")
HELLO_OFFSETS = {}  # field: code, offset
for field in HELLO_FIELDS:
    field, code = field.split()
    HELLO_OFFSETS[field] = code, sum(struct.calcsize("<" + c) for c, _ in HELLO_OFFSETS.values())
LIFE, SESSION_FLAGS = HELLO_OFFSETS["life"][1], HELLO_OFFSETS["session_flags"][1]

ERROR, ENDS, WORKS, KILL, MOUNT, UMOUNT = "an error", "an end", "success", "a kill", "no mount", "umount"


class Lie:
    """provoke is what meets the lie; or a pair, of which the first is done before, and its result given to the second."""

    def __init__(self, name, op, change, provoke, expect, opts, squash, again):
        self.name, self.op, self.change, self.expect, self.opts, self.squash = name, op, change, expect, opts, squash
        before, self.provoke = provoke if isinstance(provoke, tuple) else (None, provoke)
        self.before = before or (lambda d: None)
        self.again = again
        self.met = set()        # the connections that are made again

    def __call__(self, rep, req):
        if self.again:
            if req.op == HELLO:
                self.met.add(rep.conn)
                if self.again != BROKEN:
                    struct.pack_into("<Q", rep.body, LIFE, 2)
                if self.again == RESTART:
                    struct.pack_into("<I", rep.body, SESSION_FLAGS, 3)
            elif rep.conn not in self.met:
                rep.conn.shutdown(socket.SHUT_RDWR)
                return True
        return req.op == self.op and self.change(rep, req)


# Lie.again: the connection breaks before the lie is told; another process answers then; and that says RECLAIM
BROKEN, LIFE_ONLY, RESTART = 1, 2, 3


def lie(name, op, change, provoke, expect=ERROR, opts="soft,timeo=50", squash=False, again=None):
    assert name not in lies, name
    if expect == WORKS:     # however slow the machine is
        opts = "hard,timeo=600"
    lies[name] = Lie(name, op, change, provoke, expect, opts, squash, again)


def setting(**fields):
    """A lie about fields of the header; a value may be made of the one there is."""
    def change(rep, _req):
        for key, value in fields.items():
            setattr(rep, key, value(rep) if callable(value) else value)
    return change


def poking(fmt, offset, *values):
    """A lie at an offset of the body."""
    def change(rep, _req):
        if not rep.status:
            struct.pack_into("<" + fmt, rep.body, offset, *values)
    return change


def with_data(make):
    def change(rep, _req):
        rep.data = bytearray(make(rep) if callable(make) else make)
    return change


# ---- the calls ----

def do_stat(d):
    os.stat(d + "/file")


def do_stat_new(d):
    os.stat(d + "/dir")


def do_read(d):
    with open(d + "/file", "rb", buffering=0) as f:
        return f.read(8400)


def do_read_direct(d):
    fd = os.open(d + "/file", os.O_RDONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, 8192)
    os.preadv(fd, [buf], 0)


def do_write(d):
    fd = os.open(d + "/file", os.O_RDWR)
    os.pwrite(fd, b"x" * 5000, 100)
    os.fsync(fd)


def do_end(d):
    """What a file of 2^63 - 1 bytes is asked for."""
    fd = os.open(d + "/file", os.O_RDWR)
    size = os.fstat(fd).st_size
    for what in (lambda: os.pread(fd, 4096, size - 5000), lambda: os.pread(fd, 4096, size - 10),
                 lambda: os.pwrite(fd, b"x" * 20, size - 10), lambda: os.pwrite(fd, b"x", size - 1),
                 lambda: os.lseek(fd, 0, os.SEEK_END), lambda: os.fsync(fd), lambda: os.ftruncate(fd, size),
                 lambda: mmap.mmap(fd, 8192, offset=(size - 8192) & ~4095)[0], lambda: os.close(fd)):
        try:
            what()
        except (OSError, ValueError, OverflowError):
            pass


def do_list(d):
    os.listdir(d)


def do_statfs(d):
    os.statvfs(d)


def do_readlink(d):
    os.readlink(d + "/link")


def do_getxattr(d):
    os.getxattr(d + "/file", "user.a")


def do_listxattr(d):
    os.listxattr(d + "/file")


def do_create(d):
    os.open(d + "/new", os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o644)


def do_open(d):
    os.open(d + "/file", os.O_RDONLY)


# ---- the lies ----

lie("byte by byte", LOOKUP, lambda rep, _: trickle(rep), do_stat_new, WORKS)
lie("data byte by byte", READ, lambda rep, _: trickle(rep, 300), do_read, WORKS)
lie("another server's errors", GETATTR, setting(status=9999, body=b""), do_stat)
lie("EAGAIN for ever", OPEN, setting(status=11, body=b""), do_read)
lie("EAGAIN to READ", READ, setting(status=11, data=b""), do_read)
lie("EAGAIN to a direct READ", READ, setting(status=11, data=b""), do_read_direct)
lie("unknown error to WRITE", WRITE, setting(status=0xffffffff, body=b""), do_write)
lie("ESTALE for ever", GETATTR, setting(status=116, body=b""), do_stat)

for field, values in {
        "magic": (0, 0x53465731), "op": (0, LOOKUP, 255), "flags": (1,), "info": (1,),
        "slot": (lambda rep: rep.slot ^ 1, 15, 16, 65535), "seq": (0, lambda rep: rep.seq + 1, lambda rep: rep.seq - 1),
        "body_len": (0, 175, 177, 4096, 0x80000000, 0xffffffff), "data_len": (1, 4096, 0xffffffff)}.items():
    for i, value in enumerate(values):
        lie("header: %s %s" % (field, i if callable(value) else value), GETATTR, setting(**{field: value}), do_stat)
lie("header: status with body", GETATTR, setting(status=2), do_stat)
lie("header: op of READ", READ, setting(op=WRITE), do_read)
lie("header: body for READ", READ, setting(body=b"x"), do_read)
lie("header: body for READ only said", READ, setting(body_len=8), do_read)
lie("header: READ of 2^32-1", READ, setting(data_len=0xffffffff), do_read_direct)
lie("header: more data than asked", READ, with_data(b"x" * 100000), do_read_direct)
lie("header: data for WRITE", WRITE, with_data(b"x" * 100), do_write)
lie("header: data for LOOKUP", LOOKUP, with_data(b"x" * 100), do_stat_new)
lie("header: target of 4096", READLINK, with_data(b"t" * 4096), do_readlink)
lie("header: xattr longer than asked", GETXATTR,
    lambda rep, _: (setattr(rep, "data", bytearray(65537)), poking("I", 0, 65537)(rep, _))[0], do_getxattr)
lie("duplicate reply", GETATTR, lambda rep, _: (rep.send(), rep.send()) and True, do_stat, ENDS)
lie("reply that nobody asked for", GETATTR,
    lambda rep, _: (rep.send(), rep.conn.sendall(REP.pack(MAGIC, GETATTR, 0, 9, 1, 0, 0, 2, 0))) and True, do_stat, ENDS)
lie("garbage behind a reply", GETATTR, lambda rep, _: (rep.send(), rep.conn.sendall(b"\xff" * 1000)) and True, do_stat,
    ENDS)

ATTR_OFFSETS = {}
offset = 0
for field, code in zip(ATTR_FIELDS, "8Q12I2Q".replace("8Q", "Q" * 8).replace("12I", "I" * 12).replace("2Q", "QQ")):
    ATTR_OFFSETS[field] = offset, code
    offset += struct.calcsize(code)
BAD_ATTR = {"size": (1 << 63, (1 << 64) - 1), "blocks": (1 << 63,), "mode": (0, 0o170644, 0o200100644, 0o30644),
            "uid": (0xffffffff,), "gid": (0xffffffff,), "rdev_major": (4096,), "rdev_minor": (1 << 20,),
            "atime_ns": (1000000000,), "mtime_ns": (0xffffffff,), "ctime_ns": (1000000000,), "btime_ns": (1 << 31,),
            "flags": (1 << 31,)}
ODD_ATTR = {"size": ((1 << 63) - 1,), "nlink": (0, 0xffffffff), "ino": (0, (1 << 64) - 1), "change": (0, (1 << 64) - 1),
            "atime": (1 << 63, (1 << 63) - 1), "mtime": (1 << 63, (1 << 64) - 1), "ctime": ((1 << 63) - 1,),
            "mode": (stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFREG | 0o7777),
            "run": ((1 << 64) - 1,), "blksize": (0, 0xffffffff), "blocks": ((1 << 63) - 1,)}
for field, values in BAD_ATTR.items():
    off, code = ATTR_OFFSETS[field]
    for value in values:
        lie("attr: %s %#x" % (field, value), GETATTR, poking(code, off, value), do_stat)
        if value == values[0]:
            lie("entry: %s %#x" % (field, value), LOOKUP, poking(code, FH + off, value), do_stat_new)
for field, values in ODD_ATTR.items():
    off, code = ATTR_OFFSETS[field]
    for value in values:
        lie("odd attr: %s %#x" % (field, value), GETATTR, poking(code, off, value), do_stat, ENDS)
        lie("odd entry: %s %#x" % (field, value), LOOKUP, poking(code, FH + off, value), do_stat, ENDS)
        lie("odd open: %s %#x" % (field, value), OPEN, poking(code, FH + off, value), do_write, ENDS)
lie("size 2^63-1", GETATTR, poking("Q", ATTR_OFFSETS["size"][0], (1 << 63) - 1), do_end, ENDS)
lie("size 2^63-1 when opened", OPEN, poking("Q", FH + ATTR_OFFSETS["size"][0], (1 << 63) - 1), do_end, ENDS)

MODE = ATTR_OFFSETS["mode"][0]
LEN = struct.calcsize("<8Q12I2Q")
for what, poke in (("empty", poking("B", 0, 0)), ("of 64", poking("B", 0, 64)), ("padded", poking("B", 63, 1))):
    lie("handle %s" % what, LOOKUP, poke, do_stat_new)
    lie("I/O handle %s" % what, OPEN, poke, do_open)
lie("the root as a child", LOOKUP, lambda rep, _: setattr(rep, "body", bytearray(rep.tree.root.entry())), do_stat_new, ENDS)
lie("a file as a directory", LOOKUP,
    lambda rep, _: (setattr(rep, "body", bytearray(rep.tree.root.children[b"file"].fh + rep.tree.root.attr())))
    if not rep.status else None, do_stat, ENDS)
lie("OPEN: a directory", OPEN, poking("I", FH + MODE, stat.S_IFDIR | 0o755), do_open)
lie("CREATE: a directory", CREATE, poking("I", FH + MODE, stat.S_IFDIR | 0o755), do_create)
lie("CREATE: made twice", CREATE, poking("I", FH + LEN + FH, 2), do_create)
lie("CREATE: I/O handle", CREATE, poking("B", FH + LEN, 0), do_create)
lie("CREATE: the file that is there", CREATE,
    lambda rep, _: rep.body.__setitem__(slice(0, FH + LEN), rep.tree.root.children[b"file"].entry())
    if not rep.status else None, do_create, ENDS)
lie("CREATE: in a file", CREATE, poking("I", FH + LEN + FH + 8 + 8 + MODE, stat.S_IFREG), do_create)
lie("WRITE: to a directory", WRITE, poking("I", 8 + MODE, stat.S_IFDIR), do_write)
lie("COMMIT: of a fifo", COMMIT, poking("I", 8 + MODE, stat.S_IFIFO), do_write)
lie("MKDIR: a file", MKDIR, poking("I", FH + MODE, stat.S_IFREG | 0o644), lambda d: os.mkdir(d + "/new"))
lie("MKDIR: the root", MKDIR, lambda rep, _: rep.body.__setitem__(slice(0, FH + LEN), rep.tree.root.entry()),
    lambda d: os.mkdir(d + "/new"), ENDS)
lie("MKNOD: a link", MKNOD, poking("I", FH + MODE, stat.S_IFLNK | 0o777), lambda d: os.mkfifo(d + "/new"))
lie("SYMLINK: a directory", SYMLINK, poking("I", FH + MODE, stat.S_IFDIR | 0o777), lambda d: os.symlink("x", d + "/new"))
lie("LINK: nsec", LINK, poking("I", ATTR_OFFSETS["atime_ns"][0], 1 << 30), lambda d: os.link(d + "/file", d + "/new"))
lie("UNLINK: from a file", UNLINK, poking("I", 8 + MODE, stat.S_IFREG), lambda d: os.unlink(d + "/file"))
lie("RMDIR: from a file", RMDIR, poking("I", 8 + MODE, stat.S_IFREG), lambda d: os.rmdir(d + "/empty"))
lie("RENAME: from a file", RENAME, poking("I", 8 + MODE, stat.S_IFREG), lambda d: os.rename(d + "/file", d + "/dir/file"))
lie("RENAME: to a file", RENAME, poking("I", 8 + LEN + 8 + MODE, stat.S_IFREG),
    lambda d: os.rename(d + "/file", d + "/dir/file"))
lie("SETATTR: gid", SETATTR, poking("I", ATTR_OFFSETS["gid"][0], 0xffffffff), lambda d: os.chmod(d + "/file", 0o600))
lie("SETATTR: size", SETATTR, poking("Q", ATTR_OFFSETS["size"][0], 1 << 63), lambda d: os.truncate(d + "/file", 5))
lie("STATFS: bsize 0", STATFS, poking("I", 40, 0), do_statfs)
lie("STATFS: huge", STATFS, poking("5Q", 0, *[(1 << 64) - 1] * 5), do_statfs, ENDS)

# directories
for what, make in {
        "slash": lambda n: dirent(b"a/b", 9, n, 0), "NUL": lambda n: dirent(b"a\0b", 9, n, 0),
        "NUL with entry": lambda n: dirent(b"a\0b", 9, n, 1), "slash with entry": lambda n: dirent(b"../x", 9, n, 1),
        "empty": lambda n: dirent(b"", 9, n, 0), "of 256": lambda n: dirent(b"x" * 256, 9, n, 0),
        "of 65535": lambda n: dirent(b"x", 9, n, 0, 65535), ". with entry": lambda n: dirent(b".", 9, n, 1),
        ".. with entry": lambda n: dirent(b"..", 9, n, 1), "cut off": lambda n: dirent(b"x" * 100, 9, n, 0)[:-8],
        "cut in the entry": lambda n: dirent(b"x", 9, n, 1)[:40], "half a structure": lambda n: bytes(16),
        "without a cookie": lambda n: dirent(b"x", 0, n, 0), "cookie 2^63": lambda n: dirent(b"x", 1 << 63, n, 0),
        "type 3": lambda n: dirent(b"x", 9, n, 0, type=3), "plus 2": lambda n: dirent(b"x", 9, n, 0)[:19] + b"\2" +
        dirent(b"x", 9, n, 0)[20:], "padding": lambda n: dirent(b"x", 9, n, 0)[:-1] + b"p"}.items():
    lie("name: " + what, READDIR, with_data(lambda rep, make=make: rep.data + make(rep.tree.root.children[b"file"])), do_list)


def circle(length):
    def change(rep, req):
        cookie, = struct.unpack_from("<Q", req.body, FH)
        rep.body = bytearray(8)
        rep.data = bytearray(dirent(b"name%d" % cookie, cookie % length + 1, rep.tree.root.children[b"file"], 0))
    return change


def endless(rep, req):
    cookie, = struct.unpack_from("<Q", req.body, FH)
    rep.body = bytearray(8)
    rep.data = bytearray(b"".join(dirent(b"name%d" % (cookie + i), cookie + i + 1, rep.tree.root.children[b"file"], 0)
                                  for i in range(100)))


lie("listing: goes on where it was", READDIR, circle(1), do_list)
lie("listing: circle of 2", READDIR, circle(2), do_list)
lie("listing: circle of 11", READDIR, circle(11), do_list)
lie("listing: endless", READDIR, endless, do_list, KILL)
lie("listing: nothing and no end", READDIR, setting(body=bytes(8), data=b""), do_list)
lie("listing: eof 2", READDIR, poking("I", 0, 2), do_list)
lie("listing: reserved", READDIR, poking("I", 4, 1), do_list)
lie("listing: the same name again and again", READDIR,
    with_data(lambda rep: b"".join(dirent(b"same", i, rep.tree.root.children[b"file"], 1) for i in range(1, 20))),
    do_list, ENDS)
lie("listing: the root in itself", READDIR, with_data(lambda rep: dirent(b"self", 1, rep.tree.root, 1)),
    lambda d: (os.listdir(d), os.stat(d + "/self/self")), ENDS)
lie("target: NUL", READLINK, with_data(b"a\0b"), do_readlink)
lie("target: empty", READLINK, with_data(b""), do_readlink)
lie("target: of 4095", READLINK, with_data(b"t" * 4095), do_readlink, WORKS)
lie("xattr list: not terminated", LISTXATTR, setting(data=lambda rep: rep.data[:-1] + b"x" if rep.data else b""), do_listxattr)
lie("xattr list: empty name", LISTXATTR, setting(data=lambda rep: b"\0" * len(rep.data)), do_listxattr)
lie("xattr: size 65537", GETXATTR, poking("I", 0, 65537), do_getxattr)
lie("xattr: size 2^32-1", GETXATTR, poking("I", 0, 0xffffffff), do_getxattr)
lie("xattr: size is not that of the data", GETXATTR, poking("I", 0, 3), do_getxattr)


def zeros_follow(d):
    got = do_read(d)
    assert not got[100:].strip(b"\0"), "what the server did not send is not zero"


lie("READ: short", READ, with_data(lambda rep: rep.data[:100]), zeros_follow, WORKS)
lie("READ: nothing", READ, with_data(b""), lambda d: do_read(d), WORKS)


# time
def trickle(rep, at_once=1):
    raw = rep.pack()
    for i in range(0, len(raw), at_once):
        rep.conn.sendall(raw[i:i + at_once])
        time.sleep(0.002)
    return True


def part(cut, close=False):
    """Send what comes before a place in the reply, and the rest when it is too late."""
    def change(rep, _req):
        raw = rep.pack()
        rep.conn.sendall(raw[:cut])
        if close:
            rep.conn.shutdown(socket.SHUT_RDWR)
        else:
            wait_while(rep.armed)
            rep.conn.sendall(raw[cut:])
        return True
    return change


def late(rep, _req):
    time.sleep(8)
    rep.send()
    return True


for what, op, cut, provoke in (("header", GETATTR, 13, do_stat), ("body", GETATTR, 100, do_stat),
                               ("data", READ, 2000, do_read), ("direct data", READ, 2000, do_read_direct),
                               ("entries", READDIR, 100, do_list), ("nothing at all", OPEN, 0, do_read),
                               ("the reply to WRITE", WRITE, 50, do_write)):
    lie("stall in " + what, op, part(cut), provoke, KILL, "hard,timeo=600")
    lie("stall in %s, soft" % what, op, part(cut), provoke, ERROR, "soft,timeo=20")
    lie("close in " + what, op, part(cut, True), provoke, ERROR, "soft,timeo=20")
    lie("close in %s, hard" % what, op, part(cut, True), provoke, KILL, "hard,timeo=600")
lie("late reply", GETATTR, late, do_stat, ERROR, "soft,timeo=30")
lie("late data", READ, late, do_read_direct, ERROR, "soft,timeo=30")
lie("wrong header, hard", READ, setting(magic=1), do_read, KILL, "hard,timeo=600")

# before there is a mount
BAD_HELLO = {"version": (0, 2), "export_flags": (1 << 31,), "session": (bytes(16),), "max_read": (0, 1024, 4097, 2 << 20),
             "max_write": (0, 2 << 20, 0xffffffff), "max_inflight": (0, 257, 0xffffffff), "max_conns": (0, 65),
             "life": (0,), "lease": (0, 3601), "session_flags": (4, 1, 2, 3)}


def poking_hello(field, value):
    code, off = HELLO_OFFSETS[field]
    return poking(code, off, value)


for field, values in BAD_HELLO.items():
    for value in values:
        lie("HELLO: %s %s" % (field, value if isinstance(value, int) else "zero"), HELLO, poking_hello(field, value), None,
            MOUNT)
lie("HELLO: error with body", HELLO, setting(status=22), None, MOUNT)
lie("HELLO: ESTALE for ever", HELLO, setting(status=116, body=b""), None, MOUNT)
lie("HELLO: half", HELLO, part(60), None, MOUNT, "soft,timeo=10")
lie("HELLO: slot", HELLO, setting(slot=1), None, MOUNT)
lie("ROOT: a file", ROOT, poking("I", FH + MODE, stat.S_IFREG | 0o644), None, MOUNT)
lie("ROOT: no handle", ROOT, poking("B", 0, 0), None, MOUNT)
lie("ROOT: an error", ROOT, setting(status=13, body=b""), None, MOUNT)
lie("ROOT: wrong magic", ROOT, setting(magic=0), None, MOUNT)

# locks, parts of files, ACCESS
def open_rw(d):
    return os.open(d + "/file", os.O_RDWR)


def do_lock(d):
    fcntl.lockf(open_rw(d), fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)


def do_wait_for_lock(d):
    fcntl.lockf(open_rw(d), fcntl.LOCK_EX, 10, 5)


def do_flock(d):
    fcntl.flock(open_rw(d), fcntl.LOCK_EX | fcntl.LOCK_NB)


def do_getlk(d, type=fcntl.F_WRLCK):
    """What the kernel says of a lock of bytes 5 to 14."""
    asked = struct.pack("hhqqi4x", type, os.SEEK_SET, 5, 10, 0)
    return struct.unpack("hhqqi4x", fcntl.fcntl(open_rw(d), fcntl.F_GETLK, asked))


def have_lock(d):
    fd = open_rw(d)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    return fd


def unlock(d, fd):
    fcntl.lockf(fd, fcntl.LOCK_UN, 10, 5)


def do_allocate(d):
    os.posix_fallocate(open_rw(d), 100, 20000)


def do_punch(d):
    if libc.fallocate(open_rw(d), 3, ctypes.c_long(4096), ctypes.c_long(4096)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def do_seek(d, whence=os.SEEK_DATA):
    return os.lseek(open_rw(d), 100, whence)


def do_copy(d, length=8000):
    return os.copy_file_range(os.open(d + "/big", os.O_RDONLY), open_rw(d), length, 0, 0)


def do_access(d):
    os.stat(d + "/dir/sub")


QUICK = "soft,timeo=30"
for op, provoke, body_len in ((LOCK, do_lock, 24), (ALLOCATE, do_allocate, 8 + LEN), (SEEK, do_seek, 8),
                              (COPY, do_copy, 16 + LEN), (ACCESS, do_access, 8 + LEN)):
    for what, change, expect, opts in (
            ("unknown status", setting(status=9999, body=b""), ERROR, QUICK),
            ("status 2^32-1", setting(status=0xffffffff, body=b""), ERROR, QUICK),
            ("status with body", setting(status=5), ERROR, QUICK),
            ("another's tag", setting(op=GETATTR), ERROR, QUICK),
            ("seq of the one before", setting(seq=lambda rep: rep.seq - 1), ERROR, QUICK),
            ("slot of another", setting(slot=lambda rep: rep.slot ^ 1), ERROR, QUICK),
            ("a byte less", setting(body=lambda rep: rep.body[:-1]), ERROR, QUICK),
            ("a byte more", setting(body=lambda rep: rep.body + b"\0"), ERROR, QUICK),
            ("no body", setting(body=b""), ERROR, QUICK),
            ("body of 2^32-1", setting(body_len=0xffffffff), ERROR, QUICK),
            ("data", with_data(b"x" * 100), ERROR, QUICK),
            ("data of 2^31", setting(data_len=1 << 31), ERROR, QUICK),
            ("twice", lambda rep, _: (rep.send(), rep.send()) and True, ENDS, QUICK),
            ("EAGAIN", setting(status=11, body=b""), ERROR, QUICK),
            ("ESTALE", setting(status=116, body=b""), ERROR, QUICK),
            ("stall in the body", part(REP.size + body_len // 2), ERROR, QUICK),
            ("close in the body", part(REP.size + body_len // 2, True), ERROR, QUICK),
            ("no reply", part(0), KILL, "hard,timeo=600")):
        lie("%s: %s" % (OPS[op], what), op, change, provoke, expect, opts, squash=op == ACCESS)

lie("LOCK: another type", LOCK, poking("I", 16, 0), do_lock)
lie("LOCK: type 3", LOCK, poking("I", 16, 3), do_lock)
lie("LOCK: another type for flock", LOCK, poking("I", 16, 2), do_flock)
lie("LOCK: EAGAIN at once to who waits", LOCK, setting(status=11, body=b""), do_wait_for_lock, KILL)
lie("LOCK: no reply to who waits", LOCK, part(0), do_wait_for_lock, KILL, "hard,timeo=600")
lie("LOCK: EDEADLK to flock", LOCK, setting(status=35, body=b""), do_flock)
LOCK_REP = "QQII"
for what, values in {"starts behind its end": (9, 8, 1, 7), "ends at 2^63": (0, 1 << 63, 1, 7), "from 2^64-1": ((1 << 64) - 1,) * 2 + (1, 7),
                     "type 3": (5, 14, 3, 7), "type 2^32-1": (5, 14, 0xffffffff, 7), "pid 2^31": (5, 14, 1, 1 << 31),
                     "pid 2^32-1": (5, 14, 1, 0xffffffff), "before what was asked for": (0, 4, 1, 7),
                     "behind it": (15, 20, 1, 7)}.items():
    lie("TEST: " + what, LOCK, poking(LOCK_REP, 0, *values), do_getlk)
lie("TEST: READ in the way of READ", LOCK, poking(LOCK_REP, 0, 5, 14, 0, 7), lambda d: do_getlk(d, fcntl.F_RDLCK))


def told_lock(d):
    type, _, start, length, pid = do_getlk(d)
    assert (type, start, length, pid) == (fcntl.F_RDLCK, 14, 0, -77), (type, start, length, pid)


lie("TEST: a lock that there may be", LOCK, poking(LOCK_REP, 0, 14, (1 << 63) - 1, 0, 77), told_lock, WORKS)
lie("UNLOCK: another type", LOCK, poking("I", 16, 1), (have_lock, unlock), ENDS)
lie("UNLOCK: unknown status", LOCK, setting(status=9999, body=b""), (have_lock, unlock), ENDS)
lie("UNLOCK: wrong header", LOCK, setting(magic=1), (have_lock, unlock), KILL)
lie("UNLOCK: no reply", LOCK, part(0), (have_lock, unlock), KILL, "hard,timeo=600")

for what, value in (("before what was asked for", 99), ("at 0", 0), ("at 2^63", 1 << 63), ("at 2^64-1", (1 << 64) - 1)):
    lie("SEEK: " + what, SEEK, poking("Q", 0, value), do_seek)
    lie("SEEK: a hole " + what, SEEK, poking("Q", 0, value), lambda d: do_seek(d, os.SEEK_HOLE))
lie("SEEK: at 2^63-1", SEEK, poking("Q", 0, (1 << 63) - 1), do_seek, ENDS)

for what, value in (("a byte more than asked for", 8001), ("2^63", 1 << 63), ("2^64-1", (1 << 64) - 1), ("2^32", 1 << 32)):
    lie("COPY: " + what, COPY, poking("Q", 0, value), do_copy)
for what, length in (("of a little", 8000), ("of much", 1 << 30)):
    lie("COPY: nothing %s" % what, COPY, poking("Q", 0, 0), lambda d, length=length: do_copy(d, length), ENDS)
    lie("COPY: all %s, and the file is empty" % what, COPY,
        lambda rep, req: struct.pack_into("<Q16xQ", rep.body, 0, struct.unpack_from("<Q", req.body, 2 * FH + 16)[0], 0),
        lambda d, length=length: do_copy(d, length), ENDS)
lie("COPY: a byte each time", COPY, poking("Q", 0, 1), lambda d: do_copy(d, 1 << 30), KILL)
lie("COPY: a file of 2^63 bytes", COPY, poking("Q", 16 + ATTR_OFFSETS["size"][0], 1 << 63), do_copy)
lie("COPY: a file of 2^63-1 bytes", COPY, poking("Q", 16 + ATTR_OFFSETS["size"][0], (1 << 63) - 1), do_copy, ENDS)
lie("COPY: to a directory", COPY, poking("I", 16 + MODE, stat.S_IFDIR | 0o755), do_copy)
for what, provoke in (("ALLOCATE", do_allocate), ("PUNCH_HOLE", do_punch)):
    lie(what + ": a directory", ALLOCATE, poking("I", 8 + MODE, stat.S_IFDIR | 0o755), provoke)
    lie(what + ": a file of 2^63 bytes", ALLOCATE, poking("Q", 8 + ATTR_OFFSETS["size"][0], 1 << 63), provoke)
    lie(what + ": a file of 2^63-1 bytes", ALLOCATE, poking("Q", 8 + ATTR_OFFSETS["size"][0], (1 << 63) - 1), provoke, ENDS)
    lie(what + ": an empty file", ALLOCATE, poking("Q", 8 + ATTR_OFFSETS["size"][0], 0), provoke, ENDS)

for what, change in (("an error", setting(status=9)), ("unknown status", setting(status=9999)), ("a body", setting(body=b"x" * 8)),
                     ("data", with_data(b"x" * 100)), ("another's tag", setting(op=OPEN)), ("no reply", part(0)),
                     ("twice", lambda rep, _: (rep.send(), rep.send()) and True)):
    lie("CLOSE: " + what, CLOSE, change, lambda d: os.close(os.open(d + "/file", os.O_RDONLY)), ENDS)

for what, poke in (("more than was asked for", poking("I", 0, 15)), ("what there is not", poking("I", 0, 0x80000001)),
                   ("reserved", poking("I", 4, 1)), ("no attributes", poking("I", 8 + MODE, 0)),
                   ("nothing", poking("I", 0, 0))):
    lie("ACCESS: " + what, ACCESS, poke, do_access, squash=True)


# when the connection is made again
def have_open(d):
    return os.open(d + "/file", os.O_RDWR | os.O_DIRECT)


def read_again(d, fd):
    buf = mmap.mmap(-1, 8192)
    os.preadv(fd, [buf], 0)


USE = have_open, read_again
for field, values in BAD_HELLO.items():
    for value in values:
        if (field, value) not in (("session_flags", 1), ("session_flags", 3)):      # which may be
            lie("again: %s %s" % (field, value if isinstance(value, int) else "zero"), HELLO, poking_hello(field, value),
                USE, ERROR, QUICK, again=BROKEN)
for field, value in (("session", b"another session."), ("session_flags", 0), ("max_read", 4096), ("max_write", 4096),
                     ("max_inflight", 1)):
    lie("again: %s is not what it was" % field, HELLO, poking_hello(field, value), USE, ERROR, QUICK, again=BROKEN)
for field, value in (("verifier", 8), ("max_conns", 1), ("max_conns", 64), ("anon_uid", 0xffffffff), ("export_flags", 7),
                     ("life", 2), ("lease", 3600), ("session_flags", 3), ("features", (1 << 64) - 1)):
    lie("again: another %s, %d" % (field, value), HELLO, poking_hello(field, value), USE, WORKS, again=BROKEN)
for what, change in MODES.items():
    lie("again: " + what, HELLO, change, USE, ERROR, QUICK, again=BROKEN)
    lie("again: %s, hard" % what, HELLO, change, USE, KILL, "hard,timeo=50", again=BROKEN)
for what, change in (("status with body", setting(status=16)), ("EBUSY for ever", setting(status=16, body=b"")),
                     ("ESTALE for ever", setting(status=116, body=b"")), ("unknown status", setting(status=9999, body=b"")),
                     ("a byte less", setting(body=lambda rep: rep.body[:-1])),
                     ("a byte more", setting(body=lambda rep: rep.body + b"\0")),
                     ("data", with_data(b"x")), ("slot", setting(slot=1)), ("seq", setting(seq=1)), ("op", setting(op=ROOT)),
                     ("half", part(60)), ("half, then an end", part(60, True))):
    lie("again: " + what, HELLO, change, USE, ERROR, QUICK, again=BROKEN)
lie("again: byte by byte", HELLO, lambda rep, _: trickle(rep), USE, WORKS, again=BROKEN)
lie("again: twice", HELLO, lambda rep, _: (rep.send(), rep.send()) and True, USE, ENDS, QUICK, again=BROKEN)


# after a restart
def forgotten(rep, req):
    """The session is not known; the next one is new."""
    if any(req.body[16:32]):
        rep.status, rep.body = errno.ESTALE, b""
    else:
        struct.pack_into("<16s", rep.body, HELLO_OFFSETS["session"][1], b"a new session...")


def use_locked(d, fd):
    os.stat(d + "/dir/sub")     # what is under way when the lock is lost ends as it would have
    os.pread(fd, 1, 0)


LOCKED = have_lock, use_locked
lie("restart: nothing to complain about", SESSION, lambda rep, _: None, USE, WORKS, again=RESTART)
lie("restart: nor with a lock", LOCK, lambda rep, _: None, LOCKED, WORKS, again=RESTART)
lie("restart: the session is forgotten", HELLO, forgotten, USE, WORKS, again=BROKEN)
lie("restart: the session is forgotten, with its locks", HELLO, forgotten, LOCKED, again=BROKEN)
for status in (22, 37, 9999):
    lie("restart: a hold is refused, %d" % status, SESSION, setting(status=status), USE, WORKS, again=RESTART)
    lie("restart: a lock is refused, %d" % status, LOCK, setting(status=status, body=b""), LOCKED, again=RESTART)
# the flag is missing, as when the grace is over: that the lock is lost is found out all the same
lie("restart: without RECLAIM", LOCK,
    lambda rep, req: rep.__dict__.update(status=37, body=b"") if struct.unpack_from("<I", req.body, FH + 28)[0] & 4 else None,
    (have_lock, use_locked), again=LIFE_ONLY)
for op, provoke, more in ((SESSION, USE, ()), (LOCK, LOCKED, (
        ("a byte less", setting(body=lambda rep: rep.body[:-1])), ("another type", poking("I", 16, 0)),
        ("type 3", poking("I", 16, 3)), ("status with body", setting(status=5)), ("half the body", part(REP.size + 12))))):
    for what, change in (("another's tag", setting(op=GETATTR)), ("a byte more", setting(body=lambda rep: rep.body + b"\0")),
                         ("body of 2^32-1", setting(body_len=0xffffffff)), ("data", with_data(b"x")),
                         ("seq", setting(seq=2)), ("slot 1", setting(slot=1)), ("slot 65535", setting(slot=65535)),
                         ("magic", setting(magic=0)), ("ENOMEM for ever", setting(status=12, body=b"")),
                         ("flags", setting(flags=1)), ("info", setting(info=1)),
                         ("half a header", part(16)), ("no reply", part(0)), ("an end", part(0, True))) + more:
        lie("claim by %s: %s" % (OPS[op], what), op, change, provoke, ERROR, QUICK, again=RESTART)
    lie("claim by %s: twice" % OPS[op], op, lambda rep, _: (rep.send(), rep.send()) and True, provoke, ENDS, QUICK, again=RESTART)
    lie("claim by %s: no reply, hard" % OPS[op], op, part(0), provoke, KILL, "hard,timeo=600", again=RESTART)
    lie("claim by %s: byte by byte" % OPS[op], op, lambda rep, _: trickle(rep), provoke, WORKS, again=RESTART)

# umount's last word
for what, change in (("an error", setting(status=5)), ("unknown status", setting(status=9999)), ("another's tag", setting(op=READ)),
                     ("a body", setting(body=b"x" * 8)), ("data", with_data(b"x" * 9000)), ("no reply", part(0)),
                     ("half a reply", part(16)), ("an end", part(0, True)),
                     ("twice", lambda rep, _: (rep.send(), rep.send()) and True)):
    lie("END: " + what, SESSION, change, None, UMOUNT)


# ---- one lie ----

class Wrong(Exception):
    pass


def mount(lie, port, dir):
    opts = "port=%d,conns=1,rsize=1048576,wsize=1048576,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,%s" % (port, lie.opts)
    if libc.mount(b"127.0.0.1:/", dir.encode(), b"wfs", 0, opts.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def until(what, seconds, fn):
    """Call fn until it raises no OSError."""
    end = time.monotonic() + seconds * SLOW
    while True:
        try:
            return fn()
        except OSError as e:
            if time.monotonic() > end:
                raise Wrong("%s: %s" % (what, e)) from None
        time.sleep(0.1)


def ended(pid, seconds):
    """The child's end: its status, or None."""
    fd = os.pidfd_open(pid)
    try:
        return os.waitpid(pid, 0)[1] if select.select([fd], [], [], seconds)[0] else None
    finally:
        os.close(fd)


def provoke(lie, armed, dir):
    """Make the calls in a process of their own; return how it ended."""
    pid = os.fork()
    if not pid:
        code = 3
        try:
            had = lie.before(dir)
            armed(True)
            lie.provoke(dir) if had is None else lie.provoke(dir, had)
            code = 0
        except OSError as e:
            os.write(2, b"# %s: %s\n" % (lie.name.encode(), str(e).encode()))
            code = 1
        except BaseException:       # noqa: B902
            traceback.print_exc()
        finally:
            os._exit(code)
    def told():
        if not armed():
            raise OSError(errno.EAGAIN, "the calls have not come so far")

    if lie.expect == KILL:
        until("before", 60, told)
        if ended(pid, 1.5) is not None:
            raise Wrong("the calls ended by themselves")
        os.kill(pid, signal.SIGKILL)
        if ended(pid, 30 * SLOW) is None:
            raise Wrong("can't be killed")
        return
    status = ended(pid, 60 * SLOW)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        raise Wrong("the calls don't end" + ("" if ended(pid, 30 * SLOW) is not None else ", not even killed"))
    code = os.waitstatus_to_exitcode(status)
    if code not in {ERROR: (1,), ENDS: (0, 1, -signal.SIGBUS), WORKS: (0,)}[lie.expect]:
        raise Wrong("%s instead of %s" % ({0: "success", 1: "an error"}.get(code, "a wrong result"), lie.expect))


def honest(dir):
    """What an honest server's mount shows."""
    with open(dir + "/other", "rb") as f:
        if f.read() != b"other data " * 500:
            raise OSError(errno.EIO, "not what is in the file")
    if "other" not in os.listdir(dir) or os.stat(dir + "/dir/sub").st_size:
        raise OSError(errno.EIO, "not the tree that there is")


def run(lie, armed, port, dir):
    """armed(on): tell the server, or ask."""
    os.makedirs(dir, exist_ok=True)
    if lie.expect == MOUNT:
        armed(True)
        try:
            mount(lie, port, dir)
        except OSError:
            pass
        else:
            libc.umount2(dir.encode(), 0)
            raise Wrong("it mounts")
        armed(False)
    until("mount", 30, lambda: mount(lie, port, dir))
    try:
        if lie.provoke:
            until("before", 30, lambda: os.stat(dir + "/file"))
            provoke(lie, armed, dir)
            armed(False)
        until("honest again", 60, lambda: honest(dir))
    finally:
        armed(lie.expect == UMOUNT)
        os.chdir("/")

        def umount():
            if libc.umount2(dir.encode(), 0):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        until("umount", 30, umount)


# ---- all of them ----

def start_server(chosen, listeners, armed):
    """In a process of its own, which must not wait for what it serves."""
    pid = os.fork()
    if pid:
        return pid
    for i, (lie_, listener) in enumerate(zip(chosen, listeners)):
        def is_armed(i=i):
            return armed[i]

        def tell(rep, req, lie_=lie_, is_armed=is_armed):
            rep.armed = is_armed
            return lie_(rep, req)
        threading.Thread(target=serve, args=(listener, tell, is_armed, 2 if lie_.squash else 0), daemon=True).start()
    signal.pause()
    os._exit(0)


def main():
    args = sys.argv[1:]
    number = {"-j": 14, "-e": 1}
    while args and args[0] in number:
        number[args[0]], args = int(args[1]), args[2:]
    jobs = number["-j"]
    chosen = [x for x in lies.values() if not args or any(fnmatch.fnmatchcase(x.name, p) for p in args)][::number["-e"]]
    armed = mmap.mmap(-1, max(len(chosen), 1))
    # a listener for each lie, and what has not been closed yet of their connections
    resource.setrlimit(resource.RLIMIT_NOFILE, (8 * len(lies), max(8 * len(lies), resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in chosen]
    server = start_server(chosen, listeners, armed)
    print("TAP version 13\n1..%d" % len(chosen), flush=True)
    running, started, failed, waiting = {}, {}, 0, list(enumerate(chosen))
    while waiting or running:
        while waiting and len(running) < jobs:
            i, lie_ = waiting.pop(0)
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    def arm(on=None, i=i):
                        if on is not None:
                            armed[i] = on
                        return armed[i]
                    run(lie_, arm, listeners[i].getsockname()[1], "/mnt/hostile/%d" % i)
                    code = 0
                except (Wrong, OSError) as e:
                    os.write(1, b"# %s: %s\n" % (lie_.name.encode(), str(e).encode()))
                except BaseException:       # noqa: B902
                    traceback.print_exc()
                finally:
                    os._exit(code)
            running[pid] = i
            started[pid] = time.monotonic()
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            i = running.pop(pid)
            failed += status != 0
            print("%sok %d %s # %.1f s" % ("not " if status else "", i + 1, chosen[i].name, time.monotonic() - started[pid]),
                  flush=True)
        elif not pid:
            for late_ in [p for p in running if time.monotonic() - started[p] > 240 * SLOW]:
                print("# %s hangs" % chosen[running[late_]].name, flush=True)
                os.kill(late_, signal.SIGKILL)
                started[late_] = time.monotonic()
            time.sleep(0.05)
    os.kill(server, signal.SIGKILL)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
