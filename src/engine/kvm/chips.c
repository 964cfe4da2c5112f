/*
 * The state of interrupt controllers in the host's kernel, to and from the board's own chips, which
 * hold it while the machine stands still: so that a machine saved with the one goes on with the
 * other.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include "device/ioapic.h"
#include "device/lapic.h"
#include "device/pic.h"

_Static_assert(LAPIC_PAGE == KVM_APIC_REG_SIZE, "one page image");

/* ---- local APICs ---- */

static int move_deadline(struct kvm_vcpu *k, unsigned long request, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = MSR_TSC_DEADLINE, .data = *value } };
	int done = ioctl(k->fd, request, &m);

	*value = m.entry.data;
	return done < 0 ? -errno : 0;
}

int kvm_fetch_lapic(struct kvm_vcpu *k)
{
	struct kvm_lapic_state s;
	uint64_t deadline = 0;
	int rc;

	if (!k->cpu->lapic || ioctl(k->fd, KVM_GET_LAPIC, &s) < 0)
		return k->cpu->lapic ? -errno : 0;
	rc = move_deadline(k, KVM_GET_MSRS, &deadline);
	if (!rc)
		lapic_set_page(k->cpu->lapic, (const uint8_t *)s.regs, k->apic_base, deadline);
	return rc;
}

/* Interrupts may have come for it in KVM meanwhile: only a state that is not KVM's own is given. */
int kvm_push_lapic(struct kvm_vcpu *k)
{
	struct lapic *l = k->cpu->lapic;
	struct kvm_lapic_state s;
	uint64_t deadline;

	if (!l || !k->lapic_due)
		return 0;
	k->lapic_due = false;
	lapic_get_page(l, (uint8_t *)s.regs);
	if (ioctl(k->fd, KVM_SET_LAPIC, &s) < 0)
		return -errno;
	deadline = l->s.tsc_deadline;
	return deadline ? move_deadline(k, KVM_SET_MSRS, &deadline) : 0;
}

/* ---- PICs ---- */

static void pic_from_kvm(struct pic_chip_state *s, const struct kvm_pic_state *k)
{
	*s = (struct pic_chip_state){
		.lines = k->last_irr,
		.irr = k->irr,
		.imr = k->imr,
		.isr = k->isr,
		.elcr = k->elcr,
		.vector = k->irq_base,
		.lowest = (k->priority_add + 7) & 7,
		.init = k->init_state ? (uint8_t)(k->init_state + 1) : 0,
		.need_icw4 = k->init4,
		.auto_eoi = k->auto_eoi,
		.fully_nested = k->special_fully_nested_mode,
		.rotate_auto_eoi = k->rotate_on_auto_eoi,
		.special_mask = k->special_mask,
		.read_isr = k->read_reg_select,
		.poll = k->poll,
	};
}

static void pic_to_kvm(struct kvm_pic_state *k, const struct pic_chip_state *s, bool slave)
{
	*k = (struct kvm_pic_state){
		.last_irr = s->lines,
		.irr = s->irr,
		.imr = s->imr,
		.isr = s->isr,
		.priority_add = (s->lowest + 1) & 7,
		.irq_base = s->vector,
		.read_reg_select = s->read_isr,
		.poll = s->poll,
		.special_mask = s->special_mask,
		.init_state = s->init ? (uint8_t)(s->init - 1) : 0,
		.auto_eoi = s->auto_eoi,
		.rotate_on_auto_eoi = s->rotate_auto_eoi,
		.special_fully_nested_mode = s->fully_nested,
		.init4 = s->need_icw4,
		.elcr = s->elcr,
		.elcr_mask = slave ? 0xde : 0xf8,
	};
}

/* ---- I/O APIC ---- */

static void ioapic_from_kvm(struct ioapic_state *s, const struct kvm_ioapic_state *k)
{
	s->select = (uint8_t)k->ioregsel;
	s->id = (uint8_t)k->id;
	s->lines = k->irr;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		s->redir[pin] = k->redirtbl[pin].bits;
}

static void ioapic_to_kvm(struct kvm_ioapic_state *k, const struct ioapic_state *s)
{
	*k = (struct kvm_ioapic_state){
		.base_address = IOAPIC_DEFAULT_BASE,
		.ioregsel = s->select,
		.id = s->id,
	};
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		k->redirtbl[pin].bits = s->redir[pin];
		/* KVM's bit of a pin is a request that waits: edges have been sent already. */
		if (k->redirtbl[pin].fields.trig_mode)
			k->irr |= s->lines & (uint32_t)BIT(pin);
	}
}

/* ---- all ---- */

int kvm_chips_out(struct engine_vm *vm, struct pic *pic, struct ioapic *ioapic)
{
	for (uint32_t id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
		struct kvm_irqchip c = { .chip_id = id };

		if (ioctl(vm->fd, KVM_GET_IRQCHIP, &c) < 0)
			return -errno;
		if (id == KVM_IRQCHIP_IOAPIC)
			ioapic_from_kvm(&ioapic->s, &c.chip.ioapic);
		else
			pic_from_kvm(&pic->chip[id].s, &c.chip.pic);
	}
	pic_load(pic);
	return 0;
}

int kvm_chips_in(struct engine_vm *vm, const struct pic *pic, const struct ioapic *ioapic)
{
	for (uint32_t id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
		struct kvm_irqchip c = { .chip_id = id };

		if (id == KVM_IRQCHIP_IOAPIC)
			ioapic_to_kvm(&c.chip.ioapic, &ioapic->s);
		else
			pic_to_kvm(&c.chip.pic, &pic->chip[id].s, id == KVM_IRQCHIP_PIC_SLAVE);
		if (ioctl(vm->fd, KVM_SET_IRQCHIP, &c) < 0)
			return -errno;
	}
	return 0;
}
