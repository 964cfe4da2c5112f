/*
 * Segmented addressing (SDM 3A 5.3): the path that 64-bit code without FS and GS never takes.
 */
#include "interp/access.h"

static _Noreturn void refuse(struct cpu *c, unsigned seg)
{
	cpu_raise(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

/* May [off, off+size) be reached through the segment? Expand-down data counts from the other end.
 */
static bool within_limit(const struct segment *s, uint32_t off, uint64_t size)
{
	uint64_t last = (uint64_t)off + size - 1;

	if ((s->attr & 0xc) == 0x4) /* data, expand down */
		return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu);
	return last <= s->limit;
}

static bool type_allows(const struct segment *s, bool write)
{
	if (s->attr & 8) /* code: never written, read when marked readable */
		return !write && (s->attr & 2);
	return !write || (s->attr & 2);
}

gva_t access_linear(struct cpu *c, unsigned seg, uint64_t off, uint64_t size, bool write)
{
	const struct segment *s = &c->seg[seg];

	if (c->mode == MODE_64)
		return seg >= SEG_FS ? s->base + off : off;
	off = (uint32_t)off;
	if (s->attr & SEG_UNUSABLE)
		refuse(c, seg);
	if ((c->cr0 & CR0_PE) && !(c->rflags & RFLAGS_VM) && !type_allows(s, write))
		refuse(c, seg);
	if (!within_limit(s, off, size))
		refuse(c, seg);
	return (uint32_t)(s->base + off);
}

gva_t access_ea_slow(struct cpu *c, const struct insn *i, unsigned size, bool write)
{
	return access_linear(c, i->seg, access_offset(c, i), size, write);
}
