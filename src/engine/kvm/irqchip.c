/*
 * Interrupt controllers in the host's kernel, wholly or in part, and what the board has to tell
 * them.
 *
 * KVM numbers what can interrupt ("GSI") and has a table of routes from those numbers. Ours are:
 *
 *   0..23    pins of the I/O APIC: the kernel's pin, or in split mode the message of our own I/O
 *            APIC's pin, which the kernel has to know to tell us of its EOI
 *   24..39   inputs of the kernel's pair of PICs
 *   40..     messages of devices, for event descriptors (irqfd)
 *
 * Lock: vm->routes.lock, a leaf, over the table; KVM has locks of its own.
 */
#include "engine/kvm/kvm.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define GSI_PIC     KVM_IOAPIC_NUM_PINS
#define PIC_INPUTS  16
#define PIC_CASCADE 2

/* ---- routes ---- */

static struct kvm_irq_routing_entry *route(struct kvm_routes *r, unsigned gsi)
{
	return &r->entry[gsi];
}

/* The table as KVM wants it: without the free places. */
static int set_routes_locked(struct engine_vm *vm)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[KVM_ROUTES];
	} t = { 0 };

	for (unsigned gsi = 0; gsi < KVM_ROUTES; gsi++)
		if (vm->routes.used[gsi])
			t.entry[t.head.nr++] = *route(&vm->routes, gsi);
	return ioctl(vm->fd, KVM_SET_GSI_ROUTING, &t) < 0 ? -errno : 0;
}

static void put_chip_route(struct engine_vm *vm, unsigned gsi, uint32_t chip, uint32_t pin)
{
	*route(&vm->routes, gsi) = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
	vm->routes.used[gsi] = true;
}

static int route_chips(struct engine_vm *vm)
{
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		put_chip_route(vm, pin, KVM_IRQCHIP_IOAPIC, pin);
	for (unsigned n = 0; n < PIC_INPUTS; n++)
		if (n != PIC_CASCADE)
			put_chip_route(vm, GSI_PIC + n,
			               n < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
			               n % 8);
	return set_routes_locked(vm);
}

static bool is_same(const struct kvm_irq_routing_entry *e, uint64_t addr, uint32_t data)
{
	return e->u.msi.address_lo == (uint32_t)addr && e->u.msi.address_hi == addr >> 32 &&
	       e->u.msi.data == data;
}

int kvm_set_msi_route(struct engine_vm *vm, unsigned gsi, uint64_t addr, uint32_t data, bool used)
{
	struct kvm_irq_routing_entry *e = route(&vm->routes, gsi);
	int rc = 0;

	pthread_mutex_lock(&vm->routes.lock);
	if (vm->routes.used[gsi] != used || (used && !is_same(e, addr, data))) {
		*e = (struct kvm_irq_routing_entry){ .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };
		e->u.msi.address_lo = (uint32_t)addr;
		e->u.msi.address_hi = addr >> 32;
		e->u.msi.data = data;
		vm->routes.used[gsi] = used;
		rc = set_routes_locked(vm);
	}
	pthread_mutex_unlock(&vm->routes.lock);
	return rc;
}

/* ---- what the board says ---- */

static void set_gsi(struct engine_vm *vm, unsigned gsi, bool level)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };

	if (ioctl(vm->fd, KVM_IRQ_LINE, &l) < 0)
		log_warn("kvm: interrupt line %u: %s", gsi, strerror(errno));
}

static void set_pic(void *opaque, unsigned n, bool level)
{
	assert(n < PIC_INPUTS);
	if (n != PIC_CASCADE)
		set_gsi(opaque, GSI_PIC + n, level);
}

static void set_ioapic(void *opaque, unsigned pin, bool level)
{
	assert(pin < KVM_IOAPIC_NUM_PINS);
	set_gsi(opaque, pin, level);
}

static bool send(void *opaque, uint64_t addr, uint32_t data)
{
	struct engine_vm *vm = opaque;
	struct kvm_msi m = {
		.address_lo = (uint32_t)addr,
		.address_hi = (uint32_t)(addr >> 32),
		.data = data,
	};

	return ioctl(vm->fd, KVM_SIGNAL_MSI, &m) > 0;
}

static void set_pin(void *opaque, unsigned pin, uint64_t addr, uint32_t data, bool masked)
{
	int rc = kvm_set_msi_route(opaque, pin, addr, data, !masked);

	if (rc)
		log_warn("kvm: route of pin %u: %s", pin, strerror(-rc));
}

/* The first vCPU is the one that firmware wires the PICs to. */
static void set_intr(void *opaque, bool level)
{
	struct engine_vm *vm = opaque;
	struct kvm_vcpu *k = vm->vcpu[0];

	atomic_store(&vm->pic_intr, level);
	if (level && k) {
		cpu_raise_attention(k->cpu, ATTN_INTR);
		kvm_notify(k->cpu);
	}
}

/* ---- messages by event descriptor ---- */

static int attach(struct engine_vm *vm, unsigned gsi, bool on)
{
	struct kvm_irqfd f = {
		.fd = (uint32_t)vm->routes.fd[gsi],
		.gsi = gsi,
		.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	if (vm->routes.attached[gsi] == on)
		return 0;
	if (ioctl(vm->fd, KVM_IRQFD, &f) < 0)
		return -errno;
	vm->routes.attached[gsi] = on;
	return 0;
}

static int route_add(void *opaque, int fd)
{
	struct engine_vm *vm = opaque;
	int found = -ENOSPC;

	pthread_mutex_lock(&vm->routes.lock);
	for (unsigned gsi = KVM_MSI_FIRST; gsi < KVM_ROUTES && found < 0; gsi++)
		if (vm->routes.fd[gsi] < 0)
			found = (int)gsi;
	if (found >= 0)
		vm->routes.fd[found] = fd;
	pthread_mutex_unlock(&vm->routes.lock);
	return found;
}

/* While it is masked the descriptor is the device's: a write to it waits there. */
static int route_set(void *opaque, int number, uint64_t addr, uint32_t data, bool masked)
{
	struct engine_vm *vm = opaque;
	unsigned gsi = (unsigned)number;
	int rc = 0;

	assert(gsi >= KVM_MSI_FIRST && gsi < KVM_ROUTES);
	if (!masked)
		rc = kvm_set_msi_route(vm, gsi, addr, data, true);
	return rc ? rc : attach(vm, gsi, !masked);
}

static void route_remove(void *opaque, int number)
{
	struct engine_vm *vm = opaque;
	unsigned gsi = (unsigned)number;

	assert(gsi >= KVM_MSI_FIRST && gsi < KVM_ROUTES);
	attach(vm, gsi, false);
	kvm_set_msi_route(vm, gsi, 0, 0, false);
	vm->routes.fd[gsi] = -1;
}

#define BOARD_OPS                                                                       \
	.set_pic = set_pic, .set_ioapic = set_ioapic, .send = send, .set_pin = set_pin, \
	.set_intr = set_intr
static const struct irqchip_ops irqchip_ops = { BOARD_OPS };
static const struct irqchip_ops irqfd_ops = {
	BOARD_OPS,
	.route_add = route_add,
	.route_set = route_set,
	.route_remove = route_remove,
};

/* ---- which ---- */

static bool is_offered(const struct engine_vm *vm, enum irqchip_kind kind)
{
	switch (kind) {
	case IRQCHIP_KERNEL:
		return vm->offers.irqchip && vm->offers.signal_msi;
	case IRQCHIP_SPLIT:
		return vm->offers.split_irqchip && vm->offers.signal_msi;
	default:
		return true;
	}
}

static int choose(const struct engine_vm *vm, const struct engine_options *o,
                  enum irqchip_kind *kind, char *err, size_t errlen)
{
	static const enum irqchip_kind order[] = { IRQCHIP_KERNEL, IRQCHIP_SPLIT, IRQCHIP_OWN };
	size_t n = 0;

	*kind = o ? o->irqchip : IRQCHIP_OWN;
	if (o && o->irqchip_any) {
		while (!is_offered(vm, order[n]))
			n++;
		*kind = order[n];
	}
	if (is_offered(vm, *kind))
		return 0;
	snprintf(err, errlen, "kvm: this host's kernel has no interrupt controllers for %s",
	         *kind == IRQCHIP_KERNEL ? "--irqchip kernel" : "--irqchip split");
	return -ENOTSUP;
}

static int make(struct engine_vm *vm)
{
	int rc = 0;

	switch (vm->irqchip.kind) {
	case IRQCHIP_KERNEL:
		if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
			return -errno;
		rc = route_chips(vm);
		break;
	case IRQCHIP_SPLIT:
		rc = kvm_enable(vm->fd, KVM_CAP_SPLIT_IRQCHIP, KVM_IOAPIC_NUM_PINS, 0);
		break;
	default:
		return 0;
	}
	vm->irqchip.ops = vm->offers.irqfd ? &irqfd_ops : &irqchip_ops;
	vm->irqchip.opaque = vm;
	return rc;
}

int kvm_make_irqchip(struct engine_vm *vm, const struct engine_options *options, char *err,
                     size_t errlen)
{
	int rc = choose(vm, options, &vm->irqchip.kind, err, errlen);

	if (rc)
		return rc;
	rc = make(vm);
	if (rc)
		snprintf(err, errlen, "kvm: interrupt controllers: %s", strerror(-rc));
	return rc;
}
