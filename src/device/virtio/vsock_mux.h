/*
 * Streams of a virtio socket device and the unix sockets that they end in; knows packets, no rings.
 *
 * A program on the host connects to PATH, says "CONNECT PORT\n" and reads "OK NUMBER\n" once the
 * guest has accepted; a connection that the guest makes to port P of CID 2 goes to PATH_P. After
 * that bytes pass as they are.
 *
 * Not thread-safe: everything is called on one thread, or under one lock.
 */
#pragma once

#include <poll.h>
#include "base/base.h"

/* 5.10.6, little-endian as the host. */
struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_header) == 44, "5.10.6");

#define VSOCK_HOST_CID    2
#define VSOCK_STREAM      1
#define VSOCK_MAX_PAYLOAD 65536u
#define VSOCK_MAX_STREAMS 256
#define VSOCK_WINDOW      (128 * KiB) /* bytes of a stream that we keep for a slow program */

enum vsock_op {
	VSOCK_INVALID,
	VSOCK_REQUEST,
	VSOCK_RESPONSE,
	VSOCK_RST,
	VSOCK_SHUTDOWN,
	VSOCK_RW,
	VSOCK_CREDIT_UPDATE,
	VSOCK_CREDIT_REQUEST
};
#define VSOCK_NO_RECEIVE 1 /* flags of VSOCK_SHUTDOWN */
#define VSOCK_NO_SEND    2

struct vsock_mux_ops {
	/* Bytes of payload that the next packet for the guest may have; 0: no packet fits now. */
	size_t (*room)(void *opaque);
	/* That packet, after room() said that it fits. */
	void (*put)(void *opaque, const struct vsock_header *h, const uint8_t *data);
};

struct vsock_mux;

/* Listens on path. 0, or -errno with a line in err. */
int vsock_mux_new(struct vsock_mux **out, const char *path, uint32_t cid,
                  const struct vsock_mux_ops *ops, void *opaque, char *err, size_t errlen);
/* Safe on NULL. */
void vsock_mux_free(struct vsock_mux *m);

/* The guest forgets everything: closes all streams. */
void vsock_mux_reset(struct vsock_mux *m);
/* A packet of the guest with its h->len bytes of payload, at most VSOCK_MAX_PAYLOAD. */
void vsock_mux_take(struct vsock_mux *m, const struct vsock_header *h, const uint8_t *data);

#define VSOCK_MAX_POLL (VSOCK_MAX_STREAMS + 1)
/* What to wait for: fills fds, of VSOCK_MAX_POLL, and lowers *deadline_ns. */
unsigned vsock_mux_prepare(struct vsock_mux *m, struct pollfd *fds, uint64_t *deadline_ns);
/* After the wait, or when there is room again. fds as they come from prepare; nr may be 0. */
void vsock_mux_dispatch(struct vsock_mux *m, const struct pollfd *fds, unsigned nr);
unsigned vsock_mux_streams(const struct vsock_mux *m);
