/*
 * A guest may write anything anywhere. Random accesses to every register of the interrupt
 * controllers and timers, wired as on the board, while their timers fire: nothing to compare, but
 * nothing may crash, hang or trip a sanitizer, and afterwards a reset machine works. And local
 * APICs that interrupt each other from several threads.
 */
#include "device/hpet.h"
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/pic.h"
#include "device/pit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define CPUS   3
#define ROUNDS 300000

static struct machine {
	struct loop *loop;
	struct bus bus;
	struct lapic_bus lapics;
	struct lapic l[CPUS];
	struct ioapic io;
	struct pic pic;
	struct pit pit;
	struct hpet hpet;
	uint64_t seed;
} m;

static void vcpu_raise(void *opaque, uint32_t attention, uint8_t sipi_vector)
{
}

static uint64_t vcpu_tsc(void *opaque)
{
	return clock_ns();
}

static const struct lapic_ops ops = { .raise = vcpu_raise, .guest_tsc = vcpu_tsc };

static void eoi(void *opaque, uint8_t vector)
{
	bus_lock(&m.bus);
	ioapic_eoi(&m.io, vector);
	bus_unlock(&m.bus);
}

static void set_isa(void *opaque, unsigned n, bool level)
{
	if (n < 16)
		pic_set_irq(&m.pic, n, level);
	ioapic_set_pin(&m.io, n ? n : 2, level);
}

static int setup(void **state)
{
	struct irq_line isa = { .set = set_isa };
	struct irq_line gsi = { .set = ioapic_set_pin, .opaque = &m.io };
	struct irq_line legacy = { .set = pit_set_irq_off, .opaque = &m.pit };
	struct irq_line intr = { .set = lapic_bus_set_lint, .opaque = &m.lapics };

	memset(&m, 0, sizeof(m));
	m.seed = 42;
	if (loop_new(&m.loop) || bus_init(&m.bus) || loop_start(m.loop))
		return -1;
	lapic_bus_init(&m.lapics);
	m.lapics.eoi = eoi;
	for (uint32_t i = 0; i < CPUS; i++)
		lapic_init(&m.l[i], &m.lapics, i, m.loop, &ops, NULL, 1000000000, 46);
	pic_init(&m.pic, intr);
	ioapic_init(&m.io, &m.lapics, CPUS);
	pit_init(&m.pit, &m.bus, m.loop, isa);
	hpet_init(&m.hpet, &m.bus, m.loop, gsi, isa, legacy);
	return bus_add(&m.bus, BUS_MMIO, 0x0000, 0x1000, &ioapic_ops, &m.io, "ioapic") ||
	       bus_add(&m.bus, BUS_MMIO, 0x1000, 0x400, &hpet_ops, &m.hpet, "hpet") ||
	       bus_add(&m.bus, BUS_PIO, 0x20, 2, &pic_chip_ops, &m.pic.chip[0], "pic") ||
	       bus_add(&m.bus, BUS_PIO, 0xa0, 2, &pic_chip_ops, &m.pic.chip[1], "pic2") ||
	       bus_add(&m.bus, BUS_PIO, 0x4d0, 2, &pic_elcr_ops, &m.pic, "elcr") ||
	       bus_add(&m.bus, BUS_PIO, 0x40, 4, &pit_ops, &m.pit, "pit") ||
	       bus_add(&m.bus, BUS_PIO, 0x61, 1, &pit_port61_ops, &m.pit, "port61");
}

static int teardown(void **state)
{
	pit_fini(&m.pit);
	hpet_fini(&m.hpet);
	for (int i = 0; i < CPUS; i++)
		lapic_fini(&m.l[i]);
	loop_free(m.loop);
	bus_fini(&m.bus);
	return 0;
}

/* xorshift64* (Vigna 2016). */
static uint64_t rnd(void)
{
	m.seed ^= m.seed >> 12;
	m.seed ^= m.seed << 25;
	m.seed ^= m.seed >> 27;
	return m.seed * 0x2545f4914f6cdd1dull;
}

/* Small, huge and in between. */
static uint64_t rnd_value(void)
{
	return rnd() >> rnd() % 64;
}

static void access(enum bus_space space, uint64_t addr)
{
	unsigned size = 1u << rnd() % (space == BUS_PIO ? 3 : 4);
	uint64_t value;

	if (rnd() & 1)
		bus_read(&m.bus, space, addr, size, &value);
	else
		bus_write(&m.bus, space, addr, size, rnd_value());
}

static void access_lapic(struct lapic *l)
{
	static const uint32_t msrs[] = { MSR_APIC_BASE, MSR_TSC_DEADLINE };
	uint64_t off = rnd() % 4 ? rnd() % 0x40 * 16 : rnd() % 0xff8, value;
	uint32_t msr = rnd() % 8 ? MSR_X2APIC_FIRST + (uint32_t)rnd() % 0x40 : msrs[rnd() % 2];
	unsigned size = 1u << rnd() % 4;

	switch (rnd() % 8) {
	case 0:
		lapic_read(l, off, size);
		break;
	case 1:
	case 2:
	case 3:
		lapic_write(l, off, size, rnd_value());
		break;
	case 4:
		lapic_read_msr(l, msr, &value);
		break;
	case 5:
		/* Mostly plausible modes, or the APIC would be disabled most of the time. */
		value = msr == MSR_APIC_BASE ? LAPIC_DEFAULT_BASE | rnd() % 4 << 10 : rnd_value();
		lapic_write_msr(l, msr, value);
		break;
	case 6:
		lapic_set_tpr(l, (uint8_t)rnd());
		break;
	case 7:
		lapic_bus_msi(&m.lapics, 0xfee00000 | (rnd() & 0xfffff), (uint32_t)rnd_value());
		break;
	}
}

static void acknowledge(struct lapic *l)
{
	if (!lapic_has_interrupt(l) || lapic_ack(l) >= 0 || !lapic_accepts_extint(l))
		return;
	bus_lock(&m.bus);
	pic_ack(&m.pic);
	bus_unlock(&m.bus);
}

static void set_lines(void)
{
	bus_lock(&m.bus);
	set_isa(NULL, (unsigned)(rnd() % IOAPIC_PINS), rnd() & 1);
	bus_unlock(&m.bus);
}

static void make_noise(void)
{
	static const uint16_t ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1,
		                          0x40, 0x41, 0x42, 0x43, 0x43,  0x61 };
	struct lapic *l = &m.l[rnd() % CPUS];

	switch (rnd() % 8) {
	case 0:
	case 1:
		access(BUS_PIO, ports[rnd() % ARRAY_SIZE(ports)]);
		break;
	case 2:
		access(BUS_MMIO, rnd() % 2 ? rnd() % 0x50 : rnd() % 0x1000);
		break;
	case 3:
		access(BUS_MMIO, 0x1000 + (rnd() % 2 ? rnd() % 0x160 : rnd() % 0x400));
		break;
	case 4:
		set_lines();
		break;
	case 5:
		acknowledge(l);
		break;
	default:
		access_lapic(l);
	}
}

static void reset_all(void)
{
	bus_lock(&m.bus);
	pit_reset(&m.pit);
	hpet_reset(&m.hpet);
	ioapic_reset(&m.io);
	pic_reset(&m.pic);
	for (int i = 0; i < CPUS; i++)
		lapic_reset(&m.l[i]);
	bus_unlock(&m.bus);
}

static void test_noise(void **state)
{
	for (int i = 0; i < ROUNDS; i++) {
		make_noise();
		if (rnd() % 20000 == 0)
			reset_all();
	}
	reset_all();
	for (unsigned n = 0; n < IOAPIC_PINS; n++) {
		bus_lock(&m.bus);
		set_isa(NULL, n, false);
		bus_unlock(&m.bus);
	}
	assert_false(lapic_has_interrupt(&m.l[0]));
	lapic_write(&m.l[0], 0xf0, 4, 0x1ff);
	lapic_write(&m.l[0], 0x300, 4, 0x40000 | 0x45);
	assert_int_equal(lapic_ack(&m.l[0]), 0x45);
}

/* Two CPUs that interrupt each other, and the timer thread that interrupts both: no deadlock, and
 * what is sent arrives. */
struct pinger {
	int cpu, got;
};

static void take_all(struct pinger *p)
{
	int v;

	while ((v = lapic_ack(&m.l[p->cpu])) >= 0) {
		p->got += v == 0x45;
		lapic_write(&m.l[p->cpu], 0xb0, 4, 0);
	}
}

static void *ping(void *opaque)
{
	struct pinger *p = opaque;
	struct lapic *l = &m.l[p->cpu];

	lapic_write(l, 0x3e0, 4, 0x0b);
	lapic_write(l, 0x320, 4, 0x20000 | 0x33);
	lapic_write(l, 0x380, 4, 100000);
	for (int i = 0; i < 20000; i++) {
		lapic_write(l, 0x310, 4, (uint32_t)(p->cpu ^ 1) << 24);
		lapic_write(l, 0x300, 4, 0x4000 | 0x45);
		lapic_write(l, 0x300, 4, 0xc0000 | 0x46);
		take_all(p);
	}
	lapic_write(l, 0x380, 4, 0);
	return NULL;
}

static void test_concurrent(void **state)
{
	struct pinger p[2] = { { .cpu = 0 }, { .cpu = 1 } };
	pthread_t thread[2];

	for (int i = 0; i < 2; i++)
		lapic_write(&m.l[i], 0xf0, 4, 0x1ff);
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, ping, &p[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < 2; i++) {
		take_all(&p[i]);
		assert_in_range(p[i].got, 1, 20000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_noise, setup, teardown),
		cmocka_unit_test_setup_teardown(test_concurrent, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
