/* What the process keeps in the host's memory. */
#pragma once

#include <stdint.h>

/*
 * Bytes, from /proc/self/smaps (proc(5)): each page of memory once, although a piece that is mapped
 * at several places, as translated code is, has its pages in the RSS of each. 0 when that cannot be
 * read.
 */
uint64_t resident_bytes(void);
