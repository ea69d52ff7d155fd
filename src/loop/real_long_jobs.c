/*
 * Long jobs: a thread of the loop's own that does one after the other, at a low priority, so that
 * neither the workers nor the short jobs (reads, that somebody waits for) are held up by them.
 */
#include "loop/real_private.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/processors.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define NICE 10 /* where there are no idle processors, a tenth of what a worker gets */

struct long_job {
    struct list link;
    struct job *job;
    struct post post;
};

struct long_jobs {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct list waiting; /* under the lock */
    bool ending;         /* under the lock */
};

static void job_done(struct post *post)
{
    struct long_job *waiting = CONTAINER_OF(post, struct long_job, post);
    struct job *job = waiting->job;

    job->loop->jobs--;
    free(waiting);
    job->done(job);
}

/* NULL: there will be no more. */
static struct long_job *next(struct long_jobs *jobs)
{
    struct list *link;

    pthread_mutex_lock(&jobs->lock);
    while (!(link = list_take_first(&jobs->waiting)) && !jobs->ending)
        pthread_cond_wait(&jobs->changed, &jobs->lock);
    pthread_mutex_unlock(&jobs->lock);
    return link ? CONTAINER_OF(link, struct long_job, link) : NULL;
}

/* This thread alone, on Linux; where it is refused it is only less polite. The workers may have
 * been given a real-time priority, which what burns must not have. */
static void be_polite(void)
{
    int policy = sched_getscheduler(0);

    if (policy == SCHED_FIFO || policy == SCHED_RR)
        (void)sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    int result = processors_set_slice(0);
    (void)result;
}

static void *work(void *context)
{
    be_polite();
    for (struct long_job *waiting; (waiting = next(context));) {
        struct job *job = waiting->job;
        job->work(job);
        waiting->post.run = job_done;
        loop_post(job->loop, &waiting->post);
    }
    return NULL;
}

int real_long_jobs_start(struct real *real)
{
    if (real->long_jobs)
        return 0;
    struct long_jobs *jobs = memory_new(sizeof *jobs);
    list_init(&jobs->waiting);
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_cond_init(&jobs->changed, NULL);
    if (pthread_create(&jobs->thread, NULL, work, jobs) != 0) {
        pthread_cond_destroy(&jobs->changed);
        pthread_mutex_destroy(&jobs->lock);
        free(jobs);
        return E_LIMIT;
    }
    real->long_jobs = jobs;
    return 0;
}

int real_long_jobs_add(struct real *real, struct job *job)
{
    if (real_long_jobs_start(real) != 0)
        return E_LIMIT;
    struct long_jobs *jobs = real->long_jobs;
    struct long_job *waiting = memory_new(sizeof *waiting);
    waiting->job = job;
    pthread_mutex_lock(&jobs->lock);
    list_append(&jobs->waiting, &waiting->link);
    pthread_cond_signal(&jobs->changed);
    pthread_mutex_unlock(&jobs->lock);
    return 0;
}

void real_long_jobs_end(struct real *real)
{
    struct long_jobs *jobs = real->long_jobs;

    if (!jobs)
        return;
    pthread_mutex_lock(&jobs->lock);
    jobs->ending = true;
    pthread_cond_signal(&jobs->changed);
    pthread_mutex_unlock(&jobs->lock);
    pthread_join(jobs->thread, NULL);
    ASSERT(list_empty(&jobs->waiting));
    pthread_cond_destroy(&jobs->changed);
    pthread_mutex_destroy(&jobs->lock);
    free(jobs);
}
