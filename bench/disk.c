/*
 * What a format costs: the same requests to a raw and to a qcow2 image, through block.h.
 *
 *     bench_disk FOLDER [MIB [ROUNDS]]
 *
 * ROUNDS (5) times, each kind of request in turn goes to an image of MIB MiB (1024) of each format
 * in FOLDER, one right after the other, and in the next round in the other order: DEPTH requests
 * under way, of 1 MiB in sequence or of 4 KiB at random places. "new image" writes to one just
 * made, where every cluster has yet to be allocated; "flushed" has the flush in its time. Files are
 * cached by the host throughout.
 *
 * Prints the best round of each in MiB/s or requests/s and qcow2's part of raw, the median of the
 * rounds' parts, and the part by CPU time of this process, the kernel's work for it included, which
 * other work on the host moves least. Above 1 qcow2 is the faster one.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "block/block.h"
#include "block/image.h"

#define DEPTH           8u
#define MAX_ROUNDS      100u
#define RANDOM_REQUESTS 40000u

enum bench {
	FIRST_WRITE,
	FIRST_WRITE_FLUSHED,
	READ,
	WRITE,
	WRITE_FLUSHED,
	RANDOM_READ,
	RANDOM_WRITE,
	BENCHES
};

static const struct {
	const char *name;
	enum block_op op;
	uint64_t len;
	bool random, flushed, new_image;
} benches[BENCHES] = {
	[FIRST_WRITE] = { "1 MiB write, new image", BLOCK_WRITE, MiB, .new_image = true },
	[FIRST_WRITE_FLUSHED] = { "1 MiB write, new image, flushed", BLOCK_WRITE, MiB,
	                          .flushed = true, .new_image = true },
	[READ] = { "1 MiB read", BLOCK_READ, MiB },
	[WRITE] = { "1 MiB write", BLOCK_WRITE, MiB },
	[WRITE_FLUSHED] = { "1 MiB write, flushed", BLOCK_WRITE, MiB, .flushed = true },
	[RANDOM_READ] = { "4 KiB random read", BLOCK_READ, 4 * KiB, .random = true },
	[RANDOM_WRITE] = { "4 KiB random write", BLOCK_WRITE, 4 * KiB, .random = true },
};

/* Seconds that a run took, by the clock and of CPU. */
struct cost {
	double wall, cpu;
};

struct disk {
	const char *format;
	char path[512];
	struct block *b;
	struct cost costs[BENCHES][MAX_ROUNDS];
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

static uint64_t requests_of(enum bench bench)
{
	return benches[bench].random ? RANDOM_REQUESTS : disk_bytes / benches[bench].len;
}

static struct cost now(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (struct cost){
		(double)clock_ns() / 1e9,
		(double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
		        (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6,
	};
}

static void submit_all(struct run *run, uint8_t *buf)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		struct lane *l = &run->lane[i];

		l->run = run;
		l->iov = (struct iovec){ buf + i * MiB, benches[run->bench].len };
		l->r = (struct block_request){ .op = benches[run->bench].op,
			                       .len = benches[run->bench].len,
			                       .iov = &l->iov,
			                       .nr_iov = 1,
			                       .done = go_on,
			                       .opaque = l };
		go_on(&l->r, 0);
	}
}

static struct cost run_once(struct block *b, enum bench bench, uint8_t *buf)
{
	struct run run = { .b = b, .bench = bench, .busy = DEPTH, .left = requests_of(bench) };
	struct cost start = now(), end;

	pthread_mutex_init(&run.lock, NULL);
	pthread_cond_init(&run.ended, NULL);
	submit_all(&run, buf);
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
	end = now();
	pthread_cond_destroy(&run.ended);
	pthread_mutex_destroy(&run.lock);
	return (struct cost){ end.wall - start.wall, end.cpu - start.cpu };
}

static void drop_image(struct disk *d)
{
	block_close(d->b);
	unlink(d->path);
	d->b = NULL;
}

static void make_image(struct disk *d)
{
	struct image_create_options create = { .format = d->format, .size = disk_bytes };
	struct block_options options = { .format = d->format };
	char err[512];

	if (d->b)
		drop_image(d);
	if (image_create(d->path, &create, err, sizeof(err)) ||
	    block_open(&d->b, d->path, &options, err, sizeof(err))) {
		fprintf(stderr, "%s\n", err);
		exit(1);
	}
}

/* What an earlier run left to be written back by the host is no part of this one. */
static void measure(struct disk *d, enum bench bench, unsigned round, uint8_t *buf)
{
	if (benches[bench].new_image)
		make_image(d);
	block_flush(d->b);
	d->costs[bench][round] = run_once(d->b, bench, buf);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static struct cost best_of(const struct disk *d, enum bench bench, unsigned rounds)
{
	struct cost best = d->costs[bench][0];

	for (unsigned i = 1; i < rounds; i++) {
		if (d->costs[bench][i].wall < best.wall)
			best.wall = d->costs[bench][i].wall;
		if (d->costs[bench][i].cpu < best.cpu)
			best.cpu = d->costs[bench][i].cpu;
	}
	return best;
}

static void print_row(const struct disk *disk, enum bench bench, unsigned rounds)
{
	struct cost raw = best_of(&disk[0], bench, rounds),
	            qcow2 = best_of(&disk[1], bench, rounds);
	double n = (double)requests_of(bench), parts[MAX_ROUNDS];

	for (unsigned i = 0; i < rounds; i++)
		parts[i] = disk[0].costs[bench][i].wall / disk[1].costs[bench][i].wall;
	qsort(parts, rounds, sizeof(parts[0]), compare_doubles);
	printf("%-32s %8.0f %8.0f %6s %6.2f %7.2f %6.2f\n", benches[bench].name, n / raw.wall,
	       n / qcow2.wall, benches[bench].random ? "1/s" : "MiB/s", raw.wall / qcow2.wall,
	       (parts[(rounds - 1) / 2] + parts[rounds / 2]) / 2, raw.cpu / qcow2.cpu);
}

static void print_all(const struct disk *disk, unsigned rounds)
{
	double load[1] = { 0 };

	getloadavg(load, 1);
	printf("%u rounds of %llu MiB, load average %.1f\n", rounds,
	       (unsigned long long)(disk_bytes / MiB), load[0]);
	printf("%-32s %8s %8s %6s %6s %7s %6s\n", "", disk[0].format, disk[1].format, "", "part",
	       "median", "CPU");
	for (enum bench bench = 0; bench < BENCHES; bench++)
		print_row(disk, bench, rounds);
}

int main(int argc, char **argv)
{
	static struct disk disk[2] = { { .format = "raw" }, { .format = "qcow2" } };
	unsigned rounds = argc > 3 ? (unsigned)atoi(argv[3]) : 5;
	uint8_t *buf = malloc(DEPTH * MiB);

	if (argc < 2 || !buf || !rounds || rounds > MAX_ROUNDS) {
		fprintf(stderr, "usage: bench_disk FOLDER [MIB [ROUNDS]], of %u rounds at most\n",
		        MAX_ROUNDS);
		return 1;
	}
	if (argc > 2)
		disk_bytes = strtoull(argv[2], NULL, 10) * MiB;
	memset(buf, 0x5a, DEPTH * MiB);
	for (unsigned f = 0; f < 2; f++)
		snprintf(disk[f].path, sizeof(disk[f].path), "%s/bench.%s", argv[1],
		         disk[f].format);
	for (unsigned round = 0; round < rounds; round++)
		for (enum bench bench = 0; bench < BENCHES; bench++)
			for (unsigned f = 0; f < 2; f++)
				measure(&disk[(f + round) % 2], bench, round, buf);
	print_all(disk, rounds);
	drop_image(&disk[0]);
	drop_image(&disk[1]);
	free(buf);
	return 0;
}
