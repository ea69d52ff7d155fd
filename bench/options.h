/*
 * What the command line asks for. Parsed once, constant afterwards. Texts are borrowed from argv.
 */
#ifndef SLUICE_BENCH_OPTIONS_H
#define SLUICE_BENCH_OPTIONS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define PRODUCERS_MAX        65535u
#define CONSUMERS_MAX        65535u
#define QUEUES_MAX           99999u
#define THREADS_MAX          64u
#define MESSAGE_SIZE_MIN     16u /* sequence number and time stamp */
#define MESSAGE_SIZE_MAX     (512u << 20)
#define CONFIRM_WINDOW_MAX   (1u << 24)
#define IDLE_CONNECTIONS_MAX 1000000u
#define TEXT_PART_SIZE       256

enum queue_type { QUEUE_DEFAULT, QUEUE_CLASSIC, QUEUE_QUORUM, QUEUE_STREAM };

/* What the null server does wrong on purpose, once, to show that the check sees it. */
enum null_fault { FAULT_NONE, FAULT_DROP, FAULT_DUPLICATE, FAULT_REORDER };

/* amqp://user:password@host:port/vhost, percent-decoded; what is missing is guest, guest,
 * 127.0.0.1, 5672 and "/". */
struct uri {
    char user[TEXT_PART_SIZE];
    char password[TEXT_PART_SIZE];
    char host[TEXT_PART_SIZE];
    char port[8];
    char vhost[TEXT_PART_SIZE];
};

struct options {
    const char *uri_text;
    struct uri uri;
    uint32_t producers;
    uint32_t consumers;
    uint32_t queues; /* with fanout: as many as it says */
    bool fanout;
    uint32_t size; /* body bytes */
    bool persistent;
    bool durable;
    enum queue_type queue_type;
    const char *queue_prefix;
    bool keep;               /* leave the queues behind */
    uint32_t confirm_window; /* 0: no confirms */
    uint32_t prefetch;       /* 0: no limit */
    uint32_t ack_every;      /* 0: auto-ack */
    double rate;             /* all producers together, a second; 0: as fast as it goes */
    uint64_t duration_ms;
    uint64_t messages; /* all producers together; 0: the duration decides */
    uint64_t warmup_ms;
    uint64_t drain_timeout_ms; /* without any progress */
    uint64_t backlog;          /* 0: the usual run */
    uint32_t idle_connections;
    uint32_t threads;
    const char *json; /* file name or "-"; NULL: none */
    int broker_pid;   /* 0: none */
    bool quiet;
    uint16_t null_port; /* with null_server; 0: any free one */
    bool null_server;
    enum null_fault null_fault;
    uint64_t null_fault_at;
};

/* What to do after parsing. */
enum options_action { OPTIONS_RUN, OPTIONS_DONE, OPTIONS_WRONG };

/* OPTIONS_DONE: help or version was printed. OPTIONS_WRONG: what is wrong was printed to standard
 * error. */
enum options_action options_parse(struct options *options, int argc, char **argv) MUST_CHECK;

/* E_INVALID with the cause. */
int uri_parse(struct uri *uri, const char *text, struct failure *failure) MUST_CHECK;

/* "classic", ...; "default" for none. */
const char *queue_type_name(enum queue_type type);

#endif
