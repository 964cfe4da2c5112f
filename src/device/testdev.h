/*
 * The test device that bare-metal test programs written for QEMU know as pc-testdev: echo ports,
 * interrupt lines under the program's control, a page-flush port and a buffer in I/O memory.
 *
 *   port 0xe0, 4    a 32-bit register, any access width
 *   port 0xe4, 4    write a gpa as a dword: the host drops its mapping of that page
 *   port 0xe8, 4    the same register as 0xe0, in byte accesses only
 *   port 0x2000, 24 write a byte to 0x2000 + n: ISA interrupt line n rises or falls
 *   0xff000000      64 KiB that keep what is written, as device memory
 *
 * The debug console's port 0xe9 lies within the third range. Where a machine has both, the board
 * maps only the byte at 0xe8.
 */
#pragma once

#include "bus/bus.h"

#define TESTDEV_ECHO_PORT      0xe0
#define TESTDEV_ECHO_LEN       4
#define TESTDEV_FLUSH_PORT     0xe4
#define TESTDEV_FLUSH_LEN      4
#define TESTDEV_ECHO_BYTE_PORT 0xe8
#define TESTDEV_ECHO_BYTE_LEN  4
#define TESTDEV_IRQ_PORT       0x2000
#define TESTDEV_IRQ_LINES      24
#define TESTDEV_IOMEM_BASE     0xff000000ull
#define TESTDEV_IOMEM_LEN      0x10000

struct testdev {
	struct irq_line irq[TESTDEV_IRQ_LINES];
	/* May be NULL. Called with bus.lock held; page is a multiple of PAGE_SIZE, perhaps not RAM.
	 */
	void (*flush_page)(void *opaque, gpa_t page);
	void *opaque;
	uint32_t echo;
	uint8_t iomem[TESTDEV_IOMEM_LEN];
};

extern const struct bus_ops testdev_echo_ops;
extern const struct bus_ops testdev_echo_byte_ops;
extern const struct bus_ops testdev_flush_ops;
extern const struct bus_ops testdev_irq_ops;
extern const struct bus_ops testdev_iomem_ops;

/* Line n of the device is `first` with first.n + n, as the lines of an interrupt controller count.
 */
void testdev_init(struct testdev *t, struct irq_line first,
                  void (*flush_page)(void *opaque, gpa_t page), void *opaque);
void testdev_reset(struct testdev *t);
