// SPDX-License-Identifier: GPL-2.0
/* super.c - the module, mount options, the superblock */
#include <linux/fs_parser.h>
#include <linux/inet.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/statfs.h>
#include <linux/string.h>
#include <net/net_namespace.h>

#include "internal.h"

#define WFS_SUPER_MAGIC		0x57465331	/* "WFS1" */
#define WFS_READAHEAD		(4u << 20)	/* bytes that a stream may be read ahead */
#define WFS_READAHEAD_PART	4		/* of the machine's memory: what readahead may hold of it */

enum wfs_param {
	Opt_addr, Opt_port, Opt_conns, Opt_rsize, Opt_wsize, Opt_timeo, Opt_hard, Opt_soft,
	Opt_acregmin, Opt_acregmax, Opt_acdirmin, Opt_acdirmax, Opt_actimeo, Opt_readahead, Opt_readahead_mem,
	Opt_poll,
};

static const char * const wfs_readahead_names[] = {
	[WFS_READAHEAD_ADAPTIVE]	= "adaptive",
	[WFS_READAHEAD_ALWAYS]		= "always",
	[WFS_READAHEAD_OFF]		= "off",
};

static const struct fs_parameter_spec wfs_params[] = {
	fsparam_string("addr",		Opt_addr),
	fsparam_u32("port",		Opt_port),
	fsparam_u32("conns",		Opt_conns),
	fsparam_u32("rsize",		Opt_rsize),
	fsparam_u32("wsize",		Opt_wsize),
	fsparam_u32("timeo",		Opt_timeo),
	fsparam_flag("hard",		Opt_hard),
	fsparam_flag("soft",		Opt_soft),
	fsparam_u32("acregmin",		Opt_acregmin),
	fsparam_u32("acregmax",		Opt_acregmax),
	fsparam_u32("acdirmin",		Opt_acdirmin),
	fsparam_u32("acdirmax",		Opt_acdirmax),
	fsparam_u32("actimeo",		Opt_actimeo),
	fsparam_string("readahead",	Opt_readahead),
	fsparam_u32("readahead_mem",	Opt_readahead_mem),
	fsparam_u32("poll",		Opt_poll),
	{}
};

/**
 * struct wfs_fs_context - a mount in the making
 * @opt: options so far
 * @addr: value of addr=, or NULL
 */
struct wfs_fs_context {
	struct wfs_options	opt;
	char			*addr;
};

/* Range of each numeric option; a step other than 1 has to divide the value. */
static const struct {
	u32	min, max, step;
} wfs_ranges[] = {
	[Opt_port]	= { 1, 65535, 1 },
	[Opt_conns]	= { 1, WFS_CONNS_MAX, 1 },
	[Opt_rsize]	= { WFS_IO_MIN, WFS_IO_MAX, WFS_IO_MIN },
	[Opt_wsize]	= { WFS_IO_MIN, WFS_IO_MAX, WFS_IO_MIN },
	[Opt_timeo]	= { 1, 6000, 1 },
	[Opt_acregmin]	= { 0, 86400, 1 },
	[Opt_acregmax]	= { 0, 86400, 1 },
	[Opt_acdirmin]	= { 0, 86400, 1 },
	[Opt_acdirmax]	= { 0, 86400, 1 },
	[Opt_actimeo]	= { 0, 86400, 1 },
	[Opt_readahead_mem] = { 1, WFS_READAHEAD_MEM_MAX, 1 },
	[Opt_poll]	= { 0, WFS_POLL_MAX, 1 },
};

static int wfs_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct wfs_fs_context *ctx = fc->fs_private;
	struct wfs_options *opt = &ctx->opt;
	struct fs_parse_result result;
	int key, which;
	u32 value;

	key = fs_parse(fc, wfs_params, param, &result);
	if (key < 0)
		return key;
	value = result.uint_32;
	if (key < ARRAY_SIZE(wfs_ranges) && wfs_ranges[key].max) {
		if (value < wfs_ranges[key].min || value > wfs_ranges[key].max)
			return invalf(fc, "wfs: option %s=%u is out of range: %u to %u", param->key, value,
				      wfs_ranges[key].min, wfs_ranges[key].max);
		if (value % wfs_ranges[key].step)
			return invalf(fc, "wfs: option %s=%u is not a multiple of %u", param->key, value,
				      wfs_ranges[key].step);
	}
	switch (key) {
	case Opt_addr:
		kfree(ctx->addr);
		ctx->addr = param->string;
		param->string = NULL;
		break;
	case Opt_port:
		opt->port = value;
		break;
	case Opt_conns:
		opt->conns = value;
		break;
	case Opt_rsize:
		opt->rsize = value;
		break;
	case Opt_wsize:
		opt->wsize = value;
		break;
	case Opt_timeo:
		opt->timeo = value;
		break;
	case Opt_hard:
		opt->soft = false;
		break;
	case Opt_soft:
		opt->soft = true;
		break;
	case Opt_acregmin:
		opt->acregmin = value;
		break;
	case Opt_acregmax:
		opt->acregmax = value;
		break;
	case Opt_acdirmin:
		opt->acdirmin = value;
		break;
	case Opt_acdirmax:
		opt->acdirmax = value;
		break;
	case Opt_actimeo:
		opt->acregmin = value;
		opt->acregmax = value;
		opt->acdirmin = value;
		opt->acdirmax = value;
		break;
	case Opt_readahead:
		which = match_string(wfs_readahead_names, ARRAY_SIZE(wfs_readahead_names), param->string);
		if (which < 0)
			return invalf(fc, "wfs: option readahead=%s is none of adaptive, always, off", param->string);
		opt->readahead = which;
		break;
	case Opt_readahead_mem:
		opt->readahead_mem = value;
		break;
	case Opt_poll:
		opt->poll = value;
		break;
	}
	return 0;
}

static int wfs_check_ac(struct fs_context *fc, const struct wfs_options *opt)
{
	if (opt->acregmin > opt->acregmax)
		return invalf(fc, "wfs: option acregmin=%u is larger than acregmax=%u", opt->acregmin,
			      opt->acregmax);
	if (opt->acdirmin > opt->acdirmax)
		return invalf(fc, "wfs: option acdirmin=%u is larger than acdirmax=%u", opt->acdirmin,
			      opt->acdirmax);
	return 0;
}

/* Take HOST:/[SUBDIR] apart. */
static int wfs_parse_source(struct fs_context *fc)
{
	struct wfs_fs_context *ctx = fc->fs_private;
	struct wfs_options *opt = &ctx->opt;
	char *host, *path, *end;
	int err;

	if (!fc->source)
		return invalf(fc, "wfs: no source given: HOST:/[SUBDIR]");
	path = strstr(fc->source, ":/");
	if (!path || path == fc->source)
		return invalf(fc, "wfs: source '%s' is not of the form HOST:/[SUBDIR]", fc->source);
	opt->source = kstrdup(fc->source, GFP_KERNEL);
	opt->path = kstrdup(path + 2, GFP_KERNEL);
	if (ctx->addr)
		host = kstrdup(ctx->addr, GFP_KERNEL);
	else if (fc->source[0] == '[' && path[-1] == ']')
		host = kstrndup(fc->source + 1, path - fc->source - 2, GFP_KERNEL);
	else
		host = kstrndup(fc->source, path - fc->source, GFP_KERNEL);
	if (!opt->source || !opt->path || !host) {
		kfree(host);
		return -ENOMEM;
	}
	end = opt->path + strlen(opt->path);
	while (end > opt->path && end[-1] == '/')
		*--end = '\0';

	err = inet_pton_with_scope(fc->net_ns, AF_UNSPEC, host, NULL, &opt->addr);
	if (err)
		errorf(fc, "wfs: '%s' is not an IPv4 or IPv6 address (mount.wfs resolves names)", host);
	kfree(host);
	if (opt->addr.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&opt->addr)->sin6_port = htons(opt->port);
	else
		((struct sockaddr_in *)&opt->addr)->sin_port = htons(opt->port);
	return err ? -EINVAL : 0;
}

/* ---- the superblock ---- */

static int wfs_statfs(struct dentry *dentry, struct kstatfs *buf)
{
	struct wfs_session *sess = wfs_sess(dentry->d_sb);
	const struct wfs_statfs_rep *rep;
	struct wfs_fh_req *body;
	struct wfs_req *req;
	int err;

	req = wfs_req_alloc(sess, WFS_OP_STATFS, current_cred(), sizeof(*body), GFP_KERNEL);
	if (!req)
		return -ENOMEM;
	body = req->body;
	body->fh = WFS_I(d_inode(dentry))->fh;
	/* umount(8) asks for this first */
	if (dentry == dentry->d_sb->s_root)
		req->soft = true;
	err = wfs_req_call(req);
	if (!err) {
		rep = (const void *)req->rep;
		buf->f_type = WFS_SUPER_MAGIC;
		buf->f_bsize = le32_to_cpu(rep->bsize);
		buf->f_frsize = buf->f_bsize;
		buf->f_blocks = le64_to_cpu(rep->blocks);
		buf->f_bfree = le64_to_cpu(rep->bfree);
		buf->f_bavail = le64_to_cpu(rep->bavail);
		buf->f_files = le64_to_cpu(rep->files);
		buf->f_ffree = le64_to_cpu(rep->ffree);
		buf->f_namelen = le32_to_cpu(rep->name_max);
		buf->f_fsid = u64_to_fsid(huge_encode_dev(dentry->d_sb->s_dev));
	}
	wfs_req_put(req);
	return err;
}

static int wfs_show_options(struct seq_file *m, struct dentry *root)
{
	const struct wfs_options *opt = &wfs_sess(root->d_sb)->opt;

	seq_printf(m, ",port=%u,conns=%u,rsize=%u,wsize=%u,timeo=%u,%s", opt->port, opt->conns, opt->rsize,
		   opt->wsize, opt->timeo, opt->soft ? "soft" : "hard");
	seq_printf(m, ",acregmin=%u,acregmax=%u,acdirmin=%u,acdirmax=%u", opt->acregmin, opt->acregmax,
		   opt->acdirmin, opt->acdirmax);
	seq_printf(m, ",readahead=%s,readahead_mem=%u,poll=%u", wfs_readahead_names[opt->readahead],
		   opt->readahead_mem, opt->poll);
	seq_printf(m, ",addr=%pISc", &opt->addr);
	return 0;
}

/* The inodes are gone, but for those that requests hold: what is read ahead, and nobody waits for. */
static void wfs_put_super(struct super_block *sb)
{
	wfs_session_wait_held(wfs_sess(sb));
}

static void wfs_umount_begin(struct super_block *sb)
{
	wfs_session_abort(wfs_sess(sb));
}

static const struct super_operations wfs_super_ops = {
	.alloc_inode	= wfs_alloc_inode,
	.free_inode	= wfs_free_inode,
	.write_inode	= wfs_write_inode,
	.evict_inode	= wfs_evict_inode,
	.put_super	= wfs_put_super,
	.sync_fs	= wfs_sync_fs,
	.statfs		= wfs_statfs,
	.show_options	= wfs_show_options,
	.umount_begin	= wfs_umount_begin,
};

/* The inode that the mount starts at: the export's root, or the directory that SUBDIR leads to. */
static struct inode *wfs_root(struct super_block *sb, struct fs_context *fc)
{
	struct wfs_session *sess = wfs_sess(sb);
	char *path = sess->opt.path, *name;
	struct inode *inode, *next;
	struct wfs_req *req;
	int err;

	req = wfs_req_alloc(sess, WFS_OP_ROOT, current_cred(), 0, GFP_KERNEL);
	if (!req)
		return ERR_PTR(-ENOMEM);
	err = wfs_req_call(req);
	inode = err ? ERR_PTR(err) : wfs_iget_entry(sb, (struct wfs_entry *)req->rep, req->start);
	wfs_req_put(req);
	if (IS_ERR(inode)) {
		errorf(fc, "wfs: the server does not give its root: error %pe", inode);
		return inode;
	}
	while ((name = strsep(&path, "/"))) {
		struct qstr qname = QSTR_INIT(name, strlen(name));

		if (!*name || !strcmp(name, "."))
			goto next;
		if (!strcmp(name, "..") || !wfs_name_ok(name, qname.len))
			err = -EINVAL;
		else
			err = wfs_lookup_entry(sb, &WFS_I(inode)->fh, &qname, &next);
		if (err) {
			errorf(fc, "wfs: %s: %s: '%s'", sess->opt.source,
			       err == -ENOENT ? "no such directory" : err == -EACCES ? "permission denied" :
			       "not a directory to mount", name);
			iput(inode);
			return ERR_PTR(err);
		}
		iput(inode);
		inode = next;
next:
		/* strsep() ended the name in the options */
		if (path)
			path[-1] = '/';
	}
	if (!S_ISDIR(inode->i_mode)) {
		errorf(fc, "wfs: %s is not a directory", sess->opt.source);
		iput(inode);
		return ERR_PTR(-ENOTDIR);
	}
	return inode;
}

static int wfs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct wfs_fs_context *ctx = fc->fs_private;
	struct wfs_session *sess;
	struct inode *root;
	int err;

	sess = wfs_session_create(&ctx->opt, fc);
	if (IS_ERR(sess))
		return PTR_ERR(sess);
	sb->s_fs_info = sess;
	sess->sb = sb;
	sb->s_magic = WFS_SUPER_MAGIC;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_time_gran = 1;
	sb->s_time_min = S64_MIN;
	sb->s_time_max = S64_MAX;
	sb->s_op = &wfs_super_ops;
	sb->s_d_op = &wfs_dentry_operations;
	sb->s_xattr = wfs_xattr_handlers;
	if (sess->export_flags & WFS_EXPORT_RDONLY)
		sb->s_flags |= SB_RDONLY;
	/* it also keeps the VFS from applying the umask, which is sent along: a default ACL overrides it */
	if (sess->export_flags & WFS_EXPORT_ACL)
		sb->s_flags |= SB_POSIXACL;

	err = super_setup_bdi(sb);
	if (err)
		return err;
	/*
	 * Who dirties pages in a small memory cgroup waits for its writeback, not only for that of the machine:
	 * reclaim in a cgroup does not wait for dirty pages and would have its processes killed.
	 */
	sb->s_iflags |= SB_I_CGROUPWB;
	sb->s_bdi->ra_pages = max(WFS_READAHEAD, 2 * sess->opt.rsize) >> PAGE_SHIFT;
	sb->s_bdi->io_pages = sess->opt.rsize >> PAGE_SHIFT;

	root = wfs_root(sb, fc);
	if (IS_ERR(root))
		return PTR_ERR(root);
	sess->root_fh = WFS_I(root)->fh;
	sb->s_root = d_make_root(root);
	return sb->s_root ? 0 : -ENOMEM;
}

static int wfs_get_tree(struct fs_context *fc)
{
	struct wfs_fs_context *ctx = fc->fs_private;
	int err;

	err = wfs_check_ac(fc, &ctx->opt) ?: wfs_parse_source(fc);
	return err ?: get_tree_nodev(fc, wfs_fill_super);
}

static int wfs_reconfigure(struct fs_context *fc)
{
	const struct wfs_fs_context *ctx = fc->fs_private;
	struct wfs_session *sess = wfs_sess(fc->root->d_sb);
	const struct wfs_options *to = &ctx->opt;
	struct wfs_options *opt = &sess->opt;
	const char *fixed = NULL;

	if (to->port != opt->port)
		fixed = "port";
	else if (to->conns != opt->conns)
		fixed = "conns";
	else if (to->rsize != opt->rsize)
		fixed = "rsize";
	else if (to->wsize != opt->wsize)
		fixed = "wsize";
	if (fixed)
		return invalf(fc, "wfs: option %s= can't be changed by remount", fixed);
	if ((sess->export_flags & WFS_EXPORT_RDONLY) && !(fc->sb_flags & SB_RDONLY) &&
	    (fc->sb_flags_mask & SB_RDONLY))
		return invalf(fc, "wfs: %s is exported read-only: can't remount rw", opt->source);
	if (wfs_check_ac(fc, to))
		return -EINVAL;
	sync_filesystem(fc->root->d_sb);
	opt->timeo = to->timeo;
	opt->soft = to->soft;
	opt->acregmin = to->acregmin;
	opt->acregmax = to->acregmax;
	opt->acdirmin = to->acdirmin;
	opt->acdirmax = to->acdirmax;
	WRITE_ONCE(opt->readahead, to->readahead);
	WRITE_ONCE(opt->readahead_mem, to->readahead_mem);
	WRITE_ONCE(opt->poll, to->poll);
	return 0;
}

static void wfs_free_fc(struct fs_context *fc)
{
	struct wfs_fs_context *ctx = fc->fs_private;

	if (!ctx)
		return;
	kfree(ctx->opt.source);
	kfree(ctx->opt.path);
	kfree(ctx->addr);
	kfree(ctx);
}

static const struct fs_context_operations wfs_context_ops = {
	.free		= wfs_free_fc,
	.parse_param	= wfs_parse_param,
	.get_tree	= wfs_get_tree,
	.reconfigure	= wfs_reconfigure,
};

static int wfs_init_fs_context(struct fs_context *fc)
{
	struct wfs_fs_context *ctx = kzalloc(sizeof(*ctx), GFP_KERNEL);

	if (!ctx)
		return -ENOMEM;
	if (fc->purpose == FS_CONTEXT_FOR_RECONFIGURE) {
		ctx->opt = wfs_sess(fc->root->d_sb)->opt;
		ctx->opt.source = NULL;
		ctx->opt.path = NULL;
	} else {
		ctx->opt = (struct wfs_options) {
			.port		= WFS_PORT,
			.conns		= min(num_online_cpus(), 8u),
			.rsize		= 1 << 20,
			.wsize		= 1 << 20,
			.timeo		= 600,
			.acregmin	= 3,
			.acregmax	= 60,
			.acdirmin	= 30,
			.acdirmax	= 60,
			.readahead_mem	= clamp(totalram_pages() / WFS_READAHEAD_PART >> (20 - PAGE_SHIFT), 1ul,
						(unsigned long)WFS_READAHEAD_MEM_MAX),
			.poll		= WFS_POLL,
		};
	}
	fc->fs_private = ctx;
	fc->ops = &wfs_context_ops;
	return 0;
}

static void wfs_kill_sb(struct super_block *sb)
{
	struct wfs_session *sess = wfs_sess(sb);

	if (sess)
		wfs_session_umount(sess);
	kill_anon_super(sb);
	if (sess)
		wfs_session_destroy(sess);
}

static struct file_system_type wfs_type = {
	.owner			= THIS_MODULE,
	.name			= "wfs",
	.init_fs_context	= wfs_init_fs_context,
	.parameters		= wfs_params,
	.kill_sb		= wfs_kill_sb,
};
MODULE_ALIAS_FS("wfs");

static int __init wfs_init(void)
{
	int err;

	err = wfs_req_init();
	if (err)
		return err;
	err = wfs_inode_init();
	if (err)
		goto err_req;
	err = wfs_conn_init_module();
	if (err)
		goto err_inode;
	wfs_debugfs_init();
	err = register_filesystem(&wfs_type);
	if (err)
		goto err_conn;
	return 0;
err_conn:
	wfs_debugfs_exit();
	wfs_conn_exit_module();
err_inode:
	wfs_inode_exit();
err_req:
	wfs_req_exit();
	return err;
}

static void __exit wfs_exit(void)
{
	unregister_filesystem(&wfs_type);
	wfs_debugfs_exit();
	wfs_conn_exit_module();
	wfs_inode_exit();
	wfs_req_exit();
}

module_init(wfs_init);
module_exit(wfs_exit);

MODULE_DESCRIPTION("wfs network file system client");
MODULE_AUTHOR("The wfs authors");
MODULE_LICENSE("GPL");
