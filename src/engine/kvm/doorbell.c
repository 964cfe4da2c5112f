/* Doorbells by KVM's ioeventfd. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <sys/ioctl.h>

static int change(struct engine_vm *vm, const struct doorbell *d, uint32_t flags)
{
	struct kvm_ioeventfd e = {
		.addr = d->addr,
		.len = d->size,
		.fd = d->fd,
		.datamatch = d->value,
		.flags = flags | (d->space == BUS_PIO ? KVM_IOEVENTFD_FLAG_PIO : 0) |
		         (d->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0),
	};

	return ioctl(vm->fd, KVM_IOEVENTFD, &e) < 0 ? -errno : 0;
}

static int add(void *opaque, const struct doorbell *d)
{
	return change(opaque, d, 0);
}

static int remove_bell(void *opaque, const struct doorbell *d)
{
	return change(opaque, d, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static const struct doorbell_ops ops = { .add = add, .remove = remove_bell };

void kvm_init_doorbells(struct engine_vm *vm)
{
	if (vm->offers.ioeventfd)
		vm->doorbells = (struct doorbells){ .ops = &ops, .opaque = vm };
}
