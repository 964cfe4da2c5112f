/*
 * How a vCPU that runs translated code comes back to C when somebody wants it: not by a check in
 * each block, but by a signal to its thread, whose handler makes the block that it interrupted end
 * in C rather than in the next block.
 *
 * The handler runs between two instructions of translated code, of a stub, or of C, on the very
 * thread that owns all the tables. Only while bt.in_code is set does it do anything: C that runs
 * then is bt_fill(), which neither links nor unlinks, or the few lines around enter(), which have
 * set bt.target before. So the tables are whole.
 *
 *   in a block      its exits are unlinked; it ends in C. Indirect jumps look into the jump cache:
 *                   the space ids are poisoned so that they find nothing, and if the jump has
 *                   looked already, it is taken back to its start (struct bt_window).
 *   anywhere else   on the way from or to a block: that of bt.target or of the site that
 *                   called (bt.fill_site, or R15 in the stub). bt.kicked makes bt_fill() leave; the
 * block's exits are unlinked.
 *
 * The waker sets cpu->attention, then reads in_code; the vCPU sets in_code, then reads attention.
 *
 * With bt.stack empty and RSP somewhere that no stack can be, a check may let an access through: to
 * a page that traps. It leaves by the check's site.
 *
 * A trap (#DE of a division, #GP of a misaligned vector access) arrives as SIGFPE or SIGSEGV at an
 * instruction that has a site: the handler leaves through it, and the interpreter does the
 * instruction again and raises what is due.
 */
#include <signal.h> /* first: its PF_W is another */
#undef PF_W

#include "engine/bt/signal.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/bt/cache.h"

#define SIGNAL_KICK (SIGRTMIN + 4)

static _Thread_local struct bt *running;
static struct sigaction before_fpe, before_segv, before_bus;

static bool in_cache(const struct bt *b, uint64_t pc)
{
	return pc - (uintptr_t)b->cache->exec < b->cache->size;
}

static void stop_block(struct bt *b, uint64_t pc)
{
	struct bt_block *k = cache_block_at(b, pc);

	if (k)
		cache_unlink_exits(b, k);
}

static void stop_block_of_site(struct bt *b, uint64_t site)
{
	if (site)
		cache_unlink_exits(b, ((struct bt_site *)cache_at_meta(b, site))->block);
}

/* In a stub or in C: whoever called, or is about to be entered. */
static void stop_outside(struct bt *b, uint64_t pc, const greg_t *r)
{
	const struct bt_cache *c = b->cache;
	uint64_t off = pc - (uintptr_t)c->exec;

	stop_block(b, b->target);
	stop_block_of_site(b, b->fill_site);
	if (off >= c->stub_fill[0] && off < c->site_end)
		stop_block_of_site(b, (uint64_t)r[REG_R15]);
}

static void stop_at(struct bt *b, greg_t *r)
{
	uint64_t pc = (uint64_t)r[REG_RIP];
	struct bt_block *k = in_cache(b, pc) ? cache_block_at(b, pc) : NULL;
	uint32_t off = (uint32_t)(pc - (uintptr_t)b->cache->exec);

	if (!k) {
		stop_outside(b, pc, r);
		return;
	}
	cache_unlink_exits(b, k);
	for (unsigned n = 0; n < k->nr_windows; n++)
		if (off > k->window[n].start && off < k->window[n].end)
			r[REG_RIP] = (greg_t)cache_address(b, k->window[n].start);
}

static void handle_kick(int sig, siginfo_t *info, void *context)
{
	struct bt *b = running;
	int saved = errno;

	if (b && atomic_load(&b->in_code)) {
		b->kicked = 1;
		for (unsigned n = 0; n < BT_SPACES; n++)
			b->space[n] = BIT(63);
		b->stats.kicks++;
		stop_at(b, ((ucontext_t *)context)->uc_mcontext.gregs);
	}
	errno = saved;
}

static struct bt_site *find_trap(struct bt *b, uint64_t pc)
{
	struct bt_block *k = in_cache(b, pc) ? cache_block_at(b, pc) : NULL;
	uint32_t off = (uint32_t)(pc - (uintptr_t)b->cache->exec);

	for (unsigned n = 0; k && n < k->nr_sites; n++)
		if (k->site[n].trap == off)
			return &k->site[n];
	return NULL;
}

/* The check that let an access through to the trap page: the last one of the stack before it. The
 * access is the first that follows, in the same instruction. */
static struct bt_site *find_stack_check(struct bt *b, uint64_t pc)
{
	struct bt_block *k = in_cache(b, pc) ? cache_block_at(b, pc) : NULL;
	uint32_t off = (uint32_t)(pc - (uintptr_t)b->cache->exec);
	struct bt_site *last = NULL;

	for (unsigned n = 0; k && n < k->nr_sites; n++) {
		struct bt_site *s = &k->site[n];

		if (s->stack && s->hit && s->hit <= off && (!last || s->hit > last->hit))
			last = s;
	}
	return last;
}

/* Leaves translated code through the site of the instruction that trapped. */
static bool leave_by_trap(ucontext_t *u, uint64_t address)
{
	struct bt *b = running;
	greg_t *r = u->uc_mcontext.gregs;
	struct bt_site *s;

	if (!b || !atomic_load(&b->in_code))
		return false;
	s = find_trap(b, (uint64_t)r[REG_RIP]);
	if (!s && address - b->trap_page < PAGE_SIZE)
		s = find_stack_check(b, (uint64_t)r[REG_RIP]);
	if (!s)
		return false;
	r[REG_R15] = cache_meta_offset(b, s);
	r[REG_RIP] = (greg_t)cache_address(b, b->cache->stub_site);
	return true;
}

/* Not of translated code: what was there before deals with it. Without a handler the instruction
 * traps again under the default action; what somebody sent has to be sent again. */
static void pass_on(int sig, const struct sigaction *before, siginfo_t *info, void *context)
{
	const struct sigaction none = { .sa_handler = SIG_DFL };

	if (before->sa_flags & SA_RESETHAND)
		sigaction(sig, &none, NULL);
	if (before->sa_flags & SA_SIGINFO) {
		before->sa_sigaction(sig, info, context);
	} else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
		before->sa_handler(sig);
	} else {
		sigaction(sig, before, NULL);
		if (info->si_code <= 0)
			raise(sig);
	}
}

static void handle_trap(int sig, siginfo_t *info, void *context)
{
	if (leave_by_trap(context, sig == SIGSEGV ? (uintptr_t)info->si_addr : 0))
		return;
	pass_on(sig,
	        sig == SIGFPE   ? &before_fpe
	        : sig == SIGBUS ? &before_bus
	                        : &before_segv,
	        info, context);
}

static void install(int sig, void (*fn)(int, siginfo_t *, void *), struct sigaction *before)
{
	struct sigaction sa = { .sa_sigaction = fn, .sa_flags = SA_SIGINFO | SA_RESTART };

	sigemptyset(&sa.sa_mask);
	sigaction(sig, &sa, before);
}

static void install_all(void)
{
	install(SIGNAL_KICK, handle_kick, NULL);
	install(SIGFPE, handle_trap, &before_fpe);
	install(SIGSEGV, handle_trap, &before_segv);
	install(SIGBUS, handle_trap, &before_bus);
}

void signal_install(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, install_all);
}

void signal_enter_thread(struct bt *b)
{
	static _Thread_local bool unblocked;
	sigset_t set;

	if (!unblocked) {
		sigemptyset(&set);
		sigaddset(&set, SIGNAL_KICK);
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
		unblocked = true;
	}
	running = b;
	atomic_store(&b->tid, gettid());
}

void signal_notify(struct bt *b)
{
	if (atomic_load(&b->in_code) && atomic_load(&b->tid) != gettid())
		syscall(SYS_tgkill, getpid(), atomic_load(&b->tid), SIGNAL_KICK);
}
