/*
 * Virtio memory balloon (virtio 1.2, 5.5): pages that the guest can do without go back to the host;
 * what it uses, and how hard, it tells in statistics.
 */
#pragma once

#include "device/virtio/virtio_pci.h"

struct loop;
struct virtio_balloon;

/* What the driver has told last; UINT64_MAX: nothing. By the numbers of 5.5.6.3. */
enum virtio_balloon_stat {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE,
	BALLOON_TOTAL,
	BALLOON_AVAILABLE,
	BALLOON_CACHES,
	BALLOON_HUGE_PAGES,
	BALLOON_HUGE_PAGE_FAILURES,
	BALLOON_STATS
};

struct virtio_balloon_info {
	uint64_t target, actual; /* bytes in the balloon: wanted, and so far */
	uint64_t reported;       /* bytes of free pages that were given back, all in all */
	uint64_t stat[BALLOON_STATS];
};

/* Plugs one in; the host bridge owns it. 0 or -errno. */
int virtio_balloon_add(struct virtio_balloon **out, struct pci_host *host, struct bus *bus,
                       struct mem *mem, struct loop *loop);
/* Asks the guest to give up so many bytes. From any thread, with no lock held. */
void virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes);
void virtio_balloon_get_info(struct virtio_balloon *b, struct virtio_balloon_info *info);
