#include "virtio.h"

#define PORT_CONFIG_ADDRESS 0xcf8
#define PORT_CONFIG_DATA    0xcfc

#define PCI_COMMAND 0x04
#define PCI_CAPS    0x34
#define CAP_VENDOR  0x09
#define CAP_MSIX    0x11

#define MSIX_ENABLE   0x80000000u /* in the dword that begins with the capability's id */
#define MSIX_MASK_ALL 0x40000000u

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

/* Configuration space. */

static uint32_t config_read(unsigned slot, unsigned reg)
{
	out32(PORT_CONFIG_ADDRESS, 0x80000000u | slot << 11 | (reg & 0xfc));
	return in32(PORT_CONFIG_DATA);
}

static void config_write(unsigned slot, unsigned reg, uint32_t v)
{
	out32(PORT_CONFIG_ADDRESS, 0x80000000u | slot << 11 | (reg & 0xfc));
	out32(PORT_CONFIG_DATA, v);
}

static uint8_t config_byte(unsigned slot, unsigned reg)
{
	return (uint8_t)(config_read(slot, reg) >> (8 * (reg & 3)));
}

static uintptr_t bar_address(unsigned slot, unsigned bar)
{
	return config_read(slot, 0x10 + 4 * bar) & ~0xfu; /* all are below 4 GiB */
}

static void use_vendor_capability(struct virtio *v, unsigned at)
{
	unsigned bar = config_byte(v->slot, at + 4);
	uintptr_t where = bar_address(v->slot, bar) + config_read(v->slot, at + 8);

	switch (config_byte(v->slot, at + 3)) {
	case CFG_COMMON:
		v->common = where;
		break;
	case CFG_NOTIFY:
		v->notify = where;
		v->bar = bar;
		break;
	}
}

static uintptr_t msix_place(const struct virtio *v, unsigned reg)
{
	uint32_t place = config_read(v->slot, v->msix + reg);

	return bar_address(v->slot, place & 7) + (place & ~7u);
}

static void read_capabilities(struct virtio *v)
{
	for (unsigned at = config_byte(v->slot, PCI_CAPS); at; at = config_byte(v->slot, at + 1)) {
		uint8_t id = config_byte(v->slot, at);

		if (id == CAP_VENDOR)
			use_vendor_capability(v, at);
		if (id == CAP_MSIX)
			v->msix = at;
	}
	v->table = msix_place(v, 4);
	v->pending = msix_place(v, 8);
}

bool virtio_find(struct virtio *v, uint16_t id)
{
	*v = (struct virtio){ .slot = 0 };
	for (unsigned slot = 1; slot < 32 && !v->slot; slot++)
		if (config_read(slot, 0) == ((uint32_t)id << 16 | 0x1af4))
			v->slot = slot;
	if (!v->slot)
		return false;
	config_write(v->slot, PCI_COMMAND, 6);
	read_capabilities(v);
	v->rings = page_alloc();
	return v->common && v->notify && v->msix;
}

void virtio_move(struct virtio *v, uint32_t distance)
{
	unsigned reg = 0x10 + 4 * v->bar;

	config_write(v->slot, PCI_COMMAND, 4);
	config_write(v->slot, reg, config_read(v->slot, reg) + distance);
	config_write(v->slot, PCI_COMMAND, 6);
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
	msix_set_vector(v, 0, config_vector);
	msix_set_vector(v, 1, queue_vector);
	config_write(v->slot, v->msix, MSIX_ENABLE);
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

/* MSI-X. */

#define ENTRY(v, n) ((v)->table + 16 * (n))

void msix_set_vector(struct virtio *v, unsigned entry, unsigned vector)
{
	store32(ENTRY(v, entry) + 12, 1);
	store32(ENTRY(v, entry), 0xfee00000);
	store32(ENTRY(v, entry) + 4, 0);
	store32(ENTRY(v, entry) + 8, vector);
	store32(ENTRY(v, entry) + 12, 0);
}

void msix_mask(struct virtio *v, unsigned entry, bool mask)
{
	store32(ENTRY(v, entry) + 12, mask);
	load32(ENTRY(v, entry) + 12);
}

void msix_mask_all(struct virtio *v, bool mask)
{
	config_write(v->slot, v->msix, MSIX_ENABLE | (mask ? MSIX_MASK_ALL : 0));
}

bool msix_is_pending(const struct virtio *v, unsigned entry)
{
	return load32(v->pending) >> entry & 1;
}
