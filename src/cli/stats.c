/*
 * --stats: one JSON object about a finished run. trapeze(1) describes its fields.
 */
#include "cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"

static void set_int(json_t *o, const char *key, uint64_t value)
{
	json_object_set_new(o, key, json_integer((json_int_t)value));
}

static void set_seconds(json_t *o, const char *key, double value)
{
	json_object_set_new(o, key, json_real(value));
}

static double timeval_seconds(struct timeval tv)
{
	return (double)tv.tv_sec + (double)tv.tv_usec / 1e6;
}

static json_t *exits_to_json(const struct vm_stats *s)
{
	json_t *o = json_object();

	for (int r = EXIT_NONE + 1; r < EXIT_REASONS; r++)
		set_int(o, vm_exit_name((enum exit_reason)r), s->exits[r]);
	return o;
}

/* By vector, those that happened. */
static json_t *exceptions_to_json(const struct vm_stats *s)
{
	json_t *o = json_object();
	char vector[16];

	for (size_t v = 0; v < ARRAY_SIZE(s->exceptions); v++) {
		if (!s->exceptions[v])
			continue;
		snprintf(vector, sizeof(vector), "%zu", v);
		set_int(o, vector, s->exceptions[v]);
	}
	return o;
}

static void add_machine(json_t *o, const struct run_options *opts)
{
	json_object_set_new(o, "version", json_string(TRAPEZE_VERSION));
	json_object_set_new(o, "engine", json_string(opts->vm.engine->name));
	set_int(o, "vcpus", opts->vm.vcpus);
	set_int(o, "memory_bytes", opts->vm.memory);
}

static void add_outcome(json_t *o, const struct vm *vm, enum vm_outcome outcome, int status)
{
	const char *reason = vm_reason(vm);

	json_object_set_new(o, "outcome", json_string(vm_outcome_name(outcome)));
	json_object_set_new(o, "reason", json_string(reason ? reason : ""));
	set_int(o, "status", (uint64_t)status);
}

static void add_time(json_t *o, const struct vm_stats *s)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	set_seconds(o, "wall_seconds", (double)s->run_ns / 1e9);
	set_seconds(o, "cpu_user_seconds", timeval_seconds(usage.ru_utime));
	set_seconds(o, "cpu_system_seconds", timeval_seconds(usage.ru_stime));
	if (s->user_ns)
		set_seconds(o, "first_user_seconds", (double)s->user_ns / 1e9);
	else
		json_object_set_new(o, "first_user_seconds", json_null());
}

static json_t *balloon_to_json(const struct vm_stats *s)
{
	json_t *o = json_object();

	set_int(o, "bytes", s->balloon_bytes);
	set_int(o, "reported_bytes", s->reported_bytes);
	if (s->guest_free != UINT64_MAX)
		set_int(o, "guest_free_bytes", s->guest_free);
	if (s->guest_available != UINT64_MAX)
		set_int(o, "guest_available_bytes", s->guest_available);
	return o;
}

static void add_counts(json_t *o, const struct vm_stats *s)
{
	set_int(o, "instructions", s->insns);
	set_int(o, "blocks_decoded", s->blocks);
	set_int(o, "tlb_misses", s->tlb_misses);
	set_int(o, "interrupts", s->interrupts);
	set_int(o, "reboots", s->reboots);
	set_int(o, "guest_resident_bytes", s->guest_resident);
	if (s->balloon)
		json_object_set_new(o, "balloon", balloon_to_json(s));
	set_int(o, "host_resident_bytes", s->host_resident);
	json_object_set_new(o, "exits", exits_to_json(s));
	set_int(o, "kernel_doorbells", s->kernel_doorbells);
	set_int(o, "kernel_messages", s->kernel_messages);
	json_object_set_new(o, "exceptions", exceptions_to_json(s));
}

/* Adds to a member, in a member object if a group is named. */
static void add_counter(void *opaque, const char *group, const char *name, uint64_t n)
{
	json_t *o = opaque, *in;

	if (group) {
		in = json_object_get(o, group);
		if (!in)
			json_object_set_new(o, group, in = json_object());
		o = in;
	}
	set_int(o, name, (uint64_t)json_integer_value(json_object_get(o, name)) + n);
}

static void add_engine(json_t *o, struct vm *vm)
{
	json_t *counters = json_object();

	vm_count(vm, add_counter, counters);
	json_object_set_new(o, "engine_counters", counters);
}

static char *run_to_text(struct vm *vm, const struct run_options *opts, enum vm_outcome outcome,
                         int status)
{
	json_t *o = json_object();
	struct vm_stats s;
	char *text;

	vm_get_stats(vm, &s);
	add_machine(o, opts);
	add_outcome(o, vm, outcome, status);
	add_time(o, &s);
	add_counts(o, &s);
	add_engine(o, vm);
	text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	json_decref(o);
	return text;
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* A full disk may show at write(), fsync() or close(): each is asked. */
static int write_file(const char *path, int flags, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | flags, 0666);
	int rc;

	if (fd < 0)
		return -errno;
	rc = write_all(fd, text, strlen(text));
	if (!rc)
		rc = write_all(fd, "\n", 1);
	/* Pipes and terminals cannot be synced (EINVAL), and need not be. */
	if (!rc && fsync(fd) && errno != EINVAL && errno != EROFS)
		rc = -errno;
	if (close(fd) && !rc)
		rc = -errno;
	return rc;
}

/* Beside the file first, then over it: readers see the old one or the whole new one. */
static int replace_file(const char *path, const char *text)
{
	char *temp;
	int rc;

	if (asprintf(&temp, "%s.%d.tmp", path, (int)getpid()) < 0)
		return -ENOMEM;
	rc = write_file(temp, O_CREAT | O_EXCL, text);
	if (!rc && rename(temp, path))
		rc = -errno;
	if (rc && rc != -EEXIST)
		unlink(temp);
	free(temp);
	return rc;
}

/* A pipe, a device, and names such as /dev/stdout are written to; only what is a plain file in its
 * own right, or does not exist, may be replaced. */
static bool is_special(const char *path)
{
	struct stat st;

	return !lstat(path, &st) && !S_ISREG(st.st_mode);
}

static int check_folder(const char *path)
{
	char *copy = strdup(path);
	int rc;

	if (!copy)
		return -ENOMEM;
	rc = access(dirname(copy), W_OK | X_OK) ? -errno : 0;
	free(copy);
	return rc;
}

int stats_prepare(const char *path)
{
	struct stat st;
	int rc;

	if (!stat(path, &st) && S_ISDIR(st.st_mode))
		rc = -EISDIR;
	else if (is_special(path))
		rc = access(path, W_OK) ? -errno : 0;
	else
		rc = check_folder(path);
	if (rc)
		log_error("--stats %s: %s", path, strerror(-rc));
	return rc;
}

int stats_write(const char *path, struct vm *vm, const struct run_options *opts,
                enum vm_outcome outcome, int status)
{
	char *text = run_to_text(vm, opts, outcome, status);
	int rc = -ENOMEM;

	if (text)
		rc = is_special(path) ? write_file(path, O_APPEND, text) : replace_file(path, text);
	if (rc)
		log_error("--stats %s: %s", path, strerror(-rc));
	free(text);
	return rc;
}
