/*
 * KVM's paravirtual clock: the guest reads time from a page of its own, by its TSC and a scale
 * that the monitor wrote there once, with no exit and nothing to calibrate. The interface is
 * documented in Linux's Documentation/virt/kvm/x86/msr.rst; Xen's is the same page.
 */
#pragma once

#include "cpu/cpu.h"

#define MSR_KVM_WALL_CLOCK      0x4b564d00u
#define MSR_KVM_SYSTEM_TIME     0x4b564d01u
#define MSR_KVM_WALL_CLOCK_OLD  0x11u
#define MSR_KVM_SYSTEM_TIME_OLD 0x12u

/* What the guest reads, one a vCPU: ns = system_time + ((tsc - tsc_timestamp) << shift) * mul /
 * 2^32. */
struct pvclock_page {
	uint32_t version; /* odd while an update is in progress */
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time; /* ns since the machine started */
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};
_Static_assert(sizeof(struct pvclock_page) == 32, "layout fixed by the ABI");

#define PVCLOCK_TSC_STABLE BIT(0) /* all vCPUs' pages give the same time */

/* Time of day when system time was 0. */
struct pvclock_wall {
	uint32_t version;
	uint32_t sec;
	uint32_t nsec;
};

/* The clock of a machine: one line, ns over host TSC, that all of its vCPUs share. Constant once
 * made. */
struct pvclock {
	uint64_t tsc_start; /* host TSC at system time 0 */
	uint64_t wall_ns;   /* CLOCK_REALTIME at system time 0 */
	uint32_t mul;
	int8_t shift;
};

/* One vCPU's part: the MSRs as written. */
struct pvclock_vcpu {
	uint64_t wall_msr;
	uint64_t system_msr; /* gpa | enabled */
	uint32_t version;    /* last written to the page */
};

/* System time starts now. */
void pvclock_init(struct pvclock *p, uint64_t tsc_hz);
void pvclock_reset(struct pvclock_vcpu *v);

/* False when index is none of this clock's MSRs. A page that is not RAM is never written. */
bool pvclock_read_msr(const struct pvclock_vcpu *v, uint32_t index, uint64_t *value);
bool pvclock_write_msr(const struct pvclock *p, struct pvclock_vcpu *v, const struct cpu *c,
                       uint32_t index, uint64_t value);

/* The guest has moved its TSC: its page is written anew. */
void pvclock_tsc_changed(const struct pvclock *p, struct pvclock_vcpu *v, const struct cpu *c);
