// SPDX-License-Identifier: GPL-2.0
/*
 * acl.c - POSIX ACLs
 *
 * They are attributes like others on the wire, and the server's kernel is who enforces them.  Here they decide, as mode
 * bits do, what never reaches the server (wfs_permission()).  The VFS caches them; wfs_update_attr() has it
 * forget them when the inode changes.
 */
#include <linux/fs.h>
#include <linux/posix_acl_xattr.h>

#include "internal.h"

static const char *wfs_acl_name(int type)
{
	return type == ACL_TYPE_ACCESS ? XATTR_NAME_POSIX_ACL_ACCESS : XATTR_NAME_POSIX_ACL_DEFAULT;
}

/**
 * wfs_get_acl - ask for an ACL that is not cached
 * @inode: the inode
 * @type: ACL_TYPE_*
 * @rcu: must not sleep
 *
 * Return: the ACL, NULL when there is none, or an ERR_PTR.
 */
struct posix_acl *wfs_get_acl(struct inode *inode, int type, bool rcu)
{
	static const size_t sizes[] = { 1024, WFS_XATTR_MAX };	/* nearly all are small */
	struct posix_acl *acl = NULL;
	ssize_t len = -ERANGE;
	void *value;
	int i;

	if (rcu)
		return ERR_PTR(-ECHILD);
	for (i = 0; i < ARRAY_SIZE(sizes) && len == -ERANGE; i++) {
		value = kvmalloc(sizes[i], GFP_KERNEL);
		if (!value)
			return ERR_PTR(-ENOMEM);
		len = wfs_xattr_read(inode, WFS_OP_GETXATTR, wfs_acl_name(type), value, sizes[i]);
		if (len > 0)
			acl = posix_acl_from_xattr(&init_user_ns, value, len);
		kvfree(value);
	}
	if (len < 0 && len != -ENODATA && len != -EOPNOTSUPP)
		return ERR_PTR(len);
	if (!IS_ERR_OR_NULL(acl) && posix_acl_valid(&init_user_ns, acl)) {
		posix_acl_release(acl);
		return ERR_PTR(-EIO);
	}
	return acl;
}

/**
 * wfs_set_acl - set or remove an ACL
 * @idmap: the mount's
 * @dentry: of the inode
 * @acl: the ACL, NULL to remove it
 * @type: ACL_TYPE_*
 *
 * Return: 0 or a negative errno.
 */
int wfs_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, struct posix_acl *acl, int type)
{
	struct inode *inode = d_inode(dentry);
	size_t size = 0;
	void *value = NULL;
	int err;

	if (acl) {
		size = posix_acl_xattr_size(acl->a_count);
		value = kvmalloc(size, GFP_KERNEL);
		if (!value)
			return -ENOMEM;
		err = posix_acl_to_xattr(&init_user_ns, acl, value, size);
		if (err < 0)
			goto out;
	}
	err = wfs_xattr_write(inode, wfs_acl_name(type), value, size, 0);
	/* the server keeps the access ACL and the mode in step; and what became of it after an error nobody knows */
	forget_all_cached_acls(inode);
out:
	kvfree(value);
	return err;
}
