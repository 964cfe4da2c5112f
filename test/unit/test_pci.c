/* Functions on the PCI bus: BARs that move, capabilities, MSI-X, interrupt pins; and a virtio card
 * driven through its registers. */
#include "pci_machine.h"

#include <errno.h>
#include <sched.h>

#include "device/virtio/rng.h"

static void bars_are_sized_and_moved(void **state)
{
	struct machine m;
	uint64_t first;

	make_machine(&m);
	first = mmio_read(&m, config(SLOT, PCI_BAR0), 4) & ~0xfull;
	assert_in_range(first, LOW, LOW + LOW_LEN - 0x1000);
	assert_int_equal(mmio_read(&m, first, 4), 0xffffffff); /* not decoded yet */
	enable(&m, SLOT);
	assert_int_equal(mmio_read(&m, first + 8, 4), 0xba000008);

	mmio_write(&m, config(SLOT, PCI_BAR0), 4, 0xffffffff);
	mmio_write(&m, config(SLOT, PCI_BAR0 + 4), 4, 0xffffffff);
	assert_int_equal(mmio_read(&m, config(SLOT, PCI_BAR0), 4), 0xfffff004);
	assert_int_equal(mmio_read(&m, config(SLOT, PCI_BAR0 + 4), 4), 0xffffffff);
	assert_int_equal(mmio_read(&m, first, 4), 0xffffffff);

	mmio_write(&m, config(SLOT, PCI_BAR0), 4, (uint32_t)(HIGH + 0x5000));
	mmio_write(&m, config(SLOT, PCI_BAR0 + 4), 4, HIGH >> 32);
	assert_int_equal(mmio_read(&m, HIGH + 0x5010, 4), 0xba000010);
	mmio_write(&m, HIGH + 0x5020, 1, 0);
	assert_int_equal(m.last_write, 0x20);
	mmio_write(&m, HIGH + 0x5fff, 2, 0); /* over its end: nobody's */
	assert_int_equal(m.last_write, 0x20);
	assert_int_equal(mmio_read(&m, HIGH + 0x6000, 4), 0xffffffff);

	mmio_write(&m, config(SLOT, PCI_COMMAND), 2, 0);
	assert_int_equal(mmio_read(&m, HIGH + 0x5010, 4), 0xffffffff);
	bus_lock(&m.bus);
	pci_host_reset(&m.host);
	bus_unlock(&m.bus);
	assert_int_equal(mmio_read(&m, config(SLOT, PCI_BAR0), 4) & ~0xfull, first);
	free_machine(&m);
	assert_int_equal(m.stopped, 2);
	assert_int_equal(m.freed, 2);
}

static void no_room_in_the_windows(void **state)
{
	struct machine m;

	make_machine(&m);
	m.f[0].bar[0].len = 2 * LOW_LEN; /* goes above 4 GiB */
	assert_int_equal(pci_host_assign(&m.host), 0);
	assert_int_equal(mmio_read(&m, config(SLOT, PCI_BAR0 + 4), 4), HIGH >> 32);
	m.f[0].bar[0].len = 2 * HIGH_LEN;
	assert_int_equal(pci_host_assign(&m.host), -ENOSPC);
	free_machine(&m);
}

static void messages_are_sent_masked_and_pending(void **state)
{
	struct machine m;
	unsigned cap;
	uint64_t bar;

	make_machine(&m);
	enable(&m, SLOT);
	bar = bar_of(&m, SLOT);
	cap = find_capability(&m, SLOT, 0x11, 0);
	assert_int_equal(mmio_read(&m, config(SLOT, cap + 2), 2), VECTORS - 1);
	assert_int_equal(mmio_read(&m, config(SLOT, cap + 4), 4), TABLE);
	set_vector(&m, bar + TABLE, 1, 0x4051);
	assert_int_equal(mmio_read(&m, bar + TABLE + 24, 4), 0x4051);
	pci_raise_msix(&m.f[0], 1); /* not enabled */
	assert_int_equal(m.msis, 0);
	mmio_write(&m, config(SLOT, cap + 2), 2, 0x8000);
	pci_raise_msix(&m.f[0], 1);
	assert_int_equal(m.msis, 1);
	assert_int_equal(m.msi_addr, 0xfee01000);
	assert_int_equal(m.msi_data, 0x4051);

	pci_raise_msix(&m.f[0], 3); /* masked since power-on */
	pci_raise_msix(&m.f[0], VECTORS);
	pci_raise_msix(&m.f[0], PCI_NO_VECTOR);
	assert_int_equal(m.msis, 1);
	assert_int_equal(mmio_read(&m, bar + PENDING, 8), BIT(3));
	set_vector(&m, bar + TABLE, 3, 0x4053);
	assert_int_equal(m.msis, 2);
	assert_int_equal(m.msi_data, 0x4053);
	assert_int_equal(mmio_read(&m, bar + PENDING, 8), 0);

	mmio_write(&m, config(SLOT, cap + 2), 2, 0xc000); /* all masked */
	pci_raise_msix(&m.f[0], 1);
	pci_raise_msix(&m.f[0], 1);
	assert_int_equal(m.msis, 2);
	mmio_write(&m, config(SLOT, cap + 2), 2, 0x8000);
	assert_int_equal(m.msis, 3);

	mmio_write(&m, config(SLOT, PCI_COMMAND), 2, PCI_COMMAND_MEMORY); /* no bus master */
	pci_raise_msix(&m.f[0], 1);
	assert_int_equal(m.msis, 3);
	enable(&m, SLOT);
	assert_int_equal(m.msis, 4);

	mmio_write(&m, bar + TABLE + 64, 4, 1); /* beyond the table */
	mmio_write(&m, bar + TABLE + 2, 2, 1);  /* not a double word */
	assert_int_equal(mmio_read(&m, bar + TABLE, 4), 0);
	free_machine(&m);
}

static void pins_share_a_line(void **state)
{
	struct machine m;
	unsigned cap;

	make_machine(&m);
	assert_int_equal(mmio_read(&m, config(SLOT, PCI_INT_PIN), 1), 1);
	pci_set_intx(&m.f[0], true);
	pci_set_intx(&m.f[1], true);
	assert_true(m.line[SLOT]);
	assert_true(mmio_read(&m, config(SLOT, PCI_STATUS), 2) & PCI_STATUS_INTX);
	pci_set_intx(&m.f[0], false);
	assert_true(m.line[SLOT]);
	mmio_write(&m, config(SLOT + PCI_LINES, PCI_COMMAND), 2, PCI_COMMAND_NOINTX);
	assert_false(m.line[SLOT]);
	assert_true(mmio_read(&m, config(SLOT + PCI_LINES, PCI_STATUS), 2) & PCI_STATUS_INTX);
	mmio_write(&m, config(SLOT + PCI_LINES, PCI_COMMAND), 2, 0);
	assert_true(m.line[SLOT]);
	pci_set_intx(&m.f[1], false);

	pci_set_intx(&m.f[0], true); /* messages replace the pin */
	cap = find_capability(&m, SLOT, 0x11, 0);
	mmio_write(&m, config(SLOT, cap + 2), 2, 0x8000);
	assert_false(m.line[SLOT]);
	bus_lock(&m.bus);
	pci_host_reset(&m.host);
	bus_unlock(&m.bus);
	assert_false(m.line[SLOT]);
	free_machine(&m);
}

static void slots_run_out(void **state)
{
	struct pci_function f[PCI_SLOTS];
	struct pci_identity id = { 0 };
	struct machine m;

	make_host(&m);
	for (int i = 1; i < PCI_SLOTS; i++) {
		assert_int_equal(pci_host_find_slot(&m.host), i);
		pci_init(&f[i], &id, NULL, NULL);
		assert_int_equal(pci_host_add(&m.host, PCI_DEVFN(i, 0), &f[i]), 0);
	}
	assert_int_equal(pci_host_find_slot(&m.host), -ENOSPC);
	free_machine(&m);
}

/* A virtio card: the capabilities lead to everything else (virtio 1.2 4.1.4). */

static void virtio_card_gives_entropy(void **state)
{
	uint8_t data[64], none[64] = { 0 };
	uint64_t common, notify, isr;
	struct machine m;
	struct mem *mem;
	uint16_t used = 0;

	make_host(&m);
	assert_int_equal(mem_new(&mem, MEM_MIN_BYTES), 0);
	assert_int_equal(virtio_rng_add(&m.host, &m.bus, mem), 0);
	assert_int_equal(pci_host_assign(&m.host), 0);
	assert_int_equal(mmio_read(&m, config(1, 0), 4), 0x10441af4);
	enable(&m, 1);
	common = structure(&m, 1);
	notify = structure(&m, 2);
	isr = structure(&m, 3);
	start_card(&m, common);
	offer_buffer(mem);
	mmio_write(&m, notify, 2, 0);
	while (!used) {
		sched_yield();
		assert_int_equal(mem_read(mem, QUEUE_DESC + 0x2002, &used, 2), 0);
	}
	mem_read(mem, DATA, data, sizeof(data));
	assert_memory_not_equal(data, none, sizeof(data));
	while (!(mmio_read(&m, config(1, PCI_STATUS), 2) & PCI_STATUS_INTX))
		sched_yield();
	assert_true(m.line[1]);
	assert_int_equal(mmio_read(&m, isr, 1), 1);
	assert_false(m.line[1]);
	assert_int_equal(mmio_read(&m, isr, 1), 0);

	mmio_write(&m, common + 0x14, 1, 0);
	while (mmio_read(&m, common + 0x14, 1))
		sched_yield();
	assert_int_equal(mmio_read(&m, common + 0x1c, 2), 0);
	mmio_write(&m, common + 0x16, 2, 7); /* no such queue */
	assert_int_equal(mmio_read(&m, common + 0x18, 2), 0);
	mmio_write(&m, common + 0x1c, 2, 1);
	free_machine(&m);
	mem_free(mem);
}

/* The same registers through configuration space (4.1.4.9). */
static void virtio_card_by_configuration_space(void **state)
{
	struct machine m;
	struct mem *mem;
	unsigned cap = 0;

	make_host(&m);
	assert_int_equal(mem_new(&mem, MEM_MIN_BYTES), 0);
	assert_int_equal(virtio_rng_add(&m.host, &m.bus, mem), 0);
	for (unsigned n = 0; !cap || mmio_read(&m, config(1, cap + 3), 1) != 5; n++) {
		cap = find_capability(&m, 1, 0x09, n);
		assert_int_not_equal(cap, 0);
	}
	mmio_write(&m, config(1, cap + 8), 4, 0x14); /* status */
	mmio_write(&m, config(1, cap + 12), 4, 1);
	mmio_write(&m, config(1, cap + 16), 4, 3);
	assert_int_equal(mmio_read(&m, config(1, cap + 16), 4), 3);
	mmio_write(&m, config(1, cap + 8), 4, 0x12); /* number of queues */
	mmio_write(&m, config(1, cap + 12), 4, 2);
	assert_int_equal(mmio_read(&m, config(1, cap + 16), 4), 1);
	for (unsigned bad = 0; bad < 4; bad++) { /* lengths and places that there are not */
		mmio_write(&m, config(1, cap + 4), 1, bad == 0 ? 3 : 0);
		mmio_write(&m, config(1, cap + 12), 4, bad == 1 ? 3 : 4);
		mmio_write(&m, config(1, cap + 8), 4, bad == 2 ? 0xfffffffc : bad == 3 ? 2 : 0);
		mmio_write(&m, config(1, cap + 16), 4, 0xffffffff);
	}
	free_machine(&m);
	mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bars_are_sized_and_moved),
		cmocka_unit_test(no_room_in_the_windows),
		cmocka_unit_test(messages_are_sent_masked_and_pending),
		cmocka_unit_test(pins_share_a_line),
		cmocka_unit_test(slots_run_out),
		cmocka_unit_test(virtio_card_gives_entropy),
		cmocka_unit_test(virtio_card_by_configuration_space),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
