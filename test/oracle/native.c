/*
 * The host's side: cases on the bare CPU, in a child process that can do no harm.
 *
 * The child has no loop that calls a case. It lives in one signal handler: the breakpoint or fault
 * that ends case n runs the handler, which stores the interrupted context as n's outcome, replaces
 * it by the initial state of case n + 1 and returns; the kernel's sigreturn loads all registers,
 * x87, SSE and AVX state included, and is the jump into the case. One signal a case is the whole
 * cost. When a batch is done the handler writes a byte to one pipe and reads one from another.
 *
 * What keeps the cases in: memory is only what oracle.h names (and the child's own, at addresses
 * that no case is told); system calls from the code area raise SIGSYS, which ends the case, and the
 * rest of the process may only read, write, exit and return from signals. A child that dies or
 * hangs costs its case and is replaced.
 *
 * While a case runs FS and GS point into the data area. So the handler must not touch thread-local
 * storage: it calls system calls directly, and this file is compiled without stack protector.
 */
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "oracle.h"

#define HUNG_MS 2000

/* What parent and child share. The mapped parts come first, a page each. */
struct shared {
	uint8_t code[ORACLE_CODE_BYTES];
	uint8_t data[ORACLE_DATA_BYTES];
	uint8_t rodata[PAGE_SIZE];
	uint8_t stack[ORACLE_STACK_BYTES];
	struct oracle_batch batch;
	struct oracle_outcome result;
	volatile unsigned next; /* case to start; nr when the batch is done */
	bool fsgsbase;
	int to_child, to_parent; /* the child's ends of the pipes */
};

struct native_side {
	struct oracle_side side;
	struct shared *shared;
	int fd;
	pid_t child;
	int to_child, to_parent; /* our ends */
	uint8_t altstack[64 * 1024];
};

/* The child's only global: a signal handler has no argument. */
static struct shared *child_shared;

static long raw_syscall(long nr, long a, long b, long c)
{
	long rc;

	__asm__ volatile("syscall"
	                 : "=a"(rc)
	                 : "a"(nr), "D"(a), "S"(b), "d"(c)
	                 : "rcx", "r11", "memory");
	return rc;
}

/* Sets the flags that sigreturn would not: it leaves NT and ID as the handler has them. */
static void set_flags(uint64_t flags)
{
	__asm__ volatile("pushq %0; popfq" : : "r"(flags) : "cc", "memory");
}

static const uint8_t gpr_to_greg[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
	                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
	                                 REG_R12, REG_R13, REG_R14, REG_R15 };

static void store_outcome(struct shared *s, unsigned n, const ucontext_t *uc, int sig)
{
	struct oracle_state *out = &s->result.out[n];
	const greg_t *g = uc->uc_mcontext.gregs;

	for (unsigned i = 0; i < 16; i++)
		out->gpr[i] = g[gpr_to_greg[i]];
	out->rip = g[REG_RIP];
	out->rflags = g[REG_EFL];
	out->vector = sig == SIGSYS ? ORACLE_SYSCALL : g[REG_TRAPNO];
	out->error = g[REG_ERR];
	out->cr2 = out->vector == EXC_PF ? g[REG_CR2] : 0;
	if (s->fsgsbase) {
		out->fs_base = _readfsbase_u64();
		out->gs_base = _readgsbase_u64();
	} else {
		out->fs_base = s->batch.in[n].fs_base;
		out->gs_base = s->batch.in[n].gs_base;
	}
	memcpy(out->fpu.area, uc->uc_mcontext.fpregs, FPU_BYTES);
	memcpy(s->result.memory[n].data, (void *)ORACLE_DATA, ORACLE_DATA_BYTES);
	memcpy(s->result.memory[n].stack, (void *)ORACLE_STACK, ORACLE_STACK_BYTES);
}

/* Bytes 464..511 of the legacy area are the kernel's own description of the frame. */
#define FPU_SOFTWARE 464
#define FPU_HEADER   512

static void load_case(struct shared *s, unsigned n, ucontext_t *uc)
{
	const struct oracle_state *in = &s->batch.in[n];
	greg_t *g = uc->uc_mcontext.gregs;
	uint8_t *fpu = (uint8_t *)uc->uc_mcontext.fpregs;

	memcpy((void *)ORACLE_DATA, s->batch.initial.data, ORACLE_DATA_BYTES);
	memcpy((void *)ORACLE_STACK, s->batch.initial.stack, ORACLE_STACK_BYTES);
	for (unsigned i = 0; i < 16; i++)
		g[gpr_to_greg[i]] = in->gpr[i];
	g[REG_RIP] = in->rip;
	g[REG_EFL] = in->rflags;
	memcpy(fpu, in->fpu.area, FPU_SOFTWARE);
	memcpy(fpu + FPU_HEADER, in->fpu.area + FPU_HEADER, FPU_BYTES - FPU_HEADER);
	if (s->fsgsbase) {
		_writefsbase_u64(in->fs_base);
		_writegsbase_u64(in->gs_base);
	}
	set_flags((in->rflags & (RFLAGS_NT | RFLAGS_ID)) | RFLAGS_1 | RFLAGS_IF);
}

static void handle_signal(int sig, siginfo_t *info, void *context)
{
	static bool started;
	struct shared *s = child_shared;
	unsigned n = s->next;
	char byte = 0;

	set_flags(RFLAGS_1 | RFLAGS_IF); /* no AC: the handler may access memory as it likes */
	if (started)
		store_outcome(s, n++, context, sig);
	if (!started || n == s->batch.nr) {
		s->next = n;
		if (started)
			raw_syscall(SYS_write, s->to_parent, (long)&byte, 1);
		if (raw_syscall(SYS_read, s->to_child, (long)&byte, 1) != 1)
			raw_syscall(SYS_exit_group, 0, 0, 0);
		n = s->next;
		memcpy((void *)s->code, s->batch.code, ORACLE_CODE_BYTES);
	}
	started = true;
	s->next = n;
	load_case(s, n, context);
}

/* System calls from the code area trap, everybody else may do what the handler does. */
static int install_filter(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
		         offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 6, 0), /* below 4 GiB: a case */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(filter), .filter = filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) ? -errno : 0;
}

static int map_fixed(const struct native_side *s, uint64_t va, size_t offset, size_t bytes,
                     int prot)
{
	void *p = mmap((void *)va, bytes, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE,
	               s->fd, offset);

	return p == (void *)va ? 0 : -1;
}

static int map_areas(const struct native_side *s)
{
	return map_fixed(s, ORACLE_CODE, offsetof(struct shared, code), ORACLE_CODE_BYTES,
	                 PROT_READ | PROT_EXEC) ||
	       map_fixed(s, ORACLE_DATA, offsetof(struct shared, data), ORACLE_DATA_BYTES,
	                 PROT_READ | PROT_WRITE) ||
	       map_fixed(s, ORACLE_RODATA, offsetof(struct shared, rodata), PAGE_SIZE, PROT_READ) ||
	       map_fixed(s, ORACLE_STACK, offsetof(struct shared, stack), ORACLE_STACK_BYTES,
	                 PROT_READ | PROT_WRITE);
}

static _Noreturn void run_child(struct native_side *s)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
	struct sigaction sa = { .sa_sigaction = handle_signal,
		                .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { .ss_sp = s->altstack, .ss_size = sizeof(s->altstack) };
	struct rlimit none = { 0, 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &none);
	child_shared = s->shared;
	sigfillset(&sa.sa_mask);
	if (sigaltstack(&stack, NULL) || map_areas(s)) {
		perror("oracle: child");
		_exit(1);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
	if (!s->shared->fsgsbase)
		syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, ORACLE_DATA);
	if (install_filter())
		_exit(1);
	__asm__ volatile("int3");
	_exit(1);
}

static void close_pipes(struct native_side *s)
{
	close(s->to_child);
	close(s->to_parent);
}

static int start_child(struct native_side *s)
{
	int down[2], up[2];

	if (pipe2(down, O_CLOEXEC) || pipe2(up, O_CLOEXEC))
		return -errno;
	s->shared->to_child = down[0];
	s->shared->to_parent = up[1];
	fflush(stdout);
	s->child = fork();
	if (!s->child) {
		close(down[1]);
		close(up[0]);
		run_child(s);
	}
	close(down[0]);
	close(up[1]);
	s->to_child = down[1];
	s->to_parent = up[0];
	return s->child < 0 ? -errno : 0;
}

static void end_child(struct native_side *s)
{
	if (s->child <= 0)
		return;
	close_pipes(s);
	kill(s->child, SIGKILL);
	waitpid(s->child, NULL, 0);
	s->child = -1;
}

/* True when the child has finished the batch; *hung tells a timeout from its death. */
static bool wait_batch(struct native_side *s, bool *hung)
{
	struct pollfd p = { .fd = s->to_parent, .events = POLLIN };
	char byte;
	int n = poll(&p, 1, HUNG_MS);

	*hung = n == 0;
	return n == 1 && read(s->to_parent, &byte, 1) == 1;
}

static const struct oracle_outcome *native_run(struct oracle_side *side,
                                               const struct oracle_batch *b)
{
	struct native_side *s = container_of(side, struct native_side, side);
	struct shared *sh = s->shared;
	bool hung = false;

	sh->batch = *b;
	memcpy(sh->rodata, b->rodata, PAGE_SIZE);
	sh->next = 0;
	while (sh->next < b->nr) {
		if (s->child < 0 && start_child(s))
			return NULL;
		if (write(s->to_child, "", 1) == 1 && wait_batch(s, &hung))
			break;
		end_child(s);
		sh->result.out[sh->next] =
		        (struct oracle_state){ .vector = hung ? ORACLE_HUNG : ORACLE_DIED };
		sh->next++;
	}
	return &sh->result;
}

static void native_free(struct oracle_side *side)
{
	struct native_side *s = container_of(side, struct native_side, side);

	end_child(s);
	if (s->shared)
		munmap(s->shared, sizeof(*s->shared));
	close(s->fd);
	free(s);
}

static const struct oracle_side_ops native_side_ops = {
	.name = "native",
	.run = native_run,
	.free = native_free,
};

bool oracle_host_has_fsgsbase(void)
{
	return getauxval(AT_HWCAP2) & 2; /* HWCAP2_FSGSBASE */
}

int oracle_native_new(struct oracle_side **out)
{
	struct native_side *s = calloc(1, sizeof(*s));
	int rc = -ENOMEM;

	if (!s)
		return rc;
	s->side.ops = &native_side_ops;
	s->child = -1;
	s->fd = memfd_create("oracle", MFD_CLOEXEC);
	if (s->fd < 0 || ftruncate(s->fd, sizeof(*s->shared)))
		goto out;
	s->shared = mmap(NULL, sizeof(*s->shared), PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (s->shared == MAP_FAILED) {
		s->shared = NULL;
		goto out;
	}
	s->shared->fsgsbase = oracle_host_has_fsgsbase();
	*out = &s->side;
	return 0;
out:
	rc = -errno;
	fprintf(stderr, "oracle: no memory for the native side: %s\n", strerror(errno));
	native_free(&s->side);
	return rc;
}
