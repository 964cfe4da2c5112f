/* Classes of instructions, and what they do to flags. */
#include "isa/isa.h"

#define M(name) ZYDIS_MNEMONIC_##name
static const uint8_t class_of[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
	[M(ADC)] = ISA_PLAIN,
	[M(ADCX)] = ISA_PLAIN,
	[M(ADD)] = ISA_PLAIN,
	[M(ADOX)] = ISA_PLAIN,
	[M(AND)] = ISA_PLAIN,
	[M(ANDN)] = ISA_PLAIN,
	[M(BEXTR)] = ISA_PLAIN,
	[M(BLSI)] = ISA_PLAIN,
	[M(BLSMSK)] = ISA_PLAIN,
	[M(BLSR)] = ISA_PLAIN,
	[M(BSF)] = ISA_PLAIN,
	[M(BSR)] = ISA_PLAIN,
	[M(BSWAP)] = ISA_PLAIN,
	[M(BT)] = ISA_PLAIN,
	[M(BTC)] = ISA_PLAIN,
	[M(BTR)] = ISA_PLAIN,
	[M(BTS)] = ISA_PLAIN,
	[M(BZHI)] = ISA_PLAIN,
	[M(CBW)] = ISA_PLAIN,
	[M(CDQ)] = ISA_PLAIN,
	[M(CDQE)] = ISA_PLAIN,
	[M(CLC)] = ISA_PLAIN,
	[M(CMC)] = ISA_PLAIN,
	[M(CMOVB)] = ISA_PLAIN,
	[M(CMOVBE)] = ISA_PLAIN,
	[M(CMOVL)] = ISA_PLAIN,
	[M(CMOVLE)] = ISA_PLAIN,
	[M(CMOVNB)] = ISA_PLAIN,
	[M(CMOVNBE)] = ISA_PLAIN,
	[M(CMOVNL)] = ISA_PLAIN,
	[M(CMOVNLE)] = ISA_PLAIN,
	[M(CMOVNO)] = ISA_PLAIN,
	[M(CMOVNP)] = ISA_PLAIN,
	[M(CMOVNS)] = ISA_PLAIN,
	[M(CMOVNZ)] = ISA_PLAIN,
	[M(CMOVO)] = ISA_PLAIN,
	[M(CMOVP)] = ISA_PLAIN,
	[M(CMOVS)] = ISA_PLAIN,
	[M(CMOVZ)] = ISA_PLAIN,
	[M(CMP)] = ISA_PLAIN,
	[M(CMPXCHG)] = ISA_PLAIN,
	[M(CMPXCHG16B)] = ISA_PLAIN,
	[M(CMPXCHG8B)] = ISA_PLAIN,
	[M(CQO)] = ISA_PLAIN,
	[M(CRC32)] = ISA_PLAIN,
	[M(CWD)] = ISA_PLAIN,
	[M(CWDE)] = ISA_PLAIN,
	[M(DEC)] = ISA_PLAIN,
	[M(IMUL)] = ISA_PLAIN,
	[M(INC)] = ISA_PLAIN,
	[M(LAHF)] = ISA_PLAIN,
	[M(LZCNT)] = ISA_PLAIN,
	[M(MOV)] = ISA_PLAIN,
	[M(MOVBE)] = ISA_PLAIN,
	[M(MOVNTI)] = ISA_PLAIN,
	[M(MOVSX)] = ISA_PLAIN,
	[M(MOVSXD)] = ISA_PLAIN,
	[M(MOVZX)] = ISA_PLAIN,
	[M(MUL)] = ISA_PLAIN,
	[M(MULX)] = ISA_PLAIN,
	[M(NEG)] = ISA_PLAIN,
	[M(NOT)] = ISA_PLAIN,
	[M(OR)] = ISA_PLAIN,
	[M(PDEP)] = ISA_PLAIN,
	[M(PEXT)] = ISA_PLAIN,
	[M(POPCNT)] = ISA_PLAIN,
	[M(RCL)] = ISA_PLAIN,
	[M(RCR)] = ISA_PLAIN,
	[M(ROL)] = ISA_PLAIN,
	[M(ROR)] = ISA_PLAIN,
	[M(RORX)] = ISA_PLAIN,
	[M(SAHF)] = ISA_PLAIN,
	[M(SAR)] = ISA_PLAIN,
	[M(SARX)] = ISA_PLAIN,
	[M(SBB)] = ISA_PLAIN,
	[M(SETB)] = ISA_PLAIN,
	[M(SETBE)] = ISA_PLAIN,
	[M(SETL)] = ISA_PLAIN,
	[M(SETLE)] = ISA_PLAIN,
	[M(SETNB)] = ISA_PLAIN,
	[M(SETNBE)] = ISA_PLAIN,
	[M(SETNL)] = ISA_PLAIN,
	[M(SETNLE)] = ISA_PLAIN,
	[M(SETNO)] = ISA_PLAIN,
	[M(SETNP)] = ISA_PLAIN,
	[M(SETNS)] = ISA_PLAIN,
	[M(SETNZ)] = ISA_PLAIN,
	[M(SETO)] = ISA_PLAIN,
	[M(SETP)] = ISA_PLAIN,
	[M(SETS)] = ISA_PLAIN,
	[M(SETZ)] = ISA_PLAIN,
	[M(SHL)] = ISA_PLAIN,
	[M(SHLD)] = ISA_PLAIN,
	[M(SHLX)] = ISA_PLAIN,
	[M(SHR)] = ISA_PLAIN,
	[M(SHRD)] = ISA_PLAIN,
	[M(SHRX)] = ISA_PLAIN,
	[M(STC)] = ISA_PLAIN,
	[M(SUB)] = ISA_PLAIN,
	[M(TEST)] = ISA_PLAIN,
	[M(TZCNT)] = ISA_PLAIN,
	[M(XADD)] = ISA_PLAIN,
	[M(XCHG)] = ISA_PLAIN,
	[M(XOR)] = ISA_PLAIN,

	[M(DIV)] = ISA_DIVIDE,
	[M(IDIV)] = ISA_DIVIDE,

	[M(NOP)] = ISA_NOTHING,
	[M(ENDBR32)] = ISA_NOTHING,
	[M(ENDBR64)] = ISA_NOTHING,
	[M(PREFETCH)] = ISA_NOTHING,
	[M(PREFETCHNTA)] = ISA_NOTHING,
	[M(PREFETCHT0)] = ISA_NOTHING,
	[M(PREFETCHT1)] = ISA_NOTHING,
	[M(PREFETCHT2)] = ISA_NOTHING,
	[M(PREFETCHW)] = ISA_NOTHING,

	[M(LEA)] = ISA_LEA,
	[M(PUSH)] = ISA_PUSH,
	[M(POP)] = ISA_POP,
	[M(LEAVE)] = ISA_LEAVE,
	[M(CALL)] = ISA_CALL,
	[M(JMP)] = ISA_JMP,
	[M(RET)] = ISA_RET,
	[M(CLI)] = ISA_CLI,
	[M(STI)] = ISA_STI,
	[M(STAC)] = ISA_STAC,
	[M(CLAC)] = ISA_CLAC,
	[M(SWAPGS)] = ISA_SWAPGS,
	[M(PUSHFQ)] = ISA_PUSHF,
	[M(POPFQ)] = ISA_POPF,
	[M(CLD)] = ISA_CLD,
	[M(RDTSC)] = ISA_RDTSC,
	[M(RDTSCP)] = ISA_RDTSCP,
	[M(RDPKRU)] = ISA_RDPKRU,
	[M(RDFSBASE)] = ISA_BASE,
	[M(RDGSBASE)] = ISA_BASE,
	[M(WRFSBASE)] = ISA_BASE,
	[M(WRGSBASE)] = ISA_BASE,
	[M(LFENCE)] = ISA_PLAIN,
	[M(MFENCE)] = ISA_PLAIN,
	[M(SFENCE)] = ISA_PLAIN,
	[M(MOVSB)] = ISA_MOVS,
	[M(MOVSW)] = ISA_MOVS,
	[M(MOVSQ)] = ISA_MOVS,
	[M(STOSB)] = ISA_STOS,
	[M(STOSW)] = ISA_STOS,
	[M(STOSD)] = ISA_STOS,
	[M(STOSQ)] = ISA_STOS,
	[M(MOVSD)] = ISA_MOVS,
	[M(JB)] = ISA_JCC,
	[M(JBE)] = ISA_JCC,
	[M(JL)] = ISA_JCC,
	[M(JLE)] = ISA_JCC,
	[M(JNB)] = ISA_JCC,
	[M(JNBE)] = ISA_JCC,
	[M(JNL)] = ISA_JCC,
	[M(JNLE)] = ISA_JCC,
	[M(JNO)] = ISA_JCC,
	[M(JNP)] = ISA_JCC,
	[M(JNS)] = ISA_JCC,
	[M(JNZ)] = ISA_JCC,
	[M(JO)] = ISA_JCC,
	[M(JP)] = ISA_JCC,
	[M(JS)] = ISA_JCC,
	[M(JZ)] = ISA_JCC,
	[M(JECXZ)] = ISA_JCXZ,
	[M(JRCXZ)] = ISA_JCXZ,
	[M(LOOP)] = ISA_LOOP,

	[M(F2XM1)] = ISA_X87,
	[M(FABS)] = ISA_X87,
	[M(FADD)] = ISA_X87,
	[M(FADDP)] = ISA_X87,
	[M(FBLD)] = ISA_X87,
	[M(FBSTP)] = ISA_X87,
	[M(FCHS)] = ISA_X87,
	[M(FCMOVB)] = ISA_X87,
	[M(FCMOVBE)] = ISA_X87,
	[M(FCMOVE)] = ISA_X87,
	[M(FCMOVNB)] = ISA_X87,
	[M(FCMOVNBE)] = ISA_X87,
	[M(FCMOVNE)] = ISA_X87,
	[M(FCMOVNU)] = ISA_X87,
	[M(FCMOVU)] = ISA_X87,
	[M(FCOM)] = ISA_X87,
	[M(FCOMI)] = ISA_X87,
	[M(FCOMIP)] = ISA_X87,
	[M(FCOMP)] = ISA_X87,
	[M(FCOMPP)] = ISA_X87,
	[M(FCOS)] = ISA_X87,
	[M(FDECSTP)] = ISA_X87,
	[M(FDIV)] = ISA_X87,
	[M(FDIVP)] = ISA_X87,
	[M(FDIVR)] = ISA_X87,
	[M(FDIVRP)] = ISA_X87,
	[M(FFREE)] = ISA_X87,
	[M(FIADD)] = ISA_X87,
	[M(FICOM)] = ISA_X87,
	[M(FICOMP)] = ISA_X87,
	[M(FIDIV)] = ISA_X87,
	[M(FIDIVR)] = ISA_X87,
	[M(FILD)] = ISA_X87,
	[M(FIMUL)] = ISA_X87,
	[M(FINCSTP)] = ISA_X87,
	[M(FIST)] = ISA_X87,
	[M(FISTP)] = ISA_X87,
	[M(FISTTP)] = ISA_X87,
	[M(FISUB)] = ISA_X87,
	[M(FISUBR)] = ISA_X87,
	[M(FLD)] = ISA_X87,
	[M(FLD1)] = ISA_X87,
	[M(FLDL2E)] = ISA_X87,
	[M(FLDL2T)] = ISA_X87,
	[M(FLDLG2)] = ISA_X87,
	[M(FLDLN2)] = ISA_X87,
	[M(FLDPI)] = ISA_X87,
	[M(FLDZ)] = ISA_X87,
	[M(FMUL)] = ISA_X87,
	[M(FMULP)] = ISA_X87,
	[M(FNOP)] = ISA_X87,
	[M(FNSTCW)] = ISA_X87,
	[M(FNSTSW)] = ISA_X87,
	[M(FPATAN)] = ISA_X87,
	[M(FPREM)] = ISA_X87,
	[M(FPREM1)] = ISA_X87,
	[M(FPTAN)] = ISA_X87,
	[M(FRNDINT)] = ISA_X87,
	[M(FSCALE)] = ISA_X87,
	[M(FSIN)] = ISA_X87,
	[M(FSINCOS)] = ISA_X87,
	[M(FSQRT)] = ISA_X87,
	[M(FST)] = ISA_X87,
	[M(FSTP)] = ISA_X87,
	[M(FSUB)] = ISA_X87,
	[M(FSUBP)] = ISA_X87,
	[M(FSUBR)] = ISA_X87,
	[M(FSUBRP)] = ISA_X87,
	[M(FTST)] = ISA_X87,
	[M(FUCOM)] = ISA_X87,
	[M(FUCOMI)] = ISA_X87,
	[M(FUCOMIP)] = ISA_X87,
	[M(FUCOMP)] = ISA_X87,
	[M(FUCOMPP)] = ISA_X87,
	[M(FXAM)] = ISA_X87,
	[M(FXCH)] = ISA_X87,
	[M(FXTRACT)] = ISA_X87,
	[M(FYL2X)] = ISA_X87,
	[M(FYL2XP1)] = ISA_X87,
	[M(FLDCW)] = ISA_FLDCW,
	[M(IRET)] = ISA_OTHER_END,
	[M(IRETD)] = ISA_OTHER_END,
	[M(IRETQ)] = ISA_OTHER_END,
	[M(SYSCALL)] = ISA_SYSCALL,
	[M(SYSRET)] = ISA_SYSRET,
	[M(SYSENTER)] = ISA_OTHER_END,
	[M(SYSEXIT)] = ISA_OTHER_END,
	[M(INT)] = ISA_OTHER_END,
	[M(INT1)] = ISA_OTHER_END,
	[M(INT3)] = ISA_OTHER_END,
	[M(INTO)] = ISA_OTHER_END,
	[M(HLT)] = ISA_OTHER_END,
	[M(UD0)] = ISA_OTHER_END,
	[M(UD1)] = ISA_OTHER_END,
	[M(UD2)] = ISA_OTHER_END,
	[M(JCXZ)] = ISA_OTHER_END,
	[M(LOOPE)] = ISA_OTHER_END,
	[M(LOOPNE)] = ISA_OTHER_END,
};

static bool is_vector_operand(const ZydisDecodedOperand *op)
{
	ZydisRegisterClass k;

	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
		       op->type == ZYDIS_OPERAND_TYPE_MEMORY;
	k = ZydisRegisterGetClass(op->reg.value);
	return k == ZYDIS_REGCLASS_XMM || k == ZYDIS_REGCLASS_YMM || k == ZYDIS_REGCLASS_GPR32 ||
	       k == ZYDIS_REGCLASS_GPR64 || k == ZYDIS_REGCLASS_GPR8 || k == ZYDIS_REGCLASS_GPR16;
}

/* Encodings and instructions whose operands are no ordinary ones. */
static bool is_odd_vector(const ZydisDecodedInstruction *z)
{
	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return true;
	switch (z->mnemonic) {
	case M(LDMXCSR):
	case M(VLDMXCSR):
	case M(MASKMOVDQU):
	case M(VMASKMOVDQU):
	case M(VMASKMOVPS):
	case M(VMASKMOVPD):
	case M(VPMASKMOVD):
	case M(VPMASKMOVQ):
		return true;
	default:
		return z->meta.category == ZYDIS_CATEGORY_AVX2GATHER ||
		       z->meta.category == ZYDIS_CATEGORY_GATHER;
	}
}

static bool names_vector(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	if (z->mnemonic == M(VZEROUPPER) || z->mnemonic == M(VZEROALL) ||
	    z->mnemonic == M(STMXCSR) || z->mnemonic == M(VSTMXCSR))
		return true;
	for (unsigned n = 0; n < z->operand_count; n++) {
		ZydisRegisterClass k = op[n].type == ZYDIS_OPERAND_TYPE_REGISTER
		                               ? ZydisRegisterGetClass(op[n].reg.value)
		                               : ZYDIS_REGCLASS_INVALID;

		if (k == ZYDIS_REGCLASS_XMM || k == ZYDIS_REGCLASS_YMM)
			return true;
	}
	return false;
}

static bool is_vector(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	if (is_odd_vector(z) || !names_vector(z, op))
		return false;
	for (unsigned n = 0; n < z->operand_count_visible; n++)
		if (!is_vector_operand(&op[n]))
			return false;
	return true;
}

static bool is_register_class(const ZydisDecodedOperand *op, ZydisRegisterClass k)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == k;
}

/* Forms of common mnemonics that are not for the general registers. */
static bool names_system_register(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	for (unsigned n = 0; n < z->operand_count_visible; n++)
		if (is_register_class(&op[n], ZYDIS_REGCLASS_SEGMENT) ||
		    is_register_class(&op[n], ZYDIS_REGCLASS_CONTROL) ||
		    is_register_class(&op[n], ZYDIS_REGCLASS_DEBUG))
			return true;
	return false;
}

enum isa_class isa_class(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	enum isa_class k = class_of[z->mnemonic];

	if (k == ISA_MOVS && z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		k = ISA_OTHER; /* MOVSD is also an SSE instruction */
	if ((k == ISA_MOVS || k == ISA_STOS) &&
	    !(z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPNE)))
		k = ISA_OTHER;
	if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return ISA_OTHER_END;
	if (k == ISA_OTHER && is_vector(z, op))
		return ISA_VECTOR;
	if (k != ISA_OTHER && names_system_register(z, op)) {
		bool to = is_register_class(&op[0], ZYDIS_REGCLASS_CONTROL) ||
		          is_register_class(&op[0], ZYDIS_REGCLASS_DEBUG);

		if (z->mnemonic == M(MOV) && is_register_class(&op[1], ZYDIS_REGCLASS_SEGMENT) &&
		    op[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
			return ISA_FROM_SEGMENT;
		return to ? ISA_OTHER_END : ISA_OTHER;
	}
	/* The bit offset of a register reaches beyond the memory operand. */
	if ((z->mnemonic == M(BT) || z->mnemonic == M(BTS) || z->mnemonic == M(BTR) ||
	     z->mnemonic == M(BTC)) &&
	    op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		return ISA_BIT;
	/* As a nop PAUSE would keep the other vCPUs off the host's CPU. */
	return k;
}

/* A count of zero leaves all flags alone. */
static bool may_do_nothing(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	const ZydisDecodedOperand *count;

	switch (z->mnemonic) {
	case M(SHL):
	case M(SHR):
	case M(SAR):
	case M(ROL):
	case M(ROR):
	case M(RCL):
	case M(RCR):
		count = &op[1];
		break;
	case M(SHLD):
	case M(SHRD):
		count = &op[2];
		break;
	default:
		return false;
	}
	if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return true;
	return !(count->imm.value.u & (z->operand_width == 64 ? 63 : 31));
}

struct isa_flags isa_flags(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	struct isa_flags f = { 0 };
	uint32_t writes;

	if (!z->cpu_flags)
		return f;
	writes = (z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->set_1 |
	          z->cpu_flags->undefined) &
	         ISA_FLAGS;
	f.reads = z->cpu_flags->tested & ISA_FLAGS;
	f.writes = writes;
	f.writes_all = writes == ISA_FLAGS && !may_do_nothing(z, op);
	f.reads_cf = writes && !may_do_nothing(z, op) &&
	             (f.reads | (ISA_FLAGS & ~writes)) == ZYDIS_CPUFLAG_CF;
	if (writes && !f.writes_all)
		f.reads |= ISA_FLAGS;
	return f;
}

unsigned isa_alignment(const ZydisDecodedInstruction *z, unsigned size)
{
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return z->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 ? size : 0;
	switch (z->mnemonic) {
	case M(MOVUPS):
	case M(MOVUPD):
	case M(MOVDQU):
	case M(LDDQU):
	case M(PCMPESTRI):
	case M(PCMPESTRM):
	case M(PCMPISTRI):
	case M(PCMPISTRM):
		return 0;
	default:
		return size == 16 ? 16 : 0;
	}
}

bool isa_is_conditional(const ZydisDecodedInstruction *z)
{
	return z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       z->opcode_map == ZYDIS_OPCODE_MAP_0F &&
	       ((z->opcode & 0xf0) == 0x90 || (z->opcode & 0xf0) == 0x40);
}
