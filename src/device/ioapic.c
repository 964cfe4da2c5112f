/*
 * The I/O APIC. An edge-triggered pin sends its message when it rises, unless masked: such an edge
 * is lost, as on the chip. A level-triggered pin sends while it is asserted and its last message
 * has been ended; "remote IRR" in its entry is the memory of an unended one.
 */
#include "device/ioapic.h"

#include <assert.h>
#include <string.h>

/* Memory-mapped registers. */
enum { MMIO_SELECT = 0x00, MMIO_WINDOW = 0x10, MMIO_EOI = 0x40 };
/* Indirect registers; from REG_REDIR on, two for each pin. */
enum { REG_ID, REG_VERSION, REG_ARBITRATION, REG_REDIR = 0x10 };

#define VERSION ((IOAPIC_PINS - 1) << 16 | 0x20)

#define MSI_BASE   0xfee00000ull
#define MSI_ASSERT BIT(14)

#define REDIR_LOGICAL    BIT(11)
#define REDIR_STATUS     BIT(12)
#define REDIR_REMOTE_IRR BIT(14)
#define REDIR_LEVEL      BIT(15)
#define REDIR_MASKED     BIT(16)
#define REDIR_READ_ONLY  (REDIR_STATUS | REDIR_REMOTE_IRR)
#define REDIR_WRITABLE   (0xff0000000001ffffull & ~REDIR_READ_ONLY)

/* Local APICs in the host's kernel are told what a pin would send. */
static void tell_pin(struct ioapic *io, unsigned pin)
{
	const struct irqchip *chip = io->lapics->external;
	uint64_t redir = io->s.redir[pin];

	if (!chip || chip->kind != IRQCHIP_SPLIT)
		return;
	chip->ops->set_pin(chip->opaque, pin,
	                   MSI_BASE | (redir >> 56) << 12 | (redir & REDIR_LOGICAL ? BIT(2) : 0),
	                   (uint32_t)(redir & (0x7ff | REDIR_LEVEL)) | MSI_ASSERT,
	                   redir & REDIR_MASKED);
}

static bool send_message(struct ioapic *io, uint64_t redir)
{
	struct lapic_msg m = {
		.dest = lapic_dest8((uint8_t)(redir >> 56)),
		.vector = (uint8_t)redir,
		.delivery = redir >> 8 & 7,
		.logical = redir & REDIR_LOGICAL,
		.level = redir & REDIR_LEVEL,
	};

	return lapic_bus_deliver(io->lapics, &m);
}

static void sample_level(struct ioapic *io, unsigned pin)
{
	uint64_t *redir = &io->s.redir[pin];

	if (!(*redir & REDIR_LEVEL) || *redir & (REDIR_MASKED | REDIR_REMOTE_IRR) ||
	    !(io->s.lines & BIT(pin)))
		return;
	if (send_message(io, *redir))
		*redir |= REDIR_REMOTE_IRR;
}

void ioapic_set_pin(void *ioapic, unsigned pin, bool level)
{
	struct ioapic *io = ioapic;
	uint32_t before = io->s.lines;

	assert(pin < IOAPIC_PINS);
	if (level)
		io->s.lines |= BIT(pin);
	else
		io->s.lines &= ~BIT(pin);
	if (io->s.lines == before || !level)
		return;
	if (io->s.redir[pin] & REDIR_LEVEL)
		sample_level(io, pin);
	else if (!(io->s.redir[pin] & REDIR_MASKED))
		send_message(io, io->s.redir[pin]);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t *redir = &io->s.redir[pin];

		if (!(*redir & REDIR_REMOTE_IRR) || (uint8_t)*redir != vector)
			continue;
		*redir &= ~REDIR_REMOTE_IRR;
		sample_level(io, pin);
	}
}

bool ioapic_sends_nmi(const struct ioapic *io)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t redir = io->s.redir[pin];
		unsigned delivery = redir >> 8 & 7;

		if (!(redir & REDIR_MASKED) && (delivery == APIC_NMI || delivery == APIC_INIT))
			return true;
	}
	return false;
}

static uint32_t read_register(const struct ioapic *io)
{
	unsigned reg = io->s.select, pin = (reg - REG_REDIR) / 2;

	switch (reg) {
	case REG_ID:
	case REG_ARBITRATION:
		return (uint32_t)io->s.id << 24;
	case REG_VERSION:
		return VERSION;
	}
	if (reg < REG_REDIR || pin >= IOAPIC_PINS)
		return 0;
	return (uint32_t)(io->s.redir[pin] >> (reg & 1 ? 32 : 0));
}

static void write_redir(struct ioapic *io, unsigned pin, bool high, uint32_t value)
{
	uint64_t *redir = &io->s.redir[pin];
	uint64_t mask = REDIR_WRITABLE & (high ? 0xffffffffull << 32 : 0xffffffffull);

	*redir = (*redir & ~mask) | ((high ? (uint64_t)value << 32 : value) & mask);
	/* Edges have no remote IRR; Linux clears a stuck one by this. */
	if (!(*redir & REDIR_LEVEL))
		*redir &= ~REDIR_REMOTE_IRR;
	tell_pin(io, pin);
	sample_level(io, pin);
}

static void write_register(struct ioapic *io, uint32_t value)
{
	unsigned reg = io->s.select, pin = (reg - REG_REDIR) / 2;

	if (reg == REG_ID)
		io->s.id = value >> 24 & 0x0f;
	else if (reg >= REG_REDIR && pin < IOAPIC_PINS)
		write_redir(io, pin, reg & 1, value);
}

static uint64_t ioapic_read(void *dev, uint64_t off, unsigned size)
{
	struct ioapic *io = dev;
	unsigned byte = off & 3;
	uint64_t value = 0;

	if ((off & ~3ull) == MMIO_SELECT)
		value = io->s.select;
	else if ((off & ~3ull) == MMIO_WINDOW)
		value = read_register(io);
	return value >> byte * 8;
}

static void ioapic_write(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct ioapic *io = dev;

	if (off == MMIO_SELECT)
		io->s.select = (uint8_t)value;
	else if (off == MMIO_WINDOW && size >= 4)
		write_register(io, (uint32_t)value);
	else if (off == MMIO_EOI)
		ioapic_eoi(io, (uint8_t)value);
}

const struct bus_ops ioapic_ops = { .read = ioapic_read, .write = ioapic_write };

void ioapic_reset(struct ioapic *io)
{
	uint32_t lines = io->s.lines;
	uint8_t id = io->s.id;

	io->s = (struct ioapic_state){ .lines = lines, .id = id };
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		io->s.redir[pin] = REDIR_MASKED;
		tell_pin(io, pin);
	}
}

void ioapic_init(struct ioapic *io, struct lapic_bus *lapics, uint8_t id)
{
	*io = (struct ioapic){ .lapics = lapics, .s.id = id & 0x0f };
	ioapic_reset(io);
}
