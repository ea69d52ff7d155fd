"""Messages that come back after a delay: x-delayed-retry-..., as in RabbitMQ 4.3, and what is added to it."""

import time

import pika
import pytest

from conftest import pika_connection
from helpers import fails, wait_for
from test_delay import wait_here

pytestmark = pytest.mark.sluice_only


def declare(channel, name, **arguments):
    return channel.queue_declare(name, durable=True, arguments={
        "x-queue-type": "quorum", **{"x-" + key.replace("_", "-"): value for key, value in arguments.items()}}).method.queue


def refuse_all(connection, queue, settle):
    """Returns what comes to a list of (seconds since the one before, method, properties)."""
    channel = connection.channel()
    seen, last = [], [time.monotonic()]

    def on_message(_channel, method, properties, _body):
        seen.append((time.monotonic() - last[0], method, properties))
        last[0] = time.monotonic()
        settle(channel, method)

    channel.basic_consume(queue, on_message)
    return seen


def reject(channel, method):
    channel.basic_reject(method.delivery_tag, requeue=True)


def nack(channel, method):
    channel.basic_nack(method.delivery_tag, requeue=True)


@pytest.mark.parametrize("workers", ["1", "4"])
def test_attempts_wait_longer_and_then_die(own_broker, workers):
    connection = pika_connection(own_broker(settings={"workers": workers}).port)
    channel = connection.channel()
    for n in range(4):
        channel.queue_declare(f"dead{n}", durable=True)
        queue = declare(channel, f"q{n}", delayed_retry_type="all", delayed_retry_min=100, delayed_retry_max=250,
                        delivery_limit=4, dead_letter_exchange="", dead_letter_routing_key=f"dead{n}")
        seen = refuse_all(connection, queue, reject)
        channel.basic_publish("", queue, b"poison", pika.BasicProperties(delivery_mode=2))
        wait_here(connection, lambda: len(seen) == 5)
        waits = [wait for wait, *_ in seen[1:]]
        for wait, least in zip(waits, (0.1, 0.2, 0.25, 0.25)):
            assert least - 0.02 <= wait < least + 0.3
        assert [(properties.headers or {}).get("x-delivery-count", 0) for *_, properties in seen] == [0, 1, 2, 3, 4]
        wait_for(lambda: channel.queue_declare(f"dead{n}", passive=True).method.message_count == 1)
        _, properties, _ = channel.basic_get(f"dead{n}", auto_ack=True)
        assert properties.headers["x-death"][0]["reason"] == "delivery_limit"
    connection.close()


@pytest.mark.parametrize("which, settle, waits", [
    ("failed", reject, True), ("failed", nack, False), ("returned", nack, True), ("returned", reject, False),
    ("all", nack, True), ("disabled", reject, False)])
def test_which_returns_wait(connection, channel, name, which, settle, waits):
    queue = declare(channel, name(), delayed_retry_type=which, delayed_retry_min=200)
    try:
        seen = refuse_all(connection, queue, settle)
        channel.basic_publish("", queue, b"x")
        wait_here(connection, lambda: len(seen) >= 3)
        assert all((wait >= 0.18) == waits for wait, *_ in seen[1:3])
    finally:
        connection.channel().queue_delete(queue)


@pytest.mark.parametrize("more, expected", [
    ({"delayed_retry_backoff": "exponential", "delayed_retry_min": 50, "delayed_retry_max": 10000}, (0.05, 0.1, 0.2, 0.4)),
    ({"delayed_retry_steps": [20, 300, 100]}, (0.02, 0.3, 0.1, 0.1)),
    ({"delayed_retry_steps": [20, 300, 100], "delayed_retry_max": 150}, (0.02, 0.15, 0.1, 0.1))])
def test_other_ways_to_wait(connection, channel, name, more, expected):
    queue = declare(channel, name(), delayed_retry_type="all", **more)
    try:
        seen = refuse_all(connection, queue, reject)
        channel.basic_publish("", queue, b"x")
        wait_here(connection, lambda: len(seen) >= 5)
        for (wait, *_), least in zip(seen[1:], expected):
            assert least - 0.02 <= wait < least + 0.2
    finally:
        connection.channel().queue_delete(queue)


def test_a_lost_channel_is_an_attempt(connection, channel, name):
    queue = declare(channel, name(), delayed_retry_type="failed", delayed_retry_min=300)
    try:
        channel.basic_publish("", queue, b"x")
        lost = connection.channel()
        wait_for(lambda: lost.basic_get(queue)[0])
        lost.close()
        start = time.monotonic()
        _, properties, _ = wait_for(lambda: (lambda got: got[0] and got)(channel.basic_get(queue)))
        assert time.monotonic() - start >= 0.25
        assert properties.headers["x-delivery-count"] == 1
    finally:
        connection.channel().queue_delete(queue)


def test_one_that_was_put_off_survives(own_broker):
    broker = own_broker()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    queue = declare(channel, "q", delayed_retry_type="all", delayed_retry_min=3000)
    channel.basic_publish("", queue, b"x", pika.BasicProperties(delivery_mode=2))
    method, _, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=True)
    start = time.monotonic()
    channel.basic_publish("", queue, b"behind it", pika.BasicProperties(delivery_mode=2))
    connection.close()
    broker.kill()
    broker.start()
    channel = pika_connection(broker.port).channel()
    assert channel.basic_get(queue, auto_ack=True)[2] == b"behind it"
    method, properties, body = wait_for(lambda: (lambda got: got[0] and got)(channel.basic_get(queue)))
    assert body == b"x" and method.redelivered and properties.headers["x-delivery-count"] == 1
    assert time.monotonic() - start >= 2.9


def test_what_is_refused(connect, name):
    for arguments, text in (
            ({"delayed_retry_jitter": 101}, "{value_too_large,101}"),
            ({"delayed_retry_backoff": "square"}, "invalid_backoff"),
            ({"delayed_retry_steps": [1] * 9}, "more than 8 steps"),
            ({"delayed_retry_steps": [1, -1]}, "{value_negative,-1}"),
            ({"delayed_retry_steps": 5}, "unacceptable_type"),
            ({"queue_type": "classic", "delayed_retry_type": "all"}, "of queue type classic")):
        assert text in fails(406, declare, connect().channel(), name(), **arguments)
