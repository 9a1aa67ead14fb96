#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""cut.py PORT: reset the established TCP connections of the server on that port of this namespace.

What "ss -K" does, for a kernel without INET_DIAG_DESTROY: each socket is borrowed from its
process and disconnected, which sends an RST and leaves an error for the process to find.
"""

import ctypes
import glob
import os
import re
import sys

PIDFD_GETFD = 438
ESTABLISHED = "01"
AF_UNSPEC = bytes(16)
libc = ctypes.CDLL(None, use_errno=True)


def inodes(port):
    """The sockets' inode numbers."""
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(path) as file:
            for line in file.readlines()[1:]:
                field = line.split()
                if field[3] == ESTABLISHED and int(field[1].rsplit(":", 1)[1], 16) == port:
                    yield field[9]


def main():
    wanted = {"socket:[%s]" % inode for inode in inodes(int(sys.argv[1]))}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) not in wanted:
                continue
            pid, fd = map(int, re.findall(r"\d+", link))
            pidfd = os.pidfd_open(pid)
            mine = libc.syscall(PIDFD_GETFD, pidfd, fd, 0)
            os.close(pidfd)
        except OSError:
            continue                # gone meanwhile
        if mine >= 0:
            libc.connect(mine, AF_UNSPEC, len(AF_UNSPEC))
            os.close(mine)
    return 0 if wanted else 1


if __name__ == "__main__":
    sys.exit(main())
