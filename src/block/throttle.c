#include "block/throttle.h"

#define NSEC_PER_SEC 1000000000ull

/* Until there is something in the bucket that is full at full_ns. */
static uint64_t wait_for(uint64_t full_ns, uint64_t now_ns)
{
	uint64_t passes_ns = now_ns + THROTTLE_BURST_NS;

	return full_ns < passes_ns ? 0 : full_ns - passes_ns + 1;
}

static uint64_t pay(uint64_t full_ns, uint64_t now_ns, uint64_t units, uint64_t units_per_s)
{
	unsigned __int128 cost = (unsigned __int128)units * NSEC_PER_SEC / units_per_s;

	return (full_ns > now_ns ? full_ns : now_ns) + (uint64_t)cost;
}

uint64_t throttle_take(struct throttle *t, uint64_t now_ns, uint64_t bytes)
{
	uint64_t for_iops = t->iops ? wait_for(t->iops_full_ns, now_ns) : 0;
	uint64_t for_bytes = t->bytes_per_s ? wait_for(t->bytes_full_ns, now_ns) : 0;

	if (for_iops || for_bytes)
		return for_iops > for_bytes ? for_iops : for_bytes;
	if (t->iops)
		t->iops_full_ns = pay(t->iops_full_ns, now_ns, 1, t->iops);
	if (t->bytes_per_s)
		t->bytes_full_ns = pay(t->bytes_full_ns, now_ns, bytes, t->bytes_per_s);
	return 0;
}
