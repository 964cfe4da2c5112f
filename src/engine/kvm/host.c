/*
 * /dev/kvm: opening it, with words for the user when that fails, and asking what it offers.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DEVICE "/dev/kvm"

/* Which of the reasons it is, and what to do about it. */
static void explain(int error, char *err, size_t errlen)
{
	switch (error) {
	case ENOENT:
	case ENXIO:
	case ENODEV:
		snprintf(err, errlen,
		         "there is no " DEVICE ": load its module (modprobe kvm_intel, or "
		         "kvm_amd); if that fails, switch virtualization on in the firmware, or "
		         "nested virtualization where this host is a guest itself");
		break;
	case EACCES:
	case EPERM:
		snprintf(err, errlen,
		         "no permission to open " DEVICE
		         ": join the group that owns it (usermod -aG kvm USER) and log in again");
		break;
	default:
		snprintf(err, errlen, DEVICE ": %s", strerror(error));
	}
}

int kvm_open_host(char *err, size_t errlen)
{
	int dev = open(DEVICE, O_RDWR | O_CLOEXEC), version, rc;

	if (dev < 0) {
		rc = -errno;
		explain(errno, err, errlen);
		return rc;
	}
	version = ioctl(dev, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		snprintf(err, errlen, DEVICE " has API version %d, and we speak %d", version,
		         KVM_API_VERSION);
		close(dev);
		return -ENOTSUP;
	}
	return dev;
}

bool kvm_has(int fd, long cap)
{
	return ioctl(fd, KVM_CHECK_EXTENSION, cap) > 0;
}

int kvm_enable(int fd, uint32_t cap, uint64_t arg0, uint64_t arg1)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg0, arg1 } };

	return ioctl(fd, KVM_ENABLE_CAP, &c) < 0 ? -errno : 0;
}

static const struct {
	long cap;
	const char *what;
} required[] = {
	{ KVM_CAP_USER_MEMORY, "memory of user space" },
	{ KVM_CAP_EXT_CPUID, "a CPUID of our own" },
	{ KVM_CAP_XSAVE, "the state of XSAVE" },
	{ KVM_CAP_VCPU_EVENTS, "pending events" },
	{ KVM_CAP_DEBUGREGS, "debug registers" },
	{ KVM_CAP_IMMEDIATE_EXIT, "kicks (Linux 4.13)" },
	{ KVM_CAP_GET_MSR_FEATURES, "MSRs that tell features (Linux 4.17)" },
	{ KVM_CAP_X86_USER_SPACE_MSR, "MSRs of user space (Linux 5.10)" },
	{ KVM_CAP_X86_MSR_FILTER, "a filter of MSRs (Linux 5.10)" },
};

int kvm_read_offers(int dev, struct kvm_offers *o, char *err, size_t errlen)
{
	for (size_t n = 0; n < ARRAY_SIZE(required); n++) {
		if (kvm_has(dev, required[n].cap))
			continue;
		snprintf(err, errlen, DEVICE " lacks %s", required[n].what);
		return -ENOTSUP;
	}
	*o = (struct kvm_offers){
		.exit_on_emulation_failure = kvm_has(dev, KVM_CAP_EXIT_ON_EMULATION_FAILURE),
		.readonly_mem = kvm_has(dev, KVM_CAP_READONLY_MEM),
		.manual_dirty = kvm_has(dev, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
		.dirty_ring = kvm_has(dev, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) ||
		              kvm_has(dev, KVM_CAP_DIRTY_LOG_RING),
		.xsave2 = kvm_has(dev, KVM_CAP_XSAVE2),
		.xcrs = kvm_has(dev, KVM_CAP_XCRS),
		.sregs2 = kvm_has(dev, KVM_CAP_SREGS2),
		.tsc_offset = kvm_has(dev, KVM_CAP_VCPU_ATTRIBUTES),
		.steal_time = kvm_has(dev, KVM_CAP_STEAL_TIME),
		.irqchip = kvm_has(dev, KVM_CAP_IRQCHIP) && kvm_has(dev, KVM_CAP_IRQ_ROUTING),
		.split_irqchip = kvm_has(dev, KVM_CAP_SPLIT_IRQCHIP),
		.irqfd = kvm_has(dev, KVM_CAP_IRQFD),
		.ioeventfd = kvm_has(dev, KVM_CAP_IOEVENTFD) &&
		             kvm_has(dev, KVM_CAP_IOEVENTFD_ANY_LENGTH),
		.signal_msi = kvm_has(dev, KVM_CAP_SIGNAL_MSI),
		.coalesced_pio = kvm_has(dev, KVM_CAP_COALESCED_PIO),
		.coalesced_mmio = kvm_has(dev, KVM_CAP_COALESCED_MMIO),
	};
	return 0;
}
