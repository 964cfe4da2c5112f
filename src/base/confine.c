#include "base/confine.h"

#include <assert.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Not io_uring, whose requests no filter sees. The C library's fstat() is newfstatat(), which also
 * tells of files by name: that they are there, not what is in them.
 */
static const unsigned short allowed[] = {
	/* to read, to write, and to wait for it */
	SYS_read,
	SYS_write,
	SYS_lseek,
	SYS_fstat,
	SYS_newfstatat,
	SYS_pread64,
	SYS_preadv,
	SYS_poll,
	SYS_ppoll,
	/* memory */
	SYS_mmap,
	SYS_munmap,
	SYS_mremap,
	SYS_mprotect,
	SYS_madvise,
	SYS_brk,
	SYS_getrandom,
	/* threads, some of which may have been started just now */
	SYS_futex,
	SYS_sched_yield,
	SYS_rseq,
	SYS_set_robust_list,
	SYS_clock_gettime,
	/* signals, abort() among them, and ends */
	SYS_restart_syscall,
	SYS_rt_sigprocmask,
	SYS_rt_sigreturn,
	SYS_getpid,
	SYS_gettid,
	SYS_tgkill,
	SYS_exit,
	SYS_exit_group,
};

#define LOAD(field) \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define RETURN(action)       BPF_STMT(BPF_RET | BPF_K, action)
#define IF_EQUAL(n, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n, yes, no)
#define HEAD                 4

/* The head, two instructions for each call, and the end. Numbers of x32 have bit 30 and match none.
 */
static unsigned short write_filter(struct sock_filter *f)
{
	static const struct sock_filter head[HEAD] = {
		LOAD(arch),
		IF_EQUAL(AUDIT_ARCH_X86_64, 1, 0),
		RETURN(SECCOMP_RET_KILL_PROCESS),
		LOAD(nr),
	};
	unsigned short n = 0;

	for (; n < HEAD; n++)
		f[n] = head[n];
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		f[n++] = (struct sock_filter)IF_EQUAL(allowed[i], 0, 1);
		f[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
	}
	f[n++] = (struct sock_filter)RETURN(SECCOMP_RET_KILL_PROCESS);
	return n;
}

static int enter_filter(void)
{
	struct sock_filter code[HEAD + 2 * ARRAY_SIZE(allowed) + 1];
	struct sock_fprog program = { .filter = code };
	long rc;

	program.len = write_filter(code);
	assert(program.len == ARRAY_SIZE(code));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
	/* A positive number is a thread that has a filter which this one does not continue. */
	return rc < 0 ? -errno : rc ? -EBUSY : 0;
}

/* The bytes that are mapped now (proc(5), statm). */
static uint64_t mapped(void)
{
	unsigned long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%llu", &pages) != 1)
		pages = 0;
	fclose(f);
	return pages * PAGE_SIZE;
}

static int limit(int resource, uint64_t soft, uint64_t hard)
{
	struct rlimit r = { soft, hard };

	return setrlimit((__rlimit_resource_t)resource, &r) ? -errno : 0;
}

int confine_enter(const struct confine_limits *limits)
{
	uint64_t now = mapped();
	int rc = now ? limit(RLIMIT_AS, now + limits->memory, now + limits->memory) : -ENOENT;

	if (!rc)
		rc = limit(RLIMIT_FSIZE, limits->file, limits->file);
	if (!rc)
		rc = limit(RLIMIT_CPU, limits->cpu_seconds, limits->cpu_seconds + 1);
	if (!rc)
		rc = limit(RLIMIT_CORE, 0, 0);
	return rc ? rc : enter_filter();
}
