/*
 * What the tests of disk images do through block.h, as a program, so that they can kill it.
 *
 *   model IMAGE ORACLE SEED COUNT [threads]   random requests, 16 at a time, against the flat file
 *                                             ORACLE, which has the disk's content before and after
 *   churn IMAGE LOG SEED [threads [COUNT]]    random writes and flushes, until killed or for so
 * many; LOG, which is mapped, says what was flushed verify IMAGE LOG whether the image has what LOG
 * says hold IMAGE                                keeps it open until standard input ends fill IMAGE
 * PATTERN OFFSET LENGTH          writes bytes, and flushes; prints each step's result
 *   retry IMAGE BALLAST                       writes until the disk is full, removes BALLAST, gives
 *                                             the failed request again, and reads all back
 *
 * Formats are told from the content. Status 0, or 1 with a line.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"

#define DEPTH 16u
#define SLOT  4096u

static __attribute__((noreturn)) void die(const char *what, const char *detail)
{
	fprintf(stderr, "driver: %s: %s\n", what, detail);
	exit(1);
}

static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13; /* xorshift64 */
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * 0x2545f4914f6cdd1dull;
}

static void seed_random(const char *text)
{
	random_state = strtoull(text, NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
}

static struct block *open_disk(const char *path, bool readonly, bool threads)
{
	struct block_options o = { .readonly = readonly, .no_io_uring = threads };
	struct block *b;
	char err[512];

	if (block_open(&b, path, &o, err, sizeof(err)))
		die("open", err);
	return b;
}

static uint64_t disk_size(const struct block *b)
{
	struct block_info info;

	block_get_info(b, &info);
	return info.size;
}

/* A request of the pool. */
struct slot {
	struct block_request r;
	struct iovec iov[3];
	uint8_t *buf;
	bool busy;
	int rc;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct slot slot[DEPTH];
	unsigned busy;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* On the disk's thread; set by the mode. */
static void (*end_hook)(struct slot *s);

static void end_request(struct block_request *r, int rc)
{
	struct slot *s = r->opaque;

	s->rc = rc;
	end_hook(s);
	pthread_mutex_lock(&pool.lock);
	s->busy = false;
	pool.busy--;
	pthread_cond_signal(&pool.changed);
	pthread_mutex_unlock(&pool.lock);
}

static struct slot *take_slot(void)
{
	struct slot *s = pool.slot;

	pthread_mutex_lock(&pool.lock);
	while (pool.busy == DEPTH)
		pthread_cond_wait(&pool.changed, &pool.lock);
	while (s->busy)
		s++;
	pthread_mutex_unlock(&pool.lock);
	if (!s->buf)
		s->buf = malloc(BLOCK_MAX_LEN);
	return s;
}

static bool overlaps_busy(uint64_t offset, uint64_t len)
{
	bool overlaps = false;

	pthread_mutex_lock(&pool.lock);
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct slot *s = &pool.slot[i];

		overlaps |= s->busy && s->r.op != BLOCK_FLUSH && offset < s->r.offset + s->r.len &&
		            s->r.offset < offset + len;
	}
	pthread_mutex_unlock(&pool.lock);
	return overlaps;
}

/* The buffer in one piece, or cut at odd places. */
static void submit(struct block *b, struct slot *s, enum block_op op, unsigned flags,
                   uint64_t offset, uint64_t len)
{
	uint64_t cut = len > 1 ? next_random() % len : 0, cut2 = cut + (len - cut) / 3;

	s->iov[0] = (struct iovec){ s->buf, cut };
	s->iov[1] = (struct iovec){ s->buf + cut, cut2 - cut };
	s->iov[2] = (struct iovec){ s->buf + cut2, len - cut2 };
	s->r = (struct block_request){ .op = op,
		                       .flags = flags,
		                       .offset = offset,
		                       .len = len,
		                       .iov = s->iov,
		                       .nr_iov = 3,
		                       .done = end_request,
		                       .opaque = s };
	if (next_random() & 1) {
		s->iov[0] = (struct iovec){ s->buf, len };
		s->r.nr_iov = 1;
	}
	pthread_mutex_lock(&pool.lock);
	s->busy = true;
	pool.busy++;
	pthread_mutex_unlock(&pool.lock);
	block_submit(b, &s->r);
}

/* model */

static struct {
	uint8_t *disk;
	uint64_t size;
} oracle;

static void load_oracle(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDWR);

	if (fd < 0 || fstat(fd, &st))
		die(path, strerror(errno));
	oracle.size = (uint64_t)st.st_size;
	oracle.disk = mmap(NULL, oracle.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (oracle.disk == MAP_FAILED)
		die(path, strerror(errno));
	close(fd);
}

static void compare_with_oracle(const uint8_t *buf, uint64_t offset, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		if (buf[i] != oracle.disk[offset + i]) {
			fprintf(stderr, "driver: offset %" PRIu64 ": read %02x, expected %02x\n",
			        offset + i, buf[i], oracle.disk[offset + i]);
			exit(1);
		}
}

static void end_model(struct slot *s)
{
	if (s->rc)
		die("request", strerror(-s->rc));
	if (s->r.op == BLOCK_READ)
		compare_with_oracle(s->buf, s->r.offset, s->r.len);
}

static void submit_model(struct block *b, struct slot *s)
{
	static const enum block_op ops[] = {
		BLOCK_READ,  BLOCK_READ,    BLOCK_WRITE,        BLOCK_WRITE,       BLOCK_WRITE,
		BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES, BLOCK_WRITE_ZEROES
	};
	enum block_op op = ops[next_random() % ARRAY_SIZE(ops)];
	unsigned flags = next_random() % 8 ? 0 : BLOCK_FUA;
	uint64_t sectors = oracle.size / 512, len, offset;

	do {
		len = 1 + next_random() % (next_random() % 4 ? 16 : 1024);
		offset = next_random() % sectors;
		if (next_random() % 3 == 0)
			offset &= ~127ull; /* clusters' starts are where it is interesting */
		if (len > sectors - offset)
			len = sectors - offset;
	} while (overlaps_busy(offset * 512, len * 512));
	offset *= 512;
	len *= 512;
	if (op == BLOCK_WRITE) {
		for (uint64_t i = 0; i < len; i += 8)
			memcpy(s->buf + i, &(uint64_t){ next_random() }, 8);
		memcpy(oracle.disk + offset, s->buf, len);
	} else if (op == BLOCK_DISCARD || op == BLOCK_WRITE_ZEROES) {
		memset(oracle.disk + offset, 0, len);
		flags |= next_random() & 1 ? BLOCK_UNMAP : 0;
	}
	submit(b, s, op, flags, offset, len);
}

static int run_model(int argc, char **argv)
{
	struct block *b = open_disk(argv[0], false, argc > 4);
	uint64_t count = strtoull(argv[3], NULL, 0), len;
	static uint8_t buf[1 * MiB];
	int rc;

	load_oracle(argv[1]);
	seed_random(argv[2]);
	if (disk_size(b) != oracle.size)
		die("size", "the oracle has another one");
	end_hook = end_model;
	while (count--)
		submit_model(b, take_slot());
	block_drain(b);
	for (uint64_t at = 0; at < oracle.size; at += len) {
		len = oracle.size - at < 1 * MiB ? oracle.size - at : 1 * MiB;
		if (block_read(b, at, buf, len))
			die("read", "failed at the end");
		compare_with_oracle(buf, at, len);
	}
	rc = block_close(b);
	return rc ? (die("close", strerror(-rc)), 1) : 0;
}

/* churn and verify: each slot of the disk has generations; those divisible by 5 are zeroes. */

struct log {
	uint64_t slots;
	struct log_slot {
		uint32_t started, ended, flushed;
	} slot[];
};

static struct log *churn_log;

static struct log *map_log(const char *path, uint64_t slots)
{
	size_t bytes = sizeof(struct log) + slots * sizeof(struct log_slot);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	struct stat st;
	struct log *l;

	if (fd < 0 || fstat(fd, &st) || ((size_t)st.st_size < bytes && ftruncate(fd, (off_t)bytes)))
		die(path, strerror(errno));
	l = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (l == MAP_FAILED)
		die(path, strerror(errno));
	close(fd);
	l->slots = slots;
	return l;
}

static void make_content(uint8_t *buf, uint64_t slot, uint32_t generation)
{
	uint64_t *words = (uint64_t *)buf;

	for (unsigned i = 0; i < SLOT / 8; i++)
		words[i] = generation % 5
		                   ? (slot << 32 | generation) * 0x9e3779b97f4a7c15ull + i / 64
		                   : 0;
}

/* A flush covers what had ended when it was submitted: that is copied to `covered` then. */
static uint32_t *covered;
static int marks = -1; /* a copy of the log as it was after each flush, for powerloss.c */

static void mark(void)
{
	if (marks >= 0 &&
	    pwrite(marks, churn_log,
	           sizeof(*churn_log) + churn_log->slots * sizeof(churn_log->slot[0]), 0) < 0)
		die("marks", strerror(errno));
}

static bool flush_is_busy;

static void end_churn(struct slot *s)
{
	uint64_t first = s->r.offset / SLOT, n = s->r.len / SLOT;

	if (s->rc)
		die("request", strerror(-s->rc));
	if (s->r.op != BLOCK_FLUSH) {
		for (uint64_t i = first; i < first + n; i++) {
			churn_log->slot[i].ended = churn_log->slot[i].started;
			if (s->r.flags & BLOCK_FUA)
				churn_log->slot[i].flushed = churn_log->slot[i].started;
		}
		if (s->r.flags & BLOCK_FUA)
			mark();
		return;
	}
	for (uint64_t i = 0; i < churn_log->slots; i++)
		if (covered[i] > churn_log->slot[i].flushed)
			churn_log->slot[i].flushed = covered[i];
	mark();
	flush_is_busy = false;
}

static void submit_churn(struct block *b, struct slot *s)
{
	uint64_t slots = churn_log->slots, first, n;
	uint32_t generation = 0;
	bool zero;

	if (next_random() % 20 == 0 && !__atomic_load_n(&flush_is_busy, __ATOMIC_SEQ_CST)) {
		__atomic_store_n(&flush_is_busy, true, __ATOMIC_SEQ_CST);
		for (uint64_t i = 0; i < slots; i++)
			covered[i] = churn_log->slot[i].ended;
		submit(b, s, BLOCK_FLUSH, 0, 0, 0);
		return;
	}
	do {
		n = 1 + next_random() % (next_random() % 4 ? 4 : 64);
		first = next_random() % slots;
		if (n > slots - first)
			n = slots - first;
	} while (overlaps_busy(first * SLOT, n * SLOT));
	for (uint64_t i = first; i < first + n; i++)
		if (churn_log->slot[i].started > generation)
			generation = churn_log->slot[i].started;
	generation++;
	zero = generation % 5 == 0;
	for (uint64_t i = first; i < first + n; i++) {
		make_content(s->buf + (i - first) * SLOT, i, generation);
		churn_log->slot[i].started = generation;
	}
	submit(b, s,
	       !zero               ? BLOCK_WRITE
	       : next_random() & 1 ? BLOCK_DISCARD
	                           : BLOCK_WRITE_ZEROES,
	       (next_random() % 16 ? 0 : BLOCK_FUA) | BLOCK_UNMAP, first * SLOT, n * SLOT);
}

static int run_churn(int argc, char **argv)
{
	unsigned long count = 0;
	struct block *b = open_disk(argv[0], false, argc > 3 && !strcmp(argv[3], "threads"));

	churn_log = map_log(argv[1], disk_size(b) / SLOT);
	covered = calloc(churn_log->slots, sizeof(*covered));
	for (uint64_t i = 0; i < churn_log->slots; i++) /* what had ended but was lost */
		churn_log->slot[i].ended = churn_log->slot[i].flushed;
	seed_random(argv[2]);
	end_hook = end_churn;
	if (getenv("POWERLOSS_MARKS"))
		marks = open(getenv("POWERLOSS_MARKS"), O_WRONLY | O_CREAT, 0600);
	puts("started");
	fflush(stdout);
	while (!argv[3] || !argv[4] || count < strtoul(argv[4], NULL, 0)) {
		submit_churn(b, take_slot());
		count++;
	}
	block_drain(b);
	return block_close(b) != 0;
}

/* Each sector is of some generation from the flushed one to the last that was started. */
static bool is_possible(const uint8_t *sector, uint64_t slot, unsigned at, const struct log_slot *l)
{
	uint8_t buf[SLOT];

	for (uint32_t g = l->flushed; g <= l->started; g++) {
		make_content(buf, slot, g);
		if (!memcmp(buf + at, sector, 512))
			return true;
	}
	return false;
}

static int run_verify(int argc, char **argv)
{
	struct block *b = open_disk(argv[0], true, false);
	uint64_t slots = disk_size(b) / SLOT, bad = 0, flushed = 0;
	uint8_t buf[SLOT];

	churn_log = map_log(argv[1], slots);
	for (uint64_t i = 0; i < slots; i++) {
		struct log_slot *l = &churn_log->slot[i];

		if (block_read(b, i * SLOT, buf, SLOT))
			die("read", "failed");
		flushed += l->flushed != 0;
		for (unsigned at = 0; at < SLOT; at += 512)
			bad += !is_possible(buf + at, i, at, l);
	}
	block_close(b);
	printf("%" PRIu64 " slots flushed\n", flushed);
	if (bad)
		fprintf(stderr, "driver: %" PRIu64 " sectors are not what was flushed\n", bad);
	return bad != 0;
}

static int run_hold(int argc, char **argv)
{
	struct block *b = open_disk(argv[0], false, false);

	puts("open");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return block_close(b) != 0;
}

static int run_fill(int argc, char **argv)
{
	struct block *b = open_disk(argv[0], false, false);
	uint64_t offset = strtoull(argv[2], NULL, 0), len = strtoull(argv[3], NULL, 0);
	static uint8_t buf[64 * KiB];
	int rc = 0;

	memset(buf, atoi(argv[1]), sizeof(buf));
	for (; len && !rc; len -= 64 * KiB, offset += 64 * KiB)
		rc = block_write(b, offset, buf, 64 * KiB);
	printf("write %s\n", rc ? strerror(-rc) : "ok");
	rc = block_flush(b);
	printf("flush %s\n", rc ? strerror(-rc) : "ok");
	rc = block_close(b);
	printf("close %s\n", rc ? strerror(-rc) : "ok");
	return 0;
}

static int run_retry(int argc, char **argv)
{
	struct block *b = open_disk(argv[0], false, false);
	uint64_t size = disk_size(b), offset;
	bool full = false;
	uint8_t buf[64 * KiB];

	for (offset = 0; offset < size && offset < 2 * MiB; offset += sizeof(buf)) {
		int rc;

		memset(buf, (int)(offset >> 16) + 1, sizeof(buf));
		rc = block_write(b, offset, buf, sizeof(buf));
		if (rc == -ENOSPC && !full) {
			printf("full at %" PRIu64 "\n", offset);
			full = true;
			if (unlink(argv[1]))
				die(argv[1], strerror(errno));
			rc = block_write(b, offset, buf, sizeof(buf));
		}
		if (rc || (rc = block_flush(b)))
			die("write", strerror(-rc));
	}
	while (offset) {
		offset -= sizeof(buf);
		if (block_read(b, offset, buf, sizeof(buf)) ||
		    buf[0] != (uint8_t)((offset >> 16) + 1) ||
		    memcmp(buf, buf + 1, sizeof(buf) - 1))
			die("read", "not what was written");
	}
	if (!block_close(b))
		puts("the rest went well");
	return 0;
}

static const struct {
	const char *name;
	int words;
	int (*run)(int argc, char **argv);
} modes[] = {
	{ "model", 4, run_model }, { "churn", 3, run_churn }, { "verify", 2, run_verify },
	{ "hold", 1, run_hold },   { "fill", 4, run_fill },   { "retry", 2, run_retry },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(modes); i++)
		if (!strcmp(argv[1], modes[i].name) && argc - 2 >= modes[i].words)
			return modes[i].run(argc - 2, argv + 2);
	die("usage", "see the file's head");
}
