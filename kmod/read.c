// SPDX-License-Identifier: GPL-2.0
/*
 * read.c - buffered reads: data goes from the socket's buffers straight into page cache folios
 *
 * A request holds the locks of its folios.  Nobody waits for it: whoever needs a folio waits for that folio.
 *
 * Memory is taken within memalloc_nofs_save(), the VFS's own for ->readahead(), and with GFP_KERNEL: that may fail, and
 * then less is read.  GFP_NOFS is what writeback takes requests with, from a reserve that is not for reads.
 */
#include <linux/sched/mm.h>

#include "internal.h"

/**
 * wfs_read_req - make a READ; the caller sets where the data goes, and @len
 * @sess: the session
 * @io: I/O handle with the right to read
 * @cred: who reads
 * @pos: offset in the file
 * @load: what it is to the account
 */
struct wfs_req *wfs_read_req(struct wfs_session *sess, const struct wfs_fh *io, const struct cred *cred, u64 pos,
			     enum wfs_load load)
{
	struct wfs_read_req *body;
	struct wfs_req *req;

	req = wfs_req_alloc(sess, WFS_OP_READ, cred, sizeof(*body), GFP_KERNEL);
	if (!req)
		return NULL;
	body = req->body;
	body->io = *io;
	body->offset = cpu_to_le64(pos);
	req->pos = pos;
	req->load = load;
	return req;
}

/* More of the data is there: whoever waits for a folio that is complete need not wait for the others. */
static void wfs_read_landed(struct wfs_req *req)
{
	while (req->landed_bvec < req->nr_bvec) {
		size_t len = req->bvec[req->landed_bvec].bv_len;

		/* less than @landed when the reply is received once more */
		if (req->data_len < req->landed + len)
			break;
		req->landed += len;
		folio_end_read(page_folio(req->bvec[req->landed_bvec++].bv_page), true);
	}
}

/* What was read is in the folios; what the file does not have is zero. */
static void wfs_read_done(struct wfs_req *req)
{
	/* a reply that was cut off may have brought more than the next one */
	size_t left = req->data_len - min(req->data_len, req->landed);
	unsigned int i;

	/* the page cache knows no errors but EIO */
	if (req->error == -ESTALE && req->inode)
		set_bit(WFS_INO_GONE, &WFS_I(req->inode)->flags);

	for (i = req->landed_bvec; i < req->nr_bvec; i++) {
		struct folio *folio = page_folio(req->bvec[i].bv_page);
		size_t len = min_t(size_t, left, folio_size(folio));

		left -= len;
		if (!req->error && len < folio_size(folio))
			folio_zero_segment(folio, len, folio_size(folio));
		folio_end_read(folio, !req->error);
	}
}

/**
 * wfs_reads_send - send what has been put together, if there is anything
 * @reads: the READs
 */
void wfs_reads_send(struct wfs_reads *reads)
{
	struct wfs_req *req = reads->req;
	struct wfs_read_req *body;
	size_t count;

	if (!req)
		return;
	reads->req = NULL;
	wfs_req_hold(req, page_folio(req->bvec[0].bv_page)->mapping->host);

	/* no file is longer, though its last folio may be */
	count = min_t(u64, req->len, MAX_LFS_FILESIZE - req->pos);
	body = req->body;
	body->count = cpu_to_le32(count);
	iov_iter_bvec(&req->dst, ITER_DEST, req->bvec, req->nr_bvec, count);
	req->complete = wfs_read_done;
	req->progress = wfs_read_landed;
	req->any_context = true;
	wfs_submit(req);
	wfs_req_put(req);
}

/**
 * wfs_reads_add - have one more folio read
 * @reads: the READs; one that has no room for the folio is sent
 * @folio: the folio, locked, in the page cache where the last one that was added ends
 * @pages: how many may follow, this one included
 * @load: what a new READ is to the account
 *
 * Return: whether there was memory.  If not the folio stays the caller's, and there is nothing left to send.
 */
bool wfs_reads_add(struct wfs_reads *reads, struct folio *folio, u64 pages, enum wfs_load load)
{
	unsigned int rsize = reads->sess->opt.rsize;
	struct wfs_req *req = reads->req;

	/* a folio is at most rsize long, see wfs_iget() */
	if (req && (req->nr_bvec == req->max_bvec || req->len + folio_size(folio) > rsize))
		wfs_reads_send(reads);
	req = reads->req;
	if (!req) {
		req = wfs_read_req(reads->sess, reads->io, reads->cred, folio_pos(folio), load);
		if (!req)
			return false;
		req->spread = reads->spread;
		wfs_req_bvecs(req, min_t(u64, pages, rsize >> PAGE_SHIFT), GFP_KERNEL);
		reads->req = req;
	}
	bvec_set_folio(&req->bvec[req->nr_bvec++], folio, folio_size(folio), 0);
	req->len += folio_size(folio);
	return true;
}

void wfs_readahead(struct readahead_control *rac)
{
	const struct wfs_file *wf = rac->file->private_data;
	struct wfs_reads reads = {
		.sess = wfs_sess(rac->mapping->host->i_sb),
		.io = &wf->io,
		.cred = wf->cred,
	};
	struct folio *folio;

	while ((folio = readahead_folio(rac))) {
		if (!wfs_reads_add(&reads, folio, readahead_count(rac), WFS_LOAD_DEMAND)) {
			/* read when somebody wants it; the VM unlocks the rest */
			folio_unlock(folio);
			break;
		}
	}
	wfs_reads_send(&reads);
}

int wfs_read_folio(struct file *file, struct folio *folio)
{
	const struct wfs_file *wf;
	struct wfs_reads reads = { };
	unsigned int nofs;
	bool added;

	if (!file) {
		folio_unlock(folio);
		return -EBADF;
	}
	wf = file->private_data;
	reads.sess = wfs_sess(folio->mapping->host->i_sb);
	reads.io = &wf->io;
	reads.cred = wf->cred;
	nofs = memalloc_nofs_save();
	added = wfs_reads_add(&reads, folio, 1, WFS_LOAD_DEMAND);
	if (!added)
		folio_unlock(folio);
	wfs_reads_send(&reads);
	memalloc_nofs_restore(nofs);
	return added ? 0 : -ENOMEM;
}
