/*
 * One memory BAR holds everything, a page each: the common configuration, the interrupt status, the
 * device's configuration, the doorbells, and MSI-X' table and pending bits.
 */
#include "device/virtio/virtio_pci.h"

#include <errno.h>
#include <string.h>

#define BAR          0
#define BAR_LEN      0x8000
#define PAGE_COMMON  0x0000
#define PAGE_ISR     0x1000
#define PAGE_DEVICE  0x2000
#define PAGE_NOTIFY  VIRTIO_PCI_NOTIFY
#define PAGE_TABLE   0x4000
#define PAGE_PENDING 0x5000
#define PAGE_LEN     0x1000
#define NOTIFY_STEP  VIRTIO_PCI_NOTIFY_STEP

/* 4.1.4 */
#define CAP_VENDOR 0x09
enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_PCI };
#define CAP_LEN    16
#define CAP_BAR    4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_EXTRA  16 /* notify: the step; PCI: the data window */

#define ID_VENDOR   0x1af4
#define ID_DEVICE   0x1040 /* plus the type of device */
#define ID_REVISION 1

_Static_assert(VIRTIO_MAX_QUEUES *NOTIFY_STEP <= PAGE_LEN, "a page of doorbells");
_Static_assert(PCI_MAX_VECTORS *PCI_MSIX_ENTRY_BYTES <= PAGE_LEN, "a page of vectors");

/* The common configuration, 4.1.4.3, as offsets. */
enum {
	COMMON_DEVICE_SELECT = 0x00,
	COMMON_DEVICE_FEATURE = 0x04,
	COMMON_DRIVER_SELECT = 0x08,
	COMMON_DRIVER_FEATURE = 0x0c,
	COMMON_CONFIG_VECTOR = 0x10,
	COMMON_NUM_QUEUES = 0x12,
	COMMON_STATUS = 0x14,
	COMMON_GENERATION = 0x15,
	COMMON_QUEUE_SELECT = 0x16,
	COMMON_QUEUE_SIZE = 0x18,
	COMMON_QUEUE_VECTOR = 0x1a,
	COMMON_QUEUE_ENABLE = 0x1c,
	COMMON_QUEUE_NOTIFY = 0x1e,
	COMMON_QUEUE_DESC = 0x20,
	COMMON_QUEUE_DRIVER = 0x28,
	COMMON_QUEUE_DEVICE = 0x30,
	COMMON_QUEUE_NOTIFY_DATA = 0x38,
	COMMON_QUEUE_RESET = 0x3a,
	COMMON_LEN = 0x3c,
};

static struct vq *selected(const struct virtio *v)
{
	return v->s.queue_select < v->nr_queues ? &v->vq[v->s.queue_select] : NULL;
}

static uint32_t half(uint64_t value, uint32_t select)
{
	return select < 2 ? (uint32_t)(value >> (32 * select)) : 0;
}

/* Registers of the selected queue; where there is none its size reads 0 (4.1.4.3.1). */
static uint64_t read_queue(const struct vq *q, unsigned off)
{
	switch (off) {
	case COMMON_QUEUE_SIZE:
		return q->s.size;
	case COMMON_QUEUE_VECTOR:
		return q->s.vector;
	case COMMON_QUEUE_ENABLE:
		return q->s.enabled;
	case COMMON_QUEUE_NOTIFY:
	case COMMON_QUEUE_NOTIFY_DATA:
		return q->index;
	case COMMON_QUEUE_RESET:
		return q->resetting;
	case COMMON_QUEUE_DESC:
		return q->s.desc;
	case COMMON_QUEUE_DRIVER:
		return q->s.driver;
	case COMMON_QUEUE_DEVICE:
		return q->s.device;
	case COMMON_QUEUE_DESC + 4:
		return q->s.desc >> 32;
	case COMMON_QUEUE_DRIVER + 4:
		return q->s.driver >> 32;
	case COMMON_QUEUE_DEVICE + 4:
		return q->s.device >> 32;
	}
	return 0;
}

static uint64_t read_common(const struct virtio *v, unsigned off)
{
	const struct vq *q = selected(v);

	switch (off) {
	case COMMON_DEVICE_SELECT:
		return v->s.device_select;
	case COMMON_DEVICE_FEATURE:
		return half(v->offered, v->s.device_select);
	case COMMON_DRIVER_SELECT:
		return v->s.driver_select;
	case COMMON_DRIVER_FEATURE:
		return half(v->s.features, v->s.driver_select);
	case COMMON_CONFIG_VECTOR:
		return v->s.config_vector;
	case COMMON_NUM_QUEUES:
		return v->nr_queues;
	case COMMON_STATUS:
		return v->s.status;
	case COMMON_GENERATION:
		return v->s.generation;
	case COMMON_QUEUE_SELECT:
		return v->s.queue_select;
	}
	return q ? read_queue(q, off) : 0;
}

/* A vector that there is, or none: the driver reads back what became of it (4.1.4.3.2). */
static uint16_t checked_vector(const struct virtio_pci *card, uint64_t value)
{
	return value < card->f.nr_vectors ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void put_half(uint64_t *field, bool upper, unsigned size, uint64_t value)
{
	if (size == 8)
		*field = value;
	else if (upper)
		*field = (uint32_t)*field | value << 32;
	else
		*field = (*field & ~0xffffffffull) | (uint32_t)value;
}

/* What can be written only before the queue is enabled. */
static void write_queue_setup(struct vq *q, unsigned off, unsigned size, uint64_t value)
{
	switch (off) {
	case COMMON_QUEUE_SIZE:
		q->s.size = (uint16_t)value;
		break;
	case COMMON_QUEUE_DESC:
	case COMMON_QUEUE_DESC + 4:
		put_half(&q->s.desc, off & 4, size, value);
		break;
	case COMMON_QUEUE_DRIVER:
	case COMMON_QUEUE_DRIVER + 4:
		put_half(&q->s.driver, off & 4, size, value);
		break;
	case COMMON_QUEUE_DEVICE:
	case COMMON_QUEUE_DEVICE + 4:
		put_half(&q->s.device, off & 4, size, value);
		break;
	}
}

static void write_queue(struct virtio_pci *card, struct vq *q, unsigned off, unsigned size,
                        uint64_t value)
{
	bool enabled = q->s.enabled;

	if (off == COMMON_QUEUE_ENABLE && value == 1) {
		virtio_enable_queue(q);
	} else if (off == COMMON_QUEUE_RESET && value == 1) {
		virtio_reset_queue(q);
	} else if (off == COMMON_QUEUE_VECTOR) {
		pthread_mutex_lock(&q->lock);
		q->s.vector = checked_vector(card, value);
		pthread_mutex_unlock(&q->lock);
	} else if (!enabled) {
		write_queue_setup(q, off, size, value);
	}
}

static void write_common(struct virtio_pci *card, unsigned off, unsigned size, uint64_t value)
{
	struct virtio *v = &card->v;
	struct vq *q = selected(v);
	unsigned shift = 32 * v->s.driver_select;

	switch (off) {
	case COMMON_DEVICE_SELECT:
		v->s.device_select = (uint32_t)value;
		break;
	case COMMON_DRIVER_SELECT:
		v->s.driver_select = (uint32_t)value;
		break;
	case COMMON_DRIVER_FEATURE:
		if (v->s.driver_select < 2)
			virtio_write_features(v, value << shift, 0xffffffffull << shift);
		break;
	case COMMON_CONFIG_VECTOR:
		v->s.config_vector = checked_vector(card, value);
		break;
	case COMMON_STATUS:
		virtio_write_status(v, (uint8_t)value);
		break;
	case COMMON_QUEUE_SELECT:
		v->s.queue_select = (uint16_t)value;
		break;
	default:
		if (q)
			write_queue(card, q, off, size, value);
	}
}

/* Bytes of the register at off, 0 where none begins; 64-bit ones can be accessed by halves. */
static unsigned common_width(unsigned off)
{
	if (off < COMMON_CONFIG_VECTOR ||
	    (off >= COMMON_QUEUE_DESC && off < COMMON_QUEUE_NOTIFY_DATA))
		return off % 4 ? 0 : 4;
	if (off == COMMON_STATUS || off == COMMON_GENERATION)
		return 1;
	return off % 2 || off >= COMMON_LEN ? 0 : 2;
}

static bool takes_common(unsigned off, unsigned size)
{
	bool whole = size == 8 && off >= COMMON_QUEUE_DESC && off < COMMON_QUEUE_NOTIFY_DATA &&
	             off % 8 == 0;

	return whole || common_width(off) == size;
}

/* The device's own configuration. */

static uint64_t read_device(const struct virtio *v, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	if (off + size <= v->ops->config_len && v->ops->config_read)
		v->ops->config_read(v->dev, (uint32_t)off, &value, size);
	return value;
}

static void write_device(struct virtio *v, uint64_t off, unsigned size, uint64_t value)
{
	if (off + size <= v->ops->config_len && v->ops->config_write)
		v->ops->config_write(v->dev, (uint32_t)off, &value, size);
}

/* Reading acknowledges (4.1.4.5). */
static uint64_t read_isr(struct virtio_pci *card)
{
	uint8_t isr = card->v.s.isr;

	card->v.s.isr = 0;
	pci_set_intx(&card->f, false);
	return isr;
}

/* The BAR. */

static uint64_t read_bar(void *dev, uint64_t off, unsigned size)
{
	struct virtio_pci *card = dev;
	unsigned in_page = off % PAGE_LEN;

	switch (off - in_page) {
	case PAGE_COMMON:
		return takes_common(in_page, size) ? read_common(&card->v, in_page) : 0;
	case PAGE_ISR:
		return in_page == 0 ? read_isr(card) : 0;
	case PAGE_DEVICE:
		return read_device(&card->v, in_page, size);
	case PAGE_TABLE:
		return pci_msix_read(&card->f, in_page, size);
	case PAGE_PENDING:
		return pci_msix_read_pending(&card->f, in_page, size);
	}
	return 0;
}

static void write_bar(void *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct virtio_pci *card = dev;
	unsigned in_page = off % PAGE_LEN;

	switch (off - in_page) {
	case PAGE_COMMON:
		if (takes_common(in_page, size))
			write_common(card, in_page, size, value);
		break;
	case PAGE_DEVICE:
		write_device(&card->v, in_page, size, value);
		break;
	case PAGE_NOTIFY:
		virtio_kick(&card->v, in_page / NOTIFY_STEP);
		break;
	case PAGE_TABLE:
		pci_msix_write(&card->f, in_page, size, value);
		break;
	}
}

static const struct bus_ops bar_ops = { .read = read_bar, .write = write_bar };

/* The window of 4.1.4.9: configuration space accesses the BAR for those who cannot. */

static bool window_access(const struct virtio_pci *card, uint32_t *off, uint32_t *size)
{
	const uint8_t *cap = &card->f.config[card->access_cap];

	*off = pci_get32(cap + CAP_OFFSET);
	*size = pci_get32(cap + CAP_LENGTH);
	return cap[CAP_BAR] == BAR && (*size == 1 || *size == 2 || *size == 4) &&
	       *off % *size == 0 && *off < BAR_LEN;
}

static bool hits_window(const struct virtio_pci *card, unsigned reg, unsigned size)
{
	unsigned data = card->access_cap + CAP_EXTRA;

	return reg < data + 4 && data < reg + size;
}

static void config_read(void *dev, unsigned reg, unsigned size)
{
	struct virtio_pci *card = dev;
	uint32_t off, len;

	if (hits_window(card, reg, size) && window_access(card, &off, &len))
		pci_put32(&card->f.config[card->access_cap + CAP_EXTRA],
		          (uint32_t)read_bar(card, off, len));
}

static void config_written(void *dev, unsigned reg, unsigned size)
{
	struct virtio_pci *card = dev;
	uint32_t off, len, value;

	if (!hits_window(card, reg, size) || !window_access(card, &off, &len))
		return;
	value = pci_get32(&card->f.config[card->access_cap + CAP_EXTRA]);
	write_bar(card, off, len, value & (uint32_t)(UINT64_MAX >> (64 - 8 * len)));
}

/* With bus.lock held. */
static void raise_interrupt(void *opaque, uint16_t vector, uint8_t isr)
{
	struct virtio_pci *card = opaque;

	if (pci_msix_enabled(&card->f)) {
		pci_raise_msix(&card->f, vector);
		return;
	}
	card->v.s.isr |= isr;
	pci_set_intx(&card->f, true);
}

static bool signal_interrupt(void *opaque, uint16_t vector)
{
	return pci_signal_msix(&((struct virtio_pci *)opaque)->f, vector);
}

static void start_card(void *opaque)
{
	virtio_pci_update_bells(opaque);
}

static void clear_card(void *opaque)
{
	struct virtio_pci *card = opaque;

	virtio_pci_update_bells(card);
	pci_set_intx(&card->f, false);
}

static void count_rings(void *opaque, uint64_t n)
{
	((struct virtio_pci *)opaque)->f.host->shortcuts.doorbells += n;
}

static void place_card(void *dev)
{
	virtio_pci_update_bells(dev);
}

static void stop_card(void *dev)
{
	virtio_stop(&((struct virtio_pci *)dev)->v);
}

static void resume_card(void *dev)
{
	struct virtio *v = &((struct virtio_pci *)dev)->v;

	if (v->ops->resume)
		v->ops->resume(v->dev);
}

static void free_card(void *dev)
{
	struct virtio_pci *card = dev;
	void *device = card->v.dev;

	virtio_fini(&card->v);
	if (card->free)
		card->free(device);
}

static const struct pci_ops card_ops = {
	.config_read = config_read,
	.config_written = config_written,
	.placed = place_card,
	.stop = stop_card,
	.resume = resume_card,
	.free = free_card,
};

/* Construction. */

static unsigned add_cap(struct pci_function *f, uint8_t type, uint32_t off, uint32_t len,
                        unsigned extra)
{
	unsigned at = pci_add_capability(f, CAP_VENDOR, CAP_LEN + extra);
	uint8_t *cap = &f->initial[at];

	cap[2] = (uint8_t)(CAP_LEN + extra);
	cap[3] = type;
	cap[CAP_BAR] = BAR;
	pci_put32(cap + CAP_OFFSET, off);
	pci_put32(cap + CAP_LENGTH, len);
	if (type == CFG_NOTIFY)
		pci_put32(cap + CAP_EXTRA, NOTIFY_STEP);
	memcpy(&f->config[at], cap, CAP_LEN + extra);
	return at;
}

static void add_caps(struct virtio_pci *card)
{
	struct pci_function *f = &card->f;
	unsigned at;

	add_cap(f, CFG_COMMON, PAGE_COMMON, COMMON_LEN, 0);
	add_cap(f, CFG_NOTIFY, PAGE_NOTIFY, card->v.nr_queues * NOTIFY_STEP, 4);
	add_cap(f, CFG_ISR, PAGE_ISR, 1, 0);
	if (card->v.ops->config_len)
		add_cap(f, CFG_DEVICE, PAGE_DEVICE, card->v.ops->config_len, 0);
	at = add_cap(f, CFG_PCI, 0, 0, 4);
	f->writable[at + CAP_BAR] = 0xff;
	memset(&f->writable[at + CAP_OFFSET], 0xff, 4 + 4 + 4);
	card->access_cap = (uint8_t)at;
}

static void make_function(struct virtio_pci *card, const struct virtio_ops *ops)
{
	struct pci_identity id = {
		.vendor = ID_VENDOR,
		.device = (uint16_t)(ID_DEVICE + ops->id),
		.class = ops->pci_class,
		.subvendor = ID_VENDOR,
		.subdevice = (uint16_t)(ID_DEVICE + ops->id),
		.revision = ID_REVISION,
	};
	unsigned vectors = card->v.nr_queues + 1;

	card->bar = (struct pci_bar){ .len = BAR_LEN, .is64 = true, .ops = &bar_ops, .dev = card };
	pci_init(&card->f, &id, &card_ops, card);
	pci_add_bar(&card->f, BAR, &card->bar);
	pci_add_intx(&card->f);
	pci_add_msix(&card->f, vectors < PCI_MAX_VECTORS ? vectors : PCI_MAX_VECTORS, BAR,
	             PAGE_TABLE, PAGE_PENDING);
	add_caps(card);
}

int virtio_pci_init(struct virtio_pci *card, struct pci_host *host,
                    const struct virtio_config *config)
{
	struct virtio_transport transport = {
		.interrupt = raise_interrupt,
		.clear = clear_card,
		.opaque = card,
		.signal = signal_interrupt,
		.start = start_card,
		.rung = count_rings,
	};
	int slot = pci_host_find_slot(host);
	int rc;

	if (slot < 0)
		return slot;
	rc = virtio_init(&card->v, config, &transport);
	if (rc) {
		virtio_fini(&card->v);
		return rc;
	}
	make_function(card, config->ops);
	card->free = config->ops->free;
	return pci_host_add(host, PCI_DEVFN(slot, 0), &card->f);
}
