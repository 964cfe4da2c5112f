#include "net/pcap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC_NS      0xa1b23c4d
#define LINK_ETHERNET 1
#define BUFFER        (256 * KiB)

struct file_header {
	uint32_t magic;
	uint16_t major, minor;
	uint32_t zone, accuracy, snap, link;
};

struct record {
	uint32_t seconds, nanoseconds, captured, length;
};

struct pcap {
	FILE *f; /* NULL after a failure */
	char *path;
};

/* Checked on every flush: stdio keeps what it could not write. */
static void fail(struct pcap *p)
{
	log_warn("pcap=%s: %s; the capture ends here", p->path, strerror(errno));
	fclose(p->f);
	p->f = NULL;
}

int pcap_open(struct pcap **out, const char *path, char *err, size_t errlen)
{
	static const struct file_header header = { .magic = MAGIC_NS,
		                                   .major = 2,
		                                   .minor = 4,
		                                   .snap = NET_MAX_FRAME,
		                                   .link = LINK_ETHERNET };
	struct pcap *p = calloc(1, sizeof(*p));
	int rc = -ENOMEM;

	if (!p || !(p->path = strdup(path)))
		goto out;
	p->f = fopen(path, "we");
	if (p->f)
		setvbuf(p->f, NULL, _IOFBF, BUFFER);
	rc = p->f && fwrite(&header, sizeof(header), 1, p->f) == 1 && !fflush(p->f) ? 0 : -errno;
out:
	if (rc) {
		snprintf(err, errlen, "pcap=%s: %s", path, strerror(-rc));
		pcap_close(p);
	} else {
		*out = p;
	}
	return rc;
}

void pcap_write(struct pcap *p, uint64_t utc_ns, const uint8_t *frame, size_t n)
{
	struct record r = { .seconds = (uint32_t)(utc_ns / 1000000000),
		            .nanoseconds = (uint32_t)(utc_ns % 1000000000),
		            .captured = (uint32_t)n,
		            .length = (uint32_t)n };

	if (!p || !p->f)
		return;
	if (fwrite(&r, sizeof(r), 1, p->f) != 1 || fwrite(frame, n, 1, p->f) != 1)
		fail(p);
}

void pcap_flush(struct pcap *p)
{
	if (p && p->f && fflush(p->f))
		fail(p);
}

void pcap_close(struct pcap *p)
{
	if (!p)
		return;
	if (p->f && fclose(p->f))
		log_warn("pcap=%s: %s", p->path, strerror(errno));
	free(p->path);
	free(p);
}
