// SPDX-License-Identifier: GPL-2.0
/*
 * readdir.c - listing directories
 *
 * Entries may come with attributes, which fill the caches, and cost several times as much.  So the first few of a
 * directory do, and later ones if names of the directory were looked up since the READDIR before: wfs_dir_used().
 */
#include "internal.h"

/*
 * Bytes of entries to ask for at the start of a directory: 500 names with attributes.  Some programs (du, rm -r) look
 * at the first name when they have listed all; directories that are not longer are in the caches then.
 */
#define WFS_READDIR_FIRST	(128u << 10)
#define WFS_READDIR_NEXT	(256u << 10)	/* and from then on */

/**
 * struct wfs_dir_file - an open directory, file->private_data; file->f_pos_lock protects it
 * @req: the READDIR whose reply holds the entries, or NULL
 * @off: bytes of its data that were given out
 * @pos: position of the entry at @off
 * @number: wfs_inode.readdirs of that READDIR, 0 for none yet
 * @plus: the next one is to bring attributes
 * @eof: there is nothing after these entries
 * @mark: position of an earlier READDIR, which no later one may come back to
 * @mark_left: READDIRs until @mark moves on
 * @mark_step: READDIRs from the last move to the next, doubled with each
 */
struct wfs_dir_file {
	struct wfs_req	*req;
	size_t		off;
	loff_t		pos;
	unsigned int	number;
	bool		plus;
	bool		eof;
	loff_t		mark;
	u64		mark_left;
	u64		mark_step;
};

static int wfs_dir_open(struct inode *inode, struct file *file)
{
	/* close-to-open; and a directory that is gone shows here, where the VFS looks for its successor */
	int err = wfs_revalidate(inode, WFS_REVAL_FORCE);

	if (err)
		return err;
	file->private_data = kzalloc(sizeof(struct wfs_dir_file), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int wfs_dir_release(struct inode *inode, struct file *file)
{
	struct wfs_dir_file *df = file->private_data;

	wfs_req_put(df->req);
	kfree(df);
	return 0;
}

/* Put an entry that came with attributes into the dentry and inode caches. */
static void wfs_dir_prime(struct dentry *parent, const struct wfs_dentry *de, u64 start, unsigned long gen)
{
	struct qstr name = QSTR_INIT(de->name, de->name_len);
	DECLARE_WAIT_QUEUE_HEAD_ONSTACK(wq);
	struct dentry *dentry, *alias;
	struct inode *inode;

	inode = wfs_iget_entry(parent->d_sb, de->plus, start);
	if (IS_ERR(inode))
		return;
	name.hash = full_name_hash(parent, name.name, name.len);
	dentry = d_lookup(parent, &name);
	if (!dentry) {
		dentry = d_alloc_parallel(parent, &name, &wq);
		if (IS_ERR(dentry)) {
			iput(inode);
			return;
		}
	}
	if (!d_in_lookup(dentry)) {
		/* what is cached is right, or d_revalidate() finds that it is not */
		if (d_inode(dentry) == inode)
			wfs_dentry_verified(dentry, gen);
		iput(inode);
	} else {
		alias = d_splice_alias(inode, dentry);
		if (!IS_ERR(alias))
			wfs_dentry_verified(alias ?: dentry, gen);
		d_lookup_done(dentry);
		if (!IS_ERR_OR_NULL(alias))
			dput(alias);
	}
	dput(dentry);
}

/*
 * Does the listing go round in a circle?  The mark moves ever more rarely, so that sooner or later it stands still
 * for longer than the circle is (Brent's algorithm).
 */
static bool wfs_dir_loops(struct wfs_dir_file *df, loff_t pos)
{
	if (pos == df->mark)
		return true;
	if (!--df->mark_left) {
		df->mark = pos;
		df->mark_step *= 2;
		df->mark_left = df->mark_step;
	}
	return false;
}

/* Replace the entries by those from @pos on; @sought: which is not where the last ones ended. */
static int wfs_dir_fetch(struct file *file, loff_t pos, bool sought)
{
	struct wfs_dir_file *df = file->private_data;
	struct inode *dir = file_inode(file);
	struct wfs_inode *wi = WFS_I(dir);
	unsigned int count = pos ? WFS_READDIR_NEXT : WFS_READDIR_FIRST;
	unsigned long gen = READ_ONCE(wi->dir_gen);
	struct wfs_readdir_req *body;
	struct wfs_dentry de;
	struct wfs_req *req;
	size_t off = 0;
	int err;

	wfs_req_put(df->req);
	df->req = NULL;
	req = wfs_req_alloc(wfs_sess(dir->i_sb), WFS_OP_READDIR, file->f_cred, sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	err = wfs_req_buf(req, count, false);
	if (err)
		goto err;
	body = req->body;
	body->dir = wi->fh;
	body->cookie = cpu_to_le64(pos);
	body->count = cpu_to_le32(count);
	body->flags = cpu_to_le32(!pos || df->plus ? WFS_READDIR_PLUS : 0);
	df->number = atomic_inc_return(&wi->readdirs);
	err = wfs_req_call(req);
	if (err)
		goto err;

	df->eof = ((struct wfs_readdir_rep *)req->rep)->eof != 0;
	if (sought) {
		df->mark = pos;
		df->mark_step = df->mark_left = 1;
	} else if (wfs_dir_loops(df, pos)) {
		pr_warn_ratelimited("wfs: %s: a directory's listing goes round in a circle\n",
				    req->sess->opt.source);
		err = -ELOOP;
		goto err;
	}
	while (off < req->data_len) {
		off += wfs_decode_dirent(req->buf + off, &de);
		if (de.plus)
			wfs_dir_prime(file->f_path.dentry, &de, req->start, gen);
		cond_resched();
	}
	df->req = req;
	df->off = 0;
	df->pos = pos;
	return 0;
err:
	wfs_req_put(req);
	return err;
}

/*
 * A directory's name is used, so attributes would have been of use: any context.  Nothing is written where many CPUs
 * come along, but once after each READDIR.
 */
void wfs_dir_used(struct inode *dir)
{
	struct wfs_inode *wi = WFS_I(dir);
	unsigned int number = atomic_read(&wi->readdirs);

	if (READ_ONCE(wi->used) != number)
		WRITE_ONCE(wi->used, number);
}

static int wfs_iterate(struct file *file, struct dir_context *ctx)
{
	struct wfs_dir_file *df = file->private_data;
	struct inode *dir = file_inode(file);
	bool first = !ctx->pos;
	struct wfs_dentry de;
	size_t len;
	int err;

	df->plus = (int)(READ_ONCE(WFS_I(dir)->used) - df->number) >= 0;
	/* rewound: show what there is now */
	if (!ctx->pos && df->off) {
		wfs_req_put(df->req);
		df->req = NULL;
	}
	for (;;) {
		if (!df->req || df->pos != ctx->pos) {
			err = wfs_dir_fetch(file, ctx->pos, !ctx->pos || df->pos != ctx->pos);
			if (err)
				return err;
		}
		while (df->off < df->req->data_len) {
			u64 ino;

			len = wfs_decode_dirent(df->req->buf + df->off, &de);
			ino = de.ino;
			if (de.name_len == 1 && de.name[0] == '.')
				ino = dir->i_ino;
			if (!dir_emit(ctx, de.name, de.name_len, ino, de.type))
				return 0;
			df->off += len;
			df->pos = de.cookie;
			ctx->pos = de.cookie;
		}
		if (df->eof)
			return 0;
		/* the buffer is used up at the position where the next one starts */
		wfs_req_put(df->req);
		df->req = NULL;
		/* let the caller show what he does with them */
		if (first && ctx->pos)
			return 0;
	}
}

static int wfs_dir_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	return wfs_commit(file_inode(file), datasync);
}

const struct file_operations wfs_dir_operations = {
	.open		= wfs_dir_open,
	.release	= wfs_dir_release,
	.llseek		= generic_file_llseek,
	.read		= generic_read_dir,
	.iterate_shared	= wfs_iterate,
	.fsync		= wfs_dir_fsync,
	.setlease	= simple_nosetlease,
};
