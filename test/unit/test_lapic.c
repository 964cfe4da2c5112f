/* Local APICs: priorities, EOI, messages and their destinations, the timer, and mode changes. */
#include "device/lapic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "fake_time.h"
#include "cpu/cpu.h"

#define CPUS   4
#define TSC_HZ 2000000000ull

/* Offsets in the register page. */
enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVTT = 0x320,
	LVT0 = 0x350,
	LVT1 = 0x360,
	LVTERR = 0x370,
	TMICT = 0x380,
	TMCCT = 0x390,
	TDCR = 0x3e0,
};

struct vcpu {
	uint32_t attention;
	int raised;
	uint8_t sipi_vector;
	uint64_t tsc_offset;
};

static struct fixture {
	struct lapic_bus bus;
	struct lapic l[CPUS];
	struct vcpu v[CPUS];
	int eois;
	uint8_t eoi_vector;
} f;

static void vcpu_raise(void *opaque, uint32_t attention, uint8_t sipi_vector)
{
	struct vcpu *v = opaque;

	if (attention & ATTN_SIPI)
		v->sipi_vector = sipi_vector;
	v->attention |= attention;
	v->raised++;
}

static uint64_t vcpu_tsc(void *opaque)
{
	struct vcpu *v = opaque;

	return clock_ns() * (TSC_HZ / 1000000000) + v->tsc_offset;
}

static const struct lapic_ops ops = { .raise = vcpu_raise, .guest_tsc = vcpu_tsc };

static void eoi(void *opaque, uint8_t vector)
{
	f.eois++;
	f.eoi_vector = vector;
}

static uint32_t rd(int cpu, uint64_t off)
{
	return (uint32_t)lapic_read(&f.l[cpu], off, 4);
}

static void wr(int cpu, uint64_t off, uint32_t value)
{
	lapic_write(&f.l[cpu], off, 4, value);
}

static uint32_t attention(int cpu)
{
	uint32_t bits = f.v[cpu].attention;

	f.v[cpu].attention = 0;
	return bits;
}

static int setup(void **state)
{
	memset(&f, 0, sizeof(f));
	lapic_bus_init(&f.bus);
	f.bus.eoi = eoi;
	for (uint32_t i = 0; i < CPUS; i++) {
		lapic_init(&f.l[i], &f.bus, i, NULL, &ops, &f.v[i], TSC_HZ, 46);
		wr((int)i, SVR, 0x1ff);
	}
	return 0;
}

static int teardown(void **state)
{
	for (int i = 0; i < CPUS; i++)
		lapic_fini(&f.l[i]);
	return 0;
}

static void send(uint32_t dest, uint8_t delivery, uint8_t vector, bool logical, bool level)
{
	struct lapic_msg m = { .dest = dest,
		               .delivery = delivery,
		               .vector = vector,
		               .logical = logical,
		               .level = level };

	lapic_bus_deliver(&f.bus, &m);
}

static void test_reset(void **state)
{
	assert_int_equal(rd(2, ID), 2u << 24);
	assert_int_equal(rd(0, VERSION), 0x50014);
	assert_int_equal(rd(0, LVT0), 0x700);
	assert_int_equal(rd(1, LVT0), 0x10000);
	assert_int_equal(rd(0, DFR), 0xffffffff);
	assert_int_equal(lapic_read(&f.l[2], ID + 3, 1), 2);
	wr(0, LDR, 0x12345678);
	assert_int_equal(rd(0, LDR), 0x12000000);
	lapic_reset(&f.l[0]);
	assert_int_equal(rd(0, LDR), 0);
	assert_int_equal(rd(0, SVR), 0xff);
	wr(0, LVTT, 0x31); /* masks stay set while software-disabled */
	assert_int_equal(rd(0, LVTT), 0x10031);
}

static void test_priority(void **state)
{
	send(0, APIC_FIXED, 0x31, false, false);
	assert_int_equal(attention(0), ATTN_INTR);
	send(0, APIC_FIXED, 0x52, false, false);
	assert_int_equal(rd(0, IRR + 0x10), 1u << 17);
	assert_int_equal(rd(0, IRR + 0x20), 1u << 18);
	assert_int_equal(lapic_ack(&f.l[0]), 0x52);
	assert_int_equal(rd(0, PPR), 0x50);
	assert_int_equal(rd(0, ISR + 0x20), 1u << 18);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	attention(0);
	send(0, APIC_FIXED, 0x5f, false, false); /* the same class waits */
	assert_int_equal(attention(0), 0);
	assert_false(lapic_has_interrupt(&f.l[0]));
	send(0, APIC_FIXED, 0x60, false, false); /* a higher one nests */
	assert_int_equal(attention(0), ATTN_INTR);
	assert_int_equal(lapic_ack(&f.l[0]), 0x60);
	wr(0, EOI, 0);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	attention(0);
	wr(0, EOI, 0);
	assert_int_equal(attention(0), ATTN_INTR); /* the EOI makes room */
	assert_int_equal(lapic_ack(&f.l[0]), 0x5f);
	wr(0, EOI, 0);
	assert_int_equal(lapic_ack(&f.l[0]), 0x31);
	wr(0, EOI, 0);
	wr(0, EOI, 0); /* none in service */
	assert_int_equal(f.eois, 0);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
}

static void test_tpr(void **state)
{
	lapic_set_tpr(&f.l[0], 5);
	assert_int_equal(rd(0, TPR), 0x50);
	assert_int_equal(rd(0, PPR), 0x50);
	send(0, APIC_FIXED, 0x5f, false, false);
	assert_int_equal(attention(0), 0);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	lapic_set_tpr(&f.l[0], 4);
	assert_int_equal(attention(0), ATTN_INTR);
	assert_int_equal(lapic_ack(&f.l[0]), 0x5f);
	wr(0, TPR, 0x72);
	assert_int_equal(lapic_get_tpr(&f.l[0]), 7);
	assert_int_equal(rd(0, PPR), 0x72);
	wr(0, TPR, 0x1f);
	assert_int_equal(rd(0, PPR), 0x50);
}

static void test_eoi_broadcast(void **state)
{
	send(0, APIC_FIXED, 0x41, false, true);
	assert_int_equal(rd(0, TMR + 0x20), 2);
	lapic_ack(&f.l[0]);
	wr(0, EOI, 0);
	assert_int_equal(f.eois, 1);
	assert_int_equal(f.eoi_vector, 0x41);
	send(0, APIC_FIXED, 0x41, false, false); /* the same vector by edge: TMR follows */
	assert_int_equal(rd(0, TMR + 0x20), 0);
	lapic_ack(&f.l[0]);
	wr(0, EOI, 0);
	assert_int_equal(f.eois, 1);
}

static void test_icr(void **state)
{
	wr(0, ICR_HIGH, 2u << 24);
	wr(0, ICR, 0x4000 | 0x45);
	assert_int_equal(rd(0, ICR), 0x4045);
	assert_int_equal(attention(2), ATTN_INTR);
	assert_int_equal(lapic_ack(&f.l[2]), 0x45);
	wr(0, ICR, 0x40000 | 0x46); /* self */
	assert_int_equal(lapic_ack(&f.l[0]), 0x46);
	wr(0, ICR, 0x80000 | 0x57); /* all */
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(lapic_ack(&f.l[i]), 0x57);
	attention(1), attention(0);
	wr(1, ICR, 0xc0000 | 0x400); /* NMI to all others */
	assert_int_equal(attention(0), ATTN_NMI);
	assert_int_equal(attention(1), 0);
	assert_int_equal(attention(3) & ATTN_NMI, ATTN_NMI);
	wr(0, ICR_HIGH, 3u << 24);
	wr(0, ICR, 0xc500); /* INIT level assert */
	assert_int_equal(attention(3), ATTN_INIT);
	wr(0, ICR, 0x8500); /* de-assert: nothing */
	assert_int_equal(attention(3), 0);
	wr(0, ICR, 0x4600 | 0x9a);
	assert_int_equal(attention(3), ATTN_SIPI);
	assert_int_equal(f.v[3].sipi_vector, 0x9a);
	wr(0, ICR_HIGH, 200u << 24); /* nobody there */
	wr(0, ICR, 0x4000 | 0x45);
	wr(0, ICR, 0x4700); /* reserved */
}

static void test_errors(void **state)
{
	wr(0, LVTERR, 0xe1);
	wr(0, ICR, 0x40000 | 0x05);
	assert_int_equal(lapic_ack(&f.l[0]), 0xe1);
	assert_int_equal(rd(0, ESR), 0);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0x20);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0);
	wr(0, EOI, 0);
	send(0, APIC_FIXED, 3, false, false);
	assert_int_equal(rd(0, 0x2f0), 0); /* no such register */
	wr(0, 0x2f0, 1);
	assert_int_equal(lapic_read(&f.l[0], 0xff0, 4), 0);
	wr(0, 0xff0, 1);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0xc0);
	wr(0, LVTERR, 0x05); /* an error entry that is itself in error */
	wr(0, ICR, 0x40000 | 0x05);
	wr(0, ESR, 0);
	assert_int_equal(rd(0, ESR), 0x60);
}

static int receivers(uint32_t dest)
{
	int set = 0;

	send(dest, APIC_FIXED, 0x71, true, false);
	for (int i = 0; i < CPUS; i++) {
		if (lapic_ack(&f.l[i]) == 0x71) {
			set |= 1 << i;
			wr(i, EOI, 0);
		}
	}
	return set;
}

static void test_logical(void **state)
{
	for (int i = 0; i < CPUS; i++)
		wr(i, LDR, 1u << (24 + i));
	assert_int_equal(receivers(0x05), 0x5);
	assert_int_equal(receivers(lapic_dest8(0xff)), 0xf);
	assert_int_equal(receivers(0xf0), 0);
	for (int i = 0; i < CPUS; i++) {
		wr(i, DFR, 0x0fffffff);
		wr(i, LDR, (uint32_t)(i / 2) << 28 | 1u << (24 + i % 2));
	}
	assert_int_equal(receivers(0x03), 0x3);
	assert_int_equal(receivers(0x12), 0x8);
	assert_int_equal(receivers(0x22), 0);
}

static void test_lowest(void **state)
{
	for (int i = 0; i < CPUS; i++) {
		wr(i, LDR, 1u << (24 + i));
		lapic_set_tpr(&f.l[i], (uint8_t)(4 - i));
	}
	send(0x07, APIC_LOWEST, 0x71, true, false);
	assert_int_equal(lapic_ack(&f.l[2]), 0x71);
	assert_int_equal(lapic_ack(&f.l[1]), -1);
	assert_true(lapic_bus_msi(&f.bus, 0xfee0300cull, 0x82)); /* CPU 0 or 1, hinted */
	assert_int_equal(lapic_ack(&f.l[1]), 0x82);
	assert_true(lapic_bus_msi(&f.bus, 0xfee03000ull, 0x4083));
	assert_int_equal(lapic_ack(&f.l[3]), 0x83);
	assert_false(lapic_bus_msi(&f.bus, 0xfee77000ull, 0x83));
}

static void test_disabled(void **state)
{
	wr(0, LVTT, 0x20);
	wr(0, SVR, 0xff);
	assert_int_equal(rd(0, LVTT), 0x10020);
	send(0, APIC_FIXED, 0x41, false, false);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	send(0, APIC_NMI, 0, false, false);
	assert_int_equal(attention(0), ATTN_NMI);
}

static void test_extint(void **state)
{
	assert_false(lapic_accepts_extint(&f.l[0]));
	lapic_bus_set_lint(&f.bus, 0, true);
	assert_int_equal(attention(0), ATTN_INTR);
	assert_int_equal(attention(1), 0); /* LINT0 of others is masked */
	assert_true(lapic_has_interrupt(&f.l[0]));
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	assert_true(lapic_accepts_extint(&f.l[0]));
	send(0, APIC_FIXED, 0x41, false, false);
	attention(0);
	assert_int_equal(lapic_ack(&f.l[0]), 0x41);
	assert_int_equal(attention(0), ATTN_INTR); /* the PIC still waits */
	wr(0, LVT0, 0x10700);
	assert_false(lapic_accepts_extint(&f.l[0]));
	wr(0, LVT0, 0x700);
	assert_int_equal(attention(0), ATTN_INTR);
	lapic_bus_set_lint(&f.bus, 0, false);
	assert_false(lapic_accepts_extint(&f.l[0]));
	send(1, APIC_EXTINT, 0, false, false);
	assert_int_equal(attention(1), ATTN_INTR);
	assert_true(lapic_accepts_extint(&f.l[1]));
	assert_false(lapic_accepts_extint(&f.l[1]));
}

static void test_lint(void **state)
{
	wr(0, LVT1, 0x400);
	lapic_set_lint(&f.l[0], 1, true);
	assert_int_equal(attention(0), ATTN_NMI);
	lapic_set_lint(&f.l[0], 1, true);
	assert_int_equal(attention(0), 0);
	wr(1, LVT0, 0x8000 | 0x61); /* fixed, level */
	lapic_set_lint(&f.l[1], 0, true);
	assert_int_equal(lapic_ack(&f.l[1]), 0x61);
	assert_int_equal(rd(1, LVT0), 0xc061);
	wr(1, EOI, 0);
	assert_int_equal(lapic_ack(&f.l[1]), 0x61); /* still asserted */
	lapic_set_lint(&f.l[1], 0, false);
	wr(1, EOI, 0);
	assert_int_equal(rd(1, LVT0), 0x8061);
	assert_int_equal(lapic_ack(&f.l[1]), -1);
}

static bool wait_raised(int cpu, int n)
{
	for (int i = 0; i < 5000; i++) {
		if (f.v[cpu].raised >= n)
			return true;
		fake_advance(1000000);
	}
	return false;
}

static void test_oneshot(void **state)
{
	uint64_t start = clock_ns();
	uint32_t count;

	wr(0, TDCR, 0x0b); /* by 1 */
	wr(0, LVTT, 0x33);
	wr(0, TMICT, 20000000);
	count = rd(0, TMCCT);
	assert_in_range(count, 1, 20000000);
	wr(0, TDCR, 0x03); /* by 16: the count goes on more slowly */
	assert_in_range(rd(0, TMCCT), count - 3000000, count);
	wr(0, TDCR, 0x0b);
	assert_true(wait_raised(0, 1));
	assert_true(clock_ns() - start >= 20000000);
	assert_int_equal(lapic_ack(&f.l[0]), 0x33);
	assert_int_equal(rd(0, TMCCT), 0);
	assert_int_equal(rd(0, TMICT), 20000000);
	wr(0, EOI, 0);
	wr(0, LVTT, 0x10033); /* masked: it expires silently */
	wr(0, TMICT, 1000);
	fake_advance(3000000);
	assert_int_equal(rd(0, TMCCT), 0);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	wr(0, LVTT, 0x33);
	wr(0, TMICT, 5000000);
	wr(0, TMICT, 0);
	fake_advance(8000000);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
}

static void test_periodic(void **state)
{
	uint64_t start = clock_ns();

	wr(0, TDCR, 0x0b);
	wr(0, LVTT, 0x20033);
	wr(0, TMICT, 2000000);
	for (int i = 0; i < 5; i++) {
		while (!lapic_has_interrupt(&f.l[0]))
			fake_advance(100000);
		assert_int_equal(lapic_ack(&f.l[0]), 0x33);
		wr(0, EOI, 0);
	}
	assert_true(clock_ns() - start >= 5 * 2000000);
	assert_in_range(rd(0, TMCCT), 1, 2000000);
	wr(0, LVTT, 0x30033);
	fake_advance(5000000);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	assert_in_range(rd(0, TMCCT), 1, 2000000); /* masked, it still counts */

	/* An absurd period does not eat the host. */
	wr(0, LVTT, 0x20033);
	f.v[0].raised = 0;
	wr(0, TMICT, 1);
	fake_advance(20000000);
	wr(0, TMICT, 0);
	assert_in_range(atomic_load(&f.v[0].raised), 1, 1000);
}

static void test_tsc_deadline(void **state)
{
	uint64_t deadline = vcpu_tsc(&f.v[0]) + TSC_HZ / 100, value;

	wr(0, LVTT, 0x34); /* one-shot: the MSR is deaf */
	assert_int_equal(lapic_write_msr(&f.l[0], MSR_TSC_DEADLINE, deadline), 0);
	lapic_read_msr(&f.l[0], MSR_TSC_DEADLINE, &value);
	assert_int_equal(value, 0);
	wr(0, LVTT, 0x40034);
	lapic_write_msr(&f.l[0], MSR_TSC_DEADLINE, deadline);
	lapic_read_msr(&f.l[0], MSR_TSC_DEADLINE, &value);
	assert_int_equal(value, deadline);
	wr(0, TMICT, 1000); /* ignored */
	assert_int_equal(rd(0, TMCCT), 0);
	assert_true(wait_raised(0, 1));
	assert_true(vcpu_tsc(&f.v[0]) >= deadline);
	assert_int_equal(lapic_ack(&f.l[0]), 0x34);
	lapic_read_msr(&f.l[0], MSR_TSC_DEADLINE, &value);
	assert_int_equal(value, 0);
	wr(0, EOI, 0);

	lapic_write_msr(&f.l[0], MSR_TSC_DEADLINE, 1); /* the past: at once */
	lapic_read_msr(&f.l[0], MSR_TSC_DEADLINE, &value);
	assert_int_equal(value, 0);
	assert_int_equal(lapic_ack(&f.l[0]), 0x34);
	wr(0, EOI, 0);

	/* A deadline hours away comes near when the guest moves its TSC. */
	lapic_write_msr(&f.l[0], MSR_TSC_DEADLINE, vcpu_tsc(&f.v[0]) + TSC_HZ * 10000);
	f.v[0].tsc_offset += TSC_HZ * 10000;
	lapic_tsc_changed(&f.l[0]);
	assert_true(wait_raised(0, 3));
	wr(0, EOI, 0);

	lapic_write_msr(&f.l[0], MSR_TSC_DEADLINE, UINT64_MAX);
	wr(0, LVTT, 0x34); /* leaving the mode disarms */
	wr(0, LVTT, 0x40034);
	lapic_read_msr(&f.l[0], MSR_TSC_DEADLINE, &value);
	assert_int_equal(value, 0);
}

static int write_base(int cpu, uint64_t flags)
{
	return lapic_write_msr(&f.l[cpu], MSR_APIC_BASE, LAPIC_DEFAULT_BASE | flags);
}

static void test_base(void **state)
{
	const uint64_t x2 = APIC_BASE_EN | APIC_BASE_EXTD;
	uint64_t value;

	lapic_read_msr(&f.l[0], MSR_APIC_BASE, &value);
	assert_int_equal(value, LAPIC_DEFAULT_BASE | APIC_BASE_EN | APIC_BASE_BSP);
	lapic_read_msr(&f.l[1], MSR_APIC_BASE, &value);
	assert_int_equal(value, LAPIC_DEFAULT_BASE | APIC_BASE_EN);
	assert_true(lapic_decodes(&f.l[1], LAPIC_DEFAULT_BASE + 0xb0));
	assert_false(lapic_decodes(&f.l[1], LAPIC_DEFAULT_BASE + 0x1000));

	assert_int_not_equal(write_base(1, APIC_BASE_EXTD), 0);
	assert_int_not_equal(write_base(1, APIC_BASE_EN | BIT(9)), 0);
	assert_int_not_equal(write_base(1, APIC_BASE_EN | BIT(50)), 0);
	assert_int_equal(write_base(1, x2), 0);
	assert_false(lapic_decodes(&f.l[1], LAPIC_DEFAULT_BASE));
	assert_int_equal(write_base(1, x2), 0);
	assert_int_not_equal(write_base(1, APIC_BASE_EN), 0);
	assert_int_equal(write_base(1, 0), 0);
	assert_false(lapic_decodes(&f.l[1], LAPIC_DEFAULT_BASE));
	assert_int_not_equal(write_base(1, x2), 0);
	assert_int_equal(write_base(1, APIC_BASE_EN), 0);
	assert_int_equal(rd(1, SVR), 0xff); /* disabling has reset it */
	assert_int_equal(lapic_write_msr(&f.l[1], MSR_APIC_BASE, 0xfe000000ull | APIC_BASE_EN), 0);
	assert_true(lapic_decodes(&f.l[1], 0xfe000000ull));

	/* Without an APIC, LINT0 is the interrupt pin. */
	assert_int_equal(write_base(0, APIC_BASE_BSP), 0);
	lapic_bus_set_lint(&f.bus, 0, true);
	assert_true(lapic_accepts_extint(&f.l[0]));
	send(0, APIC_FIXED, 0x41, false, false);
	assert_int_equal(lapic_ack(&f.l[0]), -1);
}

static void test_x2apic(void **state)
{
	uint64_t value;

	assert_int_not_equal(lapic_read_msr(&f.l[0], 0x802, &value), 0);
	for (int i = 0; i < CPUS; i++)
		assert_int_equal(write_base(i, APIC_BASE_EN | APIC_BASE_EXTD), 0);
	assert_int_equal(lapic_read_msr(&f.l[3], 0x802, &value), 0);
	assert_int_equal(value, 3);
	assert_int_equal(lapic_read_msr(&f.l[3], 0x80d, &value), 0);
	assert_int_equal(value, 8);
	assert_int_equal(lapic_read_msr(&f.l[3], 0x80f, &value), 0);
	assert_int_equal(value, 0x1ff); /* kept from the other mode */

	/* Not there, read-only, write-only, reserved bits. */
	assert_int_not_equal(lapic_read_msr(&f.l[0], 0x80e, &value), 0);
	assert_int_not_equal(lapic_read_msr(&f.l[0], 0x831, &value), 0);
	assert_int_not_equal(lapic_read_msr(&f.l[0], 0x82f, &value), 0);
	assert_int_not_equal(lapic_read_msr(&f.l[0], 0x80b, &value), 0);
	assert_int_not_equal(lapic_write_msr(&f.l[0], 0x802, 1), 0);
	assert_int_not_equal(lapic_write_msr(&f.l[0], 0x80d, 1), 0);
	assert_int_not_equal(lapic_write_msr(&f.l[0], 0x80b, 1), 0);
	assert_int_not_equal(lapic_write_msr(&f.l[0], 0x828, 1), 0);
	assert_int_not_equal(lapic_write_msr(&f.l[0], 0x808, 0x100), 0);
	assert_int_not_equal(lapic_write_msr(&f.l[0], 0x808, BIT(32)), 0);
	assert_int_not_equal(lapic_write_msr(&f.l[0], 0x832, BIT(20)), 0);
	assert_int_equal(lapic_write_msr(&f.l[0], 0x828, 0), 0);

	assert_int_equal(lapic_write_msr(&f.l[0], 0x830, 2ull << 32 | 0x45), 0);
	assert_int_equal(lapic_ack(&f.l[2]), 0x45);
	assert_int_equal(lapic_read_msr(&f.l[0], 0x830, &value), 0);
	assert_int_equal(value, 2ull << 32 | 0x45);
	assert_int_equal(lapic_write_msr(&f.l[2], 0x80b, 0), 0);
	assert_int_equal(lapic_write_msr(&f.l[0], 0x830, 0xaull << 32 | 0x846), 0); /* logical */
	assert_int_equal(lapic_ack(&f.l[0]), -1);
	assert_int_equal(lapic_ack(&f.l[1]), 0x46);
	assert_int_equal(lapic_ack(&f.l[3]), 0x46);
	assert_int_equal(lapic_write_msr(&f.l[0], 0x83f, 0x47), 0);
	assert_int_equal(lapic_ack(&f.l[0]), 0x47);
	assert_int_equal(lapic_write_msr(&f.l[0], 0x830, 0xffffffffull << 32 | 0x400), 0);
	assert_int_equal(attention(0) & attention(1) & attention(2) & ATTN_NMI, ATTN_NMI);

	/* INIT leaves the mode alone. */
	lapic_init_signal(&f.l[3]);
	assert_int_equal(lapic_read_msr(&f.l[3], 0x80f, &value), 0);
	assert_int_equal(value, 0xff);
}

/* All of an APIC by its page, to another: interrupts, priorities, and the timer from where it is.
 */
static void test_page(void **state)
{
	uint8_t page[LAPIC_PAGE], again[LAPIC_PAGE];

	lapic_write(&f.l[1], SVR, 4, 0x1ff);
	lapic_write(&f.l[1], LDR, 4, 0x02000000);
	lapic_write(&f.l[1], TPR, 4, 0x20);
	lapic_write(&f.l[1], LVTT, 4, 0x70);
	lapic_write(&f.l[1], TDCR, 4, 0xb);
	lapic_write(&f.l[1], TMICT, 4, 5000000);
	lapic_bus_deliver(&f.bus, &(struct lapic_msg){ .dest = 1, .vector = 0x61 });
	assert_int_equal(lapic_ack(&f.l[1]), 0x61);
	lapic_bus_deliver(&f.bus, &(struct lapic_msg){ .dest = 1, .vector = 0x45 });
	lapic_get_page(&f.l[1], page);
	lapic_take_loaded(&f.l[2]);
	lapic_set_page(&f.l[2], page, f.l[1].s.base_msr, 0);
	assert_false(lapic_take_loaded(&f.l[2]));
	lapic_get_page(&f.l[2], again);
	again[ID + 3] = page[ID + 3];
	memcpy(again + TMCCT, page + TMCCT, 4); /* which goes on */
	assert_memory_equal(again, page, sizeof(page));
	assert_true(f.l[2].timer.deadline_ns != 0);
	lapic_write(&f.l[2], EOI, 4, 0);
	assert_int_equal(lapic_ack(&f.l[2]), 0x45);
	lapic_load(&f.l[3], &f.l[1].s);
	assert_true(lapic_take_loaded(&f.l[3]));
	assert_int_equal(lapic_get_tpr(&f.l[3]), 2);
}

/* APICs of the host's kernel get what ours would have. */
static uint64_t sent_addr;
static uint32_t sent_data;

static bool note_sent(void *opaque, uint64_t addr, uint32_t data)
{
	sent_addr = addr;
	sent_data = data;
	return true;
}

static void test_external(void **state)
{
	static const struct irqchip_ops chip_ops = { .send = note_sent };
	static const struct irqchip chip = { .kind = IRQCHIP_KERNEL, .ops = &chip_ops };

	f.bus.external = &chip;
	assert_true(lapic_bus_msi(&f.bus, 0xfee03004, 0x8161));
	assert_int_equal(sent_addr, 0xfee03004);
	assert_int_equal(sent_data, 0xc161);
	assert_int_equal(f.v[3].attention, 0);
	f.bus.external = NULL;
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reset),         TEST(test_priority),     TEST(test_tpr),
		TEST(test_eoi_broadcast), TEST(test_icr),          TEST(test_errors),
		TEST(test_logical),       TEST(test_lowest),       TEST(test_disabled),
		TEST(test_extint),        TEST(test_lint),         TEST(test_oneshot),
		TEST(test_periodic),      TEST(test_tsc_deadline), TEST(test_base),
		TEST(test_x2apic),        TEST(test_page),         TEST(test_external),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
