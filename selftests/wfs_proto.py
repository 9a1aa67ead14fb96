# SPDX-License-Identifier: GPL-2.0
"""The wire protocol's numbers and structures (kmod/wfs_proto.h), for what speaks it in Python."""

import struct

MAGIC = 0x31534657
(HELLO, ROOT, LOOKUP, GETATTR, SETATTR, ACCESS, OPEN, CREATE, CLOSE, READ, WRITE, COMMIT, MKDIR, MKNOD,
 SYMLINK, LINK, UNLINK, RMDIR, RENAME, READLINK, READDIR, STATFS, GETXATTR, SETXATTR, LISTXATTR,
 REMOVEXATTR, LOCK, SESSION, ALLOCATE, SEEK, COPY) = range(1, 32)
OPS = ("- HELLO ROOT LOOKUP GETATTR SETATTR ACCESS OPEN CREATE CLOSE READ WRITE COMMIT MKDIR MKNOD SYMLINK LINK "
       "UNLINK RMDIR RENAME READLINK READDIR STATFS GETXATTR SETXATTR LISTXATTR REMOVEXATTR LOCK SESSION "
       "ALLOCATE SEEK COPY").split()

REQ = struct.Struct("<IBBHIIIIIHH")
REP = struct.Struct("<IBBHIIIIQ")
ATTR = struct.Struct("<8Q12I2Q")
ATTR_FIELDS = ("ino size blocks change atime mtime ctime btime atime_ns mtime_ns ctime_ns btime_ns mode "
               "nlink uid gid rdev_major rdev_minor blksize flags run run_base").split()
HELLO_REQ = struct.Struct("<IIQ16sHHIII")
HELLO_REP = struct.Struct("<IIQ16sQIIIIIIQII")
DIRENT = struct.Struct("<QQHBBI")
STATFS_REP = struct.Struct("<5QII")
FH = 64
