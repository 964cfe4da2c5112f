/*
 * run --image: the disk that the machine boots from, and the kernel and initial RAM disk inside it.
 * They are read once, into memory without a name; the machine takes them from there whenever it
 * starts anew.
 *
 * What is on the disk is the guest's, and libext2fs was not written with enemies in mind: a process
 * of its own reads, which can do nothing else (confine.h). It writes the two files, and says how it
 * went in memory that it shares, of which nothing is taken without a look.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/confine.h"
#include "block/block.h"
#include "cli/run.h"
#include "fs/ext4.h"

#define FOLDER   "boot"
#define KERNEL   "vmlinuz-"
#define INITRD   "initrd.img-"
#define MAX_FILE (512 * MiB)
#define ERR      512

#define READER_MEMORY  (512 * MiB)
#define READER_SECONDS 60

int run_parse_image(struct run_options *opts, const char *text)
{
	struct vm_disk image;
	int rc;

	if (opts->image) {
		log_error("--image %s: there is one already", text);
		return -EINVAL;
	}
	rc = run_parse_disk(opts, "--image", text);
	if (rc)
		return rc;
	/* Whatever the order of options, this is the guest's first disk. */
	image = opts->vm.disk[opts->vm.nr_disks - 1];
	memmove(&opts->vm.disk[1], &opts->vm.disk[0], (opts->vm.nr_disks - 1) * sizeof(image));
	opts->vm.disk[0] = image;
	opts->image = true;
	return 0;
}

/* What the reader says. */
struct report {
	int rc;
	char err[ERR];
	char kernel[EXT4_NAME];
	bool has_initrd;
};

/* The reader. */

static int take_file(struct ext4 *fs, const char *name, int fd, char *err)
{
	return ext4_copy(fs, FOLDER, name, MAX_FILE, fd, err, ERR);
}

/* The one of the same version. A kernel may do without. */
static int take_initrd(struct ext4 *fs, int fd, struct report *r)
{
	char name[EXT4_NAME + sizeof(INITRD)], found[EXT4_NAME];
	int rc;

	snprintf(name, sizeof(name), "%s%s", INITRD, r->kernel + strlen(KERNEL));
	rc = ext4_find_newest(fs, FOLDER, name, found, r->err, ERR);
	if (rc == -ENOENT || (!rc && strcmp(found, name)))
		return 0;
	if (!rc)
		rc = take_file(fs, name, fd, r->err);
	r->has_initrd = !rc;
	return rc;
}

static int take_both(struct ext4 *fs, const struct run_boot *b, struct report *r)
{
	int rc = ext4_find_newest(fs, FOLDER, KERNEL, r->kernel, r->err, ERR);

	if (!rc)
		rc = take_file(fs, r->kernel, b->kernel_fd, r->err);
	if (!rc && b->initrd_fd > 0)
		rc = take_initrd(fs, b->initrd_fd, r);
	return rc;
}

static int read_image(const struct vm_disk *d, const struct run_boot *b, struct report *r)
{
	const struct confine_limits limits = { READER_MEMORY, MAX_FILE, READER_SECONDS };
	struct block_options options = { .format = d->options.format,
		                         .readonly = true,
		                         .no_io_uring = true };
	struct ext4 *fs = NULL;
	struct block *disk;
	int rc = block_open(&disk, d->path, &options, r->err, ERR);

	if (rc)
		return rc;
	rc = confine_enter(&limits);
	if (rc) {
		snprintf(r->err, ERR, "%s: no confinement to read it in: %s", d->path,
		         strerror(-rc));
		return rc;
	}
	rc = ext4_open(&fs, disk, d->path, r->err, ERR);
	return rc ? rc : take_both(fs, b, r);
}

/* This process. */

static bool is_plain(const char *text, size_t size)
{
	size_t n = strnlen(text, size);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return false;
	return n && n < size;
}

/* How the reader ended, which nobody would make up: 0 or -errno with a line in err. */
static int judge(const char *path, int status, const struct report *r, char *err)
{
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
		snprintf(err, ERR, "%s: its file system takes more than %d s to read", path,
		         READER_SECONDS);
	else if (WIFSIGNALED(status))
		snprintf(err, ERR, "%s: damaged file system: its reader ended by signal %d", path,
		         WTERMSIG(status));
	else if (r->rc && is_plain(r->err, ERR))
		snprintf(err, ERR, "%s", r->err);
	else if (r->rc || !is_plain(r->kernel, EXT4_NAME))
		snprintf(err, ERR, "%s: damaged file system", path);
	else
		return 0;
	return -EINVAL;
}

static int run_reader(const struct vm_disk *d, const struct run_boot *b, struct report *r,
                      char *err)
{
	pid_t pid = fork();
	int status;

	if (pid < 0) {
		snprintf(err, ERR, "%s: %s", d->path, strerror(errno));
		return -EAGAIN;
	}
	if (pid == 0) {
		r->rc = read_image(d, b, r);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return judge(d->path, status, r, err);
}

static int make_file(int *fd, char path[RUN_FD_PATH], const char *name, char *err)
{
	*fd = memfd_create(name, MFD_CLOEXEC);
	if (*fd < 0) {
		snprintf(err, ERR, "%s: %s", name, strerror(errno));
		return -ENOMEM;
	}
	snprintf(path, RUN_FD_PATH, "/proc/self/fd/%d", *fd);
	return 0;
}

static void use_files(struct run_options *opts, const struct report *r)
{
	const char *path = opts->vm.disk[0].path;

	log_info("%s: booting %s", path, r->kernel);
	opts->vm.kernel = opts->boot.kernel;
	if (opts->vm.initrd)
		return;
	if (r->has_initrd)
		opts->vm.initrd = opts->boot.initrd;
	else
		log_info("%s: no initial RAM disk of that version, the kernel starts without",
		         path);
}

static int look_inside(struct run_options *opts)
{
	struct report *r =
	        mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct run_boot *b = &opts->boot;
	char err[ERR] = "out of memory";
	int rc = r == MAP_FAILED ? -ENOMEM : make_file(&b->kernel_fd, b->kernel, "kernel", err);

	if (!rc && !opts->vm.initrd)
		rc = make_file(&b->initrd_fd, b->initrd, "initrd", err);
	if (!rc)
		rc = run_reader(&opts->vm.disk[0], b, r, err);
	if (!rc)
		use_files(opts, r);
	else
		log_error("%s (--kernel gives another)", err);
	if (r != MAP_FAILED)
		munmap(r, sizeof(*r));
	return rc;
}

int run_prepare_image(struct run_options *opts)
{
	if (!opts->image)
		return 0;
	if (!opts->vm.append)
		opts->vm.append = opts->vm.disk[0].bus == VM_DISK_NVME
		                          ? "root=/dev/nvme0n1 console=ttyS0"
		                          : "root=/dev/vda console=ttyS0";
	return opts->vm.kernel ? 0 : look_inside(opts);
}

void run_free_boot(struct run_boot *b)
{
	if (b->kernel_fd > 0)
		close(b->kernel_fd);
	if (b->initrd_fd > 0)
		close(b->initrd_fd);
	*b = (struct run_boot){ 0 };
}
