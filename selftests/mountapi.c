// SPDX-License-Identifier: GPL-2.0
/*
 * mountapi - mounts through fsopen(2) and friends, without mount.wfs.
 *
 *	mountapi [-n TIMES] DIR SOURCE [OPTION[=VALUE]]...
 *
 * With -n it mounts, writes DIR/count, reads it and unmounts, TIMES times.  Prints what the context's log says.  Exit code 0 when DIR is mounted, 1 when an option was refused,
 * 2 when the mount was, 3 for anything else.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
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

static int mount_once(char **argv)
{
	int fd, mnt;

	fd = fsopen("wfs", FSOPEN_CLOEXEC);
	if (fd < 0) {
		perror("fsopen wfs");
		return 3;
	}
	if (fsconfig(fd, FSCONFIG_SET_STRING, "source", argv[1], 0))
		return failed(fd, "source", argv[1], 1);
	for (int i = 2; argv[i]; i++) {
		char *option = strdup(argv[i]), *value = strchr(option, '=');
		int ret;

		if (value)
			*value++ = 0;
		ret = fsconfig(fd, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, option, value, 0);
		free(option);
		if (ret)
			return failed(fd, "option", argv[i], 1);
	}
	if (fsconfig(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return failed(fd, "create", argv[1], 2);
	mnt = fsmount(fd, FSMOUNT_CLOEXEC, 0);
	if (mnt < 0)
		return failed(fd, "fsmount", argv[1], 3);
	if (move_mount(mnt, "", AT_FDCWD, argv[0], MOVE_MOUNT_F_EMPTY_PATH))
		return failed(fd, "move_mount", argv[0], 3);
	print_log(fd);
	close(mnt);
	close(fd);
	return 0;
}

static int use(const char *dir, int n)
{
	char path[PATH_MAX];
	int got = 0, fd;

	snprintf(path, sizeof(path), "%s/count", dir);
	fd = open(path, O_RDWR | O_CREAT, 0644);
	if (fd < 0 || pwrite(fd, &n, sizeof(n), 0) != sizeof(n) || pread(fd, &got, sizeof(got), 0) != sizeof(got) ||
	    got != n || close(fd)) {
		perror(path);
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int times = 0, opt;

	while ((opt = getopt(argc, argv, "n:")) != -1) {
		if (opt != 'n')
			return 3;
		times = atoi(optarg);
	}
	argv += optind;
	if (argc - optind < 2) {
		fprintf(stderr, "usage: mountapi [-n TIMES] DIR SOURCE [OPTION[=VALUE]]...\n");
		return 3;
	}
	if (!times)
		return mount_once(argv);
	for (int i = 0; i < times; i++) {
		int ret = mount_once(argv);

		if (ret)
			return ret;
		if (use(argv[0], i))
			return 3;
		if (umount(argv[0])) {
			perror("umount");
			return 3;
		}
	}
	return 0;
}
