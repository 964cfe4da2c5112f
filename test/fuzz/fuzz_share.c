/*
 * A hostile client of a share: any request, in any order, with any number, name and length. Around
 * the directory that it is shown are files that it must neither see nor touch, and in it links that
 * lead to them.
 *
 * Input: records {opcode, node, handle, room, length (2, little-endian), length bytes}, of which
 * the bytes are what follows the request's header; `node` and `handle` are put in where numbers
 * that exist belong, so that these are hit.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "share/share.h"

#define HEAD     6
#define MAX_DATA 4096
#define SECRET   "what nobody may read or change"

static char top[64];

static void path_in(char *buf, size_t size, const char *name)
{
	snprintf(buf, size, "%s/%s", top, name);
}

static void write_file(const char *name, const char *text)
{
	char path[128];
	int fd;

	path_in(path, sizeof(path), name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void make_folder(const char *name)
{
	char path[128];

	path_in(path, sizeof(path), name);
	check(!mkdir(path, 0700) || errno == EEXIST);
}

static void make_link(const char *name, const char *target)
{
	char path[128];

	path_in(path, sizeof(path), name);
	unlink(path);
	check(!symlink(target, path) || errno == EEXIST || errno == EISDIR);
}

static int let_in(const char *path, const struct stat *st, int type, struct FTW *where)
{
	if (type == FTW_D || type == FTW_DNR)
		chmod(path, 0700);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	remove(path);
	return 0;
}

/* A folder that nobody may enter is found closed once, and opened for the next round. */
static void remove_tree(const char *path)
{
	while (!access(path, F_OK)) {
		nftw(path, let_in, 16, FTW_PHYS);
		nftw(path, remove_one, 16, FTW_PHYS | FTW_DEPTH);
	}
}

static void clean_up(void)
{
	remove_tree(top);
}

/* As small as it can be, for it is made anew for every input. */
static void make_tree(void)
{
	make_folder("share");
	make_folder("share/d");
	write_file("share/f", "something to read");
	make_link("share/out", "../secret");
	make_link("share/d/up", "..");
}

static void check_outside(void)
{
	char path[128], text[sizeof(SECRET) + 1] = "";
	unsigned entries = 0;
	struct stat st;
	DIR *dir;
	int fd;

	path_in(path, sizeof(path), "secret");
	fd = open(path, O_RDONLY);
	check(fd >= 0 && !fstat(fd, &st));
	check(read(fd, text, sizeof(text)) == sizeof(SECRET) - 1 && !strcmp(text, SECRET));
	close(fd);
	check((st.st_mode & 07777) == 0600 && st.st_nlink == 1);
	dir = opendir(top);
	check(dir);
	while (readdir(dir))
		entries++;
	closedir(dir);
	check(entries == 4); /* with . and .. */
}

/* Where a request has numbers of nodes and handles, from its header's end. */
static void put_numbers(uint32_t opcode, uint8_t *args, size_t len, uint64_t node, uint64_t handle)
{
	size_t at = SIZE_MAX;
	uint64_t number = handle;

	switch (opcode) {
	case FUSE_READ:
	case FUSE_WRITE:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
	case FUSE_FALLOCATE:
	case FUSE_LSEEK:
		at = 0;
		break;
	case FUSE_SETATTR:
		at = 8;
		break;
	case FUSE_RENAME:
	case FUSE_RENAME2:
	case FUSE_LINK:
		at = 0;
		number = node;
	}
	if (at < len && len - at >= sizeof(number))
		memcpy(args + at, &number, sizeof(number));
}

static void check_answer(const uint8_t *answer, size_t n, size_t room, uint64_t unique)
{
	struct fuse_out_header h;

	if (!n)
		return;
	check(n <= room && n >= sizeof(h));
	memcpy(&h, answer, sizeof(h));
	check(h.len == n && h.unique == unique);
	check(h.error <= 0 && h.error > -1000 && (!h.error || n == sizeof(h)));
	check(!memmem(answer, n, SECRET, sizeof(SECRET) - 1));
}

static void run(struct share *s, const uint8_t *record, const uint8_t *data, size_t len)
{
	static uint64_t unique;
	size_t room = record[3] < 250 ? 16u * record[3] : 65536, first, n;
	uint8_t *out = malloc(room ? room : 1), request[sizeof(struct fuse_in_header) + MAX_DATA];
	struct fuse_in_header h = { .len = (uint32_t)(sizeof(h) + len),
		                    .opcode = record[0] % 56,
		                    .unique = ++unique,
		                    .nodeid = record[1] & 15,
		                    .uid = geteuid(),
		                    .gid = getegid() };
	struct iovec in[3], answer[2];

	if (h.opcode == FUSE_SYNCFS || h.opcode == FUSE_FSYNC || h.opcode == FUSE_FSYNCDIR)
		h.opcode = FUSE_LOOKUP; /* they would only take the disk's time */
	memcpy(request, &h, sizeof(h));
	memcpy(request + sizeof(h), data, len);
	put_numbers(h.opcode, request + sizeof(h), len, record[1] >> 4, record[2] & 7);
	first = record[2] >> 3;
	in[0] = (struct iovec){ request, first };
	in[1] = (struct iovec){ request + first, sizeof(h) - first };
	in[2] = (struct iovec){ request + sizeof(h), len };
	answer[0] = (struct iovec){ out, room / 3 };
	answer[1] = (struct iovec){ out + room / 3, room - room / 3 };
	memset(out, 0, room);
	n = share_request(s, in, 3, answer, 2);
	check_answer(out, n, room, h.unique);
	free(out);
}

static void introduce(struct share *s)
{
	struct fuse_init_in init = { .major = 7, .minor = 38, .flags = ~0u };
	static const char *const names[] = { "f", "d", "out" };
	uint8_t record[HEAD] = { FUSE_INIT, 0, 0, 255 };

	run(s, record, (uint8_t *)&init, sizeof(init));
	record[0] = FUSE_LOOKUP;
	record[1] = FUSE_ROOT_ID;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		run(s, record, (const uint8_t *)names[i], strlen(names[i]) + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct share_options options = { .readonly = size && data[0] % 8 == 7 };
	struct share_counts counts;
	char path[128], err[256];
	struct share *s;

	if (!*top) {
		strcpy(top, "/tmp/fuzz-share-XXXXXX");
		check(mkdtemp(top));
		atexit(clean_up);
		write_file("secret", SECRET);
	}
	make_tree();
	path_in(path, sizeof(path), "share");
	options.path = path;
	check(!share_open(&s, &options, err, sizeof(err)));
	introduce(s);
	for (size_t at = 1; at + HEAD <= size;) {
		size_t len = data[at + 4] | (size_t)(data[at + 5] & 15) << 8;

		if (len > size - at - HEAD)
			len = size - at - HEAD;
		run(s, data + at, data + at + HEAD, len);
		at += HEAD + len;
	}
	check_outside();
	share_reset(s);
	share_get_counts(s, &counts);
	check(counts.nodes == 1 && counts.handles == 0);
	share_close(s);
	remove_tree(path);
	return 0;
}
