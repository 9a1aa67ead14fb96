/* SPDX-License-Identifier: GPL-2.0 */
/* trace.h - tracepoints: /sys/kernel/tracing/events/wfs/ */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM wfs

#if !defined(_WFS_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _WFS_TRACE_H

#include <linux/tracepoint.h>
#include "internal.h"

TRACE_EVENT(wfs_request_submit,
	TP_PROTO(const struct wfs_req *req),
	TP_ARGS(req),
	TP_STRUCT__entry(
		__field(const void *, req)
		__field(unsigned int, mount)
		__field(unsigned int, conn)
		__field(u8, op)
		__field(u64, pos)
		__field(size_t, len)
	),
	TP_fast_assign(
		__entry->req = req;
		__entry->mount = req->sess->id;
		__entry->conn = req->conn->index;
		__entry->op = req->op;
		__entry->pos = req->pos;
		__entry->len = req->len;
	),
	TP_printk("mount=%u conn=%u req=%p op=%s pos=%llu len=%zu", __entry->mount, __entry->conn, __entry->req,
		  wfs_op_name(__entry->op), __entry->pos, __entry->len)
);

TRACE_EVENT(wfs_request_complete,
	TP_PROTO(const struct wfs_req *req),
	TP_ARGS(req),
	TP_STRUCT__entry(
		__field(const void *, req)
		__field(unsigned int, mount)
		__field(unsigned int, conn)
		__field(u8, op)
		__field(u16, slot)
		__field(u32, seq)
		__field(int, error)
		__field(u32, data_len)
		__field(u64, nsec)
	),
	TP_fast_assign(
		__entry->req = req;
		__entry->mount = req->sess->id;
		__entry->conn = req->conn->index;
		__entry->op = req->op;
		__entry->slot = req->slot;
		__entry->seq = req->seq;
		__entry->error = req->error;
		__entry->data_len = req->data_len;
		__entry->nsec = ktime_get_ns() - req->start;
	),
	TP_printk("mount=%u conn=%u req=%p op=%s slot=%u seq=%u error=%d data_len=%u nsec=%llu", __entry->mount,
		  __entry->conn, __entry->req, wfs_op_name(__entry->op), __entry->slot, __entry->seq,
		  __entry->error, __entry->data_len, __entry->nsec)
);

TRACE_EVENT(wfs_conn_state,
	TP_PROTO(const struct wfs_conn *conn, int from, int to, int error),
	TP_ARGS(conn, from, to, error),
	TP_STRUCT__entry(
		__field(unsigned int, mount)
		__field(unsigned int, conn)
		__field(int, from)
		__field(int, to)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->mount = conn->sess->id;
		__entry->conn = conn->index;
		__entry->from = from;
		__entry->to = to;
		__entry->error = error;
	),
	TP_printk("mount=%u conn=%u %s -> %s error=%d", __entry->mount, __entry->conn,
		  wfs_conn_state_name(__entry->from), wfs_conn_state_name(__entry->to), __entry->error)
);

#endif /* _WFS_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
