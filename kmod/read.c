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
 * @gfp: for the allocation
 */
struct wfs_req *wfs_read_req(struct wfs_session *sess, const struct wfs_fh *io, const struct cred *cred, u64 pos,
			     gfp_t gfp)
{
	struct wfs_read_req *body;
	struct wfs_req *req;

	req = wfs_req_alloc(sess, WFS_OP_READ, cred, sizeof(*body), gfp);
	if (!req)
		return NULL;
	body = req->body;
	body->io = *io;
	body->offset = cpu_to_le64(pos);
	req->pos = pos;
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
 * wfs_read_submit - send a READ whose folios are complete; drops the caller's reference
 * @req: the request
 * @load: what it is to the account
 */
void wfs_read_submit(struct wfs_req *req, enum wfs_load load)
{
	struct wfs_read_req *body = req->body;
	/* no file is longer, though its last folio may be */
	size_t count = min_t(u64, req->len, MAX_LFS_FILESIZE - req->pos);

	wfs_req_hold(req, page_folio(req->bvec[0].bv_page)->mapping->host);

	body->count = cpu_to_le32(count);
	iov_iter_bvec(&req->dst, ITER_DEST, req->bvec, req->nr_bvec, count);
	req->complete = wfs_read_done;
	req->progress = wfs_read_landed;
	req->any_context = true;
	req->load = load;
	wfs_submit(req);
	wfs_req_put(req);
}

/**
 * wfs_read_add - have a READ fill one more folio
 * @req: the request, from wfs_read_req(), with room in its bvecs
 * @folio: the folio, locked, in the page cache where the last one ends
 */
void wfs_read_add(struct wfs_req *req, struct folio *folio)
{
	bvec_set_folio(&req->bvec[req->nr_bvec++], folio, folio_size(folio), 0);
	req->len += folio_size(folio);
}

void wfs_readahead(struct readahead_control *rac)
{
	struct wfs_session *sess = wfs_sess(rac->mapping->host->i_sb);
	const struct wfs_file *wf = rac->file->private_data;
	struct wfs_req *req = NULL;
	struct folio *folio;

	while ((folio = readahead_folio(rac))) {
		/* a folio is at most rsize long, see wfs_iget() */
		if (req && (req->nr_bvec == req->max_bvec || req->len + folio_size(folio) > sess->opt.rsize)) {
			wfs_read_submit(req, WFS_LOAD_DEMAND);
			req = NULL;
		}
		if (!req) {
			req = wfs_read_req(sess, &wf->io, wf->cred, folio_pos(folio), GFP_KERNEL);
			if (!req) {
				/* read when somebody wants it; the VM unlocks the rest */
				folio_unlock(folio);
				return;
			}
			wfs_req_bvecs(req, min(readahead_count(rac), sess->opt.rsize >> PAGE_SHIFT), GFP_KERNEL);
		}
		wfs_read_add(req, folio);
	}
	if (req)
		wfs_read_submit(req, WFS_LOAD_DEMAND);
}

int wfs_read_folio(struct file *file, struct folio *folio)
{
	struct inode *inode = folio->mapping->host;
	const struct wfs_file *wf;
	unsigned int nofs;
	struct wfs_req *req;

	if (!file) {
		folio_unlock(folio);
		return -EBADF;
	}
	wf = file->private_data;
	nofs = memalloc_nofs_save();
	req = wfs_read_req(wfs_sess(inode->i_sb), &wf->io, wf->cred, folio_pos(folio), GFP_KERNEL);
	if (req) {
		wfs_read_add(req, folio);
		wfs_read_submit(req, WFS_LOAD_DEMAND);
	} else {
		folio_unlock(folio);
	}
	memalloc_nofs_restore(nofs);
	return req ? 0 : -ENOMEM;
}
