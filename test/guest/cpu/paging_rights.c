/*
 * Access rights of 4-level paging, exhaustively: every combination of the rights in PDE and PTE, of
 * CR0.WP, CR4.SMEP, CR4.SMAP, CR4.PKE and EFLAGS.AC, for reads, writes and fetches at CPL 0 and 3,
 * against the rules of SDM 3A 4.6 and 4.7 as expect() states them; and the accessed and dirty bits.
 */
#include "paging.h"

#define VA_PAGE       TEST_AREA
#define VA_STUBS      (TEST_AREA + 0x40000000)
#define CODE_INT_DONE 0x20cd /* int $VECTOR_DONE */

enum access { READ, WRITE, FETCH };

struct setting {
	bool wp, smep, smap, ac, pke;
	unsigned pkru; /* AD and WD of the page's key */
};

static uint64_t *pde, *pte;
static unsigned key;

/* Position-independent code for CPL 3: RDI is the address. */
extern char user_stubs[], user_stubs_end[];
__asm__("user_stubs:\n"
        "movl (%rdi), %eax; int $0x20; .balign 16\n"
        "movl %eax, (%rdi); int $0x20; .balign 16\n"
        "jmp *%rdi\n"
        "user_stubs_end:");

static int access_user(enum access a)
{
	return TRY("push %1; push %%rsp; push $2; push %2; push %3; iretq",
	           :
	           : "D"(VA_PAGE), "r"((word)SEL_UDATA), "r"((word)SEL_UCODE),
	             "r"(VA_STUBS + 16 * a), "a"(CODE_INT_DONE)
	           : "memory");
}

static int access_kernel(enum access a, bool ac)
{
	word flags = 2 | (ac ? FLAG_AC : 0);

	if (a == READ)
		return TRY("push %1; popf; movl (%0), %%eax; push $2; popf",
		           :
		           : "r"(VA_PAGE), "r"(flags)
		           : "rax", "memory", "cc");
	if (a == WRITE)
		return TRY("push %1; popf; movl %2, (%0); push $2; popf",
		           :
		           : "r"(VA_PAGE), "r"(flags), "r"(CODE_INT_DONE)
		           : "memory", "cc");
	return TRY("push %1; popf; jmp *%0", : : "r"(VA_PAGE), "r"(flags) : "memory", "cc");
}

/* NO_TRAP or the error code. */
static int expect(uint64_t d, uint64_t t, enum access a, bool user, const struct setting *s)
{
	int error =
	        (a == WRITE ? PF_WRITE : 0) | (user ? PF_USER : 0) | (a == FETCH ? PF_FETCH : 0);
	bool u = d & t & PTE_U, w = d & t & PTE_W, nx = (d | t) & PTE_NX;
	bool fault, locked;

	if (!(t & PTE_P))
		return error;
	if (user)
		fault = !u || (a == WRITE && !w) || (a == FETCH && nx);
	else if (a == FETCH)
		fault = nx || (u && s->smep);
	else
		fault = (u && s->smap && !s->ac) || (a == WRITE && !w && s->wp);
	locked = s->pke && u && a != FETCH &&
	         (s->pkru & 1 || (s->pkru & 2 && a == WRITE && (user || s->wp)));
	if (locked)
		error |= PF_PK;
	return fault || locked ? error | (int)PF_P : NO_TRAP;
}

static void print_case(uint64_t d, uint64_t t, enum access a, bool user, const struct setting *s,
                       int got, int want)
{
	print("# PDE ");
	print_hex(d);
	print(" PTE ");
	print_hex(t);
	print(user ? " user " : " kernel ");
	print(a == READ ? "read" : a == WRITE ? "write" : "fetch");
	print(s->wp ? " WP" : "");
	print(s->smep ? " SMEP" : "");
	print(s->smap ? " SMAP" : "");
	print(s->ac ? " AC" : "");
	print(s->pke ? " PKRU " : "");
	if (s->pke)
		print_hex(s->pkru);
	print(": error ");
	print_hex((unsigned)got);
	print(", should be ");
	print_hex((unsigned)want);
	print("\n");
}

static bool try_one(uint64_t d, uint64_t t, enum access a, bool user, const struct setting *s)
{
	int want = expect(d, t, a, user, s), got;
	uint64_t used = PTE_A | (a == WRITE ? PTE_D : 0);

	*pde = (*pde & PTE_ADDRESS) | d;
	*pte = (*pte & PTE_ADDRESS) | t;
	flush_page(VA_PAGE);
	got = user ? access_user(a) : access_kernel(a, s->ac);
	if (got == EXC_PF)
		got = (int)this_cpu()->trap.regs.error;
	if (got != want || (want != NO_TRAP && this_cpu()->trap.cr2 != VA_PAGE)) {
		print_case(d, t, a, user, s, got, want);
		return false;
	}
	if (want == NO_TRAP ? (*pte & (PTE_A | PTE_D)) != used || !(*pde & PTE_A)
	                    : (*pte & PTE_D) != 0) {
		note("accessed or dirty bits differ");
		print_case(d, t, a, user, s, (int)*pte, (int)used);
		return false;
	}
	return true;
}

static bool try_rights(const struct setting *s)
{
	static const uint64_t bits[] = { PTE_W, PTE_U, PTE_NX, PTE_P };
	unsigned bad = 0;

	for (unsigned n = 0; n < 128 && bad < 4; n++) {
		uint64_t d = PTE_P, t = PTE_KEY(key);

		for (unsigned b = 0; b < 4; b++)
			t |= n >> b & 1 ? bits[b] : 0;
		for (unsigned b = 0; b < 3; b++)
			d |= n >> (4 + b) & 1 ? bits[b] : 0;
		for (enum access a = READ; a <= FETCH; a++)
			bad += !try_one(d, t, a, false, s) + !try_one(d, t, a, true, s);
	}
	return !bad;
}

static void apply(const struct setting *s)
{
	word cr0 = read_cr0() & ~CR0_WP, cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP | CR4_PKE);

	write_cr0(cr0 | (s->wp ? CR0_WP : 0));
	write_cr4(cr4 | (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0) |
	          (s->pke ? CR4_PKE : 0));
	if (s->pke)
		__asm__ volatile("wrpkru" : : "a"(s->pkru << (2 * key)), "c"(0), "d"(0));
}

static void test_setting(const char *name, unsigned n)
{
	struct setting s = { n & 1, n & 2, n & 4, n & 8, n & 16, n >> 5 };
	bool good;

	apply(&s);
	good = try_rights(&s);
	apply(&(struct setting){ 0 });
	ok(name, good);
}

/* The identity map becomes the kernel's own; code for CPL 3 gets a page. */
static void prepare(void)
{
	uint64_t *directories = (uint64_t *)(*page_entry(boot_pml4, 0, 3) & PTE_ADDRESS);
	void *stubs = page_alloc();
	uint16_t *page = page_alloc();

	write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
	for (unsigned n = 0; n < 2048; n++)
		directories[n] &= ~PTE_U;
	memcpy(stubs, user_stubs, (size_t)(user_stubs_end - user_stubs));
	map_page(VA_STUBS, (uintptr_t)stubs | PTE_P | PTE_U);
	*page = CODE_INT_DONE;
	pde = page_entry(boot_pml4, VA_PAGE, 2);
	pte = page_entry(boot_pml4, VA_PAGE, 1);
	*pte = (uintptr_t)page;
	flush_all();
}

void guest_run(void)
{
	struct cpuid seven = cpuid(7, 0);

	prepare();
	test_setting("rights", 0);
	test_setting("rights with WP", 1);
	if (seven.b & 1 << 7) {
		test_setting("rights with SMEP", 2);
		test_setting("rights with WP and SMEP", 3);
	}
	if (seven.b & 1 << 20) {
		test_setting("rights with SMAP", 4);
		test_setting("rights with WP and SMAP", 5);
		test_setting("rights with SMAP and AC", 12);
		test_setting("rights with WP, SMEP, SMAP and AC", 15);
		test_setting("rights with WP, SMEP and SMAP", 7);
	}
	if (seven.c & 1 << 3) {
		key = 5;
		test_setting("keys with nothing forbidden", 16);
		test_setting("keys with AD", 16 | 1 << 5);
		test_setting("keys with WD", 16 | 2 << 5);
		test_setting("keys with WD and WP", 16 | 1 | 2 << 5);
		test_setting("keys with AD, WD, WP and SMAP", 16 | 5 | 3 << 5);
	}
}
