/* Virtqueues: what a device finds in them, what a driver sees of it, and what a hostile driver
 * gets. */
#include "virtio_driver.h"

#define INDIRECT VIRTIO_F_INDIRECT_DESC
#define EVENT    VIRTIO_F_EVENT_IDX
#define PACKED   VIRTIO_F_RING_PACKED

static void split_chain_goes_there_and_back(void **state)
{
	struct driver d;
	struct vq_chain c;
	char buf[16] = "";
	uint32_t used[2];

	driver_init(&d, 0);
	assert_false(pop(&d, &c));
	memcpy(guest(&d, RING_DATA), "request", 8);
	put_desc(&d, RING_DESC, 3, RING_DATA, 8, VQ_NEXT, 5);
	put_desc(&d, RING_DESC, 5, RING_DATA + 0x1000, 100, VQ_WRITE | VQ_NEXT, 1);
	put_desc(&d, RING_DESC, 1, RING_DATA + 0x3000, 28, VQ_WRITE, 0);
	offer(&d, 3);
	assert_true(pop(&d, &c));
	assert_int_equal(c.id, 3);
	assert_int_equal(c.out.nr, 1);
	assert_int_equal(c.out.len, 8);
	assert_int_equal(c.in.nr, 2);
	assert_int_equal(c.in.len, 128);
	assert_int_equal(dma_read(&c.out, 0, buf, sizeof(buf)), 8);
	assert_string_equal(buf, "request");
	assert_int_equal(dma_write(&c.in, d.mem, 98, "abcd", 4), 4);
	assert_memory_equal((char *)guest(&d, RING_DATA + 0x1000) + 98, "ab", 2);
	assert_memory_equal(guest(&d, RING_DATA + 0x3000), "cd", 2);
	assert_int_equal(used_index(&d), 0);
	vq_push(&d.v.vq[0], &c, 102);
	memcpy(used, (uint8_t *)guest(&d, RING_DEVICE) + 4, 8);
	assert_int_equal(used_index(&d), 1);
	assert_int_equal(used[0], 3);
	assert_int_equal(used[1], 102);
	assert_int_equal(d.interrupts, 1);
	assert_false(pop(&d, &c));
	driver_fini(&d);
}

static void interrupts_only_where_wanted(void **state)
{
	struct driver d;
	struct vq_chain c;
	uint16_t none = 1, event = 2;

	driver_init(&d, 0);
	put_desc(&d, RING_DESC, 0, RING_DATA, 8, 0, 0);
	memcpy(guest(&d, RING_DRIVER), &none, 2);
	offer(&d, 0);
	assert_true(pop(&d, &c));
	vq_push(&d.v.vq[0], &c, 0);
	assert_int_equal(d.interrupts, 0);
	driver_reset(&d);
	wait_for_status(&d, 0, 0xff);

	driver_start(&d, EVENT); /* the third */
	put_desc(&d, RING_DESC, 0, RING_DATA, 8, 0, 0);
	memcpy((uint8_t *)guest(&d, RING_DRIVER) + 4 + 2 * RING_SIZE, &event, 2);
	for (unsigned i = 0; i < 5; i++) {
		offer(&d, 0);
		assert_true(pop(&d, &c));
		vq_push(&d.v.vq[0], &c, 0);
		assert_int_equal(d.interrupts, i >= 2);
	}
	driver_fini(&d);
}

static void doorbells_only_where_wanted(void **state)
{
	struct driver d;
	struct vq_chain c;
	uint8_t *ring;

	driver_init(&d, 0);
	ring = guest(&d, RING_DEVICE);
	assert_false(vq_want_kicks(&d.v.vq[0], false));
	assert_int_equal(vq_load16(ring), 1);
	assert_false(vq_want_kicks(&d.v.vq[0], true));
	assert_int_equal(vq_load16(ring), 0);
	driver_reset(&d);
	wait_for_status(&d, 0, 0xff);

	driver_start(&d, EVENT);
	put_desc(&d, RING_DESC, 0, RING_DATA, 8, 0, 0);
	offer(&d, 0);
	assert_true(vq_want_kicks(&d.v.vq[0], true)); /* came in meanwhile */
	assert_true(pop(&d, &c));
	assert_false(vq_want_kicks(&d.v.vq[0], true));
	assert_int_equal(vq_load16(ring + 4 + 8 * RING_SIZE), 1);
	vq_push(&d.v.vq[0], &c, 0);
	driver_fini(&d);
}

static void indirect_tables(void **state)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		struct driver d;
		struct vq_chain c;

		driver_init(&d, INDIRECT | (packed ? PACKED : 0));
		put_desc(&d, RING_TABLE, 0, RING_DATA, 8, packed ? 0 : VQ_NEXT, 1);
		put_desc(&d, RING_TABLE, 1, RING_DATA + 64, 16, VQ_WRITE | (packed ? 0 : VQ_NEXT),
		         2);
		put_desc(&d, RING_TABLE, 2, RING_DATA + 96, 32, VQ_WRITE, 0);
		if (packed) {
			offer_packed(&d, RING_TABLE, 48, VQ_INDIRECT, 77);
		} else {
			put_desc(&d, RING_DESC, 4, RING_TABLE, 48, VQ_INDIRECT, 0);
			offer(&d, 4);
		}
		assert_true(pop(&d, &c));
		assert_int_equal(c.id, packed ? 77 : 4);
		assert_int_equal(c.slots, 1);
		assert_int_equal(c.out.len, 8);
		assert_int_equal(c.in.len, 48);
		vq_push(&d.v.vq[0], &c, 48);
		assert_int_equal(d.interrupts, 1);
		driver_fini(&d);
	}
}

static uint16_t packed_flags(struct driver *d, unsigned place)
{
	return vq_load16((uint8_t *)guest(d, RING_DESC) + 16 * place + 14);
}

/* Chains of one to three descriptors, for many times around the ring. */
static void packed_ring_wraps(void **state)
{
	struct driver d;
	struct vq_chain c;
	unsigned place = 0;
	bool wrap = true;

	driver_init(&d, PACKED);
	for (unsigned i = 0; i < 100; i++) {
		unsigned n = 1 + i % 3;
		uint32_t done[2];

		for (unsigned k = 0; k < n; k++)
			offer_packed(&d, RING_DATA + k * 64, 10,
			             (k + 1 < n ? VQ_NEXT : 0) | (k ? VQ_WRITE : 0), (uint16_t)i);
		assert_true(pop(&d, &c));
		assert_int_equal(c.id, i);
		assert_int_equal(c.slots, n);
		assert_int_equal(c.in.len, 10 * (n - 1));
		vq_unpop(&d.v.vq[0], &c);
		assert_true(pop(&d, &c));
		assert_int_equal(c.id, i);
		assert_false(vq_want_kicks(&d.v.vq[0], true));
		vq_push(&d.v.vq[0], &c, 5);
		assert_int_equal(packed_flags(&d, place) & 0x8080, wrap ? 0x8080 : 0);
		memcpy(done, (uint8_t *)guest(&d, RING_DESC) + 16 * place + 8, 8);
		assert_int_equal(done[0], 5);
		assert_int_equal(done[1] & 0xffff, i);
		place += n;
		wrap ^= place >= RING_SIZE;
		place %= RING_SIZE;
	}
	assert_int_equal(d.interrupts, 100);
	driver_fini(&d);
}

/* The driver asks for the interrupt of one place, in this round or the next. */
static void packed_events(void **state)
{
	uint16_t want[2] = { 5 | 0x8000, 2 };
	struct driver d;
	struct vq_chain c;

	driver_init(&d, PACKED | EVENT);
	for (unsigned i = 0; i < 3 * RING_SIZE; i++) {
		unsigned expect = i < 5 ? 0 : i < RING_SIZE + 3 ? 1 : 2;

		if (i == RING_SIZE) /* the fourth of the second round, whose counter is 0 */
			want[0] = 3;
		memcpy(guest(&d, RING_DRIVER), want, 4);
		offer_packed(&d, RING_DATA, 1, 0, 0);
		assert_true(pop(&d, &c));
		vq_push(&d.v.vq[0], &c, 0);
		assert_int_equal(d.interrupts, expect);
	}
	driver_fini(&d);
}

static void list_is_seen_at_once(void **state)
{
	struct vq_used used[3];
	struct driver d;
	struct vq_chain c;

	for (unsigned packed = 0; packed < 2; packed++) {
		driver_init(&d, packed ? PACKED : 0);
		for (unsigned i = 0; i < 3; i++) {
			put_desc(&d, RING_DESC, i, RING_DATA, 1, 0, 0);
			if (packed)
				offer_packed(&d, RING_DATA, 1, 0, (uint16_t)i);
			else
				offer(&d, (uint16_t)i);
			assert_true(pop(&d, &c));
			used[i] = (struct vq_used){ c.id, c.slots, i };
		}
		vq_push_list(&d.v.vq[0], used, 3);
		assert_int_equal(d.interrupts, 1);
		if (packed)
			assert_int_equal(packed_flags(&d, 2) & 0x8080, 0x8080);
		else
			assert_int_equal(used_index(&d), 3);
		driver_fini(&d);
	}
}

/* Hostile drivers. */

static void loop_to_itself(struct driver *d)
{
	put_desc(d, RING_DESC, 0, RING_DATA, 8, VQ_NEXT, 0);
	offer(d, 0);
}

static void next_outside(struct driver *d)
{
	put_desc(d, RING_DESC, 0, RING_DATA, 8, VQ_NEXT, RING_SIZE);
	offer(d, 0);
}

static void head_outside(struct driver *d)
{
	offer(d, 0xffff);
}

static void index_runs_away(struct driver *d)
{
	d->avail = RING_SIZE; /* and one more */
	offer(d, 0);
}

static void read_after_write(struct driver *d)
{
	put_desc(d, RING_DESC, 0, RING_DATA, 8, VQ_WRITE | VQ_NEXT, 1);
	put_desc(d, RING_DESC, 1, RING_DATA, 8, 0, 0);
	offer(d, 0);
}

static void buffer_in_the_hole(struct driver *d)
{
	put_desc(d, RING_DESC, 0, MEM_HOLE_BASE, 8, 0, 0);
	offer(d, 0);
}

static void buffer_over_the_end(struct driver *d)
{
	put_desc(d, RING_DESC, 0, RING_MEMORY - 4, 8, VQ_WRITE, 0);
	offer(d, 0);
}

static void huge_buffer(struct driver *d)
{
	put_desc(d, RING_DESC, 0, RING_DATA, UINT32_MAX, VQ_WRITE, 0);
	offer(d, 0);
}

static void address_wraps(struct driver *d)
{
	put_desc(d, RING_DESC, 0, UINT64_MAX - 4, 16, 0, 0);
	offer(d, 0);
}

static void write_to_rom(struct driver *d)
{
	put_desc(d, RING_DESC, 0, RING_ROM - 8, 16, VQ_WRITE, 0);
	offer(d, 0);
}

static void offer_table(struct driver *d, uint64_t addr, uint32_t len, uint16_t flags)
{
	put_desc(d, RING_DESC, 0, addr, len, VQ_INDIRECT | flags, 1);
	put_desc(d, RING_DESC, 1, RING_DATA, 8, 0, 0);
	offer(d, 0);
}

static void table_loops(struct driver *d)
{
	put_desc(d, RING_TABLE, 0, RING_DATA, 8, VQ_NEXT, 1);
	put_desc(d, RING_TABLE, 1, RING_DATA, 8, VQ_NEXT, 0);
	offer_table(d, RING_TABLE, 32, 0);
}

static void table_loops_over_nothing(struct driver *d)
{
	put_desc(d, RING_TABLE, 0, RING_DATA, 0, VQ_NEXT, 0);
	offer_table(d, RING_TABLE, 16, 0);
}

static void table_next_outside(struct driver *d)
{
	put_desc(d, RING_TABLE, 0, RING_DATA, 8, VQ_NEXT, 2);
	offer_table(d, RING_TABLE, 32, 0);
}

static void table_in_table(struct driver *d)
{
	put_desc(d, RING_TABLE, 0, RING_TABLE, 16, VQ_INDIRECT, 0);
	offer_table(d, RING_TABLE, 16, 0);
}

static void table_empty(struct driver *d)
{
	offer_table(d, RING_TABLE, 0, 0);
}

static void table_torn(struct driver *d)
{
	offer_table(d, RING_TABLE, 24, 0);
}

static void table_misaligned(struct driver *d)
{
	offer_table(d, RING_TABLE + 1, 16, 0);
}

static void table_in_the_hole(struct driver *d)
{
	offer_table(d, RING_MEMORY - 16, 32, 0);
}

static void table_huge(struct driver *d)
{
	offer_table(d, RING_DATA, 0xfffffff0, 0);
}

static void table_with_next(struct driver *d)
{
	put_desc(d, RING_TABLE, 0, RING_DATA, 8, 0, 0);
	offer_table(d, RING_TABLE, 16, VQ_NEXT);
}

static void too_many_buffers(struct driver *d)
{
	for (unsigned i = 0; i < 100; i++)
		put_desc(d, RING_TABLE, i, RING_DATA, 8, i < 99 ? VQ_NEXT : 0, (uint16_t)(i + 1));
	offer_table(d, RING_TABLE, 1600, 0);
}

static void packed_never_ends(struct driver *d)
{
	for (unsigned i = 0; i < RING_SIZE; i++)
		offer_packed(d, RING_DATA, 8, VQ_NEXT, 0);
}

static void packed_in_the_hole(struct driver *d)
{
	offer_packed(d, MEM_HOLE_BASE, 8, 0, 0);
}

static void packed_table_in_table(struct driver *d)
{
	put_desc(d, RING_TABLE, 0, MEM_HOLE_BASE, 16, VQ_INDIRECT, 0);
	offer_packed(d, RING_TABLE, 16, VQ_INDIRECT, 0);
}

static void packed_table_torn(struct driver *d)
{
	offer_packed(d, RING_TABLE, 17, VQ_INDIRECT, 0);
}

static const struct {
	void (*attack)(struct driver *d);
	uint64_t features;
} attacks[] = {
	{ loop_to_itself, 0 },
	{ next_outside, 0 },
	{ head_outside, 0 },
	{ index_runs_away, 0 },
	{ read_after_write, 0 },
	{ buffer_in_the_hole, 0 },
	{ buffer_over_the_end, 0 },
	{ huge_buffer, 0 },
	{ address_wraps, 0 },
	{ write_to_rom, 0 },
	{ table_loops, INDIRECT },
	{ table_loops_over_nothing, INDIRECT },
	{ table_next_outside, INDIRECT },
	{ table_in_table, INDIRECT },
	{ table_empty, INDIRECT },
	{ table_torn, INDIRECT },
	{ table_misaligned, INDIRECT },
	{ table_in_the_hole, INDIRECT },
	{ table_huge, INDIRECT },
	{ table_with_next, INDIRECT },
	{ too_many_buffers, INDIRECT },
	{ table_loops, 0 }, /* not negotiated */
	{ packed_never_ends, PACKED },
	{ packed_in_the_hole, PACKED },
	{ packed_table_in_table, PACKED | INDIRECT },
	{ packed_table_torn, PACKED | INDIRECT },
};

static void an_error_on_the_device(void **state)
{
	struct driver d;
	struct vq_chain c;

	driver_init(&d, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(attacks); i++) {
		unsigned told = d.config_interrupts;

		driver_reset(&d);
		wait_for_status(&d, 0, 0xff);
		driver_start(&d, attacks[i].features);
		attacks[i].attack(&d);
		assert_false(pop(&d, &c));
		wait_for_status(&d, VIRTIO_NEEDS_RESET, 0);
		bus_lock(&d.bus);
		assert_int_equal(d.config_interrupts, told + 1);
		bus_unlock(&d.bus);
		assert_false(pop(&d, &c));
	}
	driver_reset(&d); /* and it works again */
	wait_for_status(&d, 0, 0xff);
	driver_start(&d, 0);
	put_desc(&d, RING_DESC, 0, RING_DATA, 8, 0, 0);
	offer(&d, 0);
	assert_true(pop(&d, &c));
	vq_push(&d.v.vq[0], &c, 0);
	driver_fini(&d);
}

/* The same chain again and again, before it comes back. */
static void no_more_chains_than_places(void **state)
{
	struct driver d;
	struct vq_chain c;
	unsigned n;

	driver_init(&d, 0);
	put_desc(&d, RING_DESC, 0, RING_DATA, 8, 0, 0);
	for (n = 0; n < RING_SIZE; n++) {
		offer(&d, 0);
		assert_true(pop(&d, &c));
	}
	offer(&d, 0);
	assert_false(pop(&d, &c));
	wait_for_status(&d, VIRTIO_NEEDS_RESET, 0);
	while (n--)
		vq_push(&d.v.vq[0], &c, 0);
	driver_fini(&d);
}

static void bad_rings_are_refused(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, driver, device;
	} bad[] = {
		{ 0, RING_DESC, RING_DRIVER, RING_DEVICE },
		{ 6, RING_DESC, RING_DRIVER, RING_DEVICE },
		{ 32, RING_DESC, RING_DRIVER, RING_DEVICE },
		{ 8, RING_DESC + 8, RING_DRIVER, RING_DEVICE },
		{ 8, RING_DESC, RING_DRIVER + 1, RING_DEVICE },
		{ 8, RING_DESC, RING_DRIVER, RING_DEVICE + 2 },
		{ 8, RING_MEMORY - 64, RING_DRIVER, RING_DEVICE },
		{ 8, RING_DESC, MEM_HOLE_BASE, RING_DEVICE },
		{ 8, RING_DESC, RING_DRIVER, RING_ROM },
		{ 8, RING_DESC, RING_DRIVER, UINT64_MAX - 3 },
	};
	struct driver d;

	driver_init(&d, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vq *q = &d.v.vq[1];

		bus_lock(&d.bus);
		q->s.size = bad[i].size;
		q->s.desc = bad[i].desc;
		q->s.driver = bad[i].driver;
		q->s.device = bad[i].device;
		virtio_enable_queue(q);
		assert_false(q->s.enabled);
		bus_unlock(&d.bus);
		wait_for_status(&d, VIRTIO_NEEDS_RESET, 0);
		driver_reset(&d);
		wait_for_status(&d, 0, 0xff);
		driver_start(&d, 0);
	}
	driver_fini(&d);
}

/* Resets. */

static void reset_waits_for_chains(void **state)
{
	struct driver d;
	struct vq_chain c, other;

	driver_init(&d, 0);
	put_desc(&d, RING_DESC, 0, RING_DATA, 8, 0, 0);
	offer(&d, 0);
	offer(&d, 0);
	assert_true(pop(&d, &c));
	driver_reset(&d);
	assert_false(pop(&d, &other)); /* no new ones */
	while (!d.stops)
		sched_yield();
	assert_true(driver_status(&d) & VIRTIO_DRIVER_OK);
	bus_lock(&d.bus); /* what the driver writes meanwhile is lost */
	virtio_write_status(&d.v, VIRTIO_ACKNOWLEDGE);
	virtio_enable_queue(&d.v.vq[1]);
	bus_unlock(&d.bus);
	vq_drop(&d.v.vq[0]);
	wait_for_status(&d, 0, 0xff);
	assert_false(d.v.vq[0].s.enabled);
	assert_int_equal(used_index(&d), 0);
	driver_start(&d, PACKED);
	driver_fini(&d);
}

static void one_queue_is_reset(void **state)
{
	struct driver d;
	struct vq_chain c;
	bool busy;

	driver_init(&d, VIRTIO_F_RING_RESET);
	put_desc(&d, RING_DESC, 0, RING_DATA, 8, 0, 0);
	offer(&d, 0);
	assert_true(pop(&d, &c));
	bus_lock(&d.bus);
	virtio_reset_queue(&d.v.vq[0]);
	assert_true(d.v.vq[0].resetting);
	bus_unlock(&d.bus);
	vq_push(&d.v.vq[0], &c, 0);
	do {
		bus_lock(&d.bus);
		busy = d.v.vq[0].resetting;
		bus_unlock(&d.bus);
	} while (busy);
	assert_false(d.v.vq[0].s.enabled);
	assert_true(driver_status(&d) & VIRTIO_DRIVER_OK);
	driver_fini(&d);
}

static void features_are_negotiated(void **state)
{
	struct driver d;

	driver_init(&d, 0);
	driver_reset(&d);
	wait_for_status(&d, 0, 0xff);
	bus_lock(&d.bus);
	virtio_write_features(&d.v, BIT(5) | VIRTIO_F_VERSION_1, ~0ull); /* not offered */
	virtio_write_status(&d.v, VIRTIO_FEATURES_OK);
	assert_int_equal(d.v.s.status, 0);
	virtio_write_features(&d.v, EVENT, ~0ull); /* a legacy driver */
	virtio_write_status(&d.v, VIRTIO_FEATURES_OK);
	assert_int_equal(d.v.s.status, 0);
	virtio_write_status(&d.v, VIRTIO_DRIVER_OK); /* too early */
	assert_false(d.v.started);
	virtio_write_features(&d.v, EVENT | VIRTIO_F_VERSION_1, ~0ull);
	virtio_write_status(&d.v, VIRTIO_FEATURES_OK);
	assert_int_equal(d.v.s.status, VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
	virtio_write_features(&d.v, 0, ~0ull); /* settled */
	assert_true(virtio_has(&d.v, EVENT));
	bus_unlock(&d.bus);
	driver_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(split_chain_goes_there_and_back),
		cmocka_unit_test(interrupts_only_where_wanted),
		cmocka_unit_test(doorbells_only_where_wanted),
		cmocka_unit_test(indirect_tables),
		cmocka_unit_test(packed_ring_wraps),
		cmocka_unit_test(packed_events),
		cmocka_unit_test(list_is_seen_at_once),
		cmocka_unit_test(an_error_on_the_device),
		cmocka_unit_test(no_more_chains_than_places),
		cmocka_unit_test(bad_rings_are_refused),
		cmocka_unit_test(reset_waits_for_chains),
		cmocka_unit_test(one_queue_is_reset),
		cmocka_unit_test(features_are_negotiated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
