/*
 * Requests: the table of operations, and the header around each.
 */
#include "share/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "share/share_private.h"

#define OUR_MINOR 31 /* of protocol 7: what is used here has been there since */
#define MIN_MINOR 27

static const uint32_t wanted_flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ATOMIC_O_TRUNC |
                                     FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS |
                                     FUSE_READDIRPLUS_AUTO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES;

static int do_init(struct share *s, struct request *q)
{
	struct fuse_init_in in = { 0 };
	struct fuse_init_out *out = (struct fuse_init_out *)q->reply;

	memcpy(&in, q->args, q->args_len < sizeof(in) ? q->args_len : sizeof(in));
	if (in.major != FUSE_KERNEL_VERSION || in.minor < MIN_MINOR)
		return -EPROTO;
	share_reset(s);
	*out = (struct fuse_init_out){ .major = FUSE_KERNEL_VERSION,
		                       .minor = OUR_MINOR,
		                       .max_readahead = in.max_readahead,
		                       .flags = in.flags & wanted_flags,
		                       .max_background = 64,
		                       .congestion_threshold = 48,
		                       .max_write = SHARE_MAX_IO,
		                       .time_gran = 1,
		                       .max_pages = SHARE_MAX_IO / PAGE_SIZE };
	q->reply_len = sizeof(*out);
	return 0;
}

static int do_destroy(struct share *s, struct request *q)
{
	share_reset(s);
	return 0;
}

/* Everything is done at once: there is nothing to interrupt. */
static int do_interrupt(struct share *s, struct request *q)
{
	q->silent = true;
	return 0;
}

static const struct operation {
	share_op_fn run;
	uint16_t args; /* bytes of arguments that must be there */
	bool writes;   /* not on a read-only share */
} operations[] = {
	[FUSE_LOOKUP] = { share_do_lookup, 2, false },
	[FUSE_FORGET] = { share_do_forget, sizeof(struct fuse_forget_in), false },
	[FUSE_GETATTR] = { share_do_getattr, sizeof(struct fuse_getattr_in), false },
	[FUSE_SETATTR] = { share_do_setattr, sizeof(struct fuse_setattr_in), true },
	[FUSE_READLINK] = { share_do_readlink, 0, false },
	[FUSE_SYMLINK] = { share_do_symlink, 4, true },
	[FUSE_MKNOD] = { share_do_mknod, sizeof(struct fuse_mknod_in) + 2, true },
	[FUSE_MKDIR] = { share_do_mkdir, sizeof(struct fuse_mkdir_in) + 2, true },
	[FUSE_UNLINK] = { share_do_unlink, 2, true },
	[FUSE_RMDIR] = { share_do_rmdir, 2, true },
	[FUSE_RENAME] = { share_do_rename, sizeof(struct fuse_rename_in) + 4, true },
	[FUSE_LINK] = { share_do_link, sizeof(struct fuse_link_in) + 2, true },
	[FUSE_OPEN] = { share_do_open, sizeof(struct fuse_open_in), false },
	[FUSE_READ] = { share_do_read, sizeof(struct fuse_read_in), false },
	[FUSE_WRITE] = { share_do_write, sizeof(struct fuse_write_in), true },
	[FUSE_STATFS] = { share_do_statfs, 0, false },
	[FUSE_RELEASE] = { share_do_release, sizeof(struct fuse_release_in), false },
	[FUSE_FSYNC] = { share_do_fsync, sizeof(struct fuse_fsync_in), false },
	[FUSE_INIT] = { do_init, 16, false },
	[FUSE_OPENDIR] = { share_do_opendir, sizeof(struct fuse_open_in), false },
	[FUSE_READDIR] = { share_do_readdir, sizeof(struct fuse_read_in), false },
	[FUSE_RELEASEDIR] = { share_do_releasedir, sizeof(struct fuse_release_in), false },
	[FUSE_FSYNCDIR] = { share_do_fsyncdir, sizeof(struct fuse_fsync_in), false },
	[FUSE_CREATE] = { share_do_create, sizeof(struct fuse_create_in) + 2, true },
	[FUSE_INTERRUPT] = { do_interrupt, 0, false },
	[FUSE_DESTROY] = { do_destroy, 0, false },
	[FUSE_BATCH_FORGET] = { share_do_batch_forget, sizeof(struct fuse_batch_forget_in), false },
	[FUSE_FALLOCATE] = { share_do_fallocate, sizeof(struct fuse_fallocate_in), true },
	[FUSE_READDIRPLUS] = { share_do_readdirplus, sizeof(struct fuse_read_in), false },
	[FUSE_RENAME2] = { share_do_rename2, sizeof(struct fuse_rename2_in) + 4, true },
	[FUSE_LSEEK] = { share_do_lseek, sizeof(struct fuse_lseek_in), false },
	[FUSE_SYNCFS] = { share_do_syncfs, 0, false },
};

static size_t total(const struct iovec *iov, unsigned nr)
{
	size_t n = 0;

	for (unsigned i = 0; i < nr; i++)
		n += iov[i].iov_len;
	return n;
}

static size_t gather(uint8_t *to, size_t len, const struct iovec *iov, unsigned nr)
{
	size_t done = 0;

	for (unsigned i = 0; i < nr && done < len; i++) {
		size_t n = iov[i].iov_len < len - done ? iov[i].iov_len : len - done;

		memcpy(to + done, iov[i].iov_base, n);
		done += n;
	}
	return done;
}

static void scatter(const struct iovec *iov, unsigned nr, size_t at, const void *from, size_t len)
{
	for (unsigned i = 0; i < nr && len; i++) {
		size_t n;

		if (at >= iov[i].iov_len) {
			at -= iov[i].iov_len;
			continue;
		}
		n = iov[i].iov_len - at < len ? iov[i].iov_len - at : len;
		memcpy((uint8_t *)iov[i].iov_base + at, from, n);
		from = (const uint8_t *)from + n;
		len -= n;
		at = 0;
	}
}

size_t share_slice(struct share *s, const struct iovec *iov, unsigned nr_iov, size_t at, size_t len,
                   unsigned *nr)
{
	size_t done = 0;

	*nr = 0;
	for (unsigned i = 0; i < nr_iov && done < len && *nr < SHARE_MAX_IOV; i++) {
		size_t n = iov[i].iov_len;

		if (at >= n) {
			at -= n;
			continue;
		}
		n = n - at < len - done ? n - at : len - done;
		s->slice[(*nr)++] = (struct iovec){ (uint8_t *)iov[i].iov_base + at, n };
		done += n;
		at = 0;
	}
	return done;
}

static int run(struct share *s, struct request *q)
{
	const struct operation *op =
	        q->head.opcode < ARRAY_SIZE(operations) ? &operations[q->head.opcode] : NULL;

	if (!op || !op->run)
		return -ENOSYS;
	if (q->args_len < op->args)
		return -EINVAL;
	if (op->writes && s->readonly)
		return -EROFS;
	return op->run(s, q);
}

/* The answer to a request whose header could be read. */
static size_t answer(struct request *q, int rc)
{
	struct fuse_out_header h = { .unique = q->head.unique, .error = rc };
	size_t body = rc ? 0 : q->reply_len + q->data_len;

	if (body > q->room) {
		h.error = -EIO;
		body = 0;
	}
	h.len = (uint32_t)(sizeof(h) + body);
	scatter(q->out, q->nr_out, 0, &h, sizeof(h));
	if (body && !q->data_len)
		scatter(q->out, q->nr_out, sizeof(h), q->reply, body);
	return h.len;
}

size_t share_request(struct share *s, const struct iovec *in, unsigned nr_in,
                     const struct iovec *out, unsigned nr_out)
{
	struct request q = { .in = in, .nr_in = nr_in, .out = out, .nr_out = nr_out };
	size_t len = total(in, nr_in), room = total(out, nr_out), copied;
	int rc = -EINVAL;

	copied = gather(s->args, SHARE_MAX_ARGS, in, nr_in);
	if (copied < sizeof(q.head))
		return 0;
	memcpy(&q.head, s->args, sizeof(q.head));
	q.args = s->args + sizeof(q.head);
	q.args_len = copied - sizeof(q.head);
	q.reply = s->reply;
	q.room = room > sizeof(struct fuse_out_header) ? room - sizeof(struct fuse_out_header) : 0;
	if (q.head.opcode == FUSE_FORGET || q.head.opcode == FUSE_BATCH_FORGET)
		q.silent = true;
	/* Only a write may be longer than its arguments. */
	if (q.head.len == len && (copied == len || q.head.opcode == FUSE_WRITE))
		rc = run(s, &q);
	if (q.silent || room < sizeof(struct fuse_out_header))
		return 0;
	return answer(&q, rc);
}

/* Life. */

static mode_t read_umask(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned mask = 022;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Umask: %o", &mask) == 1)
			break;
	if (f)
		fclose(f);
	return mask;
}

static int open_root(struct share *s, const struct share_options *o)
{
	struct stat st;
	int rc;

	s->root_fd = open(o->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->root_fd < 0 || fstat(s->root_fd, &st))
		return -errno;
	s->root_dev = st.st_dev;
	rc = share_nodes_init(s);
	if (rc)
		return rc;
	share_node_add(s, s->root_fd, &st, &rc);
	if (rc)
		s->root_fd = -1; /* closed */
	return rc;
}

int share_open(struct share **out, const struct share_options *o, char *err, size_t errlen)
{
	struct share *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		goto out;
	s->root_fd = -1;
	s->readonly = o->readonly;
	s->owner = o->owner;
	s->uid = geteuid();
	s->gid = getegid();
	s->may_chown = s->uid == 0;
	s->umask = read_umask();
	s->args = malloc(SHARE_MAX_ARGS);
	s->reply = malloc(SHARE_MAX_REPLY);
	s->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->proc_fd < 0)
		rc = -errno;
	else if (s->args && s->reply)
		rc = open_root(s, o);
out:
	if (rc) {
		snprintf(err, errlen, "%s: %s", o->path, strerror(-rc));
		share_close(s);
	} else {
		*out = s;
	}
	return rc;
}

void share_close(struct share *s)
{
	if (!s)
		return;
	share_nodes_fini(s);
	if (s->root_fd >= 0)
		close(s->root_fd);
	if (s->proc_fd >= 0)
		close(s->proc_fd);
	free(s->args);
	free(s->reply);
	free(s);
}
