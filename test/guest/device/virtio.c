#include "virtio.h"

#define CAP_VENDOR 0x09

enum { CFG_COMMON = 1, CFG_NOTIFY = 2 };

/* The common configuration. */
enum {
	DRIVER_SELECT = 0x08,
	DRIVER_FEATURE = 0x0c,
	CONFIG_VECTOR = 0x10,
	STATUS = 0x14,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_DRIVER = 0x28,
	QUEUE_DEVICE = 0x30,
};

static void store16(uintptr_t address, uint16_t v)
{
	*(volatile uint16_t *)address = v;
}

static uint16_t load16(uintptr_t address)
{
	return *(volatile uint16_t *)address;
}

static void use_vendor_capability(struct virtio *v, unsigned at)
{
	unsigned bar = config_byte(v->pci.slot, at + 4);
	uintptr_t where = bar_address(v->pci.slot, bar) + config_read(v->pci.slot, at + 8);

	switch (config_byte(v->pci.slot, at + 3)) {
	case CFG_COMMON:
		v->common = where;
		break;
	case CFG_NOTIFY:
		v->notify = where;
		v->bar = bar;
		break;
	}
}

static void read_capabilities(struct virtio *v)
{
	unsigned slot = v->pci.slot;

	for (unsigned at = config_byte(slot, PCI_CAPS); at; at = config_byte(slot, at + 1))
		if (config_byte(slot, at) == CAP_VENDOR)
			use_vendor_capability(v, at);
}

bool virtio_find(struct virtio *v, uint16_t id)
{
	*v = (struct virtio){ .common = 0 };
	if (!pci_find(&v->pci, 0, 0xffffffff, (uint32_t)id << 16 | 0x1af4))
		return false;
	read_capabilities(v);
	v->rings = page_alloc();
	return v->common && v->notify;
}

void virtio_move(struct virtio *v, uint32_t distance)
{
	unsigned slot = v->pci.slot, reg = PCI_BAR0 + 4 * v->bar;

	config_write(slot, PCI_COMMAND, PCI_COMMAND_MASTER);
	config_write(slot, reg, config_read(slot, reg) + distance);
	config_write(slot, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_find_again(&v->pci);
	read_capabilities(v);
}

/* The device. */

static volatile uint8_t *status(const struct virtio *v)
{
	return (volatile uint8_t *)(v->common + STATUS);
}

void virtio_reset(struct virtio *v)
{
	*status(v) = 0;
	while (*status(v))
		pause();
}

static void put_rings(struct virtio *v)
{
	const uintptr_t rings[] = { (uintptr_t)v->rings->desc, (uintptr_t)&v->rings->avail,
		                    (uintptr_t)&v->rings->used };

	memset(v->rings, 0, sizeof(*v->rings));
	store16(v->common + QUEUE_SELECT, 0);
	store16(v->common + QUEUE_SIZE, VIRTIO_RING);
	for (unsigned i = 0; i < 3; i++) {
		store32(v->common + QUEUE_DESC + 8 * i, (uint32_t)rings[i]);
		store32(v->common + QUEUE_DESC + 8 * i + 4, 0);
	}
	store16(v->common + CONFIG_VECTOR, 0);
	store16(v->common + QUEUE_VECTOR, 1);
	store16(v->common + QUEUE_ENABLE, 1);
	v->notify_off = load16(v->common + QUEUE_NOTIFY);
}

void virtio_start(struct virtio *v, unsigned config_vector, unsigned queue_vector)
{
	virtio_reset(v);
	msix_set_vector(&v->pci, 0, config_vector);
	msix_set_vector(&v->pci, 1, queue_vector);
	msix_enable(&v->pci);
	*status(v) = 1;
	*status(v) = 3;
	store32(v->common + DRIVER_SELECT, 0);
	store32(v->common + DRIVER_FEATURE, 0);
	store32(v->common + DRIVER_SELECT, 1);
	store32(v->common + DRIVER_FEATURE, 1); /* VERSION_1 */
	*status(v) = 11;
	ok("it takes the features", *status(v) == 11);
	put_rings(v);
	*status(v) = 15;
}

void virtio_ring(struct virtio *v)
{
	store16(v->notify, 0);
}

void virtio_offer(struct virtio *v)
{
	struct virtio_rings *r = v->rings;

	r->avail.entry[r->avail.index % VIRTIO_RING] = 0;
	__atomic_store_n(&r->avail.index, (uint16_t)(r->avail.index + 1), __ATOMIC_SEQ_CST);
	virtio_ring(v);
}

bool virtio_idle(const struct virtio *v)
{
	return __atomic_load_n(&v->rings->used.index, __ATOMIC_ACQUIRE) == v->rings->avail.index;
}
