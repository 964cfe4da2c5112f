/* COM1: loopback, FIFO, interrupts, modem lines. Nothing leaves or reaches the port meanwhile. */
#include "device.h"

#define COM1 0x3f8
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

#define LSR_DR   0x01
#define LSR_OE   0x02
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define IIR_NONE    0x01
#define IIR_MODEM   0x00
#define IIR_THRE    0x02
#define IIR_DATA    0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c

#define VECTOR 0x54

static uint8_t get(unsigned reg)
{
	return in8((uint16_t)(COM1 + reg));
}

static void set(unsigned reg, uint8_t v)
{
	out8((uint16_t)(COM1 + reg), v);
}

static void send(uint8_t v)
{
	WAIT_FOR(get(LSR) & LSR_THRE, 100);
	set(DATA, v);
}

static bool arrives(void)
{
	return WAIT_FOR(get(LSR) & LSR_DR, 100);
}

static void test_registers(void)
{
	set(SCR, 0xa5);
	ok_equal("scratch register", get(SCR), 0xa5);
	set(LCR, 0x83);
	set(DATA, 0x34);
	set(IER, 0x12);
	ok("divisor latch", get(DATA) == 0x34 && get(IER) == 0x12);
	set(DATA, 1); /* 115200 baud */
	set(IER, 0);
	set(LCR, 0x03);
	ok_equal("line control", get(LCR), 0x03);
	set(IER, 0xff);
	ok_equal("four interrupts", get(IER), 0x0f);
	set(IER, 0);
	set(MCR, 0xff & ~MCR_LOOP);
	ok_equal("five modem controls", get(MCR), 0x0f);
	ok_equal("idle", get(LSR) & (LSR_THRE | LSR_TEMT), LSR_THRE | LSR_TEMT);
}

static void test_loopback(void)
{
	set(FCR, 0x07);
	set(MCR, MCR_LOOP);
	send('x');
	ok("a byte comes back", arrives());
	ok_equal("the same", get(DATA), 'x');
	ok("and only once", !(get(LSR) & LSR_DR));
	set(MCR, MCR_LOOP | 0x0f);
	ok_equal("modem controls come back", get(MSR) & 0xf0, 0xf0);
	set(MCR, MCR_LOOP | 0x05);
	ok_equal("each to its line", get(MSR) & 0xf0, 0x60);
	get(MSR);
	set(MCR, MCR_LOOP | 0x07);
	ok("a change leaves a mark", get(MSR) & 0x01);
	ok("for one read", !(get(MSR) & 0x0f));
}

static void test_fifo(void)
{
	bool same = true;

	set(MCR, MCR_LOOP);
	set(FCR, 0x87); /* trigger at 8 */
	ok_equal("the FIFO shows in IIR", get(IIR) & 0xc0, 0xc0);
	for (unsigned i = 0; i < 16; i++)
		send((uint8_t)(0x30 + i));
	WAIT_FOR(get(LSR) & LSR_TEMT, 100);
	for (unsigned i = 0; i < 16; i++)
		same = arrives() && get(DATA) == 0x30 + i && same;
	ok("16 bytes in order", same);
	ok("then empty", !(get(LSR) & LSR_DR));
	for (unsigned i = 0; i < 18; i++) {
		set(DATA, (uint8_t)i);
		delay_us(1000); /* a byte's time, without looking: reading LSR clears its errors */
	}
	ok("too many overrun", get(LSR) & LSR_OE);
	ok("which a read of LSR clears", !(get(LSR) & LSR_OE));
	set(FCR, 0x87);
	ok("a FIFO reset empties", !(get(LSR) & LSR_DR));
}

static void test_interrupts(void)
{
	set(FCR, 0x87);
	set(MCR, MCR_LOOP | MCR_OUT2);
	irq_clear();
	set(IER, 0x01);
	ok_equal("quiet", get(IIR) & 0x0f, IIR_NONE);
	send('a');
	ok("a byte below the trigger times out", WAIT_FOR((get(IIR) & 0x0f) == IIR_TIMEOUT, 1000));
	for (unsigned i = 0; i < 7; i++)
		send('b');
	ok("the trigger level", WAIT_FOR((get(IIR) & 0x0f) == IIR_DATA, 1000));
	irq_window();
	for (unsigned i = 0; i < 8; i++)
		get(DATA);
	ok_equal("read, quiet", get(IIR) & 0x0f, IIR_NONE);
	set(IER, 0x02);
	ok_equal("an empty transmitter", get(IIR) & 0x0f, IIR_THRE);
	ok_equal("which the read of IIR ends", get(IIR) & 0x0f, IIR_NONE);
	set(IER, 0x08);
	get(MSR);
	set(MCR, MCR_LOOP | MCR_OUT2 | 1);
	ok_equal("a modem line", get(IIR) & 0x0f, IIR_MODEM);
	get(MSR);
	ok_equal("which the read of MSR ends", get(IIR) & 0x0f, IIR_NONE);
	set(IER, 0);
	set(FCR, 0x07);
}

/* Out of loopback: OUT2 lets the interrupt out to line 4. */
static void test_line(void)
{
	irq_window();
	irq_clear();
	set(MCR, MCR_OUT2);
	set(IER, 0x02);
	irq_enable();
	ok("line 4", WAIT_FOR(irq_mine()->of[VECTOR], 100));
	irq_disable();
	set(IER, 0);
}

void guest_run(void)
{
	pic_begin(0x50);
	irq_begin(pic_end);
	out8(PORT_PIC0 + 1, 0xef);
	test_registers();
	test_loopback();
	test_fifo();
	test_interrupts();
	test_line();
}
