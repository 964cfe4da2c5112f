/*
 * Frames into a file that tcpdump and Wireshark read (pcap with times in nanoseconds, Ethernet).
 * Frames are written as the guest has them: checksums that are left to others are not made, long
 * segments not cut.
 */
#pragma once

#include "net/net.h"

struct pcap;

/* 0, or -errno with one line in err. An existing file is overwritten. */
int pcap_open(struct pcap **out, const char *path, char *err, size_t errlen);
/* The frame without NET_HEADER. A failure is logged once and ends the capture, not the network. */
void pcap_write(struct pcap *p, uint64_t utc_ns, const uint8_t *frame, size_t n);
/* What has been written so far becomes visible to readers. */
void pcap_flush(struct pcap *p);
/* Safe on NULL, as the two before. */
void pcap_close(struct pcap *p);
