#include "report.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define MIB 1048576.0

/* ---- figures of both reports ---- */

static double per_second(uint64_t count, const struct interval *i)
{
    return i->seconds > 0 ? (double)count / i->seconds : 0;
}

/* What a message is when costs are divided: a delivery where there are consumers. */
static uint64_t messages_of(const struct interval *i)
{
    return i->counts.received ? i->counts.received : i->counts.published;
}

static double broker_cpu_s(const struct interval *i)
{
    return i->broker_user_s + i->broker_system_s;
}

static double generator_cpu_s(const struct options *o, const struct interval *i)
{
    double sum = 0;
    for (uint32_t t = 0; t < o->threads; t++)
        sum += i->thread_s[t];
    return sum;
}

static bool is_void(const struct options *o, const struct interval *i)
{
    return run_generator_share(o, i) > GENERATOR_SHARE_MAX;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* ---- text ---- */

/* 1234567 as "1,234,567". */
static const char *grouped(char text[32], double value)
{
    char digits[32];
    int size = snprintf(digits, sizeof digits, "%.0f", value);
    int to = 0;
    for (int i = 0; i < size && to < 30; i++) {
        if (i > 0 && (size - i) % 3 == 0 && digits[i - 1] != '-')
            text[to++] = ',';
        text[to++] = digits[i];
    }
    text[to] = 0;
    return text;
}

static void print_case(const struct options *o)
{
    printf("%u producer%s, %u consumer%s, %u %s%s, %u B %s", o->producers,
           o->producers == 1 ? "" : "s", o->consumers, o->consumers == 1 ? "" : "s", o->queues,
           o->queues == 1 ? "queue" : "queues", o->fanout ? " behind a fanout" : "", o->size,
           o->persistent ? "persistent" : "transient");
    if (o->queue_type != QUEUE_DEFAULT)
        printf(", %s", queue_type_name(o->queue_type));
    if (o->confirm_window)
        printf(", confirms (window %u)", o->confirm_window);
    if (o->ack_every)
        printf(", acks every %u", o->ack_every);
    else
        printf(", auto-ack");
    if (o->prefetch)
        printf(", prefetch %u", o->prefetch);
    if (o->rate > 0)
        printf(", %.0f/s", o->rate);
    printf("\n");
}

static void print_rate(const char *what, uint64_t count, const struct interval *i)
{
    char rate[32], total[32];
    printf("%-16s %12s /s   %14s in %.2f s\n", what, grouped(rate, per_second(count, i)),
           grouped(total, (double)count), i->seconds);
}

static void print_latency(const char *what, const struct histogram *h)
{
    if (h->count == 0)
        return;
    static const double fractions[] = {0.5, 0.9, 0.99, 0.999};
    printf("%-16s", what);
    static const char *const names[] = {"p50", "p90", "p99", "p99.9"};
    for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++)
        printf(" %s %.1f", names[i], (double)histogram_quantile(h, fractions[i]) / 1000);
    printf(" max %.1f us\n", (double)h->max / 1000);
}

static void print_costs(const struct options *o, const struct interval *i)
{
    char rate[32];
    double cpu = broker_cpu_s(i);
    if (o->broker_pid && i->seconds > 0)
        printf("%-16s %12s messages per CPU second   %.2f CPU s (%.2f user, %.2f system)\n",
               "broker", grouped(rate, ratio((double)messages_of(i), cpu)), cpu, i->broker_user_s,
               i->broker_system_s);
    double own = generator_cpu_s(o, i);
    printf("%-16s %12.3f us CPU per message      busiest thread %.0f %% of a core\n", "generator",
           ratio(own * 1e6, (double)messages_of(i)), run_generator_share(o, i) * 100);
    if (is_void(o, i))
        printf("VOID: a generator thread used over %.0f %% of its core: the generator was "
               "measured\n",
               GENERATOR_SHARE_MAX * 100);
}

static void print_interval(const struct options *o, const struct interval *i)
{
    if (i->counts.published)
        print_rate("published", i->counts.published, i);
    if (i->counts.confirmed)
        print_rate("confirmed", i->counts.confirmed, i);
    if (i->counts.received)
        print_rate("received", i->counts.received, i);
    print_costs(o, i);
}

static void print_memory(const char *what, const struct usage *u)
{
    if (u->processes == 0)
        return;
    printf("memory %-9s %10.1f MiB resident", what, (double)u->resident_bytes / MIB);
    if (u->proportional_bytes)
        printf(", %.1f MiB proportional", (double)u->proportional_bytes / MIB);
    printf("\n");
}

static void print_check(const struct options *o, const struct run_result *r)
{
    if (!run_was_checked(o, r)) {
        printf("check            not done: %s\n",
               r->interrupted ? "interrupted" : "nobody consumed");
        return;
    }
    printf("check            %s: %llu expected, %llu lost, %llu duplicated, %llu reordered, %llu "
           "redelivered, %llu foreign\n",
           run_is_well(o, r) ? "ok" : "FAILED", (unsigned long long)r->check.expected,
           (unsigned long long)r->check.lost, (unsigned long long)r->faults.duplicated,
           (unsigned long long)r->faults.reordered, (unsigned long long)r->faults.redelivered,
           (unsigned long long)r->faults.foreign);
}

void report_text(const struct options *o, const struct run_result *r)
{
    if (o->idle_connections) {
        printf("idle             %u connections opened in %.2f s\n", o->idle_connections,
               r->idle_connect_s);
        double grown =
            (double)r->usage_idle.resident_bytes - (double)r->usage_before.resident_bytes;
        if (o->broker_pid)
            printf("                 %.1f KiB resident per connection\n",
                   grown / o->idle_connections / 1024);
    }
    if (o->producers) {
        print_case(o);
        print_interval(o, &r->measured);
        if (o->backlog) {
            printf("drain\n");
            print_interval(o, &r->drain);
        } else {
            print_latency("latency", &r->latency);
        }
        print_latency("confirm latency", &r->confirm);
        if (o->rate > 0)
            print_latency("own lag", &r->lag);
        if (r->totals.nacked || r->totals.blocked)
            printf("refused          %llu publishes; blocked %llu times\n",
                   (unsigned long long)r->totals.nacked, (unsigned long long)r->totals.blocked);
    }
    print_memory("before", &r->usage_before);
    print_memory("idle", &r->usage_idle);
    print_memory(o->backlog ? "full" : "loaded", &r->usage_measured);
    print_memory("after", &r->usage_after);
    if (o->producers)
        print_check(o, r);
}

/* ---- JSON ---- */

static json_t *json_options(const struct options *o)
{
    return json_pack(
        "{s:i, s:i, s:i, s:b, s:i, s:b, s:b, s:s, s:i, s:i, s:i, s:f, s:I, s:I, s:i, s:i}",
        "producers", (int)o->producers, "consumers", (int)o->consumers, "queues", (int)o->queues,
        "fanout", o->fanout, "size_bytes", (int)o->size, "persistent", o->persistent, "durable",
        o->durable, "queue_type", queue_type_name(o->queue_type), "confirm_window",
        (int)o->confirm_window, "prefetch", (int)o->prefetch, "ack_every", (int)o->ack_every,
        "rate_per_s", o->rate, "messages", (json_int_t)o->messages, "backlog",
        (json_int_t)o->backlog, "idle_connections", (int)o->idle_connections, "threads",
        (int)o->threads);
}

static json_t *json_latency(const struct histogram *h)
{
    if (h->count == 0)
        return json_null();
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "count", (json_int_t)h->count,
                     "min", (double)h->min / 1000, "mean", histogram_mean(h) / 1000, "p50",
                     (double)histogram_quantile(h, 0.5) / 1000, "p90",
                     (double)histogram_quantile(h, 0.9) / 1000, "p99",
                     (double)histogram_quantile(h, 0.99) / 1000, "p99.9",
                     (double)histogram_quantile(h, 0.999) / 1000, "max", (double)h->max / 1000);
}

static json_t *json_usage(const struct usage *u)
{
    if (u->processes == 0)
        return json_null();
    json_t *proportional =
        u->proportional_bytes ? json_integer((json_int_t)u->proportional_bytes) : json_null();
    return json_pack("{s:I, s:o, s:i}", "resident_bytes", (json_int_t)u->resident_bytes,
                     "proportional_bytes", proportional, "processes", (int)u->processes);
}

static json_t *json_broker_cpu(const struct options *o, const struct interval *i)
{
    if (o->broker_pid == 0)
        return json_null();
    double cpu = broker_cpu_s(i);
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "cpu_s", cpu, "user_s", i->broker_user_s,
                     "system_s", i->broker_system_s, "messages_per_cpu_s",
                     ratio((double)messages_of(i), cpu), "cpu_us_per_message",
                     ratio(cpu * 1e6, (double)messages_of(i)));
}

static json_t *json_generator(const struct options *o, const struct interval *i)
{
    double own = generator_cpu_s(o, i);
    return json_pack("{s:f, s:f, s:f}", "cpu_s", own, "cpu_us_per_message",
                     ratio(own * 1e6, (double)messages_of(i)), "busiest_thread_share",
                     run_generator_share(o, i));
}

static json_t *json_interval(const struct options *o, const struct interval *i)
{
    if (i->seconds <= 0)
        return json_null();
    const struct traffic_counts *c = &i->counts;
    return json_pack("{s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:o, s:o, s:b}", "seconds",
                     i->seconds, "published", (json_int_t)c->published, "confirmed",
                     (json_int_t)c->confirmed, "nacked", (json_int_t)c->nacked, "received",
                     (json_int_t)c->received, "published_per_s", per_second(c->published, i),
                     "confirmed_per_s", per_second(c->confirmed, i), "received_per_s",
                     per_second(c->received, i), "received_bytes_per_s",
                     per_second(c->received, i) * o->size, "broker", json_broker_cpu(o, i),
                     "generator", json_generator(o, i), "void", is_void(o, i));
}

static json_t *json_course(const struct run_result *r)
{
    json_t *course = json_array();
    for (size_t i = 0; i < r->course_count; i++) {
        const struct course_point *p = &r->course[i];
        json_t *point =
            json_pack("{s:f, s:f, s:f, s:f, s:I}", "at_s", p->at_s, "published_per_s",
                      p->published_per_s, "received_per_s", p->received_per_s, "confirmed_per_s",
                      p->confirmed_per_s, "resident_bytes", (json_int_t)p->resident_bytes);
        json_array_append_new(course, point);
    }
    return course;
}

static json_t *json_check(const struct options *o, const struct run_result *r)
{
    if (!run_was_checked(o, r))
        return json_null();
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "ok", run_is_well(o, r), "expected",
                     (json_int_t)r->check.expected, "lost", (json_int_t)r->check.lost, "duplicated",
                     (json_int_t)r->faults.duplicated, "reordered", (json_int_t)r->faults.reordered,
                     "redelivered", (json_int_t)r->faults.redelivered, "foreign",
                     (json_int_t)r->faults.foreign);
}

static json_t *json_memory(const struct run_result *r)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:I}", "before", json_usage(&r->usage_before), "idle",
                     json_usage(&r->usage_idle), "loaded", json_usage(&r->usage_measured), "after",
                     json_usage(&r->usage_after), "resident_peak_bytes",
                     (json_int_t)r->resident_peak_bytes);
}

static json_t *json_of(const struct options *o, const struct run_result *r)
{
    bool voided = is_void(o, &r->measured) || is_void(o, &r->drain);
    json_t *idle = o->idle_connections
                       ? json_pack("{s:i, s:f}", "connections", (int)o->idle_connections,
                                   "connect_s", r->idle_connect_s)
                       : json_null();
    return json_pack("{s:s, s:o, s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o}",
                     "version", SLUICE_VERSION, "options", json_options(o), "void", voided,
                     "interrupted", r->interrupted, "measured", json_interval(o, &r->measured),
                     "drain", json_interval(o, &r->drain), "latency_us", json_latency(&r->latency),
                     "confirm_latency_us", json_latency(&r->confirm), "own_lag_us",
                     json_latency(&r->lag), "nacked", (json_int_t)r->totals.nacked, "blocked",
                     (json_int_t)r->totals.blocked, "memory", json_memory(r), "idle", idle, "check",
                     json_check(o, r), "course", json_course(r));
}

int report_json(const struct options *o, const struct run_result *r, const char *file,
                struct failure *failure)
{
    json_t *json = json_of(o, r);
    if (!json)
        return fail(failure, E_MEMORY, "cannot build the JSON report");
    size_t flags = JSON_INDENT(2) | JSON_REAL_PRECISION(9);
    int failed;
    if (strcmp(file, "-") == 0) {
        failed = json_dumpf(json, stdout, flags);
        printf("\n");
        failed |= fflush(stdout);
    } else {
        failed = json_dump_file(json, file, flags);
    }
    json_decref(json);
    return failed ? fail(failure, E_IO, "cannot write the JSON report to %s", file) : 0;
}
