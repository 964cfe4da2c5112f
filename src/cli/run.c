/*
 * trapeze run: one machine in the foreground, from the command line to the exit status.
 *
 * Signals are blocked in every thread and read from a descriptor, so they are ordinary events of
 * the loop: the machine is stopped, everything is put back, and only then the process dies of the
 * signal.
 */
#include "cli/run.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/loop.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "engine/engine.h"

#define DRAIN_NS 2000000000ull /* for the guest's last words to reach a slow terminal */

struct run;

/* The host's end of a port of the virtio console. */
struct run_port {
	struct run *run;
	unsigned n;
	struct console *console; /* NULL: bytes are lost */
};

struct run {
	struct run_options opts;
	struct loop *loop;
	struct console *console;
	struct run_port port[VM_MAX_PORTS];
	struct vm *vm;
	int signal_fd;
	_Atomic int signal; /* that ended the run, 0 */
	bool asked;         /* by a signal, to shut down */
	_Atomic bool console_failed;
};

/* Signals. */

static const int end_signals[] = { SIGTERM, SIGHUP, SIGINT, SIGQUIT };

static void stop_for_job_control(struct run *r)
{
	console_leave(r->console);
	raise(SIGSTOP);
	/* SIGCONT follows. */
}

/* The first SIGTERM asks a guest that can be asked; everything else ends the machine. */
static void end_by_signal(struct run *r, int sig)
{
	bool ask = sig == SIGTERM && !r->asked;

	r->asked = true;
	if (ask && vm_press_power(r->vm))
		return;
	r->signal = sig;
	vm_stop(r->vm);
}

static void on_signal(void *opaque, uint32_t events)
{
	struct run *r = opaque;
	struct signalfd_siginfo info;

	while (read(r->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGTSTP) {
			stop_for_job_control(r);
		} else if (info.ssi_signo == SIGCONT) {
			console_enter(r->console);
			vm_continue(r->vm);
		} else {
			end_by_signal(r, (int)info.ssi_signo);
		}
	}
}

/* Blocks them for this thread and those that it will make. */
static int take_signals(struct run *r)
{
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(end_signals); i++)
		sigaddset(&set, end_signals[i]);
	sigaddset(&set, SIGTSTP);
	sigaddset(&set, SIGCONT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN); /* these two are told by write(), too */
	signal(SIGXFSZ, SIG_IGN);
	signal(SIGTTOU, SIG_IGN); /* restoring the terminal from the background must not stop us */
	r->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return r->signal_fd < 0 ? -errno : 0;
}

/* With everything put back, the parent is to see what it would have seen without a handler. */
static void die_of_signal(int sig)
{
	sigset_t set;

	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	raise(sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* Between the console and the machine. */

static size_t guest_input(void *opaque, const uint8_t *buf, size_t n)
{
	return vm_serial_input(((struct run *)opaque)->vm, buf, n);
}

static void guest_output_room(void *opaque)
{
	vm_serial_resume(((struct run *)opaque)->vm);
}

static void print_status(struct run *r)
{
	struct vm_stats s;
	char text[512], memory[32];

	vm_get_stats(r->vm, &s);
	snprintf(text, sizeof(text),
	         "\n[trapeze: engine %s, %u vCPU%s, up %.1f s, %" PRIu64
	         " million instructions, %s of memory in use]\n",
	         r->opts.vm.engine->name, r->opts.vm.vcpus, r->opts.vm.vcpus == 1 ? "" : "s",
	         (double)s.run_ns / 1e9, s.insns / 1000000,
	         options_format_bytes(s.guest_resident, memory, sizeof(memory)));
	console_print(r->console, text);
}

static void press_power(struct run *r)
{
	console_print(r->console,
	              vm_press_power(r->vm)
	                      ? "\n[trapeze: pressed the power button]\n"
	                      : "\n[trapeze: the guest does not listen to its power button]\n");
}

static void on_console_event(void *opaque, enum console_event event)
{
	struct run *r = opaque;

	switch (event) {
	case CONSOLE_STATUS:
		print_status(r);
		break;
	case CONSOLE_POWER:
		press_power(r);
		break;
	case CONSOLE_GO_ON:
		vm_continue(r->vm);
		break;
	case CONSOLE_FAILED:
		r->console_failed = true;
		vm_stop(r->vm);
		break;
	case CONSOLE_QUIT:
		vm_stop(r->vm);
		break;
	}
}

static size_t on_output(void *opaque, const uint8_t *buf, size_t n)
{
	return console_write(((struct run *)opaque)->console, buf, n);
}

static void on_input_room(void *opaque)
{
	console_resume(((struct run *)opaque)->console);
}

static void on_debug(void *opaque, uint8_t byte)
{
	console_write(((struct run *)opaque)->console, &byte, 1);
}

/* Between a port and the machine. */

static size_t port_input(void *opaque, const uint8_t *buf, size_t n)
{
	struct run_port *p = opaque;

	return vm_port_input(p->run->vm, p->n, buf, n);
}

static void port_output_room(void *opaque)
{
	struct run_port *p = opaque;

	vm_port_resume(p->run->vm, p->n);
}

static void on_port_event(void *opaque, enum console_event event)
{
	on_console_event(((struct run_port *)opaque)->run, event);
}

static size_t on_port_output(void *opaque, const uint8_t *buf, size_t n)
{
	struct run_port *p = opaque;

	return p->console ? console_write(p->console, buf, n) : n;
}

static void on_port_input_room(void *opaque)
{
	struct run_port *p = opaque;

	if (p->console)
		console_resume(p->console);
}

static int make_ports(struct run *r)
{
	int rc = 0;

	for (unsigned i = 0; i < r->opts.vm.nr_ports && !rc; i++) {
		struct run_port *p = &r->port[i];

		*p = (struct run_port){ .run = r, .n = i };
		r->opts.vm.port[i].console = (struct vm_console){ .output = on_port_output,
			                                          .input_room = on_port_input_room,
			                                          .opaque = p };
		if (r->opts.port[i])
			rc = console_new(&p->console, r->loop, i ? "--port" : "--console",
			                 r->opts.port[i]);
	}
	return rc;
}

static void attach_ports(struct run *r)
{
	for (unsigned i = 0; i < r->opts.vm.nr_ports; i++) {
		struct console_guest guest = { .input = port_input,
			                       .output_room = port_output_room,
			                       .event = on_port_event,
			                       .opaque = &r->port[i] };

		if (!r->port[i].console)
			continue;
		console_attach(r->port[i].console, &guest);
		console_enter(r->port[i].console);
	}
}

static void detach_ports(struct run *r)
{
	for (unsigned i = 0; i < r->opts.vm.nr_ports; i++) {
		if (!r->port[i].console)
			continue;
		console_detach(r->port[i].console);
		console_drain(r->port[i].console, DRAIN_NS);
	}
}

static void on_pause(void *opaque, const char *reason)
{
	log_warn("the machine is paused: %s (Ctrl-A c or SIGCONT lets it go on)", reason);
}

/* The run. */

static int prepare(struct run *r)
{
	char err[512] = "";
	int rc;

	if (r->opts.stats && stats_prepare(r->opts.stats))
		return -EINVAL;
	rc = take_signals(r);
	if (!rc)
		rc = loop_new(&r->loop);
	if (rc) {
		log_error("cannot start: %s", strerror(-rc));
		return rc;
	}
	rc = console_new(&r->console, r->loop, "--serial", r->opts.serial);
	if (!rc)
		rc = make_ports(r);
	if (rc)
		return rc;
	r->opts.vm.console = (struct vm_console){
		.output = on_output,
		.input_room = on_input_room,
		.debug = on_debug,
		.opaque = r,
	};
	r->opts.vm.paused = on_pause;
	/* First: an engine's handlers take the signals that guest code causes and pass on the rest.
	 */
	terminal_catch_crashes();
	rc = vm_new(&r->vm, &r->opts.vm, err, sizeof(err));
	if (rc)
		log_error("%s", *err ? err : strerror(-rc));
	return rc;
}

static int start(struct run *r)
{
	static const struct console_guest callbacks = {
		.input = guest_input,
		.output_room = guest_output_room,
		.event = on_console_event,
	};
	struct console_guest guest = callbacks;
	int rc;

	guest.opaque = r;
	console_attach(r->console, &guest);
	console_enter(r->console);
	attach_ports(r);
	rc = loop_add_fd(r->loop, r->signal_fd, EPOLLIN, on_signal, r);
	if (!rc)
		rc = vm_start(r->vm);
	/* Last, so that a signal or a key never finds a machine that has not started. */
	if (!rc)
		rc = loop_start(r->loop);
	if (rc) {
		console_leave(r->console);
		log_error("cannot start the machine: %s", strerror(-rc));
	}
	return rc;
}

static void print_report(struct run *r)
{
	char *report = malloc(VM_REPORT_BYTES);

	log_error("guest crashed: %s", vm_reason(r->vm));
	if (report && vm_report(r->vm, report, VM_REPORT_BYTES))
		fputs(report, stderr);
	free(report);
}

/* What the outcome means to the shell; see enum cli_status. */
static int outcome_status(struct run *r, enum vm_outcome outcome, unsigned guest_status)
{
	switch (outcome) {
	case VM_POWEROFF:
		return CLI_OK;
	case VM_CRASHED:
		return CLI_CRASHED;
	case VM_REBOOTED:
		return CLI_REBOOTED;
	case VM_TIMEOUT:
		return CLI_TIMEOUT;
	case VM_EXIT_PORT:
		/* As QEMU's isa-debug-exit, so that success (0) can be told from our own. */
		return (int)(guest_status << 1 | 1) & 0xff;
	case VM_STOPPED:
		return r->console_failed ? CLI_ERROR : CLI_OK;
	default:
		return CLI_ERROR;
	}
}

static void tell_outcome(struct run *r, enum vm_outcome outcome)
{
	if (outcome == VM_CRASHED)
		print_report(r);
	else if (outcome == VM_TIMEOUT)
		log_error("stopped after %g s (--timeout)", (double)r->opts.timeout_ns / 1e9);
	else if (outcome == VM_HOST_ERROR)
		log_error("%s", vm_reason(r->vm));
	else
		log_info("ended: %s", vm_outcome_name(outcome));
}

/* Waits for the end and puts the terminal back before a word is said about it. */
static int finish(struct run *r)
{
	uint64_t deadline = r->opts.timeout_ns ? clock_ns() + r->opts.timeout_ns : 0;
	unsigned guest_status = 0;
	enum vm_outcome outcome = vm_wait(r->vm, deadline, &guest_status);
	int status = outcome_status(r, outcome, guest_status);

	detach_ports(r);
	console_detach(r->console);
	console_drain(r->console, DRAIN_NS);
	console_leave(r->console);
	tell_outcome(r, outcome);
	if (r->opts.stats && stats_write(r->opts.stats, r->vm, &r->opts, outcome, status))
		return CLI_ERROR;
	return status;
}

/* The machine first, for it may write to the console until it is gone. */
static void clean_up(struct run *r)
{
	vm_free(r->vm);
	loop_free(r->loop);
	console_free(r->console);
	for (unsigned i = 0; i < r->opts.vm.nr_ports; i++)
		console_free(r->port[i].console);
	run_free_options(&r->opts);
	if (r->signal_fd >= 0)
		close(r->signal_fd);
}

int cli_run(int argc, char **argv)
{
	struct run r = { .signal_fd = -1 };
	int status = CLI_ERROR;

	if (run_parse(&r.opts, argc, argv)) {
		run_free_options(&r.opts);
		return CLI_ERROR;
	}
	if (r.opts.help) {
		run_print_help();
		run_free_options(&r.opts);
		return CLI_OK;
	}
	if (!run_prepare_image(&r.opts) && !prepare(&r) && !start(&r))
		status = finish(&r);
	clean_up(&r);
	if (r.signal)
		die_of_signal(r.signal);
	return status;
}
