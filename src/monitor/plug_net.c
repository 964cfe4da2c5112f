/*
 * Network cards, shared directories and the socket device: from the command line's words to the PCI
 * bus.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/fs.h"
#include "device/virtio/net.h"
#include "device/virtio/vsock.h"
#include "monitor/vm_private.h"

static int plug_net(struct vm *vm, const char *what, char *err, size_t errlen)
{
	struct board *b = vm->board;
	char *text = strdup(what);
	struct net_card card;
	struct net *net;
	int rc = text ? net_card_parse(text, &card, err, errlen) : -ENOMEM;

	if (!rc)
		rc = net_open(&net, text, err, errlen);
	free(text);
	if (rc)
		return *err ? rc : plug_fail(rc, "--net", err, errlen);
	return plug_fail(virtio_net_add(&b->pci, &b->bus, vm->mem, net, &card), "virtio-net", err,
	                 errlen);
}

/* The words of "KEY=VALUE,KEY,..." are given to set(), which returns NULL or what is wrong. */
static int parse_words(const char *option, char *text, const char *(*set)(void *, char *, char *),
                       void *opaque, char *err, size_t errlen)
{
	char *rest = text, *word;

	while ((word = strsep(&rest, ","))) {
		char *value = strchr(word, '=');
		const char *wrong;

		if (value)
			*value++ = 0;
		wrong = set(opaque, word, value);
		if (!wrong)
			continue;
		snprintf(err, errlen, "%s: %s%s%s: %s", option, word, value ? "=" : "",
		         value ? value : "", wrong);
		return -EINVAL;
	}
	return 0;
}

struct share_words {
	struct share_options options;
	const char *tag;
};

static const char *set_share(void *opaque, char *key, char *value)
{
	struct share_words *w = opaque;

	if (!strcmp(key, "readonly") && !value) {
		w->options.readonly = true;
	} else if (!strcmp(key, "path") && value && *value) {
		w->options.path = value;
	} else if (!strcmp(key, "tag") && value && *value) {
		w->tag = value;
		return strlen(value) > VIRTIO_FS_TAG ? "longer than 36 bytes" : NULL;
	} else if (!strcmp(key, "owner") && value && !strcmp(value, "root")) {
		w->options.owner = SHARE_OWNER_ROOT;
	} else if (strcmp(key, "owner") || !value || strcmp(value, "host")) {
		return "not one of path=DIR, tag=NAME, readonly, owner=host, owner=root";
	}
	return NULL;
}

static int plug_share(struct vm *vm, const char *what, char *err, size_t errlen)
{
	struct board *b = vm->board;
	struct share_words w = { 0 };
	struct share *share;
	char *text = strdup(what), why[256];
	int rc = text ? parse_words("--share", text, set_share, &w, err, errlen) : -ENOMEM;

	if (!rc && (!w.options.path || !w.tag)) {
		snprintf(err, errlen, "--share %s: needs path=DIR and tag=NAME", what);
		rc = -EINVAL;
	}
	if (!rc) {
		rc = share_open(&share, &w.options, why, sizeof(why));
		if (rc)
			snprintf(err, errlen, "--share: path=%s", why);
	}
	if (!rc)
		rc = plug_fail(virtio_fs_add(&b->pci, &b->bus, vm->mem, share, w.tag), "virtio-fs",
		               err, errlen);
	free(text);
	return rc;
}

static const char *set_vsock(void *opaque, char *key, char *value)
{
	struct vsock_options *o = opaque;
	unsigned long long cid;
	char *end;

	if (!strcmp(key, "path") && value && *value) {
		o->path = value;
		return NULL;
	}
	if (strcmp(key, "cid") || !value)
		return "not one of path=PATH, cid=N";
	errno = 0;
	cid = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno || cid < VSOCK_MIN_CID ||
	    cid > VSOCK_MAX_CID)
		return "not from 3 to 4294967294";
	o->cid = (uint32_t)cid;
	return NULL;
}

static int plug_vsock(struct vm *vm, const char *what, char *err, size_t errlen)
{
	struct board *b = vm->board;
	struct vsock_options o = { 0 };
	char *text = strdup(what), why[256] = "";
	int rc = text ? parse_words("--vsock", text, set_vsock, &o, err, errlen) : -ENOMEM;

	if (!rc && (!o.path || !o.cid)) {
		snprintf(err, errlen, "--vsock %s: needs path=PATH and cid=N", what);
		rc = -EINVAL;
	}
	if (!rc) {
		rc = virtio_vsock_add(&b->pci, &b->bus, vm->mem, &o, why, sizeof(why));
		if (rc)
			snprintf(err, errlen, "--vsock: %s", *why ? why : strerror(-rc));
	}
	free(text);
	return rc;
}

int plug_connections(struct vm *vm, char *err, size_t errlen)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->config.nr_nets; i++)
		rc = plug_net(vm, vm->config.net[i], err, errlen);
	for (unsigned i = 0; !rc && i < vm->config.nr_shares; i++)
		rc = plug_share(vm, vm->config.share[i], err, errlen);
	if (!rc && vm->config.vsock)
		rc = plug_vsock(vm, vm->config.vsock, err, errlen);
	return rc;
}
