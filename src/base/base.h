/*
 * What every folder may use: typed addresses, logging, clocks. Knows no virtual machine.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Guest physical and guest virtual (linear) addresses. Never mix; conversion is the MMU's job. */
typedef uint64_t gpa_t;
typedef uint64_t gva_t;

#define ARRAY_SIZE(a)                 (sizeof(a) / sizeof((a)[0]))
#define BIT(n)                        (1ull << (n))
#define KiB                           1024ull
#define MiB                           (1024 * KiB)
#define GiB                           (1024 * MiB)
#define PAGE_SIZE                     4096ull
#define PAGE_MASK                     (~(PAGE_SIZE - 1))
#define likely(x)                     __builtin_expect(!!(x), 1)
#define unlikely(x)                   __builtin_expect(!!(x), 0)
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Messages go to stderr as one line "trapeze: TEXT"; those above the level are dropped. Default
 * LOG_WARN. */
void log_set_level(enum log_level level);
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_ns(void);

/* CLOCK_REALTIME in nanoseconds since 1970 UTC: for wall clocks only, it may jump. */
uint64_t clock_utc_ns(void);

/* The host's time-stamp counter, and its frequency in Hz: from CPUID 0x15 or the kernel's perf
 * page where they give it, else measured for about 10 ms. Call the second once and keep the result.
 */
static inline uint64_t clock_tsc(void)
{
	return __builtin_ia32_rdtsc();
}
uint64_t clock_tsc_hz(void);
