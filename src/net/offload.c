#include "net/offload.h"

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define ETH_HEADER   14
#define ETH_TYPE     12
#define VLAN_TAG     4
#define MAX_TAGS     2
#define TYPE_IPV4    0x0800
#define TYPE_IPV6    0x86dd
#define TYPE_VLAN    0x8100
#define TYPE_QINQ    0x88a8
#define IPV4_HEADER  20
#define IPV6_HEADER  40
#define MAX_EXTHDRS  8
#define TCP_HEADER   20
#define TCP_SEQ      4
#define TCP_OFFSET   12
#define TCP_FLAGS    13
#define TCP_CHECKSUM 16
#define TCP_FIN      0x01
#define TCP_PSH      0x08
#define TCP_CWR      0x80

_Static_assert(sizeof(struct net_header) == NET_HEADER, "virtio 1.2 5.1.6");

/* Where the headers of a TCP frame are, from the start of the frame. */
struct layout {
	size_t ip, tcp, payload;
	bool v6;
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

static uint16_t fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/*
 * The sum does not care for the order of bytes as long as it is the same for all words (RFC 1071 2
 * (B)), so it is made of the host's and turned at the end.
 */
uint16_t offload_sum(const uint8_t *p, size_t n, uint32_t sum)
{
	uint64_t low = 0, high = 0, word;
	uint16_t tail = 0;

	for (; n >= sizeof(word); n -= sizeof(word), p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		low += (uint32_t)word;
		high += word >> 32;
	}
	for (; n >= sizeof(tail); n -= sizeof(tail), p += sizeof(tail)) {
		memcpy(&tail, p, sizeof(tail));
		low += tail;
	}
	if (n)
		high += *p; /* padded with a zero behind it */
	return fold((uint64_t)be16toh(fold(low + high)) + sum);
}

/* Steps over VLAN tags; the type of what follows, its place in *off, or 0. */
static uint16_t skip_tags(const uint8_t *frame, size_t n, size_t *off)
{
	size_t at = ETH_TYPE;

	for (unsigned tags = 0; tags <= MAX_TAGS && at + 2 <= n; tags++, at += VLAN_TAG) {
		uint16_t type = get16(frame + at);

		if (type != TYPE_VLAN && type != TYPE_QINQ) {
			*off = at + 2;
			return type;
		}
	}
	return 0;
}

static int parse_ipv4(const uint8_t *frame, size_t n, struct layout *l)
{
	const uint8_t *ip = frame + l->ip;
	size_t left = n - l->ip, header;

	if (left < IPV4_HEADER || ip[0] >> 4 != 4)
		return -EINVAL;
	header = (ip[0] & 15) * 4u;
	if (header < IPV4_HEADER || header > left || ip[9] != IPPROTO_TCP)
		return -EINVAL;
	if (get16(ip + 6) & 0x3fff) /* a fragment */
		return -EINVAL;
	l->tcp = l->ip + header;
	return get16(ip + 2) == left ? 0 : -EINVAL;
}

static bool is_extension(uint8_t type)
{
	return type == IPPROTO_HOPOPTS || type == IPPROTO_ROUTING || type == IPPROTO_DSTOPTS;
}

static int parse_ipv6(const uint8_t *frame, size_t n, struct layout *l)
{
	size_t left = n - l->ip, at = l->ip + IPV6_HEADER;
	uint8_t type;

	if (left < IPV6_HEADER || frame[l->ip] >> 4 != 6)
		return -EINVAL;
	type = frame[l->ip + 6];
	for (unsigned i = 0; i < MAX_EXTHDRS && is_extension(type); i++) {
		if (at + 8 > n)
			return -EINVAL;
		type = frame[at];
		at += (frame[at + 1] + 1u) * 8;
	}
	l->tcp = at;
	l->v6 = true;
	if (type != IPPROTO_TCP || at > n)
		return -EINVAL;
	return get16(frame + l->ip + 4) == left - IPV6_HEADER ? 0 : -EINVAL;
}

/* Frames that are to be cut have no trailing bytes: their IP length is that of the frame. */
static int parse_tcp(const uint8_t *frame, size_t n, struct layout *l)
{
	uint16_t type;
	int rc;

	*l = (struct layout){ 0 };
	type = skip_tags(frame, n, &l->ip);
	if (type != TYPE_IPV4 && type != TYPE_IPV6)
		return -EINVAL;
	rc = type == TYPE_IPV4 ? parse_ipv4(frame, n, l) : parse_ipv6(frame, n, l);
	if (rc || n - l->tcp < TCP_HEADER)
		return -EINVAL;
	l->payload = l->tcp + (frame[l->tcp + TCP_OFFSET] >> 4) * 4u;
	return l->payload < l->tcp + TCP_HEADER || l->payload >= n ? -EINVAL : 0;
}

static int check_segments(const struct net_header *h, const uint8_t *frame, size_t n)
{
	uint8_t type = h->gso_type & ~NET_GSO_ECN;
	struct layout l;

	if (type != NET_GSO_TCPV4 && type != NET_GSO_TCPV6)
		return -EINVAL;
	if (!(h->flags & NET_NEEDS_CSUM) || h->gso_size < OFFLOAD_MIN_SEGMENT)
		return -EINVAL;
	if (parse_tcp(frame, n, &l) || l.v6 != (type == NET_GSO_TCPV6))
		return -EINVAL;
	return h->csum_start == l.tcp && h->csum_offset == TCP_CHECKSUM ? 0 : -EINVAL;
}

int offload_check(const uint8_t *buf, size_t n)
{
	struct net_header h;

	if (n < NET_HEADER + NET_MIN_FRAME || n > NET_HEADER + NET_MAX_FRAME)
		return -EINVAL;
	memcpy(&h, buf, sizeof(h));
	n -= NET_HEADER;
	if ((h.flags & NET_NEEDS_CSUM) &&
	    (h.csum_start < ETH_HEADER || (size_t)h.csum_start + h.csum_offset + 2 > n))
		return -EINVAL;
	return h.gso_type == NET_GSO_NONE ? 0 : check_segments(&h, buf + NET_HEADER, n);
}

/* The field holds the sum of the pseudo header already (virtio 1.2 5.1.6.2), uncomplemented. */
void offload_checksum(uint8_t *buf, size_t n)
{
	struct net_header h;
	uint8_t *field;
	uint16_t sum;

	memcpy(&h, buf, sizeof(h));
	if (!(h.flags & NET_NEEDS_CSUM))
		return;
	field = buf + NET_HEADER + h.csum_start + h.csum_offset;
	sum = (uint16_t)~offload_sum(buf + NET_HEADER + h.csum_start, n - NET_HEADER - h.csum_start,
	                             0);
	/* UDP takes 0 for "none"; to TCP both are zero (RFC 768). */
	put16(field, sum ? sum : 0xffff);
	h.flags = NET_DATA_VALID;
	h.csum_start = h.csum_offset = 0;
	memcpy(buf, &h, sizeof(h));
}

void offload_forget_segments(uint8_t *buf)
{
	struct net_header h;

	memcpy(&h, buf, sizeof(h));
	h.gso_type = NET_GSO_NONE;
	h.gso_size = h.hdr_len = 0;
	memcpy(buf, &h, sizeof(h));
}

static uint16_t pseudo_sum(const uint8_t *frame, const struct layout *l, size_t tcp_len)
{
	uint32_t sum = IPPROTO_TCP + (uint32_t)tcp_len;

	return l->v6 ? offload_sum(frame + l->ip + 8, 32, sum)
	             : offload_sum(frame + l->ip + 12, 8, sum);
}

/* Lengths, identification and checksum of segment number i. */
static void finish_ip(uint8_t *frame, const struct layout *l, size_t n, unsigned i)
{
	uint8_t *ip = frame + l->ip;

	if (l->v6) {
		put16(ip + 4, (uint16_t)(n - l->ip - IPV6_HEADER));
		return;
	}
	put16(ip + 2, (uint16_t)(n - l->ip));
	put16(ip + 4, (uint16_t)(get16(ip + 4) + i));
	put16(ip + 10, 0);
	put16(ip + 10, (uint16_t)~offload_sum(ip, l->tcp - l->ip, 0));
}

/* FIN and PSH are the last segment's, CWR the first's (RFC 3168 6.1.2). */
static void finish_tcp(uint8_t *frame, const struct layout *l, size_t n, size_t done, bool last)
{
	uint8_t *tcp = frame + l->tcp;

	put32(tcp + TCP_SEQ, get32(tcp + TCP_SEQ) + (uint32_t)done);
	if (!last)
		tcp[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	if (done)
		tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
	put16(tcp + TCP_CHECKSUM, 0);
	put16(tcp + TCP_CHECKSUM,
	      (uint16_t)~offload_sum(tcp, n - l->tcp, pseudo_sum(frame, l, n - l->tcp)));
}

void offload_segment(const uint8_t *buf, size_t n, uint8_t *scratch, offload_frame_fn fn,
                     void *opaque)
{
	const uint8_t *frame = buf + NET_HEADER;
	size_t payload, done = 0, len;
	struct net_header h;
	struct layout l;

	memcpy(&h, buf, sizeof(h));
	n -= NET_HEADER;
	if (parse_tcp(frame, n, &l) || !h.gso_size)
		return;
	payload = n - l.payload;
	for (unsigned i = 0; done < payload; i++, done += len) {
		struct net_header plain = { .flags = NET_DATA_VALID };
		uint8_t *out = scratch + NET_HEADER;

		len = payload - done < h.gso_size ? payload - done : h.gso_size;
		memcpy(scratch, &plain, sizeof(plain));
		memcpy(out, frame, l.payload);
		memcpy(out + l.payload, frame + l.payload + done, len);
		finish_ip(out, &l, l.payload + len, i);
		finish_tcp(out, &l, l.payload + len, done, done + len == payload);
		if (!fn(opaque, scratch, NET_HEADER + l.payload + len))
			return;
	}
}
