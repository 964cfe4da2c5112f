/*
 * Messages of an NVMe controller (NVM Express 1.4): identify commands on the administrator's
 * queues, with a vector that is open, masked, and moved to another CPU vector.
 */
#include "pci_device.h"

#define VECTOR       0x60
#define OTHER_VECTOR 0x61
#define PATIENCE_MS  5000
#define ENTRIES      8u

#define CLASS_NVME 0x010802u /* in the dword at 8, above the revision */

enum { REG_CC = 0x14, REG_CSTS = 0x1c, REG_AQA = 0x24, REG_ASQ = 0x28, REG_ACQ = 0x30 };
#define SQ_TAIL 0x1000 /* doorbells, with a stride of 4 bytes */
#define CQ_HEAD 0x1004

struct command {
	uint32_t opcode, nsid, reserved[4];
	uint64_t prp1, prp2;
	uint32_t dw10, rest[5];
};
_Static_assert(sizeof(struct command) == 64, "4.2");

struct completion {
	volatile uint32_t result, reserved, queue, status; /* phase in bit 16 */
};

static struct pci_device nvme;
static uintptr_t bar;
static struct command *sq;
static struct completion *cq;
static uint8_t *data;
static unsigned sent, seen;

static unsigned count(unsigned vector)
{
	return irq_mine()->of[vector];
}

static bool is_answered(void)
{
	unsigned phase = ~(seen / ENTRIES) & 1;

	return (cq[seen % ENTRIES].status >> 16 & 1) == phase;
}

/* An identify command; its status, or -1 when there is no answer. */
static int identify(void)
{
	uint32_t status;

	memset(data, 0, 4096);
	sq[sent % ENTRIES] =
	        (struct command){ .opcode = 0x06 | sent << 16, .prp1 = (uintptr_t)data, .dw10 = 1 };
	sent++;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	store32(bar + SQ_TAIL, sent % ENTRIES);
	if (!WAIT_FOR(is_answered(), PATIENCE_MS))
		return -1;
	status = cq[seen % ENTRIES].status;
	seen++;
	store32(bar + CQ_HEAD, seen % ENTRIES);
	return (int)(status >> 17);
}

static bool is_identified(void)
{
	return data[0] | data[1] << 8; /* the vendor */
}

static void start(void)
{
	bar = bar_address(nvme.slot, 0);
	sq = page_alloc();
	cq = page_alloc();
	data = page_alloc();
	store32(bar + REG_CC, 0); /* firmware may have looked for something to boot */
	ok("it is off", WAIT_FOR(!(load32(bar + REG_CSTS) & 1), PATIENCE_MS));
	msix_set_vector(&nvme, 0, VECTOR);
	msix_enable(&nvme);
	store32(bar + REG_AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
	store32(bar + REG_ASQ, (uint32_t)(uintptr_t)sq);
	store32(bar + REG_ASQ + 4, 0);
	store32(bar + REG_ACQ, (uint32_t)(uintptr_t)cq);
	store32(bar + REG_ACQ + 4, 0);
	store32(bar + REG_CC, 0x460001);
	ok("it becomes ready", WAIT_FOR(load32(bar + REG_CSTS) & 1, PATIENCE_MS));
}

static void test_open(void)
{
	unsigned done = 0, told = 0;

	for (unsigned n = 0; n < 2 * ENTRIES + 3; n++) {
		done += identify() == 0 && is_identified();
		told += WAIT_FOR(count(VECTOR) > n, PATIENCE_MS);
	}
	ok_equal("commands are done", done, 2 * ENTRIES + 3);
	ok_equal("with an interrupt each", told, 2 * ENTRIES + 3);
	ok_equal("and no more", count(VECTOR), 2 * ENTRIES + 3);
}

static void test_masked(void)
{
	irq_clear();
	msix_mask(&nvme, 0, true);
	ok_equal("with a masked vector a command is done", identify(), 0);
	ok("a bit says so", WAIT_FOR(msix_is_pending(&nvme, 0), PATIENCE_MS));
	ok("no interrupt comes", !WAIT_FOR(count(VECTOR), 20));
	msix_set_vector(&nvme, 0, OTHER_VECTOR);
	ok("unmasked another vector has it", WAIT_FOR(count(OTHER_VECTOR), PATIENCE_MS));
	ok("the bit is gone", !msix_is_pending(&nvme, 0));
	ok_equal("the next is done", identify(), 0);
	ok("and comes at once", WAIT_FOR(count(OTHER_VECTOR) == 2, PATIENCE_MS));
	ok_equal("the first vector had none", count(VECTOR), 0);
}

void guest_run(void)
{
	apic_enable();
	pic_disable();
	irq_begin(apic_end);
	irq_enable();
	ok("there is a controller", pci_find(&nvme, 8, 0xffffff00, CLASS_NVME << 8));
	start();
	test_open();
	test_masked();
	irq_disable();
}
