/*
 * Between the UART, whose bytes must be taken at once, and a console that takes what it can.
 * Private to src/monitor/.
 */
#pragma once

#include "device/uart.h"
#include "monitor/vm.h"

/* Protected by bus.lock, as the UART itself. */
struct serial {
	struct uart *uart;
	struct vm_console console;
	/* Bytes that the console refused. The UART is held while there are any, so one FIFO's worth
	 * is all that can gather. */
	uint8_t held[UART_FIFO_SIZE];
	unsigned nr_held;
};

/* The backend to make the UART with; opaque is s. */
struct uart_backend serial_backend(struct serial *s);
/* With bus.lock held: tries again to give away what is held. */
void serial_resume(struct serial *s);
