/*
 * The fixed hardware of ACPI (ACPI 6.4, chapter 4.8): PM1a event and control blocks, the power
 * management timer, a general-purpose event block and the reset register. There is no SMI_CMD: the
 * machine starts in ACPI mode.
 *
 * One range of ports, laid out as Intel's ICH9 has it, so that the idiom "outw(0x604, 0x2000)" of
 * small programs powers off; the reset register is a range of its own.
 *
 * All functions are called with bus.lock held, except init and fini; so are the callbacks.
 */
#pragma once

#include "base/loop.h"
#include "bus/bus.h"

#define ACPI_PM_BASE       0x600
#define ACPI_PM_LEN        0x30
#define ACPI_PM_EVT        0x00 /* offsets of the blocks, and their lengths for the FADT */
#define ACPI_PM_EVT_LEN    4
#define ACPI_PM_CNT        0x04
#define ACPI_PM_CNT_LEN    2
#define ACPI_PM_TMR        0x08
#define ACPI_PM_TMR_LEN    4
#define ACPI_PM_GPE0       0x20
#define ACPI_PM_GPE0_LEN   4
#define ACPI_PM_GPE0_BITS  16
#define ACPI_PM_TMR_HZ     3579545
#define ACPI_PM_SLP_TYP_S5 0 /* for \_S5 in the DSDT */

#define ACPI_RESET_PORT  0xcf9
#define ACPI_RESET_LEN   1
#define ACPI_RESET_VALUE 0x06 /* for the FADT */

struct acpi_pm_callbacks {
	void (*power_off)(void *opaque);
	void (*reset)(void *opaque);
	void *opaque;
};

struct acpi_pm {
	struct irq_line sci;
	struct acpi_pm_callbacks callbacks;
	struct bus *bus;
	struct timer timer;
	unsigned timer_bits; /* 24 or 32, TMR_VAL_EXT of the FADT */

	uint16_t status, enable, control;
	uint16_t gpe_status, gpe_enable;
	uint8_t reset_control;
	uint64_t epoch_ns;   /* clock_ns() when the timer was 0 */
	uint64_t seen_ticks; /* toggles of the timer's top bit up to here are in status */
};

extern const struct bus_ops acpi_pm_ops;
extern const struct bus_ops acpi_reset_ops;

void acpi_pm_init(struct acpi_pm *p, struct irq_line sci, struct acpi_pm_callbacks callbacks,
                  struct bus *bus, struct loop *loop, unsigned timer_bits);
void acpi_pm_fini(struct acpi_pm *p);
void acpi_pm_reset(struct acpi_pm *p);

/* Somebody presses the power button. False when the guest does not listen to it. */
bool acpi_pm_press_power(struct acpi_pm *p);
/* General-purpose event n, below ACPI_PM_GPE0_BITS, has happened. */
void acpi_pm_raise_gpe(struct acpi_pm *p, unsigned n);
