"""Fixtures: a broker that most tests share, brokers of a test's own, and a pika channel.

SLUICE_TEST_BROKER=rabbitmq runs everything against a private RabbitMQ instead, which tells whether
a test asks for what RabbitMQ does.
"""

import itertools
import os
import signal
import sys

import pika
import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import brokers  # noqa: E402
import raw_amqp  # noqa: E402

IS_RABBITMQ = os.environ.get("SLUICE_TEST_BROKER") == "rabbitmq"
sluice_only = pytest.mark.skipif(IS_RABBITMQ, reason="of sluice alone")


def pytest_configure(config):
    config.addinivalue_line("markers", "sluice_only: asks for what only sluice promises")


def pytest_collection_modifyitems(items):
    for item in items:
        if IS_RABBITMQ and "sluice_only" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="of sluice alone"))


TEST_TIMEOUT_S = int(os.environ.get("SLUICE_TEST_TIMEOUT", "120"))


@pytest.fixture(autouse=True)
def ends_in_time():
    """A client that waits for ever is a failed test, not a hung run."""
    def too_late(_number, _frame):
        raise TimeoutError(f"not done after {TEST_TIMEOUT_S} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(TEST_TIMEOUT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def shared_broker():
    broker = brokers.make()
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
        broker.remove()


@pytest.fixture
def broker(shared_broker):
    """The shared one; it must outlive every test, so a test that ends it has failed."""
    yield shared_broker
    assert shared_broker.process.poll() is None, f"the broker died:\n{shared_broker.log()}"


@pytest.fixture
def own_broker():
    """A function that makes and starts a broker with settings; all are ended after the test."""
    made = []

    def make(start=True, **options):
        broker = brokers.make(**options)
        made.append(broker)
        return broker.start() if start else broker

    yield make
    for broker in made:
        broker.kill()
        broker.remove()


def pika_connection(port, user="guest", password="guest", **options):
    return pika.BlockingConnection(pika.ConnectionParameters(
        "127.0.0.1", port, credentials=pika.PlainCredentials(user, password), **options))


@pytest.fixture
def connect(broker):
    """A function that opens a pika connection to the shared broker."""
    opened = []

    def open_connection(**options):
        opened.append(pika_connection(broker.port, **options))
        return opened[-1]

    yield open_connection
    for connection in opened:
        if connection.is_open:
            connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def raw(broker):
    """A function that opens a raw connection to the shared broker."""
    opened = []

    def open_connection(**options):
        opened.append(raw_amqp.Connection(broker.port, **options))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.close_socket()


numbers = itertools.count(1)


@pytest.fixture
def name(request):
    """A function that makes names nobody else uses: name('q')."""
    return lambda what="q": f"{request.node.name}-{what}-{next(numbers)}"[:200]


@pytest.fixture
def queue(channel, name):
    """A transient queue, deleted with its connection."""
    return channel.queue_declare(name(), exclusive=True).method.queue
