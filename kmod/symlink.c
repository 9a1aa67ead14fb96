// SPDX-License-Identifier: GPL-2.0
/* symlink.c - the target of a symbolic link never changes, so it is read once */
#include "internal.h"

static const char *wfs_get_link(struct dentry *dentry, struct inode *inode, struct delayed_call *done)
{
	struct wfs_fh_req *body;
	struct wfs_req *req;
	char *target;
	int err;

	if (!dentry)
		return ERR_PTR(-ECHILD);
	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_READLINK, current_cred(), sizeof(*body), GFP_KERNEL);
	if (!req)
		return ERR_PTR(-ENOMEM);
	body = req->body;
	body->fh = WFS_I(inode)->fh;
	err = wfs_req_buf(req, WFS_TARGET_MAX, false);
	if (!err)
		err = wfs_req_call(req);
	target = err ? ERR_PTR(err) : kmemdup_nul(req->buf, req->data_len, GFP_KERNEL);
	wfs_req_put(req);
	if (IS_ERR_OR_NULL(target))
		return target ?: ERR_PTR(-ENOMEM);
	/* from here on the VFS finds it in the inode; wfs_free_inode() frees it */
	if (cmpxchg_release(&inode->i_link, NULL, target))
		kfree(target);
	return READ_ONCE(inode->i_link);
}

const struct inode_operations wfs_symlink_inode_operations = {
	.get_link	= wfs_get_link,
	.getattr	= wfs_getattr,
	.setattr	= wfs_setattr,
	.permission	= wfs_permission,
	.listxattr	= wfs_listxattr,
};
