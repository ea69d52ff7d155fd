"""Celery: a worker with results, retries, late acknowledgement, and one worker that is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture
def celery_broker(own_broker):
    return own_broker()


@pytest.fixture
def tasks(celery_broker, monkeypatch):
    """The application's module, as the sender sees it."""
    monkeypatch.setenv("TEST_BROKER_URL", f"amqp://guest:guest@127.0.0.1:{celery_broker.port}//")
    monkeypatch.syspath_prepend(os.path.join(HERE, "celery_app"))
    sys.modules.pop("tasks", None)
    import tasks as module
    yield module
    module.app.close()
    sys.modules.pop("tasks", None)


@pytest.fixture
def worker(celery_broker, tasks):
    """A function that starts a worker; all are ended after the test."""
    started = []

    def start(name):
        log = open(os.path.join(celery_broker.directory, f"{name}.txt"), "wb")
        started.append(subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-n", f"{name}@test",
             "--concurrency=2", "--loglevel=INFO"],
            cwd=os.path.join(HERE, "celery_app"), stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
            env=dict(os.environ, C_FORCE_ROOT="1", PYTHONDONTWRITEBYTECODE="1")))
        log.close()
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_results_and_retries(worker, tasks):
    worker("one")
    results = [tasks.add.delay(i, i) for i in range(100)]
    retried = [tasks.fails_twice.delay(i) for i in range(5)]
    failed = tasks.fails.delay("on purpose")
    assert [r.get(timeout=60) for r in results] == [2 * i for i in range(100)]
    assert [tuple(r.get(timeout=60)) for r in retried] == [(i, 2) for i in range(5)]
    with pytest.raises(ValueError, match="on purpose"):
        failed.get(timeout=30)


def test_countdown(worker, tasks):
    worker("one")
    started = time.monotonic()
    assert tasks.add.apply_async((1, 2), countdown=1).get(timeout=30) == 3
    assert time.monotonic() - started > 0.9


def test_control(worker, tasks):
    """The remote control: exchanges of type fanout, reply queues, ping and statistics."""
    worker("one")
    assert tasks.add.delay(1, 1).get(timeout=60) == 2
    replies = tasks.app.control.ping(timeout=5)
    assert replies == [{"one@test": {"ok": "pong"}}]
    inspect = tasks.app.control.inspect(timeout=5)
    assert "tasks.add" in inspect.registered()["one@test"]


def test_one_worker_killed(worker, tasks):
    """What the dead worker had taken is done by the other."""
    first = worker("first")
    assert tasks.add.delay(0, 0).get(timeout=60) == 0
    results = [tasks.slowly.delay(i, 0.05) for i in range(100)]
    results[3].get(timeout=60)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    worker("second")
    assert [r.get(timeout=60) for r in results] == list(range(100))
