#include "monitor/pvclock.h"

#include "mem/mem.h"

#define NS_PER_SEC     1000000000ull
#define SYSTEM_ENABLED BIT(0)

/*
 * The scale: mul is 2^32 * 10^9 / rate for a rate brought into (10^9, 2 * 10^9] by shifting, so
 * that it fills its 32 bits and loses the least.
 */
static void set_scale(struct pvclock *p, uint64_t tsc_hz)
{
	uint64_t rate = tsc_hz;

	p->shift = 0;
	while (rate > 2 * NS_PER_SEC) {
		rate >>= 1;
		p->shift--;
	}
	while (rate <= NS_PER_SEC) {
		rate <<= 1;
		p->shift++;
	}
	p->mul = (uint32_t)((NS_PER_SEC << 32) / rate);
}

void pvclock_init(struct pvclock *p, uint64_t tsc_hz)
{
	set_scale(p, tsc_hz);
	p->tsc_start = clock_tsc();
	p->wall_ns = clock_utc_ns();
}

void pvclock_reset(struct pvclock_vcpu *v)
{
	*v = (struct pvclock_vcpu){ 0 };
}

/*
 * The version protocol: an odd version, the content, the next even version. Only this vCPU's thread
 * writes the page, and other vCPUs may read it meanwhile.
 */
static void write_versioned(const struct mem *m, gpa_t gpa, uint32_t *version, const void *content,
                            uint64_t len)
{
	uint32_t v = (*version + 1) | 1;

	if (!mem_host(m, gpa, sizeof(v) + len, true))
		return;
	mem_write(m, gpa, &v, sizeof(v));
	atomic_thread_fence(memory_order_seq_cst);
	mem_write(m, gpa + sizeof(v), content, len);
	atomic_thread_fence(memory_order_seq_cst);
	v++;
	mem_write(m, gpa, &v, sizeof(v));
	*version = v;
}

static void write_system(const struct pvclock *p, struct pvclock_vcpu *v, const struct cpu *c)
{
	struct pvclock_page page = {
		/* System time 0, as this vCPU's TSC counts. */
		.tsc_timestamp = p->tsc_start + (uint64_t)c->msr.tsc_offset,
		.tsc_to_system_mul = p->mul,
		.tsc_shift = p->shift,
		.flags = PVCLOCK_TSC_STABLE,
	};

	write_versioned(c->mem, v->system_msr & ~SYSTEM_ENABLED, &v->version, &page.pad0,
	                sizeof(page) - offsetof(struct pvclock_page, pad0));
}

static void write_wall(const struct pvclock *p, const struct pvclock_vcpu *v, const struct cpu *c)
{
	struct pvclock_wall wall = {
		.sec = (uint32_t)(p->wall_ns / NS_PER_SEC),
		.nsec = (uint32_t)(p->wall_ns % NS_PER_SEC),
	};
	uint32_t version = 0;

	write_versioned(c->mem, v->wall_msr, &version, &wall.sec, sizeof(wall) - sizeof(version));
}

bool pvclock_read_msr(const struct pvclock_vcpu *v, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		*value = v->wall_msr;
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		*value = v->system_msr;
		return true;
	default:
		return false;
	}
}

bool pvclock_write_msr(const struct pvclock *p, struct pvclock_vcpu *v, const struct cpu *c,
                       uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		v->wall_msr = value;
		write_wall(p, v, c);
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		v->system_msr = value;
		if (value & SYSTEM_ENABLED)
			write_system(p, v, c);
		return true;
	default:
		return false;
	}
}

void pvclock_tsc_changed(const struct pvclock *p, struct pvclock_vcpu *v, const struct cpu *c)
{
	if (v->system_msr & SYSTEM_ENABLED)
		write_system(p, v, c);
}
