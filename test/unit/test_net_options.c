/* The text after --net: what is taken, and what is refused with one line that names it. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "net/net_private.h"

static struct net_options o;

static void parse(const char *text)
{
	char err[256] = "";

	assert_int_equal(net_options_parse(&o, text, err, sizeof(err)), 0);
	assert_string_equal(err, "");
}

static void user_options(void **state)
{
	parse("user,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-10.0.2.15:5353,restrict=on,"
	      "ipv6=off,mtu=9000,rate=10M,pcap=x=y,hostname=h,domain=d");
	assert_ptr_equal(o.backend, &net_user_ops);
	assert_int_equal(o.nr_forwards, 2);
	assert_false(o.forward[0].udp);
	assert_int_equal(ntohl(o.forward[0].host.addr.s_addr), 0x7f000001);
	assert_int_equal(o.forward[0].host.port, 2222);
	assert_int_equal(o.forward[0].guest.addr.s_addr, 0);
	assert_int_equal(o.forward[0].guest.port, 22);
	assert_true(o.forward[1].udp);
	assert_int_equal(o.forward[1].host.addr.s_addr, 0);
	assert_int_equal(o.forward[1].host.port, 53);
	assert_int_equal(ntohl(o.forward[1].guest.addr.s_addr), 0x0a00020f);
	assert_int_equal(o.forward[1].guest.port, 5353);
	assert_string_equal(o.forward[1].text, "udp::53-10.0.2.15:5353");
	assert_true(o.restricted);
	assert_true(o.no_ipv6);
	assert_int_equal(o.mtu, 9000);
	assert_int_equal(o.rate, 10000000);
	assert_string_equal(o.pcap, "x=y");
	assert_string_equal(o.hostname, "h");
	assert_string_equal(o.domain, "d");
	net_options_fini(&o);
}

static void network(void **state)
{
	parse("user,network=192.168.5.0/"
	      "28,host=192.168.5.1,dns=192.168.5.14,dhcpstart=192.168.5.9");
	assert_int_equal(ntohl(o.network.s_addr), 0xc0a80500);
	assert_int_equal(ntohl(o.mask.s_addr), 0xfffffff0);
	assert_int_equal(ntohl(o.host.s_addr), 0xc0a80501);
	assert_int_equal(ntohl(o.dns.s_addr), 0xc0a8050e);
	assert_int_equal(ntohl(o.dhcp.s_addr), 0xc0a80509);
	net_options_fini(&o);
}

static void ipv6(void **state)
{
	char text[INET6_ADDRSTRLEN];

	parse("user,ipv4=off,network6=fd00:1::,hostfwd=udp:[::1]:53-[fd00:1::15]:5353,"
	      "hostfwd=tcp:[::]:22-[fd00:1::15]:22");
	assert_true(o.no_ipv4);
	inet_ntop(AF_INET6, &o.network6, text, sizeof(text));
	assert_string_equal(text, "fd00:1::");
	assert_int_equal(o.nr_forwards, 2);
	assert_true(o.forward[0].udp && o.forward[0].host.v6 && o.forward[0].guest.v6);
	assert_true(IN6_IS_ADDR_LOOPBACK(&o.forward[0].host.addr6));
	inet_ntop(AF_INET6, &o.forward[0].guest.addr6, text, sizeof(text));
	assert_string_equal(text, "fd00:1::15");
	assert_int_equal(o.forward[0].host.port, 53);
	assert_int_equal(o.forward[0].guest.port, 5353);
	assert_string_equal(o.forward[0].text, "udp:[::1]:53-[fd00:1::15]:5353");
	assert_true(IN6_IS_ADDR_UNSPECIFIED(&o.forward[1].host.addr6));
	net_options_fini(&o);
}

static void others(void **state)
{
	parse("tap");
	assert_ptr_equal(o.backend, &net_tap_ops);
	net_options_fini(&o);
	parse("tap,ifname=tap7,rate=8k");
	assert_string_equal(o.ifname, "tap7");
	assert_int_equal(o.rate, 8000);
	net_options_fini(&o);
	parse("link,listen=/run/a");
	assert_string_equal(o.listen, "/run/a");
	net_options_fini(&o);
	parse("link,connect=/run/a,rate=1000G");
	assert_string_equal(o.connect, "/run/a");
	assert_int_equal(o.rate, RATE_MAX_BITS);
	net_options_fini(&o);
}

static void refusals(void **state)
{
	/* The text, and a piece of the complaint. */
	static const char *const bad[][2] = {
		{ "", "not one of user, tap, link" },
		{ "bridge", "bridge: not one of" },
		{ "user,", "no option ''" },
		{ "user,ifname=tap0", "user: has no option 'ifname'" },
		{ "tap,hostfwd=tcp::1-:1", "tap: has no option 'hostfwd'" },
		{ "user,restrict", "restrict=..." },
		{ "user,restrict=yes", "restrict=yes: not one of on, off" },
		{ "user,rate=", "rate=: not bits" },
		{ "user,rate=7999", "rate=7999: not bits" },
		{ "user,rate=1001G", "rate=1001G: not bits" },
		{ "user,rate=-1", "rate=-1" },
		{ "user,rate=1X", "rate=1X" },
		{ "user,rate=M", "rate=M" },
		{ "user,mtu=1279", "mtu=1279: not from 1280 to 65521" },
		{ "user,mtu=65522", "mtu=65522" },
		{ "user,pcap=", "pcap=: is empty" },
		{ "user,hostfwd=", "hostfwd=: not tcp|udp" },
		{ "user,hostfwd=tcp:22-:22", "hostfwd=tcp:22-:22: not" },
		{ "user,hostfwd=icmp::1-:1", "hostfwd=icmp::1-:1: not" },
		{ "user,hostfwd=tcp::0-:1", "hostfwd=tcp::0-:1: not" },
		{ "user,hostfwd=tcp::65536-:1", "hostfwd" },
		{ "user,hostfwd=tcp::1-", "hostfwd=tcp::1-: not" },
		{ "user,hostfwd=tcp:localhost:1-:1", "hostfwd=tcp:localhost:1-:1: not" },
		{ "user,hostfwd=tcp:1.2.3.4.5:1-:1", "hostfwd" },
		{ "user,hostfwd=tcp:::1:22-:22", "hostfwd=tcp:::1:22-:22: not" },
		{ "user,hostfwd=tcp:[::1]22-[fec0::15]:22", "[::1]22-[fec0::15]:22: not" },
		{ "user,hostfwd=tcp:[::1:22-[fec0::15]:22",
		  "hostfwd=tcp:[::1:22-[fec0::15]:22: not" },
		{ "user,hostfwd=tcp:[]:22-[fec0::15]:22", "hostfwd=tcp:[]:22-[fec0::15]:22: not" },
		{ "user,hostfwd=tcp:[127.0.0.1]:22-[fec0::15]:22", "not tcp|udp" },
		{ "user,hostfwd=tcp:[::1]:22-:22", "one address is IPv6, the other is not" },
		{ "user,hostfwd=tcp::22-[fec0::15]:22", "one address is IPv6, the other is not" },
		{ "user,ipv6=off,hostfwd=tcp:[::1]:2-[fec0::15]:2",
		  "hostfwd=tcp:[::1]:2-[fec0::15]:2: not with ipv6=off" },
		{ "user,hostfwd=tcp::2-:2,ipv4=off", "hostfwd=tcp::2-:2: not with ipv4=off" },
		{ "user,ipv4=off,ipv6=off", "leaves nothing" },
		{ "user,ipv4=yes", "ipv4=yes: not one of on, off" },
		{ "user,network6=10.0.2.0", "network6=10.0.2.0: not an IPv6" },
		{ "user,network6=fd00::1", "network6=fd00::1: has bits beyond the first 64" },
		{ "user,network6=::", "network6=::: not a network" },
		{ "user,network6=fe80::", "network6=fe80::: not a network" },
		{ "user,network6=ff02::", "network6=ff02::: not a network" },
		{ "user,network=10.0.2.0", "network=10.0.2.0: not ADDRESS/BITS" },
		{ "user,network=10.0.2.0/30", "8 to 29" },
		{ "user,network=10.0.2.1/24", "bits beyond the first 24" },
		{ "user,network=ten/24", "network=ten/24: not an IPv4" },
		{ "user,dns=10.0.3.3", "dns=10.0.3.3: not in the guest's network" },
		{ "user,dns=x", "dns=x: not an IPv4" },
		{ "user,hostname=", "hostname=: is empty" },
		{ "user,hostname=123456789012345678901234567890123", "longer than 32" },
		{ "tap,ifname=1234567890123456", "longer than 15" },
		{ "link", "either listen=PATH or connect=PATH" },
		{ "link,listen=a,connect=b", "either" },
		{ "link,listen=", "listen=: is empty" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		char err[256] = "";

		assert_int_equal(net_options_parse(&o, bad[i][0], err, sizeof(err)), -EINVAL);
		if (!strstr(err, bad[i][1]))
			fail_msg("%s: %s", bad[i][0], err);
		assert_null(strchr(err, '\n'));
		net_options_fini(&o);
	}
}

static void many_forwards(void **state)
{
	char text[64 * NET_MAX_FORWARDS], err[256] = "";
	size_t n = (size_t)sprintf(text, "user");

	for (unsigned i = 0; i < NET_MAX_FORWARDS; i++)
		n += (size_t)sprintf(text + n, ",hostfwd=tcp::%u-:80", i + 1);
	parse(text);
	assert_int_equal(o.nr_forwards, NET_MAX_FORWARDS);
	net_options_fini(&o);
	strcpy(text + n, ",hostfwd=tcp::9999-:80");
	assert_int_equal(net_options_parse(&o, text, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "more than 64"));
	net_options_fini(&o);
}

static void card_keys(void **state)
{
	char text[] = "user,mac=52:54:00:ab:CD:01,restrict=on,queues=4", err[256] = "";
	static const uint8_t mac[NET_MAC] = { 0x52, 0x54, 0, 0xab, 0xcd, 1 };
	struct net_card card;

	assert_int_equal(net_card_parse(text, &card, err, sizeof(err)), 0);
	assert_string_equal(text, "user,restrict=on");
	assert_true(card.has_mac);
	assert_memory_equal(card.mac, mac, NET_MAC);
	assert_int_equal(card.queues, 4);
}

static void card_keys_are_optional(void **state)
{
	char text[] = "tap,ifname=a", err[256] = "";
	struct net_card card;

	assert_int_equal(net_card_parse(text, &card, err, sizeof(err)), 0);
	assert_string_equal(text, "tap,ifname=a");
	assert_false(card.has_mac);
	assert_int_equal(card.queues, 1);
}

static void card_refusals(void **state)
{
	static const char *const bad[] = {
		"user,mac=",
		"user,mac=52:54:00:12:34",
		"user,mac=52:54:00:12:34:5g",
		"user,mac=52:54:00:12:34:567",
		"user,mac=52-54-00-12-34-56",
		"user,mac=01:00:5e:00:00:01",
		"user,mac=00:00:00:00:00:00",
		"user,mac=ff:ff:ff:ff:ff:ff",
		"user,mac=52:54:00:12:34: 6",
		"user,queues=0",
		"user,queues=17",
		"user,queues=x",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		char *text = strdup(bad[i]), err[256] = "";
		struct net_card card;

		if (net_card_parse(text, &card, err, sizeof(err)) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
		assert_non_null(strstr(err, strchr(bad[i], ',') + 1));
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(user_options),  cmocka_unit_test(network),
		cmocka_unit_test(ipv6),          cmocka_unit_test(others),
		cmocka_unit_test(refusals),      cmocka_unit_test(many_forwards),
		cmocka_unit_test(card_keys),     cmocka_unit_test(card_keys_are_optional),
		cmocka_unit_test(card_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
