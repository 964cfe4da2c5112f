/* The keys of --net that are the card's, among the backend's. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "net/net_private.h"

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, tolower((unsigned char)c)) : NULL;

	return at ? (int)(at - digits) : -1;
}

static bool read_mac(uint8_t *mac, const char *text)
{
	if (strlen(text) != 3 * NET_MAC - 1)
		return false;
	for (unsigned i = 0; i < NET_MAC; i++, text += 3) {
		int high = hex_digit(text[0]), low = hex_digit(text[1]);

		if (high < 0 || low < 0 || (i + 1 < NET_MAC && text[2] != ':'))
			return false;
		mac[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static int parse_mac(struct net_card *card, const char *value, char *err, size_t errlen)
{
	static const uint8_t none[NET_MAC];

	if (!read_mac(card->mac, value)) {
		snprintf(err, errlen, "--net: mac=%s: not six bytes such as 52:54:00:12:34:56",
		         value);
		return -EINVAL;
	}
	if ((card->mac[0] & 1) || !memcmp(card->mac, none, NET_MAC)) {
		snprintf(err, errlen, "--net: mac=%s: not the address of one card", value);
		return -EINVAL;
	}
	card->has_mac = true;
	return 0;
}

static int parse_queues(struct net_card *card, const char *value, char *err, size_t errlen)
{
	uint64_t n;

	if (!net_parse_number(value, 1, NET_MAX_QUEUES, &n)) {
		snprintf(err, errlen, "--net: queues=%s: not from 1 to %d", value, NET_MAX_QUEUES);
		return -EINVAL;
	}
	card->queues = (unsigned)n;
	return 0;
}

int net_card_parse(char *text, struct net_card *card, char *err, size_t errlen)
{
	char *rest = text, *to = text, *word;
	int rc = 0;

	*card = (struct net_card){ .queues = 1 };
	while (!rc && (word = strsep(&rest, ","))) {
		size_t len = strlen(word);

		if (!strncmp(word, "mac=", 4)) {
			rc = parse_mac(card, word + 4, err, errlen);
		} else if (!strncmp(word, "queues=", 7)) {
			rc = parse_queues(card, word + 7, err, errlen);
		} else {
			if (to != text)
				*to++ = ',';
			memmove(to, word, len);
			to += len;
		}
	}
	*to = 0;
	return rc;
}
