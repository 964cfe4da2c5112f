/* What the host's KVM offers, in words for `trapeze info`. */
#include "engine/kvm/kvm.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Adds a word to a list with commas. */
static void add(char *list, size_t size, bool has, const char *word)
{
	size_t len = strnlen(list, size);

	if (has)
		snprintf(list + len, size - len, "%s%s", len ? ", " : "", word);
}

static void tell(engine_describe_fn fn, void *opaque, const char *name, const char *list)
{
	fn(opaque, name, *list ? list : "none");
}

static void tell_irqchips(const struct kvm_offers *o, engine_describe_fn fn, void *opaque)
{
	char list[128] = "";

	add(list, sizeof(list), o->irqchip && o->signal_msi, "kernel");
	add(list, sizeof(list), o->split_irqchip && o->signal_msi, "split");
	add(list, sizeof(list), true, "own");
	tell(fn, opaque, "interrupt controllers", list);
}

static void tell_dirty_logs(const struct kvm_offers *o, engine_describe_fn fn, void *opaque)
{
	char list[128] = "";

	add(list, sizeof(list), true, "bitmap");
	add(list, sizeof(list), o->manual_dirty, "bitmap cleared by hand");
	add(list, sizeof(list), o->dirty_ring, "ring");
	tell(fn, opaque, "dirty log", list);
}

static void tell_others(const struct kvm_offers *o, engine_describe_fn fn, void *opaque)
{
	char list[256] = "";

	add(list, sizeof(list), o->irqfd, "irqfd");
	add(list, sizeof(list), o->ioeventfd, "ioeventfd");
	add(list, sizeof(list), o->signal_msi, "MSI");
	add(list, sizeof(list), o->coalesced_mmio, "coalesced MMIO");
	add(list, sizeof(list), o->coalesced_pio, "coalesced ports");
	add(list, sizeof(list), o->steal_time, "steal time");
	add(list, sizeof(list), o->tsc_offset, "exact TSC offset");
	add(list, sizeof(list), o->readonly_mem, "read-only memory");
	add(list, sizeof(list), o->exit_on_emulation_failure, "all emulation failures");
	tell(fn, opaque, "other", list);
}

void engine_kvm_describe(engine_describe_fn fn, void *opaque)
{
	char err[256], text[64];
	struct kvm_offers o;
	int dev = kvm_open_host(err, sizeof(err));

	if (dev < 0)
		return;
	if (!kvm_read_offers(dev, &o, err, sizeof(err))) {
		snprintf(text, sizeof(text), "%d", ioctl(dev, KVM_GET_API_VERSION, 0));
		fn(opaque, "API version", text);
		snprintf(text, sizeof(text), "%d",
		         ioctl(dev, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
		fn(opaque, "vCPUs at most", text);
		tell_irqchips(&o, fn, opaque);
		tell_dirty_logs(&o, fn, opaque);
		tell_others(&o, fn, opaque);
	}
	close(dev);
}
