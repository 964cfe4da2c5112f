/* Messages and doorbells that the host's kernel passes on: which it is told of, and when; and that
 * nothing is lost between its way and ours. */
#include "pci_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "device/virtio/rng.h"

/* ---- interrupt controllers that only note what they are told ---- */

#define ROUTES 2

struct route {
	bool used, masked;
	int fd;
	uint64_t addr;
	uint32_t data;
};

struct chip {
	struct irqchip irqchip;
	struct route route[ROUTES];
	int refusal; /* of route_set() */
};

static int add_route(void *opaque, int fd)
{
	struct chip *c = opaque;

	for (int n = 0; n < ROUTES; n++) {
		if (c->route[n].used)
			continue;
		c->route[n] = (struct route){ .used = true, .masked = true, .fd = fd };
		return n;
	}
	return -ENOSPC;
}

static int set_route(void *opaque, int n, uint64_t addr, uint32_t data, bool masked)
{
	struct chip *c = opaque;

	assert_true(c->route[n].used);
	c->route[n].masked = masked;
	if (masked)
		return 0;
	c->route[n].addr = addr;
	c->route[n].data = data;
	return c->refusal;
}

static void remove_route(void *opaque, int n)
{
	struct chip *c = opaque;

	assert_true(c->route[n].masked);
	c->route[n].used = false;
}

static const struct irqchip_ops chip_ops = {
	.route_add = add_route,
	.route_set = set_route,
	.route_remove = remove_route,
};

/* How often a descriptor was written since it was last asked; what the kernel would send. */
static uint64_t writes(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) < 0 ? 0 : count;
}

/* ---- messages ---- */

struct messages {
	struct machine m;
	struct chip chip;
	uint64_t table, pending;
	unsigned cap;
};

static void begin_messages(struct messages *t)
{
	make_machine(&t->m);
	t->chip = (struct chip){ .irqchip = { .kind = IRQCHIP_KERNEL, .ops = &chip_ops } };
	t->chip.irqchip.opaque = &t->chip;
	t->m.host.wires.irqchip = &t->chip.irqchip;
	enable(&t->m, SLOT);
	t->table = bar_of(&t->m, SLOT) + TABLE;
	t->pending = bar_of(&t->m, SLOT) + PENDING;
	t->cap = find_capability(&t->m, SLOT, PCI_CAP_MSIX, 0);
	mmio_write(&t->m, config(SLOT, t->cap + 2), 2, 0x8000);
}

static void end_messages(struct messages *t)
{
	free_machine(&t->m);
	for (unsigned n = 0; n < ROUTES; n++)
		assert_false(t->chip.route[n].used);
}

static void mask(struct messages *t, unsigned n, bool on)
{
	mmio_write(&t->m, t->table + 16 * n + 12, 4, on);
}

static void open_vectors_need_no_routine(void **state)
{
	struct route *r;
	struct messages t;

	begin_messages(&t);
	r = &t.chip.route[0];
	assert_false(pci_signal_msix(&t.m.f[0], 1)); /* masked since power-on */
	assert_false(r->used);
	set_vector(&t.m, t.table, 1, 0x4051);
	assert_true(r->used && !r->masked);
	assert_int_equal(r->addr, 0xfee01000);
	assert_int_equal(r->data, 0x4051);
	assert_true(pci_signal_msix(&t.m.f[0], 1));
	pci_raise_msix(&t.m.f[0], 1);
	assert_int_equal(writes(r->fd), 2);
	assert_int_equal(t.m.host.shortcuts.messages, 2);
	assert_int_equal(t.m.msis, 0);
	mmio_write(&t.m, t.table + 16 + 8, 4, 0x4052); /* with the vector open */
	assert_int_equal(r->data, 0x4052);
	assert_false(pci_signal_msix(&t.m.f[0], VECTORS));
	assert_false(pci_signal_msix(&t.m.f[0], PCI_NO_VECTOR));
	end_messages(&t);
}

/* The ways in which a vector closes; each opens it again. */
static void close_vector(struct messages *t, unsigned how, bool closed)
{
	switch (how) {
	case 0:
		mask(t, 1, closed);
		break;
	case 1:
		mmio_write(&t->m, config(SLOT, t->cap + 2), 2, closed ? 0xc000 : 0x8000);
		break;
	case 2:
		mmio_write(&t->m, config(SLOT, PCI_COMMAND), 2,
		           PCI_COMMAND_MEMORY | (closed ? 0 : PCI_COMMAND_MASTER));
		break;
	}
}

static void closed_vectors_keep_what_comes(void **state)
{
	struct messages t;

	begin_messages(&t);
	set_vector(&t.m, t.table, 1, 0x4051);
	for (unsigned how = 0; how < 3; how++) {
		close_vector(&t, how, true);
		assert_true(t.chip.route[0].masked);
		assert_false(pci_signal_msix(&t.m.f[0], 1));
		pci_raise_msix(&t.m.f[0], 1);
		pci_raise_msix(&t.m.f[0], 1);
		assert_int_equal(mmio_read(&t.m, t.pending, 8), BIT(1));
		assert_int_equal(t.m.msis, how);
		close_vector(&t, how, false);
		assert_false(t.chip.route[0].masked);
		assert_int_equal(t.m.msis, how + 1);
		assert_int_equal(writes(t.chip.route[0].fd), 0);
		assert_int_equal(mmio_read(&t.m, t.pending, 8), 0);
	}
	end_messages(&t);
}

/* A device that found the vector open writes after it has been closed. */
static void write_late(struct messages *t)
{
	const uint64_t one = 1;

	assert_int_equal(write(t->chip.route[0].fd, &one, sizeof(one)), sizeof(one));
}

static void late_writes_are_pending(void **state)
{
	struct messages t;

	begin_messages(&t);
	set_vector(&t.m, t.table, 1, 0x4051);
	mask(&t, 1, true);
	write_late(&t);
	assert_int_equal(mmio_read(&t.m, t.pending, 8), BIT(1));
	assert_int_equal(t.m.msis, 0);
	mask(&t, 1, false);
	assert_int_equal(t.m.msis, 1);

	mask(&t, 1, true);
	write_late(&t); /* and nobody looks at the bits */
	mask(&t, 1, false);
	assert_int_equal(t.m.msis, 2);
	assert_int_equal(writes(t.chip.route[0].fd), 0);

	mask(&t, 1, true);
	write_late(&t);
	bus_lock(&t.m.bus);
	pci_host_reset(&t.m.host);
	bus_unlock(&t.m.bus);
	enable(&t.m, SLOT);
	mmio_write(&t.m, config(SLOT, t.cap + 2), 2, 0x8000);
	set_vector(&t.m, t.table, 1, 0x4051);
	assert_int_equal(t.m.msis, 2); /* the reset has forgotten it */
	assert_true(pci_signal_msix(&t.m.f[0], 1));
	end_messages(&t);
}

static void what_has_no_route_goes_the_long_way(void **state)
{
	struct messages t;

	begin_messages(&t);
	for (unsigned n = 0; n < ROUTES + 1; n++)
		set_vector(&t.m, t.table, n, 0x4050 + n);
	assert_true(pci_signal_msix(&t.m.f[0], ROUTES - 1));
	assert_false(pci_signal_msix(&t.m.f[0], ROUTES));
	pci_raise_msix(&t.m.f[0], ROUTES);
	assert_int_equal(t.m.msis, 1);
	assert_int_equal(t.m.msi_data, 0x4050 + ROUTES);

	mmio_write(&t.m, t.table, 4, 0x1000); /* no message's address */
	assert_true(t.chip.route[0].masked);
	assert_false(pci_signal_msix(&t.m.f[0], 0));
	pci_raise_msix(&t.m.f[0], 0);
	assert_int_equal(t.m.msi_addr, 0x1000);

	t.chip.refusal = -EIO;
	mmio_write(&t.m, t.table + 16 + 8, 4, 0x4061);
	assert_true(t.chip.route[1].masked);
	pci_raise_msix(&t.m.f[0], 1);
	assert_int_equal(t.m.msi_data, 0x4061);
	end_messages(&t);
}

/* ---- doorbells ---- */

#define BELLS 4

struct bells {
	struct machine m;
	struct mem *mem;
	struct doorbells doorbells;
	struct doorbell bell[BELLS];
	unsigned nr;
};

static int add_bell(void *opaque, const struct doorbell *d)
{
	struct bells *t = opaque;

	assert_in_range(t->nr, 0, BELLS - 1);
	t->bell[t->nr++] = *d;
	return 0;
}

static int remove_bell(void *opaque, const struct doorbell *d)
{
	struct bells *t = opaque;

	assert_int_equal(t->nr, 1);
	assert_memory_equal(&t->bell[0], d, sizeof(*d));
	t->nr = 0;
	return 0;
}

static const struct doorbell_ops bell_ops = { .add = add_bell, .remove = remove_bell };

static void begin_bells(struct bells *t)
{
	make_host(&t->m);
	t->nr = 0;
	t->doorbells = (struct doorbells){ &bell_ops, t };
	t->m.host.wires.doorbells = &t->doorbells;
	assert_int_equal(mem_new(&t->mem, MEM_MIN_BYTES), 0);
	assert_int_equal(virtio_rng_add(&t->m.host, &t->m.bus, t->mem), 0);
	plug_function(&t->m, &t->m.f[0], SLOT);
	assert_int_equal(pci_host_assign(&t->m.host), 0);
	enable(&t->m, 1);
	assert_int_equal(t->nr, 0);
	start_card(&t->m, structure(&t->m, 1));
}

static void end_bells(struct bells *t)
{
	free_machine(&t->m);
	assert_int_equal(t->nr, 0);
	mem_free(t->mem);
}

static void wait_for_used(struct bells *t, uint16_t index)
{
	uint16_t used = 0;

	while (used != index) {
		sched_yield();
		assert_int_equal(mem_read(t->mem, QUEUE_DESC + 0x2002, &used, 2), 0);
	}
}

/* The device's thread counts them; it may do so behind the work. */
static void wait_for_doorbells(struct bells *t, uint64_t nr)
{
	while (atomic_load(&t->m.host.shortcuts.doorbells) < nr)
		sched_yield();
}

static void doorbells_wake_the_device(void **state)
{
	const uint64_t one = 1;
	uint16_t index = 2;
	struct bells t;

	begin_bells(&t);
	assert_int_equal(t.nr, 1);
	assert_int_equal(t.bell[0].space, BUS_MMIO);
	assert_int_equal(t.bell[0].addr, structure(&t.m, 2));
	offer_buffer(t.mem);
	assert_int_equal(write(t.bell[0].fd, &one, sizeof(one)), sizeof(one));
	wait_for_used(&t, 1);
	wait_for_doorbells(&t, 1);
	mem_write(t.mem, QUEUE_DESC + 0x1002, &index, 2);
	mmio_write(&t.m, structure(&t.m, 2), 2, 0); /* a write that came to us after all */
	wait_for_used(&t, 2);
	assert_int_equal(t.m.host.shortcuts.doorbells, 1);
	end_bells(&t);
}

static void doorbells_follow_the_bar(void **state)
{
	struct bells t;
	uint64_t at;

	begin_bells(&t);
	at = bar_of(&t.m, 1) + 0x100000;
	mmio_write(&t.m, config(1, PCI_BAR0), 4, (uint32_t)at);
	assert_int_equal(t.nr, 1);
	assert_int_equal(t.bell[0].addr, structure(&t.m, 2));
	mmio_write(&t.m, config(1, PCI_COMMAND), 2, PCI_COMMAND_MASTER);
	assert_int_equal(t.nr, 0);
	enable(&t.m, 1);
	assert_int_equal(t.nr, 1);
	mmio_write(&t.m, config(1, PCI_BAR0), 4, 0x10000); /* no window */
	assert_int_equal(t.nr, 0);
	mmio_write(&t.m, config(1, PCI_BAR0), 4, (uint32_t)at);
	assert_int_equal(t.nr, 1);
	end_bells(&t);
}

/* A write answers whose BAR begins last before it; the kernel must not take it for another's. */
static void doorbells_under_another_bar(void **state)
{
	uint64_t notify;
	struct bells t;

	begin_bells(&t);
	notify = structure(&t.m, 2);
	enable(&t.m, SLOT);
	mmio_write(&t.m, config(SLOT, PCI_BAR0), 4, (uint32_t)notify);
	assert_int_equal(t.nr, 0);
	t.m.last_write = ~0ull;
	mmio_write(&t.m, notify, 2, 0);
	assert_int_equal(t.m.last_write, 0);
	mmio_write(&t.m, config(SLOT, PCI_BAR0), 4, (uint32_t)notify + 0x1000);
	assert_int_equal(t.nr, 1);
	mmio_write(&t.m, config(SLOT, PCI_BAR0), 4, (uint32_t)notify);
	mmio_write(&t.m, config(SLOT, PCI_COMMAND), 2, 0);
	assert_int_equal(t.nr, 1);
	end_bells(&t);
}

static void doorbells_end_with_a_reset(void **state)
{
	uint64_t common;
	struct bells t;

	begin_bells(&t);
	common = structure(&t.m, 1);
	mmio_write(&t.m, common + 0x14, 1, 0);
	while (mmio_read(&t.m, common + 0x14, 1))
		sched_yield();
	assert_int_equal(t.nr, 0);
	start_card(&t.m, common);
	assert_int_equal(t.nr, 1);
	end_bells(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(open_vectors_need_no_routine),
		cmocka_unit_test(closed_vectors_keep_what_comes),
		cmocka_unit_test(late_writes_are_pending),
		cmocka_unit_test(what_has_no_route_goes_the_long_way),
		cmocka_unit_test(doorbells_wake_the_device),
		cmocka_unit_test(doorbells_follow_the_bar),
		cmocka_unit_test(doorbells_under_another_bar),
		cmocka_unit_test(doorbells_end_with_a_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
