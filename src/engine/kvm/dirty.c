/*
 * Which pages were written: by the guest, as KVM logs it, and by the host, as src/mem does.
 *
 * Bitmap: KVM has a bit for each page of a slot, and hands out and clears them together.
 *
 * Ring: each vCPU has a ring of the pages it wrote, which KVM fills and we empty; a full one ends
 * KVM_RUN. Better for large guests of which little is written. The size is fixed when the machine
 * is made, because rings have to be there before the vCPUs. KVM leaves the guest before a ring is
 * quite full; a host was seen, one that emulates ring 0, that does not, and then overwrites
 * entries. So a full ring means that pages were lost: from then on every page counts as written.
 *
 * Lock: vm->dirty_lock, a leaf, over the rings' positions and vm->dirty, where pages wait that were
 * emptied from a full ring before anybody asked.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "mem/mem.h"

#define X86_RING_OFFSET 64 /* in pages, of the vCPU's mapping */
#define RING_BYTES      (KVM_RING_ENTRIES * sizeof(struct kvm_dirty_gfn))

int kvm_dirty_init(struct engine_vm *vm, const struct engine_options *options, char *err,
                   size_t errlen)
{
	uint32_t cap;
	int rc;

	if (!options || !options->dirty_ring)
		return 0;
	if (!vm->offers.dirty_ring) {
		snprintf(err, errlen, "kvm: this host's kernel has no dirty rings (Linux 5.11)");
		return -ENOTSUP;
	}
	cap = kvm_has(vm->dev, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL
	                                                       : KVM_CAP_DIRTY_LOG_RING;
	rc = kvm_enable(vm->fd, cap, RING_BYTES, 0);
	if (rc)
		snprintf(err, errlen, "kvm: dirty rings: %s", strerror(-rc));
	vm->dirty_ring = !rc;
	return rc;
}

int kvm_map_ring(struct kvm_vcpu *k)
{
	void *ring;

	if (!k->vm->dirty_ring)
		return 0;
	ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd,
	            X86_RING_OFFSET * PAGE_SIZE);
	if (ring == MAP_FAILED)
		return -errno;
	k->ring = ring;
	return 0;
}

void kvm_unmap_ring(struct kvm_vcpu *k)
{
	if (k->ring)
		munmap(k->ring, RING_BYTES);
	k->ring = NULL;
}

/* ---- from slots to pages of RAM ---- */

static void mark(const struct engine_vm *vm, uint64_t *bitmap, unsigned slot, uint64_t page)
{
	const struct mem_bank *b = &vm->mem->bank[slot];
	uint64_t n;

	if (slot >= vm->mem->nr_banks || page >= b->size / PAGE_SIZE)
		return;
	n = mem_page(vm->mem, b->host + page * PAGE_SIZE);
	if (n != MEM_NO_PAGE)
		bitmap[n / 64] |= BIT(n % 64);
}

static int take_slot(struct engine_vm *vm, unsigned slot, uint64_t *bitmap)
{
	uint64_t pages = vm->mem->bank[slot].size / PAGE_SIZE, words = (pages + 63) / 64;
	uint64_t *log = calloc(words, sizeof(*log));
	struct kvm_dirty_log l = { .slot = slot, .dirty_bitmap = log };
	int rc = 0;

	if (!log)
		return -ENOMEM;
	if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &l) < 0)
		rc = -errno;
	for (uint64_t w = 0; !rc && w < words; w++)
		for (uint64_t bits = log[w]; bits; bits &= bits - 1)
			mark(vm, bitmap, slot, 64 * w + (unsigned)__builtin_ctzll(bits));
	free(log);
	return rc;
}

/* ---- rings ---- */

static unsigned drain_ring_locked(struct engine_vm *vm, struct kvm_vcpu *k)
{
	unsigned nr = 0;

	for (;; nr++, k->ring_at++) {
		struct kvm_dirty_gfn *g = &k->ring[k->ring_at % KVM_RING_ENTRIES];

		if (!(__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
			return nr;
		if (vm->dirty)
			mark(vm, vm->dirty, g->slot & 0xffff, g->offset);
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
}

static void note_overflow_locked(struct engine_vm *vm)
{
	if (!vm->dirty_lost)
		log_warn("kvm: the host lost entries of a dirty ring; every page counts as "
		         "written from now on");
	vm->dirty_lost = true;
}

static int drain_locked(struct engine_vm *vm)
{
	unsigned nr = 0;

	for (unsigned n = 0; n < KVM_MAX_VCPUS; n++) {
		unsigned drained = 0;

		if (vm->vcpu[n] && vm->vcpu[n]->ring)
			drained = drain_ring_locked(vm, vm->vcpu[n]);
		if (drained == KVM_RING_ENTRIES)
			note_overflow_locked(vm);
		nr += drained;
	}
	return nr && ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, 0) < 0 ? -errno : 0;
}

int kvm_drain_rings(struct engine_vm *vm)
{
	int rc;

	pthread_mutex_lock(&vm->dirty_lock);
	rc = drain_locked(vm);
	/* KVM has lost count, and would say "full" for ever. */
	if (!rc && vm->dirty_lost)
		rc = -EOVERFLOW;
	pthread_mutex_unlock(&vm->dirty_lock);
	return rc;
}

/* Without waiting for KVM to find it full: see the top of the file. */
int kvm_drain_early(struct kvm_vcpu *k)
{
	const struct kvm_dirty_gfn *half;

	if (!k->ring)
		return 0;
	half = &k->ring[(k->ring_at + KVM_RING_ENTRIES / 2) % KVM_RING_ENTRIES];
	if (!(__atomic_load_n(&half->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
		return 0;
	return kvm_drain_rings(k->vm);
}

static int take_rings(struct engine_vm *vm, uint64_t *bitmap)
{
	int rc;

	pthread_mutex_lock(&vm->dirty_lock);
	rc = drain_locked(vm);
	for (uint64_t w = 0; w < mem_dirty_words(vm->mem); w++) {
		bitmap[w] |= vm->dirty_lost ? UINT64_MAX : vm->dirty[w];
		vm->dirty[w] = 0;
	}
	pthread_mutex_unlock(&vm->dirty_lock);
	return rc;
}

/* ---- the log ---- */

static int set_flags(struct engine_vm *vm, uint32_t flags)
{
	int rc = 0;

	for (unsigned n = 0; n < vm->mem->nr_banks && !rc; n++)
		if (!vm->mem->bank[n].readonly)
			rc = kvm_set_slot(vm, n, flags);
	return rc;
}

int kvm_dirty_start(struct engine_vm *vm)
{
	int rc;

	if (vm->dirty_on)
		return -EBUSY;
	rc = mem_dirty_start(vm->mem);
	if (!rc && vm->dirty_ring) {
		vm->dirty = calloc(mem_dirty_words(vm->mem), sizeof(*vm->dirty));
		rc = vm->dirty ? 0 : -ENOMEM;
	}
	if (!rc)
		rc = set_flags(vm, KVM_MEM_LOG_DIRTY_PAGES);
	vm->dirty_on = true;
	if (rc)
		kvm_dirty_stop(vm);
	return rc;
}

int kvm_dirty_take(struct engine_vm *vm, uint64_t *bitmap)
{
	int rc = 0;

	if (!vm->dirty_on)
		return -EINVAL;
	mem_dirty_take(vm->mem, bitmap);
	if (vm->dirty_ring)
		return take_rings(vm, bitmap);
	for (unsigned n = 0; n < vm->mem->nr_banks && !rc; n++)
		if (!vm->mem->bank[n].readonly)
			rc = take_slot(vm, n, bitmap);
	return rc;
}

int kvm_dirty_stop(struct engine_vm *vm)
{
	int rc;

	if (!vm->dirty_on)
		return 0;
	rc = set_flags(vm, 0);
	if (vm->dirty_ring)
		kvm_drain_rings(vm);
	mem_dirty_stop(vm->mem);
	free(vm->dirty);
	vm->dirty = NULL;
	vm->dirty_on = false;
	return rc;
}

void kvm_dirty_fini(struct engine_vm *vm)
{
	free(vm->dirty);
	vm->dirty = NULL;
	pthread_mutex_destroy(&vm->dirty_lock);
}
