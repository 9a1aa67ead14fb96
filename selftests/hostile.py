#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The module against a server that lies: hostile.py [-j N] [PATTERN]...   (hostile.test runs it in the guest)

For each lie: mount a server that is honest, arm the lie, make the calls that meet it, and see that they end as the lie
deserves: with an error; either way; or, where the server keeps them waiting, when killed.  Then the server is honest
again, and so must be what the mount shows; it must unmount.  Prints TAP.  That the kernel has nothing to say, and that
nothing is left when the module goes, is for who runs this to see.
"""

import ctypes
import errno
import fcntl
import fnmatch
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback

from hostile_server import *

libc = ctypes.CDLL(None, use_errno=True)
lies = {}           # name: Lie

ERROR, ENDS, WORKS, KILL, MOUNT = "an error", "an end", "success", "a kill", "no mount"


class Lie:
    def __init__(self, name, op, change, provoke, expect, opts):
        self.name, self.op, self.change, self.provoke, self.expect, self.opts = name, op, change, provoke, expect, opts

    def __call__(self, rep, req):
        return req.op == self.op and self.change(rep, req)


def lie(name, op, change, provoke, expect=ERROR, opts="soft,timeo=50"):
    assert name not in lies, name
    if expect == WORKS:     # however slow the machine is
        opts = "hard,timeo=600"
    lies[name] = Lie(name, op, change, provoke, expect, opts)


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
    time.sleep(4)
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
lie("late reply", GETATTR, late, do_stat, ERROR, "soft,timeo=10")
lie("late data", READ, late, do_read_direct, ERROR, "soft,timeo=10")
lie("wrong header, hard", READ, setting(magic=1), do_read, KILL, "hard,timeo=600")

# before there is a mount
HELLO_FIELDS = ("version I", "export_flags I", "features Q", "session 16s", "verifier Q", "max_read I", "max_write I",
                "max_inflight I", "max_conns I", "anon_uid I", "anon_gid I", "life Q", "lease I", "session_flags I")
BAD_HELLO = {"version": (0, 2), "export_flags": (1 << 31,), "session": (bytes(16),), "max_read": (0, 1024, 4097, 2 << 20),
             "max_write": (0, 2 << 20, 0xffffffff), "max_inflight": (0, 257, 0xffffffff), "max_conns": (0, 65),
             "life": (0,), "lease": (0, 3601), "session_flags": (4,)}
offset = 0
for field in HELLO_FIELDS:
    field, code = field.split()
    for value in BAD_HELLO.get(field, ()):
        lie("HELLO: %s %s" % (field, value if isinstance(value, int) else "zero"), HELLO, poking(code, offset, value), None,
            MOUNT)
    offset += struct.calcsize("<" + code)
lie("HELLO: error with body", HELLO, setting(status=22), None, MOUNT)
lie("HELLO: ESTALE for ever", HELLO, setting(status=116, body=b""), None, MOUNT)
lie("HELLO: half", HELLO, part(60), None, MOUNT, "soft,timeo=10")
lie("HELLO: slot", HELLO, setting(slot=1), None, MOUNT)
lie("ROOT: a file", ROOT, poking("I", FH + MODE, stat.S_IFREG | 0o644), None, MOUNT)
lie("ROOT: no handle", ROOT, poking("B", 0, 0), None, MOUNT)
lie("ROOT: an error", ROOT, setting(status=13, body=b""), None, MOUNT)
lie("ROOT: wrong magic", ROOT, setting(magic=0), None, MOUNT)


# ---- one lie ----

class Wrong(Exception):
    pass


def mount(lie, port, dir):
    opts = "port=%d,conns=1,rsize=1048576,wsize=1048576,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,%s" % (port, lie.opts)
    if libc.mount(b"127.0.0.1:/", dir.encode(), b"wfs", 0, opts.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def until(what, seconds, fn):
    """Call fn until it raises no OSError."""
    end = time.monotonic() + seconds
    while True:
        try:
            return fn()
        except OSError as e:
            if time.monotonic() > end:
                raise Wrong("%s: %s" % (what, e)) from None
        time.sleep(0.1)


def ended(pid, seconds):
    """The child's end: its status, or None."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got:
            return status
        time.sleep(0.02)
    return None


def provoke(lie, dir):
    """Make the calls in a process of their own; return how it ended."""
    pid = os.fork()
    if not pid:
        code = 3
        try:
            lie.provoke(dir)
            code = 0
        except OSError as e:
            os.write(2, b"# %s: %s\n" % (lie.name.encode(), str(e).encode()))
            code = 1
        except BaseException:       # noqa: B902
            traceback.print_exc()
        finally:
            os._exit(code)
    if lie.expect == KILL:
        if ended(pid, 1.5) is not None:
            raise Wrong("the calls ended by themselves")
        os.kill(pid, signal.SIGKILL)
        if ended(pid, 30) is None:
            raise Wrong("can't be killed")
        return
    status = ended(pid, 60)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        raise Wrong("the calls don't end" + ("" if ended(pid, 30) is not None else ", not even killed"))
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


def run(lie, arm, port, dir):
    os.makedirs(dir, exist_ok=True)
    if lie.expect == MOUNT:
        arm(True)
        try:
            mount(lie, port, dir)
        except OSError:
            pass
        else:
            libc.umount2(dir.encode(), 0)
            raise Wrong("it mounts")
        arm(False)
    until("mount", 30, lambda: mount(lie, port, dir))
    try:
        if lie.expect != MOUNT:
            until("before", 30, lambda: os.stat(dir + "/file"))
            arm(True)
            provoke(lie, dir)
            arm(False)
        until("honest again", 60, lambda: honest(dir))
    finally:
        arm(False)
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
        threading.Thread(target=serve, args=(listener, tell, is_armed), daemon=True).start()
    signal.pause()
    os._exit(0)


def main():
    args = sys.argv[1:]
    jobs = 12
    if args[:1] == ["-j"]:
        jobs, args = int(args[1]), args[2:]
    chosen = [x for x in lies.values() if not args or any(fnmatch.fnmatchcase(x.name, p) for p in args)]
    armed = mmap.mmap(-1, max(len(chosen), 1))
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
                    run(lie_, lambda on, i=i: armed.__setitem__(i, on), listeners[i].getsockname()[1], "/mnt/hostile/%d" % i)
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
            for late_ in [p for p in running if time.monotonic() - started[p] > 240]:
                print("# %s hangs" % chosen[running[late_]].name, flush=True)
                os.kill(late_, signal.SIGKILL)
                started[late_] = time.monotonic()
            time.sleep(0.02)
    os.kill(server, signal.SIGKILL)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
