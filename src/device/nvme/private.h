/*
 * Between the files of the NVMe controller.
 *
 * Threads: a vCPU only writes registers and doorbells. The controller's worker takes commands from
 * the submission queues and does those of the administrator; the disk's thread ends those for I/O.
 *
 * Locks: bus.lock < nvme.lock. The second protects struct nvme_state and what is marked so; it is
 * not held while an interrupt is raised, which takes the first.
 */
#pragma once

#include <pthread.h>

#include "base/worker.h"
#include "block/block.h"
#include "device/nvme/nvme.h"
#include "mem/dma.h"

#define NVME_PAGE        4096u
#define NVME_MDTS        7u /* log2 of the most pages that a command transfers */
#define NVME_MAX_BYTES   (NVME_PAGE << NVME_MDTS)
#define NVME_MAX_IOV     ((1u << NVME_MDTS) + 1 + 8) /* and for buffers that span banks */
#define NVME_MAX_ENTRIES 1024u                       /* of a queue */
#define NVME_MAX_EVENTS  4u                          /* commands that wait for one */
#define NVME_NSID        1u
#define NVME_ALL         0xffffffffu /* namespaces */
#define NVME_VERSION     0x00010400u

/* Status: code type and code, 4.6.1 of the specification. */
enum nvme_status {
	NVME_OK = 0x000,
	NVME_BAD_OPCODE = 0x001,
	NVME_BAD_FIELD = 0x002,
	NVME_DATA_ERROR = 0x004,
	NVME_INTERNAL = 0x006,
	NVME_SQ_DELETED = 0x008,
	NVME_BAD_NAMESPACE = 0x00b,
	NVME_BAD_PRP = 0x013,
	NVME_LBA_RANGE = 0x080,
	NVME_FULL = 0x081,
	NVME_BAD_CQ = 0x100,
	NVME_BAD_QID = 0x101,
	NVME_BAD_SIZE = 0x102,
	NVME_EVENT_LIMIT = 0x105,
	NVME_BAD_VECTOR = 0x108,
	NVME_BAD_LOG = 0x109,
	NVME_BAD_DELETION = 0x10c,
	NVME_NOT_SAVEABLE = 0x10d,
	NVME_NOT_CHANGEABLE = 0x10e,
	NVME_READ_ONLY = 0x182,
	NVME_WRITE_FAULT = 0x280,
	NVME_READ_ERROR = 0x281,
	NVME_HELD = 0xffff, /* the answer comes later */
};

struct nvme_command {
	uint8_t opcode, flags;
	uint16_t cid;
	uint32_t nsid;
	uint32_t dw2, dw3;
	uint64_t metadata;
	uint64_t prp1, prp2;
	uint32_t dw10, dw11, dw12, dw13, dw14, dw15;
};
_Static_assert(sizeof(struct nvme_command) == 64, "4.2");

struct nvme_completion {
	uint32_t result, reserved;
	uint16_t sq_head, sq_id;
	uint16_t cid, status; /* phase in bit 0 */
};
_Static_assert(sizeof(struct nvme_completion) == 16, "4.6");

/* Features with a value of 32 bits that we keep; by identifier. */
#define NVME_FEATURES 0x0c

struct nvme_sq_state {
	uint64_t base;
	uint32_t size; /* entries, 0: there is no such queue */
	uint32_t head, tail;
	uint16_t cq;
};

struct nvme_cq_state {
	uint64_t base;
	uint32_t size;
	uint32_t head, tail;
	uint16_t vector;
	bool interrupts, phase;
};

struct nvme_state {
	uint32_t cc, csts, aqa, mask;
	uint64_t asq, acq;
	uint32_t feature[NVME_FEATURES];
	struct nvme_sq_state sq[NVME_MAX_QUEUES + 1];
	struct nvme_cq_state cq[NVME_MAX_QUEUES + 1];
	uint16_t event[NVME_MAX_EVENTS]; /* ids of commands that wait for one */
	unsigned nr_events;
};

struct nvme_range {
	uint32_t attributes, blocks;
	uint64_t start;
};

struct nvme;

struct nvme_request {
	struct block_request r; /* first: what done() gets */
	struct nvme *n;
	unsigned sq;
	uint16_t cid;
	uint16_t status;
	uint32_t result;
	struct dma data;
	struct nvme_range one,
	        *range;            /* what is left to discard or clear, and of how many ranges */
	struct nvme_range *ranges; /* to be freed */
	unsigned nr_ranges;
	struct nvme_request *next; /* spare, or waiting for room in a completion queue */
	struct iovec iov[NVME_MAX_IOV];
};

struct nvme {
	struct pci_function f;
	struct bus *bus;
	struct mem *mem;
	struct block *block;
	struct block_info info;
	uint64_t blocks;
	unsigned queues; /* for I/O */
	char serial[NVME_SERIAL + 1];
	struct worker worker;
	struct disk_full full;

	pthread_mutex_t lock; /* all that follows */
	struct nvme_state s;
	bool resetting, shutting_down;
	bool bad_doorbell;                 /* to be told */
	pthread_cond_t idle;               /* a reset is over, or a command has ended */
	uint32_t out[NVME_MAX_QUEUES + 1]; /* commands under way, by submission queue */
	struct nvme_request *waiting[NVME_MAX_QUEUES + 1]; /* by completion queue, oldest first */
	struct nvme_request *event[NVME_MAX_EVENTS];       /* the same as in s */
	struct nvme_request *spare;
	struct nvme_request *held;      /* for room on the host */
	uint64_t bytes[2], commands[2]; /* read and written, since power-on */
};

/* queue.c */

/* Takes the next command of a queue, if there is one, with a request for its answer. */
struct nvme_request *nvme_fetch(struct nvme *n, unsigned sq, struct nvme_command *c);
/* Answers it and raises the interrupt; the request is gone then. */
void nvme_complete(struct nvme_request *r, enum nvme_status status);
/* Places for answers have become free. */
void nvme_complete_waiting(struct nvme *n);
/* Waits until nothing of a queue is under way; answers that nobody makes room for are dropped. */
void nvme_drain(struct nvme *n, unsigned sq);
/* The pin, for whoever does without MSI-X; with no lock held, or bus.lock. */
void nvme_update_pin(struct nvme *n);
void nvme_update_pin_locked(struct nvme *n);
/* The data of a command, len bytes by PRPs (4.3), as r->data. */
enum nvme_status nvme_map(struct nvme_request *r, const struct nvme_command *c, uint64_t len,
                          bool writable);

/* admin.c, identify.c and io.c: NVME_HELD when the answer is not there yet. */
enum nvme_status nvme_admin(struct nvme_request *r, const struct nvme_command *c);
enum nvme_status nvme_identify(struct nvme_request *r, const struct nvme_command *c);
enum nvme_status nvme_get_log(struct nvme_request *r, const struct nvme_command *c);
enum nvme_status nvme_io(struct nvme_request *r, const struct nvme_command *c);
/* Requests that are kept for room on the host: tried again, or given up. */
void nvme_retry_held(struct nvme *n);
void nvme_fail_held(struct nvme *n);
/* The values that features have after a reset. With the lock held, or before others know n. */
void nvme_init_features(struct nvme *n);
/* Something the driver should know, if it has asked to be told: it wrote a doorbell that makes no
 * sense (5.2). */
void nvme_report_doorbell(struct nvme *n);
/* Commands that wait for an event are given up. */
void nvme_drop_events(struct nvme *n);
