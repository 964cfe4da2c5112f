/*
 * The machine's part: the VM's descriptor, what is set before it has vCPUs, and its memory.
 *
 * A slot of KVM is a bank of guest memory, with the bank's number. A host that knows no read-only
 * slots gets a ROM as no memory at all: reads of it come to us then.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "mem/mem.h"

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void close_vm(struct engine_vm *vm)
{
	if (!vm)
		return;
	kvm_dirty_fini(vm);
	close_fd(vm->fd);
	close_fd(vm->dev);
	pthread_mutex_destroy(&vm->routes.lock);
	free(vm);
}

static int fail(int rc, const char *what, char *err, size_t errlen)
{
	if (rc)
		snprintf(err, errlen, "kvm: %s: %s", what, strerror(-rc));
	return rc;
}

/* A few pages that VT-x without "unrestricted guest" needs to run real mode. */
static int set_private_pages(struct engine_vm *vm)
{
	uint64_t identity = vm->private_gpa;

	if (kvm_has(vm->fd, KVM_CAP_SET_IDENTITY_MAP_ADDR) &&
	    ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return -errno;
	if (kvm_has(vm->fd, KVM_CAP_SET_TSS_ADDR) &&
	    ioctl(vm->fd, KVM_SET_TSS_ADDR, vm->private_gpa + PAGE_SIZE) < 0)
		return -errno;
	return 0;
}

static int read_sizes(struct engine_vm *vm)
{
	int run = ioctl(vm->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	int xsave = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	if (run < 0)
		return -errno;
	vm->run_bytes = (size_t)run;
	vm->xsave_bytes = xsave > 0 ? (size_t)xsave : 0;
	if (vm->xsave_bytes < sizeof(struct kvm_xsave))
		vm->xsave_bytes = sizeof(struct kvm_xsave);
	return 0;
}

static int set_up(struct engine_vm *vm, const struct engine_machine *m, char *err, size_t errlen)
{
	int rc = kvm_read_offers(vm->dev, &vm->offers, err, errlen);

	if (rc)
		return rc;
	vm->fd = ioctl(vm->dev, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return fail(-errno, "a new machine", err, errlen);
	rc = read_sizes(vm);
	if (!rc)
		rc = kvm_read_features(vm->dev, &vm->features, vm->offers.steal_time);
	if (!rc)
		rc = set_private_pages(vm);
	if (!rc && vm->offers.exit_on_emulation_failure)
		rc = kvm_enable(vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1, 0);
	if (rc)
		return fail(rc, "preparing the machine", err, errlen);
	rc = kvm_make_irqchip(vm, m->options, err, errlen);
	if (!rc)
		rc = kvm_dirty_init(vm, m->options, err, errlen);
	if (rc)
		return rc;
	kvm_init_doorbells(vm);
	return fail(kvm_set_msr_filter(vm), "filter of MSRs", err, errlen);
}

static int open_vm(struct engine_vm **out, const struct engine_machine *m, char *err, size_t errlen)
{
	struct engine_vm *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm)
		return fail(-ENOMEM, "machine", err, errlen);
	*vm = (struct engine_vm){
		.fd = -1,
		.mem = m->mem,
		.vcpus = m->vcpus,
		.private_gpa = m->private_gpa,
	};
	pthread_mutex_init(&vm->routes.lock, NULL);
	pthread_mutex_init(&vm->dirty_lock, NULL);
	memset(vm->routes.fd, 0xff, sizeof(vm->routes.fd));
	vm->dev = kvm_open_host(err, errlen);
	rc = vm->dev < 0 ? vm->dev : set_up(vm, m, err, errlen);
	if (rc) {
		close_vm(vm);
		return rc;
	}
	*out = vm;
	return 0;
}

static const struct cpuid_offer *offer(const struct engine_vm *vm)
{
	return &vm->features;
}

static const struct doorbells *doorbells(struct engine_vm *vm)
{
	return vm->doorbells.ops ? &vm->doorbells : NULL;
}

static const struct irqchip *irqchip(struct engine_vm *vm)
{
	return &vm->irqchip;
}

int kvm_set_slot(struct engine_vm *vm, unsigned slot, uint32_t flags)
{
	const struct mem_bank *b = &vm->mem->bank[slot];
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags | (b->readonly ? KVM_MEM_READONLY : 0),
		.guest_phys_addr = b->base,
		.memory_size = b->size,
		.userspace_addr = (uintptr_t)b->host,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

/* Nested paging is a matter of large pages; the host gives them to shared memory if it was asked
 * and is set to ("advise" in shmem_enabled). */
static void ask_for_large_pages(const struct mem *m)
{
	madvise(m->ram[0], m->ram_low, MADV_HUGEPAGE);
	if (m->ram[1])
		madvise(m->ram[1], m->ram_bytes - m->ram_low, MADV_HUGEPAGE);
}

static int map(struct engine_vm *vm)
{
	int rc = 0;

	ask_for_large_pages(vm->mem);

	for (unsigned n = 0; n < vm->mem->nr_banks && !rc; n++)
		if (!vm->mem->bank[n].readonly || vm->offers.readonly_mem)
			rc = kvm_set_slot(vm, n, 0);
	return rc;
}

const struct engine_vm_ops kvm_vm_ops = {
	.open = open_vm,
	.close = close_vm,
	.offer = offer,
	.irqchip = irqchip,
	.map = map,
	.chips_out = kvm_chips_out,
	.chips_in = kvm_chips_in,
	.dirty_start = kvm_dirty_start,
	.dirty_take = kvm_dirty_take,
	.dirty_stop = kvm_dirty_stop,
	.doorbells = doorbells,
};
