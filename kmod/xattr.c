// SPDX-License-Identifier: GPL-2.0
/* xattr.c - extended attributes; nothing of them is cached here (of ACLs the VFS does, see acl.c) */
#include <linux/xattr.h>

#include "internal.h"

static struct wfs_req *wfs_xattr_req(struct inode *inode, u8 op, const char *name, u32 size, u32 flags)
{
	struct qstr qname = QSTR_INIT(name, strlen(name));
	struct wfs_xattr_req *body;
	struct wfs_req *req;

	req = wfs_req_alloc(wfs_sess(inode->i_sb), op, current_cred(), sizeof(*body) + qname.len, GFP_KERNEL);
	if (!req)
		return NULL;
	body = req->body;
	body->fh = WFS_I(inode)->fh;
	body->size = cpu_to_le32(size);
	body->flags = cpu_to_le32(flags);
	body->name_len = cpu_to_le16(qname.len);
	wfs_put_name(body + 1, &qname);
	return req;
}

/**
 * wfs_xattr_read - GETXATTR and LISTXATTR
 * @inode: the inode
 * @op: which of them
 * @name: whole name of the attribute, empty for the list
 * @value: where the value, or the list, goes
 * @size: bytes of room there, 0 to ask only for the length
 *
 * Return: bytes or a negative errno.
 */
ssize_t wfs_xattr_read(struct inode *inode, u8 op, const char *name, void *value, size_t size)
{
	struct wfs_req *req;
	ssize_t ret;

	size = min_t(size_t, size, WFS_XATTR_MAX);
	req = wfs_xattr_req(inode, op, name, size, 0);
	if (!req)
		return -ENOMEM;
	ret = size ? wfs_req_buf(req, size, false) : 0;
	if (!ret)
		ret = wfs_req_call(req);
	if (!ret) {
		ret = size ? req->data_len : le32_to_cpu(((struct wfs_xattr_rep *)req->rep)->size);
		if (size)
			memcpy(value, req->buf, ret);
	}
	wfs_req_put(req);
	return ret;
}

static int wfs_xattr_get(const struct xattr_handler *handler, struct dentry *dentry, struct inode *inode,
			 const char *name, void *value, size_t size)
{
	return wfs_xattr_read(inode, WFS_OP_GETXATTR, xattr_full_name(handler, name), value, size);
}

/**
 * wfs_xattr_write - SETXATTR and REMOVEXATTR
 * @inode: the inode
 * @name: whole name of the attribute
 * @value: its value, NULL to remove it
 * @size: bytes
 * @flags: XATTR_CREATE, XATTR_REPLACE
 *
 * Return: 0 or a negative errno.
 */
int wfs_xattr_write(struct inode *inode, const char *name, const void *value, size_t size, int flags)
{
	struct wfs_req *req;
	int err = 0;

	if (size > WFS_XATTR_MAX)
		return -E2BIG;
	req = wfs_xattr_req(inode, value ? WFS_OP_SETXATTR : WFS_OP_REMOVEXATTR, name, 0, value ? flags : 0);
	if (!req)
		return -ENOMEM;
	if (value && size) {
		err = wfs_req_buf(req, size, true);
		if (!err)
			memcpy(req->buf, value, size);
	}
	if (!err)
		err = wfs_req_call(req);
	if (!err)
		err = wfs_update_attr_wire(inode, (struct wfs_attr *)req->rep, req->start, WFS_ATTR_OURS);
	wfs_req_put(req);
	return err;
}

static int wfs_xattr_set(const struct xattr_handler *handler, struct mnt_idmap *idmap, struct dentry *dentry,
			 struct inode *inode, const char *name, const void *value, size_t size, int flags)
{
	return wfs_xattr_write(inode, xattr_full_name(handler, name), value, size, flags);
}

ssize_t wfs_listxattr(struct dentry *dentry, char *list, size_t size)
{
	return wfs_xattr_read(d_inode(dentry), WFS_OP_LISTXATTR, "", list, size);
}

static const struct xattr_handler wfs_xattr_user = {
	.prefix	= XATTR_USER_PREFIX,
	.get	= wfs_xattr_get,
	.set	= wfs_xattr_set,
};

const struct xattr_handler * const wfs_xattr_handlers[] = {
	&wfs_xattr_user,
	NULL
};
