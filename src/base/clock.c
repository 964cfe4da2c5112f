/*
 * Host time, and the frequency of the host's time-stamp counter.
 *
 * A guest is told the frequency and never calibrates, so an error here is a drift of the guest's
 * clock. Three sources, the most exact first:
 *
 * 1. CPUID leaf 0x15 (SDM 2A, CPUID): TSC = crystal * EBX / EAX, when the CPU names its crystal.
 * 2. The kernel's own calibration, through the first page of a perf_event mapping: it tells user
 * space how to turn a cycle count into nanoseconds, ns = cycles * time_mult >> time_shift.
 * 3. Counting against CLOCK_MONOTONIC_RAW, which NTP does not slew, for about 20 ms.
 */
#include <cpuid.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define NSEC_PER_SEC     1000000000ull
#define MEASURE_NS       20000000ull
#define SAMPLE_TRIES     32
#define HZ_ROUND         1000ull        /* measured figures are good to about a kHz */
#define HZ_PLAUSIBLE_MIN 100000000ull   /* no x86-64 CPU counts slower ... */
#define HZ_PLAUSIBLE_MAX 20000000000ull /* ... or faster */

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t clock_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_utc_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

static bool hz_is_plausible(uint64_t hz)
{
	return hz >= HZ_PLAUSIBLE_MIN && hz <= HZ_PLAUSIBLE_MAX;
}

static uint64_t round_hz(uint64_t hz)
{
	return (hz + HZ_ROUND / 2) / HZ_ROUND * HZ_ROUND;
}

/* 0 when the CPU does not enumerate the ratio or the crystal. */
static uint64_t hz_from_cpuid(void)
{
	unsigned den, num, crystal, unused;

	if (!__get_cpuid_count(0x15, 0, &den, &num, &crystal, &unused) || !den || !num)
		return 0;
	return (uint64_t)crystal * num / den;
}

/* The page carries a seqlock: an odd or changed value means that the kernel was writing. */
static uint64_t hz_from_page(const volatile struct perf_event_mmap_page *page)
{
	uint32_t seq, mult = 0;
	uint16_t shift = 0;
	bool valid = false;
	unsigned tries;

	for (tries = 0; tries < SAMPLE_TRIES; tries++) {
		seq = page->lock;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		valid = page->cap_user_time;
		mult = page->time_mult;
		shift = page->time_shift;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(seq & 1) && page->lock == seq)
			break;
	}
	if (tries == SAMPLE_TRIES || !valid || !mult || shift > 63)
		return 0;
	/* cycles per ns = 2^shift / mult */
	return round_hz((uint64_t)(((unsigned __int128)NSEC_PER_SEC << shift) / mult));
}

/* 0 when the kernel denies perf events (perf_event_paranoid, seccomp) or its clock is not the TSC.
 */
static uint64_t hz_from_perf(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.disabled = 1,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	uint64_t hz = 0;
	void *page;
	long fd;

	fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return 0;
	page = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, (int)fd, 0);
	if (page != MAP_FAILED) {
		hz = hz_from_page(page);
		munmap(page, PAGE_SIZE);
	}
	close((int)fd);
	return hz;
}

/*
 * One reading of both clocks "at the same time": the pair whose two TSC reads lie closest together
 * out of several, so that being scheduled out between the reads does no harm.
 */
static void sample_clocks(uint64_t *tsc, uint64_t *ns)
{
	uint64_t before, after, now, best = UINT64_MAX;

	for (unsigned i = 0; i < SAMPLE_TRIES; i++) {
		before = clock_tsc();
		now = read_clock(CLOCK_MONOTONIC_RAW);
		after = clock_tsc();
		if (after - before < best) {
			best = after - before;
			*tsc = before + best / 2;
			*ns = now;
		}
	}
}

static uint64_t hz_from_measurement(void)
{
	const struct timespec pause = { .tv_nsec = (long)MEASURE_NS };
	uint64_t tsc0 = 0, tsc1 = 0, ns0 = 0, ns1 = 0;

	sample_clocks(&tsc0, &ns0);
	nanosleep(&pause, NULL); /* cut short by a signal it only costs precision */
	sample_clocks(&tsc1, &ns1);
	if (ns1 <= ns0 || tsc1 <= tsc0)
		return 0;
	return round_hz((uint64_t)((unsigned __int128)(tsc1 - tsc0) * NSEC_PER_SEC / (ns1 - ns0)));
}

uint64_t clock_tsc_hz(void)
{
	static uint64_t (*const source[])(void) = { hz_from_cpuid, hz_from_perf,
		                                    hz_from_measurement };
	uint64_t hz;

	for (size_t i = 0; i < ARRAY_SIZE(source); i++) {
		hz = source[i]();
		if (hz_is_plausible(hz))
			return hz;
	}
	/* A host whose counter cannot be measured: nanoseconds are the best guess left. */
	return NSEC_PER_SEC;
}
