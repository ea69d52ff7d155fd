/*
 * What local.c (requests, threads, completions: the loop's side) and local_files.c (system calls:
 * the threads' side) share.
 *
 * `meta` is
 *
 *      offset size
 *           0    8  "SLUICEM" and the format's version, '1'
 *           8    8  version of the value, little-endian
 *          16    4  size of the value, little-endian
 *          20    4  CRC32C of bytes 8..20 and the value, little-endian
 *          24       the value
 *
 * and is replaced as: write and fsync `meta.new`, rename it, fsync the directory.
 */
#ifndef SLUICE_STORE_LOCAL_PRIVATE_H
#define SLUICE_STORE_LOCAL_PRIVATE_H

#include "store/local/local.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#define META_NAME      "meta"
#define META_HEAD_SIZE 24

/* A file that is open once or more. The end is moved by the thread that writes, and read by those
 * that read. */
struct local_file {
    struct list link;
    unsigned handles;
    bool is_keepers; /* a seal is with the keeper: what is asked after it goes there, too */
    _Atomic uint64_t end;
    _Atomic bool is_sealed;
    char name[STORE_NAME_MAX + 1];
};

struct store_file {
    struct list link;
    struct local_file *file;
    int descriptor;
    bool direct;
    unsigned pending;            /* requests, without a close */
    struct store_request *close; /* waits for them */
};

/* A thread and what it has to do. */
struct lane {
    struct local_store *store;
    pthread_t thread;
    pthread_mutex_t mutex;
    struct list requests;
    sem_t waiting; /* as many as there are requests, and one more to stop */
};

enum { LANE_WRITER, LANE_KEEPER, LANES };

struct local_store {
    struct store store;
    char *directory;
    int lock;
    uint64_t meta_version; /* the keeper's; before it runs, of opening */
    struct list files;
    struct list handles;
    struct lane lanes[LANES];

    struct list reads; /* waiting for a helper */
    unsigned reads_running;
    struct timer reads_retry;

    size_t outstanding;
    pthread_mutex_t finished_mutex;
    struct list finished;
    bool is_posted;
    struct post post;

    uint64_t free_asked_ns;
    uint64_t free_bytes;
};

/* ---- local_files.c: on a thread or a helper; each returns the request's result ---- */

int local_create(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_open(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_write(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_sync(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_write_sync(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_read(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_truncate(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_seal(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_close(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_remove(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_list(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_meta_read(struct local_store *s, struct store_request *request) MUST_CHECK;
int local_meta_write(struct local_store *s, struct store_request *request) MUST_CHECK;

/* One level; the parent is synced. What is there stays. */
int local_make_directory(const char *directory, struct failure *failure) MUST_CHECK;

/* At start: makes and locks the directory, reads the metadata's version. */
int local_prepare(struct local_store *s, struct failure *failure) MUST_CHECK;

#endif
