/*
 * What becomes of a write that the host has no room for: an error for the guest, or a pause of the
 * machine, after which the device tries again.
 */
#pragma once

struct disk_full {
	/* Asks for a pause, from any thread, and does not wait for it; NULL: the guest gets the
	 * error. */
	void (*pause)(void *opaque, const char *disk);
	void *opaque;
	const char *disk; /* for the message */
};
