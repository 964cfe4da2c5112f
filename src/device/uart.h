/*
 * A 16550A serial port (National PC16550D datasheet). The chip knows eight registers, an interrupt
 * line and a backend; no baud rate is simulated: a byte takes no time.
 *
 * All functions are called with bus.lock held, and so are the backend's.
 */
#pragma once

#include "bus/bus.h"

#define UART_LEN       8
#define UART_FIFO_SIZE 16

struct uart_backend {
	/* Takes n (at most UART_FIFO_SIZE) bytes of output, always all of them, and must not block.
	 * A backend that has less room left than UART_FIFO_SIZE says so with uart_tx_ready(u,
	 * false), perhaps from within this call. */
	void (*put)(void *opaque, const uint8_t *buf, size_t n);
	/* The receiver has room again after uart_receive() had taken less than it was given. It may
	 * call uart_receive(). May be NULL. */
	void (*room)(void *opaque);
	void *opaque;
};

struct uart_fifo {
	uint8_t data[UART_FIFO_SIZE];
	unsigned head, count;
};

struct uart {
	struct irq_line irq;
	struct uart_backend backend;

	uint8_t ier, fcr, lcr, mcr, scratch;
	uint8_t line_errors; /* LSR bits that a read of LSR clears */
	uint8_t msr_delta;   /* MSR bits that a read of MSR clears */
	uint8_t divisor[2];
	bool thre_pending; /* the transmitter-empty interrupt waits for service */
	bool tx_ready;     /* the backend takes bytes */
	bool rx_refused;   /* the backend holds bytes that did not fit */
	struct uart_fifo rx, tx;
};

extern const struct bus_ops uart_ops;

void uart_init(struct uart *u, struct irq_line irq, struct uart_backend backend);
/* The MR pin. Output that waits for the backend is lost, as on the chip. */
void uart_reset(struct uart *u);

/* Input from the world. Returns how many bytes fit; the backend keeps the rest until room(). */
size_t uart_receive(struct uart *u, const uint8_t *buf, size_t n);
/* Back-pressure: while the backend is not ready the guest sees a busy transmitter. */
void uart_tx_ready(struct uart *u, bool ready);
