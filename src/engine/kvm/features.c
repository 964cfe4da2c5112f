/*
 * CPUID between KVM and our models: which leaves KVM and this CPU can do, and a model's leaves as
 * KVM takes them. KVM itself follows what depends on the vCPU's state (OSXSAVE, OSPKE, the size of
 * the XSAVE area in force).
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_ARCH_CAPABILITIES 0x10a

static struct kvm_cpuid2 *cpuid_alloc(unsigned nr)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + nr * sizeof(c->entries[0]));

	if (c)
		c->nent = nr;
	return c;
}

static uint64_t read_arch_capabilities(int dev)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry.index = MSR_ARCH_CAPABILITIES };

	return ioctl(dev, KVM_GET_MSRS, &m) == 1 ? m.entry.data : 0;
}

int kvm_read_features(int dev, struct cpuid_offer *out, bool steal_time)
{
	struct kvm_cpuid2 *c = cpuid_alloc(CPUID_OFFER_LEAVES);
	int rc = 0;

	if (!c)
		return -ENOMEM;
	*out = (struct cpuid_offer){ .engine = "kvm" };
	if (ioctl(dev, KVM_GET_SUPPORTED_CPUID, c) < 0) {
		rc = -errno;
		goto out;
	}
	for (unsigned n = 0; n < c->nent; n++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[n];

		out->leaf[out->nr++] = (struct cpuid_leaf){
			.leaf = e->function,
			.sub = e->index,
			.r = { e->eax, e->ebx, e->ecx, e->edx },
		};
	}
	out->arch_capabilities = read_arch_capabilities(dev);
	out->steal_time = steal_time;
out:
	free(c);
	return rc;
}

int kvm_set_cpuid(struct kvm_vcpu *k)
{
	const struct cpuid_model *m = k->cpu->cpuid;
	struct kvm_cpuid2 *c = cpuid_alloc(CPUID_MAX_LEAVES);
	int rc = 0;

	if (!c)
		return -ENOMEM;
	c->nent = cpuid_count(m);
	for (unsigned n = 0; n < c->nent; n++) {
		struct kvm_cpuid_entry2 *e = &c->entries[n];
		struct cpuid_leaf l = cpuid_leaf_of(k->cpu, n);

		e->function = l.leaf;
		e->index = l.sub;
		e->flags = cpuid_has_subleaves(l.leaf) ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
		e->eax = l.r[0];
		e->ebx = l.r[1];
		e->ecx = l.r[2];
		e->edx = l.r[3];
	}
	if (ioctl(k->fd, KVM_SET_CPUID2, c) < 0)
		rc = -errno;
	free(c);
	return rc;
}
