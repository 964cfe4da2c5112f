/*
 * Registers of the controller, doorbells, and its life.
 *
 *   off --CC.EN 1--> ready --CC.EN 0--> the worker: everything has ended --> off
 *
 * Whatever takes time (the end of all commands, a shutdown's flush) is done by the worker, and told
 * in CSTS, for which the driver waits (3.1.6).
 */
#include "device/nvme/nvme.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/nvme/private.h"

#define BAR          0
#define BAR_LEN      0x4000
#define DOORBELLS    0x1000
#define MSIX_TABLE   0x2000
#define MSIX_PENDING 0x3000
_Static_assert((NVME_MAX_QUEUES + 1) * 8 <= MSIX_TABLE - DOORBELLS, "a page of doorbells");

/* A maker and device that no system has workarounds for. */
static const struct pci_identity identity = {
	.vendor = 0x1234,
	.device = 0x4e56,
	.class = 0x0108,
	.interface = 0x02,
	.subvendor = 0x1234,
	.subdevice = 0x4e56,
	.revision = 1,
};

/* Registers, 3.1 */
enum {
	REG_CAP = 0x00,
	REG_VS = 0x08,
	REG_INTMS = 0x0c,
	REG_INTMC = 0x10,
	REG_CC = 0x14,
	REG_CSTS = 0x1c,
	REG_AQA = 0x24,
	REG_ASQ = 0x28,
	REG_ACQ = 0x30,
};

#define CAP_CONTIGUOUS BIT(16)
#define CAP_TIMEOUT    (20ull << 24) /* in units of 500 ms */
#define CAP_NVM        BIT(37)

#define CC_EN     BIT(0)
#define CC_FORMAT 0x7ff0u /* command set, page size, arbitration: all zero here */
#define CC_SHN    0xc000u
#define CC_SIZES  0xff0000u
#define CC_64_16  0x460000u /* log2 of the entries' sizes */

#define CSTS_RDY      BIT(0)
#define CSTS_CFS      BIT(1)
#define CSTS_SHUTDOWN 0x0cu
#define CSTS_SHUTTING 0x04u
#define CSTS_SHUT     0x08u

static uint64_t read_register(struct nvme *n, unsigned off)
{
	switch (off) {
	case REG_CAP:
		return (NVME_MAX_ENTRIES - 1) | CAP_CONTIGUOUS | CAP_TIMEOUT | CAP_NVM;
	case REG_VS:
		return NVME_VERSION;
	case REG_INTMS:
	case REG_INTMC:
		return n->s.mask;
	case REG_CC:
		return n->s.cc;
	case REG_CSTS:
		return n->s.csts;
	case REG_AQA:
		return n->s.aqa;
	case REG_ASQ:
		return n->s.asq;
	case REG_ACQ:
		return n->s.acq;
	}
	return 0;
}

static bool is_wide(unsigned off)
{
	return off == REG_CAP || off == REG_ASQ || off == REG_ACQ;
}

static uint64_t read_registers(struct nvme *n, unsigned off, unsigned size)
{
	unsigned first = off & ~3u;
	uint64_t value;

	pthread_mutex_lock(&n->lock);
	if (first >= 4 && is_wide(first - 4))
		value = read_register(n, first - 4) >> 32;
	else
		value = read_register(n, first);
	pthread_mutex_unlock(&n->lock);
	return value >> (8 * (off - first));
}

/* The administrator's queues, of AQA, ASQ and ACQ. False when they cannot be. */
static bool make_admin_queues_locked(struct nvme *n)
{
	uint32_t sq = (n->s.aqa & 0xfff) + 1, cq = (n->s.aqa >> 16 & 0xfff) + 1;

	if (sq < 2 || cq < 2 || n->s.asq % NVME_PAGE || n->s.acq % NVME_PAGE ||
	    !mem_host(n->mem, n->s.asq, sq * sizeof(struct nvme_command), false) ||
	    !mem_host(n->mem, n->s.acq, cq * sizeof(struct nvme_completion), true))
		return false;
	n->s.sq[0] = (struct nvme_sq_state){ .base = n->s.asq, .size = sq };
	n->s.cq[0] = (struct nvme_cq_state){
		.base = n->s.acq, .size = cq, .interrupts = true, .phase = true
	};
	return true;
}

static void enable_locked(struct nvme *n)
{
	bool fits = !(n->s.cc & CC_FORMAT);

	/* The sizes may be set later, before queues are made; 0 stands for that. */
	if (n->s.cc & CC_SIZES && (n->s.cc & CC_SIZES) != CC_64_16)
		fits = false;
	if (fits && make_admin_queues_locked(n))
		n->s.csts = CSTS_RDY;
	else
		n->s.csts = CSTS_CFS;
}

static void write_cc_locked(struct nvme *n, uint32_t value)
{
	uint32_t changed = n->s.cc ^ value;

	if (n->resetting)
		return; /* the driver waits for RDY first */
	n->s.cc = value;
	if (changed & value & CC_EN)
		enable_locked(n);
	else if (changed & CC_EN)
		n->resetting = true;
	if (changed & CC_SHN && value & CC_SHN) {
		n->s.csts = (n->s.csts & ~CSTS_SHUTDOWN) | CSTS_SHUTTING;
		n->shutting_down = true;
	}
}

static void put_half(uint64_t *field, bool upper, uint32_t value)
{
	*field = upper ? (uint32_t)*field | (uint64_t)value << 32
	               : (*field & ~0xffffffffull) | value;
}

static void write_register_locked(struct nvme *n, unsigned off, uint32_t value)
{
	switch (off) {
	case REG_INTMS:
		n->s.mask |= value;
		break;
	case REG_INTMC:
		n->s.mask &= ~value;
		break;
	case REG_CC:
		write_cc_locked(n, value);
		break;
	case REG_AQA:
		n->s.aqa = value & 0x0fff0fff;
		break;
	case REG_ASQ:
	case REG_ASQ + 4:
		put_half(&n->s.asq, off & 4, value);
		break;
	case REG_ACQ:
	case REG_ACQ + 4:
		put_half(&n->s.acq, off & 4, value);
		break;
	}
}

/* Four or eight bytes; others are not defined. */
static void write_registers(struct nvme *n, unsigned off, unsigned size, uint64_t value)
{
	if (size < 4 || off % 4)
		return;
	pthread_mutex_lock(&n->lock);
	write_register_locked(n, off, (uint32_t)value);
	if (size == 8)
		write_register_locked(n, off + 4, (uint32_t)(value >> 32));
	pthread_mutex_unlock(&n->lock);
	worker_wake(&n->worker);
	nvme_update_pin_locked(n);
}

/* A new tail or head; false when it makes no sense, which changes nothing. */
static bool ring_locked(struct nvme *n, unsigned queue, bool completion, uint32_t value)
{
	struct nvme_sq_state *sq = &n->s.sq[queue];
	struct nvme_cq_state *cq = &n->s.cq[queue];
	uint32_t taken, posted;

	if (!completion) {
		if (value >= sq->size)
			return false;
		sq->tail = value;
		return true;
	}
	if (value >= cq->size)
		return false;
	taken = (value + cq->size - cq->head) % cq->size;
	posted = (cq->tail + cq->size - cq->head) % cq->size;
	if (taken > posted)
		return false;
	cq->head = value;
	return true;
}

static void write_doorbell(struct nvme *n, unsigned off, unsigned size, uint64_t value)
{
	unsigned queue = off / 8;
	bool completion = off & 4;

	if (size != 4 || off % 4)
		return;
	pthread_mutex_lock(&n->lock);
	if (queue > n->queues || value > UINT16_MAX ||
	    !ring_locked(n, queue, completion, (uint32_t)value))
		n->bad_doorbell = true;
	pthread_mutex_unlock(&n->lock);
	worker_wake(&n->worker);
	if (completion)
		nvme_update_pin_locked(n);
}

static uint64_t read_bar(void *dev, uint64_t off, unsigned size)
{
	struct nvme *n = dev;

	if (off >= MSIX_PENDING)
		return pci_msix_read_pending(&n->f, off - MSIX_PENDING, size);
	if (off >= MSIX_TABLE)
		return pci_msix_read(&n->f, off - MSIX_TABLE, size);
	return off >= DOORBELLS ? 0 : read_registers(n, (unsigned)off, size);
}

static void write_bar(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct nvme *n = dev;

	if (off >= MSIX_PENDING)
		return;
	if (off >= MSIX_TABLE)
		pci_msix_write(&n->f, off - MSIX_TABLE, size, value);
	else if (off >= DOORBELLS)
		write_doorbell(n, (unsigned)off - DOORBELLS, size, value);
	else
		write_registers(n, (unsigned)off, size, value);
}

static const struct bus_ops bar_ops = { .read = read_bar, .write = write_bar };

/* The worker. */

static void serve_queue(struct nvme *n, unsigned sq)
{
	struct nvme_request *r;
	struct nvme_command c;

	while ((r = nvme_fetch(n, sq, &c))) {
		enum nvme_status status = sq ? nvme_io(r, &c) : nvme_admin(r, &c);

		if (status != NVME_HELD)
			nvme_complete(r, status);
	}
}

/* When it returns nothing is under way, and the controller as after power-on, but for the registers
 * that only the driver changes (7.3.2). */
static void finish_reset(struct nvme *n)
{
	nvme_drop_events(n);
	for (unsigned sq = 0; sq <= n->queues; sq++)
		nvme_drain(n, sq);
	pthread_mutex_lock(&n->lock);
	n->s = (struct nvme_state){
		.cc = n->s.cc, .aqa = n->s.aqa, .asq = n->s.asq, .acq = n->s.acq
	};
	nvme_init_features(n);
	n->resetting = n->shutting_down = n->bad_doorbell = false;
	pthread_cond_broadcast(&n->idle);
	pthread_mutex_unlock(&n->lock);
	nvme_update_pin(n);
}

static void shut_down(struct nvme *n)
{
	int rc = n->info.readonly ? 0 : block_flush(n->block);

	if (rc)
		log_warn("NVMe %s: cannot flush: %s", n->serial, strerror(-rc));
	pthread_mutex_lock(&n->lock);
	n->shutting_down = false;
	n->s.csts = (n->s.csts & ~CSTS_SHUTDOWN) | CSTS_SHUT;
	pthread_mutex_unlock(&n->lock);
}

static void work(void *opaque)
{
	struct nvme *n = opaque;
	bool resetting, shutting_down, bad_doorbell;

	pthread_mutex_lock(&n->lock);
	resetting = n->resetting;
	shutting_down = n->shutting_down;
	bad_doorbell = n->bad_doorbell;
	n->bad_doorbell = false;
	pthread_mutex_unlock(&n->lock);
	if (resetting) {
		finish_reset(n);
		return;
	}
	if (bad_doorbell)
		nvme_report_doorbell(n);
	nvme_complete_waiting(n);
	for (unsigned sq = 0; sq <= n->queues; sq++)
		serve_queue(n, sq);
	if (shutting_down)
		shut_down(n);
}

/* As a function on the bus. */

static void stop(void *dev)
{
	struct nvme *n = dev;

	pthread_mutex_lock(&n->lock);
	n->resetting = true;
	pthread_mutex_unlock(&n->lock);
	worker_wake(&n->worker);
	pthread_mutex_lock(&n->lock);
	while (n->resetting)
		pthread_cond_wait(&n->idle, &n->lock);
	n->s.cc = n->s.aqa = 0;
	n->s.asq = n->s.acq = 0;
	pthread_mutex_unlock(&n->lock);
}

static void resume(void *dev)
{
	nvme_retry_held(dev);
}

static void free_nvme(void *dev)
{
	struct nvme *n = dev;

	worker_end(&n->worker);
	for (struct nvme_request *r = n->spare, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	pthread_cond_destroy(&n->idle);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

static const struct pci_ops function_ops = { .stop = stop, .resume = resume, .free = free_nvme };

static void make_function(struct nvme *n)
{
	struct pci_bar bar = { .len = BAR_LEN, .is64 = true, .ops = &bar_ops, .dev = n };

	pci_init(&n->f, &identity, &function_ops, n);
	pci_add_bar(&n->f, BAR, &bar);
	pci_add_intx(&n->f);
	pci_add_msix(&n->f, n->queues + 1, BAR, MSIX_TABLE, MSIX_PENDING);
}

static void name_it(struct nvme *n, const char *serial, unsigned slot)
{
	if (serial)
		snprintf(n->serial, sizeof(n->serial), "%s", serial);
	else
		snprintf(n->serial, sizeof(n->serial), "TRAPEZE%04u", slot);
}

int nvme_add(struct pci_host *host, struct bus *bus, struct mem *mem,
             const struct nvme_config *config)
{
	int slot = pci_host_find_slot(host), rc;
	struct nvme *n;

	assert(config->queues >= 1 && config->queues <= NVME_MAX_QUEUES);
	if (slot < 0)
		return slot;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->bus = bus;
	n->mem = mem;
	n->block = config->block;
	n->queues = config->queues;
	n->full = config->full;
	block_get_info(n->block, &n->info);
	n->blocks = n->info.size / n->info.sector;
	name_it(n, config->serial, (unsigned)slot);
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->idle, NULL);
	nvme_init_features(n);
	make_function(n);
	rc = worker_start(&n->worker, "nvme", work, n);
	if (rc) {
		free_nvme(n);
		return rc;
	}
	return pci_host_add(host, PCI_DEVFN(slot, 0), &n->f);
}
