// SPDX-License-Identifier: GPL-2.0
/*
 * fuzz_request.c - libFuzzer target: what a client may send, through server/request.c as the server calls it
 *
 * Input: a byte (bit 0: HELLO was answered, bit 1: small limits), then frames, one after the other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wfsd.h"

#define WANT(c)		do { if (!(c)) __builtin_trap(); } while (0)

static void want_name(const char *name)
{
	size_t len = strnlen(name, WFS_NAME_MAX + 1);

	WANT(len && len <= WFS_NAME_MAX && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, ".."));
}

/* What the operations rely on when a request was found good. */
static void want(const struct request *rq, const struct limits *lim)
{
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
		if (!err && rq->op != WFS_OP_HELLO)
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
		if (rq->op == WFS_OP_HELLO)
			lim.hello = true;
	}
	free(rq);
	return 0;
}
