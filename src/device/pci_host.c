#include <errno.h>
#include <string.h>

#include "device/pci_host.h"

#define ADDRESS_ENABLE   BIT(31)
#define ADDRESS_MASK     0x80fffffcu /* bits 30:24 and 1:0 are reserved and read zero */
#define ADDRESS_BUS(a)   (((a) >> 16) & 0xff)
#define ADDRESS_DEVFN(a) (((a) >> 8) & 0xff)
#define ADDRESS_REG(a)   ((a)&0xfc)
#define RESET_OFFSET     1 /* of 0xcf9 */

/* Offset in the memory window. */
#define MEMORY_DEVFN(off) ((uint8_t)((off) >> 12))
#define MEMORY_REG(off)   ((unsigned)((off)&0xfff))

/* Configuration header, PCI 3.0 6.1 */
#define REG_VENDOR    0x00
#define REG_DEVICE    0x02
#define REG_COMMAND   0x04
#define REG_CLASS     0x0a
#define REG_SUBVENDOR 0x2c
#define REG_SUBDEVICE 0x2e

/* The identity of QEMU's generic host bridge, for which no system has workarounds. */
#define BRIDGE_VENDOR    0x1b36
#define BRIDGE_DEVICE    0x0008
#define BRIDGE_CLASS     0x0600
#define BRIDGE_SUBVENDOR 0x1af4
#define BRIDGE_SUBDEVICE 0x1100

static void put_u16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

static bool is_reset_access(const struct pci_host *h, uint64_t off, unsigned size)
{
	return h->reset_ops && off == RESET_OFFSET && size == 1;
}

static uint64_t read_address(void *dev, uint64_t off, unsigned size)
{
	const struct pci_host *h = dev;

	if (is_reset_access(h, off, size))
		return h->reset_ops->read(h->reset_dev, 0, 1);
	return size == 4 ? h->address : UINT64_MAX;
}

static void write_address(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_host *h = dev;

	if (is_reset_access(h, off, size))
		h->reset_ops->write(h->reset_dev, 0, 1, value);
	else if (size == 4)
		h->address = (uint32_t)value & ADDRESS_MASK;
}

const struct bus_ops pci_host_address_ops = {
	.read = read_address,
	.write = write_address,
	.max_size = 4,
};

/* The function that CONFIG_ADDRESS selects; NULL where nothing would answer on the bus. */
static struct pci_function *find_function(const struct pci_host *h)
{
	if (!(h->address & ADDRESS_ENABLE) || ADDRESS_BUS(h->address) != 0)
		return NULL;
	return h->function[ADDRESS_DEVFN(h->address)];
}

static uint64_t read_config(const struct pci_function *f, unsigned reg, unsigned size)
{
	uint64_t value = 0;

	if (!f)
		return UINT64_MAX; /* master abort */
	memcpy(&value, &f->config[reg], size);
	return value;
}

static void write_config(struct pci_function *f, unsigned reg, unsigned size, uint64_t value)
{
	if (!f)
		return;
	for (unsigned i = reg; i < reg + size; i++, value >>= 8)
		f->config[i] =
		        (uint8_t)((f->config[i] & ~f->writable[i]) | (value & f->writable[i]));
}

static uint64_t read_data(void *dev, uint64_t off, unsigned size)
{
	const struct pci_host *h = dev;

	return read_config(find_function(h), ADDRESS_REG(h->address) + (unsigned)off, size);
}

static void write_data(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_host *h = dev;

	write_config(find_function(h), ADDRESS_REG(h->address) + (unsigned)off, size, value);
}

const struct bus_ops pci_host_data_ops = {
	.read = read_data,
	.write = write_data,
	.max_size = 4,
};

/* The function at an offset in the memory window; NULL beyond the registers that it has. */
static struct pci_function *function_at(const struct pci_host *h, uint64_t off, unsigned size)
{
	if (MEMORY_REG(off) + size > PCI_CONFIG_BYTES)
		return NULL;
	return h->function[MEMORY_DEVFN(off)];
}

static uint64_t read_memory(void *dev, uint64_t off, unsigned size)
{
	return read_config(function_at(dev, off, size), MEMORY_REG(off), size);
}

static void write_memory(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	write_config(function_at(dev, off, size), MEMORY_REG(off), size, value);
}

const struct bus_ops pci_host_config_ops = {
	.read = read_memory,
	.write = write_memory,
	.max_size = 4,
};

static void fill_bridge(struct pci_function *f)
{
	put_u16(&f->config[REG_VENDOR], BRIDGE_VENDOR);
	put_u16(&f->config[REG_DEVICE], BRIDGE_DEVICE);
	put_u16(&f->config[REG_CLASS], BRIDGE_CLASS);
	put_u16(&f->config[REG_SUBVENDOR], BRIDGE_SUBVENDOR);
	put_u16(&f->config[REG_SUBDEVICE], BRIDGE_SUBDEVICE);
	put_u16(&f->writable[REG_COMMAND], 0x0147); /* I/O, memory, master, parity, SERR# */
}

void pci_host_init(struct pci_host *h, const struct bus_ops *reset_ops, void *reset_dev)
{
	memset(h, 0, sizeof(*h));
	h->reset_ops = reset_ops;
	h->reset_dev = reset_dev;
	fill_bridge(&h->bridge);
	h->function[PCI_DEVFN(0, 0)] = &h->bridge;
}

void pci_host_reset(struct pci_host *h)
{
	h->address = 0;
	put_u16(&h->bridge.config[REG_COMMAND], 0);
}

int pci_host_add(struct pci_host *h, uint8_t devfn, struct pci_function *f)
{
	if (h->function[devfn])
		return -EEXIST;
	h->function[devfn] = f;
	return 0;
}
