"""Single active consumer: one gets all messages, in order, until it leaves; then the next in line."""

import pytest

from helpers import fails, wait_for

ONE = {"x-single-active-consumer": True}


class Reader:
    """A consumer on a connection of its own, which acknowledges all it gets."""

    def __init__(self, connection, queue, **options):
        self.connection, self.bodies = connection, []
        self.channel = connection.channel()
        self.channel.basic_qos(prefetch_count=2)
        self.tag = self.channel.basic_consume(queue, self.take, **options)

    def take(self, channel, method, _properties, body):
        self.bodies.append(int(body))
        channel.basic_ack(method.delivery_tag)

    def has(self, *bodies):
        self.connection.process_data_events(0)
        return self.bodies == list(bodies)


@pytest.fixture
def one_queue(channel, name):
    queue = name()
    channel.queue_declare(queue, arguments=ONE)
    yield queue
    channel.queue_delete(queue)


def publish(channel, queue, *bodies):
    for body in bodies:
        channel.basic_publish("", queue, b"%d" % body)


def test_the_first_gets_all_until_it_leaves(connect, channel, one_queue):
    first, second, third = (Reader(connect(), one_queue) for _ in range(3))
    publish(channel, one_queue, *range(10))
    wait_for(lambda: first.has(*range(10)))
    assert second.has() and third.has()
    first.channel.basic_cancel(first.tag)
    publish(channel, one_queue, 10, 11)
    wait_for(lambda: second.has(10, 11))
    assert third.has()
    second.connection.close()
    publish(channel, one_queue, 12)
    wait_for(lambda: third.has(12))
    fourth = Reader(connect(), one_queue)
    third.channel.close()
    publish(channel, one_queue, 13)
    wait_for(lambda: fourth.has(13))


@pytest.mark.parametrize("leave", ["channel", "connection"])
def test_what_the_one_had_not_acknowledged_goes_to_the_next_first(raw, connect, channel, one_queue,
                                                                  leave):
    """Unless it is cancelled, as pika does when it closes: then it leaves before it gives back."""
    silent = raw()
    silent.open()
    silent.call(1, "basic.qos", prefetch_count=10)
    silent.call(1, "basic.consume", queue=one_queue, consumer_tag="silent")
    publish(channel, one_queue, *range(20))
    next_one = Reader(connect(), one_queue)
    for _ in range(10):
        silent.next("basic.deliver")
    assert next_one.has()
    if leave == "channel":
        silent.call(1, "channel.close", code=200, text="bye")
    else:
        silent.close_socket()
    wait_for(lambda: next_one.has(*range(20)))


def test_credit_of_those_in_line_moves_nobody_forward(connect, channel, one_queue):
    first = Reader(connect(), one_queue)
    second, third = Reader(connect(), one_queue), Reader(connect(), one_queue)
    second.channel.basic_qos(prefetch_count=5)
    first.connection.close()
    publish(channel, one_queue, *range(5))
    wait_for(lambda: second.has(*range(5)))
    assert third.has()


def test_the_next_has_the_highest_priority(connect, channel, one_queue):
    first = Reader(connect(), one_queue)
    low = Reader(connect(), one_queue, arguments={"x-priority": 1})
    high = Reader(connect(), one_queue, arguments={"x-priority": 2})
    publish(channel, one_queue, 1)
    wait_for(lambda: first.has(1))
    first.connection.close()
    publish(channel, one_queue, 2)
    wait_for(lambda: high.has(2))
    assert low.has()


def test_exclusive_consumers_are_refused(connect, one_queue):
    assert "in exclusive use" in fails(403, connect().channel().basic_consume, one_queue,
                                       lambda *_: None, exclusive=True)
