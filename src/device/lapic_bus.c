/*
 * Interrupt messages: who they are for. Physical destinations name an APIC id; logical ones are
 * masks that every APIC compares with its own logical id.
 */
#include "device/lapic.h"

#include <string.h>

#define DFR_FLAT   0xfu
#define MSI_BASE   0xfee00000ull
#define MSI_ASSERT BIT(14)
#define MSI_LEVEL  BIT(15)

void lapic_bus_init(struct lapic_bus *b)
{
	memset(b, 0, sizeof(*b));
}

/* SDM 3A 11.6.2.2 for the xAPIC models, 11.12.10.1 for the x2APIC one. */
static bool matches_logical(const struct lapic *l, uint32_t dest)
{
	uint32_t id = lapic_logical_id(l);

	if (lapic_is_x2apic(l))
		return id >> 16 == dest >> 16 && id & dest & 0xffff;
	id >>= 24;
	if (l->s.dfr >> 28 == DFR_FLAT)
		return id & dest & 0xff;
	return id >> 4 == (dest >> 4 & 0xf) && id & dest & 0xf;
}

static bool is_addressed(struct lapic *l, const struct lapic_msg *m)
{
	bool matches;

	if (m->dest == LAPIC_BROADCAST)
		return true;
	if (!m->logical)
		return m->dest == l->id;
	pthread_mutex_lock(&l->lock);
	matches = matches_logical(l, m->dest);
	pthread_mutex_unlock(&l->lock);
	return matches;
}

/* Lowest priority: the candidate with the lowest processor priority, the first one of equals. */
static struct lapic *find_lowest(struct lapic_bus *b, const struct lapic_msg *m)
{
	struct lapic *best = NULL;
	uint8_t best_priority = 0;

	for (unsigned i = 0; i < b->nr; i++) {
		uint8_t priority;

		if (!is_addressed(b->cpu[i], m))
			continue;
		priority = lapic_processor_priority(b->cpu[i]);
		if (!best || priority < best_priority) {
			best = b->cpu[i];
			best_priority = priority;
		}
	}
	return best;
}

/* As an MSI (SDM 3A 11.11), which the redirection hint's absence makes precise. */
static bool send_external(const struct irqchip *chip, const struct lapic_msg *m)
{
	uint64_t addr = MSI_BASE | (uint64_t)(m->dest & 0xff) << 12 | (m->logical ? BIT(2) : 0);
	uint32_t data = m->vector | (uint32_t)m->delivery << 8 |
	                (uint32_t)(m->level ? MSI_LEVEL | MSI_ASSERT : 0);

	return chip->ops->send(chip->opaque, addr, data);
}

bool lapic_bus_deliver(struct lapic_bus *b, const struct lapic_msg *m)
{
	bool accepted = false;

	if (b->external)
		return send_external(b->external, m);
	if (m->delivery == APIC_LOWEST) {
		struct lapic *l = find_lowest(b, m);

		return l && lapic_accept(l, m);
	}
	if (!m->logical && m->dest != LAPIC_BROADCAST)
		return m->dest < b->nr && lapic_accept(b->cpu[m->dest], m);
	for (unsigned i = 0; i < b->nr; i++) {
		if (is_addressed(b->cpu[i], m))
			accepted |= lapic_accept(b->cpu[i], m);
	}
	return accepted;
}

bool lapic_bus_msi(struct lapic_bus *b, uint64_t addr, uint32_t data)
{
	bool redirect = addr & BIT(3);
	struct lapic_msg m = {
		.dest = lapic_dest8((uint8_t)(addr >> 12)),
		.logical = addr & BIT(2),
		.vector = (uint8_t)data,
		.delivery = data >> 8 & 7,
		.level = data & BIT(15),
	};

	/* The redirection hint asks for one of a logical set (SDM 3A 11.11.1). */
	if (redirect && m.logical && m.delivery == APIC_FIXED)
		m.delivery = APIC_LOWEST;
	return lapic_bus_deliver(b, &m);
}

void lapic_bus_set_lint(void *bus, unsigned n, bool level)
{
	struct lapic_bus *b = bus;

	if (b->external) {
		if (b->external->kind == IRQCHIP_SPLIT)
			b->external->ops->set_intr(b->external->opaque, level);
		return;
	}
	for (unsigned i = 0; i < b->nr; i++)
		lapic_set_lint(b->cpu[i], n, level);
}
