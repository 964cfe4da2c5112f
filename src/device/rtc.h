/*
 * The real-time clock and CMOS memory of a PC (Motorola MC146818A), at ports 0x70 (index) and 0x71.
 *
 * The clock starts at the host's UTC time and then runs by clock_ns(); a guest that sets it moves
 * only its own. All functions are called with bus.lock held, except init and fini.
 */
#pragma once

#include "base/loop.h"
#include "bus/bus.h"

#define RTC_PORT        0x70
#define RTC_LEN         2
#define RTC_IRQ         8
#define RTC_CMOS_BYTES  128
#define RTC_REG_CENTURY 0x32 /* for the FADT */

struct rtc {
	struct irq_line irq;
	struct bus *bus;
	struct timer timer;

	uint8_t index;
	uint8_t cmos[RTC_CMOS_BYTES]; /* time registers are current only while the clock is stopped
	                               */

	/* The divider chain counts clock_ns() + phase_ns, in [0, 1 s); a second of the chain plus
	 * offset_s is the guest's UTC second. */
	uint64_t phase_ns;
	int64_t offset_s;
	uint64_t seen_ns; /* of the chain: events up to here are in register C */
};

extern const struct bus_ops rtc_ops;

void rtc_init(struct rtc *r, struct irq_line irq, struct bus *bus, struct loop *loop);
void rtc_fini(struct rtc *r);
/* The RESET pin: interrupts off; time, alarm and memory stay. */
void rtc_reset(struct rtc *r);

/* Describes RAM in the CMOS bytes where firmware leaves it: low is below 4 GiB, high above. */
void rtc_set_memory(struct rtc *r, uint64_t low_bytes, uint64_t high_bytes);
