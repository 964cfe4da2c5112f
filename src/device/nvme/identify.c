/*
 * What the controller says about itself: data structures of the Identify command (5.15) and log
 * pages (5.14).
 */
#include <stdio.h>
#include <string.h>

#include "device/nvme/private.h"

#define PAGE_BYTES 4096u

enum { CNS_NAMESPACE, CNS_CONTROLLER, CNS_LIST, CNS_DESCRIPTORS };
enum { LOG_ERRORS = 1, LOG_HEALTH, LOG_FIRMWARE };

#define FIRMWARE        "1"
#define MODEL           "Trapeze disk"
#define ROOM_KELVIN     300
#define WARN_KELVIN     343
#define CRITICAL_KELVIN 353

static void put16(uint8_t *p, unsigned value)
{
	pci_put16(p, value);
}

static void put32(uint8_t *p, uint32_t value)
{
	pci_put32(p, value);
}

static void put64(uint8_t *p, uint64_t value)
{
	put32(p, (uint32_t)value);
	put32(p + 4, (uint32_t)(value >> 32));
}

/* ASCII fields are padded with spaces (1.8). */
static void put_text(uint8_t *p, const char *text, size_t len)
{
	size_t n = strlen(text);

	memset(p, ' ', len);
	memcpy(p, text, n < len ? n : len);
}

static void describe_controller(const struct nvme *n, uint8_t *p)
{
	put16(p, pci_get16(&n->f.config[PCI_VENDOR]));
	put16(p + 2, pci_get16(&n->f.config[PCI_SUBVENDOR]));
	put_text(p + 4, n->serial, 20);
	put_text(p + 24, MODEL, 40);
	put_text(p + 64, FIRMWARE, 8);
	p[77] = NVME_MDTS;
	put32(p + 80, NVME_VERSION);
	p[111] = 1;                   /* an I/O controller */
	p[258] = 3;                   /* aborts at a time, less one */
	p[259] = NVME_MAX_EVENTS - 1; /* the same of events */
	p[260] = 0x03;                /* one firmware slot, read-only */
	put16(p + 266, WARN_KELVIN);
	put16(p + 268, CRITICAL_KELVIN);
	p[512] = 0x66; /* 64 bytes a command */
	p[513] = 0x44; /* 16 bytes a completion */
	put32(p + 516, 1);
	put16(p + 520, BIT(2) | BIT(3)); /* dataset management, write zeroes */
	p[525] = 0x07;                   /* a volatile cache; a flush may name all namespaces */
	snprintf((char *)p + 768, 256, "nqn.2026-11.invalid.trapeze:slot-%u:%s",
	         PCI_SLOT(n->f.devfn), n->serial);
	put16(p + 2048, 100); /* the one power state: 1 W */
}

static uint8_t log2_of(uint32_t v)
{
	return (uint8_t)(31 - __builtin_clz(v));
}

static void describe_namespace(const struct nvme *n, uint8_t *p)
{
	uint32_t physical = n->info.cluster ? n->info.cluster : 4096;

	put64(p, n->blocks);
	put64(p + 8, n->blocks);
	put64(p + 16, n->blocks);
	p[24] = BIT(4);      /* the optimal sizes below are there */
	p[33] = 0x01 | 0x08; /* what was deallocated reads as zeroes; write zeroes can do it */
	put16(p + 68, physical / n->info.sector - 1);
	put16(p + 70, physical / n->info.sector - 1);
	p[99] = n->info.readonly; /* write protected */
	p[130] = log2_of(n->info.sector);
}

/* A number for life: of the serial number, and of the slot, for many disks have none. */
static uint64_t hash(const struct nvme *n, uint64_t seed)
{
	uint64_t h = 0xcbf29ce484222325ull ^ seed; /* FNV-1a */

	for (const char *c = n->serial; *c; c++)
		h = (h ^ (uint8_t)*c) * 0x100000001b3ull;
	return (h ^ n->f.devfn) * 0x100000001b3ull;
}

/* One descriptor, a UUID of version 8: made as its owner likes (RFC 9562). */
static void list_descriptors(const struct nvme *n, uint8_t *p)
{
	enum { TYPE_UUID = 3, UUID_BYTES = 16 };

	p[0] = TYPE_UUID;
	p[1] = UUID_BYTES;
	put64(p + 4, hash(n, 1));
	put64(p + 12, hash(n, 2));
	p[4 + 6] = 0x80 | (p[4 + 6] & 0x0f);
	p[4 + 8] = 0x80 | (p[4 + 8] & 0x3f);
}

static enum nvme_status answer(struct nvme_request *r, const struct nvme_command *c,
                               const void *page, uint64_t len)
{
	enum nvme_status status = nvme_map(r, c, len, true);

	if (status == NVME_OK)
		dma_write(&r->data, r->n->mem, 0, page, len);
	return status;
}

enum nvme_status nvme_identify(struct nvme_request *r, const struct nvme_command *c)
{
	uint8_t page[PAGE_BYTES] = { 0 };
	bool ours = c->nsid == NVME_NSID;

	switch (c->dw10 & 0xff) {
	case CNS_NAMESPACE:
		if (!ours && c->nsid != NVME_ALL)
			return NVME_BAD_NAMESPACE;
		if (ours) /* else what all have in common: nothing */
			describe_namespace(r->n, page);
		break;
	case CNS_CONTROLLER:
		describe_controller(r->n, page);
		break;
	case CNS_LIST: /* of ids above the one given */
		if (c->nsid >= NVME_ALL - 1)
			return NVME_BAD_NAMESPACE;
		if (c->nsid < NVME_NSID)
			put32(page, NVME_NSID);
		break;
	case CNS_DESCRIPTORS:
		if (!ours)
			return NVME_BAD_NAMESPACE;
		list_descriptors(r->n, page);
		break;
	default:
		return NVME_BAD_FIELD;
	}
	return answer(r, c, page, sizeof(page));
}

/* Logs. */

static void write_health(struct nvme *n, uint8_t *p)
{
	const uint64_t unit = 512 * 1000; /* bytes, rounded up */

	put16(p + 1, ROOM_KELVIN);
	p[3] = 100; /* per cent of spare, and where that would be few */
	p[4] = 10;
	pthread_mutex_lock(&n->lock);
	put64(p + 32, (n->bytes[0] + unit - 1) / unit);
	put64(p + 48, (n->bytes[1] + unit - 1) / unit);
	put64(p + 64, n->commands[0]);
	put64(p + 80, n->commands[1]);
	pthread_mutex_unlock(&n->lock);
	put64(p + 112, 1); /* power cycles */
}

static void write_firmware(uint8_t *p)
{
	p[0] = 1; /* the slot in use */
	put_text(p + 8, FIRMWARE, 8);
}

enum nvme_status nvme_get_log(struct nvme_request *r, const struct nvme_command *c)
{
	uint64_t dwords = (c->dw10 >> 16 | (uint64_t)(c->dw11 & 0xffff) << 16) + 1;
	uint64_t len = dwords * 4, at = c->dw12 | (uint64_t)c->dw13 << 32;
	uint8_t page[PAGE_BYTES] = { 0 };

	if (c->nsid && c->nsid != NVME_ALL && c->nsid != NVME_NSID)
		return NVME_BAD_NAMESPACE;
	switch (c->dw10 & 0xff) {
	case LOG_ERRORS: /* none is kept */
		break;
	case LOG_HEALTH:
		write_health(r->n, page);
		break;
	case LOG_FIRMWARE:
		write_firmware(page);
		break;
	default:
		return NVME_BAD_LOG;
	}
	if (at % 4 || at > sizeof(page) || len > sizeof(page) - at)
		return NVME_BAD_FIELD;
	return answer(r, c, page + at, len);
}
