#include "machine/aml.h"

#include <assert.h>
#include <string.h>

/* Opcodes, ACPI 6.4 20.3. */
#define AML_ZERO       0x00
#define AML_ONE        0x01
#define AML_NAME       0x08
#define AML_BYTE       0x0a
#define AML_WORD       0x0b
#define AML_DWORD      0x0c
#define AML_STRING     0x0d
#define AML_QWORD      0x0e
#define AML_SCOPE      0x10
#define AML_BUFFER     0x11
#define AML_PACKAGE    0x12
#define AML_METHOD     0x14
#define AML_TWO_NAMES  0x2e
#define AML_NOTIFY     0x86
#define AML_EXTENDED   0x5b
#define AML_EXT_DEVICE 0x82

/* Resource descriptor tags, ACPI 6.4 6.4.2 and 6.4.3; small ones include their length. */
#define RES_IRQ         0x22
#define RES_IO          0x47
#define RES_END         0x79
#define RES_MEMORY32    0x86
#define RES_DWORD_SPACE 0x87
#define RES_WORD_SPACE  0x88
#define RES_QWORD_SPACE 0x8a

/* Address space descriptors: resource types, and flags for "fixed, positive decode, produced". */
#define SPACE_MEMORY 0
#define SPACE_IO     1
#define SPACE_BUS    2
#define SPACE_FIXED  0x0c /* minimum and maximum are as given */
#define SPACE_RW     0x01 /* memory: read-write, not cached */
#define SPACE_ENTIRE 0x03 /* I/O: ISA and other ports */

/* PkgLength of three bytes, 20 bits: longer than it need be, but always the same. */
#define LENGTH_BYTES 3

static void put(struct aml *a, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++, a->used++)
		if (a->used < a->size)
			a->buf[a->used] = (uint8_t)(value >> (8 * i));
}

static void patch(struct aml *a, size_t at, uint64_t value, unsigned bytes)
{
	size_t used = a->used;

	a->used = at;
	put(a, value, bytes);
	a->used = used;
}

static void patch_length(struct aml *a, size_t at)
{
	size_t len = a->used - at;

	assert(len < BIT(20));
	patch(a, at, 0x80 | (len & 0xf) | (len >> 4) << 8, LENGTH_BYTES);
}

static void put_segment(struct aml *a, const char *name)
{
	assert(strlen(name) == 4);
	for (unsigned i = 0; i < 4; i++)
		put(a, (uint8_t)name[i], 1);
}

static void put_int(struct aml *a, uint64_t value)
{
	if (value <= 1) {
		put(a, value ? AML_ONE : AML_ZERO, 1);
	} else if (value <= UINT8_MAX) {
		put(a, AML_BYTE, 1);
		put(a, value, 1);
	} else if (value <= UINT16_MAX) {
		put(a, AML_WORD, 1);
		put(a, value, 2);
	} else if (value <= UINT32_MAX) {
		put(a, AML_DWORD, 1);
		put(a, value, 4);
	} else {
		put(a, AML_QWORD, 1);
		put(a, value, 8);
	}
}

static struct aml_scope *open_scope(struct aml *a)
{
	struct aml_scope *s = &a->scope[a->depth++];

	assert(a->depth <= AML_MAX_DEPTH);
	*s = (struct aml_scope){ .length_at = a->used };
	put(a, 0, LENGTH_BYTES);
	return s;
}

void aml_begin(struct aml *a, void *buf, size_t size)
{
	*a = (struct aml){ .buf = buf, .size = size };
}

size_t aml_end(struct aml *a)
{
	assert(a->depth == 0);
	return a->used <= a->size ? a->used : 0;
}

void aml_scope(struct aml *a, const char *name)
{
	put(a, AML_SCOPE, 1);
	open_scope(a);
	put(a, '\\', 1);
	put_segment(a, name);
}

void aml_device(struct aml *a, const char *name)
{
	put(a, AML_EXTENDED | AML_EXT_DEVICE << 8, 2);
	open_scope(a);
	put_segment(a, name);
}

void aml_resources(struct aml *a)
{
	struct aml_scope *s;

	put(a, AML_NAME, 1);
	put_segment(a, "_CRS");
	put(a, AML_BUFFER, 1);
	s = open_scope(a);
	put(a, AML_WORD, 1);
	s->buffer_at = a->used;
	put(a, 0, 2);
}

void aml_close(struct aml *a)
{
	struct aml_scope *s;

	assert(a->depth > 0);
	s = &a->scope[--a->depth];
	if (s->buffer_at) {
		put(a, RES_END, 2); /* a checksum of 0 counts as right */
		patch(a, s->buffer_at, a->used - s->buffer_at - 2, 2);
	}
	patch_length(a, s->length_at);
}

static void put_name(struct aml *a, const char *name)
{
	put(a, AML_NAME, 1);
	put_segment(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t value)
{
	put_name(a, name);
	put_int(a, value);
}

void aml_string(struct aml *a, const char *value)
{
	put(a, AML_STRING, 1);
	for (const char *p = value; *p; p++)
		put(a, (uint8_t)*p, 1);
	put(a, 0, 1);
}

void aml_name_string(struct aml *a, const char *name, const char *value)
{
	put_name(a, name);
	aml_string(a, value);
}

void aml_notify_method(struct aml *a, const char *method, const char *name, uint8_t what)
{
	put(a, AML_METHOD, 1);
	open_scope(a);
	put_segment(a, method);
	put(a, 0, 1); /* no arguments, not serialized */
	put(a, AML_NOTIFY, 1);
	put(a, '\\', 1);
	put(a, AML_TWO_NAMES, 1);
	put_segment(a, "_SB_");
	put_segment(a, name);
	put_int(a, what);
	aml_close(a);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

/* Three letters of five bits and four hexadecimal digits, big-endian (ACPI 6.4 19.3.4). */
void aml_name_eisaid(struct aml *a, const char *name, const char *id)
{
	uint32_t v = 0;

	assert(strlen(id) == 7);
	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | (uint32_t)(id[i] - '@');
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	put_name(a, name);
	put(a, AML_DWORD, 1);
	put(a, __builtin_bswap32(v), 4);
}

void aml_package(struct aml *a, unsigned n)
{
	put(a, AML_PACKAGE, 1);
	open_scope(a);
	put(a, n, 1);
}

void aml_name_package(struct aml *a, const char *name, const uint8_t *value, unsigned n)
{
	put_name(a, name);
	aml_package(a, n);
	for (unsigned i = 0; i < n; i++)
		put_int(a, value[i]);
	aml_close(a);
}

void aml_name_packages(struct aml *a, const char *name, unsigned n)
{
	put_name(a, name);
	aml_package(a, n);
}

void aml_int(struct aml *a, uint64_t value)
{
	put_int(a, value);
}

void aml_io(struct aml *a, uint16_t port, uint8_t len)
{
	const uint8_t decode16 = 1, align = 1;

	put(a, RES_IO, 1);
	put(a, decode16, 1);
	put(a, port, 2);
	put(a, port, 2);
	put(a, align, 1);
	put(a, len, 1);
}

void aml_irq(struct aml *a, unsigned irq)
{
	put(a, RES_IRQ, 1);
	put(a, BIT(irq), 2);
}

void aml_memory(struct aml *a, uint32_t base, uint32_t len, bool writable)
{
	put(a, RES_MEMORY32, 1);
	put(a, 9, 2);
	put(a, writable, 1);
	put(a, base, 4);
	put(a, len, 4);
}

/* Granularity, minimum, maximum, translation and length, in fields of `bytes`. */
static void put_space(struct aml *a, uint8_t tag, unsigned bytes, uint8_t type, uint8_t type_flags,
                      uint64_t min, uint64_t max)
{
	put(a, tag, 1);
	put(a, 3 + 5 * bytes, 2);
	put(a, type, 1);
	put(a, SPACE_FIXED, 1);
	put(a, type_flags, 1);
	put(a, 0, bytes);
	put(a, min, bytes);
	put(a, max, bytes);
	put(a, 0, bytes);
	put(a, max - min + 1, bytes);
}

void aml_window_bus(struct aml *a, uint16_t min, uint16_t max)
{
	put_space(a, RES_WORD_SPACE, 2, SPACE_BUS, 0, min, max);
}

void aml_window_io(struct aml *a, uint16_t min, uint16_t max)
{
	put_space(a, RES_WORD_SPACE, 2, SPACE_IO, SPACE_ENTIRE, min, max);
}

void aml_window_memory(struct aml *a, uint64_t min, uint64_t max)
{
	if (max > UINT32_MAX)
		put_space(a, RES_QWORD_SPACE, 8, SPACE_MEMORY, SPACE_RW, min, max);
	else
		put_space(a, RES_DWORD_SPACE, 4, SPACE_MEMORY, SPACE_RW, min, max);
}
