"""Queues of type quorum: how often a message has come back, and how often it may."""

import pika
import pytest

from helpers import wait_for

QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture
def quorum(channel, name):
    """Makes a quorum queue with these arguments besides; deleted at the end."""
    made = []

    def make(**arguments):
        queue = name()
        channel.queue_declare(queue, durable=True,
                              arguments=QUORUM | {f"x-{k.replace('_', '-')}": v
                                                  for k, v in arguments.items()})
        made.append(queue)
        return queue
    yield make
    for queue in made:
        channel.queue_delete(queue)


def get(channel, queue):
    method, properties, body = channel.basic_get(queue)
    return method and (method, properties.headers, body)


def count(headers):
    return (headers or {}).get("x-delivery-count")


@pytest.mark.parametrize("size", [1, 200_000])
def test_the_count_is_told_and_grows_with_rejections_alone(channel, quorum, size):
    queue = quorum()
    channel.basic_publish("", queue, b"b" * size, pika.BasicProperties(headers={"mine": "m"}))
    for times in range(4):
        method, headers, body = get(channel, queue)
        assert (count(headers) or 0) == times and headers["mine"] == "m" and body == b"b" * size
        assert method.redelivered == (times > 0)
        channel.basic_reject(method.delivery_tag, requeue=True)
    method, headers, _ = get(channel, queue)
    channel.basic_nack(method.delivery_tag, requeue=True)
    method, headers, _ = get(channel, queue)
    assert count(headers) == 4
    channel.basic_ack(method.delivery_tag)


def test_a_connection_that_is_lost_counts(connect, channel, quorum):
    queue = quorum()
    channel.basic_publish("", queue, b"m")
    for _ in range(2):
        other = connect()
        assert get(other.channel(), queue)
        other.close()
        wait_for(lambda: channel.queue_declare(queue, passive=True).method.message_count == 1)
    assert count(get(channel, queue)[1]) == 2


def test_consumers_are_told_too(connect, channel, quorum):
    queue = quorum()
    channel.basic_publish("", queue, b"m")
    seen, consumer = [], connect().channel()

    def take(_channel, method, properties, _body):
        seen.append(count(properties.headers))
        if len(seen) < 4:
            consumer.basic_reject(method.delivery_tag, requeue=True)
    consumer.basic_consume(queue, take)
    wait_for(lambda: consumer.connection.process_data_events(0) or len(seen) == 4)
    assert seen == [None, 1, 2, 3]


def test_after_the_limit_it_dies(channel, quorum, queue):
    source = quorum(delivery_limit=2, dead_letter_exchange="", dead_letter_routing_key=queue)
    channel.basic_publish("", source, b"m")
    for _ in range(3):
        method, _, _ = get(channel, source)
        channel.basic_reject(method.delivery_tag, requeue=True)
    wait_for(lambda: channel.queue_declare(queue, passive=True).method.message_count == 1)
    assert get(channel, source) is None
    _, headers, body = get(channel, queue)
    assert body == b"m" and headers["x-death"][0]["reason"] == "delivery_limit"


def test_twenty_returns_are_the_limit_when_none_is_given(channel, quorum):
    queue = quorum()
    channel.basic_publish("", queue, b"m")
    for _ in range(21):
        channel.basic_reject(get(channel, queue)[0].delivery_tag, requeue=True)
    assert get(channel, queue) is None


def test_classic_queues_do_not_tell(channel, queue):
    channel.basic_publish("", queue, b"m")
    channel.basic_reject(get(channel, queue)[0].delivery_tag, requeue=True)
    method, headers, _ = get(channel, queue)
    assert method.redelivered and count(headers) is None
