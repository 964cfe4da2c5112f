/* Frames for tests, made and judged by arithmetic of their own, byte by byte. */
#pragma once

#include <stdint.h>
#include <string.h>

#include "net/offload.h"

/* RFC 1071 in the plainest way: words, big-endian, the carry added at once. */
static inline uint16_t plain_sum(const uint8_t *p, size_t n, uint16_t sum)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t next = sum + (i % 2 ? p[i] : (uint32_t)p[i] << 8);

		sum = (uint16_t)(next > 0xffff ? next - 0xffff : next);
	}
	return sum;
}

static inline uint16_t frame_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t frame_get32(const uint8_t *p)
{
	return (uint32_t)frame_get16(p) << 16 | frame_get16(p + 2);
}

static inline void frame_put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

struct frame_shape {
	bool v6;
	unsigned tags, ip_options, tcp_options; /* options: words of four bytes */
	size_t payload;
	uint8_t tcp_flags;
	uint16_t mss; /* 0: no segmentation */
};

struct frame {
	uint8_t buf[NET_HEADER + NET_MAX_FRAME];
	size_t len; /* with NET_HEADER */
	size_t ip, tcp, payload;
};

static inline uint16_t frame_pseudo_sum(const uint8_t *ip, bool v6, size_t tcp_len)
{
	uint8_t tail[4] = { 0, 6, (uint8_t)(tcp_len >> 8), (uint8_t)tcp_len };
	uint16_t sum = v6 ? plain_sum(ip + 8, 32, 0) : plain_sum(ip + 12, 8, 0);

	return plain_sum(tail, 4, sum);
}

/* A TCP frame whose checksum is left to others. */
static inline void frame_make(struct frame *f, const struct frame_shape *s)
{
	uint8_t *e = f->buf + NET_HEADER, *ip, *tcp;
	size_t at = 12, ip_header = s->v6 ? 40 : 20 + 4 * s->ip_options;
	size_t tcp_header = 20 + 4 * s->tcp_options, tcp_len = tcp_header + s->payload;
	struct net_header h = { .flags = NET_NEEDS_CSUM, .csum_offset = 16 };

	memset(f->buf, 0, NET_HEADER + 128);
	memcpy(e, "\x52\x54\0\x12\x34\x56\x52\x54\0\x65\x43\x21", 12);
	for (unsigned i = 0; i < s->tags; i++, at += 4)
		memcpy(e + at, "\x81\0\0\x07", 4);
	frame_put16(e + at, s->v6 ? 0x86dd : 0x0800);
	f->ip = at + 2;
	f->tcp = f->ip + ip_header;
	f->payload = f->tcp + tcp_header;
	f->len = NET_HEADER + f->payload + s->payload;
	ip = e + f->ip;
	tcp = e + f->tcp;
	if (s->v6) {
		ip[0] = 0x60;
		frame_put16(ip + 4, (unsigned)tcp_len);
		ip[6] = 6;
		for (unsigned i = 8; i < 40; i++)
			ip[i] = (uint8_t)(0xa0 + i);
	} else {
		ip[0] = (uint8_t)(0x45 + s->ip_options);
		frame_put16(ip + 2, (unsigned)(ip_header + tcp_len));
		frame_put16(ip + 4, 0xfffe);
		frame_put16(ip + 6, 0x4000);
		ip[8] = 64;
		ip[9] = 6;
		memcpy(ip + 12, "\x0a\0\x02\x0f\xc0\xa8\x01\x02", 8);
		memset(ip + 20, 1, 4 * s->ip_options);
		frame_put16(ip + 10, (uint16_t)~plain_sum(ip, ip_header, 0));
	}
	memcpy(tcp, "\x30\x39\0\x50\xff\xff\xf0\x01\x01\x02\x03\x04", 12);
	tcp[12] = (uint8_t)((5 + s->tcp_options) << 4);
	tcp[13] = s->tcp_flags;
	frame_put16(tcp + 14, 0x1234);
	memset(tcp + 20, 1, 4 * s->tcp_options);
	for (size_t i = 0; i < s->payload; i++)
		e[f->payload + i] = (uint8_t)(i * 7 + (i >> 8));
	frame_put16(tcp + 16, frame_pseudo_sum(ip, s->v6, tcp_len));
	h.csum_start = (uint16_t)f->tcp;
	h.gso_size = s->mss;
	h.gso_type = !s->mss ? NET_GSO_NONE : s->v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4;
	memcpy(f->buf, &h, sizeof(h));
}
