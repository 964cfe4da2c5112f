/* A card for tests of backends: keeps what it receives, sends what the test puts in. */
#pragma once

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "net/net_private.h"

#define CARD_FRAMES  4096
#define CARD_SECONDS 20 /* before a test gives up */

struct card_frame {
	uint8_t *buf;
	size_t len;
};

struct card {
	struct net *net;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct card_frame got[CARD_FRAMES], out[CARD_FRAMES];
	unsigned nr_got, nr_out, sent;
	unsigned refuse; /* that many frames are refused first */
	unsigned room;   /* then that many are taken, UINT_MAX: all */
	unsigned refused;
	bool up;
};

static bool card_receive(void *opaque, const uint8_t *buf, size_t n)
{
	struct card *c = opaque;
	bool taken;

	pthread_mutex_lock(&c->lock);
	taken = c->room > 0 && c->nr_got < CARD_FRAMES;
	if (taken) {
		c->room -= c->room != UINT32_MAX;
		c->got[c->nr_got].buf = malloc(n);
		c->got[c->nr_got].len = n;
		memcpy(c->got[c->nr_got++].buf, buf, n);
	} else {
		c->refused++;
	}
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	return taken;
}

static void card_transmit(void *opaque)
{
	struct card *c = opaque;

	for (;;) {
		struct iovec iov[2];
		struct card_frame f;

		pthread_mutex_lock(&c->lock);
		f = c->sent < c->nr_out ? c->out[c->sent] : (struct card_frame){ 0 };
		pthread_mutex_unlock(&c->lock);
		if (!f.buf)
			return;
		iov[0] = (struct iovec){ f.buf, 5 };
		iov[1] = (struct iovec){ f.buf + 5, f.len - 5 };
		if (!net_send(c->net, iov, 2))
			return;
		pthread_mutex_lock(&c->lock);
		c->sent++;
		pthread_cond_broadcast(&c->changed);
		pthread_mutex_unlock(&c->lock);
	}
}

static void card_link(void *opaque, bool up)
{
	struct card *c = opaque;

	pthread_mutex_lock(&c->lock);
	c->up = up;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static const struct net_card_ops card_ops = { card_receive, card_transmit, card_link };

static inline void card_open(struct card *c, const char *text)
{
	char err[256] = "";

	*c = (struct card){ .room = UINT32_MAX };
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->changed, NULL);
	if (net_open(&c->net, text, err, sizeof(err)))
		fail_msg("%s", err);
	assert_int_equal(net_attach(c->net, &card_ops, c), 0);
}

static inline void card_close(struct card *c)
{
	net_close(c->net);
	for (unsigned i = 0; i < c->nr_got; i++)
		free(c->got[i].buf);
	for (unsigned i = 0; i < c->nr_out; i++)
		free(c->out[i].buf);
}

static inline void card_send(struct card *c, const uint8_t *buf, size_t n)
{
	pthread_mutex_lock(&c->lock);
	c->out[c->nr_out].buf = malloc(n);
	c->out[c->nr_out].len = n;
	memcpy(c->out[c->nr_out++].buf, buf, n);
	pthread_mutex_unlock(&c->lock);
	net_kick(c->net);
}

/* Waits, with the card's lock held, for something that a callback makes true. */
#define card_wait(c, condition)                                                                    \
	do {                                                                                       \
		struct timespec end_;                                                              \
                                                                                                   \
		clock_gettime(CLOCK_REALTIME, &end_);                                              \
		end_.tv_sec += CARD_SECONDS;                                                       \
		pthread_mutex_lock(&(c)->lock);                                                    \
		while (!(condition))                                                               \
			assert_int_equal(pthread_cond_timedwait(&(c)->changed, &(c)->lock, &end_), \
			                 0);                                                       \
		pthread_mutex_unlock(&(c)->lock);                                                  \
	} while (0)
