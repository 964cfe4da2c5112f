/*
 * Doorbells and interrupts of virtio devices: every doorbell is heard wherever the BAR is, every
 * message comes once, masked ones wait. Each of them may go through the host's kernel or not.
 */
#include "virtio.h"

#define CONFIG_VECTOR 0x60
#define QUEUE_VECTOR  0x61
#define OTHER_VECTOR  0x62
#define PATIENCE_MS   5000
#define BYTES         64
#define REQUESTS      40

static struct virtio rng;
static uint8_t *data;

static unsigned count(unsigned vector)
{
	return irq_mine()->of[vector];
}

/* Nothing can say that an interrupt will not come; this is long enough for one that would. */
static bool stays(unsigned vector, unsigned n)
{
	return !WAIT_FOR(count(vector) != n, 20);
}

/* Asks for bytes, and waits until they are there. */
static bool ask(void)
{
	memset(data, 0, BYTES);
	rng.rings->desc[0] = (struct virtio_desc){ (uintptr_t)data, BYTES, DESC_WRITE, 0 };
	virtio_offer(&rng);
	return WAIT_FOR(virtio_idle(&rng), PATIENCE_MS);
}

static bool is_filled(void)
{
	unsigned zeros = 0;

	for (unsigned i = 0; i < BYTES; i++)
		zeros += !data[i];
	return zeros < BYTES / 2;
}

static void test_request(void)
{
	irq_clear();
	ok("a request is answered", ask());
	ok_equal("with all bytes", rng.rings->used.entry[0].len, BYTES);
	ok("which are random", is_filled());
	ok("an interrupt comes", WAIT_FOR(count(QUEUE_VECTOR), PATIENCE_MS));
	ok("once", stays(QUEUE_VECTOR, 1));
	ok_equal("and none for the configuration", count(CONFIG_VECTOR), 0);
}

static void test_many(void)
{
	bool answered = true, told = true;

	irq_clear();
	for (unsigned n = 0; n < REQUESTS; n++) {
		answered = answered && ask();
		told = told && WAIT_FOR(count(QUEUE_VECTOR) > n, PATIENCE_MS);
	}
	ok("one request after the other is answered", answered);
	ok("with an interrupt each", told);
	ok_equal("and no more", count(QUEUE_VECTOR), REQUESTS);
	rng.rings->avail.flags = 1;
	ok("a driver that wants none", ask());
	rng.rings->avail.flags = 0;
	ok("gets none", stays(QUEUE_VECTOR, REQUESTS));
}

static void test_mask(void)
{
	irq_clear();
	msix_mask(&rng.pci, 1, true);
	ok("with a masked vector a request is answered", ask());
	ok("a bit says so", WAIT_FOR(msix_is_pending(&rng.pci, 1), PATIENCE_MS));
	ok("in place of the interrupt", stays(QUEUE_VECTOR, 0));
	ok("another one changes nothing", ask() && stays(QUEUE_VECTOR, 0));
	msix_mask(&rng.pci, 1, false);
	ok("unmasked it comes", WAIT_FOR(count(QUEUE_VECTOR), PATIENCE_MS));
	ok("once for both", stays(QUEUE_VECTOR, 1));
	ok("and the bit is gone", !msix_is_pending(&rng.pci, 1));
	ok("the next comes at once", ask() && WAIT_FOR(count(QUEUE_VECTOR) == 2, PATIENCE_MS));
}

static void test_mask_all(void)
{
	irq_clear();
	msix_mask_all(&rng.pci, true);
	ok("with a masked function a request is answered", ask());
	ok("a bit says so, too", WAIT_FOR(msix_is_pending(&rng.pci, 1), PATIENCE_MS));
	ok("no interrupt comes", stays(QUEUE_VECTOR, 0));
	msix_mask_all(&rng.pci, false);
	ok("until it is unmasked", WAIT_FOR(count(QUEUE_VECTOR), PATIENCE_MS));
	ok("of the function's, one", stays(QUEUE_VECTOR, 1));
}

static void test_other_vector(void)
{
	irq_clear();
	msix_mask(&rng.pci, 1, true);
	ok("a request before the vector changes", ask());
	ok("its bit", WAIT_FOR(msix_is_pending(&rng.pci, 1), PATIENCE_MS));
	msix_set_vector(&rng.pci, 1, OTHER_VECTOR);
	ok("the new vector has it", WAIT_FOR(count(OTHER_VECTOR), PATIENCE_MS));
	ok("and the next", ask() && WAIT_FOR(count(OTHER_VECTOR) == 2, PATIENCE_MS));
	ok("the old one nothing", stays(QUEUE_VECTOR, 0));
	msix_set_vector(&rng.pci, 1, QUEUE_VECTOR);
}

static void test_move(void)
{
	irq_clear();
	virtio_move(&rng, 0x200000);
	ok("a BAR that was moved hears its doorbells", ask());
	ok("and has its vectors", WAIT_FOR(count(QUEUE_VECTOR), PATIENCE_MS));
	virtio_move(&rng, -0x200000u);
	ok("and again where it was", ask() && WAIT_FOR(count(QUEUE_VECTOR) == 2, PATIENCE_MS));
}

static void test_reset(void)
{
	virtio_reset(&rng);
	virtio_ring(&rng);
	virtio_ring(&rng);
	irq_clear();
	ok("a device that was reset does nothing", stays(QUEUE_VECTOR, 0));
	virtio_start(&rng, CONFIG_VECTOR, QUEUE_VECTOR);
	ok("until it is started anew", ask() && WAIT_FOR(count(QUEUE_VECTOR), PATIENCE_MS));
}

/* A disk, whose requests end on yet another thread. */

#define SECTOR 512

struct request {
	uint32_t type, reserved;
	uint64_t sector;
};
enum { DISK_IN, DISK_OUT };

static struct virtio disk;
static struct request *head;

/* Its status, or -1 when it or its interrupt does not come. */
static int transfer(unsigned type, uint64_t sector)
{
	volatile uint8_t *state = data + SECTOR;
	unsigned before = count(OTHER_VECTOR);

	*head = (struct request){ .type = type, .sector = sector };
	*state = 0xff;
	disk.rings->desc[0] = (struct virtio_desc){ (uintptr_t)head, sizeof(*head), DESC_NEXT, 1 };
	disk.rings->desc[1] =
	        (struct virtio_desc){ (uintptr_t)data, SECTOR,
		                      DESC_NEXT | (type == DISK_IN ? DESC_WRITE : 0), 2 };
	disk.rings->desc[2] = (struct virtio_desc){ (uintptr_t)state, 1, DESC_WRITE, 0 };
	virtio_offer(&disk);
	if (!WAIT_FOR(virtio_idle(&disk), PATIENCE_MS) ||
	    !WAIT_FOR(count(OTHER_VECTOR) > before, PATIENCE_MS))
		return -1;
	return *state;
}

static bool holds(uint8_t first)
{
	for (unsigned i = 0; i < SECTOR; i++)
		if (data[i] != (uint8_t)(first + i))
			return false;
	return true;
}

static void put(uint8_t first)
{
	for (unsigned i = 0; i < SECTOR; i++)
		data[i] = (uint8_t)(first + i);
}

static void test_disk(void)
{
	unsigned done = 0;

	irq_clear();
	for (unsigned n = 0; n < 4; n++) {
		put((uint8_t)(n * 3));
		done += transfer(DISK_OUT, n) == 0;
	}
	ok_equal("sectors are written", done, 4);
	for (unsigned n = 0; n < 4; n++) {
		put(0x80);
		done += transfer(DISK_IN, n) == 0 && holds((uint8_t)(n * 3));
	}
	ok_equal("and read as they were written", done, 8);
	ok_equal("each with an interrupt", count(OTHER_VECTOR), 8);
	ok_equal("beyond its end there is nothing", transfer(DISK_IN, 1000000), 1);
}

void guest_run(void)
{
	apic_enable();
	pic_disable();
	irq_begin(apic_end);
	irq_enable();
	data = page_alloc();
	head = page_alloc();
	ok("there is a source of entropy", virtio_find(&rng, VIRTIO_ID_ENTROPY));
	ok("there is a disk", virtio_find(&disk, VIRTIO_ID_BLOCK));
	virtio_start(&rng, CONFIG_VECTOR, QUEUE_VECTOR);
	test_request();
	test_many();
	test_mask();
	test_mask_all();
	test_other_vector();
	test_move();
	test_reset();
	virtio_start(&disk, CONFIG_VECTOR, OTHER_VECTOR);
	test_disk();
	irq_disable();
}
