#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# timeout: 800
"""Tests of wfsd by a client of its own, without the module.

Run as root: server_test.py [-v] [-l] [NAME]...
-v tells how long each took, -l runs the long ones too.  Tests that need a module of the kernel are run where it is,
or when they are named.
Environment: WFSD, the server's binary (default: ../build/server-san/wfsd, else ../build/server/wfsd).
Prints TAP.  Each test has a server and an export of its own, and fails as well when its server reports
anything of a sanitizer, or does not end by SIGTERM with 0.
"""

import collections
import contextlib
import ctypes
import errno
import fcntl
import glob
import itertools
import mmap
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from wfs_proto import *

O_READ, O_WRITE, O_TRUNC, O_EXCL, O_EXEC = 1, 2, 4, 8, 16
RW = O_READ | O_WRITE
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME, SET_ATIME_NOW, SET_MTIME_NOW = (
    1 << i for i in range(8))
RACY = 2
PLUS = 1
STABLE = 1
RDONLY, ROOT_SQUASH, HAS_ACL = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
SEEK_DATA, SEEK_HOLE = 3, 4
ACL_ACCESS, ACL_DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
RD, WR, UN = range(3)
L_FLOCK, L_TEST, L_RECLAIM, L_CANCEL = 1, 2, 4, 8
LOCK_END = (1 << 63) - 1

USER = (1000, 1000, ())
ROOTCRED = (0, 0, ())


class Closed(Exception):
    """The server closed the connection."""


class Attr:
    def __init__(self, raw):
        for name, value in zip(ATTR_FIELDS, ATTR.unpack(raw)):
            setattr(self, name, value)


class DirChange:
    def __init__(self, raw):
        self.pre = struct.unpack_from("<Q", raw)[0]
        self.attr = Attr(raw[8:8 + ATTR.size])


DIR_CHANGE = 8 + ATTR.size
ENTRY = FH + ATTR.size


class Reply:
    def __init__(self, op, slot, seq, status, info, body, data):
        self.op, self.slot, self.seq, self.status, self.info = op, slot, seq, status, info
        self.body, self.data = body, data


def pack_request(op, body=b"", data=b"", cred=USER, slot=0, seq=1, **kw):
    uid, gid, groups = cred
    hdr = REQ.pack(kw.get("magic", MAGIC), op, kw.get("flags", 0), slot, seq,
                   kw.get("body_len", len(body)), kw.get("data_len", len(data)), uid, gid,
                   kw.get("ngroups", len(groups)), kw.get("reserved", 0))
    return hdr + struct.pack("<%dI" % len(groups), *groups) + body + data


class Conn:
    """A connection that said HELLO, unless hello=False."""

    seqs = itertools.count(1)   # of all connections, so that one that is made again goes on with higher numbers

    def __init__(self, server, session=bytes(16), index=0, hello=True, cred=USER, rcvbuf=None,
                 max_read=4 << 20, max_write=4 << 20, inflight=256):
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(30)
        self.sock.connect((server.addr, server.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.cred = cred
        self.slots = list(range(256))
        self.replies = {}
        if hello:
            rep = self.hello(session=session, conn=index, max_read=max_read, max_write=max_write,
                             inflight=inflight)
            check(rep.status, 0)
            (self.version, self.export_flags, _, self.session, self.verifier, self.max_read,
             self.max_write, self.max_inflight, self.max_conns, self.anon_uid,
             self.anon_gid, self.life, self.lease, self.session_flags) = HELLO_REP.unpack(rep.body)
            self.slots = list(range(self.max_inflight))
            self.root = self.ok(ROOT)[0:FH]

    def hello(self, lo=1, hi=1, features=0, session=bytes(16), conn=0, reserved=0, max_read=4 << 20,
              max_write=4 << 20, inflight=256):
        self.sock.sendall(pack_request(HELLO, HELLO_REQ.pack(lo, hi, features, session, conn, reserved,
                                                             max_read, max_write, inflight), seq=0))
        return self.recv()

    def close(self):
        self.sock.close()

    # -- requests --

    def frame(self, op, body=b"", data=b"", cred=None, **kw):
        slot, seq = self.slots.pop(0), next(Conn.seqs)
        return (slot, seq), pack_request(op, body, data, cred or self.cred, slot, seq, **kw)

    def send(self, op, body=b"", data=b"", cred=None):
        tag, raw = self.frame(op, body, data, cred)
        try:
            self.sock.sendall(raw)
        except (ConnectionResetError, BrokenPipeError):
            raise Closed() from None
        return tag

    def recv_exact(self, n):
        parts = []
        while n:
            try:
                got = self.sock.recv(min(n, 1 << 20))
            except ConnectionResetError:
                raise Closed() from None
            if not got:
                raise Closed()
            parts.append(got)
            n -= len(got)
        return b"".join(parts)

    def recv(self):
        magic, op, flags, slot, seq, body_len, data_len, status, info = REP.unpack(
            self.recv_exact(REP.size))
        check(magic, MAGIC)
        check(flags, 0)
        return Reply(op, slot, seq, status, info, self.recv_exact(body_len), self.recv_exact(data_len))

    def wait(self, tag):
        while tag not in self.replies:
            rep = self.recv()
            self.replies[rep.slot, rep.seq] = rep
            self.slots.append(rep.slot)
        return self.replies.pop(tag)

    def call(self, op, body=b"", data=b"", cred=None):
        rep = self.wait(self.send(op, body, data, cred))
        check(rep.op, op)
        if rep.status:
            check((rep.body, rep.data), (b"", b""))
        return rep

    def ok(self, op, body=b"", data=b"", cred=None):
        rep = self.call(op, body, data, cred)
        if rep.status:
            raise OSError(rep.status, "%s for op %d" % (os.strerror(rep.status), op))
        return rep.body if rep.body else rep.data

    def ended(self, timeout=5):
        """Did the server close the connection?"""
        self.sock.settimeout(timeout)
        try:
            while self.sock.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True
        except socket.timeout:
            return False
        finally:
            self.sock.settimeout(30)

    # -- operations --

    def lookup(self, dir, name, cred=None):
        body = self.ok(LOOKUP, b_name(dir, name), cred=cred)
        return body[:FH], Attr(body[FH:])

    def walk(self, path, cred=None):
        fh = self.root
        for name in path.split("/"):
            fh = self.lookup(fh, name, cred)[0]
        return fh

    def getattr(self, fh):
        return Attr(self.ok(GETATTR, fh))

    def setattr(self, fh, valid, mode=0, uid=0, gid=0, size=0, atime=0, mtime=0, atime_ns=0, mtime_ns=0,
                cred=None):
        return Attr(self.ok(SETATTR, b_setattr(fh, valid, mode, uid, gid, size, atime, mtime, atime_ns,
                                               mtime_ns), cred=cred))

    def access(self, fh, mask, cred=None):
        return struct.unpack_from("<I", self.ok(ACCESS, fh + struct.pack("<II", mask, 0), cred=cred))[0]

    def open(self, fh, flags, cred=None):
        return self.ok(OPEN, fh + struct.pack("<II", flags, 0), cred=cred)[:FH]

    def create(self, dir, name, flags=RW, mode=0o644, umask=0, cred=None):
        body = self.ok(CREATE, b_create(dir, name, mode, umask, flags), cred=cred)
        r = Reply(CREATE, 0, 0, 0, 0, body, b"")
        r.fh, r.attr, r.io = body[:FH], Attr(body[FH:ENTRY]), body[ENTRY:ENTRY + FH]
        r.created = struct.unpack_from("<I", body, ENTRY + FH)[0]
        r.dir = DirChange(body[ENTRY + FH + 8:])
        return r

    def close_io(self, io):
        self.ok(CLOSE, io)

    def read(self, io, offset, count):
        return self.ok(READ, b_read(io, offset, count))

    def write(self, io, offset, data, flags=0, cred=None):
        body = self.ok(WRITE, b_write(io, offset, flags), data, cred=cred)
        return struct.unpack_from("<Q", body)[0], Attr(body[8:])

    def commit(self, fh, flags=0):
        body = self.ok(COMMIT, fh + struct.pack("<II", flags, 0))
        return struct.unpack_from("<Q", body)[0], Attr(body[8:])

    def allocate(self, io, offset, len, mode=0, cred=None):
        body = self.ok(ALLOCATE, b_allocate(io, offset, len, mode), cred=cred)
        return struct.unpack_from("<Q", body)[0], Attr(body[8:])

    def seek(self, io, offset, whence):
        return struct.unpack("<Q", self.ok(SEEK, b_seek(io, offset, whence)))[0]

    def copy(self, io, offset, to, to_offset, len, cred=None):
        body = self.ok(COPY, b_copy(io, offset, to, to_offset, len), cred=cred)
        return struct.unpack_from("<QQ", body) + (Attr(body[16:]),)

    def make(self, op, dir, name, mode=0, umask=0, major=0, minor=0, target=b"", cred=None):
        body = self.ok(op, b_create(dir, name, mode, umask, 0, major, minor, target), cred=cred)
        return body[:FH], Attr(body[FH:ENTRY]), DirChange(body[ENTRY:])

    def lock(self, io, owner, type, start=0, end=LOCK_END, flags=0, wait=0, pid=1):
        return parse_lock(self.ok(LOCK, b_lock(io, owner, type, start, end, flags, wait, pid)))

    def unlock(self, io, owner, start=0, end=LOCK_END, flags=0):
        self.lock(io, owner, UN, start, end, flags)

    def test_lock(self, io, owner, type, start=0, end=LOCK_END):
        return self.lock(io, owner, type, start, end, L_TEST)

    def send_lock(self, io, owner, type, start=0, end=LOCK_END, flags=0, wait=30000, pid=1):
        return self.send(LOCK, b_lock(io, owner, type, start, end, flags, wait, pid))

    def mkdir(self, dir, name, mode=0o755, umask=0, cred=None):
        return self.make(MKDIR, dir, name, mode, umask, cred=cred)

    def unlink(self, dir, name, op=UNLINK, cred=None):
        return DirChange(self.ok(op, b_name(dir, name), cred=cred))

    def link(self, fh, dir, name, cred=None):
        body = self.ok(LINK, b_link(fh, dir, name), cred=cred)
        return Attr(body[:ATTR.size]), DirChange(body[ATTR.size:])

    def rename(self, d1, n1, d2, n2, flags=0, cred=None):
        body = self.ok(RENAME, b_rename(d1, n1, d2, n2, flags), cred=cred)
        return DirChange(body), DirChange(body[DIR_CHANGE:])

    def readdir(self, dir, cookie=0, count=65536, flags=PLUS, cred=None):
        rep = self.call(READDIR, b_readdir(dir, cookie, count, flags), cred=cred)
        if rep.status:
            raise OSError(rep.status, os.strerror(rep.status))
        assert len(rep.data) <= count
        return parse_entries(rep.data), struct.unpack("<II", rep.body)[0]

    def readdir_all(self, dir, count=65536, flags=PLUS, cred=None):
        out, cookie, eof = [], 0, 0
        while not eof:
            entries, eof = self.readdir(dir, cookie, count, flags, cred)
            out += entries
            if entries:
                cookie = entries[-1].cookie
            else:
                check(eof, 1)
        return out


class Dirent:
    pass


def parse_entries(raw):
    out, pos = [], 0
    while pos < len(raw):
        e = Dirent()
        e.cookie, e.ino, name_len, e.type, e.plus, reserved = DIRENT.unpack_from(raw, pos)
        check(reserved, 0)
        assert 0 < e.cookie < 1 << 63 and e.plus in (0, 1)
        pos += DIRENT.size
        e.fh = e.attr = None
        if e.plus:
            e.fh, e.attr = raw[pos:pos + FH], Attr(raw[pos + FH:pos + ENTRY])
            pos += ENTRY
        e.name = raw[pos:pos + name_len].decode()
        end = pos + (name_len + 7) // 8 * 8
        check(raw[pos + name_len:end], bytes(end - pos - name_len))
        pos = end
        out.append(e)
    check(pos, len(raw))
    return out


def enc(name):
    return name.encode() if isinstance(name, str) else name


def b_name(dir, name):
    name = enc(name)
    return dir + struct.pack("<H6x", len(name)) + name


def b_setattr(fh, valid, mode=0, uid=0, gid=0, size=0, atime=0, mtime=0, atime_ns=0, mtime_ns=0):
    return fh + struct.pack("<IIIIQQQII", valid, mode, uid, gid, size, atime, mtime, atime_ns, mtime_ns)


def b_create(dir, name, mode, umask, flags, major=0, minor=0, target=b""):
    name, target = enc(name), enc(target)
    return dir + struct.pack("<IIIIIHH", mode, umask, flags, major, minor, len(name),
                             len(target)) + name + target


def b_link(fh, dir, name):
    name = enc(name)
    return fh + dir + struct.pack("<H6x", len(name)) + name


def b_rename(d1, n1, d2, n2, flags=0):
    n1, n2 = enc(n1), enc(n2)
    return d1 + d2 + struct.pack("<IHH", flags, len(n1), len(n2)) + n1 + n2


def b_read(io, offset, count):
    return io + struct.pack("<QII", offset, count, 0)


def b_write(io, offset, flags=0):
    return io + struct.pack("<QII", offset, flags, 0)


def b_allocate(io, offset, len, mode=0):
    return io + struct.pack("<QQII", offset, len, mode, 0)


def b_seek(io, offset, whence):
    return io + struct.pack("<QII", offset, whence, 0)


def b_copy(io, offset, to, to_offset, len):
    return io + to + struct.pack("<QQQ", offset, to_offset, len)


def b_lock(io, owner, type, start=0, end=LOCK_END, flags=0, wait=0, pid=1):
    return io + struct.pack("<QQQIIII", owner, start, end, type, flags, wait, pid)


def parse_lock(raw):
    start, end, type, pid = struct.unpack("<QQII", raw)
    return type, start, end, pid


def b_readdir(dir, cookie, count, flags):
    return dir + struct.pack("<QII", cookie, count, flags)


def b_xattr(fh, name=b"", size=0, flags=0):
    name = enc(name)
    return fh + struct.pack("<IIH6x", size, flags, len(name)) + name


# ---- the frame of the tests ----

class Skip(Exception):
    pass


tests = []


def test(fn=None, **opts):
    def add(fn):
        tests.append((fn.__name__, fn, opts))
        return fn
    return add(fn) if fn else add


def check(got, want, what=""):
    if got != want:
        raise AssertionError("%s%r, not %r" % (what and what + ": ", got, want))


@contextlib.contextmanager
def fails(err):
    try:
        yield
    except OSError as e:
        if e.errno != err:
            raise AssertionError("%s, not %s" % (e, os.strerror(err))) from None
    else:
        raise AssertionError("succeeded, and should have failed: %s" % os.strerror(err))


def until(cond, seconds, what):
    end = time.monotonic() + seconds
    while not cond():
        if time.monotonic() > end:
            raise AssertionError("not within %g s: %s" % (seconds, what))
        time.sleep(0.02)


def timed(fn):
    start = time.monotonic()
    fn()
    return time.monotonic() - start


def held_up_by_nothing(fn, alone, what):
    """@alone: seconds that it takes on a server that does nothing else"""
    took = timed(fn)
    assert took < 1 + 10 * alone, "%s: took %.1f s, alone %.1f s" % (what, took, alone)


def unanswered(c, why):
    c.sock.settimeout(0.3)
    try:
        c.recv()
    except socket.timeout:
        pass
    else:
        raise AssertionError("answered " + why)
    c.sock.settimeout(30)


def sh(cmd, **kw):
    return subprocess.run(cmd, shell=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, **kw).stdout


def find_server():
    here = os.path.dirname(os.path.abspath(__file__))
    for path in (os.environ.get("WFSD"), here + "/../build/server-san/wfsd",
                 here + "/../build/server/wfsd"):
        if path and os.access(path, os.X_OK):
            return path
    sys.exit("no wfsd: build it or set WFSD")


class Server:
    """A directory with an export (a file system of its own), the state, and the server."""

    addr = "127.0.0.1"

    def __init__(self, fs="tmpfs", size="512m", args=(), start=True):
        self.base = tempfile.mkdtemp(prefix="wfsd-test.")
        self.dir = self.base + "/export"
        self.state = self.base + "/state"
        self.args = list(args)
        self.proc = None
        self.log = ""
        self.mounts = []
        os.mkdir(self.dir)
        self.mount(fs, size)
        os.chmod(self.dir, 0o777)
        if start:
            self.start()

    def mount(self, fs, size):
        if fs == "tmpfs":
            sh("mount -t tmpfs -o size=%s,mode=777 wfsd-test %s" % (size, self.dir))
        else:
            image = self.base + "/image"
            with open(image, "wb") as f:
                f.truncate(600 << 20)
            for module in ("loop", fs):
                subprocess.run(["modprobe", "-q", module])
            try:
                sh("mkfs.%s -q %s && mount -o loop %s %s" % (fs, image, image, self.dir))
            except subprocess.CalledProcessError as e:
                shutil.rmtree(self.base)
                raise Skip("no %s on a loop device: %s" % (fs, e.stdout.strip())) from None
        self.mounts.append(self.dir)

    def state_disk(self):
        """A file system of its own for the state, before the server starts: where it is mounted, and its image."""
        where, image = self.base + "/disk", self.base + "/disk.image"
        os.mkdir(where)
        with open(image, "wb") as f:
            f.truncate(100 << 20)
        sh("mkfs.ext4 -q %s && mount -o loop %s %s" % (image, image, where))
        self.mounts.append(where)
        self.state = where + "/state"
        return where, image

    def path(self, name):
        return self.dir + "/" + name

    def start(self, args=None, port=0, wait=True, export=None, binary=None, boot=None):
        """@boot: as if the machine had been started then; any number."""
        env = dict(os.environ, UBSAN_OPTIONS="print_stacktrace=1",
                   ASAN_OPTIONS="allocator_may_return_null=1:quarantine_size_mb=16")
        self.logfile = open(self.base + "/log", "a+")
        seen = os.path.getsize(self.base + "/log")
        prefix = []
        mover = ["--mover", os.environ["WFS_MOVER"]] if os.environ.get("WFS_MOVER") else []
        if boot is not None:
            with open(self.base + "/boot", "w") as f:
                f.write("%036d\n" % boot)
            prefix = ["unshare", "-m", "sh", "-c",
                      "mount --bind %s/boot /proc/sys/kernel/random/boot_id && exec \"$@\"" % self.base, "sh"]
        self.proc = subprocess.Popen(
            prefix + [binary or find_server(), *mover, "--export", export or self.dir, "--listen", "127.0.0.1:%d" % port,
             "--state-dir", self.state] + (self.args if args is None else args),
            stdout=self.logfile, stderr=self.logfile, env=env)
        if not wait:
            return
        until(lambda: "serving" in self.stderr(seen) or self.proc.poll() is not None, 20, "start")
        if self.proc.poll() is not None:
            raise AssertionError("the server did not start: " + self.stderr())
        self.port = int(re.findall(r"listening on 127.0.0.1:(\d+)", self.stderr())[-1])

    def stderr(self, since=0):
        if not os.path.exists(self.base + "/log"):
            return ""
        with open(self.base + "/log", errors="replace") as f:
            f.seek(since)
            return f.read()

    def stop(self, sig=signal.SIGTERM, timeout=20):
        if self.proc:
            proc, self.proc = self.proc, None
            if proc.poll() is None:
                proc.send_signal(sig)
            code = proc.wait(timeout)
            self.logfile.close()
            return code
        return 0

    def kill(self):
        self.stop(signal.SIGKILL)

    def rss(self):
        with open("/proc/%d/status" % self.proc.pid) as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) * 1024

    def threads(self):
        return len(os.listdir("/proc/%d/task" % self.proc.pid))

    def fds(self, of=""):
        """Targets of the server's descriptors."""
        out = []
        for fd in os.listdir("/proc/%d/fd" % self.proc.pid):
            with contextlib.suppress(OSError):
                out.append(os.readlink("/proc/%d/fd/%s" % (self.proc.pid, fd)))
        return [t for t in out if t.startswith(of)]

    def clean(self):
        for m in reversed(self.mounts):
            for _ in range(50):
                if not subprocess.run(["umount", m], stderr=subprocess.DEVNULL).returncode:
                    break
                time.sleep(0.1)
            else:
                subprocess.run(["umount", "-l", m])
        shutil.rmtree(self.base, ignore_errors=True)


def conn(s, **kw):
    return Conn(s, **kw)


def sanitized():
    return b"__asan_init" in open(find_server(), "rb").read()


# ---- connecting ----

@test
def hello_agrees_on_limits(s):
    c = conn(s)
    check(c.version, 1)
    check(c.export_flags, ROOT_SQUASH | HAS_ACL)
    check((c.max_read, c.max_write), (4 << 20, 4 << 20))
    check((c.anon_uid, c.anon_gid), (65534, 65534))
    check(c.max_conns, 64)
    c = Conn(s, hello=False)
    rep = c.hello(max_read=1 << 30, max_write=8192, inflight=100000, features=~0 & (1 << 64) - 1, hi=9)
    check(rep.status, 0)
    r = HELLO_REP.unpack(rep.body)
    check(r[0], 1)
    check(r[2], 0)
    check(r[5:7], (4 << 20, 8192))
    assert 1 <= r[7] <= 1024
    check((rep.slot, rep.seq), (0, 0))


@test
def hello_refusals(s):
    def refused(err, **kw):
        c = Conn(s, hello=False)
        rep = c.hello(**kw)
        check(rep.status, err)
        check(rep.body, b"")
        assert c.ended(), "refused and not closed"
        return rep
    check(refused(errno.EPROTONOSUPPORT, lo=2, hi=7).info, 1 << 32 | 1)
    check(refused(errno.EPROTONOSUPPORT, lo=0, hi=0).info, 1 << 32 | 1)
    check(refused(errno.ESTALE, session=b"x" * 16).info, 0)
    refused(errno.EINVAL, conn=64)
    refused(errno.EINVAL, reserved=1)
    refused(errno.EINVAL, max_read=4095)
    refused(errno.EINVAL, max_write=0)
    refused(errno.EINVAL, inflight=0)


@test
def session_joined_and_connection_replaced(s):
    a = conn(s)
    b = conn(s, session=a.session, index=1)
    check(a.session, b.session)
    assert conn(s).session != a.session
    again = conn(s, session=a.session, index=1)
    assert b.ended(), "the connection that was replaced lives on"
    check(again.getattr(again.root).ino, os.stat(s.dir).st_ino)
    check(a.getattr(a.root).ino, os.stat(s.dir).st_ino)
    a.close()
    again.close()
    time.sleep(0.2)
    check(conn(s, session=a.session).session, a.session, "a session without a connection")


@test
def silent_connection_is_closed(s):
    c = Conn(s, hello=False)
    t = time.monotonic()
    assert c.ended(20), "not closed"
    assert 8 < time.monotonic() - t < 14
    assert "HELLO" in s.stderr()


# ---- names and attributes ----

def same_stat(a, path):
    st = os.lstat(path)
    check((a.ino, a.size, a.blocks, a.mode, a.nlink, a.uid, a.gid, a.blksize),
          (st.st_ino, st.st_size, st.st_blocks, st.st_mode, st.st_nlink, st.st_uid, st.st_gid,
           st.st_blksize))
    check((a.mtime * 10**9 + a.mtime_ns, a.ctime * 10**9 + a.ctime_ns, a.atime * 10**9 + a.atime_ns),
          (st.st_mtime_ns, st.st_ctime_ns, st.st_atime_ns))
    check((a.rdev_major, a.rdev_minor), (os.major(st.st_rdev), os.minor(st.st_rdev)))


@test
def attributes_are_the_files(s):
    with open(s.path("f"), "wb") as f:
        f.write(b"x" * 5000)
    os.utime(s.path("f"), ns=(123456789012345678, -5 * 10**9 + 7))
    os.mkdir(s.path("d"))
    os.symlink("/etc", s.path("l"))
    os.mknod(s.path("n"), 0o600 | stat.S_IFCHR, os.makedev(7, 300))
    os.mkfifo(s.path("p"))
    c = conn(s)
    same = Attr(c.ok(ROOT)[FH:])
    same_stat(same, s.dir)
    for name in "dlnp":
        fh, attr = c.lookup(c.root, name)
        same_stat(attr, s.path(name))
        same_stat(c.getattr(fh), s.path(name))
    a = c.lookup(c.root, "f")[1]
    check(a.mtime, (1 << 64) - 5)
    check(a.mtime_ns, 7)
    check((a.size, a.atime, a.atime_ns), (5000, 123456789, 12345678))
    assert a.flags & 1 and abs(a.btime - time.time()) < 60
    with fails(errno.ENOENT):
        c.lookup(c.root, "nothing")
    with fails(errno.ENOTDIR):
        c.lookup(c.lookup(c.root, "f")[0], "x")


@test
def setattr_sets_each(s):
    c = conn(s)
    f = c.create(c.root, "f", mode=0o600)
    check(c.setattr(f.fh, SET_SIZE, size=12345).size, 12345)
    check(os.stat(s.path("f")).st_size, 12345)
    check(stat.S_IMODE(c.setattr(f.fh, SET_MODE, mode=0o4755).mode), 0o4755)
    a = c.setattr(f.fh, SET_ATIME | SET_MTIME, atime=5, atime_ns=6, mtime=7, mtime_ns=8)
    check((a.atime, a.atime_ns, a.mtime, a.mtime_ns), (5, 6, 7, 8))
    a = c.setattr(f.fh, SET_MTIME, mtime=(1 << 64) - 9)
    check((a.atime, a.mtime), (5, (1 << 64) - 9))
    a = c.setattr(f.fh, SET_ATIME_NOW)
    assert abs(a.atime - time.time()) < 5
    check(a.mtime, (1 << 64) - 9)
    a = c.setattr(f.fh, SET_MTIME_NOW)
    assert abs(a.mtime - time.time()) < 5
    a = c.setattr(f.fh, SET_GID, gid=1000)
    check(a.gid, 1000)
    with fails(errno.EPERM):
        c.setattr(f.fh, SET_UID, uid=1001)
    a = c.setattr(f.fh, SET_SIZE | SET_MODE | SET_MTIME, size=3, mode=0o640, mtime=44)
    check((a.size, stat.S_IMODE(a.mode), a.mtime), (3, 0o640, 44))
    # In the order size, owner, ...: the size is set before the owner fails.
    with fails(errno.EPERM):
        c.setattr(f.fh, SET_SIZE | SET_UID | SET_MODE, size=77, uid=0, mode=0o777)
    check((os.stat(s.path("f")).st_size, stat.S_IMODE(os.stat(s.path("f")).st_mode)), (77, 0o640))
    for kw in (dict(valid=0x100), dict(valid=SET_MODE, mode=0o10000),
               dict(valid=SET_ATIME, atime_ns=10**9), dict(valid=SET_MTIME | SET_MTIME_NOW),
               dict(valid=SET_UID, uid=0xffffffff)):
        with fails(errno.EINVAL):
            c.setattr(f.fh, **kw)
    with fails(errno.EFBIG):
        c.setattr(f.fh, SET_SIZE, size=1 << 63)
    c.make(SYMLINK, c.root, "l", target="f")
    with fails(errno.EOPNOTSUPP):
        c.setattr(c.walk("l"), SET_MODE, mode=0o600)
    c.setattr(c.walk("l"), SET_MTIME, mtime=99)
    check(int(os.lstat(s.path("l")).st_mtime), 99)
    check(os.stat(s.path("f")).st_mtime == 99, False)
    with fails(errno.EISDIR):
        c.setattr(c.root, SET_SIZE, size=0)


@test(args=["--no-root-squash"])
def chown_by_root(s):
    c = conn(s)
    f = c.create(c.root, "f")
    a = c.setattr(f.fh, SET_UID | SET_GID, uid=4242, gid=4343, cred=ROOTCRED)
    check((a.uid, a.gid), (4242, 4343))
    c.make(SYMLINK, c.root, "l", target="f")
    c.setattr(c.walk("l"), SET_UID, uid=7, cred=ROOTCRED)
    check((os.lstat(s.path("l")).st_uid, os.stat(s.path("f")).st_uid), (7, 4242))


@test
def names_are_checked(s):
    c = conn(s)
    d = c.mkdir(c.root, "d")[0]
    f = c.create(c.root, "f")
    for name in (".", "..", "a/b", "/", "a\0", "../f", "..\0"):
        for req in ((LOOKUP, b_name(d, name)), (UNLINK, b_name(d, name)), (RMDIR, b_name(d, name)),
                    (CREATE, b_create(d, name, 0o644, 0, RW)), (MKDIR, b_create(d, name, 0o755, 0, 0)),
                    (MKNOD, b_create(d, name, stat.S_IFIFO, 0, 0)),
                    (SYMLINK, b_create(d, name, 0, 0, 0, target="x")), (LINK, b_link(f.fh, d, name)),
                    (RENAME, b_rename(d, name, d, "x")), (RENAME, b_rename(c.root, "f", d, name))):
            check(c.call(*req).status, errno.EINVAL, "%r of op %d" % (name, req[0]))
    long = "n" * 255
    c.create(d, long)
    check(c.lookup(d, long)[1].size, 0)
    check([e.name for e in c.readdir_all(d)], [".", "..", long])
    c.create(c.root, b"\xff\xfe\n")
    assert os.path.exists(os.fsencode(s.dir) + b"/\xff\xfe\n")


@test
def links_are_never_walked(s):
    os.mkdir(s.path("d"))
    os.symlink("/etc", s.path("abs"))
    os.symlink("d", s.path("rel"))
    os.symlink("../../../../etc/passwd", s.path("up"))
    c = conn(s)
    for name in ("abs", "rel", "up"):
        fh, attr = c.lookup(c.root, name)
        assert stat.S_ISLNK(attr.mode)
        for op, body in ((LOOKUP, b_name(fh, "passwd")), (READDIR, b_readdir(fh, 0, 4096, 0)),
                         (CREATE, b_create(fh, "x", 0o644, 0, RW)),
                         (UNLINK, b_name(fh, "x")), (MKDIR, b_create(fh, "x", 0o755, 0, 0))):
            status = c.call(op, body).status
            assert status in (errno.ENOTDIR, errno.ELOOP), "op %d on a link: %d" % (op, status)
        with fails(errno.ELOOP):
            c.open(fh, O_READ)
        with fails(errno.ELOOP):
            c.create(c.root, name)
    check(c.ok(READLINK, c.walk("up")), b"../../../../etc/passwd")
    with fails(errno.EINVAL):
        c.ok(READLINK, c.walk("d"))


@test
def other_mounts_are_not_reached(s):
    os.mkdir(s.path("m"))
    os.mkdir(s.path("d"))
    open(s.path("bound"), "w").close()
    c = conn(s)
    m = c.walk("m")
    sh("mount -t tmpfs -o mode=777 inner %s" % s.path("m"))
    s.mounts.append(s.path("m"))
    sh("mount --bind /etc/passwd %s" % s.path("bound"))
    s.mounts.append(s.path("bound"))
    open(s.path("m/inside"), "w").close()
    for name in ("m", "bound"):
        with fails(errno.EXDEV):
            c.lookup(c.root, name)
    with fails(errno.EXDEV):
        c.create(c.root, "bound")
    with fails(errno.EBUSY):
        c.unlink(c.root, "m", RMDIR)
    with fails(errno.EBUSY):
        c.unlink(c.root, "bound")
    with fails(errno.ENOENT):
        c.lookup(m, "inside")
    check({e.name: e.plus for e in c.readdir_all(c.root)},
          {".": 0, "..": 0, "m": 0, "d": 1, "bound": 0})


@test
def tree_is_made_and_removed(s):
    c = conn(s)
    d, attr, dc = c.mkdir(c.root, "d", 0o777, umask=0o027)
    check(stat.S_IMODE(attr.mode), 0o750)
    check(dc.attr.ino, os.stat(s.dir).st_ino)
    same_stat(attr, s.path("d"))
    with fails(errno.EEXIST):
        c.mkdir(c.root, "d")
    for name, mode in (("fifo", stat.S_IFIFO), ("sock", stat.S_IFSOCK), ("reg", stat.S_IFREG)):
        attr = c.make(MKNOD, d, name, mode | 0o666, umask=0o022)[1]
        check(attr.mode, mode | 0o644)
    with fails(errno.EPERM):
        c.make(MKNOD, d, "chr", stat.S_IFCHR | 0o666, major=1, minor=3)
    with fails(errno.EINVAL):
        c.make(MKNOD, d, "dir", stat.S_IFDIR | 0o755)
    for bit in (0x10000, 1 << 31):
        with fails(errno.EINVAL):
            c.make(MKNOD, d, "bits", stat.S_IFIFO | 0o644 | bit)
    fh, attr, _ = c.make(SYMLINK, d, "sym", target="t" * 4095)
    assert stat.S_ISLNK(attr.mode)
    check(c.ok(READLINK, fh), b"t" * 4095)
    f = c.create(d, "f")
    a, dc = c.link(f.fh, c.root, "hard")
    check((a.nlink, a.ino), (2, f.attr.ino))
    check(c.lookup(c.root, "hard")[0], f.fh)
    with fails(errno.EEXIST):
        c.link(f.fh, c.root, "hard")
    with fails(errno.EPERM):
        c.link(d, c.root, "dirlink")
    with fails(errno.EISDIR):
        c.unlink(c.root, "d")
    with fails(errno.ENOTDIR):
        c.unlink(c.root, "hard", RMDIR)
    with fails(errno.ENOTEMPTY):
        c.unlink(c.root, "d", RMDIR)
    for name in ("fifo", "sock", "reg", "sym", "f"):
        c.unlink(d, name)
    c.unlink(c.root, "d", RMDIR)
    check(os.listdir(s.dir), ["hard"])
    with fails(errno.ENOENT):
        c.unlink(c.root, "d", RMDIR)
    e = c.mkdir(c.root, "e")[0]
    c.unlink(c.root, "e", RMDIR)
    with fails(errno.ESTALE):
        c.getattr(e)


@test(args=["--no-root-squash"])
def device_nodes_by_root(s):
    c = conn(s, cred=ROOTCRED)
    a = c.make(MKNOD, c.root, "b", stat.S_IFBLK | 0o600, major=4095, minor=0xfffff)[1]
    check((a.rdev_major, a.rdev_minor), (4095, 0xfffff))
    same_stat(a, s.path("b"))
    with fails(errno.EINVAL):
        c.make(MKNOD, c.root, "b2", stat.S_IFBLK | 0o600, major=4096)
    c.make(MKNOD, c.root, "z", stat.S_IFCHR | 0o666, major=1, minor=5)
    for name in ("b", "z"):
        with fails(errno.EINVAL):
            c.open(c.walk(name), O_READ)


@test
def rename_and_its_flags(s):
    c = conn(s)
    a, b = c.mkdir(c.root, "a")[0], c.mkdir(c.root, "b")[0]
    f, g = c.create(a, "f"), c.create(b, "g")
    c.write(f.io, 0, b"f")
    c.write(g.io, 0, b"g")
    with fails(errno.EEXIST):
        c.rename(a, "f", b, "g", 1)
    c.rename(a, "f", b, "g", 2)
    check(c.lookup(a, "f")[0], g.fh)
    check(c.lookup(b, "g")[0], f.fh)
    old, new = c.rename(a, "f", b, "h", 1)
    check((old.attr.ino, new.attr.ino), (os.stat(s.path("a")).st_ino, os.stat(s.path("b")).st_ino))
    c.rename(b, "h", b, "g")
    check(os.listdir(s.path("b")), ["g"])
    check(c.lookup(b, "g")[0], g.fh)
    with fails(errno.ENOENT):
        c.rename(a, "nothing", b, "x")
    with fails(errno.EINVAL):
        c.rename(c.root, "a", a, "inside-itself")
    for flags in (3, 4):
        with fails(errno.EINVAL):
            c.rename(b, "g", b, "x", flags)
    old, new = c.rename(b, "g", b, "y")
    check(vars(old.attr), vars(new.attr))


@test
def access_asks_the_kernel(s):
    c = conn(s)
    f = c.create(c.root, "f", mode=0o640)
    check(c.access(f.fh, 7), 6)
    check(c.access(f.fh, 4), 4)
    check(c.access(f.fh, 7, (2000, 2000, (1000,))), 4)
    check(c.access(f.fh, 7, (2000, 2000, ())), 0)
    d = c.mkdir(c.root, "d", 0o711)[0]
    check(c.access(d, 7, (2000, 2000, ())), 1)
    with fails(errno.EINVAL):
        c.access(f.fh, 8)


@test
def statfs_is_the_export(s):
    c = conn(s)
    blocks, bfree, bavail, files, ffree, bsize, name_max = struct.unpack("<5Q2I", c.ok(STATFS, c.root))
    v = os.statvfs(s.dir)
    check((blocks, bsize, files, name_max), (v.f_blocks, v.f_bsize, v.f_files, 255))
    assert 0 < bfree <= blocks and 0 < ffree <= files and bavail <= bfree


# ---- files ----

@test
def data_comes_back(s):
    c = conn(s)
    f = c.create(c.root, "f")
    check(f.created, 1)
    check(c.read(f.io, 0, 100), b"")
    block = os.urandom(3 << 20)
    v, a = c.write(f.io, 1, block)
    check(v, c.verifier)
    check(a.size, len(block) + 1)
    check(c.read(f.io, 0, 4 << 20) == b"\0" + block, True, "all of it")
    check(c.read(f.io, 1000, 17), block[999:1016])
    check(c.read(f.io, len(block), 4096), block[-1:], "short at the end")
    check(c.read(f.io, len(block) + 1, 4096), b"")
    check(c.read(f.io, 1 << 62, 4096), b"")
    with open(s.path("f"), "rb") as local:
        check(local.read(), b"\0" + block)
    for size in (1, 511, 4095, 4096, 4097, 65536, 65537, 262143, 262145, 1 << 20, 4 << 20):
        data = os.urandom(size)
        for off in (0, 1, 4095):
            c.write(f.io, off, data)
            check(c.read(f.io, off, size) == data, True, "%d bytes at %d" % (size, off))
    far = (5 << 40) + 123
    c.write(f.io, far, b"far")
    check(c.read(f.io, far - 1, 10), b"\0far")
    with fails(errno.EFBIG):
        c.write(f.io, (1 << 63) - 2, b"xyz")
    with fails(errno.EINVAL):
        c.read(f.io, (1 << 63) - 2, 4096)
    c.close_io(f.io)


@test
def payload_that_trickles(s):
    c = conn(s)
    f = c.create(c.root, "f")
    data = os.urandom(300001)
    tag, raw = c.frame(WRITE, b_write(f.io, 4000), data)
    tag2, raw2 = c.frame(GETATTR, f.fh)
    raw += raw2
    pos = 0
    for n in (1, 30, 1, 2, 60, 5000, 1, 4096, 4095, 70000, 3, 100000):
        c.sock.sendall(raw[pos:pos + n])
        pos += n
        time.sleep(0.01)
    c.sock.sendall(raw[pos:])
    check(c.wait(tag).status, 0)
    check(Attr(c.wait(tag2).body).size, 304001)
    check(c.read(f.io, 4000, 400000) == data, True)
    # Every byte of a pipeline alone.
    raw = b"".join(c.frame(GETATTR, f.fh, cred=(1000, 1000, tuple(range(100))))[1] for _ in range(4))
    for i in range(len(raw)):
        c.sock.sendall(raw[i:i + 1])
    for _ in range(4):
        check(c.recv().status, 0)


@test
def open_modes(s):
    c = conn(s)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"hello")
    with fails(errno.EEXIST):
        c.create(c.root, "f", RW | O_EXCL)
    again = c.create(c.root, "f", O_READ)
    check((again.created, again.fh), (0, f.fh))
    check(c.create(c.root, "f", RW | O_TRUNC).attr.size, 0)
    c.write(f.io, 0, b"hello")
    io = c.open(f.fh, O_READ)
    check(c.read(io, 0, 10), b"hello")
    with fails(errno.EBADF):
        c.write(io, 0, b"x")
    io = c.open(f.fh, O_WRITE)
    c.write(io, 0, b"J")
    with fails(errno.EBADF):
        c.read(io, 0, 1)
    for io in (f.fh,):
        with fails(errno.EBADF):
            c.read(io, 0, 1)
        with fails(errno.EBADF):
            c.write(io, 0, b"x")
        with fails(errno.EBADF):
            c.close_io(io)
    check(c.read(f.io, 0, 10), b"Jello")
    c.open(f.fh, O_WRITE | O_TRUNC)
    check(c.getattr(f.fh).size, 0)
    for flags in (0, O_TRUNC, RW | O_EXCL, 32 | RW, O_EXEC, O_EXEC | RW, O_EXEC | O_READ | O_TRUNC):
        with fails(errno.EINVAL):
            c.open(f.fh, flags)
    with fails(errno.EISDIR):
        c.open(c.root, O_READ)
    c.mkdir(c.root, "d")
    with fails(errno.EISDIR):
        c.create(c.root, "d", O_READ)
    check(stat.S_IMODE(c.create(c.root, "m", mode=0o666, umask=0o077).attr.mode), 0o600)
    ro = c.create(c.root, "ro", RW, mode=0o444)
    c.write(ro.io, 0, b"made it")
    with fails(errno.EACCES):
        c.open(ro.fh, O_WRITE)
    with fails(errno.EINVAL):
        c.create(c.root, "x", O_READ | O_EXEC)
    # Who may execute may read to that end.
    c.setattr(f.fh, SET_MODE, mode=0o711)
    c.write(f.io, 0, b"#!")
    with fails(errno.EACCES):
        c.open(f.fh, O_READ, (2000, 2000, ()))
    io = c.open(f.fh, O_READ | O_EXEC, (2000, 2000, ()))
    check(c.read(io, 0, 9), b"#!")
    with fails(errno.EACCES):
        c.open(ro.fh, O_READ | O_EXEC)
    with fails(errno.EISDIR):
        c.open(c.root, O_READ | O_EXEC)


@test
def special_files_are_not_opened(s):
    os.mkfifo(s.path("p"), 0o666)
    os.chmod(s.path("p"), 0o666)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(s.path("s"))
    os.chmod(s.path("s"), 0o777)
    c = conn(s)
    for name in "ps":
        for flags in (O_READ, O_WRITE, RW):
            with fails(errno.EINVAL):
                c.open(c.walk(name), flags)
        with fails(errno.EINVAL):
            c.create(c.root, name)
        with fails(errno.EINVAL):
            c.commit(c.walk(name))


@test
def default_acl_instead_of_umask(s):
    os.mkdir(s.path("d"))
    os.chmod(s.path("d"), 0o777)
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, 0xffffffff)
                                          for tag, perm in ((1, 7), (4, 7), (0x20, 5)))
    try:
        os.setxattr(s.path("d"), "system.posix_acl_default", acl)
    except OSError as e:
        raise Skip("no ACLs here: %s" % e) from None
    c = conn(s)
    d = c.walk("d")
    check(stat.S_IMODE(c.create(d, "f", mode=0o666, umask=0o777).attr.mode), 0o664)
    check(stat.S_IMODE(c.mkdir(d, "e", 0o777, umask=0o777)[1].mode), 0o775)


@test(size="8m")
def full_disk(s):
    c = conn(s)
    f = c.create(c.root, "f")
    status = [c.call(WRITE, b_write(f.io, i * (3 << 20)), b"x" * (3 << 20)).status for i in range(4)]
    check(status, [0, 0, errno.ENOSPC, errno.ENOSPC])
    check(c.getattr(f.fh).ino, f.attr.ino, "the connection after that")
    c.setattr(f.fh, SET_SIZE, size=0)
    c.write(f.io, 0, b"again")
    check(c.read(f.io, 0, 10), b"again")


@test
def refused_write_is_drained(s):
    c = conn(s)
    f = c.create(c.root, "f")
    ro = c.open(f.fh, O_READ)
    tags = [c.send(WRITE, b_write(ro, 0), b"x" * (1 << 20)) for _ in range(3)]
    tags.append(c.send(WRITE, b_write(f.io, 0, flags=2), b"x" * 100000))
    tag = c.send(GETATTR, f.fh)
    check([c.wait(t).status for t in tags], [errno.EBADF] * 3 + [errno.EINVAL])
    check(Attr(c.wait(tag).body).size, 0)


@test
def commit_and_verifier(s):
    c = conn(s)
    f = c.create(c.root, "f")
    v, a = c.write(f.io, 0, b"abc", STABLE)
    check((v, a.size), (c.verifier, 3))
    v, a = c.write(f.io, 0, b"d" * (1 << 20), STABLE)
    check((v, a.size), (c.verifier, 1 << 20))
    for fh in (f.io, f.fh, c.root, c.open(f.fh, O_READ)):
        for flags in (0, 1, 2):
            v, a = c.commit(fh, flags)
            check(v, c.verifier)
    with fails(errno.EINVAL):
        c.commit(f.fh, 4)
    os.mkfifo(s.path("p"))
    c.commit(c.walk("p"), 2)
    check(conn(s).verifier, c.verifier)


def serve_disk_that_fills(s):
    """An export of whose disk no more blocks can be had after what this returns was called: writing data back fails."""
    back, s.dir = s.base + "/back", s.base + "/on-back"
    os.mkdir(back)
    os.mkdir(s.dir)
    sh("mount -t tmpfs -o size=16m wfsd-test %s" % back)
    s.mounts.append(back)
    sh("truncate -s 100M %s/image && mkfs.ext4 -q -O ^has_journal %s/image" % (back, back))
    try:
        sh("mount -o loop %s/image %s" % (back, s.dir))
    except subprocess.CalledProcessError as e:
        raise Skip("no loop device: %s" % e.stdout.strip()) from None
    s.mounts.append(s.dir)
    os.chmod(s.dir, 0o777)
    s.start()

    def fill():
        sh("sync -f %s" % s.dir)
        with contextlib.suppress(OSError), open(back + "/fill", "wb", buffering=0) as f:
            while f.write(bytes(65536)):
                pass
    return fill


def told(rep, verifier):
    """Does the reply to COMMIT say that what was written under this verifier may be lost?"""
    return rep.status or struct.unpack_from("<Q", rep.body)[0] != verifier


def somebody_else_is_told(s, name):
    subprocess.run(["sync", "-f", s.dir], stderr=subprocess.DEVNULL)
    with fails(errno.ENOSPC), open(s.path(name), "r+b") as local:
        os.fsync(local.fileno())


def closed_files_test(s, n):
    """Once the kernel has told somebody else, only a descriptor from before that is told, and idle ones are closed."""
    fill = serve_disk_that_fills(s)
    c = conn(s)
    files = [c.create(c.root, "f%d" % i) for i in range(n)]
    for f in files:
        c.write(f.io, 0, b"f")
    c.commit(c.root, 2)
    fill()
    # Some of the blocks may be there.
    for f in files:
        v = c.write(f.io, 0, b"F" * ((2 << 20) // n))[0]
    until(lambda: not s.fds(s.path("f")), 30, "the idle files are closed")
    # They may have been told already.
    with contextlib.suppress(AssertionError):
        somebody_else_is_told(s, "f0")
    assert told(c.call(COMMIT, files[0].io + bytes(8)), v), "COMMIT says that the data is there"
    return c


@test(start=False)
def lost_data_of_a_closed_file_is_told(s):
    c = closed_files_test(s, 1)
    # Another handle of a file is not the one through which it was written.
    f = c.create(c.root, "g")
    v = c.write(f.io, 0, b"F" * (2 << 20))[0]
    somebody_else_is_told(s, "g")
    assert told(c.call(COMMIT, c.open(f.fh, O_READ) + bytes(8)), v), "COMMIT of another handle says that the data is there"


@test(start=False)
def lost_data_of_many_closed_files_is_told(s):
    closed_files_test(s, 80)


@test(start=False, args=["--threads", "2"])
def commits_at_once_all_tell_of_lost_data(s):
    fill = serve_disk_that_fills(s)
    conns = [conn(s) for _ in range(8)]
    c = conns[0]
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"f")
    c.commit(f.io)
    fill()
    c.write(f.io, 0, b"F" * (4 << 20))
    with fails(errno.ENOSPC):
        c.commit(f.io)
    end, rounds = time.monotonic() + 3, 0
    while rounds < 2 or time.monotonic() < end:
        v = c.write(f.io, (32 + rounds % 32) << 16, b"F" * 4096)[0]
        tags = [(x,) + x.frame(COMMIT, f.io + bytes(8)) for x in conns]
        for x, _, raw in tags:
            x.sock.sendall(raw)
        for x, tag, _ in tags:
            assert told(x.wait(tag), v), "round %d" % rounds
        rounds += 1


@test(size="4m")
def full_disk_loses_nothing(s):
    """A STABLE WRITE that has no room is no reason for everybody to send again what was accepted."""
    c, other = conn(s), conn(s)
    f, g = c.create(c.root, "f"), other.create(other.root, "g")
    v, _ = c.write(f.io, 0, b"precious")
    with fails(errno.ENOSPC):
        for at in range(0, 8 << 20, 65536):
            other.write(g.io, at, b"x" * 65536, STABLE)
    check(c.commit(f.io)[0], v)


@test
def unlinked_file_stays_while_open(s):
    c = conn(s)
    free = struct.unpack_from("<2Q", c.ok(STATFS, c.root))[1]
    for how in ("unlink", "rename", "other session"):
        f = c.create(c.root, "f")
        second = c.open(f.fh, O_READ)
        c.write(f.io, 0, b"x" * (2 << 20))
        if how == "rename":
            c.close_io(c.create(c.root, "g").io)
            c.rename(c.root, "g", c.root, "f")
        elif how == "unlink":
            c.unlink(c.root, "f")
        else:
            c2 = conn(s)
            c2.unlink(c2.root, "f")
        time.sleep(7)       # longer than a descriptor idles in the cache
        check(c.read(f.io, 0, 3), b"xxx")
        c.write(f.io, 0, b"abc")
        check(c.read(second, 0, 5), b"abcxx")
        check(c.getattr(f.fh).nlink, 0)
        check(c.getattr(f.io).size, 2 << 20)
        check(c.setattr(f.fh, SET_SIZE, size=1 << 20).size, 1 << 20)
        check(c.setattr(f.fh, SET_MODE, mode=0).nlink, 0)
        check(c.setattr(f.io, SET_SIZE, size=2 << 20).size, 2 << 20)
        c.close_io(second)
        check(c.read(f.io, 0, 3), b"abc", "after the first of two CLOSEs")
        c.close_io(f.io)
        until(lambda: not [t for t in s.fds(s.dir) if "deleted" in t], 8, "the file is closed")
        with fails(errno.ESTALE):
            c.getattr(f.fh)
        with fails(errno.ESTALE):
            c.read(f.io, 0, 1)
    until(lambda: struct.unpack_from("<2Q", c.ok(STATFS, c.root))[1] >= free - 64, 8, "space is free")


@test
def deleted_behind_the_server(s):
    c = conn(s)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"x" * (16 << 20 >> 2))
    os.unlink(s.path("f"))
    until(lambda: not [t for t in s.fds(s.dir) if "deleted" in t], 10, "idle descriptors are closed")
    with fails(errno.ESTALE):
        c.getattr(f.fh)
    until(lambda: os.statvfs(s.dir).f_blocks - os.statvfs(s.dir).f_bfree < 100, 5, "its space is free")


def without_a_root(s, gone):
    """The exported directory goes while it is served: each operation has an answer, and the server lives."""
    os.mkdir(s.path("sub"), 0o777)
    os.chown(s.path("sub"), 1000, 1000)
    s.start(export=s.path("sub"))
    c = conn(s)
    f, d = c.create(c.root, "f"), c.mkdir(c.root, "d", 0o777)[0]
    c.write(f.io, 0, b"data")
    g = c.create(c.root, "g")
    c.unlink(c.root, "g")       # there is a .wfsd
    os.sync()
    gone()

    answers = {}
    for op, body in ((ROOT, b""), (GETATTR, c.root), (LOOKUP, b_name(c.root, "f")), (ACCESS, c.root + struct.pack("<II", 7, 0)),
                     (CREATE, b_create(c.root, "n", 0o644, 0, RW)), (MKDIR, b_create(c.root, "m", 0o755, 0, 0)),
                     (MKNOD, b_create(c.root, "o", stat.S_IFIFO | 0o600, 0, 0)), (LOCK, b_lock(f.io, 1, WR)),
                     (SYMLINK, b_create(c.root, "s", 0, 0, 0, target="t")), (LINK, b_link(f.fh, c.root, "l")),
                     (RENAME, b_rename(c.root, "f", c.root, "h")), (UNLINK, b_name(c.root, "h")), (RMDIR, b_name(c.root, "d")),
                     (READDIR, b_readdir(c.root, 0, 4096, PLUS)), (SETATTR, b_setattr(c.root, SET_MTIME_NOW)),
                     (STATFS, c.root), (COMMIT, c.root + struct.pack("<II", 0, 0)), (COMMIT, c.root + struct.pack("<II", 2, 0)),
                     (LISTXATTR, b_xattr(c.root, "", 100)), (OPEN, f.fh + struct.pack("<II", RW, 0)),
                     (READ, b_read(f.io, 0, 10)), (READ, b_read(g.io, 0, 10)), (ALLOCATE, b_allocate(f.io, 0, 10)),
                     (SEEK, b_seek(f.io, 0, SEEK_DATA)), (COPY, b_copy(f.io, 0, f.io, 100, 4)), (CLOSE, f.io), (CLOSE, g.io)):
        answers.setdefault(c.call(op, body).status, set()).add(OPS[op])
    other = conn(s)     # they can come, and go
    other.ok(SESSION, b_session(END))
    return c, answers


@test(start=False)
def export_root_is_removed(s):
    c, answers = without_a_root(s, lambda: shutil.rmtree(s.path("sub")))
    for op in ("CREATE", "MKDIR", "MKNOD", "SYMLINK", "LINK", "LOOKUP", "UNLINK", "RMDIR", "RENAME"):
        assert op in answers.get(errno.ENOENT, set()) | answers.get(errno.ESTALE, set()), (op, answers)
    assert set(answers) <= {0, errno.ENOENT, errno.ESTALE}, answers
    check(c.ok(SESSION, b_session(END)), b"")
    check(s.stop(), 0)
    # The one that takes its place is another.
    os.mkdir(s.path("sub"))
    s.start(export=s.path("sub"))
    fresh = conn(s)
    check(sorted(e.name for e in fresh.readdir_all(fresh.root)), [".", ".."])
    check(fresh.call(GETATTR, c.root).status, errno.ESTALE)


@test(start=False)
def export_root_is_replaced(s):
    def replace():
        os.rename(s.path("sub"), s.path("away"))
        os.mkdir(s.path("sub"))

    c, answers = without_a_root(s, replace)
    # It goes on with the directory that it was given, wherever that is now.
    check(set(answers), {0}, str(answers))
    assert os.path.exists(s.path("away/m")) and not os.listdir(s.path("sub"))
    check(c.ok(SESSION, b_session(END)), b"")


@test
def file_shrinks_while_it_is_sent(s):
    c = conn(s, rcvbuf=4096)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"x" * (4 << 20))
    other = conn(s)
    for _ in range(8):
        c.send(READ, b_read(f.io, 0, 4 << 20))
    time.sleep(0.5)
    os.truncate(s.path("f"), 10)
    try:
        while True:
            c.recv()
    except Closed:
        pass
    until(lambda: "shrank" in s.stderr(), 5, "a line in the log")
    check(other.getattr(f.fh).size, 10)


def mover_test(s):
    """All that a way to send files has to do: any offset and length, sockets that are full, files that end."""
    data_comes_back(s)
    content = os.urandom(6 << 20)
    with open(s.path("content"), "wb") as local:
        local.write(content)
        local.truncate(8 << 20)
    content += bytes(2 << 20)
    rng = random.Random(1)
    readers = [conn(s, rcvbuf=4096) for _ in range(2)] + [conn(s) for _ in range(2)]
    asked = []
    for c in readers:
        io = c.open(c.lookup(c.root, "content")[0], O_READ)
        for _ in range(10):
            offset, count = rng.randrange(len(content)), rng.randrange(1, 2 << 20)
            asked.append((c, c.send(READ, b_read(io, offset, count)), offset, count))
    rng.shuffle(asked)
    for c, tag, offset, count in asked:
        check(c.wait(tag).data == content[offset:offset + count], True, "%d bytes at %d" % (count, offset))
    file_shrinks_while_it_is_sent(s)


@test(args=["--mover", "splice"])
def mover_splice(s):
    mover_test(s)


@test()
def reads_at_the_end(s):
    c = conn(s)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"x" * 100000)
    for count in (1, 4096, 16384, 16385, 65536, 1 << 20):
        for at in (0, 90000, 99999, 100000, 100001, 1 << 40):
            check(c.read(f.io, at, count), b"x" * max(0, min(count, 100000 - at)))


@test(args=["--mover", "read"])
def mover_read(s):
    mover_test(s)


@test(args=["--mover", "mmap"])
def mover_mmap(s):
    mover_test(s)


@test(args=["--mover", "uring"])
def mover_uring(s):
    mover_test(s)


@test(args=["--mover", "sendfile"])
def mover_sendfile(s):
    mover_test(s)


@test(fs="ext4")
def payloads_of_all_kinds(s):
    """Big and small, at any offset, whole and in parts that come late; and data that there is no room for."""
    c = conn(s)
    f = c.create(c.root, "f")
    rng = random.Random(3)
    span = 8 << 20
    content = bytearray(span)
    c.setattr(f.fh, SET_SIZE, size=span)
    for _ in range(60):
        size = rng.choice((rng.randrange(1, 200000), rng.randrange(1 << 19, 4 << 20), 1 << 20))
        offset = rng.choice((rng.randrange(span - size), rng.randrange(span - size) & ~4095))
        data = rng.randbytes(size)
        content[offset:offset + size] = data
        tag, raw = c.frame(WRITE, b_write(f.io, offset, rng.choice((0, 0, STABLE))), data)
        if rng.random() < 0.5:
            while raw:
                part = rng.choice((1, 100, 4096, 70000, 1 << 20))
                c.sock.sendall(raw[:part])
                raw = raw[part:]
                if rng.random() < 0.05:
                    time.sleep(0.01)
        else:
            c.sock.sendall(raw)
        check(c.wait(tag).status, 0)
    for at in range(0, span, 1 << 20):
        check(c.read(f.io, at, 1 << 20) == content[at:at + (1 << 20)], True, "the MiB at %d" % at)
    # The disk becomes full within a payload: all of that is taken from the connection, and it goes on.
    free = os.statvfs(s.dir)
    with open(s.path("fill"), "wb") as fill:
        os.posix_fallocate(fill.fileno(), 0, (free.f_bavail - 600) * free.f_bsize)
    g = c.create(c.root, "g")
    tags = [c.send(WRITE, b_write(g.io, at), bytes([at >> 20]) * (1 << 20)) for at in range(0, 8 << 20, 1 << 20)]
    status = [c.wait(tag).status for tag in tags]
    check((status[0], status[-1]), (0, errno.ENOSPC))
    for at, err in enumerate(status):
        if not err:
            check(c.read(g.io, at << 20, 1 << 20) == bytes([at]) * (1 << 20), True, "written beside a full disk")
    check(c.read(f.io, 0, 100), bytes(content[:100]))


# ---- where connections are served ----

class Wire:
    """Two network namespaces and two network cards, whose packets one chooses the CPU for."""

    def __init__(self):
        self.names = ["wfsd-test-%d-%s" % (os.getpid(), end) for end in ("server", "client")]
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            for name in self.names:
                sh("ip netns add " + name)
            sh("ip -n {0} link add eth type veth peer name eth netns {1}".format(*self.names))
            for i, name in enumerate(self.names):
                # So it has a queue, as a card has.
                sh("ip netns exec {0} ethtool -K eth gro on tso off && ip -n {0} addr add 198.51.100.{1}/24 dev eth &&"
                   "ip -n {0} link set eth up && ip -n {0} link set lo up".format(name, i + 1))
            self.cpu(0)
            self.cpu(1)
        except subprocess.CalledProcessError as e:
            self.remove()
            raise Skip("no network cards with two CPUs: %s" % e.stdout.strip()) from None

    def cpu(self, cpu):
        """The server's packets arrive there."""
        sh("ip netns exec %s sh -c 'echo %x >/sys/class/net/eth/queues/rx-0/rps_cpus'" % (self.names[0], 1 << cpu))

    @contextlib.contextmanager
    def at(self, end):
        with open("/run/netns/" + self.names[end]) as ns:
            check(self.libc.setns(ns.fileno(), 0), 0)
        try:
            yield
        finally:
            check(self.libc.setns(self.home, 0), 0)

    def remove(self):
        os.close(self.home)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


@test(start=False)
def connections_follow_their_packets(s):
    if not {0, 1} <= os.sched_getaffinity(0):
        raise Skip("needs CPUs 0 and 1")
    wire = Wire()
    try:
        with wire.at(0):
            os.sched_setaffinity(0, {0, 1})
            s.start(args=["--threads", "2", "--listen", "198.51.100.1:0"])
        s.addr = "198.51.100.1"
        s.port = int(re.search(r"listening on 198.51.100.1:(\d+)", s.stderr()).group(1))
        conns = []

        def work():
            for _ in range(10):
                tags = [(c, at, c.send(READ, b_read(io, at, 100000))) for c in conns for at in range(0, 1 << 20, 100000)]
                for c, at, tag in tags:
                    check(c.wait(tag).data == content[at:at + 100000], True)

        def loops():
            work()
            return [counters(s, "loop %d" % i)["connections"] for i in (0, 1)]

        wire.cpu(0)
        content = os.urandom(2 << 20)
        with open(s.path("f"), "wb") as f:
            f.write(content)
        with wire.at(1):
            conns.append(conn(s))
            io = conns[0].open(conns[0].lookup(conns[0].root, "f")[0], O_READ)
            conns += [conn(s) for _ in range(3)]
        # All want to be on one CPU, but no loop is left with nothing.
        until(lambda: loops() == [3, 1], 20, "connections go to CPU 0")
        wire.cpu(1)
        until(lambda: loops() == [1, 3], 20, "they go to CPU 1 when their packets do")
        check(counters(s, "loop 1")["packets_here"], 3)
    finally:
        s.stop()
        wire.remove()


def cpu_set(path, name=""):
    """The CPUs, or nodes, that a file of the kernel's lists, in its line @name."""
    with open(path) as f:
        text = re.search(r"^%s([\d,-]+)$" % name, f.read(), re.M).group(1)
    return {cpu for part in text.split(",") for cpu in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)}


def threads_cpus(s):
    """The CPUs that each of the server's threads may use; the main thread's first."""
    tasks = "/proc/%d/task" % s.proc.pid
    return [cpu_set("%s/%s/status" % (tasks, task), r"Cpus_allowed_list:\s*") for task in os.listdir(tasks)]


@test(args=["--threads", "2"])
def loops_stay_on_their_node_only(s):
    """Who is tied to one CPU can't give way to the client's process that is there."""
    mine = os.sched_getaffinity(0)
    nodes = [cpu_set("/sys/devices/system/node/node%d/cpulist" % node) & mine
             for path in glob.glob("/sys/devices/system/node/has_cpu") for node in cpu_set(path)] or [mine]
    # "serving" may be said before a thread has come so far
    until(lambda: all(cpus in nodes + [mine] for cpus in threads_cpus(s)), 10, "none on one CPU of several")
    check(sum(cpus in nodes for cpus in threads_cpus(s)) >= 2, True, "a loop's thread is on a node")


# ---- what is not in the page cache ----

@contextlib.contextmanager
def stopped_disk(s, iops=None):
    """Reads of the export's disk that the server asks for do not come before this ends, or so many in a second."""
    dev = os.stat(s.dir).st_dev
    dev = "%d:%d" % (os.major(dev), os.minor(dev))
    if os.path.exists("/sys/fs/cgroup/blkio"):
        group, file, stop, go = "/sys/fs/cgroup/blkio/", "blkio.throttle.read_bps_device", " 1", " 0"
        if iops:
            file, stop = "blkio.throttle.read_iops_device", " %d" % iops
    else:
        group, file, stop, go = "/sys/fs/cgroup/", "io.max", " rbps=2", " rbps=max riops=max"
        if iops:
            stop = " riops=%d" % iops
    group += "wfsd-test-%d" % os.getpid()

    def write(file, value):
        with open(group + "/" + file, "w") as f:
            f.write(value)
    try:
        if file == "io.max":
            with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as f:
                f.write("+io")
        os.mkdir(group)
        write(file, dev + go)
    except OSError as e:
        with contextlib.suppress(OSError):
            os.rmdir(group)
        raise Skip("no cgroup that stops a disk: %s" % e) from None
    try:
        write("cgroup.procs", str(s.proc.pid))
        write(file, dev + stop)
        yield
    finally:
        write(file, dev + go)
        with contextlib.suppress(ProcessLookupError), open(os.path.dirname(group) + "/cgroup.procs", "w") as f:
            f.write(str(s.proc.pid))
        until(lambda: not subprocess.run(["rmdir", group], stderr=subprocess.DEVNULL).returncode, 20,
              "threads that have ended leave the cgroup")


def make_cold(s, *names):
    for name in names:
        fd = os.open(s.path(name), os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def counters(s, line):
    """The counters of a line of SIGUSR1's."""
    seen = len(s.stderr())
    s.proc.send_signal(signal.SIGUSR1)
    until(lambda: re.search("stats: %s .*\n" % line, s.stderr()[seen:]), 10, "counters")
    words = re.search("stats: %s (.*)\n" % line, s.stderr()[seen:]).group(1).split()
    return dict(zip(words[::2], map(int, words[1::2])))


def cold_test(s, mover):
    """READs wait for their data; nobody else does, not on the same connection either."""
    s.start(args=["--threads", "1", "--mover", mover])
    c, other, dies = conn(s), conn(s), conn(s)
    content, sizes = os.urandom(8 << 20), (1, 4096, 16384, 16385, 100000, 1 << 20, 4 << 20)
    for name in ("hot", "cold"):
        with open(s.path(name), "wb") as f:
            f.write(content)
    hot, cold = (c.open(c.lookup(c.root, name)[0], O_READ) for name in ("hot", "cold"))

    def hot_reads(c):
        for size in sizes:
            check(c.wait(c.send(READ, b_read(hot, 4096, size))).data == content[4096:4096 + size], True)
    hot_reads(c)
    alone = timed(lambda: hot_reads(c))
    check(counters(s, "cold")["reads"], 0, "cold READs")
    make_cold(s, "cold")
    with stopped_disk(s):
        # From the end, where nothing is read ahead that is asked for later.
        asked = [(i << 18, sizes[i % len(sizes)]) for i in reversed(range(20))]
        tags = [c.send(READ, b_read(cold, *ask)) for ask in asked]
        held_up_by_nothing(lambda: hot_reads(c), alone, "hot READs beside cold ones")
        check(counters(s, "cold")["reads"], len(asked), "cold READs")
        # One has not so many under way that nobody else is served; and it may go before they are done.
        for _ in range(200):
            dies.send(READ, b_read(cold, 6 << 20, 65536))
        held_up_by_nothing(lambda: hot_reads(other), alone, "another's beside cold ones")
        assert counters(s, "cold")["reads"] <= len(asked) + 32, counters(s, "cold")
        dies.close()
        hot_reads(c)
        unanswered(c, "without its data")
    for tag, (offset, size) in zip(tags, asked):
        check(c.wait(tag).data == content[offset:offset + size], True, "%d bytes at %d" % (size, offset))
    c.close()
    other.close()
    s.stop()


@test(fs="ext4", start=False)
def cold_reads_stall_nobody(s):
    for mover in ("sendfile", "splice", "read", "mmap", "uring"):
        cold_test(s, mover)


def without_call(nr, fn):
    """Run it where the kernel does not know a system call."""
    code = b"".join(struct.pack("<HBBI", *i) for i in (
        (0x20, 0, 0, 0), (0x15, 0, 1, nr), (0x06, 0, 0, 0x50000 | errno.ENOSYS), (0x06, 0, 0, 0x7fff0000)))
    failed = []

    def work():
        try:
            space = ctypes.create_string_buffer(code)
            prog = struct.pack("HxxxxxxP", 4, ctypes.addressof(space))
            libc = ctypes.CDLL(None, use_errno=True)
            check(libc.prctl(22, 2, prog, 0, 0), 0, "a seccomp filter")     # for this thread and its children
            check((libc.syscall(nr, -1, 0, 0, 0), ctypes.get_errno()), (-1, errno.ENOSYS))
            fn()
        except Exception as e:
            failed.append(e)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for e in failed:
        raise e


@test(fs="ext4", start=False)
def cold_reads_without_cachestat(s):
    """As before Linux 6.5."""
    without_call(451, lambda: cold_test(s, "sendfile"))


@test(fs="ext4", args=["--threads", "1"])
def cold_output_stalls_nobody(s):
    """What was in the page cache when it was asked for, and is not any more when its client takes it."""
    c, slow = conn(s), conn(s, rcvbuf=4096)
    content = os.urandom(8 << 20)
    with open(s.path("f"), "wb") as f:
        f.write(content)
    os.sync()
    io = slow.open(slow.lookup(slow.root, "f")[0], O_READ)
    tags = [slow.send(READ, b_read(io, at, 4 << 20)) for at in (0, 4 << 20)]
    alone = timed(lambda: [c.getattr(c.root) for _ in range(100)])
    check(counters(s, "cold")["output"], 0)
    time.sleep(3)
    make_cold(s, "f")
    got = []
    taker = threading.Thread(target=lambda: got.extend(slow.wait(tag).data for tag in tags))
    with stopped_disk(s):
        taker.start()
        until(lambda: counters(s, "cold")["output"] == 1, 10, "the connection waits for the disk")
        held_up_by_nothing(lambda: [c.getattr(c.root) for _ in range(100)], alone, "requests beside cold output")
    taker.join()
    check(b"".join(got) == content, True)


@test(fs="ext4")
def cold_reads_take_turns(s):
    """Who reads little does not wait until who reads much has got it all."""
    size = 65536        # of less the kernel reads some as soon as it is asked what there is
    greedy, other = conn(s), conn(s)
    greedy = [greedy] + [conn(s, session=greedy.session, index=i) for i in range(1, 16)]
    f, g = other.create(other.root, "f"), other.create(other.root, "g")
    for i in range(480):
        other.write(f.io, i << 18, bytes(size))
    other.write(g.io, 0, bytes(size))
    make_cold(s, "f", "g")
    with stopped_disk(s, iops=50):
        tags = [(c, c.send(READ, b_read(f.io, (k * 30 + i) << 18, size)))
                for k, c in enumerate(greedy) for i in range(30)]
        until(lambda: counters(s, "cold")["waiting"] > 300, 10, "more wait than there are threads")
        check(len(other.read(g.io, 0, size)), size)
        left = counters(s, "cold")["waiting"]
        assert left > 200, "%d of 480 are left" % left
    for c, tag in tags:
        check(len(c.wait(tag).data), size)


def resident(path, offset, count):
    """Of these bytes, those that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    pages = (ctypes.c_ubyte * (count // 4096))()
    with open(path, "rb") as f:
        at = libc.mmap(None, count, mmap.PROT_READ, mmap.MAP_SHARED, f.fileno(), offset)
        check(libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(count), pages), 0)
        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(count))
    return 4096 * sum(p & 1 for p in pages)


@test(fs="ext4")
def streams_are_read_ahead(s):
    """Of the disk, farther than the kernel does; also when several clients read, and what they ask for comes out of order."""
    with open(s.path("f"), "wb") as f:
        for _ in range(64):
            f.write(os.urandom(1 << 20))
    make_cold(s, "f")
    a, b = conn(s), conn(s)
    io = a.open(a.lookup(a.root, "f")[0], O_READ)
    # Here and there, or backwards: that is no stream.
    for at in range(56, 40, -1):
        a.read(io, at << 20, 4096)
    for at in range((64 << 20) - 65536, 62 << 20, -65536):
        a.read(io, at, 65536)
    check(counters(s, "cold")["ahead"], 0)
    for at in range(0, 2 << 20, 1 << 18):
        tags = [(c, c.send(READ, b_read(io, base + at + part, 1 << 16)))
                for part in (1 << 16, 0, 3 << 16, 2 << 16) for c, base in ((a, 0), (b, 20 << 20))]
        for c, tag in tags:
            check(len(c.wait(tag).data), 1 << 16)
    for base in (0, 20 << 20):
        until(lambda: resident(s.path("f"), base + (2 << 20), 1 << 20) == 1 << 20, 20, "the next MiB is there")
    # What was read once is hot.
    before = counters(s, "cold")["reads"]
    for at in range(0, 2 << 20, 1 << 16):
        a.read(io, at, 1 << 16)
    check(counters(s, "cold")["reads"], before)


class Disk:
    """A disk that can be made to fail, and a file system on it."""

    def __init__(self, s):
        self.name = "wfsd-test-%d" % os.getpid()
        self.image, self.dir = s.base + "/disk", s.base + "/disk-export"
        subprocess.run(["modprobe", "-q", "loop"])
        with open(self.image, "wb") as f:
            f.truncate(128 << 20)
        os.mkdir(self.dir)
        self.loop = sh("losetup --show -f %s" % self.image).strip()
        self.table = "0 %d linear %s 0" % ((128 << 20) // 512, self.loop)
        subprocess.run(["modprobe", "-q", "dm_mod"])
        try:
            sh("dmsetup create %s --table '%s'" % (self.name, self.table))
        except subprocess.CalledProcessError:
            sh("losetup -d %s" % self.loop)
            raise
        sh("dmsetup mknodes; mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 /dev/mapper/%s" % self.name)
        sh("mount -o errors=continue /dev/mapper/%s %s" % (self.name, self.dir))
        os.chmod(self.dir, 0o777)

    def load(self, table):
        sh("dmsetup suspend --nolockfs --noflush %s && dmsetup load %s --table '%s' && dmsetup resume %s" %
           (self.name, self.name, table, self.name))

    def fail(self):
        self.load("0 %d error" % ((128 << 20) // 512))

    def heal(self):
        self.load(self.table)

    def remove(self):
        self.heal()
        for _ in range(50):
            if not subprocess.run(["umount", self.dir]).returncode:
                break
            time.sleep(0.1)
        sh("dmsetup remove --retry %s; losetup -d %s" % (self.name, self.loop))


@test(start=False, needs="dm_mod")
def disk_fails(s):
    disk = Disk(s)
    try:
        s.start(export=disk.dir)
        c, other = conn(s), conn(s)
        f, g, h = (c.create(c.root, name) for name in "fgh")
        c.write(f.io, 0, b"f" * (1 << 20))
        c.write(h.io, 0, b"h" * (1 << 20))
        c.write(g.io, 0, b"g" * 4096)
        c.commit(f.io)
        c.commit(g.io)
        c.commit(h.io)
        sh("sync; echo 3 >/proc/sys/vm/drop_caches")
        check(c.read(g.io, 0, 4096), b"g" * 4096)
        disk.fail()
        # Cold data: who asks for it gets the error, and only for that file.
        for _ in range(2):
            with fails(errno.EIO):
                c.read(f.io, 65536, 65536)
        check(other.read(g.io, 0, 4096), b"g" * 4096)
        # Written data that does not reach the disk: an error for one, another verifier for all.
        before = c.verifier
        c.write(g.io, 0, b"h" * 4096)
        # A WRITE that was begun before has the verifier of its first piece.
        tag, raw = other.frame(WRITE, b_write(h.io, 0, 0), b"H" * (1 << 20))
        other.sock.sendall(raw[:700000])

        def first_piece():
            try:
                with open(disk.dir + "/h", "rb", buffering=0) as file:
                    return file.read(1) == b"H"
            except OSError:             # it is not there yet, and what was there is on the disk
                return False
        until(first_piece, 20, "the first piece")
        with fails(errno.EIO):
            c.commit(g.io)
        other.sock.sendall(raw[700000:])
        rep = other.wait(tag)
        check((rep.status, struct.unpack_from("<Q", rep.body)[0]), (0, before))
        after = conn(s).verifier
        assert after != before, "the same verifier after data was lost"
        check(other.write(g.io, 0, b"i" * 4096)[0], after)
        disk.heal()
        check(c.read(f.io, 65536, 65536), b"f" * 65536)
        # The server syncs what is idle, so get over with what was lost of this.
        with contextlib.suppress(OSError):
            c.commit(h.io)
        v, _ = other.write(g.io, 0, b"i" * 4096)
        check(other.commit(g.io)[0], v)
        s.stop()
        s.start(export=disk.dir)
        check(conn(s).verifier, v, "verifier after a restart")
    finally:
        s.stop()
        disk.remove()


# ---- whose change it was ----

@test(args=["--threads", "2"])
def change_is_of_what_was_seen(s):
    """The change value in a reply is not that of another's change that the rest of the reply has not seen."""
    a, b = conn(s), conn(s)
    f = a.create(a.root, "f", mode=0o666)
    io = b.open(f.fh, RW)
    sizes, seen, end = {}, {}, time.monotonic() + 4

    def look():
        while time.monotonic() < end:
            frames = [a.frame(GETATTR, f.fh) for _ in range(100)]
            a.sock.sendall(b"".join(raw for _, raw in frames))
            for tag, _ in frames:
                attr = Attr(a.wait(tag).body)
                if not attr.flags & RACY:
                    seen.setdefault(attr.change, set()).add(attr.size)
    looker = threading.Thread(target=look)
    looker.start()
    while time.monotonic() < end:
        frames = [b.frame(WRITE, b_write(io, len(sizes) + i), b"x") for i in range(20)]
        b.sock.sendall(b"".join(raw for _, raw in frames))
        for tag, _ in frames:
            attr = Attr(b.wait(tag).body[8:])
            sizes[attr.change] = attr.size
    looker.join()
    for change, size in sizes.items():
        check(seen.get(change, {size}), {size}, "sizes at one change value")


@test
def runs_of_changes(s):
    a, b = conn(s), conn(s)
    f = a.create(a.root, "f", mode=0o666)
    known = a.getattr(f.fh)
    io = b.open(f.fh, RW)

    # As long as one session alone changes it.
    _, first = a.write(f.io, 0, b"1")
    assert first.run and first.run_base == known.change
    later = [a.write(f.io, 0, b"2" * 300000)[1], a.setattr(f.fh, SET_MODE, mode=0o666), a.getattr(f.fh),
             Attr(a.ok(SETXATTR, b_xattr(f.fh, "user.x"), b"v")), a.link(f.fh, a.root, "g")[0],
             a.lookup(a.root, "f")[1], a.commit(f.io)[1]]
    check({(x.run, x.run_base) for x in later}, {(first.run, first.run_base)})
    check(b.getattr(f.fh).run, 0, "what another session is told")
    # Another one's change ends it, and begins its own.
    known = a.getattr(f.fh)
    _, theirs = b.write(io, 0, b"3")
    assert theirs.run not in (0, first.run)
    check(theirs.run_base, known.change)
    check(a.getattr(f.fh).run, 0)
    _, mine = a.write(f.io, 0, b"4")
    assert mine.run not in (0, first.run, theirs.run)
    check(mine.run_base, theirs.change)
    # So does that of a program of this machine.
    time.sleep(0.02)
    with open(s.path("f"), "w") as local:
        local.write("5")
    time.sleep(0.02)
    seen = a.getattr(f.fh)
    check(seen.run, 0)
    _, mine2 = a.write(f.io, 0, b"6")
    assert mine2.run not in (0, mine.run)
    check(mine2.run_base, seen.change)
    # What fails changes nothing of it.
    with fails(errno.EPERM):
        a.setattr(f.fh, SET_UID, uid=5)
    check(a.write(f.io, 0, b"7")[1].run, mine2.run)
    # Side by side, over two connections.
    a2 = conn(s, session=a.session, index=1)
    tags = [(c, c.send(WRITE, b_write(f.io, i << 12, 0), bytes(4096))) for i in range(50) for c in (a, a2)]
    check({Attr(c.wait(t).body[8:]).run for c, t in tags}, {mine2.run})
    # Between the pieces of one.
    known = a.getattr(f.fh)
    tag, raw = a.frame(WRITE, b_write(f.io, 0, 0), b"8" * (1 << 20))
    a.sock.sendall(raw[:700000])
    until(lambda: open(s.path("f"), "rb").read(1) == b"8", 5, "the first piece")
    b.write(io, 5, b"9")
    a.sock.sendall(raw[700000:])
    got = Attr(a.wait(tag).body[8:])
    assert got.run != mine2.run and got.run_base != known.change


@test(args=["--threads", "2"])
def runs_side_by_side(s):
    """Of one session, over several connections, for a while: it is one run."""
    conns = [conn(s)]
    conns += [conn(s, session=conns[0].session, index=i) for i in range(1, 4)]
    f = conns[0].create(conns[0].root, "f")
    run = conns[0].write(f.io, 0, b"1")[1].run
    runs, end = set(), time.monotonic() + 3
    while time.monotonic() < end:
        frames = [(c,) + c.frame(WRITE, b_write(f.io, i), b"x") for i in range(50) for c in conns]
        for c in conns:
            c.sock.sendall(b"".join(raw for to, _, raw in frames if to == c))
        runs |= {Attr(c.wait(tag).body[8:]).run for c, tag, _ in frames}
    check(runs, {run})


# ---- directories ----

@test
def readdir_of_100000(s):
    n = 100000
    os.mkdir(s.path("d"))
    for i in range(n):
        os.mknod(s.path("d/file-%d" % i))
    names = {"file-%d" % i for i in range(n)} | {".", ".."}
    c = conn(s)
    d = c.walk("d")
    for flags, count in ((PLUS, 1 << 20), (0, 65536), (PLUS, 65536)):
        entries = c.readdir_all(d, count, flags)
        check(len(entries), n + 2)
        check({e.name for e in entries}, names)
        check(len({e.cookie for e in entries}), n + 2)
    e = entries[n // 2]
    check(e.plus, 1)
    check(e.attr.ino, e.ino)
    check(e.fh, c.lookup(d, e.name)[0])
    same_stat(e.attr, s.path("d/" + e.name))
    # From any cookie on, the rest.
    for i in (1, 77, n // 3, n - 5, n + 1):
        rest, _ = c.readdir(d, entries[i].cookie, 4096, 0)
        check([x.name for x in rest], [x.name for x in entries[i + 1:i + 1 + len(rest)]])
    assert rest == [] and c.readdir(d, entries[-1].cookie, 4096, 0)[1] == 1


def readdir_test(s):
    c = conn(s)
    d = c.mkdir(c.root, "d")[0]
    for i in range(3000):
        os.mknod(s.path("d/%d-%s" % (i, "x" * (i % 240))))
    names = set(os.listdir(s.path("d")))
    # Readers of one directory that take turns, each at its own place.
    places = [[0, []] for _ in range(5)]
    while any(p[0] is not None for p in places):
        for k, p in enumerate(places):
            if p[0] is None:
                continue
            entries, eof = c.readdir(d, p[0], 4096 * (1 + k), k % 2)
            p[1] += [e.name for e in entries]
            p[0] = None if eof else entries[-1].cookie
    for _, seen in places:
        check(len(seen), 3002)
        check(set(seen), names | {".", ".."})
    # What is removed or made meanwhile: the others are there once.
    seen, cookie, eof, i = [], 0, 0, 0
    gone = set()
    while not eof:
        entries, eof = c.readdir(d, cookie, 8192, PLUS)
        seen += [e.name for e in entries]
        if entries:
            cookie = entries[-1].cookie
        for victim in (entries[-1].name if entries else None, sorted(names - gone)[7]):
            if victim and victim in names - gone:
                c.unlink(d, victim)
                gone.add(victim)
        c.create(d, "new-%d" % i)
        i += 1
    check(len(seen), len(set(seen)))
    assert (names - gone) <= set(seen), "entries are missing"
    check(c.readdir(d, 0, 4096, 0)[0][0].name, ".")
    with fails(errno.EINVAL):
        c.readdir(d, 1 << 63)
    with fails(errno.EINVAL):
        c.readdir(d, 0, flags=2)
    with fails(errno.ENOTDIR):
        c.readdir(c.create(c.root, "f").fh)


@test
def readdir_from_many_places(s):
    readdir_test(s)


@test(fs="ext4")
def readdir_from_many_places_ext4(s):
    readdir_test(s)


@test
def readdir_permissions(s):
    c = conn(s)
    d = c.mkdir(c.root, "d", 0o700)[0]
    for i in range(300):
        c.create(d, "f%d" % i)
    entries, eof = c.readdir(d, 0, 4096)
    check(eof, 0)
    other = (2000, 2000, ())
    for cookie in (0, entries[-1].cookie):
        with fails(errno.EACCES):
            c.readdir(d, cookie, cred=other)
    # Readable but not searchable: names without handles.
    c.setattr(d, SET_MODE, mode=0o744)
    check([e.plus for e in c.readdir(d, 0, cred=other)[0]], [0] * len(c.readdir(d, 0, cred=other)[0]))
    check(c.readdir(d, entries[-1].cookie, 4096)[0][0].plus, 1)


# ---- extended attributes ----

def xattr_test(s):
    c = conn(s)
    f = c.create(c.root, "f")

    def set_(name, value, flags=0, fh=f.fh):
        return Attr(c.ok(SETXATTR, b_xattr(fh, name, 0, flags), value))

    def get(name, size=65536):
        rep = c.call(GETXATTR, b_xattr(f.fh, name, size))
        if rep.status:
            raise OSError(rep.status, os.strerror(rep.status))
        return struct.unpack("<II", rep.body)[0], rep.data
    set_("user.a", b"one")
    check(os.getxattr(s.path("f"), "user.a"), b"one")
    check(get("user.a"), (3, b"one"))
    check(get("user.a", 0), (3, b""))
    check(get("user.a", 3), (3, b"one"))
    with fails(errno.ERANGE):
        get("user.a", 2)
    set_("user.empty", b"")
    check(get("user.empty"), (0, b""))
    with fails(errno.EEXIST):
        set_("user.a", b"x", 1)
    with fails(errno.ENODATA):
        set_("user.b", b"x", 2)
    set_("user.b", bytes(range(256)) * 8, 1)
    check(get("user.b")[1], bytes(range(256)) * 8)
    os.setxattr(s.path("f"), "trusted.secret", b"x")
    rep = c.call(LISTXATTR, b_xattr(f.fh, size=65536))
    check(sorted(rep.data.split(b"\0")), [b"", b"user.a", b"user.b", b"user.empty"])
    size = len(rep.data)
    rep = c.call(LISTXATTR, b_xattr(f.fh))
    check((struct.unpack("<II", rep.body)[0], rep.data), (size, b""))
    check(c.call(LISTXATTR, b_xattr(f.fh, size=size - 1)).status, errno.ERANGE)
    for name in ("trusted.secret", "security.x", "system.nfs4_acl", "system.posix_acl", "user.", "other"):
        with fails(errno.EOPNOTSUPP):
            get(name)
        with fails(errno.EOPNOTSUPP):
            set_(name, b"x")
        check(c.call(REMOVEXATTR, b_xattr(f.fh, name)).status, errno.EOPNOTSUPP)
    c.ok(REMOVEXATTR, b_xattr(f.fh, "user.a"))
    with fails(errno.ENODATA):
        get("user.a")
    check(c.call(REMOVEXATTR, b_xattr(f.fh, "user.a")).status, errno.ENODATA)
    with fails(errno.EINVAL):
        set_("user.a", b"x", 3)
    # A large value that comes in pieces, with the next request behind it.
    tag, raw = c.frame(SETXATTR, b_xattr(f.fh, "user.big"), b"v" * 65536)
    tag2, raw2 = c.frame(GETATTR, f.fh)
    raw += raw2
    for i in range(0, len(raw), 5000):
        c.sock.sendall(raw[i:i + 5000])
        time.sleep(0.002)
    status = c.wait(tag).status
    assert status in (0, errno.ENOSPC, errno.E2BIG), status
    check(c.wait(tag2).status, 0)
    if not status:
        check(get("user.big")[0], 65536)
    # The owner's rights count.
    c.setattr(f.fh, SET_MODE, mode=0o600)
    other = (2000, 2000, ())
    check(c.call(GETXATTR, b_xattr(f.fh, "user.b", 99), cred=other).status, errno.EACCES)
    check(c.call(SETXATTR, b_xattr(f.fh, "user.b"), b"x", cred=other).status, errno.EACCES)


@test(fs="ext4")
def xattrs_ext4(s):
    xattr_test(s)


@test(fs="xfs")
def xattrs_xfs(s):
    xattr_test(s)


@test(fs="ext4")
def acls(s):
    other, group = (2000, 2000, ()), (3000, 1000, ())
    c = conn(s)
    assert c.export_flags & HAS_ACL
    f = c.create(c.root, "f", mode=0o640)
    d = c.mkdir(c.root, "d", 0o750)[0]

    def acl(*entries):
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)

    def set_(fh, name, value, cred=None):
        return Attr(c.ok(SETXATTR, b_xattr(fh, name), value, cred=cred))

    none = 0xffffffff
    value = acl((1, 6, none), (2, 4, 2000), (4, 4, none), (16, 4, none), (32, 0, none))
    with fails(errno.EACCES):
        c.open(f.fh, O_READ, cred=other)
    with fails(errno.EPERM):
        set_(f.fh, ACL_ACCESS, value, cred=other)
    before = c.getattr(f.fh).change
    a = set_(f.fh, ACL_ACCESS, value)
    assert a.change != before
    check(os.getxattr(s.path("f"), ACL_ACCESS), value)
    c.open(f.fh, O_READ, cred=other)
    check(c.access(f.fh, 6, cred=other), 4)
    rep = c.call(GETXATTR, b_xattr(f.fh, ACL_ACCESS, 65536), cred=other)
    check(rep.data, value)
    check(c.call(LISTXATTR, b_xattr(f.fh, size=100)).data, ACL_ACCESS.encode() + b"\0")
    # The mode's group bits are the mask.
    check(stat.S_IMODE(c.setattr(f.fh, SET_MODE, mode=0o600).mode), 0o600)
    with fails(errno.EACCES):
        c.open(f.fh, O_READ, cred=other)
    c.ok(REMOVEXATTR, b_xattr(f.fh, ACL_ACCESS))
    check(c.call(GETXATTR, b_xattr(f.fh, ACL_ACCESS, 65536)).status, errno.ENODATA)
    # A default ACL is inherited, and the umask has no say.
    default = acl((1, 7, none), (2, 7, 2000), (4, 5, none), (16, 7, none), (32, 0, none))
    set_(d, ACL_DEFAULT, default)
    check(stat.S_IMODE(c.create(d, "x", mode=0o666, umask=0o077).attr.mode), 0o660)
    check(stat.S_IMODE(c.mkdir(d, "y", 0o777, umask=0o077)[1].mode), 0o770)
    check(os.getxattr(s.path("d/y"), ACL_DEFAULT), default)
    check(stat.S_IMODE(c.make(MKNOD, d, "z", stat.S_IFIFO | 0o622, umask=0o077)[1].mode), 0o620)
    check(stat.S_IMODE(c.create(c.root, "x", mode=0o666, umask=0o027).attr.mode), 0o640)
    for bad in (b"", b"x", value[:-1], struct.pack("<I", 3) + value[4:], acl((1, 6, none)), acl((99, 6, none)),
                b"\xff" * 4096, struct.pack("<I", 2) + b"\0" * 8):
        rep = c.call(SETXATTR, b_xattr(f.fh, ACL_ACCESS), bad)
        # An ACL of nothing is none.
        want = (0,) if not bad else (errno.EINVAL, errno.EOPNOTSUPP)
        assert rep.status in want, (bad, rep.status)
    check(c.call(SETXATTR, b_xattr(f.fh, ACL_DEFAULT), default).status, errno.EACCES)
    c.make(SYMLINK, c.root, "l", target="f")
    check(c.call(SETXATTR, b_xattr(c.walk("l"), ACL_ACCESS), value).status, errno.EOPNOTSUPP)


@test(fs="btrfs")
def export_without_acls(s):
    s.stop()
    sh("mount -o remount,noacl " + s.dir)
    s.start()
    c = conn(s)
    check(c.export_flags & HAS_ACL, 0)
    f = c.create(c.root, "f")
    for op, body, data in ((GETXATTR, b_xattr(f.fh, ACL_ACCESS, 100), b""),
                           (SETXATTR, b_xattr(f.fh, ACL_ACCESS), struct.pack("<I", 2)),
                           (REMOVEXATTR, b_xattr(f.fh, ACL_ACCESS), b"")):
        check(c.call(op, body, data).status, errno.EOPNOTSUPP, "op %d" % op)


# ---- parts of files ----

def range_test(s, zero):
    c = conn(s)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"x" * (1 << 20))
    v, a = c.allocate(f.io, 1 << 20, 1 << 20)
    check((v, a.size), (c.verifier, 2 << 20))
    assert a.blocks * 512 >= 2 << 20
    check(c.allocate(f.io, 2 << 20, 1 << 20, KEEP_SIZE)[1].size, 2 << 20)
    before = c.getattr(f.fh).change
    a = c.allocate(f.io, 4096, 8192, PUNCH_HOLE | KEEP_SIZE)[1]
    check(a.size, 2 << 20)
    assert a.change != before, "the change value stays"
    check(a.change, c.getattr(f.fh).change)
    check(c.read(f.io, 0, 16384), b"x" * 4096 + bytes(8192) + b"x" * 4096)
    check([c.seek(f.io, p, w) for p, w in ((0, SEEK_DATA), (0, SEEK_HOLE), (4096, SEEK_DATA), (5000, SEEK_HOLE))],
          [0, 4096, 12288, 5000])
    for where in (2 << 20, (1 << 63) - 1):
        for whence in (SEEK_DATA, SEEK_HOLE):
            with fails(errno.ENXIO):
                c.seek(f.io, where, whence)
    if zero:
        check(c.allocate(f.io, 1, 3, ZERO_RANGE | KEEP_SIZE)[1].size, 2 << 20)
        check(c.read(f.io, 0, 6), b"x\0\0\0xx")
        check(c.allocate(f.io, 0, 3 << 20, ZERO_RANGE)[1].size, 3 << 20)
        check(c.read(f.io, 0, 3 << 20), bytes(3 << 20))
    else:
        with fails(errno.EOPNOTSUPP):
            c.allocate(f.io, 0, 3, ZERO_RANGE)
    # Rights are those of the handle; any I/O handle may seek.
    ro, wo = c.open(f.fh, O_READ), c.open(f.fh, O_WRITE)
    for fh in (ro, f.fh):
        with fails(errno.EBADF):
            c.allocate(fh, 0, 1)
    c.seek(ro, 0, SEEK_HOLE)
    c.seek(wo, 0, SEEK_HOLE)
    with fails(errno.EBADF):
        c.seek(f.fh, 0, SEEK_HOLE)
    c.setattr(f.fh, SET_MODE, mode=0)
    c.allocate(wo, 0, 1)
    # The kernel takes setuid and setgid from a file that its user changes.
    c.setattr(f.fh, SET_MODE, mode=0o6777)
    a = c.allocate(wo, 0, 1, PUNCH_HOLE | KEEP_SIZE, cred=(2000, 2000, ()))[1]
    check(stat.S_IMODE(a.mode), 0o777)
    # What can't be.
    for args in ((0, 1, PUNCH_HOLE), (0, 1, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE), (0, 1, 4), (0, 1, 8),
                 (0, 1, 0x20), (0, 1, 1 << 31), (0, 0, 0)):
        with fails(errno.EINVAL):
            c.allocate(f.io, *args)
    for args in ((1, (1 << 63) - 1), (1 << 63, 1), ((1 << 64) - 1, 1), (1, (1 << 64) - 1)):
        with fails(errno.EFBIG):
            c.allocate(f.io, *args)
    check(c.call(ALLOCATE, f.io + struct.pack("<QQII", 0, 1, 0, 1)).status, errno.EINVAL)
    for whence in (0, 1, 2, 5, 1 << 31):
        with fails(errno.EINVAL):
            c.seek(f.io, 0, whence)
    with fails(errno.EINVAL):
        c.seek(f.io, 1 << 63, SEEK_DATA)
    check(c.call(SEEK, f.io + struct.pack("<QII", 0, SEEK_DATA, 1)).status, errno.EINVAL)


@test(fs="ext4")
def parts_of_files_ext4(s):
    range_test(s, zero=True)
    c = conn(s)
    f = c.create(c.root, "big")
    with fails(errno.ENOSPC):
        c.allocate(f.io, 0, 1 << 40)


@test
def parts_of_files_tmpfs(s):
    range_test(s, zero=False)


def copy_test(s):
    c = conn(s)
    f, g = c.create(c.root, "f"), c.create(c.root, "g")
    data = os.urandom(1 << 20)
    c.write(f.io, 0, data)
    n, v, a = c.copy(f.io, 0, g.io, 0, 1 << 20)
    check((n, v, a.size, a.ino), (1 << 20, c.verifier, 1 << 20, g.attr.ino))
    check(c.read(g.io, 0, 2 << 20), data)
    check(a.change, c.getattr(g.fh).change)
    check(c.copy(f.io, 100, g.io, (1 << 20) + 7, 1000)[0], 1000)
    check(c.read(g.io, 1 << 20, 5000), bytes(7) + data[100:1100])
    # Up to the end of the source, and behind it nothing.
    check(c.copy(f.io, (1 << 20) - 5, g.io, 0, 1 << 30)[0], 5)
    check(c.copy(f.io, 1 << 20, g.io, 0, 10)[0], 0)
    check(c.copy(f.io, (1 << 63) - 2, g.io, 0, 1)[0], 0)
    # Within a file, but not over itself.
    check(c.copy(g.io, 0, g.io, 3 << 20, 5)[0], 5)
    with fails(errno.EINVAL):
        c.copy(f.io, 0, f.io, 5, 10)
    # One request copies a bounded piece.
    c.setattr(f.io, SET_SIZE, size=200 << 20)
    n = c.copy(f.io, 0, g.io, 0, 200 << 20)[0]
    assert 1 << 20 <= n <= 64 << 20, n
    ro, wo = c.open(f.fh, O_READ), c.open(g.fh, O_WRITE)
    check(c.copy(ro, 0, wo, 0, 3)[0], 3)
    for one, two in ((wo, wo), (ro, ro), (f.fh, wo), (ro, g.fh), (c.root, wo), (ro, c.root)):
        with fails(errno.EBADF):
            c.copy(one, 0, two, 1000, 3)
    forged = bytearray(wo)
    forged[40] ^= 1
    with fails(errno.ESTALE):
        c.copy(ro, 0, bytes(forged), 0, 3)
    c.setattr(g.fh, SET_MODE, mode=0o6777)
    a = c.copy(ro, 0, wo, 0, 3, cred=(2000, 2000, ()))[2]
    check(stat.S_IMODE(a.mode), 0o777)
    for args in ((0, 0, 0), (1 << 63, 0, 1), (1, 0, (1 << 63) - 1), (0, 0, 1 << 63)):
        with fails(errno.EINVAL):
            c.copy(f.io, args[0], g.io, args[1], args[2])
    for args in ((0, 1 << 63, 1), (0, 1, (1 << 63) - 1), (0, (1 << 64) - 1, 2)):
        with fails(errno.EFBIG):
            c.copy(f.io, args[0], g.io, args[1], args[2])


@test
def copy_tmpfs(s):
    copy_test(s)


@test(fs="xfs")
def copy_xfs(s):
    copy_test(s)


# ---- rights ----

@test
def permissions_are_the_callers(s):
    c = conn(s)
    d = c.mkdir(c.root, "d", 0o750)[0]
    f = c.create(d, "f", mode=0o640)
    other, group, supp = (2000, 2000, ()), (2000, 1000, ()), (2000, 2000, (5, 1000, 7))
    with fails(errno.EACCES):
        c.lookup(d, "f", other)
    for cred in (group, supp):
        check(c.lookup(d, "f", cred)[0], f.fh)
        c.open(f.fh, O_READ, cred)
        with fails(errno.EACCES):
            c.open(f.fh, O_WRITE, cred)
        with fails(errno.EACCES):
            c.create(d, "g", cred=cred)
        with fails(errno.EACCES):
            c.unlink(d, "f", cred=cred)
        with fails(errno.EPERM):
            c.setattr(f.fh, SET_MODE, mode=0o777, cred=cred)
        with fails(errno.EACCES):
            c.setattr(f.fh, SET_SIZE, size=0, cred=cred)
    with fails(errno.EACCES):
        c.open(f.fh, O_READ, other)
    many = (2000, 2000, tuple(range(10000, 11023)) + (1000,))
    check(c.lookup(d, "f", many)[0], f.fh)
    with fails(errno.EACCES):
        c.lookup(d, "f", (2000, 2000, many[2][:-1]))
    # Made by whom, and in a setgid directory.
    a = c.create(c.root, "by", cred=(2001, 2002, ())).attr
    check((a.uid, a.gid), (2001, 2002))
    c.setattr(d, SET_MODE, mode=0o2777)
    a = c.create(d, "sg", cred=(2001, 2002, ())).attr
    check((a.uid, a.gid), (2001, 1000))
    # Sticky.
    t = c.mkdir(c.root, "t", 0o1777)[0]
    c.create(t, "mine")
    with fails(errno.EPERM):
        c.unlink(t, "mine", cred=other)
    with fails(errno.EPERM):
        c.rename(t, "mine", t, "yours", cred=other)
    for cred in ((0xffffffff, 0, ()), (0, 0xffffffff, ()), (1, 1, (0xffffffff,))):
        with fails(errno.EINVAL):
            c.lookup(c.root, "d", cred)


@test
def root_is_squashed(s):
    os.mkdir(s.path("d"), 0o755)
    open(s.path("secret"), "w").close()
    os.chmod(s.path("secret"), 0o600)
    open(s.path("group0"), "w").close()
    os.chmod(s.path("group0"), 0o060)
    c = conn(s, cred=ROOTCRED)
    a = c.create(c.root, "f").attr
    check((a.uid, a.gid), (65534, 65534))
    a = c.create(c.root, "g", cred=(1000, 0, ())).attr
    check((a.uid, a.gid), (1000, 65534))
    with fails(errno.EACCES):
        c.open(c.walk("secret"), O_READ)
    for cred in ((0, 0, (0,)), (1000, 0, ()), (1000, 1000, (0,)), (1000, 1000, (3, 0))):
        with fails(errno.EACCES):
            c.open(c.walk("group0"), O_READ, cred)
    with fails(errno.EACCES):
        c.create(c.walk("d"), "x")
    with fails(errno.EPERM):
        c.setattr(c.walk("secret"), SET_MODE, mode=0o777)
    # After root's turn in the same thread nothing of it is left, and the other way round.
    for _ in range(20):
        with fails(errno.EACCES):
            c.open(c.walk("secret"), O_READ)
        c.getattr(c.walk("d"))


@test(args=["--no-root-squash", "--threads", "1"])
def root_is_root_without_squash(s):
    c = conn(s)
    d = c.mkdir(c.root, "d", 0o700)[0]
    f = c.create(d, "f", mode=0o600)
    check(c.export_flags, HAS_ACL)
    for _ in range(20):
        c.open(f.fh, RW, ROOTCRED)
        check(c.create(d, "byroot", cred=ROOTCRED).attr.uid, 0)
        with fails(errno.EACCES):
            c.open(f.fh, O_READ, (2000, 2000, ()))
        with fails(errno.EACCES):
            c.open(f.fh, O_READ, (2000, 0, (0,)))
        c.unlink(d, "byroot", cred=ROOTCRED)
    check(c.access(f.fh, 7, ROOTCRED), 6)


@test(args=["--anon-uid", "77", "--anon-gid", "78"])
def root_becomes_whom_we_say(s):
    c = conn(s, cred=(0, 0, (0,)))
    check((c.anon_uid, c.anon_gid), (77, 78))
    a = c.create(c.root, "f").attr
    check((a.uid, a.gid), (77, 78))


@test
def rights_stay_granted(s):
    c = conn(s)
    f = c.create(c.root, "f", mode=0o600)
    c.setattr(f.fh, SET_MODE, mode=0)
    with fails(errno.EACCES):
        c.open(f.fh, O_READ)
    with fails(errno.EACCES):
        c.setattr(f.fh, SET_SIZE, size=5)
    c.setattr(f.io, SET_SIZE, size=5)
    c.write(f.io, 0, b"abc")
    time.sleep(7)       # until the descriptor is closed and must be opened again
    check(c.read(f.io, 0, 10), b"abc\0\0")
    c.write(f.io, 0, b"xyz")
    ro = c.create(c.root, "ro", O_READ, mode=0o444)
    with fails(errno.EACCES):
        c.setattr(ro.io, SET_SIZE, size=5)


@test
def write_clears_setuid(s):
    c = conn(s)
    f = c.create(c.root, "f", mode=0o777)
    for what, change in (("write", lambda: c.write(f.io, 0, b"x", cred=(2000, 2000, ()))),
                         ("truncate", lambda: c.setattr(f.io, SET_SIZE, size=1, cred=(2000, 2000, ())))):
        c.setattr(f.fh, SET_MODE, mode=0o6777)
        change()
        check(stat.S_IMODE(c.getattr(f.fh).mode), 0o777, what)


@test
def privileges_are_dropped(s):
    conn(s)
    want = sum(1 << n for n in (0, 1, 2, 3, 4, 6, 7, 27))
    for task in os.listdir("/proc/%d/task" % s.proc.pid):
        with open("/proc/%d/task/%s/status" % (s.proc.pid, task)) as f:
            status = dict(re.findall(r"(\w+):[ \t]*(\w*)", f.read()))
        for cap in ("CapPrm", "CapBnd"):
            check(int(status[cap], 16), want, cap)
        assert int(status["CapEff"], 16) & ~want == 0
        check(int(status["CapInh"], 16), 0)
        check(status["NoNewPrivs"], "1")
        check(status.get("Groups", ""), "")


# ---- handles ----

@test
def forged_handles(s):
    c = conn(s)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"x")

    def stale(fh, what):
        for op, body in ((GETATTR, fh), (READ, b_read(fh, 0, 1)), (LOOKUP, b_name(fh, "f")),
                         (OPEN, fh + struct.pack("<II", 1, 0)), (READDIR, b_readdir(fh, 0, 4096, 0)),
                         (CLOSE, fh), (RENAME, b_rename(c.root, "f", fh, "f"))):
            check(c.call(op, body).status, errno.ESTALE, "%s, op %d" % (what, op))
        check(c.call(WRITE, b_write(fh, 0), b"evil").status, errno.ESTALE, what)
    for good in (f.io, f.fh, c.root):
        for i in range(64):
            for bit in (1, 0x80):
                bad = bytearray(good)
                bad[i] ^= bit
                check(c.call(GETATTR, bytes(bad)).status, errno.ESTALE, "byte %d" % i)
    stale(bytes(64), "zeros")
    stale(b"\xff" * 64, "ones")
    stale(b"\x3f" + os.urandom(63), "random")
    with open(s.path("f"), "rb") as f2:
        check(f2.read(), b"x")


@test
def handles_of_another_export(s):
    os.mkdir(s.path("a"), 0o777)
    os.mkdir(s.path("b"), 0o777)
    os.chmod(s.path("a"), 0o777)
    os.chmod(s.path("b"), 0o777)
    c = conn(s)
    f = c.create(c.walk("a"), "f")
    s.stop()
    s.start(export=s.path("b"))
    c = conn(s)
    for fh in (f.fh, f.io):
        with fails(errno.ESTALE):
            c.getattr(fh)
    with fails(errno.ENOENT):
        c.lookup(c.root, "a")
    s.stop()
    s.start()
    check(conn(s).getattr(f.fh).ino, f.attr.ino)


def restart_test(s):
    c = conn(s)
    f = c.create(c.root, "f", mode=0o600)
    d = c.mkdir(c.root, "d")[0]
    c.write(f.io, 0, b"before")
    c.setattr(f.fh, SET_MODE, mode=0)
    for how in (s.stop, s.kill):
        how()
        s.start()
        c2 = conn(s, session=c.session)
        assert c2.life != c.life
        check(c2.verifier, c.verifier)
        check(c2.root, c.root)
        check(c2.read(f.io, 0, 10), b"before")
        c2.write(f.io, 0, b"before")
        check(c2.getattr(f.fh).ino, f.attr.ino)
        check(c2.lookup(c2.root, "d")[0], d)
        c2.create(d, "x")
        c2.close_io(f.io)
    check(stat.S_IMODE(os.stat(s.state).st_mode), 0o700)
    for name in os.listdir(s.state):
        path = s.state + "/" + name
        check(stat.S_IMODE(os.stat(path).st_mode), 0o700 if os.path.isdir(path) else 0o600, name)


@test
def restart_keeps_handles_tmpfs(s):
    restart_test(s)


@test(fs="ext4")
def restart_keeps_handles_ext4(s):
    restart_test(s)


@test(fs="xfs")
def restart_keeps_handles_xfs(s):
    restart_test(s)


@test(fs="btrfs")
def restart_keeps_handles_btrfs(s):
    restart_test(s)


# ---- change values ----

@test
def change_values(s):
    c = conn(s)
    f = c.create(c.root, "f")
    seen = {f.attr.change}
    for i in range(300):
        _, a = c.write(f.io, 0, b"%d" % i)
        seen.add(a.change)
        check(c.getattr(f.fh).change, a.change)
        check(a.flags & RACY, 0)
    for i in range(100):
        seen.add(c.setattr(f.fh, SET_MODE, mode=0o600 | i % 8).change)
    check(len(seen), 401)
    # Not through the server: told as racy while it is young, and stable later.
    racy = 0
    for i in range(20):
        with open(s.path("local"), "w") as local:
            local.write("x" * i)
        racy += bool(c.lookup(c.root, "local")[1].flags & RACY)
    assert racy, "none of 20"      # a loaded machine is too slow to see many of them young
    time.sleep(0.05)
    a = c.lookup(c.root, "local")[1]
    check(a.flags & RACY, 0)
    time.sleep(0.05)
    check(c.lookup(c.root, "local")[1].change, a.change)


@test
def directory_changes_chain(s):
    conns = [conn(s) for _ in range(4)]
    d = conns[0].mkdir(conns[0].root, "d")[0]
    pairs, lock = [], threading.Lock()

    def make(k, c):
        for i in range(100):
            name = "%d-%d" % (k, i)
            ch = [c.create(d, name).dir, c.make(SYMLINK, d, name + "s", target="x")[2]]
            ch.append(c.rename(d, name, d, name + "r")[0])
            ch.append(c.unlink(d, name + "r"))
            with lock:
                pairs.extend((x.pre, x.attr.change) for x in ch)
    threads = [threading.Thread(target=make, args=kc) for kc in enumerate(conns)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(len(pairs), 1600)
    # Each change starts where another one ended: one chain through all of them.
    after = dict(pairs)
    check(len(after), 1600)
    ends = set(after.values())
    check(len(set(after) - ends), 1)
    check(len(ends - set(after)), 1)
    check(conns[0].getattr(d).change, (ends - set(after)).pop())


# ---- many at once ----

@test
def pipelined_requests(s):
    c = conn(s)
    f = c.create(c.root, "f")
    data = os.urandom(1 << 20)
    c.write(f.io, 0, data)
    tags = {}
    for i in range(200):
        if i % 3 == 0:
            tags[c.send(READ, b_read(f.io, i * 1000, 5000))] = data[i * 1000:i * 1000 + 5000]
        elif i % 3 == 1:
            tags[c.send(GETATTR, f.fh)] = b""
        else:
            tags[c.send(LOOKUP, b_name(c.root, "nothing"))] = errno.ENOENT
    for tag, want in reversed(list(tags.items())):
        rep = c.wait(tag)
        if want == errno.ENOENT:
            check(rep.status, want)
        else:
            check((rep.status, rep.data), (0, want))
    # As many in one segment as there are slots.
    frames = [c.frame(GETATTR, f.fh) for _ in range(c.max_inflight)]
    c.sock.sendall(b"".join(raw for _, raw in frames))
    for tag, _ in frames:
        check(c.wait(tag).status, 0)


@test
def many_clients_verify(s):
    def work(k, errors):
        try:
            c = conn(s)
            f = c.create(c.root, "f%d" % k)
            for i in range(30):
                data = os.urandom(100000 + 1000 * k)
                c.write(f.io, i * 7, data)
                tags = [(o, c.send(READ, b_read(f.io, i * 7 + o, 33333))) for o in range(0, 99999, 33333)]
                for o, tag in tags:
                    check(c.wait(tag).data == data[o:o + 33333], True)
        except BaseException as e:
            errors.append(e)
            raise
    errors = []
    threads = [threading.Thread(target=work, args=(k, errors)) for k in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(errors, [])


@test(args=["--threads", "1"])
def slow_reader_stalls_nobody(s):
    slow, quick = conn(s, rcvbuf=4096), conn(s)
    f = slow.create(slow.root, "f")
    d = slow.mkdir(slow.root, "d")[0]
    for i in range(2000):
        os.mknod(s.path("d/%d" % i))
    slow.write(f.io, 0, b"x" * (4 << 20))
    def small_requests():
        for _ in range(200):
            quick.getattr(f.fh)
            quick.read(f.io, 0, 4096)
    alone = timed(small_requests)
    rss = s.rss()
    for _ in range(40):
        slow.send(READ, b_read(f.io, 0, 4 << 20))
    many = []
    for _ in range(30):
        many.append(conn(s, rcvbuf=4096))
        for _ in range(100):
            many[-1].send(READDIR, b_readdir(d, 0, 1 << 20, PLUS))
    time.sleep(2)       # making all those lists is work, and not what this is about
    held_up_by_nothing(small_requests, alone, "small requests")
    time.sleep(0.5)
    grown = s.rss() - rss
    assert grown < (200 << 20), "%d MiB for replies that nobody reads" % (grown >> 20)
    # And it is all there in the end.
    total = 0
    for _ in range(40):
        total += len(slow.recv().data)
    check(total, 40 * (4 << 20))
    for c in many[:3]:
        for _ in range(100):
            check(c.recv().status, 0)


@contextlib.contextmanager
def frozen(s, where=None):
    sh("fsfreeze -f %s" % (where or s.dir))
    try:
        yield
    finally:
        sh("fsfreeze -u %s" % (where or s.dir))


def cpu_seconds(s):
    with open("/proc/%d/stat" % s.proc.pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@test(fs="ext4", args=["--threads", "1"])
def idle_threads_idle(s):
    """The last thread of each pool waits for longer than the others do, and asleep."""
    c = conn(s)
    with frozen(s):
        tag = c.send(MKDIR, b_create(c.root, "d", 0o755, 0, 0))
        check(c.wait(c.send(GETATTR, c.root)).status, 0, "another thread runs the loop")
    check(c.wait(tag).status, 0)
    # Of all that have been idle for 10 s.
    time.sleep(11)
    before = cpu_seconds(s)
    time.sleep(2)
    assert cpu_seconds(s) - before < 0.3, "%.1f s of 2 in an idle server" % (cpu_seconds(s) - before)


@test(fs="ext4", args=["--threads", "1"])
def whoever_waits_for_the_disk_runs_anywhere(s):
    def free():
        cpus = threads_cpus(s)
        return cpus.count(cpus[0])
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip("one CPU")
    c = conn(s)
    with open(s.path("f"), "wb") as f:
        f.write(bytes(8 << 20))
    os.chmod(s.path("f"), 0o644)
    make_cold(s, "f")
    io = c.open(c.lookup(c.root, "f")[0], O_READ)
    before = free()
    with stopped_disk(s):
        tags = [c.send(READ, b_read(io, i << 20, 4096)) for i in range(8)]
        until(lambda: counters(s, "cold")["threads"] >= 8, 10, "a thread for each READ")
        check(free() - before, counters(s, "cold")["threads"] - 1, "threads that run on any CPU")
    for tag in tags:
        check(c.wait(tag).status, 0)


@test(fs="ext4", args=["--threads", "1"])
def blocked_call_stalls_nobody(s):
    c, other = conn(s), conn(s)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"x" * 8192)

    def small_requests():
        for _ in range(100):
            check(len(other.read(f.io, 0, 8192)), 8192)
            other.getattr(f.fh)
    alone = timed(small_requests)
    with frozen(s):
        stuck = [c.send(WRITE, b_write(f.io, 0), b"y" * 4096)]
        check(c.wait(c.send(GETATTR, f.fh)).status, 0, "the same connection")
        held_up_by_nothing(small_requests, alone, "beside a blocked request")
        # The payload of another is only half here: it blocks its connection, no other.
        stuck.append(c.send(MKDIR, b_create(c.root, "d", 0o755, 0, 0)))
        check(c.wait(c.send(GETATTR, f.fh)).status, 0)
        more = [conn(s, session=c.session, index=1 + i) for i in range(5)]
        tags = [(m, m.send(MKDIR, b_create(c.root, "d%d-%d" % (k, i), 0o755, 0, 0)))
                for k, m in enumerate(more) for i in range(20)]
        time.sleep(0.5)
        assert s.threads() < 50, "%d threads for one client" % s.threads()
        for _ in range(20):
            other.read(f.io, 0, 4096)
        unanswered(c, "on a frozen file system")
        # A slot may not be used again before its reply came.
        with contextlib.suppress(Closed):
            more[0].sock.sendall(pack_request(GETATTR, f.fh, slot=0, seq=999))
    for tag in stuck:
        check(c.wait(tag).status, 0)
    for m, tag in tags:
        if m is not more[0]:
            check(m.wait(tag).status, 0)
    check(other.read(f.io, 0, 4096), b"y" * 4096)
    # Threads that are not needed go away again, and all works as before.
    for _ in range(100):
        other.write(f.io, 0, b"z" * 100)
        other.mkdir(other.root, "n")
        other.unlink(other.root, "n", RMDIR)


@test(fs="btrfs", args=["--threads", "1"])
def last_close_stalls_nobody(s):
    """The end of a connection is the end of a deleted file, whose blocks the disk can't free now: ext4 would not wait."""
    c, other = conn(s, rcvbuf=4096), conn(s)
    f = c.create(c.root, "f")
    c.allocate(f.io, 0, 32 << 20)
    c.close_io(f.io)
    for i in range(8):
        c.send(READ, b_read(f.io, i * (4 << 20), 4 << 20))
    time.sleep(0.5)
    other.unlink(other.root, "f")
    assert [t for t in s.fds(s.dir) if "deleted" in t], "nothing keeps the file"
    other.sock.settimeout(5)
    with frozen(s):
        c.close()
        for _ in range(5):
            time.sleep(0.4)
            other.getattr(other.root)
    other.sock.settimeout(30)
    until(lambda: not [t for t in s.fds(s.dir) if "deleted" in t], 10, "it is closed")


@test(fs="ext4", args=["--threads", "1"])
def blocked_sessions_leave_threads_to_others(s):
    other = conn(s)
    f = other.create(other.root, "f")
    other.write(f.io, 0, b"x" * 8192)
    conns = []
    for _ in range(10):
        first = conn(s)
        conns += [first] + [conn(s, session=first.session, index=i) for i in range(1, 4)]
    other.sock.settimeout(10)
    with frozen(s):
        tags = [(c, c.send(MKDIR, b_create(c.root, "d%d-%d" % (k, i), 0o755, 0, 0)))
                for k, c in enumerate(conns) for i in range(8)]
        until(lambda: s.threads() > 150, 10, "many of them hang")
        time.sleep(1)
        for c in other, conn(s):
            check(len(c.read(f.io, 0, 8192)), 8192)
            tags.append((c, c.send(MKDIR, b_create(c.root, "other%d" % len(tags), 0o755, 0, 0))))
            time.sleep(0.1)
            check(len(c.read(f.io, 0, 8192)), 8192)
        assert s.threads() < 300, "%d threads" % s.threads()
    other.sock.settimeout(30)
    for c, tag in tags:
        check(c.wait(tag).status, 0)


@test(fs="ext4", args=["--threads", "1"])
def slot_in_use_is_refused(s):
    c = conn(s)
    f = c.create(c.root, "f")
    with frozen(s):
        c.sock.sendall(pack_request(MKDIR, b_create(c.root, "d", 0o755, 0, 0), slot=5, seq=1))
        time.sleep(0.1)
        c.sock.sendall(pack_request(GETATTR, f.fh, slot=5, seq=2))
        assert c.ended(), "not closed"
    assert "slot" in s.stderr()
    until(lambda: os.path.isdir(s.path("d")), 5, "the request that was begun ends")
    conn(s)


@test(fs="ext4", args=["--threads", "1"])
def blocked_write_keeps_its_order(s):
    c, other = conn(s), conn(s)
    f = c.create(c.root, "f")
    data = os.urandom(4 << 20)
    threads = s.threads()
    with frozen(s):
        tags = [c.send(WRITE, b_write(f.io, 0), data[:1 << 20])]    # more than one piece
        sender = threading.Thread(target=lambda: tags.append(
            c.send(WRITE, b_write(f.io, 1 << 20), data[1 << 20:])))
        sender.start()
        for _ in range(50):
            check(other.getattr(f.fh).size, 0)
        time.sleep(0.3)
        # one, and what a call that a busy machine made slow may have begun; if it were one for each piece there would be more
        assert s.threads() <= threads + 3, "the pieces of a payload are not written one by one"
    sender.join()
    for tag in tags:
        check(c.wait(tag).status, 0)
    check(other.read(f.io, 0, 4 << 20) == data, True)


@test(fs="ext4", args=["--threads", "1"])
def connection_dies_within_a_blocked_write(s):
    c, other = conn(s), conn(s)
    f = c.create(c.root, "f")
    _, raw = c.frame(WRITE, b_write(f.io, 0), os.urandom(1 << 20))
    c.sock.sendall(raw[:600 << 10])
    until(lambda: other.getattr(f.fh).size >= 256 << 10, 5, "its first piece is written")
    with frozen(s):
        c.sock.sendall(raw[600 << 10:])
        time.sleep(0.3)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
        for _ in range(20):
            other.getattr(f.fh)
        time.sleep(0.1)
    for i in range(50):
        other.write(f.io, i, b"x")
        check(other.read(f.io, i, 1), b"x")
    time.sleep(7)       # what is idle is closed
    other.write(f.io, 0, b"y")


@test(fs="ext4", args=["--threads", "1"])
def one_connection_blocks_few_threads(s):
    c = conn(s)
    threads = s.threads()
    with frozen(s):
        tags = [c.send(MKDIR, b_create(c.root, "d%d" % i, 0o755, 0, 0)) for i in range(20)]
        # some may be there already, when a HELLO took long
        until(lambda: s.threads() >= threads + 4, 5, "several requests at once")
        time.sleep(0.5)
        assert s.threads() <= threads + 8, "%d threads" % s.threads()
    for tag in tags:
        check(c.wait(tag).status, 0)


@test
def idle_connections(s):
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    c = conn(s)
    f = c.create(c.root, "f")

    def small_requests():
        for _ in range(200):
            c.getattr(f.fh)
    alone = timed(small_requests)
    rss = s.rss()
    idle = [conn(s) for _ in range(2000)]
    grown = s.rss() - rss
    assert grown < (25 << 20), "%d MiB" % (grown >> 20)
    for k in (0, 7, 1999):
        idle[k].write(f.io, 0, b"x")
    # A part of a request from each.
    raw = pack_request(GETATTR, f.fh)
    for i in idle:
        i.sock.sendall(raw[:50])
    held_up_by_nothing(small_requests, alone, "small requests")
    grown = s.rss() - rss
    assert grown < (200 << 20), "%d MiB" % (grown >> 20)
    for i in idle:
        i.sock.sendall(raw[50:])
    for i in idle:
        check(i.recv().status, 0)
    for i in idle:
        i.close()
    until(lambda: len(s.fds("socket:")) < 20, 10, "closed connections are gone")


@test
def descriptors_run_out(s):
    c = conn(s)
    files = [c.create(c.root, "f%d" % i) for i in range(300)]
    soft, hard = resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE, (len(s.fds()) + 5, hard))
    for i in range(300, 400):
        files.append(c.create(c.root, "f%d" % i))
    for f in files:
        c.write(f.io, 0, b"x")
    late = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(400)]
    time.sleep(0.5)
    check(c.read(files[7].io, 0, 9), b"x")
    for x in late:
        x.close()
    resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE, (soft, hard))
    time.sleep(1.2)
    check(conn(s).read(files[8].io, 0, 9), b"x")


@test(start=False)
def memory_runs_out(s):
    """Requests wait or get ENOMEM; who is closed is who takes no replies."""
    # ASan has its memory reserved, and no limit would reach it.
    s.start(binary=find_server().replace("/server-san/", "/server/"))
    good, late = conn(s), conn(s)
    f = good.create(good.root, "f")
    good.write(f.io, 0, b"x" * 65536)
    d = good.mkdir(good.root, "d")[0]
    for i in range(1500):
        os.mknod(s.path("d/%0200d" % i))
    hogs = [conn(s, rcvbuf=4096) for _ in range(60)]
    with open("/proc/%d/status" % s.proc.pid) as status:
        size = int(re.search(r"VmData:\s+(\d+)", status.read()).group(1)) * 1024
    soft, hard = resource.prlimit(s.proc.pid, resource.RLIMIT_DATA)
    resource.prlimit(s.proc.pid, resource.RLIMIT_DATA, (size + (8 << 20), hard))
    for h in hogs:
        for _ in range(24):     # the kernel takes the first 4 MiB
            h.send(READDIR, b_readdir(d, 0, 1 << 18, 0))
    for h in hogs:              # the large ones fail, small ones take what is left
        for _ in range(100):
            h.send(READDIR, b_readdir(d, 0, 4096, 0))
    seen = collections.Counter()

    def work(k):
        for c in (good, late):
            for reply in (c.call(GETATTR, f.fh), c.call(READ, b_read(f.io, 0, 4096)),
                          c.call(WRITE, b_write(f.io, 4096 * k), b"y" * 4096),
                          c.call(READDIR, b_readdir(d, 0, 1 << 16, PLUS)),
                          c.call(SETXATTR, b_xattr(f.fh, b"user.a"), b"v" * 4000)):
                seen[reply.status] += 1
                assert reply.status in (0, errno.ENOMEM), "status %d" % reply.status
    closed = "takes no replies while memory is short"
    k = 0

    def hogs_closed():
        nonlocal k
        k += 1
        work(1 + k % 15)
        # As much as there was no memory for before: small requests may find enough in what is left.
        reply = late.call(READDIR, b_readdir(d, 0, 1 << 18, 0))
        assert reply.status in (0, errno.ENOMEM), "status %d" % reply.status
        return closed in s.stderr()
    until(hogs_closed, 40, "those who take no replies are closed")

    def all_well():
        seen.clear()
        work(1)
        return dict(seen) == {0: 10}
    until(all_well, 20, "there is memory for everything after those were closed")
    check(good.read(f.io, 0, 4096), b"x" * 4096)
    resource.prlimit(s.proc.pid, resource.RLIMIT_DATA, (soft, hard))
    check(conn(s).read(f.io, 4096, 4096), b"y" * 4096)
    for h in hogs:
        h.close()


@test(fs="ext4")
def disk_becomes_read_only(s):
    c = conn(s)
    f = c.create(c.root, "f")
    c.write(f.io, 0, b"x" * 8192)
    c.commit(f.io)
    wo = c.open(f.fh, O_WRITE)
    # Nobody may have a file open for writing then; the handles survive.
    s.kill()
    sh("mount -o remount,ro %s" % s.dir)
    s.start()
    c = conn(s)
    for io in (f.io, wo):
        check(c.getattr(io).size, 8192)
        check(c.call(WRITE, b_write(io, 0), b"y" * 4096).status, errno.EROFS, "WRITE")
        check(c.call(SETATTR, b_setattr(io, SET_SIZE, size=1)).status, errno.EROFS, "SETATTR")
        c.commit(io)
    check(c.read(f.io, 0, 10000), b"x" * 8192)
    check(c.call(READ, b_read(wo, 0, 10)).status, errno.EBADF)
    check(c.call(CREATE, b_create(c.root, "g", 0o644, 0, O_READ | O_WRITE)).status, errno.EROFS)
    with fails(errno.EROFS):
        c.mkdir(c.root, "d")
    with fails(errno.EROFS):
        c.open(f.fh, O_READ | O_WRITE)
    io = c.open(f.fh, O_READ)
    check(c.read(io, 4096, 4096), b"x" * 4096)
    check(c.read(f.io, 0, 5), b"xxxxx")
    sh("mount -o remount,rw %s" % s.dir)
    c.write(f.io, 0, b"z" * 4096)
    c.write(wo, 4096, b"z")
    check(c.read(f.io, 4095, 3), b"zzx")


# ---- what breaks the protocol ----

def some_requests(root, f):
    """Good ones: operation and body."""
    return [(GETATTR, f.fh), (LOOKUP, b_name(root, "f")), (READ, b_read(f.io, 0, 100)),
            (CREATE, b_create(root, "g", 0o644, 0, RW)), (RENAME, b_rename(root, "g", root, "h")),
            (READDIR, b_readdir(root, 0, 4096, PLUS)), (SETATTR, b_setattr(f.fh, SET_MODE, 0o644)),
            (GETXATTR, b_xattr(f.fh, "user.a", 100)), (OPEN, f.fh + struct.pack("<II", 3, 0)),
            (ACCESS, f.fh + struct.pack("<II", 7, 0)), (LOCK, b_lock(f.io, 1, WR, 10, 20)),
            (LOCK, b_lock(f.io, 2, RD, 15, 30, wait=1)), (LOCK, b_lock(f.io, 2, RD, flags=L_TEST)),
            (SESSION, b_session(HOLD, f.io, 1)), (ALLOCATE, b_allocate(f.io, 0, 5000)), (SEEK, b_seek(f.io, 0, SEEK_HOLE)),
            (COPY, b_copy(f.io, 0, f.io, 8192, 4096))]


@test
def malformed_frames(s):
    good = conn(s)
    f = good.create(good.root, "f")
    name = b_name(good.root, "f")
    cases = {
        "garbage": b"GET / HTTP/1.1\r\nHost: wfs\r\n\r\n" + b"x" * 100,
        "magic": pack_request(GETATTR, f.fh, magic=0x31534658),
        "op 0": pack_request(0),
        "op %d" % len(OPS): pack_request(len(OPS)),
        "op 255": pack_request(255),
        "flags": pack_request(GETATTR, f.fh, flags=1),
        "reserved": pack_request(GETATTR, f.fh, reserved=1),
        "slot": pack_request(GETATTR, f.fh, slot=good.max_inflight),
        "slot 65535": pack_request(GETATTR, f.fh, slot=65535),
        "seq 0": pack_request(GETATTR, f.fh, seq=0),
        "body_len": pack_request(GETATTR, f.fh, body_len=8193),
        "body_len 2^32-1": pack_request(GETATTR, f.fh, body_len=0xffffffff),
        "body too short": pack_request(GETATTR, f.fh[:63]),
        "body too long": pack_request(GETATTR, f.fh + b"\0"),
        "no body": pack_request(GETATTR),
        "body for ROOT": pack_request(ROOT, b"x"),
        "ngroups": pack_request(GETATTR, f.fh, ngroups=1025),
        "data for GETATTR": pack_request(GETATTR, f.fh, b"x"),
        "data for READ": pack_request(READ, b_read(f.io, 0, 10), b"x" * 10),
        "WRITE without data": pack_request(WRITE, b_write(f.io, 0)),
        "WRITE too long": pack_request(WRITE, b_write(f.io, 0), data_len=(4 << 20) + 1),
        "WRITE of 2^32-1": pack_request(WRITE, b_write(f.io, 0), data_len=0xffffffff),
        "SETXATTR too long": pack_request(SETXATTR, b_xattr(f.fh, "user.a"), data_len=65537),
        "READ of 0": pack_request(READ, b_read(f.io, 0, 0)),
        "READ too long": pack_request(READ, b_read(f.io, 0, (4 << 20) + 1)),
        "READDIR too short": pack_request(READDIR, b_readdir(good.root, 0, 4095, 0)),
        "READDIR too long": pack_request(READDIR, b_readdir(good.root, 0, (1 << 20) + 1, 0)),
        "GETXATTR too long": pack_request(GETXATTR, b_xattr(f.fh, "user.a", 65537)),
        "name_len short": pack_request(LOOKUP, name[:-1]),
        "name_len long": pack_request(LOOKUP, name + b"x"),
        "empty name": pack_request(LOOKUP, b_name(good.root, "")),
        "name of 256": pack_request(LOOKUP, b_name(good.root, "x" * 256)),
        "target_len of CREATE": pack_request(CREATE, b_create(good.root, "x", 0o644, 0, RW, target="y")),
        "SYMLINK to nothing": pack_request(SYMLINK, b_create(good.root, "x", 0, 0, 0)),
        "SYMLINK too long": pack_request(SYMLINK, b_create(good.root, "x", 0, 0, 0, target="y" * 4096)),
        "RENAME lengths": pack_request(RENAME, b_rename(good.root, "a", good.root, "b") + b"c"),
        "RENAME to nothing": pack_request(RENAME, b_rename(good.root, "a", good.root, "")),
        "LINK lengths": pack_request(LINK, b_link(f.fh, good.root, "x")[:-1]),
        "LISTXATTR with a name": pack_request(LISTXATTR, b_xattr(f.fh, "user.a", 10)),
        "GETXATTR without one": pack_request(GETXATTR, b_xattr(f.fh, "", 10)),
        "second HELLO": pack_request(HELLO, HELLO_REQ.pack(1, 1, 0, bytes(16), 0, 0, 4096, 4096, 1),
                                     seq=0),
    }
    for op, body in some_requests(good.root, f):
        if op in (LOCK, SESSION, ALLOCATE, SEEK, COPY, ACCESS):
            cases.update({
                OPS[op] + " without a body": pack_request(op), OPS[op] + " too short": pack_request(op, body[:-1]),
                OPS[op] + " too long": pack_request(op, body + b"\0"), OPS[op] + " with data": pack_request(op, body, b"x"),
                OPS[op] + " with data of 2^32-1": pack_request(op, body, data_len=0xffffffff),
                OPS[op] + " on slot 256": pack_request(op, body, slot=256), OPS[op] + " of seq 0": pack_request(op, body, seq=0)})
    for what, raw in cases.items():
        c = conn(s)
        before = len(s.stderr())
        with contextlib.suppress(ConnectionError):
            c.sock.sendall(raw)
        assert c.ended(2), "not closed: " + what
        time.sleep(0.11)    # the log is limited to 10 lines a second
        check(s.stderr(before).count("\n"), 1, "lines in the log for " + what)
    before_hello = {
        "GETATTR": pack_request(GETATTR, f.fh),
        "ROOT": pack_request(ROOT),
        "HELLO too short": pack_request(HELLO, b"x" * 47),
        "HELLO on slot 1": pack_request(HELLO, HELLO_REQ.pack(1, 1, 0, bytes(16), 0, 0, 4096, 4096, 1),
                                        slot=1, seq=0),
        "HELLO with seq": pack_request(HELLO, HELLO_REQ.pack(1, 1, 0, bytes(16), 0, 0, 4096, 4096, 1)),
    }
    for what, raw in before_hello.items():
        c = Conn(s, hello=False)
        c.sock.sendall(raw)
        assert c.ended(2), "not closed: " + what
    for cut in (1, 31, 40, 95):
        c = conn(s)
        c.sock.sendall(pack_request(GETATTR, f.fh)[:cut])
        c.sock.shutdown(socket.SHUT_WR)
        assert c.ended(2)
    c = conn(s)
    c.sock.sendall(pack_request(WRITE, b_write(f.io, 0), b"half" * 1000, data_len=100000))
    c.sock.shutdown(socket.SHUT_WR)
    assert c.ended(2)
    check(good.getattr(f.fh).ino, f.attr.ino, "somebody else's connection")


@test
def reordered_frames(s):
    c = conn(s)
    f = c.create(c.root, "f")
    write = pack_request(WRITE, b_write(f.io, 0), b"d" * 100, slot=1)
    names = pack_request(RENAME, b_rename(c.root, "f", c.root, "g"), slot=2)
    cases = {
        "body before header": write[32:] + write[:32],
        "data before body": write[:32] + write[-100:] + write[32:-100],
        "two headers, then two bodies": write[:32] + names[:32] + write[32:] + names[32:],
        "one frame inside the other": write[:50] + names + write[50:],
        "a byte too many between them": write + b"\0" + names,
        "a byte missing between them": write[:-1] + names,
        "a reply": REP.pack(MAGIC, WRITE, 0, 1, 1, 0, 0, 0, 0),
    }
    for what, raw in cases.items():
        bad = conn(s)
        before = len(s.stderr())
        with contextlib.suppress(ConnectionError):
            bad.sock.sendall(raw + bytes(64))
        while True:     # a frame that was whole has its reply
            try:
                bad.recv()
            except (Closed, ConnectionError):
                break
        time.sleep(0.11)    # the log is limited to 10 lines a second
        check(s.stderr(before).count("\n"), 1, "lines in the log for " + what)
    assert "f" in os.listdir(s.dir) or "g" in os.listdir(s.dir)
    check(c.getattr(f.fh).ino, f.attr.ino)


@test
def sessions_of_others(s):
    a, b = conn(s), conn(s)
    assert a.session != b.session
    for bit in range(128):
        forged = bytearray(a.session)
        forged[bit // 8] ^= 1 << bit % 8
        c = Conn(s, hello=False)
        check(c.hello(session=bytes(forged)).status, errno.ESTALE, "bit %d" % bit)
        assert c.ended(), "not closed"
    # What one session has open, another can't close.
    f = a.create(a.root, "f")
    for _ in range(3):
        b.close_io(f.io)
    a.write(f.io, 0, b"kept")
    b.unlink(b.root, "f")
    for _ in range(3):
        b.close_io(f.io)
    check(a.read(f.io, 0, 10), b"kept")
    a.close_io(f.io)
    with fails(errno.ESTALE):
        a.getattr(f.fh)


@test
def forged_handles_for_all(s):
    """Every operation that takes a handle, with one that was altered: its error, and the connection goes on."""
    c = conn(s)
    f, g = c.create(c.root, "f"), c.create(c.root, "g")
    c.write(f.io, 0, b"x" * 100)
    plain = {GETATTR: b"", READLINK: b"", STATFS: b"", LOOKUP: b_name(b"", "f"), UNLINK: b_name(b"", "f"),
             RMDIR: b_name(b"", "f"), SETATTR: b_setattr(b"", SET_MODE, 0o600), ACCESS: struct.pack("<II", 7, 0),
             OPEN: struct.pack("<II", RW, 0), CREATE: b_create(b"", "n", 0o600, 0, RW), MKDIR: b_create(b"", "n", 0o700, 0, 0),
             MKNOD: b_create(b"", "n", stat.S_IFIFO, 0, 0), SYMLINK: b_create(b"", "n", 0, 0, 0, target="t"),
             READDIR: b_readdir(b"", 0, 4096, 0), GETXATTR: b_xattr(b"", "user.a", 10), SETXATTR: b_xattr(b"", "user.a"),
             LISTXATTR: b_xattr(b"", "", 10), REMOVEXATTR: b_xattr(b"", "user.a"), COMMIT: struct.pack("<II", 0, 0)}
    io = {READ: b_read(b"", 0, 10), WRITE: b_write(b"", 0), CLOSE: b"", LOCK: b_lock(b"", 1, WR, 5, 6),
          SESSION: struct.pack("<II", HOLD, 1), ALLOCATE: b_allocate(b"", 0, 10), SEEK: b_seek(b"", 0, SEEK_DATA)}
    two = {LINK: (f.fh, c.root, b_link(b"", b"", "n")), RENAME: (c.root, c.root, b_rename(b"", "f", b"", "h")),
           COPY: (f.io, g.io, b_copy(b"", 0, b"", 0, 10))}
    forged = {"zero": lambda fh: bytes(FH), "all ones": lambda fh: b"\xff" * FH,
              "other rights": lambda fh: (f.io if fh in (f.fh, c.root) else f.fh)[:8] + fh[8:]}
    for bit in (0, 7, 8, 100, 300, 400, 500, 511):
        forged["bit %d" % bit] = lambda fh, bit=bit: (int.from_bytes(fh, "little") ^ 1 << bit).to_bytes(FH, "little")
    for what, forge in forged.items():
        bad = {h: forge(h) for h in (f.fh, f.io, g.io, c.root)}
        for op, rest in list(plain.items()) + list(io.items()):
            fh = bad[f.io if op in io else f.fh]
            if fh in bad:       # it is one that there is
                continue
            check(c.call(op, fh + rest, b"d" if op in (WRITE, SETXATTR) else b"").status, errno.ESTALE,
                  "%s, %s" % (OPS[op], what))
        for op, (one, other, rest) in two.items():
            for body in (bad[one] + other + rest, one + bad[other] + rest):
                if bad[one] not in bad:
                    check(c.call(op, body).status, errno.ESTALE, "%s, %s" % (OPS[op], what))
    # Nothing came of it.
    check(sorted(os.listdir(s.dir)), ["f", "g"])
    check((c.read(f.io, 0, 200), c.read(g.io, 0, 200)), (b"x" * 100, b""))
    check(held(conn(s), f.io), [])


@test
def sessions_do_not_meddle(s):
    """What one session says of the locks and holds of another is of no account."""
    a, b = conn(s), conn(s)
    io = rw_file(a)
    a.lock(io, 1, WR, 0, 9)
    c = conn(s)
    tag = c.send_lock(io, 1, WR, 0, 9)
    for flags in (0, L_CANCEL):
        b.unlock(io, 1, 0, 9, flags)
    assert pending(c, tag), "a wait was ended by another session"
    check(b.call(LOCK, b_lock(io, 1, WR, 0, 9)).status, errno.EAGAIN)
    check(b.call(LOCK, b_lock(io, 1, WR, 0, 9, L_RECLAIM)).status, errno.ENOLCK)
    b.ok(SESSION, b_session(RECLAIMED))
    b.ok(SESSION, b_session(HOLD, io, 7))
    b.ok(SESSION, b_session(END))
    check(held(conn(s), io), [(WR, 0, 9)])
    assert pending(c, tag)
    a.unlink(a.root, "f")
    check(a.getattr(io).nlink, 0)
    a.unlock(io, 1, 0, 9)
    granted(c, tag)
    # Numbers that a session may give its holds, and what lies beyond.
    for count, status in ((1, 0), ((1 << 31) - 1, 0), (0, errno.EINVAL), (1 << 31, errno.EINVAL), ((1 << 32) - 1, errno.EINVAL)):
        check(a.call(SESSION, b_session(HOLD, io, count)).status, status, str(count))
    a.ok(SESSION, b_session(HOLD, io, 1))
    c.unlock(io, 1, 0, 9)
    a.close_io(io)
    until(lambda: a.call(GETATTR, io).status == errno.ESTALE, 5, "the file goes")


@test
def hostile_clients_hurt_nobody(s):
    stop, wrong = threading.Event(), []
    root = conn(s).root
    sockets = len(s.fds("socket:"))

    def work(k):
        """An honest client; each call has to be answered soon."""
        c = conn(s)
        n, f = 0, c.create(root, "honest%d" % k)
        while not stop.is_set():
            data = struct.pack("<II", k, n) * 512
            for name, call in (("write", lambda: c.write(f.io, n % 16 * 4096, data)),
                               ("read", lambda: check(c.read(f.io, n % 16 * 4096, 4096), data)),
                               ("mkdir", lambda: c.mkdir(root, "d%d.%d" % (k, n))),
                               ("rmdir", lambda: c.unlink(root, "d%d.%d" % (k, n), op=RMDIR)),
                               ("list", lambda: c.readdir(root))):
                start = time.monotonic()
                call()
                if time.monotonic() - start > 10:
                    wrong.append("%s took %.1f s" % (name, time.monotonic() - start))
            n += 1
        return n

    def guarded(k, counts):
        try:
            counts.append(work(k))
        except Exception:
            wrong.append(traceback.format_exc())

    counts = []
    honest = [threading.Thread(target=guarded, args=(k, counts)) for k in range(3)]
    for t in honest:
        t.start()
    rng = random.Random(1729)
    target = conn(s).create(root, "target")
    frames = [pack_request(WRITE, b_write(target.io, 0), b"x" * 5000), pack_request(ROOT),
              pack_request(READDIR, b_readdir(root, 0, 1 << 20, PLUS)), pack_request(READ, b_read(target.io, 0, 4 << 20)),
              pack_request(MKDIR, b_create(root, "target", 0o755, 0, 0)), pack_request(GETATTR, b"\xff" * 64),
              pack_request(LOCK, b_lock(target.io, 1, WR, wait=60000)), pack_request(COPY, b_copy(target.io, 0, target.io, 1 << 20, 1 << 40)),
              pack_request(ALLOCATE, b_allocate(target.io, 0, 1 << 50)), pack_request(SESSION, b_session(END))]
    deaf = []
    sizes = (0, 1, 4095, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

    def hostile(c, kind):
        raw = rng.choice(frames)
        if kind == "garbage":
            c.sock.sendall(rng.randbytes(rng.randrange(1, 5000)))
        elif kind == "truncated":
            c.sock.sendall(raw[:rng.randrange(1, len(raw))])
        elif kind == "oversized":
            c.sock.sendall(pack_request(WRITE, b_write(target.io, 0), data_len=rng.choice((1 << 31, (4 << 20) + 1))) +
                           b"y" * 100000)
        elif kind == "replayed":
            c.sock.sendall(raw * 20)
        elif kind == "reordered":
            cut = rng.randrange(1, len(raw))
            c.sock.sendall(raw[cut:] + raw[:cut])
        elif kind == "slot":
            c.sock.sendall(pack_request(GETATTR, root, slot=rng.choice((256, 1024, 65535))))
        elif kind == "forged":
            handle = bytearray(rng.choice((root, target.io)))
            handle[rng.randrange(64)] ^= 1 << rng.randrange(8)
            c.sock.sendall(pack_request(WRITE, b_write(bytes(handle), 0), b"evil" * 100))
        elif kind == "fields":
            for slot, (op, form) in enumerate(((LOCK, "QQQIIII"), (ALLOCATE, "QQII"), (SEEK, "QII"), (COPY, "QQQ"),
                                               (SESSION, "II"), (ACCESS, "II"))):
                values = [rng.choice(sizes) & (1 << 8 * struct.calcsize("<" + code)) - 1 for code in form]
                io = target.io * 2 if op == COPY else target.io
                c.sock.sendall(pack_request(op, io + struct.pack("<" + form, *values), slot=slot))
        elif kind == "deaf":
            for slot in range(64):
                c.sock.sendall(pack_request(READDIR, b_readdir(root, 0, 1 << 20, PLUS), slot=slot))
            deaf.append(c)

    kinds = ("garbage", "truncated", "oversized", "replayed", "reordered", "slot", "forged", "fields", "deaf")
    end, told = time.monotonic() + 8, 0
    while time.monotonic() < end:
        kind = kinds[told % len(kinds)]
        c = conn(s)
        with contextlib.suppress(ConnectionError, TimeoutError):
            hostile(c, kind)
        if kind != "deaf":
            c.close()
        told += 1
    stop.set()
    for t in honest:
        t.join(60)
        assert not t.is_alive(), "an honest client hangs"
    check(wrong, [])
    assert told >= 3 * len(kinds) and min(counts) >= 5, (told, counts)
    for c in deaf:
        c.close()
    until(lambda: len(s.fds("socket:")) <= sockets + 4, 20, "connections that are gone")
    with open(s.path("target"), "rb") as f:
        assert b"evil" not in f.read(1 << 20)


@test
def log_is_limited(s):
    for _ in range(200):
        c = Conn(s, hello=False)
        c.sock.sendall(b"\0" * 64)
        c.ended(2)
    lines = s.stderr().count("malformed")
    assert 10 <= lines <= 100, lines


@test(size="8m")        # an ALLOCATE may be of all that there is
def random_bytes(s):
    seed = int.from_bytes(os.urandom(4), "little")
    print("# seed %d" % seed)
    import random
    rnd = random.Random(seed)
    good = conn(s)
    f = good.create(good.root, "f")
    bodies = some_requests(good.root, f)
    for _ in range(1500):
        c = conn(s)
        raw = bytearray(b"".join(pack_request(*rnd.choice(bodies), slot=i, seq=1) for i in range(3)))
        for _ in range(rnd.randint(1, 4)):
            raw[rnd.randrange(len(raw))] = rnd.choice((0, 1, 0x7f, 0x80, 0xff, rnd.randrange(256)))
        with contextlib.suppress(ConnectionError):
            c.sock.sendall(raw[:rnd.randrange(len(raw)) if rnd.random() < 0.2 else len(raw)])
        c.close()
    check(good.getattr(f.fh).ino, f.attr.ino)


# ---- start and end ----

@test(args=["--read-only"])
def read_only_export(s):
    open(s.path("f"), "w").write("data")
    os.chmod(s.path("f"), 0o666)
    os.mkdir(s.path("d"))
    c = conn(s)
    check(c.export_flags, RDONLY | ROOT_SQUASH | HAS_ACL)
    f, d = c.walk("f"), c.walk("d")
    io = c.open(f, O_READ)
    check(c.read(io, 0, 10), b"data")
    check(c.access(f, 6), 4)
    for op, body in ((OPEN, f + struct.pack("<II", RW, 0)),
                     (OPEN, f + struct.pack("<II", O_READ | O_TRUNC, 0)),
                     (CREATE, b_create(c.root, "f", 0o644, 0, RW)), (SETATTR, b_setattr(f, SET_MODE)),
                     (MKDIR, b_create(c.root, "x", 0o755, 0, 0)), (UNLINK, b_name(c.root, "f")),
                     (RMDIR, b_name(c.root, "d")), (LINK, b_link(f, d, "x")),
                     (SYMLINK, b_create(d, "x", 0, 0, 0, target="y")),
                     (MKNOD, b_create(d, "x", stat.S_IFIFO, 0, 0)),
                     (RENAME, b_rename(c.root, "f", d, "f")), (REMOVEXATTR, b_xattr(f, "user.a"))):
        check(c.call(op, body).status, errno.EROFS, "op %d" % op)
    check(c.call(SETXATTR, b_xattr(f, "user.a"), b"x").status, errno.EROFS)
    check(c.call(WRITE, b_write(io, 0), b"x").status, errno.EROFS)
    check(c.call(ALLOCATE, b_allocate(io, 0, 1)).status, errno.EROFS)
    check(c.call(COPY, b_copy(io, 0, io, 100, 1)).status, errno.EROFS)
    check(c.seek(io, 0, SEEK_HOLE), 4)
    check(open(s.path("f")).read(), "data")


@test
def read_only_disk(s):
    c = conn(s)
    both, write, gone = c.create(c.root, "f"), c.create(c.root, "g", O_WRITE), c.create(c.root, "h")
    c.write(both.io, 0, b"data")
    c.write(write.io, 0, b"data")
    s.stop()
    sh("mount -o remount,ro " + s.dir)
    s.start()
    c = conn(s)
    for _ in range(2):
        check(c.read(both.io, 0, 10), b"data")
        check(c.seek(both.io, 0, SEEK_HOLE), 4)
        check(c.getattr(both.io).size, 4)
        c.commit(both.io)
        c.commit(write.io)
        check(c.seek(write.io, 0, SEEK_DATA), 0)
        with fails(errno.EBADF):
            c.read(write.io, 0, 10)
        for f in (both, write):
            for op, body, data in ((WRITE, b_write(f.io, 0), b"x"), (ALLOCATE, b_allocate(f.io, 0, 1), b""),
                                   (COPY, b_copy(both.io, 0, f.io, 10, 1), b""),
                                   (SETATTR, b_setattr(f.io, SET_SIZE, size=1), b""),
                                   (SETATTR, b_setattr(f.fh, SET_SIZE, size=1), b"")):
                check(c.call(op, body, data).status, errno.EROFS, "op %d" % op)
    sh("mount -o remount,rw " + s.dir)
    c.write(both.io, 0, b"DATA")
    c.setattr(write.io, SET_SIZE, size=1)
    check(c.copy(both.io, 0, write.io, 10, 4)[0], 4)
    check(open(s.path("f")).read(), "DATA")
    check(open(s.path("g"), "rb").read(), b"d" + bytes(9) + b"DATA")


@test(start=False)
def exports_without_handles_are_refused(s):
    s.start(wait=False, export="/proc")
    check(s.stop(signal.SIGCONT), 1)
    assert "--export /proc" in s.stderr() and "handles" in s.stderr(), s.stderr()
    for d in ("lower", "rw", "merged"):
        os.mkdir(s.base + "/" + d)
    sh("mount -t tmpfs x %s/rw && mkdir %s/rw/up %s/rw/work" % (s.base, s.base, s.base))
    s.mounts.append(s.base + "/rw")
    try:
        sh("mount -t overlay ov -o lowerdir=%s/lower,upperdir=%s/rw/up,workdir=%s/rw/work %s/merged" %
           ((s.base,) * 4))
    except subprocess.CalledProcessError:
        print("# no overlayfs here")
        return
    s.mounts.append(s.base + "/merged")
    s.start(wait=False, export=s.base + "/merged")
    check(s.stop(signal.SIGCONT), 1)
    assert "merged" in s.stderr() and s.stderr().count("handles") == 2, s.stderr()


@test(start=False)
def bad_options_are_named(s):
    def run(*args):
        p = subprocess.run([find_server()] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           universal_newlines=True, timeout=20)
        return p.returncode, p.stdout + p.stderr
    state = ("--state-dir", s.state)
    for args, text in (((), "--export"), (("--export", s.path("none")), "none"),
                       (("--export", s.dir, "--bogus"), "bogus"),
                       (("--export", s.dir, "--threads", "0") + state, "--threads 0"),
                       (("--export", s.dir, "--mover", "magic") + state, "--mover magic"),
                       (("--export", s.dir, "--anon-uid", "-1") + state, "--anon-uid -1"),
                       (("--export", s.dir, "--anon-gid", "0") + state, "--anon-gid 0"),
                       (("--export", s.dir, "--listen", "127.0.0.1:99999") + state, "99999"),
                       (("--export", s.dir, "--listen", "::1:9749") + state, "::1:9749"),
                       (("--export", s.dir, "--listen", "192.0.2.1:9749") + state, "192.0.2.1"),
                       (("--export", s.dir, "--state-dir", "/proc/none"), "/proc/none"),
                       (("--export", s.dir, "extra"), "extra")):
        code, out = run(*args)
        assert code in (1, 2) and text in out, (args, code, out)
    check(run("--help")[0], 0)
    code, out = run("--version")
    assert code == 0 and "protocol version 1" in out


@test(start=False)
def listens_on_ipv6_and_several(s):
    s.args = ["--listen", "[::1]:0"]
    s.start()
    port = int(re.search(r"listening on \[::1\]:(\d+)", s.stderr()).group(1))
    with socket.create_connection(("::1", port)) as sock:
        sock.sendall(pack_request(HELLO, HELLO_REQ.pack(1, 1, 0, bytes(16), 0, 0, 4096, 4096, 1), seq=0))
        check(REP.unpack(sock.recv(REP.size))[7], 0)
    conn(s)


@test(start=False)
def tells_systemd(s):
    path = s.base + "/notify"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    sock.settimeout(10)
    os.environ["NOTIFY_SOCKET"] = path
    try:
        s.start()
    finally:
        del os.environ["NOTIFY_SOCKET"]
    check(sock.recv(100), b"READY=1")
    s.stop()
    check(sock.recv(100), b"STOPPING=1")


@test
def counters_on_sigusr1(s):
    c = conn(s)
    for _ in range(7):
        c.call(LOOKUP, b_name(c.root, "nothing"))
    s.proc.send_signal(signal.SIGUSR1)
    until(lambda: "stats: lookup requests 7 errors 7" in s.stderr(), 5, "counters")


@test(fs="ext4")
def sigterm_finishes_what_is_in_flight(s):
    c, idle = conn(s), conn(s)
    f = c.create(c.root, "f")
    slow = conn(s, rcvbuf=4096)
    c.write(f.io, 0, b"x" * (4 << 20))
    io = slow.open(f.fh, O_READ)
    read = slow.send(READ, b_read(io, 0, 4 << 20))
    sh("fsfreeze -f %s" % s.dir)
    try:
        tag = c.send(WRITE, b_write(f.io, 0), b"y" * 4096)
        time.sleep(0.3)
        proc = s.proc
        proc.send_signal(signal.SIGTERM)
        assert idle.ended(3), "an idle connection is not closed"
        with fails(errno.ECONNREFUSED):
            socket.create_connection(("127.0.0.1", s.port))
        time.sleep(0.5)
        check(proc.poll(), None, "ended before its requests")
    finally:
        sh("fsfreeze -u %s" % s.dir)
    check(c.wait(tag).status, 0)
    check(len(slow.wait(read).data), 4 << 20)
    c.close()
    slow.close()
    check(proc.wait(10), 0)
    with open(s.path("f"), "rb") as local:
        check(local.read(4096), b"y" * 4096)


@test(fs="ext4", args=["--threads", "1"])
def sigterm_when_the_last_client_has_gone(s):
    """It ends with the last request, whose client has gone meanwhile and wakes nobody up."""
    c = conn(s)
    f = c.create(c.root, "f")
    sh("fsfreeze -f %s" % s.dir)
    try:
        c.send(WRITE, b_write(f.io, 0), b"y" * 4096)
        time.sleep(0.5)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
        time.sleep(0.2)
        s.proc.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        check(s.proc.poll(), None, "ended before its request")
    finally:
        sh("fsfreeze -u %s" % s.dir)
    check(s.proc.wait(20), 0)
    assert "did not end in time" not in s.stderr(), s.stderr()
# ---- locks ----

def rw_file(c, name="f", mode=0o666):
    return c.create(c.root, name, mode=mode).io


def first_lock(c, io):
    """A session's first lock waits for the state directory's disk, and others may overtake it."""
    c.lock(io, 1 << 41, RD, flags=L_FLOCK)
    c.unlock(io, 1 << 41, flags=L_FLOCK)


def pending(c, tag, seconds=0.3):
    """No reply to this request has come, nor comes within a moment."""
    end = time.monotonic() + seconds
    while tag not in c.replies:
        left = end - time.monotonic()
        if left <= 0 or not select.select([c.sock], [], [], left)[0]:
            return True
        rep = c.recv()
        c.replies[rep.slot, rep.seq] = rep
        c.slots.append(rep.slot)
    return False


def granted(c, tag):
    return c.wait(tag).status == 0


def held(c, io, type=WR, start=0, end=LOCK_END):
    """What is in the way of somebody who has nothing: [(type, start, end)]."""
    out = []
    while start <= end:
        t, s, e, _ = c.test_lock(io, 1 << 40, type, start, end)
        if t == UN:
            break
        out.append((t, s, e))
        start = e + 1
    return out


class Program:
    """A program on the server that locks a file: cat of it, which ends when told to."""

    def __init__(self, path, flags=os.O_RDWR):
        self.fd = os.open(path, flags)

    def ofd(self, type, start=0, length=0):
        # F_OFD_SETLK
        fcntl.fcntl(self.fd, 37, struct.pack("hhqqi4x", type, os.SEEK_SET, start, length, 0))

    def flock(self, how):
        fcntl.flock(self.fd, how | fcntl.LOCK_NB)

    def close(self):
        os.close(self.fd)


@test
def locks_of_bytes(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    # Each owner of a session, and each session, is somebody else; what is one's own is replaced.
    a.lock(io, 1, WR, 100, 199)
    for c, owner in ((a, 2), (b, 1)):
        for type in RD, WR:
            with fails(errno.EAGAIN):
                c.lock(io, owner, type, 150, 150)
        check(c.lock(io, owner, WR, 200), (WR, 200, LOCK_END, 0))
        with fails(errno.EAGAIN):
            a.lock(io, 1, RD, 0, 200)
        c.unlock(io, owner)
        check(held(c, io), [(WR, 100, 199)])
    check(a.test_lock(io, 2, RD, 0), (WR, 100, 199, 1))
    check(b.test_lock(io, 1, RD, 0), (WR, 100, 199, 0))
    check(a.test_lock(io, 1, WR, 0)[0], UN)
    check(b.test_lock(io, 1, WR, 0, 99)[0], UN)
    # Split, convert, join.
    a.unlock(io, 1, 120, 129)
    check(held(b, io), [(WR, 100, 119), (WR, 130, 199)])
    a.lock(io, 1, RD, 110, 149)
    check(held(b, io), [(WR, 100, 109), (RD, 110, 149), (WR, 150, 199)])
    b.lock(io, 1, RD, 120, 139)
    with fails(errno.EAGAIN):
        a.lock(io, 1, WR, 130, 130)
    check(held(b, io), [(WR, 100, 109), (RD, 110, 149), (WR, 150, 199)])
    b.unlock(io, 1)
    a.lock(io, 1, WR, 110, 149)
    check(held(b, io), [(WR, 100, 199)])
    a.lock(io, 1, WR, 200)
    a.lock(io, 1, WR, 0, 99)
    check(held(b, io), [(WR, 0, LOCK_END)])
    a.unlock(io, 1)
    check(held(b, io), [])
    # Random ranges against a model.
    seed = time.time_ns() % 1000000
    print("# seed %d" % seed)
    rng = __import__("random").Random(seed)
    model = [[UN] * 24 for _ in range(4)]
    for _ in range(1500):
        who, type = rng.randrange(4), rng.choice((RD, WR, UN))
        lo = rng.randrange(24)
        hi = rng.randrange(lo, 24)
        c = (a, b)[who % 2]
        others = [m[lo:hi + 1] for i, m in enumerate(model) if i != who]
        free = type == UN or not any(t == WR or (t == RD and type == WR) for m in others for t in m)
        rep = c.call(LOCK, b_lock(io, who, type, lo, hi))
        check(rep.status, 0 if free else errno.EAGAIN)
        if free:
            model[who][lo:hi + 1] = [type] * (hi + 1 - lo)
        if rng.random() < 0.1:
            at = rng.randrange(24)
            want = WR if any(m[at] == WR for m in model) else RD if any(m[at] == RD for m in model) else UN
            check(b.test_lock(io, 99, WR, at, at)[0], want)
            p = Program(s.path("f"))
            try:
                p.ofd(fcntl.F_WRLCK, at, 1)
                check(want, UN)
            except BlockingIOError:
                assert want != UN
            p.close()
    for who in range(4):
        (a, b)[who % 2].unlock(io, who)
    check(held(b, io), [])


@test
def locks_are_checked(s):
    c = conn(s)
    f = c.create(c.root, "f", mode=0o666)
    ro, wo = c.open(f.fh, O_READ), c.open(f.fh, O_WRITE)
    for kw in (dict(type=3), dict(flags=16), dict(start=2, end=1), dict(end=1 << 63), dict(wait=60001),
               dict(flags=L_FLOCK, start=1), dict(flags=L_FLOCK, end=1), dict(flags=L_FLOCK | L_TEST),
               dict(flags=L_TEST, wait=1), dict(flags=L_TEST, type=UN), dict(flags=L_RECLAIM, wait=1),
               dict(flags=L_RECLAIM, type=UN), dict(flags=L_CANCEL), dict(flags=L_TEST | L_RECLAIM),
               dict(type=UN, wait=1)):
        kw = dict(dict(type=WR), **kw)
        check(c.call(LOCK, b_lock(f.io, 1, **kw)).status, errno.EINVAL, str(kw))
    for io, type, flags, err in ((f.fh, RD, 0, errno.EBADF), (f.fh, UN, 0, errno.EBADF),
                                 (f.fh, RD, L_FLOCK, errno.EBADF), (ro, WR, 0, errno.EBADF),
                                 (wo, RD, 0, errno.EBADF), (bytes(FH), WR, 0, errno.ESTALE),
                                 (ro, RD, 0, 0), (wo, WR, 0, 0), (ro, WR, L_FLOCK, 0), (ro, UN, 0, 0),
                                 (ro, UN, L_FLOCK, 0), (ro, WR, L_RECLAIM, errno.EBADF),
                                 (f.io, WR, L_RECLAIM, errno.ENOLCK)):
        check(c.call(LOCK, b_lock(io, 1, type, flags=flags)).status, err)
    # On a file without a name.
    c.unlink(c.root, "f")
    c.lock(f.io, 1, WR)
    c.unlock(f.io, 1)
    until(lambda: s.fds(s.dir).count(s.path("f") + " (deleted)") <= 4, 5, "the lock's descriptor goes")


@test
def flocks(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    fl = dict(flags=L_FLOCK)
    a.lock(io, 1, RD, **fl)
    b.lock(io, 1, RD, **fl)
    p = Program(s.path("f"))
    p.flock(fcntl.LOCK_SH)
    with fails(errno.EAGAIN):
        p.flock(fcntl.LOCK_EX)      # which has let go of the other one
    # They do not meet locks of bytes.
    b.lock(io, 7, WR)
    b.unlock(io, 7)
    # A conversion that fails has lost the lock, as flock(2) has it: two who convert do not block each other.
    with fails(errno.EAGAIN):
        a.lock(io, 1, WR, **fl)
    b.lock(io, 1, WR, **fl)
    with fails(errno.EAGAIN):
        a.lock(io, 1, RD, **fl)
    with fails(errno.EAGAIN):
        p.flock(fcntl.LOCK_SH)
    b.lock(io, 1, WR, **fl)
    b.lock(io, 1, RD, **fl)
    p.flock(fcntl.LOCK_SH)
    a.lock(io, 1, RD, **fl)
    b.unlock(io, 1, **fl)
    a.unlock(io, 1, **fl)
    p.flock(fcntl.LOCK_EX)
    with fails(errno.EAGAIN):
        a.lock(io, 1, RD, **fl)
    tag = a.send_lock(io, 1, WR, flags=L_FLOCK)
    assert pending(a, tag)
    p.flock(fcntl.LOCK_UN)
    assert granted(a, tag)
    with fails(errno.EAGAIN):
        p.flock(fcntl.LOCK_SH)
    a.unlock(io, 1, **fl)
    p.flock(fcntl.LOCK_EX)
    p.close()
    # Who may only read may lock; and so a program that is being executed can be locked, and the other way.
    shutil.copy("/bin/true", s.path("true"))
    ro = a.open(a.walk("true"), O_READ)
    a.lock(ro, 1, WR, **fl)
    sh(s.path("true"))
    a.unlock(ro, 1, **fl)


@test
def locks_exclude_programs(s):
    c = conn(s)
    io = rw_file(c)
    p = Program(s.path("f"))
    p.ofd(fcntl.F_RDLCK, 10, 10)
    c.lock(io, 1, RD)
    with fails(errno.EAGAIN):
        c.lock(io, 1, WR)
    check(c.test_lock(io, 1, WR), (RD, 10, 19, 0))
    c.lock(io, 1, WR, 0, 9)
    c.lock(io, 2, RD, 15, 30)
    with fails(errno.EAGAIN):
        p.ofd(fcntl.F_WRLCK, 10, 10)
    c.unlock(io, 1, 0, 19)
    with fails(errno.EAGAIN):
        p.ofd(fcntl.F_WRLCK, 10, 10)
    p.ofd(fcntl.F_WRLCK, 10, 5)
    p.ofd(fcntl.F_WRLCK, 0, 10)
    c.unlock(io, 2)
    p.ofd(fcntl.F_WRLCK, 10, 10)
    with fails(errno.EAGAIN):
        p.ofd(fcntl.F_WRLCK, 20, 1)
    # It ends, and whoever waits learns of it.
    tag = c.send_lock(io, 3, WR, 0, 19)
    assert pending(c, tag)
    p.close()
    assert granted(c, tag)


@test
def waits_for_locks(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    a.lock(io, 1, WR)
    tags = [b.send_lock(io, i, WR, i, i) for i in range(1, 11)] + [b.send_lock(io, 11, RD, 50, 60)]
    for tag in tags:
        assert pending(b, tag, 0.05)
    b.getattr(b.root)                       # the connection serves others meanwhile
    a.unlock(io, 1, 0, 5)
    for tag in tags[:5]:
        assert granted(b, tag)
    assert pending(b, tags[5], 0.1)
    a.lock(io, 1, RD, 6, 70)
    assert granted(b, tags[10])
    a.unlock(io, 1)
    for tag in tags[5:10]:
        assert granted(b, tag)
    b.ok(SESSION, b_session(END))
    b = conn(s)
    first_lock(b, io)
    # In the order in which they came.
    a.lock(io, 1, WR)
    tags = [b.send_lock(io, i, WR) for i in range(2, 8)]
    a.unlock(io, 1)
    for i, tag in enumerate(tags):
        assert granted(b, tag)
        for other in tags[i + 1:]:
            assert pending(b, other, 0.02)
        b.unlock(io, 2 + i)
    # For so long and no longer.
    a.lock(io, 1, WR)
    start = time.monotonic()
    check(b.call(LOCK, b_lock(io, 1, WR, wait=700)).status, errno.EAGAIN)
    took = time.monotonic() - start
    assert 0.65 < took < 10, took
    # A wait that is cancelled, and what it leaves of the locks that its owner had.
    a.unlock(io, 1)
    a.lock(io, 1, RD, 0, 99)
    b.lock(io, 1, RD, 50, 59)
    tag = b.send_lock(io, 1, WR, 50, 59)
    tag2 = b.send_lock(io, 1, WR, 50, 60)
    assert pending(b, tag)
    b.unlock(io, 1, 50, 59, flags=L_CANCEL)
    check(b.wait(tag).status, errno.EAGAIN)
    assert pending(b, tag2)
    check(a.test_lock(io, 5, WR, 50, 59)[0], RD)
    a.unlock(io, 1)
    assert granted(b, tag2)
    check(held(a, io), [(WR, 50, 60)])
    b.unlock(io, 1, flags=L_CANCEL)
    check(held(a, io), [(WR, 50, 60)])


@test
def waiting_is_limited(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    first_lock(b, io)
    a.lock(io, 1, WR)
    tags = [b.send_lock(io, i, RD) for i in range(100)]
    b.getattr(b.root)
    statuses = [b.replies[t].status for t in tags if t in b.replies]
    check(statuses, [errno.EAGAIN] * 36)
    check(s.threads() < 40, True)
    # A connection that dies takes its waiters along; nobody else's.
    other = conn(s)
    tag = other.send_lock(io, 1, WR)
    assert pending(other, tag)
    b.close()
    time.sleep(0.2)
    a.unlock(io, 1)
    assert granted(other, tag)
    b = conn(s, session=b.session)
    tags = [b.send_lock(io, i, RD) for i in range(64)]
    assert pending(b, tags[-1])
    other.unlock(io, 1)
    for tag in tags:
        assert granted(b, tag)
    # The server ends in the middle of it.
    tag = a.send_lock(io, 1, WR)
    assert pending(a, tag)
    start = time.monotonic()
    check(s.stop(), 0)
    assert time.monotonic() - start < 8
    check(a.wait(tag).status, errno.EAGAIN)


@test
def waiting_costs_nothing(s):
    """Many who wait for one of many locks of a file are not looked at again and again; nor do they fill the table."""
    a, other = conn(s), conn(s)
    io = rw_file(a)
    tags = []
    for i in range(5000):
        tags.append(a.send_lock(io, i, RD, 2 * i, 2 * i, wait=0))
        if len(tags) == 200:
            check({a.wait(t).status for t in tags}, {0})
            tags = []
    a.lock(io, 1, WR, 1 << 40, 1 << 40)
    first = conn(s)
    first_lock(first, io)
    many = [first] + [conn(s, session=first.session, index=i) for i in range(1, 5)]
    waits = [(c, c.send_lock(io, 1000 + i, RD, 1 << 40, 1 << 40)) for c in many[:4] for i in range(64)]
    for c in many:
        c.getattr(c.root)
    time.sleep(0.5)
    before = cpu_seconds(s)
    time.sleep(3)
    used = cpu_seconds(s) - before
    assert used < 0.1, "%.2f s of CPU time while nothing goes on" % used
    check(many[4].call(LOCK, b_lock(io, 1, RD, 1 << 40, 1 << 40, wait=30000)).status, errno.EAGAIN)
    waits.append((other, other.send_lock(io, 1, RD, 1 << 40, 1 << 40)))
    assert pending(other, waits[-1][1])
    a.unlock(io, 1, 1 << 40, 1 << 40)
    for c, tag in waits:
        assert granted(c, tag)


@test
def locks_are_limited(s):
    a, b = conn(s), conn(s)
    ios = [rw_file(a, "f%d" % i) for i in range(40)]
    refused = 0
    for start in range(0, 1000, 2):
        tags = [a.send(LOCK, b_lock(io, 1, WR, start, start)) for io in ios]
        refused += sum(a.wait(t).status == errno.ENOLCK for t in tags)
    assert 3600 <= refused < 3700, refused
    # Freeing is possible, unless it makes two of one; others have what is theirs.
    io = ios[0]
    b.lock(io, 1, WR, 5000, 9999)
    check(b.test_lock(io, 1, WR, 4, 4)[:3], (WR, 4, 4))
    a.unlock(io, 1, 4, 4)
    a.unlock(io, 1, 0, 99)
    a.lock(io, 1, WR, 0, 99)
    for io2 in ios[1:]:
        tags = [a.send(LOCK, b_lock(io2, 1, WR, start, start)) for start in range(1001, 1201, 2)]
        if errno.ENOLCK in [a.wait(t).status for t in tags]:
            break
    check(a.call(LOCK, b_lock(io, 1, UN, 5, 6)).status, errno.ENOLCK)
    check(held(b, io, end=99), [(WR, 0, 100)])
    for io in ios:
        a.unlock(io, 1)
    a.lock(io, 1, WR, 0, 99)
    a.unlock(io, 1, 5, 6)
    check(held(b, io), [(WR, 0, 4), (WR, 7, 99)])


@test
def deadlocks_are_found(s):
    a, b, c = conn(s), conn(s), conn(s)
    f, g = rw_file(a, "f"), rw_file(a, "g")
    a.lock(f, 1, WR)
    b.lock(g, 1, WR)
    tag = b.send_lock(f, 1, RD, 7, 7)
    assert pending(b, tag)
    # c waits for a, which is no circle.
    tag2 = c.send_lock(f, 1, WR)
    assert pending(c, tag2)
    check(a.call(LOCK, b_lock(g, 1, WR, wait=5000)).status, errno.EDEADLK)
    check(a.call(LOCK, b_lock(g, 1, WR)).status, errno.EAGAIN)
    # Of an open file anybody may let go.
    check(a.call(LOCK, b_lock(g, 1, WR, wait=300, pid=0xffffffff)).status, errno.EAGAIN)
    a.unlock(f, 1)
    assert granted(b, tag)
    b.unlock(f, 1)
    assert granted(c, tag2)
    # Three of them.
    c.unlock(f, 1)
    for i, x in enumerate((a, b, c)):
        x.lock(f, 2, WR, 10 + i, 10 + i)
    tag = a.send_lock(f, 2, WR, 11, 11)
    tag2 = b.send_lock(f, 2, WR, 12, 12)
    assert pending(a, tag) and pending(b, tag2)
    check(c.call(LOCK, b_lock(f, 2, WR, 10, 10, wait=5000)).status, errno.EDEADLK)
    c.unlock(f, 2)
    assert granted(b, tag2)
    b.unlock(f, 2)
    assert granted(a, tag)


@test(args=["--lease", "2"])
def locks_end_with_their_session(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    for k in range(3):
        a.lock(io, k, WR, k, k)
        a.lock(rw_file(a, "f%d" % k), 1, WR, flags=L_FLOCK)
    a.close_io(io)
    tag = b.send_lock(io, 1, WR)
    assert pending(b, tag)
    a.ok(SESSION, b_session(END))
    assert granted(b, tag)
    Program(s.path("f2")).flock(fcntl.LOCK_EX)
    # A client that is gone.
    c = conn(s)
    tag = c.send_lock(io, 1, WR, wait=60000)
    b.close()
    assert pending(c, tag, 1)
    start = time.monotonic()
    assert granted(c, tag)
    assert time.monotonic() - start < 20


@test
def grace_for_locks(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    a.lock(io, 1, WR, 0, 9)
    a.lock(io, 2, RD, flags=L_FLOCK)
    for how in s.stop, s.kill:
        how()
        s.start()
        a2 = conn(s, session=a.session)
        b2 = conn(s, session=b.session)
        check(a2.session_flags, KNOWN | RECLAIM)
        check(b2.session_flags, KNOWN)
        with fails(errno.EAGAIN):
            b2.lock(io, 1, WR, 100)
        tag = b2.send_lock(io, 1, WR)
        tag2 = b2.send_lock(io, 1, WR, 100)
        assert pending(b2, tag)
        assert pending(b2, tag2)
        a2.lock(io, 1, WR, 0, 9, flags=L_RECLAIM)
        with fails(errno.ENOLCK):
            a2.lock(io, 2, WR, 5, 5, flags=L_RECLAIM)
        a2.lock(io, 2, RD, flags=L_FLOCK | L_RECLAIM)
        a2.ok(SESSION, b_session(RECLAIMED))
        assert granted(b2, tag2)
        assert pending(b2, tag)
        with fails(errno.ENOLCK):
            a2.lock(io, 1, WR, 0, 10, flags=L_RECLAIM)
        # Who has not got the answer to RECLAIMED claims all again.
        a2.lock(io, 1, WR, 0, 9, flags=L_RECLAIM)
        a2.lock(io, 2, RD, flags=L_FLOCK | L_RECLAIM)
        check(held(b2, io, end=99), [(WR, 0, 9)])
        a2.unlock(io, 1)
        assert granted(b2, tag)
        b2.unlock(io, 1)
        a2.lock(io, 1, WR, 0, 9)
        # b had locks in this life, so a restart would wait for it too: no more.
        b2.ok(SESSION, b_session(END))
        a, b = a2, conn(s)


@test(args=["--lease", "2"])
def grace_ends_with_the_lease(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    a.lock(io, 1, WR)
    s.kill()
    s.start()
    b = conn(s, session=b.session)
    tag = b.send_lock(io, 1, WR, wait=60000)
    assert pending(b, tag, 1)
    assert granted(b, tag)
    # Somebody else has had it: not even another restart lets a claim it.
    s.kill()
    s.start()
    check(session_status(s, a.session), errno.ESTALE)
    b = conn(s, session=b.session)
    b.lock(io, 1, WR, flags=L_RECLAIM)


@test(args=["--lease", "2"])
def who_claims_nothing_in_the_grace_has_lost_it(s):
    a, b = conn(s), conn(s)
    io = rw_file(a)
    a.lock(io, 1, WR)
    s.kill()
    s.start()
    a, b = conn(s, session=a.session), conn(s, session=b.session)
    check(a.session_flags, KNOWN | RECLAIM)
    tag = b.send_lock(io, 1, WR, wait=60000)
    assert granted(b, tag)
    with fails(errno.ENOLCK):
        a.lock(io, 1, WR, flags=L_RECLAIM)
    s.kill()
    s.start()
    a, b = conn(s, session=a.session), conn(s, session=b.session)
    check(a.session_flags, KNOWN)
    b.lock(io, 1, WR, flags=L_RECLAIM)
    with fails(errno.ENOLCK):
        a.lock(io, 1, WR, flags=L_RECLAIM)


@test
def only_who_had_something_claims_it(s):
    a, idle = conn(s), conn(s)
    io = rw_file(a)
    a.lock(io, 1, WR)
    s.kill()
    s.start()
    for x in conn(s), conn(s, session=idle.session):
        with fails(errno.ENOLCK):
            x.lock(io, 1, WR, flags=L_RECLAIM)
        with fails(errno.EAGAIN):
            x.lock(io, 1, WR)
    again = conn(s, session=a.session)
    again.lock(io, 1, WR, flags=L_RECLAIM)


# ---- sessions and restarts ----

KNOWN, RECLAIM = 1, 2
HOLD, RECLAIMED, END = 1, 2, 3


def b_session(what, io=bytes(FH), count=0):
    return io + struct.pack("<II", what, count)


def session_files(s):
    """Of the sessions that a restart would go on with."""
    for name in os.listdir(s.state):
        if name.endswith(".sessions"):
            return os.listdir(s.state + "/" + name)
    return []


def session_status(s, session):
    c = Conn(s, hello=False)
    status = c.hello(session=session, conn=63).status
    c.close()
    return status


@test
def records_of_before_are_not_believed(s):
    """The handles in requests that a restarted server answers from records, and in the records, are checked."""
    c = conn(s)
    f = c.create(c.root, "f")
    bad = bytearray(f.io)
    bad[19] = 255                   # the length of the kernel's handle within
    create, open_bad, close_bad = (c.frame(*ask) for ask in (
        (CREATE, b_create(c.root, "g", 0o644, 0, RW)), (OPEN, bytes(bad) + bytes((O_READ, 0, 0, 0)) + bytes(4)),
        (CLOSE, bytes(bad))))
    for (tag, raw), status in ((create, 0), (open_bad, errno.ESTALE), (close_bad, errno.ESTALE)):
        c.sock.sendall(raw)
        check(c.wait(tag).status, status)
    s.kill()
    name, = session_files(s)
    directory, = (d for d in os.listdir(s.state) if d.endswith(".sessions"))
    with open("%s/%s/%s" % (s.state, directory, name), "r+b") as file:
        def record(slot, offset):
            file.seek(4096 + slot * 1280 + offset)
            return file
        for (slot, seq), _ in (create, open_bad, close_bad):
            check(struct.unpack("<I", record(slot, 4).read(4))[0], seq)
            record(slot, 20).write(bytes(4))                # the status
        record(create[0][0], 696 + 19).write(bytes((255,)))     # the reply's
    s.start()
    c = Conn(s, hello=False)
    check(c.hello(session=bytes.fromhex(name)).status, 0)
    for _, raw in (create, open_bad, close_bad):
        c.sock.sendall(raw)
        check(c.recv().status, errno.ESTALE)
    c.sock.sendall(pack_request(SESSION, b_session(END), slot=99))
    check(c.recv().status, 0)


@test(args=["--lease", "4"])
def session_ends_a_lease_after_its_last_connection(s):
    c = conn(s)
    check(c.lease, 4)
    check(c.session_flags, 0)
    f = c.create(c.root, "f")
    c.unlink(c.root, "f")
    check(c.getattr(f.fh).nlink, 0)
    other = conn(s)
    c.close()
    time.sleep(2)
    c2 = conn(s, session=c.session)
    check(c2.session_flags, KNOWN)
    check(c2.getattr(f.fh).nlink, 0)
    c2.close()
    time.sleep(6)       # a HELLO would give it another lease
    check(session_status(s, c.session), errno.ESTALE)
    check(session_files(s), [other.session.hex()])
    with fails(errno.ESTALE):
        other.getattr(f.fh)
    check([t for t in s.fds(s.dir) if "deleted" in t], [])


@test
def session_op(s):
    c = conn(s)
    f = c.create(c.root, "f")
    for body in (b_session(0), b_session(4), b_session(HOLD, f.io, 0), b_session(RECLAIMED, f.io),
                 b_session(RECLAIMED, count=1), b_session(END, f.io), b_session(END, count=1)):
        check(c.call(SESSION, body).status, errno.EINVAL)
    check(c.call(SESSION, b_session(HOLD, f.fh, 1)).status, errno.EBADF)
    check(c.call(SESSION, b_session(HOLD, bytes(FH), 1)).status, errno.ESTALE)
    c.ok(SESSION, b_session(RECLAIMED))
    # The count is set, not added.
    c.ok(SESSION, b_session(HOLD, f.io, 3))
    c.ok(SESSION, b_session(HOLD, f.io, 2))
    c.unlink(c.root, "f")
    c.close_io(f.io)
    check(c.getattr(f.fh).nlink, 0)
    c.close_io(f.io)
    with fails(errno.ESTALE):
        c.read(f.io, 0, 1)
    check(c.call(SESSION, b_session(HOLD, f.io, 1)).status, errno.ESTALE)

    # Its end takes holds and file along; no HELLO finds it, others live on.
    g = c.create(c.root, "g")
    c.unlink(c.root, "g")
    other = conn(s)
    check(other.getattr(g.fh).nlink, 0)
    check(sorted(session_files(s)), sorted((c.session.hex(), other.session.hex())))
    c.ok(SESSION, b_session(END))
    check(session_files(s), [other.session.hex()])
    check(session_status(s, c.session), errno.ESTALE)
    with fails(errno.ESTALE):
        other.getattr(g.fh)
    # One that goes on nevertheless harms nobody.
    h = c.create(c.root, "h")
    c.ok(SESSION, b_session(END))
    c.close()
    check(other.getattr(h.fh).ino, h.attr.ino)


@test
def session_survives_restart(s):
    c = conn(s)
    idle = conn(s)
    f = c.create(c.root, "f")
    for how in (s.stop, s.kill):
        how()
        s.start()
        again = conn(s, session=c.session)
        check(again.session, c.session)
        assert again.life != c.life
        check(again.session_flags, KNOWN | RECLAIM)
        second = conn(s, session=c.session, index=7)
        check(second.session_flags, KNOWN | RECLAIM)
        again.ok(SESSION, b_session(HOLD, f.io, 1))
        again.ok(SESSION, b_session(RECLAIMED))
        check(conn(s, session=c.session, index=8).session_flags, KNOWN)
        # It never had anything, and has nothing to claim.
        check(conn(s, session=idle.session).session_flags, KNOWN)
        check(session_status(s, bytes(15) + b"x"), errno.ESTALE)
    again.unlink(again.root, "f")
    check(again.getattr(f.fh).nlink, 0)
    # Names of files that are none of ours, or not whole, do not come in the way.
    s.kill()
    where = "%s/%s/" % (s.state, [n for n in os.listdir(s.state) if n.endswith(".sessions")][0])
    for name, data in (("x", b""), ("ab" * 16, b""), ("cd" * 16, bytes(4096)), ("ef" * 20, b"x")):
        with open(where + name, "wb") as out:
            out.write(data)
    with open(where + "99" * 16, "wb") as out:
        out.truncate(os.path.getsize(where + c.session.hex()))
    s.start()
    check(sorted(session_files(s)), sorted((c.session.hex(), idle.session.hex())))


@test(start=False, args=["--threads", "1", "--lease", "1"])
def stuck_state_dir_stalls_nobody(s):
    """Connections end, and sessions, while the state directory's disk hangs."""
    disk, _ = s.state_disk()
    s.start()
    gone, ended, late, other = (conn(s) for _ in range(4))
    io = rw_file(other)
    other.write(io, 0, b"x" * 8192)
    gone.close()
    until(lambda: gone.session.hex() not in session_files(s), 10, "a session ends")
    other.sock.settimeout(5)
    with frozen(s, disk):
        for x in ended, late:
            x.close()
            for _ in range(5):
                time.sleep(0.4)
                check(len(other.read(io, 0, 8192)), 8192)
    other.sock.settimeout(30)
    until(lambda: session_files(s) == [other.session.hex()], 10, "the others end")
    other.close_io(io)


@test(start=False)
def machine_crashes(s):
    """Who held something has it after that too; what was done is not known any more, and done again."""
    disk, image = s.state_disk()
    s.start(boot=1)
    a = conn(s)
    io = rw_file(a)
    _, raw = a.frame(MKDIR, b_create(a.root, "d", 0o755, 0, 0))
    a.sock.sendall(raw)
    check(a.recv().status, 0)
    b = conn(s)
    sh("sync -f " + disk)
    b.lock(io, 1, WR)
    # What is on the disk now is what there is after it.
    sh("cp --sparse=always %s %s.crash" % (image, image))
    s.kill()
    sh("umount %s && mount -o loop %s.crash %s" % (disk, image, disk))
    s.start(boot=2)
    x = conn(s)
    with fails(errno.EAGAIN):
        x.lock(io, 1, WR)
    a, b = conn(s, session=a.session), conn(s, session=b.session)
    check((a.session_flags, b.session_flags), (KNOWN | RECLAIM, KNOWN | RECLAIM))
    b.lock(io, 1, WR, flags=L_RECLAIM)
    a.ok(SESSION, b_session(HOLD, io, 1))
    for c in a, b:
        c.ok(SESSION, b_session(RECLAIMED))
    with fails(errno.EAGAIN):
        x.lock(io, 1, WR)
    a.sock.sendall(raw)
    check(a.recv().status, errno.EEXIST)


# ---- exactly once ----

class Slots:
    """A client that remembers what it sent on each slot until there is a reply, as the module does."""

    def __init__(self, s, index=0):
        self.s, self.index = s, index
        self.c = conn(s, index=index)
        self.under_way = {}
        self.done = []

    def request(self, op, body=b"", what=None):
        """The bytes of a request that is from now on under way."""
        tag, raw = self.c.frame(op, body)
        self.under_way[tag] = (raw, what)
        return raw

    def recv(self):
        rep = self.c.recv()
        raw, what = self.under_way.pop((rep.slot, rep.seq))
        self.c.slots.append(rep.slot)
        self.done.append((what, rep))
        return rep

    def again(self):
        """Connect again, and send again what has no reply."""
        slots = self.c.slots
        self.c.close()
        self.c = conn(self.s, session=self.c.session, index=self.index)
        check(self.c.session_flags & KNOWN, KNOWN)
        # What Conn asked for itself on slot 0 is no part of this.
        self.c.slots = slots
        for raw, what in self.under_way.values():
            self.c.sock.sendall(raw)


def sent_again(s, op, body, data=b"", status=0, effect=None, cred=None):
    """The reply is lost, once on the way and once with the server; @effect must be the same after that."""
    c = conn(s, index=3)
    tag, raw = c.frame(op, body, data, cred)
    c.sock.sendall(raw)
    first = c.wait(tag)
    check(first.status, status)
    was = effect and effect()
    for how in (None, s.stop, s.kill, None):
        c.close()
        if how:
            how()
            s.start()
        c = conn(s, session=c.session, index=3)
        c.sock.sendall(raw)
        rep = c.recv()
        check((rep.op, rep.slot, rep.seq, rep.status, rep.body), (first.op, first.slot, first.seq, first.status,
                                                                  first.body), "op %d again" % op)
        if effect:
            check(effect(), was, "op %d again" % op)
    return c, first, raw


def tree(s):
    out = []
    for root, dirs, files in os.walk(s.dir):
        for n in dirs + files:
            st = os.lstat(root + "/" + n)
            out.append((root + "/" + n, st.st_ino, st.st_nlink, st.st_size, st.st_mode))
    return sorted(out)


@test
def sent_again_names(s):
    c = conn(s)
    root = c.root
    d = c.mkdir(root, "d", 0o777)[0]
    f = c.create(root, "f")
    c.close()

    def names():
        return tree(s)
    sent_again(s, CREATE, b_create(d, "new", 0o644, 0, RW | O_EXCL), effect=names)
    sent_again(s, CREATE, b_create(d, "new", 0o644, 0, RW | O_EXCL), status=errno.EEXIST, effect=names)
    sent_again(s, CREATE, b_create(d, "new2", 0o600, 0o77, RW), effect=names)
    sent_again(s, MKDIR, b_create(d, "dir", 0o755, 0, 0), effect=names)
    sent_again(s, MKNOD, b_create(d, "fifo", 0o644 | stat.S_IFIFO, 0, 0), effect=names)
    sent_again(s, SYMLINK, b_create(d, "link", 0, 0, 0, target=b"x" * 4000), effect=names)
    sent_again(s, LINK, b_link(f.fh, d, "hard"), effect=names)
    sent_again(s, RENAME, b_rename(root, "f", d, "f2"), effect=names)
    sent_again(s, RENAME, b_rename(d, "new", d, "new2", 2), effect=names)
    sent_again(s, RENAME, b_rename(d, "new", d, "new2"), effect=names)
    sent_again(s, UNLINK, b_name(d, "hard"), effect=names)
    sent_again(s, RMDIR, b_name(d, "dir"), effect=names)
    sent_again(s, UNLINK, b_name(d, "hard"), status=errno.ENOENT, effect=names)

    # And now with another in between, who would be undone.
    c, _, raw = sent_again(s, UNLINK, b_name(d, "fifo"))
    other = conn(s)
    other.create(d, "fifo", mode=0o666)
    c = conn(s, session=c.session, index=3)
    c.sock.sendall(raw)
    check(c.recv().status, 0)
    assert os.path.exists(s.path("d/fifo"))


def sent_again_attributes(s):
    c = conn(s)
    f = c.create(c.root, "f", mode=0o644)
    c.write(f.io, 0, b"x" * 1000)
    c.close()

    # The owner truncates; somebody else writes; the truncation comes again.
    c, _, raw = sent_again(s, SETATTR, b_setattr(f.fh, SET_SIZE, size=0))
    os.truncate(s.path("f"), 7)
    c = conn(s, session=c.session, index=3)
    c.sock.sendall(raw)
    check(c.recv().status, 0)
    check(os.stat(s.path("f")).st_size, 7)

    def xattrs():
        return {n: os.getxattr(s.path("f"), n) for n in os.listxattr(s.path("f")) if n.startswith("user.")}
    sent_again(s, SETXATTR, b_xattr(f.fh, "user.a", flags=1), b"value", effect=xattrs)
    sent_again(s, SETXATTR, b_xattr(f.fh, "user.a", flags=1), b"value", status=errno.EEXIST, effect=xattrs)
    sent_again(s, REMOVEXATTR, b_xattr(f.fh, "user.a"), effect=xattrs)
    sent_again(s, REMOVEXATTR, b_xattr(f.fh, "user.a"), status=errno.ENODATA, effect=xattrs)


@test(fs="ext4")
def sent_again_attributes_ext4(s):
    sent_again_attributes(s)


@test
def sent_again_parts_and_locks(s):
    c = conn(s)
    f, g = c.create(c.root, "f", mode=0o666), c.create(c.root, "g", mode=0o666)
    c.write(f.io, 0, b"x" * 8192)
    c.write(g.io, 0, b"z" * 8192)

    def again(c, raw):
        c.close()
        c = conn(s, session=c.session, index=3)
        c.sock.sendall(raw)
        check(c.recv().status, 0)
        return c

    # A lock that was freed meanwhile is not taken once more, nor is one freed that was taken.
    a = conn(s, index=3)
    tag, lock = a.frame(LOCK, b_lock(f.io, 1, WR, 0, 9))
    a.sock.sendall(lock)
    check(a.wait(tag).status, 0)
    tag, unlock = a.frame(LOCK, b_lock(f.io, 1, UN, 0, 9))
    a.sock.sendall(unlock)
    check(a.wait(tag).status, 0)
    a = again(a, lock)
    check(held(conn(s), f.io), [])
    a.lock(f.io, 1, WR, 0, 9)
    a = again(a, unlock)
    check(held(conn(s), f.io), [(WR, 0, 9)])
    a.unlock(f.io, 1, 0, 9)

    # What somebody has written meanwhile stays.
    for op, body in ((ALLOCATE, b_allocate(f.io, 0, 4096, PUNCH_HOLE | KEEP_SIZE)), (COPY, b_copy(g.io, 0, f.io, 0, 4096))):
        a, _, raw = sent_again(s, op, body)
        with open(s.path("f"), "r+b") as file:
            file.write(b"y" * 4096)
        again(a, raw)
        with open(s.path("f"), "rb") as file:
            check(file.read(), b"y" * 4096 + b"x" * 4096)


@test(args=["--lease", "5"])
def sent_again_holds(s):
    c = conn(s)
    f = c.create(c.root, "f")
    c.close_io(f.io)
    # One OPEN, however often it was sent, is one hold; one CLOSE drops one.
    a = conn(s, index=5)
    tag, raw = a.frame(OPEN, f.fh + struct.pack("<II", O_READ, 0))
    a.sock.sendall(raw)
    io = a.wait(tag).body[:FH]
    for _ in range(3):
        a = conn(s, session=a.session, index=5)
        a.sock.sendall(raw)
        check(a.recv().body[:FH], io)
    a.open(f.fh, O_READ)
    c.unlink(c.root, "f")
    tag, raw = a.frame(CLOSE, io)
    a.sock.sendall(raw)
    check(a.wait(tag).status, 0)
    for _ in range(3):
        a = conn(s, session=a.session, index=5)
        a.sock.sendall(raw)
        check(a.recv().status, 0)
    check(c.getattr(f.fh).nlink, 0)
    a.close_io(io)
    with fails(errno.ESTALE):
        c.getattr(f.fh)
    a.ok(SESSION, b_session(END))       # else it would be waited for after the restart

    # After a restart the holds are gone, and an OPEN or CLOSE that was done before and comes again counts.
    for op in (OPEN, CREATE):
        g = c.create(c.root, "g%d" % op)
        c.close_io(g.io)
        a = conn(s, index=5)
        body = g.fh + struct.pack("<II", O_READ, 0) if op == OPEN else \
            b_create(c.root, "new", 0o644, 0, RW | O_EXCL)
        tag, raw = a.frame(op, body)
        a.sock.sendall(raw)
        rep = a.wait(tag)
        s.kill()
        s.start()
        c = conn(s, session=c.session)
        c.ok(SESSION, b_session(RECLAIMED))
        a = conn(s, session=a.session, index=5)
        a.ok(SESSION, b_session(RECLAIMED))
        for _ in range(3):
            a.sock.sendall(raw)
            check(a.recv().body, rep.body)
            a = conn(s, session=a.session, index=5)
        c.unlink(c.root, "g%d" % op if op == OPEN else "new")
        fh, io = (g.fh, rep.body[:FH]) if op == OPEN else (rep.body[:FH], rep.body[ENTRY:ENTRY + FH])
        check(c.getattr(fh).nlink, 0)
        a.close_io(io)
        # For a while after a restart all that is deleted is kept.
        until(lambda: c.call(GETATTR, fh).status == errno.ESTALE, 30, "it is gone")
        a.ok(SESSION, b_session(END))


@test
def numbers_of_others_are_refused(s):
    c = conn(s)
    d = c.mkdir(c.root, "d", 0o777)[0]

    def send(seq, op, body, session, slot=9):
        a = conn(s, session=session, index=2)
        a.sock.sendall(pack_request(op, body, slot=slot, seq=seq))
        return a

    a = conn(s, index=2)
    first = send(1 << 31, MKDIR, b_create(d, "a", 0o755, 0, 0), a.session)
    check(first.recv().status, 0)
    for seq, op, body in ((1 << 31, MKDIR, b_create(d, "b", 0o755, 0, 0)),
                          (1 << 31, RMDIR, b_name(d, "a")),
                          (1 << 31, CREATE, b_create(d, "a", 0o755, 0, RW)),
                          ((1 << 31) - 1, RMDIR, b_name(d, "a")),
                          (5, RMDIR, b_name(d, "a"))):
        before = len(s.stderr())
        assert send(seq, op, body, a.session).ended(), "not closed"
        check(s.stderr(before).count("number of another"), 1)
    check(os.listdir(s.path("d")), ["a"])
    # Numbers go round, 0 left out.
    check(send((1 << 32) - 1, RMDIR, b_name(d, "a"), a.session).recv().status, 0)
    check(send(1, MKDIR, b_create(d, "c", 0o755, 0, 0), a.session).recv().status, 0)
    # Two thousand million READs later.
    for seq in range(1 << 28, 5 << 29, 1 << 28):
        check(send(seq, GETATTR, d, a.session).recv().status, 0)
    check(send(5 << 29, MKDIR, b_create(d, "d", 0o755, 0, 0), a.session).recv().status, 0)
    # Another connection's, and another session's, are others.
    b = conn(s, session=a.session, index=1)
    b.sock.sendall(pack_request(MKDIR, b_create(d, "e", 0o755, 0, 0), slot=9, seq=1))
    check(b.recv().status, 0)
    check(send(1, MKDIR, b_create(d, "f", 0o755, 0, 0), bytes(16)).recv().status, 0)
    check(sorted(os.listdir(s.path("d"))), ["c", "d", "e", "f"])


def killed_while(s, rounds):
    """kill -9 at any moment: each operation that changes names is done once, and answered as if nothing was."""
    rng = random.Random(4711)
    root = conn(s).root
    dirs = {}
    for n in "ab":
        dirs[n] = conn(s).mkdir(root, n, 0o777)[0]
    clients = [Slots(s, index) for index in range(2)]
    state = [dict() for _ in clients]   # of each client: name -> what it is, when all is answered
    decided = number = 0

    def one(k):
        """An operation of a client on names of its own; its body and what it leaves."""
        nonlocal number
        names = state[k]
        free = [n for n in names if not busy & {n}]
        kind = rng.choice((CREATE, MKDIR, SYMLINK, LINK, UNLINK, RENAME) if free else (CREATE, MKDIR))
        new = (rng.choice("ab"), "%d-%d" % (k, number))
        number += 1
        old = rng.choice(free) if free else None
        if kind in (LINK, UNLINK, RENAME):
            if kind == LINK and names[old][0] == MKDIR:
                kind = RENAME
            busy.add(old)
        busy.add(new)
        if kind == CREATE:
            return kind, b_create(dirs[new[0]], new[1], 0o644, 0, RW | O_EXCL), ("+", new, (kind,))
        if kind == MKDIR:
            return kind, b_create(dirs[new[0]], new[1], 0o755, 0, 0), ("+", new, (kind,))
        if kind == SYMLINK:
            return kind, b_create(dirs[new[0]], new[1], 0, 0, 0, target="t"), ("+", new, (kind,))
        if kind == LINK:
            return kind, b_link(handles[old], dirs[new[0]], new[1]), ("l", new, old)
        if kind == UNLINK:
            op = RMDIR if names[old][0] == MKDIR else UNLINK
            return op, b_name(dirs[old[0]], old[1]), ("-", old, None)
        return kind, b_rename(dirs[old[0]], old[1], dirs[new[0]], new[1]), (">", old, new)

    handles = {}

    def settle(k):
        for (how, name, arg), rep in clients[k].done:
            check(rep.status, 0, "op %d of %s" % (rep.op, name))
            if how == "+":
                state[k][name] = arg
                handles[name] = rep.body[:FH]
            elif how == "l":
                state[k][name] = state[k][arg]
                handles[name] = handles[arg]
            elif how == "-":
                del state[k][name]
            else:
                state[k][arg] = state[k].pop(name)
                handles[arg] = handles.pop(name)
        clients[k].done.clear()

    for _ in range(rounds):
        busy = set()
        frames = [b"".join(cl.request(*one(k)) for _ in range(100)) for k, cl in enumerate(clients)]
        for cl, raw in zip(clients, frames):
            cl.c.sock.sendall(raw)
        time.sleep(rng.random() * 0.005)
        s.kill()
        before = len(s.stderr())
        for cl in clients:      # what still came
            with contextlib.suppress(Closed):
                while cl.under_way:
                    cl.recv()
        s.start()
        decided += int(re.search(r"(\d+) operations were under way", s.stderr(before)).group(1))
        for k, cl in enumerate(clients):
            cl.again()
            while cl.under_way:
                cl.recv()
            settle(k)
        want = sorted("%s/%s" % n for k in range(len(clients)) for n in state[k])
        have = sorted("%s/%s" % (d, n) for d in "ab" for n in os.listdir(s.path(d)))
        check(have, want)
    print("# %d operations had to be decided" % decided)
    assert decided or rounds < 10


@test
def killed_while_changing_names_tmpfs(s):
    killed_while(s, 25)


@test(fs="ext4")
def killed_while_changing_names_ext4(s):
    killed_while(s, 12)


@test(fs="ext4", args=["--threads", "2"])
def request_under_way_is_waited_for(s):
    """A new connection waits until the old one's call is over, so nothing is done twice side by side."""
    c = conn(s)
    f = c.create(c.root, "f", mode=0o666)
    a = conn(s, index=1)
    with frozen(s):
        tag, raw = a.frame(CREATE, b_create(a.root, "new", 0o644, 0, RW | O_EXCL))
        a.sock.sendall(raw)
        time.sleep(0.3)
        again = Conn(s, hello=False)
        start = time.monotonic()
        check(again.hello(session=a.session, conn=1).status, errno.EBUSY)
        assert time.monotonic() - start < 8
        assert again.ended()
        # Others are not affected, of the same session neither.
        check(conn(s, session=a.session, index=2).getattr(f.fh).ino, f.attr.ino)
        results = []
        waits = Conn(s, hello=False)
        thread = threading.Thread(target=lambda: results.append(waits.hello(session=a.session, conn=1).status))
        thread.start()
        time.sleep(0.3)
        check(results, [])
    thread.join()
    check(results, [0])
    waits.sock.sendall(raw)
    rep = waits.recv()
    check(rep.status, 0)
    check(rep.body[:FH], c.lookup(c.root, "new")[0])


@test(fs="ext4", args=["--threads", "1"])
def next_server_waits_for_the_last_call(s):
    """A server that ends is succeeded when its last call is over, so what that did is known and not done again."""
    c = conn(s)
    _, raw = c.frame(MKDIR, b_create(c.root, "d", 0o755, 0, 0))
    with frozen(s):
        c.sock.sendall(raw)
        time.sleep(0.3)
        old, seen = s.proc, len(s.stderr())
        old.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        s.start(port=s.port, wait=False)
        until(lambda: "waiting for another wfsd" in s.stderr(seen), 20, "the new one tells that it waits")
        check(old.poll(), None)
        time.sleep(0.5)
        assert "serving" not in s.stderr(seen), "it does not wait"
        # One that waits can be ended.
        check(s.stop(), -signal.SIGTERM)
        s.start(port=s.port, wait=False)
    check(old.wait(20), 0)
    until(lambda: "serving" in s.stderr(seen), 20, "the new one starts")
    c = conn(s, session=c.session)
    c.sock.sendall(raw)
    check(c.recv().status, 0)


# ---- deleted files that are open ----

def hidden(s):
    """What there is under .wfsd."""
    return [os.path.relpath(root + "/" + n, s.path(".wfsd"))
            for root, dirs, files in os.walk(s.path(".wfsd")) for n in dirs + files]


def nothing_is_left(s):
    until(lambda: not os.path.lexists(s.path(".wfsd")), 30, ".wfsd is gone")


@test(args=["--lease", "3"])
def claim_holds_without_descriptors(s):
    c, other = conn(s), conn(s)
    f, g = c.create(c.root, "f"), c.create(c.root, "g")
    s.kill()
    s.start()
    c, other = conn(s, session=c.session), conn(s)
    used = set(map(int, os.listdir("/proc/%d/fd" % s.proc.pid)))
    soft, hard = resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
    check(c.call(SESSION, b_session(HOLD, f.io, 1)).status, errno.EMFILE)
    resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE, (soft, hard))
    for name in "fg":
        other.unlink(other.root, name)
    c.ok(SESSION, b_session(RECLAIMED))
    # What nobody has open goes, some time after that.
    until(lambda: c.call(GETATTR, g.fh).status == errno.ESTALE, 30, "another file is gone")
    check(c.getattr(f.fh).nlink, 0)


@test(fs="ext4", args=["--threads", "1"])
def closed_while_it_is_removed(s):
    """CLOSE comes when UNLINK has seen that the file is open, and is about to keep it."""
    c, other = conn(s), conn(s)
    f = c.create(c.root, "f")
    with frozen(s):
        tag = other.send(UNLINK, b_name(other.root, "f"))
        check(other.wait(other.send(GETATTR, other.root)).status, 0, "another thread runs the loop")
        c.close_io(f.io)
    check(other.wait(tag).status, 0)
    with fails(errno.ESTALE):
        c.getattr(f.fh)
    nothing_is_left(s)


def orphans_test(s):
    c, other = conn(s), conn(s)
    root_nlink = other.getattr(other.root).nlink
    d = c.mkdir(c.root, "d", 0o777)[0]
    made = []
    for how in ("unlink", "rename"):
        f = c.create(d, how)
        c.write(f.io, 0, how.encode())
        made.append((f, how))
        if how == "unlink":
            other.unlink(d, how)
        else:
            other.close_io(other.create(other.root, "x").io)
            other.rename(other.root, "x", d, how)
            other.unlink(d, how)
    check(len([n for n in hidden(s) if "/" in n]), 2)
    check(other.getattr(other.root).nlink, root_nlink + 1)

    # Clients don't see where they are.
    for flags in (PLUS, 0):
        names = [e.name for e in c.readdir_all(c.root, 4096, flags)]
        assert "d" in names and ".wfsd" not in names, names
    with fails(errno.ENOENT):
        c.lookup(c.root, ".wfsd", cred=ROOTCRED)
    with fails(errno.ENOENT):
        c.unlink(c.root, ".wfsd")
    with fails(errno.ENOENT):
        c.unlink(c.root, ".wfsd", RMDIR)
    with fails(errno.ENOENT):
        c.rename(c.root, ".wfsd", d, "x")
    for fn in (lambda: c.create(c.root, ".wfsd"), lambda: c.mkdir(c.root, ".wfsd"),
               lambda: c.make(MKNOD, c.root, ".wfsd", stat.S_IFREG), lambda: c.rename(c.root, "d", c.root, ".wfsd"),
               lambda: c.make(SYMLINK, c.root, ".wfsd", target="x"), lambda: c.rename(c.root, ".wfsd", c.root, "d", 2),
               lambda: c.link(made[0][0].fh, c.root, ".wfsd")):
        with fails(errno.EACCES):
            fn()
    c.close_io(c.create(d, ".wfsd").io)
    c.unlink(d, ".wfsd")

    for restart in (None, s.stop, s.kill):
        if restart:
            c.close()
            other.close()
            restart()
            s.start()
            # Before anybody has claimed anything, nothing goes.
            other = conn(s, session=other.session)
            other.ok(SESSION, b_session(RECLAIMED))
            for f, how in made:
                check(other.getattr(f.fh).nlink, 0)
            other.close_io(other.create(d, "late").io)
            late = other.lookup(d, "late")[0]
            other.unlink(d, "late")
            check(other.getattr(late).nlink, 0)
            c = conn(s, session=c.session)
            check(c.session_flags, KNOWN | RECLAIM)
            for f, how in made:
                c.ok(SESSION, b_session(HOLD, f.io, 1))
            c.ok(SESSION, b_session(RECLAIMED))
        for f, how in made:
            check(c.read(f.io, 0, 10), how.encode())
            c.write(f.io, 0, how.encode())
            check(c.getattr(f.io).nlink, 0)
            with fails(errno.ENOENT):
                c.link(f.fh, d, "again")
            check(c.setattr(f.io, SET_SIZE, size=4).size, 4)
            c.write(f.io, 0, how.encode())
    time.sleep(12)      # what came late is kept for so long
    with fails(errno.ESTALE):
        other.getattr(late)
    for f, how in made:
        c.close_io(f.io)
        with fails(errno.ESTALE):
            c.read(f.io, 0, 1)
    check(os.listdir(s.path("d")), [])
    nothing_is_left(s)
    check(other.getattr(other.root).nlink, root_nlink + 1)


@test
def deleted_files_survive_restarts_tmpfs(s):
    orphans_test(s)


@test(fs="ext4")
def deleted_files_survive_restarts_ext4(s):
    orphans_test(s)


@test
def claims_are_cut_off(s):
    """A client that has many files open, of which it claims some when its connection ends, or the server does."""
    c, other = conn(s), conn(s)
    files = [c.create(c.root, "f%d" % i) for i in range(100)]
    for i, f in enumerate(files):
        c.write(f.io, 0, b"file %d" % i)
        other.unlink(other.root, "f%d" % i)
    locked = c.create(c.root, "locked", mode=0o666)
    other_io = other.open(locked.fh, RW)
    c.lock(locked.io, 1, WR)
    for how in ("kill", "stop", "cut"):
        s.kill()
        s.start()
        other = conn(s, session=other.session)
        other.ok(SESSION, b_session(HOLD, other_io, 1))
        other.ok(SESSION, b_session(RECLAIMED))
        c = conn(s, session=c.session)
        check(c.session_flags, KNOWN | RECLAIM)
        some = [c.frame(SESSION, b_session(HOLD, f.io, 1)) for f in files[:40]]
        c.sock.sendall(b"".join(raw for _, raw in some) + pack_request(SESSION, b_session(HOLD, files[40].io, 1), slot=99)[:50])
        for tag, _ in some:
            check(c.wait(tag).status, 0)
        # Until all is claimed nobody else gets what it had, and what it has not claimed yet is there.
        check(other.call(LOCK, b_lock(other_io, 2, RD)).status, errno.EAGAIN)
        check(other.getattr(files[99].fh).nlink, 0)
        if how == "cut":
            c.close()
        else:
            getattr(s, how)()
    c = conn(s, session=c.session)
    check(c.session_flags, KNOWN | RECLAIM)
    tags = [c.send(SESSION, b_session(HOLD, f.io, 1)) for f in files]
    for tag in reversed(tags):
        check(c.wait(tag).status, 0)
    c.lock(locked.io, 1, WR, flags=L_RECLAIM)
    c.ok(SESSION, b_session(RECLAIMED))
    check(other.call(LOCK, b_lock(other_io, 2, RD)).status, errno.EAGAIN)
    for i, f in enumerate(files):
        check(c.read(f.io, 0, 100), b"file %d" % i)
        c.close_io(f.io)
    c.unlock(locked.io, 1)
    other.lock(other_io, 2, RD)
    nothing_is_left(s)


@test(args=["--lease", "2"])
def deleted_files_go_with_their_session(s):
    c, other = conn(s), conn(s)
    a, b = c.create(c.root, "a"), c.create(c.root, "b")
    ahold = other.open(a.fh, O_READ)
    c.unlink(c.root, "a")
    c.unlink(c.root, "b")
    c.close()
    until(lambda: c.session.hex() not in session_files(s), 30, "the session ends")
    check(other.getattr(a.fh).nlink, 0, "another has it open")
    with fails(errno.ESTALE):
        other.getattr(b.fh)
    other.close_io(ahold)
    nothing_is_left(s)

    # Nobody claims it; and what is no file of ours there goes too.
    c = conn(s)
    a = c.create(c.root, "a")
    c.unlink(c.root, "a")
    with open(s.path(".wfsd/") + [n for n in hidden(s) if "/" not in n][0] + "/junk", "w"):
        pass
    s.kill()
    s.start()
    c2 = conn(s)
    check(c2.getattr(a.fh).nlink, 0)
    nothing_is_left(s)
    with fails(errno.ESTALE):
        c2.getattr(a.fh)


@test(args=["--no-root-squash"])
def kept_only_when_the_last_link_goes(s):
    c = conn(s, cred=ROOTCRED)
    other = conn(s)
    f = c.create(c.root, "f", mode=0o666)
    c.link(f.fh, c.root, "g")
    c.unlink(c.root, "f")
    check(hidden(s), [])
    check(c.getattr(f.fh).nlink, 1)
    c.rename(c.root, "g", c.root, "g")
    check(c.getattr(f.fh).nlink, 1)
    # Who may not remove it leaves no trace.
    os.chmod(s.dir, 0o755)
    with fails(errno.EACCES):
        other.unlink(c.root, "g")
    os.chmod(s.dir, 0o1777)
    with fails(errno.EPERM):
        other.unlink(c.root, "g")
    check([n for n in hidden(s) if "/" in n], [])
    check(c.getattr(f.fh).nlink, 1)
    check(os.stat(s.path("g")).st_nlink, 1)
    # Nothing is kept for those who have it closed.
    c.close_io(f.io)
    c.unlink(c.root, "g")
    check([n for n in hidden(s) if "/" in n], [])
    nothing_is_left(s)
    # Somebody else's directory of that name is not used; the file stays open all the same, as long as we live.
    os.mkdir(s.path(".wfsd"), 0o777)
    os.chown(s.path(".wfsd"), 1000, 1000)
    f = c.create(c.root, "f")
    c.unlink(c.root, "f")
    check(hidden(s), [])
    check(c.getattr(f.fh).nlink, 0)
    c.close_io(f.io)


@test(start=False)
def bad_state_dirs_are_named(s):
    s.state = s.base + "/none/state"
    s.start(wait=False)
    check(s.proc.wait(20), 1)
    assert "--state-dir" in s.stderr()
    s.proc = None
    s.state = s.base + "/state"
    os.mkdir(s.state)
    sh("mount -t tmpfs -o size=64k,mode=700 wfsd-test %s" % s.state)
    s.mounts.append(s.state)
    s.start()
    s.stop()
    sh("mount -o remount,ro %s" % s.state)
    s.start(wait=False)
    check(s.proc.wait(20), 1)
    assert "Read-only" in s.stderr()
    s.proc = None
    # A full one: those who are there go on, nobody else comes, and room is seen.
    sh("mount -o remount,rw %s" % s.state)
    s.start()
    c = conn(s)
    f = c.create(c.root, "f")
    with contextlib.suppress(OSError), open(s.state + "/fill", "wb") as fill:
        while fill.write(bytes(4096)):
            fill.flush()
    c2 = Conn(s, hello=False)
    check(c2.hello().status, errno.ENOSPC)
    assert c2.ended()
    # Records that have no room on the disk any more are kept in memory.
    tags = [c.send(CREATE, b_create(c.root, "g%d" % i, 0o600, 0, RW)) for i in range(60)]
    for tag in tags:
        check(c.wait(tag).status, 0)
    check(c.getattr(f.fh).nlink, 1)
    s.kill()
    s.start()
    c = conn(s, session=c.session)
    check(c.getattr(f.fh).nlink, 1)
    os.unlink(s.state + "/fill")
    check(conn(s).session_flags, 0)


@test(start=False)
def state_on_btrfs(s):
    """The sessions' files are written in place: mapped memory must not need room that a full disk has not got."""
    back = s.base + "/back"
    os.mkdir(back)
    sh("truncate -s 200M %s.image" % back)
    try:
        sh("mkfs.btrfs -q %s.image && mount -o loop %s.image %s" % (back, back, back))
    except subprocess.CalledProcessError as e:
        raise Skip("no btrfs on a loop device: %s" % e.stdout.strip()) from None
    s.mounts.append(back)
    s.state = back + "/state"
    s.start()
    c = conn(s)
    f = c.create(c.root, "f")
    directory, = (d for d in os.listdir(s.state) if d.endswith(".sessions"))
    with open("%s/%s/%s" % (s.state, directory, session_files(s)[0]), "rb") as file:
        flags = struct.unpack("l", fcntl.ioctl(file, 0x80086601, bytes(8)))[0]      # FS_IOC_GETFLAGS
    assert flags & 0x00800000, "flags %#x: without FS_NOCOW_FL" % flags
    check(c.getattr(f.fh).nlink, 1)


def run_one(name, fn, opts):
    opts = dict(opts)
    opts.pop("long", None)
    opts.pop("needs", None)
    s = Server(**dict(opts, start=False))
    try:
        if opts.get("start", True):
            s.start()
        fn(s)
        code = s.stop()
        check(code, 0, "exit of the server")
        for bad in ("AddressSanitizer", "runtime error", "ThreadSanitizer", "LeakSanitizer"):
            assert bad not in s.stderr(), "a sanitizer reports"
    except Skip:
        raise
    except BaseException:
        print("# log of the server:")
        with contextlib.suppress(subprocess.TimeoutExpired):
            s.stop()
        for line in s.stderr().splitlines()[-60:]:
            print("#   " + line)
        raise
    finally:
        if s.proc:
            s.kill()
        s.clean()


def has_module(name):
    return not name or os.path.exists("/sys/module/" + name) or \
        not subprocess.run(["modprobe", "-q", name]).returncode


def main():
    args = [a for a in sys.argv[1:] if not a.startswith("-")]
    verbose, long = "-v" in sys.argv, "-l" in sys.argv
    if os.geteuid():
        print("1..0 # SKIP must be root")
        return 4
    chosen = [t for t in tests if t[0] in args or (
        not args and (long or not t[2].get("long")) and has_module(t[2].get("needs")))]
    for name in set(args) - {t[0] for t in tests}:
        sys.exit("no test %s" % name)
    print("TAP version 13")
    print("1..%d" % len(chosen))
    failed = 0
    for number, (name, fn, opts) in enumerate(chosen, 1):
        start = time.monotonic()
        try:
            run_one(name, fn, opts)
            result = "ok %d %s" % (number, name)
        except Skip as e:
            result = "ok %d %s # SKIP %s" % (number, name, e)
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            result = "not ok %d %s" % (number, name)
        if verbose:
            result += " # %.1f s" % (time.monotonic() - start)
        print(result, flush=True)
    print("# Totals: pass:%d fail:%d" % (len(chosen) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
