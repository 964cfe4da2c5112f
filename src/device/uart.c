/*
 * The 16550A. Section numbers are those of the PC16550D datasheet, chapter 8 (registers).
 *
 * Time. A byte is sent the moment it is written and received the moment it arrives, so that
 *
 * - the transmitter is empty unless the backend refuses bytes. Writing THR still drops the
 * interrupt line and raises it anew, which is the edge that an edge-triggered I/O APIC pin needs;
 * - the receiver's "four character times without a byte" have always gone by: a FIFO that is filled
 *   below its trigger level indicates a timeout at once.
 *
 * Interrupts are a function of the state (pending_cause), ordered by priority; the line follows
 * after each access. Only the transmitter-empty interrupt has a memory of its own: it is set when
 * THR becomes empty and when it is enabled while THR is empty (drivers probe for exactly this), and
 * cleared by writing THR or by reading IIR while it is the cause shown (8.6.5, table IV).
 *
 * On a PC the OUT2 pin gates the interrupt line; loop-back mode forces the pin inactive (8.6.7).
 */
#include <string.h>

#include "device/uart.h"

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH };

#define IER_RX   0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MSR  0x08
#define IER_MASK 0x0f

#define IIR_MSR     0x00
#define IIR_NONE    0x01
#define IIR_THRE    0x02
#define IIR_RX      0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT     0xc9 /* enable, DMA mode, trigger level */

#define LCR_BREAK 0x40
#define LCR_DLAB  0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR   0x01
#define LSR_OE   0x02
#define LSR_BI   0x10
#define LSR_THRE 0x20
#define LSR_TEMT 0x40

#define MSR_DCTS  0x01
#define MSR_DDSR  0x02
#define MSR_TERI  0x04
#define MSR_DDCD  0x08
#define MSR_CTS   0x10
#define MSR_DSR   0x20
#define MSR_RI    0x40
#define MSR_DCD   0x80
#define MSR_LINES 0xf0

#define DIVISOR_9600 12

static void push_byte(struct uart_fifo *f, uint8_t byte)
{
	f->data[(f->head + f->count) % UART_FIFO_SIZE] = byte;
	f->count++;
}

static uint8_t pop_byte(struct uart_fifo *f)
{
	uint8_t byte = f->data[f->head];

	f->head = (f->head + 1) % UART_FIFO_SIZE;
	f->count--;
	return byte;
}

static void clear_fifo(struct uart_fifo *f)
{
	f->head = 0;
	f->count = 0;
}

static bool fifo_enabled(const struct uart *u)
{
	return u->fcr & FCR_ENABLE;
}

/* Without FIFOs the holding registers are FIFOs of one byte. */
static unsigned fifo_depth(const struct uart *u)
{
	return fifo_enabled(u) ? UART_FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
	static const uint8_t level[] = { 1, 4, 8, 14 };

	return fifo_enabled(u) ? level[u->fcr >> 6] : 1;
}

/* The world's side is a terminal that is always there; loop-back wires the outputs to the inputs.
 */
static uint8_t modem_lines(const struct uart *u)
{
	if (!(u->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
	                 (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static uint8_t line_status(const struct uart *u)
{
	uint8_t lsr = u->line_errors;

	if (u->rx.count)
		lsr |= LSR_DR;
	if (!u->tx.count)
		lsr |= LSR_THRE | LSR_TEMT;
	return lsr;
}

/* The interrupt of the highest priority, as IIR shows it (table III). */
static uint8_t pending_cause(const struct uart *u)
{
	if ((u->ier & IER_LINE) && u->line_errors)
		return IIR_LINE;
	if ((u->ier & IER_RX) && u->rx.count)
		return u->rx.count >= rx_trigger(u) ? IIR_RX : IIR_TIMEOUT;
	if ((u->ier & IER_THRE) && u->thre_pending)
		return IIR_THRE;
	if ((u->ier & IER_MSR) && u->msr_delta)
		return IIR_MSR;
	return IIR_NONE;
}

static void update_irq(struct uart *u)
{
	bool gate = (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

	irq_set(&u->irq, gate && pending_cause(u) != IIR_NONE);
}

/* Tells the backend once that what it holds may come. Last in every path: it may call back. */
static void offer_room(struct uart *u)
{
	if (!u->rx_refused || u->rx.count || (u->mcr & MCR_LOOP))
		return;
	u->rx_refused = false;
	if (u->backend.room)
		u->backend.room(u->backend.opaque);
}

static void loop_byte(struct uart *u, uint8_t byte)
{
	if (u->rx.count < fifo_depth(u))
		push_byte(&u->rx, byte);
	else
		u->line_errors |= LSR_OE;
}

/* Empties the transmitter into the backend. The bytes leave our state first: put() may call back.
 */
static void flush_tx(struct uart *u)
{
	uint8_t buf[UART_FIFO_SIZE];
	size_t n = 0;

	while (u->tx.count)
		buf[n++] = pop_byte(&u->tx);
	u->thre_pending = true;
	if (n && u->backend.put)
		u->backend.put(u->backend.opaque, buf, n);
}

static void write_thr(struct uart *u, uint8_t byte)
{
	u->thre_pending = false;
	update_irq(u);
	if (u->mcr & MCR_LOOP) {
		loop_byte(u, byte);
		u->thre_pending = true;
		return;
	}
	/* A full transmitter loses what is written on top. */
	if (u->tx.count < fifo_depth(u))
		push_byte(&u->tx, byte);
	if (u->tx_ready)
		flush_tx(u);
}

static void write_ier(struct uart *u, uint8_t value)
{
	uint8_t enabled = value & ~u->ier;

	u->ier = value & IER_MASK;
	if ((enabled & IER_THRE) && !u->tx.count)
		u->thre_pending = true;
}

static void write_fcr(struct uart *u, uint8_t value)
{
	bool toggled = (value ^ u->fcr) & FCR_ENABLE;

	/* The other bits are not programmed unless bit 0 is written as one (8.6.4). */
	u->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
	if (toggled || (value & (FCR_ENABLE | FCR_CLEAR_RX)) == (FCR_ENABLE | FCR_CLEAR_RX))
		clear_fifo(&u->rx);
	if (toggled || (value & (FCR_ENABLE | FCR_CLEAR_TX)) == (FCR_ENABLE | FCR_CLEAR_TX)) {
		if (u->tx.count)
			u->thre_pending = true;
		clear_fifo(&u->tx);
	}
}

/* A break in loop-back mode reaches our own receiver, as a zero byte and an error. */
static void write_lcr(struct uart *u, uint8_t value)
{
	bool breaks = (value & ~u->lcr) & LCR_BREAK;

	u->lcr = value;
	if (breaks && (u->mcr & MCR_LOOP)) {
		loop_byte(u, 0);
		u->line_errors |= LSR_BI;
	}
}

static void write_mcr(struct uart *u, uint8_t value)
{
	uint8_t before = modem_lines(u), after;

	u->mcr = value & MCR_MASK;
	after = modem_lines(u);
	/* RI counts only when it ends; the other three on any change. */
	u->msr_delta |= ((before ^ after) >> 4) & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
	if (before & ~after & MSR_RI)
		u->msr_delta |= MSR_TERI;
}

static uint8_t read_rbr(struct uart *u)
{
	return u->rx.count ? pop_byte(&u->rx) : 0;
}

static uint8_t read_iir(struct uart *u)
{
	uint8_t cause = pending_cause(u);

	if (cause == IIR_THRE)
		u->thre_pending = false;
	return cause | (fifo_enabled(u) ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart *u)
{
	uint8_t lsr = line_status(u);

	u->line_errors = 0;
	return lsr;
}

static uint8_t read_msr(struct uart *u)
{
	uint8_t msr = modem_lines(u) | u->msr_delta;

	u->msr_delta = 0;
	return msr;
}

static uint8_t read_register(struct uart *u, unsigned reg)
{
	switch (reg) {
	case REG_DATA:
		return read_rbr(u);
	case REG_IER:
		return u->ier;
	case REG_IIR_FCR:
		return read_iir(u);
	case REG_LCR:
		return u->lcr;
	case REG_MCR:
		return u->mcr;
	case REG_LSR:
		return read_lsr(u);
	case REG_MSR:
		return read_msr(u);
	default:
		return u->scratch;
	}
}

static void write_register(struct uart *u, unsigned reg, uint8_t value)
{
	switch (reg) {
	case REG_DATA:
		write_thr(u, value);
		break;
	case REG_IER:
		write_ier(u, value);
		break;
	case REG_IIR_FCR:
		write_fcr(u, value);
		break;
	case REG_LCR:
		write_lcr(u, value);
		break;
	case REG_MCR:
		write_mcr(u, value);
		break;
	case REG_SCRATCH:
		u->scratch = value;
		break;
	default:
		break; /* LSR and MSR: writing them is for factory tests */
	}
}

/* With DLAB set, the divisor latch hides the first two registers. */
static bool is_divisor(const struct uart *u, uint64_t off)
{
	return (u->lcr & LCR_DLAB) && off <= REG_IER;
}

static uint64_t read_uart(void *dev, uint64_t off, unsigned size)
{
	struct uart *u = dev;
	uint8_t value;

	if (is_divisor(u, off))
		return u->divisor[off];
	value = read_register(u, (unsigned)off);
	update_irq(u);
	offer_room(u);
	return value;
}

static void write_uart(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct uart *u = dev;

	if (is_divisor(u, off)) {
		u->divisor[off] = (uint8_t)value;
		return;
	}
	write_register(u, (unsigned)off, (uint8_t)value);
	update_irq(u);
	offer_room(u);
}

const struct bus_ops uart_ops = {
	.read = read_uart,
	.write = write_uart,
	.max_size = 1,
};

size_t uart_receive(struct uart *u, const uint8_t *buf, size_t n)
{
	size_t taken = 0;

	/* Loop-back mode cuts the receiver off from the world. */
	if (!(u->mcr & MCR_LOOP)) {
		while (taken < n && u->rx.count < fifo_depth(u))
			push_byte(&u->rx, buf[taken++]);
	}
	u->rx_refused = taken < n;
	update_irq(u);
	return taken;
}

void uart_tx_ready(struct uart *u, bool ready)
{
	u->tx_ready = ready;
	if (ready && u->tx.count) {
		flush_tx(u);
		update_irq(u);
	}
}

void uart_init(struct uart *u, struct irq_line irq, struct uart_backend backend)
{
	memset(u, 0, sizeof(*u));
	u->irq = irq;
	u->backend = backend;
	u->tx_ready = true;
	u->divisor[0] = DIVISOR_9600;
}

void uart_reset(struct uart *u)
{
	u->ier = u->fcr = u->lcr = u->mcr = 0;
	u->line_errors = u->msr_delta = 0;
	u->thre_pending = false;
	clear_fifo(&u->rx);
	clear_fifo(&u->tx);
	update_irq(u);
	offer_room(u);
}
