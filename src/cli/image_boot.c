/*
 * run --image: the disk that the machine boots from, and the kernel and initial RAM disk inside it.
 * They are read once, into memory without a name; the machine takes them from there whenever it
 * starts anew.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "cli/run.h"
#include "fs/ext4.h"

#define FOLDER   "boot"
#define KERNEL   "vmlinuz-"
#define INITRD   "initrd.img-"
#define MAX_FILE (512 * MiB)
#define ERR      512

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

/* A file of the image as a path of ours; *fd stays open for as long as it is in use. */
static int take_file(struct ext4 *fs, const char *name, int *fd, char path[RUN_FD_PATH], char *err)
{
	int rc;

	*fd = memfd_create(name, MFD_CLOEXEC);
	if (*fd < 0) {
		snprintf(err, ERR, "%s: %s", name, strerror(errno));
		return -ENOMEM;
	}
	rc = ext4_copy(fs, FOLDER, name, MAX_FILE, *fd, err, ERR);
	snprintf(path, RUN_FD_PATH, "/proc/self/fd/%d", *fd);
	return rc;
}

/* The one of the same version. A kernel may do without. */
static int take_initrd(struct run_options *opts, struct ext4 *fs, const char *version, char *err)
{
	struct run_boot *b = &opts->boot;
	char name[EXT4_NAME + sizeof(INITRD)], found[EXT4_NAME];
	int rc;

	snprintf(name, sizeof(name), "%s%s", INITRD, version);
	rc = ext4_find_newest(fs, FOLDER, name, found, err, ERR);
	if (rc == -ENOENT || (!rc && strcmp(found, name))) {
		log_info("%s: no %s, the kernel starts without", opts->vm.disk[0].path, name);
		return 0;
	}
	if (!rc)
		rc = take_file(fs, name, &b->initrd_fd, b->initrd, err);
	if (!rc)
		opts->vm.initrd = b->initrd;
	return rc;
}

static int take_kernel(struct run_options *opts, struct ext4 *fs, char *err)
{
	struct run_boot *b = &opts->boot;
	char name[EXT4_NAME];
	int rc = ext4_find_newest(fs, FOLDER, KERNEL, name, err, ERR);

	if (!rc)
		rc = take_file(fs, name, &b->kernel_fd, b->kernel, err);
	if (!rc && !opts->vm.initrd)
		rc = take_initrd(opts, fs, name + strlen(KERNEL), err);
	if (rc)
		return rc;
	log_info("%s: booting %s", opts->vm.disk[0].path, name);
	opts->vm.kernel = b->kernel;
	return 0;
}

static int look_inside(struct run_options *opts)
{
	const struct vm_disk *d = &opts->vm.disk[0];
	struct block_options options = { .format = d->options.format, .readonly = true };
	struct ext4 *fs = NULL;
	struct block *disk;
	char err[ERR];
	int rc = block_open(&disk, d->path, &options, err, sizeof(err));

	if (!rc) {
		rc = ext4_open(&fs, disk, d->path, err, sizeof(err));
		if (!rc)
			rc = take_kernel(opts, fs, err);
		ext4_close(fs);
		block_close(disk);
	}
	if (rc)
		log_error("%s (--kernel gives another)", err);
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
