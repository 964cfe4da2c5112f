/*
 * Interrupt controllers that are not the board's own chips but the host kernel's.
 *
 * A machine has one of three kinds: all chips are the board's; the local APICs are the kernel's and
 * PIC and I/O APIC the board's; or all are the kernel's. The board asks through this table for what
 * the kernel's part has to be told. Every function may be called from any thread, with bus.lock
 * held or not.
 */
#pragma once

#include "base/base.h"

enum irqchip_kind { IRQCHIP_OWN, IRQCHIP_SPLIT, IRQCHIP_KERNEL, IRQCHIP_KINDS };

struct irqchip_ops {
	/* IRQCHIP_KERNEL: the level of an input of the pair of PICs, of a pin of the I/O APIC. */
	void (*set_pic)(void *opaque, unsigned n, bool level);
	void (*set_ioapic)(void *opaque, unsigned pin, bool level);
	/* Both with kernel APICs: a message, as a write of an MSI to addr. False: nobody took it.
	 */
	bool (*send)(void *opaque, uint64_t addr, uint32_t data);
	/* IRQCHIP_SPLIT: the message of an I/O APIC pin changed; the kernel has to tell us when a
	 * level-triggered one of its vectors ends. masked: the pin sends none. */
	void (*set_pin)(void *opaque, unsigned pin, uint64_t addr, uint32_t data, bool masked);
	/*
	 * Both with kernel APICs, and NULL where the kernel cannot: messages by event descriptor.
	 * Whenever fd is written the kernel sends the route's message, with no thread of ours in
	 * between. route_add() returns the number of a new route, masked, or -errno (-ENOSPC when
	 * there are too many); route_set() says what it sends; route_remove() ends it.
	 */
	int (*route_add)(void *opaque, int fd);
	int (*route_set)(void *opaque, int number, uint64_t addr, uint32_t data, bool masked);
	void (*route_remove)(void *opaque, int number);
	/* IRQCHIP_SPLIT: the PICs' INTR output. */
	void (*set_intr)(void *opaque, bool level);
};

/* Whether a write there is a message to local APICs (SDM 3A 11.11.1) and no ordinary one. */
static inline bool irqchip_is_message(uint64_t addr)
{
	return addr >> 20 == 0xfee;
}

struct irqchip {
	enum irqchip_kind kind;
	const struct irqchip_ops *ops; /* NULL with IRQCHIP_OWN */
	void *opaque;
};
