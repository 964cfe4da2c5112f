/*
 * Fixed tables as packed structs; the DSDT is in acpi_dsdt.c.
 *
 * Linux cross-checks what it is told twice, and complains in its log: the 32-bit and the 64-bit
 * addresses in the FADT agree, register blocks have the widths of their lengths, and the interrupt
 * of the FADT has an override in the MADT that gives it the same trigger as the chipset.
 */
#include "machine/acpi.h"

#include <errno.h>
#include <string.h>

#include "machine/acpi_private.h"
#include "machine/layout.h"

struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

enum { SPACE_MEMORY, SPACE_IO };

/* Generic address structure, 5.2.3.2. */
struct address {
	uint8_t space, bits, offset, access;
	uint64_t base;
} __attribute__((packed));

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct facs {
	char signature[4];
	uint32_t length, hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version, reserved[3];
	uint32_t ospm_flags;
	uint8_t reserved2[24];
} __attribute__((packed));

struct fadt {
	struct header h;
	uint32_t facs, dsdt;
	uint8_t reserved, profile;
	uint16_t sci;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base;
	uint8_t cst_cnt;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_flags;
	uint8_t reserved2;
	uint32_t flags;
	struct address reset_reg;
	uint8_t reset_value;
	uint16_t arm_flags;
	uint8_t minor_revision;
	uint64_t x_facs, x_dsdt;
	struct address x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0;
	struct address x_gpe1, sleep_control, sleep_status;
	uint64_t hypervisor_id;
} __attribute__((packed));

#define FADT_WBINVD      BIT(0)
#define FADT_PROC_C1     BIT(2)
#define FADT_NO_SLEEP    BIT(5) /* no fixed sleep button; bit 4 clear: a fixed power button */
#define FADT_NO_FIX_RTC  BIT(6)
#define FADT_TMR_VAL_EXT BIT(8)
#define FADT_RESET_REG   BIT(10)
#define BOOT_LEGACY      BIT(0)
#define BOOT_8042        BIT(1)
#define BOOT_NO_VGA      BIT(2)
#define BOOT_NO_ASPM     BIT(4)
#define LATENCY_NO_C2    101 /* more than 100 us: the state does not exist (5.2.9) */
#define LATENCY_NO_C3    1001
#define CMOS_CENTURY     0x32

struct madt {
	struct header h;
	uint32_t lapic, flags;
} __attribute__((packed));
#define MADT_PCAT_COMPAT BIT(0) /* there is a pair of 8259 */

struct madt_lapic {
	uint8_t type, length, uid, apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} __attribute__((packed));

struct madt_override {
	uint8_t type, length, bus, source;
	uint32_t gsi;
	uint16_t flags;
} __attribute__((packed));

struct madt_nmi {
	uint8_t type, length, uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4 };
#define MADT_ENABLED    1
#define MADT_ALL_CPUS   0xff
#define MADT_AS_BUS     0x0 /* polarity and trigger conform to the bus: ISA, edge and high */
#define MADT_HIGH_LEVEL 0xd /* active high, level triggered */

struct hpet {
	struct header h;
	uint32_t id;
	struct address address;
	uint8_t number;
	uint16_t min_tick;
	uint8_t page_protection;
} __attribute__((packed));

/* PCI Firmware 3.0, table 4-3, with one entry. */
struct mcfg {
	struct header h;
	uint64_t reserved;
	uint64_t base;
	uint16_t segment;
	uint8_t first_bus, last_bus;
	uint32_t reserved2;
} __attribute__((packed));

_Static_assert(sizeof(struct header) == 36, "ACPI header");
_Static_assert(sizeof(struct rsdp) == 36, "RSDP");
_Static_assert(sizeof(struct facs) == 64, "FACS");
_Static_assert(sizeof(struct fadt) == 276, "FADT revision 6");
_Static_assert(offsetof(struct fadt, reset_reg) == 116, "FADT layout");
_Static_assert(offsetof(struct fadt, x_pm1a_evt) == 148, "FADT layout");
_Static_assert(sizeof(struct madt) == 44, "MADT");
_Static_assert(sizeof(struct hpet) == 56, "HPET");
_Static_assert(sizeof(struct mcfg) == 60, "MCFG");

/* The tables under construction: an image of guest memory at GPA_ACPI_TABLES. */
#define MAX_TABLES 8
struct tables {
	const struct acpi_args *args;
	uint8_t *host;
	size_t used;
	gpa_t facs, dsdt;
	unsigned nr; /* tables that the XSDT lists */
	gpa_t table[MAX_TABLES];
};

static uint8_t checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return (uint8_t)-sum;
}

/* Zeroed space; NULL when there is none. */
static void *alloc_table(struct tables *t, size_t len, size_t align, gpa_t *gpa)
{
	size_t at = (t->used + align - 1) & ~(align - 1);

	if (at > ACPI_TABLES_BYTES || len > ACPI_TABLES_BYTES - at)
		return NULL;
	t->used = at + len;
	*gpa = GPA_ACPI_TABLES + at;
	return memset(t->host + at, 0, len);
}

static void finish_table(struct header *h, const char *signature, uint8_t revision, size_t len)
{
	memcpy(h->signature, signature, 4);
	memcpy(h->oem_id, "TRAPEZ", 6);
	memcpy(h->oem_table_id, "TRAPEZE ", 8);
	memcpy(h->creator_id, "TRPZ", 4);
	h->length = (uint32_t)len;
	h->revision = revision;
	h->oem_revision = 1;
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = checksum(h, len);
}

static void list_table(struct tables *t, gpa_t gpa)
{
	t->table[t->nr++] = gpa;
}

static int build_facs(struct tables *t)
{
	struct facs *f = alloc_table(t, sizeof(*f), 64, &t->facs);

	if (!f)
		return -ENOSPC;
	memcpy(f->signature, "FACS", 4);
	f->length = sizeof(*f);
	f->version = 2;
	return 0;
}

static int build_dsdt(struct tables *t)
{
	struct header *h = alloc_table(t, sizeof(*h), 8, &t->dsdt);
	size_t len;

	if (!h)
		return -ENOSPC;
	len = acpi_write_dsdt(t->args, h + 1, ACPI_TABLES_BYTES - t->used);
	if (!len)
		return -ENOSPC;
	t->used += len;
	finish_table(h, "DSDT", 2, sizeof(*h) + len); /* 2: integers have 64 bits */
	return 0;
}

static struct address io_address(uint16_t port, uint8_t bytes, uint8_t access)
{
	return (struct address){ SPACE_IO, (uint8_t)(bytes * 8), 0, access, port };
}

static void fill_registers(struct fadt *f)
{
	enum { ACCESS_BYTE = 1, ACCESS_WORD, ACCESS_DWORD };

	f->pm1a_evt = PORT_PM1_EVT;
	f->pm1a_cnt = PORT_PM1_CNT;
	f->pm_tmr = PORT_PM_TIMER;
	f->gpe0 = PORT_GPE0;
	f->pm1_evt_len = LEN_PM1_EVT;
	f->pm1_cnt_len = LEN_PM1_CNT;
	f->pm_tmr_len = LEN_PM_TIMER;
	f->gpe0_len = LEN_GPE0;
	f->x_pm1a_evt = io_address(PORT_PM1_EVT, LEN_PM1_EVT, ACCESS_WORD);
	f->x_pm1a_cnt = io_address(PORT_PM1_CNT, LEN_PM1_CNT, ACCESS_WORD);
	f->x_pm_tmr = io_address(PORT_PM_TIMER, LEN_PM_TIMER, ACCESS_DWORD);
	f->x_gpe0 = io_address(PORT_GPE0, LEN_GPE0, ACCESS_BYTE);
	f->reset_reg = io_address(PORT_RESET, 1, ACCESS_BYTE);
	f->reset_value = RESET_VALUE;
}

static int build_fadt(struct tables *t)
{
	gpa_t gpa;
	struct fadt *f = alloc_table(t, sizeof(*f), 8, &gpa);

	if (!f)
		return -ENOSPC;
	f->facs = (uint32_t)t->facs; /* one of the two addresses is given, not both (5.2.9) */
	f->dsdt = (uint32_t)t->dsdt;
	f->x_dsdt = t->dsdt;
	f->sci = IRQ_SCI;
	f->c2_latency = LATENCY_NO_C2;
	f->c3_latency = LATENCY_NO_C3;
	f->century = CMOS_CENTURY;
	f->boot_flags = BOOT_LEGACY | BOOT_NO_VGA | BOOT_NO_ASPM | (t->args->i8042 ? BOOT_8042 : 0);
	f->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP | FADT_NO_FIX_RTC | FADT_RESET_REG |
	           (t->args->pm_timer_bits == 32 ? FADT_TMR_VAL_EXT : 0);
	fill_registers(f);
	finish_table(&f->h, "FACP", 6, sizeof(*f));
	list_table(t, gpa);
	return 0;
}

static int build_madt(struct tables *t)
{
	struct rest {
		struct madt_ioapic ioapic;
		struct madt_override pit, sci;
		struct madt_nmi nmi;
	} __attribute__((packed)) * rest;
	unsigned cpus = t->args->nr_cpus;
	struct madt_lapic *lapic;
	size_t len = sizeof(struct madt) + cpus * sizeof(*lapic) + sizeof(*rest);
	gpa_t gpa;
	struct madt *m = alloc_table(t, len, 8, &gpa);

	if (!m)
		return -ENOSPC;
	m->lapic = GPA_LAPIC;
	m->flags = MADT_PCAT_COMPAT;
	lapic = (struct madt_lapic *)(m + 1);
	for (unsigned i = 0; i < cpus; i++)
		lapic[i] = (struct madt_lapic){ MADT_LAPIC, sizeof(*lapic), (uint8_t)i, (uint8_t)i,
			                        MADT_ENABLED };
	rest = (struct rest *)(lapic + cpus);
	*rest = (struct rest){
		.ioapic = { MADT_IOAPIC, sizeof(rest->ioapic), 0, 0, GPA_IOAPIC, 0 },
		.pit = { MADT_OVERRIDE, sizeof(rest->pit), 0, IRQ_PIT, GSI_PIT, MADT_AS_BUS },
		.sci = { MADT_OVERRIDE, sizeof(rest->sci), 0, IRQ_SCI, IRQ_SCI, MADT_HIGH_LEVEL },
		.nmi = { MADT_LAPIC_NMI, sizeof(rest->nmi), MADT_ALL_CPUS, MADT_AS_BUS, 1 },
	};
	finish_table(&m->h, "APIC", 5, len);
	list_table(t, gpa);
	return 0;
}

static int build_hpet(struct tables *t)
{
	gpa_t gpa;
	struct hpet *h;

	if (!t->args->hpet_id)
		return 0;
	h = alloc_table(t, sizeof(*h), 8, &gpa);
	if (!h)
		return -ENOSPC;
	h->id = t->args->hpet_id;
	h->address = (struct address){ .space = SPACE_MEMORY, .base = GPA_HPET };
	finish_table(&h->h, "HPET", 1, sizeof(*h));
	list_table(t, gpa);
	return 0;
}

/* Without it Linux reaches the first 256 bytes of a function only, and warns; on AMD's processors
 * it never asks. */
static int build_mcfg(struct tables *t)
{
	gpa_t gpa;
	struct mcfg *m;

	if (!t->args->pci)
		return 0;
	m = alloc_table(t, sizeof(*m), 8, &gpa);
	if (!m)
		return -ENOSPC;
	m->base = GPA_PCI_CONFIG;
	finish_table(&m->h, "MCFG", 1, sizeof(*m));
	list_table(t, gpa);
	return 0;
}

/* The same list twice: with 32-bit addresses (RSDT) and with 64-bit ones (XSDT). */
static int build_list(struct tables *t, const char *signature, size_t entry, gpa_t *gpa)
{
	size_t len = sizeof(struct header) + t->nr * entry;
	struct header *h = alloc_table(t, len, 8, gpa);
	uint8_t *p = (uint8_t *)(h + 1);

	if (!h)
		return -ENOSPC;
	for (unsigned i = 0; i < t->nr; i++)
		memcpy(p + i * entry, &t->table[i], entry);
	finish_table(h, signature, 1, len);
	return 0;
}

static int build_rsdp(struct mem *m, gpa_t rsdt, gpa_t xsdt)
{
	struct rsdp r = { .signature = "RSD PTR ",
		          .oem_id = "TRAPEZ",
		          .revision = 2,
		          .rsdt = (uint32_t)rsdt,
		          .length = sizeof(r),
		          .xsdt = xsdt };

	r.checksum = checksum(&r, 20); /* of the first version's part */
	r.extended_checksum = checksum(&r, sizeof(r));
	return mem_write(m, GPA_ACPI_RSDP, &r, sizeof(r));
}

int acpi_build(struct mem *m, const struct acpi_args *a, gpa_t *rsdp)
{
	struct tables t = { .args = a };
	gpa_t rsdt, xsdt;
	int rc;

	if (a->nr_cpus < 1 || a->nr_cpus > ACPI_MAX_CPUS)
		return -EINVAL;
	t.host = mem_host(m, GPA_ACPI_TABLES, ACPI_TABLES_BYTES, true);
	if (!t.host)
		return -EFAULT;
	if ((rc = build_facs(&t)) || (rc = build_dsdt(&t)) || (rc = build_fadt(&t)) ||
	    (rc = build_madt(&t)) || (rc = build_hpet(&t)) || (rc = build_mcfg(&t)) ||
	    (rc = build_list(&t, "RSDT", 4, &rsdt)) || (rc = build_list(&t, "XSDT", 8, &xsdt)))
		return rc;
	*rsdp = GPA_ACPI_RSDP;
	return build_rsdp(m, rsdt, xsdt);
}
