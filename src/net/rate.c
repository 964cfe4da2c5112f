#include "net/rate.h"

#define NSEC_PER_SEC 1000000000ull
#define BURST_MS     20
#define MIN_BURST    (16 * KiB)
#define MAX_BURST    (1024 * MiB)

void rate_init(struct rate *r, uint64_t bits, uint64_t now_ns)
{
	uint64_t burst = bits / 8 * BURST_MS / 1000;

	burst = burst < MIN_BURST ? MIN_BURST : burst > MAX_BURST ? MAX_BURST : burst;
	*r = (struct rate){ .bytes_per_s = bits ? (bits + 7) / 8 : 0,
		            .burst = burst,
		            .tokens = (int64_t)(burst * NSEC_PER_SEC),
		            .at_ns = now_ns };
}

/* What has dripped into the bucket; the sum is capped before it could overflow. */
static void fill(struct rate *r, uint64_t now_ns)
{
	int64_t full = (int64_t)(r->burst * NSEC_PER_SEC);
	uint64_t ns = now_ns > r->at_ns ? now_ns - r->at_ns : 0;
	uint64_t room = (uint64_t)(full - r->tokens);

	r->at_ns = now_ns;
	if (ns > room / r->bytes_per_s)
		r->tokens = full;
	else
		r->tokens += (int64_t)(ns * r->bytes_per_s);
}

uint64_t rate_wait_until(struct rate *r, uint64_t now_ns)
{
	if (!r->bytes_per_s)
		return 0;
	fill(r, now_ns);
	if (r->tokens > 0)
		return 0;
	return now_ns + (uint64_t)-r->tokens / r->bytes_per_s + 1;
}

void rate_take(struct rate *r, uint64_t bytes)
{
	if (r->bytes_per_s)
		r->tokens -= (int64_t)(bytes * NSEC_PER_SEC);
}
