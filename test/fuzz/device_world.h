/*
 * A bus with PCI devices in one thread: workers run, and the requests of a disk end, when the input
 * says so or somebody waits. Definitions of what src/base/worker.h and src/block/block.h declare,
 * which check what devices ask of them. Include once.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/worker.h"
#include "block/block.h"
#include "check.h"
#include "device/pci_host.h"

#define WORLD_ECAM     0xc0000000ull
#define WORLD_LOW      0xc0100000ull
#define WORLD_LOW_LEN  0x1000000ull
#define WORLD_WORKERS  8
#define WORLD_REQUESTS 4096
#define WORLD_DISK     (1 * MiB)

struct block {
	unsigned nr;
	struct block_request *request[WORLD_REQUESTS];
};

static struct world {
	struct bus bus;
	struct mem *mem;
	struct pci_host host;
	struct block disk;
	struct worker *worker[WORLD_WORKERS];
	unsigned nr_workers;
	struct worker *running;
	unsigned messages;
	bool readonly;
	uint8_t *content; /* of the disk, WORLD_DISK bytes; NULL: reads give 0x5a, writes go nowhere
	                   */
} world;

/* Workers. */

int worker_start(struct worker *w, const char *name, void (*run)(void *opaque), void *opaque)
{
	*w = (struct worker){ .run = run, .opaque = opaque, .started = true };
	check(world.nr_workers < WORLD_WORKERS);
	world.worker[world.nr_workers++] = w;
	return 0;
}

void worker_wake(struct worker *w)
{
	w->pending = true;
}

void worker_end(struct worker *w)
{
	w->started = false;
}

static void run_workers(void)
{
	for (unsigned i = 0; i < world.nr_workers; i++) {
		struct worker *w = world.worker[i], *outer = world.running;

		while (w->started && w->pending && w != outer) {
			w->pending = false;
			world.running = w;
			w->run(w->opaque);
			world.running = outer;
		}
	}
}

/* The disk. */

void block_get_info(const struct block *b, struct block_info *info)
{
	*info = (struct block_info){ .format = "raw",
		                     .size = WORLD_DISK,
		                     .sector = 512,
		                     .readonly = world.readonly,
		                     .discards = true };
}

static bool moves_data(const struct block_request *r)
{
	return r->op == BLOCK_READ || r->op == BLOCK_WRITE;
}

static void check_request(const struct block_request *r)
{
	uint64_t len = 0;

	check(r->op < BLOCK_OPS && r->done);
	check(!world.readonly || r->op == BLOCK_READ || r->op == BLOCK_FLUSH);
	if (r->op == BLOCK_FLUSH)
		return;
	check(r->len && r->len <= BLOCK_MAX_LEN && r->len % 512 == 0 && r->offset % 512 == 0);
	check(r->offset <= WORLD_DISK && r->len <= WORLD_DISK - r->offset);
	if (!moves_data(r))
		return;
	check(r->nr_iov <= BLOCK_MAX_IOV);
	for (unsigned i = 0; i < r->nr_iov; i++) {
		check_host(world.mem, (uintptr_t)r->iov[i].iov_base, (unsigned)r->iov[i].iov_len,
		           r->op == BLOCK_READ);
		len += r->iov[i].iov_len;
	}
	check(len == r->len);
}

void block_submit(struct block *b, struct block_request *r)
{
	check_request(r);
	check(b->nr < WORLD_REQUESTS);
	b->request[b->nr++] = r;
}

/* Touches buffers and content as a disk would. */
static void perform(const struct block_request *r)
{
	uint8_t *at = world.content ? world.content + r->offset : NULL;

	if (at && (r->op == BLOCK_DISCARD || r->op == BLOCK_WRITE_ZEROES))
		memset(at, 0, r->len);
	for (unsigned i = 0; moves_data(r) && i < r->nr_iov; i++) {
		size_t len = r->iov[i].iov_len;

		if (!at && r->op == BLOCK_READ)
			memset(r->iov[i].iov_base, 0x5a, len);
		if (!at)
			continue;
		if (r->op == BLOCK_READ)
			memcpy(r->iov[i].iov_base, at, len);
		else
			memcpy(at, r->iov[i].iov_base, len);
		at += len;
	}
}

/* Ends one of the requests. */
static void end_request(unsigned n, int rc)
{
	struct block *b = &world.disk;
	struct block_request *r;

	if (!b->nr)
		return;
	n %= b->nr;
	r = b->request[n];
	b->request[n] = b->request[--b->nr];
	if (!rc)
		perform(r);
	r->done(r, rc);
}

int block_flush(struct block *b)
{
	while (b->nr)
		end_request(0, 0);
	return 0;
}

/* Whoever waits gives everybody else a turn. */
int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	pthread_mutex_unlock(mutex);
	end_request(0, 0);
	run_workers();
	pthread_mutex_lock(mutex);
	return 0;
}

/* The bus. */

static void count_message(void *opaque, uint64_t addr, uint32_t data)
{
	world.messages++;
}

static void take_line(void *opaque, unsigned n, bool level)
{
}

static void add_range(uint64_t base, uint64_t len, const struct bus_ops *ops, void *dev)
{
	check(!bus_add(&world.bus, BUS_MMIO, base, len, ops, dev, ""));
}

static void world_begin(void)
{
	static const uint8_t rom[PAGE_SIZE];
	struct pci_wires wires = { .msi = count_message };

	memset(&world, 0, sizeof(world));
	for (unsigned i = 0; i < PCI_LINES; i++)
		wires.line[i] = (struct irq_line){ .set = take_line };
	check(!bus_init(&world.bus) && !mem_new(&world.mem, MEM_MIN_BYTES));
	check(!mem_add_rom(world.mem, 0xe0000, rom, sizeof(rom)));
	pci_host_init(&world.host, &world.bus, NULL, NULL);
	pci_host_connect(&world.host, &wires);
	pci_host_set_windows(&world.host, WORLD_LOW, WORLD_LOW_LEN, 0, 0);
	add_range(WORLD_ECAM, PCI_HOST_CONFIG_LEN, &pci_host_config_ops, &world.host);
	add_range(WORLD_LOW, WORLD_LOW_LEN, &pci_host_window_ops, &world.host.low);
}

/* After the devices were added: they get addresses and may be reached. */
static void world_plugged(void)
{
	check(!pci_host_assign(&world.host));
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++)
		bus_write(&world.bus, BUS_MMIO, WORLD_ECAM + (slot << 15) + PCI_COMMAND, 2,
		          PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static uint64_t bar_of(unsigned slot)
{
	uint64_t bar = 0;

	bus_read(&world.bus, BUS_MMIO, WORLD_ECAM + (slot << 15) + PCI_BAR0, 4, &bar);
	return bar & ~0xfull;
}

static void world_end(void)
{
	pci_host_free(&world.host);
	check(!world.disk.nr);
	mem_free(world.mem);
	bus_fini(&world.bus);
}
