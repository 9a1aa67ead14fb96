// SPDX-License-Identifier: GPL-2.0-only
/*
 * cred.c - whose rights a thread acts with.
 *
 * Permissions are the kernel's to judge.  So a thread takes on the caller's file system uid, gid
 * and groups before it touches a file; leaving uid 0 takes the capabilities about files away as
 * well.  It is root again only to open what a handle names, and those who hold a handle were let to
 * it before.
 */
#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wfsd.h"

/*
 * The first six are root's ways with files; SETUID and SETGID are for changing over.  SYS_RESOURCE
 * must not be among them: it would lift quotas and use up the blocks reserved for root.
 */
void cred_drop_privileges(void)
{
	capng_clear(CAPNG_SELECT_BOTH);
	capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET,
		      CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_CHOWN, CAP_FOWNER, CAP_FSETID,
		      CAP_MKNOD, CAP_SETUID, CAP_SETGID, -1);
	if (capng_apply(CAPNG_SELECT_BOTH))
		die("dropping privileges failed; wfsd must be started as root");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("PR_SET_NO_NEW_PRIVS: %s", strerror(errno));
}

/* glibc's setgroups() is for the process, the system call for the thread. */
static int thread_setgroups(size_t n, const gid_t *groups)
{
	return syscall(SYS_setgroups, n, groups);
}

void cred_thread_init(struct cred *cred)
{
	memset(cred, 0, sizeof(*cred));
	if (thread_setgroups(0, NULL))
		die("setgroups: %s", strerror(errno));
	setfsgid(0);
	setfsuid(0);
	umask(0);
}

static void set_uid(struct cred *cred, uid_t uid)
{
	if (cred->uid == uid)
		return;
	setfsuid(uid);
	cred->uid = uid;
}

void cred_root(struct cred *cred)
{
	set_uid(cred, 0);
}

void cred_umask(struct cred *cred, mode_t mask)
{
	if (cred->umask == mask)
		return;
	umask(mask);
	cred->umask = mask;
}

/**
 * cred_assume - act for the caller of a request
 *
 * Return: 0, or -EPERM when the kernel does not know such an id: then nothing may be done.
 */
int cred_assume(struct cred *cred, const struct request *rq)
{
	uid_t uid = rq->uid || !cfg.root_squash ? rq->uid : cfg.anon_uid;
	gid_t gid = rq->gid || !cfg.root_squash ? rq->gid : cfg.anon_gid;
	bool same = cred->ngroups == rq->ngroups;

	for (uint32_t i = 0; same && i < rq->ngroups; i++)
		same = cred->groups[i] == (rq->groups[i] || !cfg.root_squash ? rq->groups[i] :
					   cfg.anon_gid);
	if (!same) {
		for (uint32_t i = 0; i < rq->ngroups; i++)
			cred->groups[i] = rq->groups[i] || !cfg.root_squash ? rq->groups[i] :
					  cfg.anon_gid;
		cred->ngroups = rq->ngroups;
		if (thread_setgroups(cred->ngroups, cred->groups)) {
			cred->ngroups = 0;
			if (thread_setgroups(0, NULL))
				die("setgroups: %s", strerror(errno));
			return -EPERM;
		}
	}
	/* setfs*id() do not say whether they did it; asking again with an impossible id does. */
	if (cred->gid != gid) {
		setfsgid(gid);
		cred->gid = setfsgid(-1);
	}
	if (cred->uid != uid) {
		setfsuid(uid);
		cred->uid = setfsuid(-1);
	}
	return cred->uid == uid && cred->gid == gid ? 0 : -EPERM;
}
