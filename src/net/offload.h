/*
 * What a network card leaves to others: Internet checksums (RFC 1071) and the cutting of long TCP
 * segments (TSO), in software, for frames with the header of virtio 1.2 5.1.6.
 *
 * Frames come from guests and from other machines: offload_check() comes first, and everything else
 * may rely on what it has seen, as long as the frame is in memory that nobody else writes.
 */
#pragma once

#include "net/net.h"

struct net_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len; /* this and the rest little-endian, as the host */
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};

#define NET_NEEDS_CSUM 1 /* flags */
#define NET_DATA_VALID 2
#define NET_GSO_NONE   0 /* gso_type */
#define NET_GSO_TCPV4  1
#define NET_GSO_TCPV6  4
#define NET_GSO_ECN    0x80

/* A segment shorter than any TCP has as its MSS would make very many frames of one. */
#define OFFLOAD_MIN_SEGMENT 48

/* 0, or -EINVAL when lengths, header and frame don't agree, or ask for what is not offered. buf has
 * n bytes, header first. */
int offload_check(const uint8_t *buf, size_t n);

/* The sum of n bytes as big-endian words, folded to 16 bits and not complemented, onto sum. */
uint16_t offload_sum(const uint8_t *p, size_t n, uint32_t sum);

/* Makes the checksum that the header asks for, whole frame, and clears the request. A frame that is
 * still to be cut gets the checksum of the long segment. */
void offload_checksum(uint8_t *buf, size_t n);

/* The header with which a frame that is still to be cut passes for a plain one of any length. */
void offload_forget_segments(uint8_t *buf);

/* One frame with its own header, NET_HEADER first; false: no more. */
typedef bool (*offload_frame_fn)(void *opaque, uint8_t *buf, size_t n);
/*
 * Cuts a frame whose gso_type is not NET_GSO_NONE into frames of at most gso_size bytes of payload,
 * with checksums. scratch has room for NET_HEADER + NET_MAX_FRAME.
 */
void offload_segment(const uint8_t *buf, size_t n, uint8_t *scratch, offload_frame_fn fn,
                     void *opaque);
