#include "smp.h"

#define TRAMPOLINE 0x8000ul
#define START_MS   5000
#define WORK_MS    20000

extern char trampoline[], trampoline_end[];
_Noreturn void smp_main(unsigned cpu);

static struct {
	volatile bool up;
	smp_fn volatile work; /* NULL: idle */
} state[MAX_CPUS];
static unsigned count;

unsigned smp_cpus(void)
{
	out16(0x510, 5);
	return in8(0x511);
}

/* Where APs live. EDX after CPUID was the initial APIC id, which is the index. */
void smp_main(unsigned cpu)
{
	cpu_setup(cpu);
	apic_enable();
	state[cpu].work = NULL;
	state[cpu].up = true;
	irq_enable();
	for (;;) {
		while (!state[cpu].work)
			pause();
		state[cpu].work(cpu);
		__atomic_store_n(&state[cpu].work, NULL, __ATOMIC_SEQ_CST);
	}
}

void smp_boot(unsigned cpu)
{
	memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	state[cpu].up = false;
	apic_send(cpu, ICR_INIT | ICR_ASSERT);
	delay_us(10000);
	apic_send(cpu, ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12);
	delay_us(200);
	if (!state[cpu].up)
		apic_send(cpu, ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12);
}

bool smp_is_up(unsigned cpu)
{
	return state[cpu].up;
}

unsigned smp_start(void)
{
	unsigned wanted = smp_cpus();

	pic_disable();
	apic_enable();
	apic_write(APIC_LVT_LINT0, APIC_MASKED);
	state[0].up = true;
	for (count = 1; count < wanted; count++) {
		smp_boot(count);
		if (!WAIT_FOR(state[count].up, START_MS))
			break;
	}
	return count;
}

void smp_begin(unsigned cpu, smp_fn fn)
{
	__atomic_store_n(&state[cpu].work, fn, __ATOMIC_SEQ_CST);
}

bool smp_wait(unsigned cpu)
{
	return WAIT_FOR(!state[cpu].work, WORK_MS);
}

void smp_run(smp_fn fn)
{
	for (unsigned cpu = 1; cpu < count; cpu++)
		smp_begin(cpu, fn);
	fn(0);
	for (unsigned cpu = 1; cpu < count; cpu++) {
		if (!smp_wait(cpu))
			guest_die("all CPUs get done");
	}
}

void barrier_wait(struct barrier *b, unsigned n)
{
	unsigned turn = b->turn;

	if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_SEQ_CST) == n) {
		b->arrived = 0;
		__atomic_store_n(&b->turn, turn + 1, __ATOMIC_SEQ_CST);
		return;
	}
	while (b->turn == turn)
		pause();
}
