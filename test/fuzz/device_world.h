/*
 * A bus with PCI devices in one thread, and with an engine that takes messages and doorbells past
 * them if the input wants it so: workers run, and the requests of a disk end, when the input
 * says so or somebody waits. Definitions of what src/base/worker.h and src/block/block.h declare,
 * which check what devices ask of them. Include once.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
#define WORLD_BELLS    64
#define WORLD_ROUTES   4
#define WORLD_BELL_FD  100000 /* plus the worker's number; never a descriptor */

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
	struct doorbells doorbells;
	struct doorbell bell[WORLD_BELLS];
	unsigned nr_bells;
	struct irqchip irqchip;
	int route[WORLD_ROUTES]; /* descriptors, 0: free */
	bool attached[WORLD_ROUTES];
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

int worker_bell(struct worker *w)
{
	for (unsigned i = 0; i < world.nr_workers; i++)
		if (world.worker[i] == w)
			w->bell = WORLD_BELL_FD + (int)i;
	check(w->bell >= WORLD_BELL_FD);
	return w->bell;
}

uint64_t worker_take_rings(struct worker *w)
{
	uint64_t rings = w->rings;

	check(w == world.running);
	w->rings = 0;
	return rings;
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

/* The engine's doorbells. */

static int find_bell(uint64_t addr)
{
	for (unsigned i = 0; i < world.nr_bells; i++)
		if (world.bell[i].addr == addr)
			return (int)i;
	return -1;
}

static int add_bell(void *opaque, const struct doorbell *d)
{
	check(d->space == BUS_MMIO && !d->size && !d->match && d->fd >= WORLD_BELL_FD);
	if (find_bell(d->addr) >= 0)
		return -EEXIST;
	if (world.nr_bells == WORLD_BELLS)
		return -ENOSPC;
	world.bell[world.nr_bells++] = *d;
	return 0;
}

static int remove_bell(void *opaque, const struct doorbell *d)
{
	int n = find_bell(d->addr);

	check(n >= 0 && world.bell[n].fd == d->fd);
	world.bell[n] = world.bell[--world.nr_bells];
	return 0;
}

static uint64_t config_of(unsigned slot, unsigned reg)
{
	uint64_t value = 0;

	bus_read(&world.bus, BUS_MMIO, WORLD_ECAM + (slot << 15) + reg, 4, &value);
	return value;
}

static uint64_t bar_of(unsigned slot)
{
	return config_of(slot, PCI_BAR0) & ~0xfull;
}

/* A write there is for the device in this slot: its BAR begins last before it. */
static void check_bell(uint64_t addr, unsigned slot)
{
	uint64_t nearest = 0, own = bar_of(slot) | config_of(slot, PCI_BAR0 + 4) << 32;

	for (unsigned i = 1; i <= world.nr_workers; i++) {
		uint64_t base = bar_of(i) | config_of(i, PCI_BAR0 + 4) << 32;

		if (config_of(i, PCI_COMMAND) & PCI_COMMAND_MEMORY && base <= addr &&
		    base > nearest)
			nearest = base;
	}
	check(config_of(slot, PCI_COMMAND) & PCI_COMMAND_MEMORY && own == nearest);
	check(addr >= WORLD_LOW && addr < WORLD_LOW + WORLD_LOW_LEN);
}

/* A guest's write, which the engine may take for a doorbell. */
static void world_write(uint64_t addr, unsigned size, uint64_t value)
{
	int n = find_bell(addr);
	unsigned worker;

	if (n < 0) {
		bus_write(&world.bus, BUS_MMIO, addr, size, value);
		return;
	}
	worker = (unsigned)(world.bell[n].fd - WORLD_BELL_FD);
	check_bell(addr, worker + 1); /* devices have a worker each, in the order of slots */
	world.worker[worker]->rings++;
	world.worker[worker]->pending = true;
}

static const struct doorbell_ops doorbell_ops = { .add = add_bell, .remove = remove_bell };

/* The engine's messages by descriptor. */

static int add_route(void *opaque, int fd)
{
	for (int n = 0; n < WORLD_ROUTES; n++) {
		if (world.route[n])
			continue;
		world.route[n] = fd;
		return n;
	}
	return -ENOSPC;
}

static int set_route(void *opaque, int n, uint64_t addr, uint32_t data, bool masked)
{
	check(world.route[n] && (masked || irqchip_is_message(addr)));
	world.attached[n] = !masked;
	return 0;
}

static void remove_route(void *opaque, int n)
{
	check(world.route[n] && !world.attached[n]);
	world.route[n] = 0;
}

static const struct irqchip_ops irqchip_ops = {
	.route_add = add_route,
	.route_set = set_route,
	.route_remove = remove_route,
};

/* What the kernel would do at once: the messages of attached routes. */
static void take_messages(void)
{
	uint64_t count;

	for (unsigned n = 0; n < WORLD_ROUTES; n++)
		if (world.attached[n] &&
		    read(world.route[n], &count, sizeof(count)) == sizeof(count))
			world.messages += (unsigned)count;
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

/* shortcuts: the engine has such. */
static void world_begin(bool shortcuts)
{
	static const uint8_t rom[PAGE_SIZE];
	struct pci_wires wires = { .msi = count_message };

	memset(&world, 0, sizeof(world));
	for (unsigned i = 0; i < PCI_LINES; i++)
		wires.line[i] = (struct irq_line){ .set = take_line };
	check(!bus_init(&world.bus) && !mem_new(&world.mem, MEM_MIN_BYTES));
	check(!mem_add_rom(world.mem, 0xe0000, rom, sizeof(rom)));
	pci_host_init(&world.host, &world.bus, NULL, NULL);
	world.doorbells.ops = &doorbell_ops;
	world.irqchip = (struct irqchip){ .kind = IRQCHIP_KERNEL, .ops = &irqchip_ops };
	if (shortcuts) {
		wires.doorbells = &world.doorbells;
		wires.irqchip = &world.irqchip;
	}
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

static void world_end(void)
{
	take_messages();
	pci_host_free(&world.host);
	check(!world.disk.nr && !world.nr_bells);
	for (unsigned n = 0; n < WORLD_ROUTES; n++)
		check(!world.route[n]);
	mem_free(world.mem);
	bus_fini(&world.bus);
}
