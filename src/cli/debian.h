/* `trapeze image debian`: what its two files share. Private to this folder. */
#pragma once

#include "base/base.h"

#define DEBIAN_MESSAGE 512

struct debian {
	const char *suite, *packages, *hostname; /* packages may be NULL */
	char *ssh_key;                           /* lines for authorized_keys, or NULL */
	uint64_t size;                           /* bytes of the disk */
	int raw;                                 /* an empty file for it */
};

/* Installs the system and writes its file system into raw. 0, or -errno, logged. */
int debian_build(const struct debian *d);
