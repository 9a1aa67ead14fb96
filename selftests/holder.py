#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Holds files open for a test, and does with them what it is told, line by line; answers "ok" or what is wrong.

  open N PATH | close N | read N OFFSET TEXT | write N OFFSET TEXT | truncate N SIZE | stat N NLINK SIZE | sync N
  lock N | all COUNT WHAT N ...: the same for the files N1 to NCOUNT, with % in place of the number in what follows
"""
import fcntl
import os
import sys

files = {}


def expect(got, want):
    return "ok" if got == want else "%r, not %r" % (got, want)


def do(what, n, *args):
    if what == "open":
        files[n] = os.open(args[0], os.O_RDWR | os.O_CREAT, 0o644)
    elif what == "close":
        os.close(files.pop(n))
    elif what == "read":
        return expect(os.pread(files[n], len(args[1]), int(args[0])), args[1].encode())
    elif what == "write":
        return expect(os.pwrite(files[n], args[1].encode(), int(args[0])), len(args[1]))
    elif what == "truncate":
        os.ftruncate(files[n], int(args[0]))
    elif what == "stat":
        st = os.fstat(files[n])
        return expect((st.st_nlink, st.st_size), (int(args[0]), int(args[1])))
    elif what == "sync":
        os.fsync(files[n])
    elif what == "lock":
        fcntl.flock(files[n], fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif what == "all":
        for i in range(1, int(n) + 1):
            answer = do(args[0], args[1] + str(i), *(x.replace("%", str(i)) for x in args[2:]))
            if answer != "ok":
                return "%d: %s" % (i, answer)
    else:
        return "what is %s?" % what
    return "ok"


for line in sys.stdin:
    try:
        answer = do(*line.split())
    except OSError as e:
        answer = str(e)
    print(answer, flush=True)
