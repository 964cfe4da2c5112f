/*
 * A host directory without a device: answers the requests of the kernel's FUSE client
 * (linux/fuse.h) with what is in the directory, by the means of an ordinary user.
 *
 * The guest is hostile. Names are single components, looked up with openat2() beneath the directory
 * that the guest has been shown, and never through symbolic links, which are the guest's to follow;
 * a node is an O_PATH descriptor of ours, and the guest knows its number only. So there is no path
 * that a guest could lead out of the directory.
 *
 * Not thread-safe: one request at a time.
 */
#pragma once

#include <sys/uio.h>
#include "base/base.h"

struct share;

enum share_owner {
	SHARE_OWNER_HOST, /* owners are shown as they are on the host */
	SHARE_OWNER_ROOT  /* what is ours is shown as root's, and what root gets is ours */
};

struct share_options {
	const char *path;
	bool readonly;
	enum share_owner owner;
};

/* 0, or -errno with one line in err. */
int share_open(struct share **out, const struct share_options *o, char *err, size_t errlen);
/* Safe on NULL. */
void share_close(struct share *s);

/* The guest forgets everything: closes all files, forgets all nodes. */
void share_reset(struct share *s);

/*
 * One request: what the guest wrote, in pieces, and the room for the answer. Returns the bytes of
 * the answer, 0 for a request without one. Guest memory may be in both; file content goes there
 * straight.
 */
size_t share_request(struct share *s, const struct iovec *in, unsigned nr_in,
                     const struct iovec *out, unsigned nr_out);

struct share_counts {
	unsigned nodes, handles;
};
void share_get_counts(const struct share *s, struct share_counts *c);
