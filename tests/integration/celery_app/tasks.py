"""The Celery application of test_celery.py."""

import os
import time

import celery

app = celery.Celery("tasks", broker=os.environ["TEST_BROKER_URL"], backend="rpc://")
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=4,
                result_expires=60, broker_connection_retry_on_startup=True,
                broker_transport_options={"confirm_publish": True})


@app.task
def add(x, y):
    return x + y


@app.task
def slowly(x, seconds):
    time.sleep(seconds)
    return x


@app.task(bind=True, max_retries=3, default_retry_delay=0.1)
def fails_twice(self, x):
    if self.request.retries < 2:
        raise self.retry(exc=RuntimeError("not yet"))
    return x, self.request.retries


@app.task(autoretry_for=(), max_retries=0)
def fails(text):
    raise ValueError(text)
