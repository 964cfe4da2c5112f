/*
 * What a format costs: the same requests to a raw and to a qcow2 image, through block.h.
 *
 *     bench_disk FOLDER [MIB [ROUNDS]]
 *
 * Makes an image of each format in FOLDER, of MIB MiB (1024), fills both, and then, ROUNDS (5)
 * times one after the other, reads and writes each: 1 MiB in sequence, and 4 KiB at random places.
 * Prints the best round of each in MiB/s and requests/s, and qcow2's part of raw. Files are cached
 * by the host throughout; "flushed" has the flush in its time.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/block.h"
#include "block/image.h"

#define DEPTH 8u

enum bench { FIRST_WRITE, READ, WRITE, WRITE_FLUSHED, RANDOM_READ, RANDOM_WRITE, BENCHES };

static const struct {
	const char *name;
	enum block_op op;
	uint64_t len;
	bool random, flushed;
} benches[BENCHES] = {
	[FIRST_WRITE] = { "1 MiB write, new image", BLOCK_WRITE, MiB, false, false },
	[READ] = { "1 MiB read", BLOCK_READ, MiB, false, false },
	[WRITE] = { "1 MiB write", BLOCK_WRITE, MiB, false, false },
	[WRITE_FLUSHED] = { "1 MiB write, flushed", BLOCK_WRITE, MiB, false, true },
	[RANDOM_READ] = { "4 KiB random read", BLOCK_READ, 4 * KiB, true, false },
	[RANDOM_WRITE] = { "4 KiB random write", BLOCK_WRITE, 4 * KiB, true, false },
};

static uint64_t disk_bytes = 1024 * MiB;

/* Requests under way; each submits the next one at its end. */
struct run {
	struct block *b;
	enum bench bench;
	uint64_t left, next; /* requests; the next offset, or the random state */
	pthread_mutex_t lock;
	pthread_cond_t ended;
	unsigned busy;
	int rc;
	struct lane {
		struct block_request r;
		struct iovec iov;
		struct run *run;
	} lane[DEPTH];
};

static uint64_t next_offset(struct run *run)
{
	uint64_t len = benches[run->bench].len, offset = run->next;

	if (!benches[run->bench].random) {
		run->next += len;
		return offset;
	}
	run->next = run->next * 6364136223846793005ull + 1442695040888963407ull;
	return (offset >> 20) % (disk_bytes / len) * len;
}

/* On the disk's thread, and once for each lane at the start, before there is anything to race with.
 */
static void go_on(struct block_request *r, int rc)
{
	struct lane *l = r->opaque;
	struct run *run = l->run;
	bool more;

	pthread_mutex_lock(&run->lock);
	if (rc)
		run->rc = rc;
	more = run->left && !run->rc;
	if (more) {
		run->left--;
		r->offset = next_offset(run);
	} else {
		run->busy--;
		pthread_cond_signal(&run->ended);
	}
	pthread_mutex_unlock(&run->lock);
	if (more)
		block_submit(run->b, r);
}

static double run_once(struct block *b, enum bench bench, uint8_t *buf)
{
	struct run run = { .b = b, .bench = bench, .busy = DEPTH };
	uint64_t start = clock_ns();

	run.left = benches[bench].random ? 40000 : disk_bytes / MiB;
	pthread_mutex_init(&run.lock, NULL);
	pthread_cond_init(&run.ended, NULL);
	for (unsigned i = 0; i < DEPTH; i++) {
		struct lane *l = &run.lane[i];

		l->run = &run;
		l->iov = (struct iovec){ buf + i * MiB, benches[bench].len };
		l->r = (struct block_request){ .op = benches[bench].op,
			                       .len = benches[bench].len,
			                       .iov = &l->iov,
			                       .nr_iov = 1,
			                       .done = go_on,
			                       .opaque = l };
		go_on(&l->r, 0);
	}
	pthread_mutex_lock(&run.lock);
	while (run.busy)
		pthread_cond_wait(&run.ended, &run.lock);
	pthread_mutex_unlock(&run.lock);
	if (!run.rc && benches[bench].flushed)
		run.rc = block_flush(b);
	if (run.rc) {
		fprintf(stderr, "%s: %s\n", benches[bench].name, strerror(-run.rc));
		exit(1);
	}
	return (double)(clock_ns() - start) / 1e9;
}

static struct block *make_disk(const char *folder, const char *format, char *path, size_t n)
{
	struct image_create_options create = { .format = format, .size = disk_bytes };
	struct block_options options = { .format = format };
	struct block *b;
	char err[512];

	snprintf(path, n, "%s/bench.%s", folder, format);
	if (image_create(path, &create, err, sizeof(err)) ||
	    block_open(&b, path, &options, err, sizeof(err))) {
		fprintf(stderr, "%s\n", err);
		exit(1);
	}
	return b;
}

static void print_row(enum bench bench, const double *best)
{
	double requests = benches[bench].random ? 40000 : (double)disk_bytes / MiB;

	printf("%-24s %10.0f %10.0f %8s %6.2f\n", benches[bench].name, requests / best[0],
	       requests / best[1], benches[bench].random ? "1/s" : "MiB/s", best[0] / best[1]);
}

int main(int argc, char **argv)
{
	static const char *const formats[2] = { "raw", "qcow2" };
	unsigned rounds = argc > 3 ? (unsigned)atoi(argv[3]) : 5;
	double best[BENCHES][2] = { 0 };
	uint8_t *buf = malloc(DEPTH * MiB);
	struct block *disk[2];
	char path[2][512];

	if (argc < 2 || !buf) {
		fprintf(stderr, "usage: bench_disk FOLDER [MIB [ROUNDS]]\n");
		return 1;
	}
	if (argc > 2)
		disk_bytes = strtoull(argv[2], NULL, 10) * MiB;
	memset(buf, 0x5a, DEPTH * MiB);
	for (unsigned f = 0; f < 2; f++) {
		disk[f] = make_disk(argv[1], formats[f], path[f], sizeof(path[f]));
		best[FIRST_WRITE][f] = run_once(disk[f], FIRST_WRITE, buf);
		block_flush(disk[f]);
	}
	for (unsigned round = 0; round < rounds; round++)
		for (enum bench bench = READ; bench < BENCHES; bench++)
			for (unsigned f = 0; f < 2; f++) {
				double s = run_once(disk[f], bench, buf);

				if (!round || s < best[bench][f])
					best[bench][f] = s;
			}
	printf("%-24s %10s %10s %8s %6s\n", "", formats[0], formats[1], "", "part");
	for (enum bench bench = 0; bench < BENCHES; bench++)
		print_row(bench, best[bench]);
	for (unsigned f = 0; f < 2; f++) {
		block_close(disk[f]);
		unlink(path[f]);
	}
	free(buf);
	return 0;
}
