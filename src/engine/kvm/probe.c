/*
 * How fast this host's KVM is: measured in a throw-away machine of one page, because the presence
 * of /dev/kvm says nothing about it. Where KVM itself runs without virtualization hardware, ring 0
 * is emulated by the host's kernel, a thousand times slower.
 *
 * The guest is a loop of two instructions, in flat 32-bit code for ring 0 and in 64-bit code for
 * ring 3. The time of a long run less that of a short one, by the difference of their instructions,
 * is the speed; the cost of entering and leaving falls out. A slow host is recognised by a loop so
 * short that it takes less than a millisecond even there.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PROBE_PAGES 8
#define CODE_AT     0x0
#define PML4_AT     0x1000
#define PDPT_AT     0x2000
#define PD_AT       0x3000
#define GDT_AT      0x4000
#define STACK_TOP   0x6000
#define FAR_PORT    0x80 /* an OUT to it is the end of the loop */

/* Ring 0: loop: dec ecx; jnz loop; out 0x80, al. */
static const uint8_t code32[] = { 0x49, 0x75, 0xfd, 0xe6, FAR_PORT };
/* Ring 3, IOPL 3: loop: dec ecx; jnz loop; out 0x80, al. DEC has two bytes in 64-bit code. */
static const uint8_t code64[] = { 0xff, 0xc9, 0x75, 0xfc, 0xe6, FAR_PORT };

struct probe {
	int vm, vcpu;
	struct kvm_run *run;
	size_t run_bytes;
	uint8_t *mem;
};

static void close_probe(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_bytes);
	if (p->vcpu >= 0)
		close(p->vcpu);
	if (p->vm >= 0)
		close(p->vm);
	if (p->mem)
		munmap(p->mem, PROBE_PAGES * PAGE_SIZE);
}

static int map_probe(struct probe *p, int dev)
{
	int bytes = ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *run;

	if (bytes < 0)
		return -errno;
	run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	p->run = run;
	p->run_bytes = (size_t)bytes;
	return 0;
}

static int add_memory(struct probe *p)
{
	struct kvm_userspace_memory_region r = { .memory_size = PROBE_PAGES * PAGE_SIZE };
	void *mem = mmap(NULL, r.memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                 -1, 0);

	if (mem == MAP_FAILED)
		return -ENOMEM;
	p->mem = mem;
	r.userspace_addr = (uintptr_t)mem;
	return ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

static int open_probe(struct probe *p, int dev)
{
	int rc;

	*p = (struct probe){ .vm = -1, .vcpu = -1 };
	p->vm = ioctl(dev, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return -errno;
	if (kvm_has(dev, KVM_CAP_SET_TSS_ADDR))
		ioctl(p->vm, KVM_SET_TSS_ADDR, 0xfffbd000ul);
	rc = add_memory(p);
	if (rc)
		return rc;
	p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
	return p->vcpu < 0 ? -errno : map_probe(p, dev);
}

static void flat(struct kvm_segment *s, uint16_t sel, uint8_t type, uint8_t dpl, bool wide)
{
	*s = (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = sel,
		.type = type,
		.present = 1,
		.dpl = dpl,
		.s = 1,
		.g = 1,
		.db = !wide,
		.l = wide,
	};
}

static void set_mode(struct kvm_sregs *s, uint8_t ring)
{
	bool wide = ring == 3;

	flat(&s->cs, 8 | ring, 0xb, ring, wide);
	flat(&s->ss, 16 | ring, 3, ring, false);
	s->ds = s->es = s->fs = s->gs = s->ss;
	s->cr0 |= 1; /* PE */
	if (!wide)
		return;
	s->cr3 = PML4_AT;
	s->cr4 |= 0x20;        /* PAE */
	s->efer |= 0x500;      /* LME, LMA */
	s->cr0 |= 0x80000000u; /* PG */
	s->gdt = (struct kvm_dtable){ .base = GDT_AT, .limit = 0x37 };
}

/* 2 MiB pages that everybody may use. */
static void put_tables(uint8_t *mem)
{
	*(uint64_t *)(mem + PML4_AT) = PDPT_AT | 7;
	*(uint64_t *)(mem + PDPT_AT) = PD_AT | 7;
	*(uint64_t *)(mem + PD_AT) = 0xe7;
}

static int prepare(struct probe *p, uint8_t ring)
{
	struct kvm_sregs s;

	memcpy(p->mem + CODE_AT, ring ? code64 : code32, ring ? sizeof(code64) : sizeof(code32));
	put_tables(p->mem);
	if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
		return -errno;
	set_mode(&s, ring);
	return ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

/* Where a host's kernel refuses ring 3 the port, the exception finds no handler. */
static bool is_end(uint32_t reason)
{
	return reason == KVM_EXIT_IO || reason == KVM_EXIT_SHUTDOWN;
}

/* Nanoseconds of a run of so many rounds, or 0. */
static uint64_t time_rounds(struct probe *p, uint8_t ring, uint32_t rounds)
{
	struct kvm_regs r = { .rcx = rounds, .rflags = 0x3002, .rsp = STACK_TOP, .rip = CODE_AT };
	uint64_t start;

	if (prepare(p, ring) || ioctl(p->vcpu, KVM_SET_REGS, &r) < 0)
		return 0;
	start = clock_ns();
	if (ioctl(p->vcpu, KVM_RUN, 0) < 0 || !is_end(p->run->exit_reason))
		return 0;
	return clock_ns() - start;
}

/* The least of a few tries; 0 when it does not run at all. */
static uint64_t least(struct probe *p, uint8_t ring, uint32_t rounds)
{
	uint64_t best = 0;

	for (unsigned n = 0; n < 3; n++) {
		uint64_t ns = time_rounds(p, ring, rounds);

		if (ns && (!best || ns < best))
			best = ns;
	}
	return best;
}

/* Picoseconds an instruction, or 0. */
static uint64_t measure(struct probe *p, uint8_t ring)
{
	const uint32_t few = 1, some = 32, many = 100000;
	uint64_t base, ns;

	base = least(p, ring, few);
	ns = base ? least(p, ring, some) : 0;
	if (!ns)
		return 0;
	if (ns > base && (ns - base) * 1000 / (2 * (some - few)) > ENGINE_KVM_SLOW_PS)
		return (ns - base) * 1000 / (2 * (some - few));
	ns = least(p, ring, many);
	return ns > base ? (ns - base) * 1000 / (2 * (many - few)) : 1;
}

int engine_kvm_probe(bool ring3, struct engine_kvm_speed *out, char *err, size_t errlen)
{
	int dev = kvm_open_host(err, errlen), rc;
	struct kvm_offers offers;
	struct probe p;

	*out = (struct engine_kvm_speed){ 0 };
	if (dev < 0)
		return dev;
	rc = kvm_read_offers(dev, &offers, err, errlen);
	if (rc)
		goto out;
	rc = open_probe(&p, dev);
	if (!rc)
		out->ring0_ps = measure(&p, 0);
	if (!rc && ring3)
		out->ring3_ps = measure(&p, 3);
	close_probe(&p);
	if (rc)
		snprintf(err, errlen, "kvm: a machine to measure with: %s", strerror(-rc));
out:
	close(dev);
	return rc;
}
