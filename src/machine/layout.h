/*
 * Where everything is on the board: ports, guest physical addresses, interrupt lines. The board
 * wires its chips by these numbers and the firmware tables describe the same numbers to the guest.
 *
 * Numbers that every PC has had since the AT keep their places (UART, RTC, i8042, PIC, PIT); the
 * rest follows QEMU's machines, for which test programs are written.
 */
#pragma once

#include "base/base.h"
#include "mem/mem.h"

/* Ports. */
#define PORT_PIC_MASTER    0x20
#define PORT_PIC_SLAVE     0xa0
#define PORT_PIC_ELCR      0x4d0
#define PORT_PIT           0x40
#define PORT_PIT_GATE      0x61
#define PORT_I8042_DATA    0x60
#define PORT_I8042_CMD     0x64
#define PORT_RTC           0x70
#define PORT_DEBUGCON      0xe9
#define PORT_TESTDEV_ECHO  0xe0 /* pc-testdev: I/O echo, flush, interrupt lines */
#define PORT_TESTDEV_FLUSH 0xe4
#define PORT_TESTDEV_IRQ   0x2000
#define PORT_EXIT          0xf4 /* isa-debug-exit */
#define PORT_COM1          0x3f8
#define PORT_FW_CFG        0x510
#define PORT_RESET         0xcf9
#define PORT_PM_BASE       0x600
#define PORT_PM1_EVT       (PORT_PM_BASE + 0) /* status 2 bytes, enable 2 bytes */
#define PORT_PM1_CNT       (PORT_PM_BASE + 4)
#define PORT_PM_TIMER      (PORT_PM_BASE + 8)
#define PORT_GPE0          0x620

#define LEN_PM1_EVT  4
#define LEN_PM1_CNT  2
#define LEN_PM_TIMER 4
#define LEN_GPE0     4 /* status 2 bytes, enable 2 bytes */

#define RESET_VALUE   0x06 /* written to PORT_RESET: full reset */
#define SLEEP_S5_TYPE 0    /* SLP_TYP of power off, in PM1_CNT bits 12:10 */

/* Interrupt lines: ISA numbers, which are also I/O APIC inputs except line 0. */
#define IRQ_PIT      0
#define IRQ_KEYBOARD 1
#define IRQ_COM1     4
#define IRQ_RTC      8
#define IRQ_SCI      9 /* level triggered, active high */
#define IRQ_MOUSE    12
#define GSI_PIT      2
#define GSI_PCI      16 /* the first of PCI_GSIS that PCI functions share */
#define PCI_GSIS     8
#define GSI_COUNT    24

/* General-purpose events. */
#define GPE_VMGENID 5

/* Memory-mapped devices. The PCI bus' configuration space begins where RAM ends. */
#define GPA_PCI_CONFIG    MEM_HOLE_BASE
#define PCI_CONFIG_WINDOW 0x100000ull /* one bus of 256 functions, 4 KiB each */
#define GPA_PCI_LOW       (GPA_PCI_CONFIG + PCI_CONFIG_WINDOW) /* BARs, up to the I/O APIC */
#define PCI_LOW_WINDOW    (GPA_IOAPIC - GPA_PCI_LOW)
/* The end of what a guest can address (40 bits); there is none when RAM reaches so far. */
#define PCI_HIGH_WINDOW   (32 * GiB)
#define GPA_PCI_HIGH      (BIT(40) - PCI_HIGH_WINDOW)
#define GPA_TESTDEV_IORAM 0xff000000ull
#define GPA_IOAPIC        0xfec00000ull
#define GPA_HPET          0xfed00000ull
#define GPA_LAPIC         0xfee00000ull
#define GPA_ENGINE        0xfeffc000ull /* ENGINE_PRIVATE_BYTES that an engine may need */

/*
 * Low memory as a started kernel finds it. Everything here is inside the first 640 KiB, which E820
 * reports usable: kernels are done with it, or have copied it, before they hand it out.
 */
#define GPA_GDT          0x500ull
#define GPA_BOOT_STACK   0x6ff0ull /* grows down */
#define GPA_BOOT_INFO    0x7000ull /* zero page, hvm_start_info or multiboot information: 4 KiB */
#define GPA_PAGE_TABLES  0x9000ull /* PML4, PDPT, 4 page directories: identity map of 4 GiB */
#define PAGE_TABLE_PAGES 6
#define GPA_BOOT_LISTS   0x10000ull /* memory maps, module lists and their strings */
#define BOOT_LISTS_BYTES 0x10000ull
#define GPA_CMDLINE      0x20000ull
#define CMDLINE_BYTES    0x10000ull /* the most a command line may take, final NUL included */
#define GPA_EBDA         0x9fc00ull /* reserved from here to 640 KiB */
#define GPA_VMGENID      0x9fe00ull /* the VM generation ID, 16 bytes */

/* Firmware tables, in the area that E820 reports reserved and that guests scan. */
#define GPA_BIOS_AREA     0xe0000ull
#define GPA_ACPI_TABLES   0xe0000ull
#define ACPI_TABLES_BYTES 0x10000ull
#define GPA_SMBIOS        0xf0000ull
#define GPA_ACPI_RSDP     0xf8000ull
#define GPA_HIGH_LOAD     0x100000ull /* 1 MiB: kernels go here and above */
