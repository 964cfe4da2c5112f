/*
 * The text after --net: a backend's name, then KEY=VALUE, with commas between.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/net_private.h"

#define USER BIT(0)
#define TAP  BIT(1)
#define LINK BIT(2)
#define ALL  (USER | TAP | LINK)

#define FORWARD_FORM "not tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT"

static const struct net_backend_ops *const backends[] = { &net_user_ops, &net_tap_ops,
	                                                  &net_link_ops };

/* Where a complaint goes, and what it is about. */
struct complaint {
	const char *backend, *key, *value;
	char *err;
	size_t errlen;
};

__attribute__((format(printf, 2, 3))) static int refuse(const struct complaint *c, const char *fmt,
                                                        ...)
{
	char why[160];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	snprintf(c->err, c->errlen, "--net %s: %s=%s: %s", c->backend, c->key, c->value, why);
	return -EINVAL;
}

/* Kinds of values. */

bool net_parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	return isdigit((unsigned char)*text) && !*end && !errno && *out >= low && *out <= high;
}

static int parse_string(const char **out, const char *value, const struct complaint *c)
{
	if (!*value)
		return refuse(c, "is empty");
	*out = value;
	return 0;
}

static int parse_flag(bool *out, const char *value, const struct complaint *c)
{
	*out = !strcmp(value, "on");
	return *out || !strcmp(value, "off") ? 0 : refuse(c, "not one of on, off");
}

static int parse_address(struct in_addr *out, const char *value, const struct complaint *c)
{
	return inet_pton(AF_INET, value, out) == 1 ? 0 : refuse(c, "not an IPv4 address");
}

/* Keys. */

static int parse_pcap(struct net_options *o, char *value, const struct complaint *c)
{
	return parse_string(&o->pcap, value, c);
}

static int parse_rate(struct net_options *o, char *value, const struct complaint *c)
{
	static const char letters[] = "KMG";
	size_t len = strlen(value);
	uint64_t unit = 1;

	for (unsigned i = 0; len && letters[i]; i++) {
		if (toupper((unsigned char)value[len - 1]) != letters[i])
			continue;
		unit = i == 0 ? 1000 : i == 1 ? 1000000 : 1000000000;
		value[len - 1] = 0;
		break;
	}
	if (!net_parse_number(value, 1, RATE_MAX_BITS / unit, &o->rate) || o->rate * unit < 8000) {
		if (unit > 1)
			value[len - 1] = letters[unit == 1000 ? 0 : unit == 1000000 ? 1 : 2];
		return refuse(c, "not bits a second from 8K to 1000G");
	}
	o->rate *= unit;
	return 0;
}

static int parse_mtu(struct net_options *o, char *value, const struct complaint *c)
{
	uint64_t n;

	if (!net_parse_number(value, NET_MIN_MTU, NET_MAX_MTU, &n))
		return refuse(c, "not from %d to %d", NET_MIN_MTU, NET_MAX_MTU);
	o->mtu = (uint16_t)n;
	return 0;
}

/* "[ADDRESS]:PORT"; the address may be missing, and is in brackets where it is of IPv6. */
static bool parse_endpoint(char *text, struct net_endpoint *e)
{
	bool v6 = *text == '[';
	char *colon = v6 ? strstr(text, "]:") : strchr(text, ':');
	uint64_t port;
	char *end = colon;
	bool good;

	if (!colon || !net_parse_number(colon + (v6 ? 2 : 1), 1, 65535, &port))
		return false;
	*e = (struct net_endpoint){ .v6 = v6, .port = (uint16_t)port };
	*end = 0;
	if (v6)
		good = inet_pton(AF_INET6, text + 1, &e->addr6) == 1;
	else
		good = colon == text || inet_pton(AF_INET, text, &e->addr) == 1;
	*end = v6 ? ']' : ':';
	return good;
}

static int parse_forward(struct net_options *o, char *value, const struct complaint *c)
{
	struct net_forward *f = &o->forward[o->nr_forwards];
	char *dash = strchr(value, '-');
	bool good;

	if (o->nr_forwards == NET_MAX_FORWARDS)
		return refuse(c, "more than %d of them", NET_MAX_FORWARDS);
	f->udp = !strncmp(value, "udp:", 4);
	f->text = value;
	if (!dash || (!f->udp && strncmp(value, "tcp:", 4) != 0))
		return refuse(c, FORWARD_FORM);
	*dash = 0;
	good = parse_endpoint(value + 4, &f->host) && parse_endpoint(dash + 1, &f->guest);
	*dash = '-';
	if (!good)
		return refuse(c, FORWARD_FORM);
	if (f->host.v6 != f->guest.v6)
		return refuse(c, "one address is IPv6, the other is not");
	o->nr_forwards++;
	return 0;
}

static int parse_network(struct net_options *o, char *value, const struct complaint *c)
{
	char *slash = strchr(value, '/');
	uint64_t bits;
	bool good;

	if (!slash || !net_parse_number(slash + 1, 8, 29, &bits))
		return refuse(c, "not ADDRESS/BITS with 8 to 29 bits");
	*slash = 0;
	good = inet_pton(AF_INET, value, &o->network) == 1;
	*slash = '/';
	if (!good || !o->network.s_addr)
		return refuse(c, "not an IPv4 address");
	o->mask.s_addr = htonl(~0u << (32 - bits));
	if (o->network.s_addr & ~o->mask.s_addr)
		return refuse(c, "has bits beyond the first %u", (unsigned)bits);
	return 0;
}

static int parse_host(struct net_options *o, char *value, const struct complaint *c)
{
	return parse_address(&o->host, value, c);
}

static int parse_dns(struct net_options *o, char *value, const struct complaint *c)
{
	return parse_address(&o->dns, value, c);
}

static int parse_dhcp(struct net_options *o, char *value, const struct complaint *c)
{
	return parse_address(&o->dhcp, value, c);
}

static int parse_restrict(struct net_options *o, char *value, const struct complaint *c)
{
	return parse_flag(&o->restricted, value, c);
}

/* All of it is /64: nobody but the guest chooses the rest of its address. */
static int parse_network6(struct net_options *o, char *value, const struct complaint *c)
{
	static const uint8_t none[8];

	if (inet_pton(AF_INET6, value, &o->network6) != 1)
		return refuse(c, "not an IPv6 address");
	if (memcmp(o->network6.s6_addr + 8, none, sizeof(none)) != 0)
		return refuse(c, "has bits beyond the first 64");
	if (IN6_IS_ADDR_UNSPECIFIED(&o->network6) || IN6_IS_ADDR_LINKLOCAL(&o->network6) ||
	    IN6_IS_ADDR_MULTICAST(&o->network6))
		return refuse(c, "not a network that a guest may be in");
	return 0;
}

static int parse_ipv4(struct net_options *o, char *value, const struct complaint *c)
{
	int rc = parse_flag(&o->no_ipv4, value, c);

	o->no_ipv4 = !o->no_ipv4;
	return rc;
}

static int parse_ipv6(struct net_options *o, char *value, const struct complaint *c)
{
	int rc = parse_flag(&o->no_ipv6, value, c);

	o->no_ipv6 = !o->no_ipv6;
	return rc;
}

static int parse_hostname(struct net_options *o, char *value, const struct complaint *c)
{
	if (strlen(value) > 32) /* libslirp's DHCP answer has no more room */
		return refuse(c, "longer than 32 bytes");
	return parse_string(&o->hostname, value, c);
}

static int parse_domain(struct net_options *o, char *value, const struct complaint *c)
{
	if (strlen(value) > 64)
		return refuse(c, "longer than 64 bytes");
	return parse_string(&o->domain, value, c);
}

static int parse_ifname(struct net_options *o, char *value, const struct complaint *c)
{
	if (strlen(value) >= IFNAMSIZ)
		return refuse(c, "longer than %d bytes", IFNAMSIZ - 1);
	return parse_string(&o->ifname, value, c);
}

static int parse_listen(struct net_options *o, char *value, const struct complaint *c)
{
	return parse_string(&o->listen, value, c);
}

static int parse_connect(struct net_options *o, char *value, const struct complaint *c)
{
	return parse_string(&o->connect, value, c);
}

static const struct key {
	const char *name;
	unsigned backends;
	int (*parse)(struct net_options *o, char *value, const struct complaint *c);
} keys[] = {
	{ "pcap", ALL, parse_pcap },
	{ "rate", ALL, parse_rate },
	{ "mtu", ALL, parse_mtu },
	{ "hostfwd", USER, parse_forward },
	{ "network", USER, parse_network },
	{ "host", USER, parse_host },
	{ "dns", USER, parse_dns },
	{ "dhcpstart", USER, parse_dhcp },
	{ "hostname", USER, parse_hostname },
	{ "domain", USER, parse_domain },
	{ "restrict", USER, parse_restrict },
	{ "ipv4", USER, parse_ipv4 },
	{ "ipv6", USER, parse_ipv6 },
	{ "network6", USER, parse_network6 },
	{ "ifname", TAP, parse_ifname },
	{ "listen", LINK, parse_listen },
	{ "connect", LINK, parse_connect },
};

static int parse_key(struct net_options *o, unsigned backend, char *word, char *err, size_t errlen)
{
	struct complaint c = { o->backend->name, word, "", err, errlen };
	char *value = strchr(word, '=');

	if (value)
		*value++ = 0;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].name, word) || !(keys[i].backends & backend))
			continue;
		if (!value) {
			snprintf(err, errlen, "--net %s: %s needs a value: %s=...", c.backend, word,
			         word);
			return -EINVAL;
		}
		c.value = value;
		return keys[i].parse(o, value, &c);
	}
	snprintf(err, errlen, "--net %s: has no option '%s'", c.backend, word);
	return -EINVAL;
}

/* What only the whole can show. */

static int check_inside(const struct net_options *o, char *err, size_t errlen)
{
	const struct in_addr *const inside[] = { &o->host, &o->dns, &o->dhcp };
	static const char *const names[] = { "host", "dns", "dhcpstart" };
	uint32_t mask = o->network.s_addr ? o->mask.s_addr : htonl(0xffffff00);
	uint32_t network = o->network.s_addr ? o->network.s_addr : htonl(0x0a000200);
	char text[INET_ADDRSTRLEN];

	for (size_t i = 0; i < ARRAY_SIZE(inside); i++) {
		if (!inside[i]->s_addr || (inside[i]->s_addr & mask) == network)
			continue;
		inet_ntop(AF_INET, inside[i], text, sizeof(text));
		snprintf(err, errlen, "--net user: %s=%s: not in the guest's network", names[i],
		         text);
		return -EINVAL;
	}
	return 0;
}

static int check_versions(const struct net_options *o, char *err, size_t errlen)
{
	if (o->no_ipv4 && o->no_ipv6) {
		snprintf(err, errlen, "--net user: ipv4=off,ipv6=off: leaves nothing");
		return -EINVAL;
	}
	for (unsigned i = 0; i < o->nr_forwards; i++) {
		const struct net_forward *f = &o->forward[i];

		if (f->host.v6 ? !o->no_ipv6 : !o->no_ipv4)
			continue;
		snprintf(err, errlen, "--net user: hostfwd=%s: not with %s=off", f->text,
		         f->host.v6 ? "ipv6" : "ipv4");
		return -EINVAL;
	}
	return 0;
}

static int check(const struct net_options *o, char *err, size_t errlen)
{
	int rc = check_inside(o, err, errlen);

	if (!rc)
		rc = check_versions(o, err, errlen);
	if (rc || o->backend != &net_link_ops || !o->listen != !o->connect)
		return rc;
	snprintf(err, errlen, "--net link: needs either listen=PATH or connect=PATH");
	return -EINVAL;
}

static const struct net_backend_ops *find_backend(const char *name, unsigned *bit)
{
	for (unsigned i = 0; i < ARRAY_SIZE(backends); i++) {
		*bit = (unsigned)BIT(i);
		if (!strcmp(backends[i]->name, name))
			return backends[i];
	}
	return NULL;
}

int net_options_parse(struct net_options *o, const char *text, char *err, size_t errlen)
{
	char *rest, *word;
	unsigned backend;
	int rc = 0;

	*o = (struct net_options){ .text = strdup(text) };
	if (!o->text) {
		snprintf(err, errlen, "--net %s: %s", text, strerror(ENOMEM));
		return -ENOMEM;
	}
	rest = o->text;
	word = strsep(&rest, ",");
	o->backend = find_backend(word, &backend);
	if (!o->backend) {
		snprintf(err, errlen, "--net %s: not one of user, tap, link", word);
		return -EINVAL;
	}
	while (!rc && rest)
		rc = parse_key(o, backend, strsep(&rest, ","), err, errlen);
	return rc ? rc : check(o, err, errlen);
}

void net_options_fini(struct net_options *o)
{
	free(o->text);
	o->text = NULL;
}
