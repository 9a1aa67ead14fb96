// SPDX-License-Identifier: GPL-2.0
/*
 * fuzz_request.c - libFuzzer target: what a client may send, through server/request.c as the server calls it
 *
 * Input: a byte (bit 0: HELLO was answered, bit 1: small limits), then frames, one after the other.
 */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "wfsd.h"

#define WANT(c)		do { if (!(c)) __builtin_trap(); } while (0)

/* As handle.c has it, with a key that is always the same. */
uint64_t handle_keyed_hash(const void *data, size_t len)
{
	static const uint8_t key[crypto_shorthash_siphash24_KEYBYTES];
	uint64_t hash;

	crypto_shorthash_siphash24((uint8_t *)&hash, data, len, key);
	return hash;
}

static void want_name(const char *name)
{
	size_t len = strnlen(name, WFS_NAME_MAX + 1);

	WANT(len && len <= WFS_NAME_MAX && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, ".."));
}

static void want_range(uint64_t offset, uint64_t len)
{
	WANT(len && offset <= INT64_MAX && len <= INT64_MAX && offset + len <= INT64_MAX);
}

static void want_lock(const struct request *rq)
{
	unsigned int kinds = rq->flags & ~WFS_LOCK_FLOCK;

	WANT(rq->type <= WFS_LOCK_UNLOCK && rq->start <= rq->end && rq->end <= INT64_MAX);
	WANT(!(rq->flags & ~WFS_LOCK__ALL) && !(kinds & (kinds - 1)));
	WANT(rq->wait <= WFS_LOCK_WAIT_MAX && (!rq->wait || (!kinds && rq->type != WFS_LOCK_UNLOCK)));
	if (rq->flags & WFS_LOCK_FLOCK)
		WANT(!rq->start && rq->end == INT64_MAX && kinds != WFS_LOCK_TEST);
	WANT((kinds == WFS_LOCK_CANCEL) <= (rq->type == WFS_LOCK_UNLOCK));
	WANT(rq->type != WFS_LOCK_UNLOCK || !kinds || kinds == WFS_LOCK_CANCEL);
}

static void want_session(const struct request *rq)
{
	static const struct wfs_fh none;

	switch (rq->flags) {
	case WFS_SESSION_HOLD:
		WANT(rq->count && rq->count <= WFS_HOLD_COUNT_MAX);
		break;
	case WFS_SESSION_RECLAIMED:
	case WFS_SESSION_END:
		WANT(!rq->count && !memcmp(&rq->fh, &none, sizeof(none)));
		break;
	default:
		WANT(false);
	}
}

/* What the server relies on when HELLO was found good. */
static void want_hello(const struct wfs_hello_req *h)
{
	WANT(le32toh(h->version_min) <= WFS_VERSION && le32toh(h->version_max) >= WFS_VERSION);
	WANT(le16toh(h->conn) < WFS_CONNS_MAX && !h->reserved && h->max_inflight);
	WANT(le32toh(h->max_read) >= WFS_IO_MIN && le32toh(h->max_write) >= WFS_IO_MIN);
}

/* What the operations rely on when a request was found good. */
static void want(const struct request *rq, const struct limits *lim)
{
	if (rq->op == WFS_OP_HELLO) {
		want_hello(&rq->hello);
		return;
	}
	WANT(rq->uid != (uid_t)-1 && rq->gid != (gid_t)-1);
	for (uint32_t i = 0; i < rq->ngroups; i++)
		WANT(rq->groups[i] != (gid_t)-1);

	switch (rq->op) {
	case WFS_OP_RENAME:
		want_name(rq->name2);
		/* fall through */
	case WFS_OP_LOOKUP:
	case WFS_OP_UNLINK:
	case WFS_OP_RMDIR:
	case WFS_OP_LINK:
	case WFS_OP_CREATE:
	case WFS_OP_MKDIR:
	case WFS_OP_MKNOD:
		want_name(rq->name);
		break;
	case WFS_OP_SYMLINK:
		want_name(rq->name);
		WANT(*rq->name2 && strnlen(rq->name2, WFS_TARGET_MAX + 1) <= WFS_TARGET_MAX);
		break;
	case WFS_OP_READ:
		WANT(rq->count && rq->count <= lim->max_read && rq->offset <= INT64_MAX - (uint64_t)rq->count);
		break;
	case WFS_OP_WRITE:
		WANT(rq->data_len && rq->data_len <= lim->max_write &&
		     rq->offset <= INT64_MAX - (uint64_t)rq->data_len);
		break;
	case WFS_OP_READDIR:
		WANT(rq->count >= WFS_IO_MIN && rq->count <= WFS_READDIR_MAX && rq->offset <= INT64_MAX);
		break;
	case WFS_OP_GETXATTR:
	case WFS_OP_SETXATTR:
	case WFS_OP_REMOVEXATTR:
		WANT(*rq->name);
		/* fall through */
	case WFS_OP_LISTXATTR:
		WANT(rq->count <= WFS_XATTR_MAX && rq->data_len <= WFS_XATTR_MAX &&
		     strnlen(rq->name, WFS_NAME_MAX + 1) <= WFS_NAME_MAX);
		break;
	case WFS_OP_SETATTR:
		WANT(!(rq->flags & ~WFS_SET__ALL));
		if (rq->flags & WFS_SET_SIZE)
			WANT(rq->set_size <= INT64_MAX);
		break;
	case WFS_OP_ACCESS:
		WANT(rq->count <= 7);
		break;
	case WFS_OP_OPEN:
		WANT(rq->flags & (WFS_OPEN_READ | WFS_OPEN_WRITE) && !(rq->flags & ~WFS_OPEN__ALL) &&
		     !(rq->flags & WFS_OPEN_EXCL));
		break;
	case WFS_OP_COMMIT:
		WANT(!(rq->flags & ~(WFS_COMMIT_DATASYNC | WFS_COMMIT_ALL)));
		break;
	case WFS_OP_LOCK:
		want_lock(rq);
		break;
	case WFS_OP_SESSION:
		want_session(rq);
		break;
	case WFS_OP_ALLOCATE:
		want_range(rq->offset, rq->len);
		WANT(!(rq->mode & WFS_ALLOC_PUNCH_HOLE) || rq->mode == (WFS_ALLOC_PUNCH_HOLE | WFS_ALLOC_KEEP_SIZE));
		WANT(!(rq->mode & ~(WFS_ALLOC_KEEP_SIZE | WFS_ALLOC_PUNCH_HOLE | WFS_ALLOC_ZERO_RANGE)));
		break;
	case WFS_OP_SEEK:
		WANT(rq->offset <= INT64_MAX && (rq->count == WFS_SEEK_DATA || rq->count == WFS_SEEK_HOLE));
		break;
	case WFS_OP_COPY:
		want_range(rq->offset, rq->len);
		want_range(rq->to_offset, rq->len);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct limits lim = { .max_read = WFS_IO_MAX, .max_write = WFS_IO_MAX, .max_inflight = 256 };
	struct request *rq;
	void *frame;

	if (!size)
		return 0;
	lim.hello = *data & 1;
	if (*data & 2)
		lim.max_read = lim.max_write = WFS_IO_MIN, lim.max_inflight = 1;
	data++;
	size--;
	rq = malloc(sizeof(*rq));
	while (size >= sizeof(struct wfs_req_hdr)) {
		int err;

		/* what an earlier request left must not be seen */
		memset(rq, 0xa5, sizeof(*rq));
		frame = malloc(sizeof(struct wfs_req_hdr));
		memcpy(frame, data, sizeof(struct wfs_req_hdr));
		err = request_head(frame, &lim, rq);
		free(frame);
		WANT(!err || err == -EPROTO);
		if (err)
			break;
		WANT(rq->frame_len <= sizeof(struct wfs_req_hdr) + WFS_GROUPS_MAX * 4 + WFS_BODY_MAX);
		WANT(rq->slot < lim.max_inflight && rq->op && rq->op < WFS_OP__COUNT);
		WANT(rq->data_len <= lim.max_write || rq->op == WFS_OP_SETXATTR);
		if (size < rq->frame_len)
			break;
		frame = malloc(rq->frame_len);
		memcpy(frame, data, rq->frame_len);
		err = request_body(frame, &lim, rq);
		free(frame);
		WANT(err <= 0);
		if (!err)
			want(rq, &lim);
		if (err == -EPROTO)
			break;
		data += rq->frame_len;
		size -= rq->frame_len;
		/* data is not looked at: it is on its way to a file */
		if (size < rq->data_len)
			break;
		data += rq->data_len;
		size -= rq->data_len;
		if (rq->op == WFS_OP_HELLO && err)
			break;
		if (rq->op == WFS_OP_HELLO)
			lim.hello = true;
	}
	free(rq);
	return 0;
}
