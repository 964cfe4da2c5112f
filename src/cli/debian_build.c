/*
 * A Debian system as mmdebstrap installs it, then made to an ext4 file system by mke2fs.
 *
 * All that needs to own files as root runs in hooks of mmdebstrap, which has such rights or, in a
 * user namespace, what looks like them. The one thing that leaves it is the disk's content,
 * through a descriptor, for the namespace may not open our files.
 */
#include "cli/debian.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/child.h"

#define MAX_SOURCES 32
#define MAX_ARGS    (MAX_SOURCES + 16)
#define LINE        1024

#define PACKAGES                                                                           \
	"linux-image-cloud-amd64,initramfs-tools,systemd-sysv,systemd-resolved,udev,dbus," \
	"kmod,e2fsprogs,iproute2,iputils-ping,procps,openssh-server"

/* Before the kernel makes its initial RAM disk: what finds the root file system, no more. */
static const char extract_hook[] =
        "--extract-hook=set -eu\n"
        "mkdir -p \"$1/etc/initramfs-tools/conf.d\" \"$1/usr/share/initramfs-tools/modules.d\"\n"
        "echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/trapeze\"\n"
        "printf '%s\\n' virtio_pci virtio_blk "
        ">\"$1/usr/share/initramfs-tools/modules.d/trapeze\"\n";

/*
 * The console's root has no password, which sshd refuses; machine-id is empty, and not
 * "uninitialized", so that the first boot makes one but enables nothing that is off here.
 * mmdebstrap has /dev, /proc and /sys mounted in the folder, under which a second mount of it
 * looks.
 */
static const char customize_hook[] =
        "--customize-hook=set -eu\n"
        "root=$1\n"
        "echo \"$TRAPEZE_HOSTNAME\" >\"$root/etc/hostname\"\n"
        "printf '127.0.0.1\\tlocalhost\\n127.0.1.1\\t%s\\n::1\\tlocalhost\\n' "
        "\"$TRAPEZE_HOSTNAME\" >\"$root/etc/hosts\"\n"
        "uuid=$(cat /proc/sys/kernel/random/uuid)\n"
        "echo \"UUID=$uuid / ext4 errors=remount-ro 0 1\" >\"$root/etc/fstab\"\n"
        "printf '[Match]\\nType=ether\\n\\n[Network]\\nDHCP=yes\\n' "
        ">\"$root/etc/systemd/network/80-ether.network\"\n"
        "rm -f \"$root/etc/resolv.conf\"\n"
        "ln -s ../run/systemd/resolve/stub-resolv.conf \"$root/etc/resolv.conf\"\n"
        ": >\"$root/etc/machine-id\"\n"
        "chroot \"$root\" passwd -q -d root\n"
        "chroot \"$root\" systemctl -q enable systemd-networkd\n"
        "chroot \"$root\" systemctl -q disable getty@tty1 apt-daily.timer "
        "apt-daily-upgrade.timer\n"
        "if [ -n \"$TRAPEZE_SSH_KEY\" ]; then\n"
        "	mkdir -p -m 700 \"$root/root/.ssh\"\n"
        "	printf '%s\\n' \"$TRAPEZE_SSH_KEY\" >\"$root/root/.ssh/authorized_keys\"\n"
        "	chmod 600 \"$root/root/.ssh/authorized_keys\"\n"
        "fi\n"
        "rm -rf \"$root\"/var/lib/apt/lists/* \"$root\"/var/cache/apt/*.bin\n"
        "temp=$(mktemp -d)\n"
        "mkdir \"$temp/root\"\n"
        "trap 'umount \"$temp/root\" 2>/dev/null || :; rm -rf --one-file-system \"$temp\"' EXIT\n"
        "mount --bind \"$root\" \"$temp/root\"\n"
        "PATH=$PATH:/usr/sbin:/sbin\n"
        "echo 'I: making the file system...' >&2\n"
        "if ! mke2fs -q -F -t ext4 -U \"$uuid\" -d \"$temp/root\" \"$temp/disk\" "
        "\"${TRAPEZE_SIZE}k\" >\"$temp/log\" 2>&1; then\n"
        "	used=$(du -smx \"$temp/root\" | cut -f 1)\n"
        "	echo \"E: $(tail -n 1 \"$temp/log\") ($used MiB of files for a disk of "
        "$((TRAPEZE_SIZE / 1024)) MiB, --size)\" >&2\n"
        "	exit 1\n"
        "fi\n"
        "if ! dd if=\"$temp/disk\" bs=1M conv=sparse,notrunc status=none >&3 2>\"$temp/log\"; "
        "then\n"
        "	echo \"E: cannot write the disk: $(tail -n 1 \"$temp/log\")\" >&2\n"
        "	exit 1\n"
        "fi\n";

struct sources {
	char *line[MAX_SOURCES];
	unsigned nr;
};

static void free_sources(struct sources *s)
{
	while (s->nr)
		free(s->line[--s->nr]);
}

/* bookworm, bookworm-updates and bookworm-security, but no backports. */
static bool is_of_suite(const char *release, const char *suite)
{
	size_t n = strlen(suite);

	return !strncmp(release, suite, n) && (!release[n] || !strcmp(release + n, "-updates") ||
	                                       !strcmp(release + n, "-security"));
}

/* SITE RELEASE CODENAME COMPONENT, of which a source of the suite becomes a line for apt. */
static int take_source(struct sources *s, char *text, const char *suite)
{
	char *rest = text, *word[4];

	for (size_t i = 0; i < ARRAY_SIZE(word); i++) {
		word[i] = strsep(&rest, " \n");
		if (!word[i] || !*word[i])
			return 0;
	}
	if (!is_of_suite(word[1], suite) && !is_of_suite(word[2], suite))
		return 0;
	if (s->nr == MAX_SOURCES)
		return -E2BIG;
	if (asprintf(&s->line[s->nr], "deb %s %s %s", word[0], word[1], word[3]) < 0)
		return -ENOMEM;
	s->nr++;
	return 0;
}

/* Where this host's apt gets the suite from, by apt itself, which knows all forms of its files. */
static int find_sources(struct sources *s, const char *suite)
{
	static const char *const argv[] = { "apt-get",
		                            "indextargets",
		                            "--no-release-info",
		                            "--format",
		                            "$(SITE) $(RELEASE) $(CODENAME) $(COMPONENT)",
		                            "Created-By: Packages",
		                            "Architecture: amd64",
		                            NULL };
	char text[LINE];
	struct child c;
	int rc = child_start(&c, argv, 1, -1), status;

	if (rc) {
		log_error("image debian: apt-get: %s (the system comes from this host's own "
		          "sources of apt)",
		          strerror(-rc));
		return rc;
	}
	while (!rc && fgets(text, sizeof(text), c.out))
		rc = take_source(s, text, suite);
	status = child_end(&c);
	if (rc || status) {
		log_error("image debian: apt-get indextargets: %s",
		          rc ? strerror(-rc) : "it failed");
		return rc ? rc : -EIO;
	}
	if (s->nr)
		return 0;
	log_error("image debian: no source of this host's apt has '%s' (--suite)", suite);
	return -ENOENT;
}

static int set_environment(const struct debian *d)
{
	char size[32];

	snprintf(size, sizeof(size), "%llu", (unsigned long long)(d->size / KiB));
	return setenv("TRAPEZE_HOSTNAME", d->hostname, 1) || setenv("TRAPEZE_SIZE", size, 1) ||
	                       setenv("TRAPEZE_SSH_KEY", d->ssh_key ? d->ssh_key : "", 1)
	               ? -ENOMEM
	               : 0;
}

/* "I: installing ...", which a terminal shows until the next one. */
static void show_step(const char *line, uint64_t start_ns)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\rdebian: %.60s (%.0f s)\033[K", line + 3,
		        (double)(clock_ns() - start_ns) / 1e9);
}

/* Shows the steps; the first line that tells of an error is the cause of all others. */
static void follow(FILE *f, char error[LINE])
{
	uint64_t start = clock_ns();
	char line[LINE];

	*error = '\0';
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "I: ", 3))
			show_step(line, start);
		else if (!strncmp(line, "E: ", 3) && !*error)
			memcpy(error, line + 3, strlen(line + 3) + 1);
	}
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

static int run_mmdebstrap(const char *const argv[], int raw)
{
	char error[LINE];
	struct child c;
	int rc = child_start(&c, argv, 2, raw);

	if (rc) {
		log_error("image debian: mmdebstrap: %s%s", strerror(-rc),
		          rc == -ENOENT ? " (package mmdebstrap)" : "");
		return rc;
	}
	follow(c.out, error);
	rc = child_end(&c);
	if (!rc)
		return 0;
	if (*error)
		log_error("image debian: mmdebstrap: %s", error);
	else
		log_error("image debian: mmdebstrap ended with status %d", rc);
	return -EIO;
}

static int install(const struct debian *d, const struct sources *s)
{
	char include[LINE];
	const char *argv[MAX_ARGS] = { "mmdebstrap",
		                       geteuid() ? "--mode=unshare" : "--mode=root",
		                       "--variant=minbase",
		                       "--architectures=amd64",
		                       "--format=null",
		                       include,
		                       extract_hook,
		                       customize_hook,
		                       d->suite,
		                       "/dev/null" };
	unsigned n = 10;
	int len = snprintf(include, sizeof(include), "--include=%s%s%s", PACKAGES,
	                   d->packages ? "," : "", d->packages ? d->packages : "");

	if (len >= (int)sizeof(include)) {
		log_error("--packages: %zu characters, at most %zu are possible",
		          strlen(d->packages),
		          sizeof(include) - sizeof(PACKAGES) - sizeof("--include=,") + 1);
		return -E2BIG;
	}
	for (unsigned i = 0; i < s->nr; i++)
		argv[n++] = s->line[i];
	return run_mmdebstrap(argv, d->raw);
}

int debian_build(const struct debian *d)
{
	struct sources s = { 0 };
	int rc = find_sources(&s, d->suite);

	if (!rc)
		rc = set_environment(d);
	if (!rc)
		rc = install(d, &s);
	free_sources(&s);
	return rc;
}
