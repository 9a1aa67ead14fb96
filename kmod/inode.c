// SPDX-License-Identifier: GPL-2.0
/* inode.c - inodes: identity, attributes, how long they are believed */
#include "internal.h"

static struct kmem_cache *wfs_inode_cache;

/* Source of wfs_inode.dir_gen: a value is never used twice, so a dentry that moved can't match by chance. */
static atomic_long_t wfs_gen = ATOMIC_LONG_INIT(0);

static void wfs_inode_once(void *p)
{
	struct wfs_inode *wi = p;

	inode_init_once(&wi->inode);
	spin_lock_init(&wi->lock);
	INIT_LIST_HEAD(&wi->uncommitted);
	mutex_init(&wi->inval_mutex);
	init_rwsem(&wi->range_sem);
	INIT_LIST_HEAD(&wi->locked);
}

int wfs_inode_init(void)
{
	wfs_inode_cache = kmem_cache_create("wfs_inode", sizeof(struct wfs_inode), 0,
					    SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT, wfs_inode_once);
	return wfs_inode_cache ? 0 : -ENOMEM;
}

void wfs_inode_exit(void)
{
	/* inodes are freed by RCU */
	rcu_barrier();
	kmem_cache_destroy(wfs_inode_cache);
}

struct inode *wfs_alloc_inode(struct super_block *sb)
{
	struct wfs_inode *wi = alloc_inode_sb(sb, wfs_inode_cache, GFP_KERNEL);

	if (!wi)
		return NULL;
	wi->flags = 0;
	wi->change = 0;
	wi->racy = true;
	wi->run = 0;
	wi->doubt = 0;
	wi->attr_time = jiffies;
	wi->attr_timeo = 0;
	wi->attr_start = 0;
	wi->writers = 0;
	wi->wb_inflight = 0;
	wi->wb_overlap = false;
	wi->write_error = 0;
	wi->write_io.len = 0;
	wi->write_cred = NULL;
	wi->access_cred = NULL;
	wi->dir_gen = atomic_long_inc_return(&wfs_gen);
	atomic_set(&wi->readdirs, 0);
	atomic_set(&wi->opens, 0);
	wi->used = 0;
	atomic_long_set(&wi->unread, 0);
	wi->ra_time = jiffies;
	INIT_WORK(&wi->put_work, wfs_inode_put_work);
	return &wi->inode;
}

void wfs_free_inode(struct inode *inode)
{
	if (S_ISLNK(inode->i_mode))
		kfree(inode->i_link);
	kmem_cache_free(wfs_inode_cache, WFS_I(inode));
}

void wfs_evict_inode(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);

	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	wfs_evict_uncommitted(inode);
	wfs_evict_locks(inode);
	if (wi->write_cred)
		put_cred(wi->write_cred);
	if (wi->access_cred)
		put_cred(wi->access_cred);
}

/* What the page cache holds that the server does not have yet. */
bool wfs_is_dirty(struct inode *inode)
{
	return mapping_tagged(inode->i_mapping, PAGECACHE_TAG_DIRTY) ||
	       mapping_tagged(inode->i_mapping, PAGECACHE_TAG_WRITEBACK);
}

static unsigned long wfs_ac(const struct inode *inode, bool max)
{
	const struct wfs_options *opt = &wfs_sess(inode->i_sb)->opt;

	if (S_ISDIR(inode->i_mode))
		return (max ? opt->acdirmax : opt->acdirmin) * HZ;
	return (max ? opt->acregmax : opt->acregmin) * HZ;
}

/**
 * wfs_update_attr - take over what the server says about an inode
 * @inode: the inode
 * @attr: its attributes
 * @start: when the request was submitted (wfs_req.start)
 * @from: what kind of request told it
 *
 * Size, times and change of a file with unwritten data are ours, not the server's, until the data is written.
 *
 * A reply to a change of ours shows it, and hides whether somebody else changed the inode too since we looked
 * last.  The run tells: it is the one that we know, or it began where we looked; else what is cached is old.  Nor
 * does it tell of a change of ours that was lost on its way, see wfs_changed_unseen().
 */
void wfs_update_attr(struct inode *inode, const struct wfs_iattr *attr, u64 start, enum wfs_attr_from from)
{
	bool ours = from >= WFS_ATTR_OURS;
	bool regular = S_ISREG(inode->i_mode);
	struct wfs_inode *wi = WFS_I(inode);
	bool changed, others, busy, resized;
	u64 whole;

	spin_lock(&wi->lock);
	changed = wi->change != attr->change ||
		  (wi->racy && (from == WFS_ATTR_OPENED || S_ISDIR(inode->i_mode)));
	others = changed && from != WFS_ATTR_DIR &&
		 !(attr->run && !wi->doubt &&
		   (attr->run == wi->run || (!wi->racy && attr->run_base == wi->change)));
	if (!ours && start < wi->attr_start) {
		/* the answer to an older question, but not to be dropped unseen: ask again */
		if (others && regular)
			set_bit(WFS_INO_STALE_ATTR, &wi->flags);
		goto out;
	}
	busy = regular && (wi->writers || wfs_is_dirty(inode));
	/* of two changes in one moment the value tells nothing, but the size may: then what is cached is old too */
	resized = (!ours || !regular) && !busy && i_size_read(inode) != attr->size;
	if (resized && regular)
		changed = others = true;

	inode->i_mode = attr->mode;
	inode->i_uid = make_kuid(&init_user_ns, attr->uid);
	inode->i_gid = make_kgid(&init_user_ns, attr->gid);
	set_nlink(inode, attr->nlink);
	inode->i_blocks = attr->blocks;
	inode_set_atime_to_ts(inode, attr->atime);
	wi->btime = attr->btime;
	if (!(attr->flags & WFS_ATTR_BTIME))
		wi->btime.tv_nsec = -1;
	if (ours || !busy) {
		inode_set_mtime_to_ts(inode, attr->mtime);
		inode_set_ctime_to_ts(inode, attr->ctime);
		wi->change = attr->change;
		wi->racy = attr->flags & WFS_ATTR_RACY;
		wi->run = attr->run;
		/* the lost request is in it, if the server has done it at all */
		whole = READ_ONCE(wfs_sess(inode->i_sb)->whole);
		if (wi->doubt && whole > wi->doubt && start > whole)
			wi->doubt = 0;
	}
	if (resized)
		i_size_write(inode, attr->size);
	/* what we do to names in a directory leaves its ACLs alone; of others' doing wfs_update_dir() knows */
	if (changed && !(ours && S_ISDIR(inode->i_mode)))
		forget_all_cached_acls(inode);
	if (others) {
		/* what is cached and dirty is kept: it is written before the rest is dropped */
		if (S_ISDIR(inode->i_mode))
			WRITE_ONCE(wi->dir_gen, atomic_long_inc_return(&wfs_gen));
		else if (inode->i_mapping->nrpages)
			set_bit(WFS_INO_STALE_DATA, &wi->flags);
	}

	if (ours || changed)
		wi->attr_timeo = wfs_ac(inode, false);
	else if (time_after_eq(jiffies, wi->attr_time + wi->attr_timeo))
		wi->attr_timeo = clamp(2 * wi->attr_timeo, wfs_ac(inode, false), wfs_ac(inode, true));
	wi->attr_time = jiffies;
	wi->attr_start = ours ? ktime_get_ns() : start;
	/* after a change of somebody else the size is not the cached one, until it is taken over */
	if (!regular || !(ours || busy))
		clear_bit(WFS_INO_STALE_ATTR, &wi->flags);
	else if (others)
		set_bit(WFS_INO_STALE_ATTR, &wi->flags);
out:
	spin_unlock(&wi->lock);
}

/**
 * wfs_changed_unseen - a request that may have changed a file's data has ended, and who made it does not know
 * @inode: the file
 * @req: the request, or NULL: one that is being given up now
 *
 * What somebody read into the page cache since the request was given up may be older than the change, which shows as one
 * of our own.  Of a lost request it is not even known when it takes effect.
 *
 * Context: process.
 */
void wfs_changed_unseen(struct inode *inode, const struct wfs_req *req)
{
	struct wfs_inode *wi = WFS_I(inode);

	if (req && test_bit(WFS_REQ_LOST, &req->flags)) {
		spin_lock(&wi->lock);
		wi->doubt = ktime_get_ns();
		spin_unlock(&wi->lock);
	}
	set_bit(WFS_INO_STALE_ATTR, &wi->flags);
	set_bit(WFS_INO_STALE_DATA, &wi->flags);
}

/**
 * wfs_update_attr_wire - the same from a reply's body
 * @inode: the inode
 * @wire: attributes as received, checked
 * @start: as wfs_update_attr()
 * @from: as wfs_update_attr()
 *
 * Return: 0, or -ESTALE when they are those of something else.
 */
int wfs_update_attr_wire(struct inode *inode, const struct wfs_attr *wire, u64 start,
			 enum wfs_attr_from from)
{
	struct wfs_iattr attr;

	wfs_decode_attr(wire, &attr);
	if ((inode->i_mode ^ attr.mode) & S_IFMT)
		return -ESTALE;
	wfs_update_attr(inode, &attr, start, from);
	if ((from == WFS_ATTR_OURS || from == WFS_ATTR_DIR) && !READ_ONCE(wfs_sess(inode->i_sb)->changed))
		WRITE_ONCE(wfs_sess(inode->i_sb)->changed, true);
	return 0;
}

/**
 * wfs_update_dir - a directory was changed by an operation of ours
 * @dir: the directory
 * @dc: what the server says happened
 * @start: as wfs_update_attr()
 *
 * Nobody else changed it when its change value before is the one that we knew: then its dentries stay valid.
 */
int wfs_update_dir(struct inode *dir, const struct wfs_dir_change *dc, u64 start)
{
	struct wfs_inode *wi = WFS_I(dir);

	spin_lock(&wi->lock);
	if (wi->racy || le64_to_cpu(dc->pre_change) != wi->change) {
		WRITE_ONCE(wi->dir_gen, atomic_long_inc_return(&wfs_gen));
		forget_all_cached_acls(dir);
	}
	spin_unlock(&wi->lock);
	return wfs_update_attr_wire(dir, &dc->attr, start, WFS_ATTR_DIR);
}

struct wfs_iget_key {
	const struct wfs_fh	*fh;
	const struct wfs_iattr	*attr;
};

static int wfs_iget_test(struct inode *inode, void *p)
{
	const struct wfs_iget_key *key = p;

	return inode->i_ino == key->attr->ino && !((inode->i_mode ^ key->attr->mode) & S_IFMT) &&
	       !memcmp(&WFS_I(inode)->fh, key->fh, sizeof(*key->fh));
}

static int wfs_iget_set(struct inode *inode, void *p)
{
	const struct wfs_iget_key *key = p;

	inode->i_ino = key->attr->ino;
	inode->i_mode = key->attr->mode;
	WFS_I(inode)->fh = *key->fh;
	return 0;
}

/**
 * wfs_iget - the inode of a handle
 * @sb: the mount
 * @fh: the handle, checked
 * @attr: its attributes
 * @start: as wfs_update_attr()
 *
 * Return: the inode with a reference, or an ERR_PTR.
 */
struct inode *wfs_iget(struct super_block *sb, const struct wfs_fh *fh, const struct wfs_iattr *attr,
		       u64 start)
{
	struct wfs_iget_key key = { .fh = fh, .attr = attr };
	struct inode *inode;

	inode = iget5_locked(sb, attr->ino, wfs_iget_test, wfs_iget_set, &key);
	if (!inode)
		return ERR_PTR(-ENOMEM);
	if (!(inode->i_state & I_NEW)) {
		wfs_update_attr(inode, attr, start, WFS_ATTR_SEEN);
		return inode;
	}
	/* the server keeps the times */
	inode->i_flags |= S_NOATIME | S_NOCMTIME;
	switch (attr->mode & S_IFMT) {
	case S_IFREG:
		inode->i_op = &wfs_file_inode_operations;
		inode->i_fop = &wfs_file_operations;
		inode->i_mapping->a_ops = &wfs_aops;
		/* unread.c wants to know of each folio that goes */
		mapping_set_release_always(inode->i_mapping);
		/* a folio fits in one request */
		mapping_set_folio_order_range(inode->i_mapping, 0,
					      min_t(unsigned int, MAX_PAGECACHE_ORDER,
						    ilog2(min(wfs_sess(sb)->opt.rsize, wfs_sess(sb)->opt.wsize) >>
							  PAGE_SHIFT)));
		break;
	case S_IFDIR:
		inode->i_op = &wfs_dir_inode_operations;
		inode->i_fop = &wfs_dir_operations;
		break;
	case S_IFLNK:
		inode->i_op = &wfs_symlink_inode_operations;
		break;
	default:
		inode->i_op = &wfs_special_inode_operations;
		init_special_inode(inode, attr->mode, MKDEV(attr->rdev_major, attr->rdev_minor));
	}
	wfs_update_attr(inode, attr, start, WFS_ATTR_SEEN);
	unlock_new_inode(inode);
	return inode;
}

/* The same from a reply's body. */
struct inode *wfs_iget_entry(struct super_block *sb, const struct wfs_entry *entry, u64 start)
{
	struct wfs_iattr attr;

	wfs_decode_attr(&entry->attr, &attr);
	return wfs_iget(sb, &entry->fh, &attr, start);
}

/* Are the attributes to be believed without asking the server?  Any context. */
bool wfs_attr_fresh(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);

	/* a removed directory is gone from the server, though not for those who are in it */
	if (IS_DEADDIR(inode))
		return true;
	return !test_bit(WFS_INO_STALE_ATTR, &wi->flags) &&
	       time_before(jiffies, READ_ONCE(wi->attr_time) + READ_ONCE(wi->attr_timeo));
}

static int wfs_send_getattr(struct inode *inode, enum wfs_attr_from from, bool soft)
{
	struct wfs_fh_req *body;
	struct wfs_req *req;
	int err;

	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_GETATTR, current_cred(), sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->fh = WFS_I(inode)->fh;
	req->soft |= soft;
	err = wfs_req_call(req);
	if (!err)
		err = wfs_update_attr_wire(inode, (struct wfs_attr *)req->rep, req->start, from);
	wfs_req_put(req);
	return err;
}

/**
 * wfs_revalidate - make sure that an inode's attributes are fresh enough
 * @inode: the inode
 * @how: WFS_REVAL_*
 *
 * Return: 0 or a negative errno.
 */
int wfs_revalidate(struct inode *inode, unsigned int how)
{
	int err;

	if (wfs_attr_fresh(inode) && (!(how & WFS_REVAL_FORCE) || IS_DEADDIR(inode)))
		return 0;
	err = wfs_send_getattr(inode, WFS_ATTR_SEEN, how & WFS_REVAL_SOFT);
	if (err == -ETIMEDOUT && (how & WFS_REVAL_SOFT) && !wfs_sess(inode->i_sb)->opt.soft)
		return 0;
	return err;
}

/**
 * wfs_settle - learn what a file's attributes are after what was written to it
 * @inode: a regular file without dirty data
 *
 * The replies of WRITEs that ran side by side come in any order, so none of them tells the last change.
 *
 * Return: 0 or a negative errno.
 */
int wfs_settle(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);
	int err;

	if (!test_and_clear_bit(WFS_INO_UNSETTLED, &wi->flags))
		return 0;
	err = wfs_send_getattr(inode, WFS_ATTR_OURS, false);
	if (err)
		set_bit(WFS_INO_UNSETTLED, &wi->flags);
	return err;
}

/* Is what the page cache holds not to be read? */
bool wfs_data_stale(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);

	/* in this order, and before the page cache is looked at: pairs with wfs_revalidate_mapping() */
	return test_bit_acquire(WFS_INO_STALE_DATA, &wi->flags) || test_bit_acquire(WFS_INO_DROPPING, &wi->flags);
}

/**
 * wfs_revalidate_mapping - make sure that the page cache is as fresh as the attributes have to be
 * @inode: a regular file
 *
 * Return: 0 or a negative errno.
 */
int wfs_revalidate_mapping(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);
	int err;

	err = wfs_revalidate(inode, 0);
	if (err || !wfs_data_stale(inode))
		return err;
	/* who comes while another one drops it must not read what is still there */
	err = mutex_lock_killable(&wi->inval_mutex);
	if (err)
		return err;
	set_bit(WFS_INO_DROPPING, &wi->flags);
	smp_mb__after_atomic();	/* DROPPING is seen by whoever does not see STALE_DATA any more */
	if (test_and_clear_bit(WFS_INO_STALE_DATA, &wi->flags)) {
		err = wfs_flush(inode);
		if (!err)
			err = wfs_drop_range(inode, 0, ULONG_MAX, true);
		if (err)
			set_bit(WFS_INO_STALE_DATA, &wi->flags);
	}
	/* and whoever does not see DROPPING any more does not find what was dropped */
	clear_bit_unlock(WFS_INO_DROPPING, &wi->flags);
	mutex_unlock(&wi->inval_mutex);
	/* busy: somebody writes to it through a mapping just now; what is shared so is not coherent anyway */
	if (err && err != -EBUSY)
		return err;
	/* with unwritten data there was no telling the size */
	return wfs_revalidate(inode, 0);
}

/**
 * wfs_revalidate_end - learn where a file ends now, as far as others show it, to append to it
 * @inode: a regular file, i_rwsem held
 *
 * Return: 0 or a negative errno.
 */
int wfs_revalidate_end(struct inode *inode)
{
	int err = wfs_revalidate(inode, WFS_REVAL_FORCE);

	/* unwritten data of ours goes first: only then is there one size */
	if (!err && wfs_data_stale(inode))
		err = wfs_revalidate_mapping(inode);
	return err;
}

/**
 * wfs_revalidate_data - make sure that what is cached of a file is not older than what the server has now
 * @inode: a regular file, opened
 *
 * All of it is dropped, as the change value does not tell what others did while we wrote.
 *
 * Return: 0 or a negative errno; what is cached is not used any more then either.
 */
int wfs_revalidate_data(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);
	int err;

	if (inode->i_mapping->nrpages)
		set_bit(WFS_INO_STALE_DATA, &wi->flags);
	err = wfs_send_getattr(inode, WFS_ATTR_OPENED, false);
	if (err) {
		set_bit(WFS_INO_STALE_ATTR, &wi->flags);
		return err;
	}
	if (!wfs_data_stale(inode))
		return 0;
	/* what is being written to can't be dropped */
	err = down_write_killable(&inode->i_rwsem);
	if (err)
		return err;
	err = wfs_revalidate_mapping(inode);
	inode_unlock(inode);
	return err;
}

void wfs_begin_write(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);

	spin_lock(&wi->lock);
	wi->writers++;
	spin_unlock(&wi->lock);
}

void wfs_end_write(struct inode *inode)
{
	struct wfs_inode *wi = WFS_I(inode);

	spin_lock(&wi->lock);
	wi->writers--;
	/* what was on its way meanwhile does not know about the change */
	wi->attr_start = ktime_get_ns();
	spin_unlock(&wi->lock);
}

int wfs_getattr(struct mnt_idmap *idmap, const struct path *path, struct kstat *stat, u32 mask,
		unsigned int flags)
{
	struct inode *inode = d_inode(path->dentry);
	struct wfs_inode *wi = WFS_I(inode);
	unsigned int how = 0;
	int err = 0;

	/* the server sets the times when data reaches it */
	if (S_ISREG(inode->i_mode) && (mask & (STATX_MTIME | STATX_CTIME | STATX_BLOCKS | STATX_CHANGE_COOKIE)) &&
	    !(flags & AT_STATX_DONT_SYNC) && wfs_is_dirty(inode)) {
		err = wfs_flush(inode) ?: wfs_settle(inode);
		if (err)
			return err;
	}
	if (!(flags & AT_STATX_DONT_SYNC)) {
		if (flags & AT_STATX_FORCE_SYNC)
			how |= WFS_REVAL_FORCE;
		/* umount(8) starts with it: not for ever for a server that is away */
		if (path->dentry == path->dentry->d_sb->s_root)
			how |= WFS_REVAL_SOFT;
		err = wfs_revalidate(inode, how);
	}
	if (err)
		return err;
	generic_fillattr(idmap, mask, inode, stat);
	spin_lock(&wi->lock);
	if (wi->btime.tv_nsec >= 0) {
		stat->btime = wi->btime;
		stat->result_mask |= STATX_BTIME;
	}
	/* it does not grow, so it is not MONOTONIC */
	if ((mask & STATX_CHANGE_COOKIE) && !wi->racy) {
		stat->change_cookie = wi->change;
		stat->result_mask |= STATX_CHANGE_COOKIE;
	}
	spin_unlock(&wi->lock);
	if ((mask & STATX_DIOALIGN) && S_ISREG(inode->i_mode)) {
		stat->dio_mem_align = 1;
		stat->dio_offset_align = 1;
		stat->result_mask |= STATX_DIOALIGN;
	}
	stat->blksize = max_t(u32, wfs_sess(inode->i_sb)->opt.rsize, PAGE_SIZE);
	return 0;
}

/* Change the size in the page cache after the server has.  i_rwsem and range_sem held. */
static int wfs_set_size(struct inode *inode, loff_t size)
{
	loff_t old = i_size_read(inode);
	int err = 0;

	if (size > old)
		err = wfs_zero_tail(inode, old);
	if (err)
		set_bit(WFS_INO_STALE_DATA, &WFS_I(inode)->flags);
	i_size_write(inode, size);
	return size < old ? wfs_truncate_pages(inode) : err;
}

int wfs_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	static const struct {
		unsigned int	ia, set;
	} map[] = {
		{ ATTR_MODE, WFS_SET_MODE }, { ATTR_UID, WFS_SET_UID }, { ATTR_GID, WFS_SET_GID },
		{ ATTR_SIZE, WFS_SET_SIZE },
	};
	struct inode *inode = d_inode(dentry);
	struct wfs_inode *wi = WFS_I(inode);
	struct wfs_setattr_req *body;
	struct wfs_req *req;
	unsigned int i;
	u32 valid = 0;
	int err;

	/*
	 * The server checks permissions and clears setuid bits; what the VFS asks for beside a size or owner
	 * (ATTR_KILL_*) is its business.
	 */
	if (attr->ia_valid & ATTR_MODE && attr->ia_valid & (ATTR_KILL_SUID | ATTR_KILL_SGID))
		attr->ia_valid &= ~ATTR_MODE;
	for (i = 0; i < ARRAY_SIZE(map); i++)
		if (attr->ia_valid & map[i].ia)
			valid |= map[i].set;
	if (attr->ia_valid & ATTR_ATIME)
		valid |= attr->ia_valid & ATTR_ATIME_SET ? WFS_SET_ATIME : WFS_SET_ATIME_NOW;
	if (attr->ia_valid & ATTR_MTIME)
		valid |= attr->ia_valid & ATTR_MTIME_SET ? WFS_SET_MTIME : WFS_SET_MTIME_NOW;
	/* truncate(2) on the server sets it along with the size */
	if (valid & WFS_SET_SIZE)
		valid &= ~WFS_SET_MTIME_NOW;
	if (!valid)
		return 0;
	if (valid & WFS_SET_SIZE) {
		err = attr->ia_valid & ATTR_FILE ? wfs_check_lock(attr->ia_file) : 0;
		if (!err)
			err = inode_newsize_ok(inode, attr->ia_size);
		if (err)
			return err;
		/* what a mapping makes dirty from here on would make the file long again; see range.c */
		err = wfs_dio_wait(inode) ?: down_write_killable(&wi->range_sem);
		if (err)
			return err;
	}
	/* unwritten data would overtake: its WRITE sets the times again, and under the old owner */
	if (S_ISREG(inode->i_mode)) {
		err = wfs_flush(inode);
		if (err == -EINTR)
			goto out;
		/* the reply will tell what there is after it */
		clear_bit(WFS_INO_UNSETTLED, &wi->flags);
	}

	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_SETATTR, current_cred(), sizeof(*body), GFP_KERNEL);
	if (!req) {
		err = -ENOMEM;
		goto out;
	}
	body = req->body;
	body->fh = wi->fh;
	if (attr->ia_valid & ATTR_FILE && valid == WFS_SET_SIZE)
		body->fh = ((struct wfs_file *)attr->ia_file->private_data)->io;
	body->valid = cpu_to_le32(valid);
	body->mode = cpu_to_le32(attr->ia_mode & 07777);
	if (valid & WFS_SET_UID)
		body->uid = cpu_to_le32(from_kuid(&init_user_ns, attr->ia_uid));
	if (valid & WFS_SET_GID)
		body->gid = cpu_to_le32(from_kgid(&init_user_ns, attr->ia_gid));
	if (valid & WFS_SET_SIZE)
		body->size = cpu_to_le64(attr->ia_size);
	if (valid & WFS_SET_ATIME) {
		body->atime_sec = cpu_to_le64(attr->ia_atime.tv_sec);
		body->atime_nsec = cpu_to_le32(attr->ia_atime.tv_nsec);
	}
	if (valid & WFS_SET_MTIME) {
		body->mtime_sec = cpu_to_le64(attr->ia_mtime.tv_sec);
		body->mtime_nsec = cpu_to_le32(attr->ia_mtime.tv_nsec);
	}
	wfs_begin_write(inode);
	err = valid & WFS_SET_SIZE ? wfs_req_call_change(req, inode) : wfs_req_call(req);
	if (!err) {
		if (valid & WFS_SET_SIZE)
			err = wfs_set_size(inode, attr->ia_size);
		/* the mode is a part of them */
		if (valid & WFS_SET_MODE)
			forget_all_cached_acls(inode);
		err = wfs_update_attr_wire(inode, (struct wfs_attr *)req->rep, req->start, WFS_ATTR_OURS) ?: err;
	}
	if (err && S_ISREG(inode->i_mode))
		set_bit(WFS_INO_UNSETTLED, &wi->flags);
	wfs_end_write(inode);
	wfs_req_put(req);
out:
	if (valid & WFS_SET_SIZE)
		up_write(&wi->range_sem);
	return err;
}

/* What the server lets squashed root do, remembered for as long as attributes are. */
static int wfs_access(struct inode *inode, int mask)
{
	u32 want = mask & (MAY_READ | MAY_WRITE | MAY_EXEC);
	struct wfs_inode *wi = WFS_I(inode);
	const struct wfs_access_rep *rep;
	struct wfs_access_req *body;
	const struct cred *old;
	struct wfs_req *req;
	bool known;
	u32 granted;
	int err;

	spin_lock(&wi->lock);
	known = wi->access_cred == current_cred() && wfs_attr_fresh(inode) &&
		time_before(jiffies, wi->access_time + wfs_ac(inode, false));
	granted = wi->access_mask;
	spin_unlock(&wi->lock);
	if (known)
		return want & ~granted ? -EACCES : 0;
	if (mask & MAY_NOT_BLOCK)
		return -ECHILD;

	req = wfs_req_alloc(wfs_sess(inode->i_sb), WFS_OP_ACCESS, current_cred(), sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->fh = wi->fh;
	body->mask = cpu_to_le32(MAY_READ | MAY_WRITE | MAY_EXEC);
	err = wfs_req_call(req);
	if (!err) {
		rep = (const void *)req->rep;
		granted = le32_to_cpu(rep->mask);
		err = wfs_update_attr_wire(inode, &rep->attr, req->start, WFS_ATTR_SEEN);
	}
	wfs_req_put(req);
	if (err)
		return err;
	spin_lock(&wi->lock);
	old = wi->access_cred;
	wi->access_cred = get_current_cred();
	wi->access_time = jiffies;
	wi->access_mask = granted;
	spin_unlock(&wi->lock);
	if (old)
		put_cred(old);
	return want & ~granted ? -EACCES : 0;
}

/**
 * wfs_permission - may the caller do this
 * @idmap: the mount's
 * @inode: the inode
 * @mask: MAY_*
 *
 * The server has the last word with each request; here is decided what never reaches it, like
 * the way through directories that are cached.  Root, when the export squashes it, is nobody there, which only
 * the server can tell.
 */
int wfs_permission(struct mnt_idmap *idmap, struct inode *inode, int mask)
{
	const struct wfs_session *sess = wfs_sess(inode->i_sb);
	int want = mask & (MAY_READ | MAY_WRITE | MAY_EXEC);
	int err;

	/* OPEN asks the server, which knows about rights granted a moment ago */
	if (S_ISREG(inode->i_mode) && (mask & MAY_OPEN) && !(mask & MAY_EXEC))
		return 0;
	if (!wfs_attr_fresh(inode)) {
		if (mask & MAY_NOT_BLOCK)
			return -ECHILD;
		err = wfs_revalidate(inode, 0);
		if (err)
			return err;
	}
	if ((sess->export_flags & WFS_EXPORT_ROOT_SQUASH) && uid_eq(current_fsuid(), GLOBAL_ROOT_UID)) {
		/* nobody can be given the right to execute what is not executable */
		if ((want & MAY_EXEC) && S_ISREG(inode->i_mode) && !(inode->i_mode & 0111))
			return -EACCES;
		return wfs_access(inode, mask);
	}
	return generic_permission(idmap, inode, mask);
}

const struct inode_operations wfs_special_inode_operations = {
	.getattr	= wfs_getattr,
	.setattr	= wfs_setattr,
	.permission	= wfs_permission,
	.listxattr	= wfs_listxattr,
	.get_inode_acl	= wfs_get_acl,
	.set_acl	= wfs_set_acl,
};
