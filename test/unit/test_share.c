/*
 * A share, asked as the kernel asks it: what comes back, the bounds of every message, and what a
 * client that wants out of the directory is told.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fuse.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "share/share.h"

struct fixture {
	char top[64], path[80];
	struct share *s;
	uint8_t in[8192], out[70000];
	size_t in_len, got;
	struct fuse_out_header head;
};

static struct fixture f;

static void open_share(bool readonly)
{
	struct share_options o = { .path = f.path, .readonly = readonly };
	char err[256];

	share_close(f.s);
	assert_int_equal(share_open(&f.s, &o, err, sizeof(err)), 0);
}

static void put_file(const char *name, const char *text)
{
	char path[160];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", f.top, name);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static int set_up(void **state)
{
	char path[160];

	memset(&f, 0, sizeof(f));
	strcpy(f.top, "/tmp/test-share-XXXXXX");
	assert_non_null(mkdtemp(f.top));
	snprintf(f.path, sizeof(f.path), "%s/share", f.top);
	assert_int_equal(mkdir(f.path, 0755), 0);
	put_file("secret", "of the host");
	put_file("share/file", "0123456789");
	snprintf(path, sizeof(path), "%s/share/out", f.top);
	assert_int_equal(symlink("../secret", path), 0);
	snprintf(path, sizeof(path), "%s/share/folder", f.top);
	assert_int_equal(mkdir(path, 0755), 0);
	open_share(false);
	return 0;
}

/* Whatever the tests have made of the modes. */
static int let_in(const char *path, const struct stat *st, int type, struct FTW *where)
{
	return type == FTW_D || type == FTW_DNR ? chmod(path, 0700) : 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	return remove(path);
}

static int tear_down(void **state)
{
	share_close(f.s);
	chmod(f.path, 0700);
	nftw(f.top, let_in, 16, FTW_PHYS);
	return nftw(f.top, remove_one, 16, FTW_PHYS | FTW_DEPTH);
}

/* Asking. */

static void begin(uint32_t opcode, uint64_t node)
{
	struct fuse_in_header h = { .opcode = opcode, .nodeid = node, .unique = 77 };

	h.uid = geteuid();
	h.gid = getegid();
	memcpy(f.in, &h, sizeof(h));
	f.in_len = sizeof(h);
}

static void add(const void *data, size_t n)
{
	memcpy(f.in + f.in_len, data, n);
	f.in_len += n;
}

static void add_name(const char *name)
{
	add(name, strlen(name) + 1);
}

/* With `room` bytes for the answer; its error. */
static int ask_with(size_t room)
{
	uint32_t len = (uint32_t)f.in_len;
	struct iovec in = { f.in, f.in_len }, out = { f.out, room };

	memcpy(f.in, &len, sizeof(len));
	f.got = share_request(f.s, &in, 1, &out, 1);
	assert_true(f.got <= room);
	if (!f.got)
		return 0;
	memcpy(&f.head, f.out, sizeof(f.head));
	assert_int_equal(f.head.len, f.got);
	assert_int_equal(f.head.unique, 77);
	return f.head.error;
}

static int ask(void)
{
	return ask_with(sizeof(f.out));
}

static const void *body(size_t n)
{
	assert_int_equal(f.got, sizeof(f.head) + n);
	return f.out + sizeof(f.head);
}

static uint64_t lookup(uint64_t parent, const char *name)
{
	struct fuse_entry_out e;

	begin(FUSE_LOOKUP, parent);
	add_name(name);
	assert_int_equal(ask(), 0);
	memcpy(&e, body(sizeof(e)), sizeof(e));
	return e.nodeid;
}

static uint64_t open_node(uint64_t node, uint32_t flags)
{
	struct fuse_open_in in = { .flags = flags };
	struct fuse_open_out out;

	begin(FUSE_OPEN, node);
	add(&in, sizeof(in));
	assert_int_equal(ask(), 0);
	memcpy(&out, body(sizeof(out)), sizeof(out));
	return out.fh;
}

static void introduction(void **state)
{
	struct fuse_init_in in = { .major = 7, .minor = 38, .flags = ~0u };
	struct fuse_init_out out;

	begin(FUSE_INIT, 0);
	add(&in, sizeof(in));
	assert_int_equal(ask(), 0);
	memcpy(&out, body(sizeof(out)), sizeof(out));
	assert_int_equal(out.major, 7);
	assert_true(out.flags & FUSE_MAX_PAGES);
	/* What is not done here must not be promised. */
	assert_false(out.flags & (FUSE_POSIX_LOCKS | FUSE_WRITEBACK_CACHE | FUSE_INIT_EXT));
	in.major = 6;
	begin(FUSE_INIT, 0);
	add(&in, sizeof(in));
	assert_int_equal(ask(), -EPROTO);
}

static void reads_and_writes(void **state)
{
	uint64_t node = lookup(FUSE_ROOT_ID, "file"), fh = open_node(node, O_RDWR);
	struct fuse_read_in r = { .fh = fh, .offset = 3, .size = 4 };
	struct fuse_write_in w = { .fh = fh, .offset = 8, .size = 5 };

	begin(FUSE_READ, node);
	add(&r, sizeof(r));
	assert_int_equal(ask(), 0);
	assert_memory_equal(body(4), "3456", 4);
	begin(FUSE_WRITE, node);
	add(&w, sizeof(w));
	add("abcde", 5);
	assert_int_equal(ask(), 0);
	r = (struct fuse_read_in){ .fh = fh, .size = 100 };
	begin(FUSE_READ, node);
	add(&r, sizeof(r));
	assert_int_equal(ask(), 0);
	assert_memory_equal(body(13), "01234567abcde", 13);
	/* More than there is in the message, more than there is room for. */
	w.size = 6;
	begin(FUSE_WRITE, node);
	add(&w, sizeof(w));
	add("abcde", 5);
	assert_int_equal(ask(), -EINVAL);
	begin(FUSE_READ, node);
	add(&r, sizeof(r));
	assert_int_equal(ask_with(sizeof(f.head) + 99), -EINVAL);
	r.offset = UINT64_MAX;
	begin(FUSE_READ, node);
	add(&r, sizeof(r));
	assert_int_equal(ask(), -EINVAL);
}

static void names_are_components(void **state)
{
	static const char *const bad[] = { "", ".", "..", "/", "folder/x", "../secret", "file/" };
	struct share_counts counts;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		begin(FUSE_LOOKUP, FUSE_ROOT_ID);
		add_name(bad[i]);
		if (ask() != -EINVAL)
			fail_msg("'%s': %d", bad[i], f.head.error);
	}
	/* Without its end, and with a name that is too long. */
	begin(FUSE_LOOKUP, FUSE_ROOT_ID);
	add("file", 4);
	assert_int_equal(ask(), -EINVAL);
	begin(FUSE_LOOKUP, FUSE_ROOT_ID);
	memset(f.in + f.in_len, 'n', 256);
	f.in_len += 256;
	add("", 1);
	assert_int_equal(ask(), -EINVAL);
	share_get_counts(f.s, &counts);
	assert_int_equal(counts.nodes, 1);
}

static void links_are_not_followed(void **state)
{
	uint64_t out = lookup(FUSE_ROOT_ID, "out");
	struct fuse_open_in in = { .flags = O_RDONLY };
	struct fuse_create_in create = { .flags = O_RDWR, .mode = 0600 };

	begin(FUSE_READLINK, out);
	assert_int_equal(ask(), 0);
	assert_memory_equal(body(9), "../secret", 9);
	begin(FUSE_OPEN, out);
	add(&in, sizeof(in));
	assert_int_equal(ask(), -EINVAL);
	begin(FUSE_LOOKUP, out);
	add_name("x");
	assert_int_equal(ask(), -ENOTDIR);
	begin(FUSE_CREATE, FUSE_ROOT_ID);
	add(&create, sizeof(create));
	add_name("out");
	assert_int_equal(ask(), -EINVAL);
}

static void changes_of_links_stay_with_them(void **state)
{
	uint64_t out = lookup(FUSE_ROOT_ID, "out");
	struct fuse_setattr_in mode = { .valid = FATTR_MODE, .mode = 0777 };
	struct fuse_setattr_in size = { .valid = FATTR_SIZE };
	struct fuse_setattr_in times = { .valid = FATTR_MTIME, .mtime = 1000 };
	struct fuse_link_in link = { .oldnodeid = out };
	struct stat st;
	char path[160];

	begin(FUSE_SETATTR, out);
	add(&mode, sizeof(mode));
	assert_int_equal(ask(), -EOPNOTSUPP);
	begin(FUSE_SETATTR, out);
	add(&size, sizeof(size));
	assert_int_equal(ask(), -EINVAL);
	begin(FUSE_SETATTR, out);
	add(&times, sizeof(times));
	assert_int_equal(ask(), 0);
	begin(FUSE_LINK, FUSE_ROOT_ID);
	add(&link, sizeof(link));
	add_name("second");
	assert_int_equal(ask(), 0);
	snprintf(path, sizeof(path), "%s/secret", f.top);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 11);
	assert_int_equal(st.st_nlink, 1);
	assert_true(st.st_mtime > 1000);
	snprintf(path, sizeof(path), "%s/share/second", f.top);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(st.st_mtime, 1000);
}

static void no_devices(void **state)
{
	struct fuse_mknod_in in = { .mode = S_IFCHR | 0666, .rdev = 0x103 };

	begin(FUSE_MKNOD, FUSE_ROOT_ID);
	add(&in, sizeof(in));
	add_name("null");
	assert_int_equal(ask(), -EPERM);
	in.mode = S_IFBLK | 0666;
	begin(FUSE_MKNOD, FUSE_ROOT_ID);
	add(&in, sizeof(in));
	add_name("disk");
	assert_int_equal(ask(), -EPERM);
}

/* A pipe that the guest makes must not be one that we wait for. */
static void pipes_are_not_opened(void **state)
{
	struct fuse_mknod_in in = { .mode = S_IFIFO | 0666 };
	struct fuse_open_in o = { .flags = O_RDONLY };
	uint64_t pipe;

	begin(FUSE_MKNOD, FUSE_ROOT_ID);
	add(&in, sizeof(in));
	add_name("pipe");
	assert_int_equal(ask(), 0);
	pipe = lookup(FUSE_ROOT_ID, "pipe");
	begin(FUSE_OPEN, pipe);
	add(&o, sizeof(o));
	assert_int_equal(ask(), -EINVAL);
}

static void numbers_that_mean_nothing(void **state)
{
	static const uint64_t nodes[] = { 0, 2, 3, 1023, 1024, UINT32_MAX, UINT64_MAX };
	struct fuse_getattr_in g = { 0 };
	struct fuse_release_in r = { .fh = 0 };

	for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
		begin(FUSE_GETATTR, nodes[i]);
		add(&g, sizeof(g));
		assert_int_equal(ask(), -ESTALE);
		r.fh = nodes[i];
		begin(FUSE_RELEASE, FUSE_ROOT_ID);
		add(&r, sizeof(r));
		assert_int_equal(ask(), -EBADF);
	}
}

static void forgetting(void **state)
{
	uint64_t node = lookup(FUSE_ROOT_ID, "file");
	struct fuse_forget_in forget = { .nlookup = 1 };
	struct fuse_getattr_in g = { 0 };

	assert_int_equal(lookup(FUSE_ROOT_ID, "file"), node);
	for (int left = 1; left >= 0; left--) {
		begin(FUSE_FORGET, node);
		add(&forget, sizeof(forget));
		assert_int_equal(ask(), 0);
		assert_int_equal(f.got, 0);
		begin(FUSE_GETATTR, node);
		add(&g, sizeof(g));
		assert_int_equal(ask(), left ? 0 : -ESTALE);
	}
	/* The directory itself stays, however often it is forgotten. */
	forget.nlookup = UINT64_MAX;
	begin(FUSE_FORGET, FUSE_ROOT_ID);
	add(&forget, sizeof(forget));
	ask();
	assert_true(lookup(FUSE_ROOT_ID, "file") != 0);
}

static void batch_beyond_its_message(void **state)
{
	struct fuse_batch_forget_in in = { .count = UINT32_MAX };
	struct fuse_forget_one one = { lookup(FUSE_ROOT_ID, "file"), 1 };
	struct share_counts counts;

	begin(FUSE_BATCH_FORGET, 0);
	add(&in, sizeof(in));
	add(&one, sizeof(one));
	add(&one, 5);
	ask();
	share_get_counts(f.s, &counts);
	assert_int_equal(counts.nodes, 1);
}

/* Every operation, with its arguments cut off at every byte, and the answer likewise. */
static void messages_of_all_lengths(void **state)
{
	for (uint32_t opcode = 0; opcode < 60; opcode++)
		for (size_t n = 0; n < 120; n++) {
			begin(opcode, FUSE_ROOT_ID);
			memset(f.in + f.in_len, 1, n);
			f.in_len += n;
			ask_with(n % 2 ? sizeof(f.out) : n);
		}
	/* A header that is cut off, or lies about its length. */
	for (size_t n = 0; n < sizeof(struct fuse_in_header); n++) {
		begin(FUSE_LOOKUP, FUSE_ROOT_ID);
		f.in_len = n > 4 ? n : 4;
		ask();
		assert_int_equal(f.got, 0);
	}
	begin(FUSE_STATFS, FUSE_ROOT_ID);
	for (uint32_t len = 0; len < 100; len += 7) {
		struct iovec in = { f.in, f.in_len }, out = { f.out, sizeof(f.out) };

		memcpy(f.in, &len, sizeof(len));
		share_request(f.s, &in, 1, &out, 1);
		memcpy(&f.head, f.out, sizeof(f.head));
		assert_int_equal(f.head.error, -EINVAL);
	}
}

/* In answers of every size; each name once, as long as the answer can hold one. */
static void directories_in_pieces(void **state)
{
	struct fuse_open_in o = { 0 };
	struct fuse_open_out opened;

	begin(FUSE_OPENDIR, FUSE_ROOT_ID);
	add(&o, sizeof(o));
	assert_int_equal(ask(), 0);
	memcpy(&opened, body(sizeof(opened)), sizeof(opened));
	for (uint32_t size = 32; size < 400; size += 8) {
		struct fuse_read_in r = { .fh = opened.fh, .size = size };
		unsigned names = 0;

		for (;;) {
			const uint8_t *p = f.out + sizeof(f.head);

			begin(FUSE_READDIR, FUSE_ROOT_ID);
			add(&r, sizeof(r));
			if (ask() == -EINVAL) /* getdents(2): not one fits */
				break;
			if (f.got == sizeof(f.head))
				break;
			assert_true(f.got <= sizeof(f.head) + size);
			while (p < f.out + f.got) {
				struct fuse_dirent d;

				memcpy(&d, p, sizeof(d));
				r.offset = d.off;
				p += FUSE_DIRENT_SIZE(&d);
				names++;
			}
		}
		assert_true(names == 5 || size < 64);
	}
}

static void read_only(void **state)
{
	static const uint32_t writes[] = {
		FUSE_SETATTR, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR,  FUSE_UNLINK,  FUSE_RMDIR,
		FUSE_RENAME,  FUSE_LINK,    FUSE_WRITE, FUSE_CREATE, FUSE_RENAME2, FUSE_FALLOCATE
	};
	struct fuse_open_in o = { .flags = O_RDONLY };
	uint64_t node;

	open_share(true);
	for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
		begin(writes[i], FUSE_ROOT_ID);
		f.in_len += 200;
		assert_int_equal(ask(), -EROFS);
	}
	node = lookup(FUSE_ROOT_ID, "file");
	open_node(node, O_RDONLY);
	o.flags = O_RDWR;
	begin(FUSE_OPEN, node);
	add(&o, sizeof(o));
	assert_int_equal(ask(), -EROFS);
	o.flags = O_RDONLY | O_TRUNC;
	begin(FUSE_OPEN, node);
	add(&o, sizeof(o));
	assert_int_equal(ask(), -EROFS);
}

static void reset_closes_all(void **state)
{
	struct share_counts counts;

	open_node(lookup(FUSE_ROOT_ID, "file"), O_RDONLY);
	lookup(FUSE_ROOT_ID, "folder");
	share_get_counts(f.s, &counts);
	assert_int_equal(counts.nodes, 3);
	assert_int_equal(counts.handles, 1);
	share_reset(f.s);
	share_get_counts(f.s, &counts);
	assert_int_equal(counts.nodes, 1);
	assert_int_equal(counts.handles, 0);
}

/* Thousands of files: the table grows, and every number stays what it was. */
static void many_nodes(void **state)
{
	enum { NODES = 5000 };
	static uint64_t id[NODES];
	char name[32];

	for (int i = 0; i < NODES; i++) {
		struct fuse_mknod_in in = { .mode = S_IFREG | 0600 };

		snprintf(name, sizeof(name), "n%d", i);
		begin(FUSE_MKNOD, FUSE_ROOT_ID);
		add(&in, sizeof(in));
		add_name(name);
		if (ask() == -ENFILE) /* the host's limit for this process */
			skip();
		assert_int_equal(f.head.error, 0);
		memcpy(&id[i], f.out + sizeof(f.head), sizeof(id[i]));
	}
	for (int i = 0; i < NODES; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(lookup(FUSE_ROOT_ID, name), id[i]);
	}
}

int main(void)
{
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_FOLDER(introduction),
		WITH_FOLDER(reads_and_writes),
		WITH_FOLDER(names_are_components),
		WITH_FOLDER(links_are_not_followed),
		WITH_FOLDER(changes_of_links_stay_with_them),
		WITH_FOLDER(no_devices),
		WITH_FOLDER(pipes_are_not_opened),
		WITH_FOLDER(numbers_that_mean_nothing),
		WITH_FOLDER(forgetting),
		WITH_FOLDER(batch_beyond_its_message),
		WITH_FOLDER(messages_of_all_lengths),
		WITH_FOLDER(directories_in_pieces),
		WITH_FOLDER(read_only),
		WITH_FOLDER(reset_closes_all),
		WITH_FOLDER(many_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
