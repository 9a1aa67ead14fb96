// SPDX-License-Identifier: GPL-2.0
/*
 * mountapi - mounts through fsopen(2) and friends, without mount.wfs.
 *
 *	mountapi DIR SOURCE [OPTION[=VALUE]]...
 *
 * Prints what the context's log says.  Exit code 0 when DIR is mounted, 1 when an option was refused,
 * 2 when the mount was, 3 for anything else.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/mount.h>

static void print_log(int fd)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf) - 1)) > 0) {
		buf[n] = 0;
		printf("log: %s\n", buf);
	}
}

static int failed(int fd, const char *what, const char *arg, int code)
{
	printf("%s %s: %s\n", what, arg, strerror(errno));
	print_log(fd);
	return code;
}

int main(int argc, char **argv)
{
	int fd, mnt;

	if (argc < 3) {
		fprintf(stderr, "usage: mountapi DIR SOURCE [OPTION[=VALUE]]...\n");
		return 3;
	}
	fd = fsopen("wfs", FSOPEN_CLOEXEC);
	if (fd < 0) {
		perror("fsopen wfs");
		return 3;
	}
	if (fsconfig(fd, FSCONFIG_SET_STRING, "source", argv[2], 0))
		return failed(fd, "source", argv[2], 1);
	for (int i = 3; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (value)
			*value++ = 0;
		if (fsconfig(fd, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, argv[i], value, 0))
			return failed(fd, "option", argv[i], 1);
	}
	if (fsconfig(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return failed(fd, "create", argv[2], 2);
	mnt = fsmount(fd, FSMOUNT_CLOEXEC, 0);
	if (mnt < 0)
		return failed(fd, "fsmount", argv[2], 3);
	if (move_mount(mnt, "", AT_FDCWD, argv[1], MOVE_MOUNT_F_EMPTY_PATH))
		return failed(fd, "move_mount", argv[1], 3);
	print_log(fd);
	return 0;
}
