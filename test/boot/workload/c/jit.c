/*
 * jit ROUNDS: makes machine code and runs it at once: rewritten in place, through a second mapping,
 * under changing protection, by another thread, and in what was data or other code before. A
 * machine that keeps a translation too long prints a wrong result.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

typedef long (*function)(long);

static uint32_t random_state = 123456789;
static int wrong;

static uint32_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state;
}

static void expect(const char *what, long got, long expected)
{
	if (got == expected)
		return;
	wrong++;
	printf("WRONG %s: %ld, expected %ld\n", what, got, expected);
}

static unsigned char *map(size_t size, int protection)
{
	unsigned char *p = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

static unsigned char *emit(unsigned char *p, const char *bytes, int n)
{
	memcpy(p, bytes, n);
	return p + n;
}

static unsigned char *emit_imm(unsigned char *p, const char *bytes, int n, int32_t imm)
{
	p = emit(p, bytes, n);
	memcpy(p, &imm, sizeof(imm));
	return p + sizeof(imm);
}

static long swap_bytes(long x)
{
	unsigned long swapped = 0;

	for (int i = 0; i < 8; i++)
		swapped = swapped << 8 | ((unsigned long)x >> 8 * i & 0xff);
	return (long)swapped;
}

/* A function of rdi made of random operations; returns what it has to give for x. */
static long emit_random(unsigned char *p, int operations, long x)
{
	p = emit(p, "\x48\x89\xf8", 3); /* mov rax, rdi */
	for (int i = 0; i < operations; i++) {
		int32_t imm = (int32_t)next_random() >> 8;

		switch (next_random() % 6) {
		case 0:
			p = emit_imm(p, "\x48\x05", 2, imm); /* add rax, imm */
			x += imm;
			break;
		case 1:
			p = emit_imm(p, "\x48\x35", 2, imm); /* xor rax, imm */
			x ^= imm;
			break;
		case 2:
			p = emit_imm(p, "\x48\x69\xc0", 3, imm); /* imul rax, rax, imm */
			x = (long)((unsigned long)x * (unsigned long)imm);
			break;
		case 3:
			p = emit(p, "\x48\xd1\xc8", 3); /* ror rax, 1 */
			x = (long)((unsigned long)x >> 1 | (unsigned long)x << 63);
			break;
		case 4:
			p = emit_imm(p, "\xa9", 1, imm);        /* test eax, imm */
			p = emit(p, "\x74\x03\x48\xf7\xd8", 5); /* jz over; neg rax */
			if ((int32_t)x & imm)
				x = (long)-(unsigned long)x;
			break;
		default:
			p = emit(p, "\x48\x0f\xc8", 3); /* bswap rax */
			x = swap_bytes(x);
		}
	}
	emit(p, "\xc3", 1); /* ret */
	return x;
}

/* New code at the place of old code, again and again. */
static void rewrite_in_place(int rounds)
{
	unsigned char *code = map(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);

	for (int i = 0; i < rounds; i++) {
		unsigned char *at = code + next_random() % 2048;
		long x = (long)next_random() * 77, expected = emit_random(at, 1 + i % 40, x);

		expect("in place", ((function)at)(x), expected);
	}
	munmap(code, PAGE);
}

/* One operand, one opcode or one displacement changes between two calls. */
static void patch_bytes(int rounds)
{
	unsigned char *code = map(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	unsigned char *p = emit(code, "\x48\x8d\x47\x01", 4); /* lea rax, [rdi + 1] */

	p = emit_imm(p, "\x48\x05", 2, 0);                  /* add rax, imm */
	emit(p, "\xeb\x00\x48\xff\xc0\x48\xff\xc0\xc3", 9); /* jmp; inc rax; inc rax; ret */
	for (int i = 0; i < rounds; i++) {
		int32_t imm = (int32_t)next_random();
		int skip = i % 3;

		code[3] = (unsigned char)(i % 100);
		memcpy(code + 6, &imm, sizeof(imm));
		code[5] = i & 1 ? 0x05 : 0x2d; /* add, or sub */
		code[11] = (unsigned char)(3 * skip);
		expect("patched", ((function)code)(1000),
		       1000 + i % 100 + (i & 1 ? (long)imm : -(long)imm) + 2 - skip);
	}
	munmap(code, PAGE);
}

/* Code that changes the very next instructions, in its own page. */
static void patch_itself(int rounds)
{
	unsigned char *code = map(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	unsigned char *p = code;

	p = emit(p, "\x89\x3d\x01\x00\x00\x00", 6); /* mov [rip + 1], edi */
	emit_imm(p, "\xb8", 1, -1);                 /* mov eax, imm: the target */
	code[11] = 0xc3;
	for (int i = 0; i < rounds; i++)
		expect("itself", ((function)code)(i * 3), i * 3);
	munmap(code, PAGE);
}

/* Written at one address, run at another. */
static void write_through_alias(int rounds)
{
	int fd = memfd_create("code", 0);
	unsigned char *writable, *runnable;

	if (fd < 0 || ftruncate(fd, 2 * PAGE)) {
		perror("memfd");
		exit(1);
	}
	writable = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	runnable = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	for (int i = 0; i < rounds; i++) {
		/* The code crosses the page boundary. */
		size_t at = PAGE - 1 - next_random() % 60;
		long x = (long)next_random(), expected = emit_random(writable + at, 20, x);

		expect("alias", ((function)(runnable + at))(x), expected);
	}
	munmap(writable, 2 * PAGE);
	munmap(runnable, 2 * PAGE);
	close(fd);
}

/* Writable or executable, never both; and other memory at the same address. */
static void change_protection(int rounds)
{
	unsigned char *code = map(PAGE, PROT_READ | PROT_WRITE);

	for (int i = 0; i < rounds; i++) {
		long x = i * 99, expected;

		if (i % 5 == 4)
			mmap(code, PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		else
			mprotect(code, PAGE, PROT_READ | PROT_WRITE);
		expected = emit_random(code, 10, x);
		mprotect(code, PAGE, PROT_READ | PROT_EXEC);
		expect("protection", ((function)code)(x), expected);
	}
	munmap(code, PAGE);
}

static unsigned char *shared;
static volatile int stop;

/* mov eax, imm; ret, with the operand aligned: either value may come, but no other. */
static void *call_shared(void *calls)
{
	long last = 0;

	while (!stop) {
		long value = ((function)(shared + 3))(0);

		if (value < last || value > 1 << 20)
			expect("thread", value, last);
		last = value;
		++*(long *)calls;
	}
	return NULL;
}

static void patch_under_threads(int rounds)
{
	pthread_t thread[2];
	long calls[2] = { 0 };

	stop = 0;
	shared = map(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	emit_imm(shared + 3, "\xb8", 1, 0);
	shared[8] = 0xc3;
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, call_shared, &calls[i]);
	for (int32_t i = 1; i <= rounds; i++) {
		*(volatile int32_t *)(shared + 4) = i;
		if (i % 64 == 0)
			usleep(100);
	}
	expect("last", ((function)(shared + 3))(0), rounds);
	/* A busy host may not have let them run yet. */
	for (int i = 0; i < 1000 && (!*(volatile long *)&calls[0] || !*(volatile long *)&calls[1]);
	     i++)
		usleep(10000);
	stop = 1;
	for (int i = 0; i < 2; i++) {
		pthread_join(thread[i], NULL);
		expect("thread ran", calls[i] > 0, 1);
	}
	munmap(shared, PAGE);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1;

	for (int i = 0; i < rounds; i++) {
		rewrite_in_place(300);
		patch_bytes(500);
		patch_itself(500);
		write_through_alias(200);
		change_protection(100);
		patch_under_threads(2000);
	}
	printf("jit: %d wrong, state %08x\n", wrong, random_state);
	return wrong != 0;
}
