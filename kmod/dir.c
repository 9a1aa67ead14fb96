// SPDX-License-Identifier: GPL-2.0
/* dir.c - names: lookup, their validity, and all that makes or removes them */
#include <linux/namei.h>

#include "internal.h"

/* A request with one name in @dir, which follows a body of @body_len bytes. */
static struct wfs_req *wfs_name_req(struct super_block *sb, u8 op, size_t body_len, const struct qstr *name,
				    size_t extra)
{
	struct wfs_req *req;

	req = wfs_req_alloc(wfs_sess(sb), op, current_cred(), body_len + name->len + extra, GFP_KERNEL);
	if (req)
		wfs_put_name(req->body + body_len, name);
	return req;
}

static struct wfs_req *wfs_dir_name_req(struct super_block *sb, u8 op, const struct wfs_fh *dir,
					const struct qstr *name)
{
	struct wfs_req *req = wfs_name_req(sb, op, sizeof(struct wfs_name_req), name, 0);
	struct wfs_name_req *body;

	if (!req)
		return NULL;
	body = req->body;
	body->dir = *dir;
	body->name_len = cpu_to_le16(name->len);
	return req;
}

/**
 * wfs_lookup_entry - look one name up
 * @sb: the mount
 * @dir: handle of the directory
 * @name: the name, at most WFS_NAME_MAX bytes
 * @inode: the result, with a reference
 *
 * Return: 0 or a negative errno.
 */
int wfs_lookup_entry(struct super_block *sb, const struct wfs_fh *dir, const struct qstr *name,
		     struct inode **inode)
{
	struct wfs_req *req = wfs_dir_name_req(sb, WFS_OP_LOOKUP, dir, name);
	int err;

	if (!req)
		return -ENOMEM;
	err = wfs_req_call(req);
	if (!err) {
		*inode = wfs_iget_entry(sb, (struct wfs_entry *)req->rep, req->start);
		err = PTR_ERR_OR_ZERO(*inode);
	}
	wfs_req_put(req);
	return err;
}

/**
 * wfs_dentry_verified - remember what a dentry's validity is bound to
 * @dentry: the dentry
 * @gen: wfs_inode.dir_gen of its directory from before the request that showed it valid
 */
void wfs_dentry_verified(struct dentry *dentry, unsigned long gen)
{
	WRITE_ONCE(dentry->d_time, gen);
}

static unsigned long wfs_dir_gen(struct inode *dir)
{
	return READ_ONCE(WFS_I(dir)->dir_gen);
}

static struct dentry *wfs_lookup(struct inode *dir, struct dentry *dentry, unsigned int flags)
{
	unsigned long gen = wfs_dir_gen(dir);
	struct inode *inode = NULL;
	struct dentry *alias;
	int err;

	if (dentry->d_name.len > WFS_NAME_MAX)
		return ERR_PTR(-ENAMETOOLONG);
	/* who makes a name exclusively learns from that request whether it exists */
	if ((flags & (LOOKUP_CREATE | LOOKUP_EXCL)) == (LOOKUP_CREATE | LOOKUP_EXCL))
		return NULL;
	wfs_dir_used(dir);
	err = wfs_lookup_entry(dir->i_sb, &WFS_I(dir)->fh, &dentry->d_name, &inode);
	if (err && err != -ENOENT)
		return ERR_PTR(err);
	alias = d_splice_alias(inode, dentry);
	if (!IS_ERR(alias))
		wfs_dentry_verified(alias ?: dentry, gen);
	return alias;
}

/*
 * A dentry is valid while its directory is what it was when the name was looked up.  One small GETATTR of
 * the directory, at most one in its attributes' time, answers for all names in it; only when the directory changed
 * has each name to be looked up again.
 */
static int wfs_d_revalidate(WFS_D_REVALIDATE_ARGS struct dentry *dentry, unsigned int flags)
{
	struct dentry *parent;
	struct inode *inode, *dir, *now = NULL;
	struct name_snapshot name;
	unsigned long gen;
	int err, valid;

	if (flags & LOOKUP_RCU) {
		parent = READ_ONCE(dentry->d_parent);
		dir = d_inode_rcu(parent);
		inode = d_inode_rcu(dentry);
		if (!dir)
			return -ECHILD;
		if (!inode && (flags & (LOOKUP_CREATE | LOOKUP_RENAME_TARGET)))
			return -ECHILD;
		if ((flags & (LOOKUP_EXCL | LOOKUP_REVAL)) || (!inode && (flags & LOOKUP_OPEN)))
			return -ECHILD;
		if (!wfs_attr_fresh(dir) || READ_ONCE(dentry->d_time) != wfs_dir_gen(dir))
			return -ECHILD;
		wfs_dir_used(dir);
		return 1;
	}

	parent = dget_parent(dentry);
	dir = d_inode(parent);
	inode = d_inode(dentry);
	wfs_dir_used(dir);
	valid = 0;
	/* the name is about to be made: the request that makes it looks */
	if (!inode && (flags & (LOOKUP_CREATE | LOOKUP_RENAME_TARGET)))
		goto out;
	/* close-to-open: who opens a name sees that it was made */
	err = wfs_revalidate(dir, !inode && (flags & LOOKUP_OPEN) ? WFS_REVAL_FORCE : 0);
	if (err) {
		valid = err == -ESTALE ? 0 : err;
		goto out;
	}
	gen = wfs_dir_gen(dir);
	valid = 1;
	/* who wants the name for itself does not want to hear that it was there a while ago */
	if (READ_ONCE(dentry->d_time) == gen && !(flags & (LOOKUP_EXCL | LOOKUP_REVAL)))
		goto out;
	/* a rename may change it meanwhile */
	take_dentry_name_snapshot(&name, dentry);
	err = wfs_lookup_entry(dir->i_sb, &WFS_I(dir)->fh, &name.name, &now);
	release_dentry_name_snapshot(&name);
	if (err && err != -ENOENT && err != -ESTALE) {
		valid = err;
		goto out;
	}
	valid = !err ? now == inode : err == -ENOENT && !inode;
	if (now)
		iput(now);
	if (valid)
		wfs_dentry_verified(dentry, gen);
out:
	dput(parent);
	return valid;
}

const struct dentry_operations wfs_dentry_operations = {
	.d_revalidate	= wfs_d_revalidate,
};

/* Put the new @inode under @dentry, which was negative. */
static int wfs_dentry_made(struct inode *dir, struct dentry *dentry, struct inode *inode)
{
	struct dentry *alias;

	if (!d_in_lookup(dentry))
		d_drop(dentry);
	alias = d_splice_alias(inode, dentry);
	if (IS_ERR(alias))
		return PTR_ERR(alias);
	wfs_dentry_verified(alias ?: dentry, wfs_dir_gen(dir));
	dput(alias);
	return 0;
}

static struct wfs_req *wfs_make_req(struct inode *dir, struct dentry *dentry, u8 op, umode_t mode, u32 flags,
				    size_t target_len)
{
	const struct qstr *name = &dentry->d_name;
	struct wfs_create_req *body;
	struct wfs_req *req;

	req = wfs_name_req(dir->i_sb, op, sizeof(*body), name, target_len);
	if (!req)
		return NULL;
	body = req->body;
	body->dir = WFS_I(dir)->fh;
	body->mode = cpu_to_le32(mode);
	body->umask = cpu_to_le32(current_umask());
	body->flags = cpu_to_le32(flags);
	body->name_len = cpu_to_le16(name->len);
	body->target_len = cpu_to_le16(target_len);
	return req;
}

/* Send a request that makes a name, and take over what it made. */
static int wfs_make(struct inode *dir, struct dentry *dentry, struct wfs_req *req)
{
	const struct wfs_make_rep *rep = (const void *)req->rep;
	struct inode *inode;
	int err;

	err = wfs_req_call(req) ?: wfs_update_dir(dir, &rep->dir, req->start);
	if (!err) {
		inode = wfs_iget_entry(dir->i_sb, &rep->entry, req->start);
		err = PTR_ERR_OR_ZERO(inode) ?: wfs_dentry_made(dir, dentry, inode);
	}
	/* whatever is there, it is not what the dentry says */
	if (err)
		d_drop(dentry);
	wfs_req_put(req);
	return err;
}

static int wfs_mkdir(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct wfs_req *req = wfs_make_req(dir, dentry, WFS_OP_MKDIR, mode & 07777, 0, 0);

	return req ? wfs_make(dir, dentry, req) : -ENOMEM;
}

static int wfs_mknod(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry, umode_t mode,
		     dev_t rdev)
{
	struct wfs_req *req = wfs_make_req(dir, dentry, WFS_OP_MKNOD, mode, 0, 0);
	struct wfs_create_req *body;

	if (!req)
		return -ENOMEM;
	body = req->body;
	body->rdev_major = cpu_to_le32(MAJOR(rdev));
	body->rdev_minor = cpu_to_le32(MINOR(rdev));
	return wfs_make(dir, dentry, req);
}

static int wfs_create(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry, umode_t mode,
		      bool excl)
{
	return wfs_mknod(idmap, dir, dentry, (mode & 07777) | S_IFREG, 0);
}

static int wfs_symlink(struct mnt_idmap *idmap, struct inode *dir, struct dentry *dentry,
		       const char *target)
{
	size_t len = strlen(target);
	struct wfs_req *req;

	if (len > WFS_TARGET_MAX)
		return -ENAMETOOLONG;
	req = wfs_make_req(dir, dentry, WFS_OP_SYMLINK, 0777, 0, len);
	if (!req)
		return -ENOMEM;
	memcpy(req->body + sizeof(struct wfs_create_req) + dentry->d_name.len, target, len);
	return wfs_make(dir, dentry, req);
}

static int wfs_link(struct dentry *old, struct inode *dir, struct dentry *dentry)
{
	const struct qstr *name = &dentry->d_name;
	struct inode *inode = d_inode(old);
	const struct wfs_link_rep *rep;
	struct wfs_link_req *body;
	struct wfs_req *req;
	int err;

	req = wfs_name_req(dir->i_sb, WFS_OP_LINK, sizeof(*body), name, 0);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->fh = WFS_I(inode)->fh;
	body->dir = WFS_I(dir)->fh;
	body->name_len = cpu_to_le16(name->len);
	err = wfs_req_call(req);
	d_drop(dentry);
	if (!err) {
		rep = (const void *)req->rep;
		err = wfs_update_dir(dir, &rep->dir, req->start) ?:
		      wfs_update_attr_wire(inode, &rep->attr, req->start, WFS_ATTR_OURS);
	}
	if (!err) {
		ihold(inode);
		d_add(dentry, inode);
		wfs_dentry_verified(dentry, wfs_dir_gen(dir));
	}
	wfs_req_put(req);
	return err;
}

/*
 * @inode lost a name.  With the last one it goes, when nobody uses it any more, and takes along what is dirty.  So if there
 * is such data, or may be yet, the server is asked whether that was the last one: somebody else may have made a link.
 */
static void wfs_unlinked(struct inode *inode)
{
	set_bit(WFS_INO_STALE_ATTR, &WFS_I(inode)->flags);
	/* without an answer it stays: to write back is right in any case */
	if (S_ISREG(inode->i_mode) && inode->i_nlink == 1 &&
	    (wfs_is_dirty(inode) || inode_is_open_for_write(inode)) &&
	    wfs_revalidate(inode, WFS_REVAL_FORCE) != -ESTALE)
		return;
	spin_lock(&WFS_I(inode)->lock);
	if (inode->i_nlink)
		drop_nlink(inode);
	spin_unlock(&WFS_I(inode)->lock);
}

static int wfs_remove(struct inode *dir, struct dentry *dentry, u8 op)
{
	const struct wfs_unlink_rep *rep;
	struct wfs_req *req;
	int err;

	req = wfs_dir_name_req(dir->i_sb, op, &WFS_I(dir)->fh, &dentry->d_name);
	if (!req)
		return -ENOMEM;
	err = wfs_req_call(req);
	if (!err) {
		rep = (const void *)req->rep;
		wfs_unlinked(d_inode(dentry));
		err = wfs_update_dir(dir, &rep->dir, req->start);
	} else if (err == -ENOENT || err == -ESTALE) {
		d_drop(dentry);
	}
	wfs_req_put(req);
	return err;
}

static int wfs_unlink(struct inode *dir, struct dentry *dentry)
{
	return wfs_remove(dir, dentry, WFS_OP_UNLINK);
}

static int wfs_rmdir(struct inode *dir, struct dentry *dentry)
{
	int err = wfs_remove(dir, dentry, WFS_OP_RMDIR);

	if (!err)
		clear_nlink(d_inode(dentry));
	return err;
}

static int wfs_rename(struct mnt_idmap *idmap, struct inode *old_dir, struct dentry *old,
		      struct inode *new_dir, struct dentry *new, unsigned int flags)
{
	const struct wfs_rename_rep *rep;
	struct wfs_rename_req *body;
	struct wfs_req *req;
	int err;

	if (flags & ~(WFS_RENAME_NOREPLACE | WFS_RENAME_EXCHANGE))
		return -EINVAL;
	req = wfs_name_req(old_dir->i_sb, WFS_OP_RENAME, sizeof(*body), &old->d_name, new->d_name.len);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->old_dir = WFS_I(old_dir)->fh;
	body->new_dir = WFS_I(new_dir)->fh;
	body->flags = cpu_to_le32(flags);
	body->old_len = cpu_to_le16(old->d_name.len);
	body->new_len = cpu_to_le16(new->d_name.len);
	wfs_put_name(req->body + sizeof(*body) + old->d_name.len, &new->d_name);
	err = wfs_req_call(req);
	if (err) {
		if (err == -ENOENT || err == -ESTALE)
			d_drop(old);
		goto out;
	}
	rep = (const void *)req->rep;
	if (d_really_is_positive(new) && !(flags & WFS_RENAME_EXCHANGE))
		wfs_unlinked(d_inode(new));
	set_bit(WFS_INO_STALE_ATTR, &WFS_I(d_inode(old))->flags);
	err = wfs_update_dir(new_dir, &rep->new_dir, req->start);
	if (!err && old_dir != new_dir)
		err = wfs_update_dir(old_dir, &rep->old_dir, req->start);
	/* the VFS moves @old to where @new is */
	wfs_dentry_verified(old, wfs_dir_gen(new_dir));
	wfs_dentry_verified(new, wfs_dir_gen(old_dir));
out:
	wfs_req_put(req);
	return err;
}

/* Our finish_open() callback: the server has opened the file already. */
static int wfs_opened(struct inode *inode, struct file *file)
{
	file->f_mode |= FMODE_CAN_ODIRECT | FMODE_NOWAIT;
	return 0;
}

/* Open what is there, by the ordinary way. */
static int wfs_no_open(struct inode *dir, struct dentry *dentry, struct file *file)
{
	struct dentry *alias = NULL;

	if (d_in_lookup(dentry)) {
		alias = wfs_lookup(dir, dentry, 0);
		if (IS_ERR(alias))
			return PTR_ERR(alias);
	}
	return finish_no_open(file, alias);
}

/* Create and open in one request. */
static int wfs_atomic_open(struct inode *dir, struct dentry *dentry, struct file *file,
			   unsigned int open_flags, umode_t mode)
{
	struct wfs_session *sess = wfs_sess(dir->i_sb);
	const struct wfs_create_rep *rep;
	struct inode *inode;
	struct wfs_req *req;
	u32 flags;
	int err;

	if (!(open_flags & O_CREAT) || (open_flags & O_DIRECTORY))
		return wfs_no_open(dir, dentry, file);
	if (dentry->d_name.len > WFS_NAME_MAX)
		return -ENAMETOOLONG;
	flags = wfs_open_flags(open_flags);
	if (open_flags & O_EXCL)
		flags |= WFS_OPEN_EXCL;
	req = wfs_make_req(dir, dentry, WFS_OP_CREATE, mode & 07777, flags, 0);
	if (!req)
		return -ENOMEM;
	err = wfs_hold_prepare(req);
	if (err)
		goto out;
	err = wfs_req_call(req);
	if (err) {
		/* it exists and is no regular file, or not ours to read and write: let the VFS see which */
		if (err != -EEXIST && err != -EINTR && !(open_flags & O_EXCL) && d_in_lookup(dentry)) {
			struct dentry *alias = wfs_lookup(dir, dentry, 0);

			if (!IS_ERR(alias) && d_really_is_positive(alias ?: dentry)) {
				wfs_req_put(req);
				return finish_no_open(file, alias);
			}
		}
		d_drop(dentry);
		goto out;
	}
	rep = (const void *)req->rep;
	err = wfs_update_dir(dir, &rep->dir, req->start);
	if (!err) {
		inode = wfs_iget_entry(dir->i_sb, &rep->entry, req->start);
		err = PTR_ERR_OR_ZERO(inode) ?: wfs_dentry_made(dir, dentry, inode);
	}
	if (err) {
		d_drop(dentry);
		goto out_close;
	}
	if (le32_to_cpu(rep->created))
		file->f_mode |= FMODE_CREATED;
	err = finish_open(file, dentry, wfs_opened);
	if (err)
		goto out_close;
	err = wfs_file_attach(inode, file, &rep->io, req->private, true);
	if (!err)
		err = wfs_revalidate_mapping(inode);
	goto out;
out_close:
	wfs_send_close(sess, req->private, current_cred());
out:
	wfs_req_put(req);
	return err;
}

const struct inode_operations wfs_dir_inode_operations = {
	.lookup		= wfs_lookup,
	.atomic_open	= wfs_atomic_open,
	.create		= wfs_create,
	.mkdir		= wfs_mkdir,
	.mknod		= wfs_mknod,
	.symlink	= wfs_symlink,
	.link		= wfs_link,
	.unlink		= wfs_unlink,
	.rmdir		= wfs_rmdir,
	.rename		= wfs_rename,
	.getattr	= wfs_getattr,
	.setattr	= wfs_setattr,
	.permission	= wfs_permission,
	.listxattr	= wfs_listxattr,
	.get_inode_acl	= wfs_get_acl,
	.set_acl	= wfs_set_acl,
};
