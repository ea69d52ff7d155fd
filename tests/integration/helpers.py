"""What several test files need."""

import time

import pika
import pytest


def wait_for(condition, timeout=10, interval=0.01):
    """Until condition() is true; returns what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(interval)


def get_all(channel, queue):
    """The bodies of what is ready, taken and acknowledged."""
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return bodies
        bodies.append(body.decode())


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def drop(connection, channel, *queues):
    for queue in queues:
        channel.queue_delete(queue)


def fails(code, function, *arguments, **options):
    """Calls, and expects the channel to be closed with that code. Returns the text."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        function(*arguments, **options)
    assert caught.value.reply_code == code, caught.value
    return caught.value.reply_text
