"""Priorities of messages: x-max-priority, and the 32 of quorum queues; priorities of consumers."""

import amqp
import kombu
import pika
import pytest

from conftest import IS_RABBITMQ, pika_connection
from helpers import fails, wait_for

WORKERS = pytest.mark.parametrize("workers", ["1", "4"])
sluice_only = pytest.mark.skipif(IS_RABBITMQ, reason="RabbitMQ 3.10's quorum queues have none")


def with_workers(workers):
    return {} if IS_RABBITMQ else {"workers": workers}


def publish(channel, queue, *priorities, persistent=True, **properties):
    """A message for each; None: it has none. Its body says which it was, and its priority."""
    for i, priority in enumerate(priorities):
        channel.basic_publish("", queue, f"{i}:{priority}", pika.BasicProperties(
            priority=priority, delivery_mode=2 if persistent else 1, **properties))


def take(channel, queue, count=None):
    """Bodies, without acknowledging."""
    bodies = []
    while count is None or len(bodies) < count:
        method, _, body = channel.basic_get(queue)
        if not method:
            break
        bodies.append((method.delivery_tag, body.decode()))
    return bodies


def bodies(channel, queue):
    return [body for _, body in take(channel, queue)]


def in_order(priorities, level):
    """What those bodies are, highest level first."""
    published = [(level(p), i, p) for i, p in enumerate(priorities)]
    return [f"{i}:{p}" for _, i, p in sorted(published, key=lambda x: (-x[0], x[1]))]


MANY = [None, 3, 0, 9, 1, 9, 255, None, 5, 3, 10, 0, 1, 4, 31, 32, 200, 7, 4]


def classic_level(most):
    return lambda p: min(p or 0, most)


def quorum_level(p):
    return 4 if p is None else min(p, 31)


@WORKERS
@pytest.mark.parametrize("most", [1, 9, 255])
def test_classic(own_broker, workers, most):
    connection = pika_connection(own_broker(settings=with_workers(workers)).port)
    channel = connection.channel()
    channel.confirm_delivery()
    for i in range(4):  # so that one is with another worker than its client
        queue = f"q{i}"
        channel.queue_declare(queue, durable=True, arguments={"x-max-priority": most})
        publish(channel, queue, *MANY, persistent=i % 2 == 0)
        assert bodies(channel, queue) == in_order(MANY, classic_level(most))
    connection.close()


@WORKERS
@sluice_only
def test_quorum(own_broker, workers):
    connection = pika_connection(own_broker(settings=with_workers(workers)).port)
    channel = connection.channel()
    channel.confirm_delivery()
    for i in range(4):
        channel.queue_declare(f"q{i}", durable=True, arguments={"x-queue-type": "quorum"})
        publish(channel, f"q{i}", *MANY)
        assert bodies(channel, f"q{i}") == in_order(MANY, quorum_level)
    connection.close()


def test_without_the_argument_there_are_none(channel, queue):
    publish(channel, queue, *MANY)
    assert bodies(channel, queue) == [f"{i}:{p}" for i, p in enumerate(MANY)]


@pytest.fixture
def prioritized(channel, name):
    made = []

    def make(most=9, **arguments):
        made.append(name())
        channel.queue_declare(made[-1], durable=True, arguments={
            "x-max-priority": most} | {f"x-{k.replace('_', '-')}": v
                                       for k, v in arguments.items()})
        return made[-1]
    yield make
    for queue in made:
        channel.queue_delete(queue)


def test_what_comes_back_goes_to_its_place(channel, prioritized):
    queue = prioritized()
    publish(channel, queue, 1, 5, 1, 5)
    got = take(channel, queue, 3)
    assert [b for _, b in got] == ["1:5", "3:5", "0:1"]
    for tag, _ in reversed(got):
        channel.basic_nack(tag, requeue=True)
    publish(channel, queue, 7, 0)
    assert bodies(channel, queue) == ["0:7", "1:5", "3:5", "0:1", "2:1", "1:0"]


@sluice_only
def test_what_comes_back_to_a_quorum_queue_goes_out_first(channel, name):
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    publish(channel, queue, 1, 5, 1, 5)
    got = take(channel, queue, 3)
    assert [b for _, b in got] == ["1:5", "3:5", "0:1"]
    for tag, _ in reversed(got):
        channel.basic_nack(tag, requeue=True)
    publish(channel, queue, 31)
    assert bodies(channel, queue) == ["0:1", "3:5", "1:5", "0:31", "2:1"]
    channel.queue_delete(queue)


def test_a_limit_drops_from_the_highest(channel, prioritized):
    """The head is that of the highest priority, for RabbitMQ as well."""
    queue = prioritized(max_length=2)
    publish(channel, queue, 1, 5, 3)
    wait_for(lambda: channel.queue_declare(queue, passive=True).method.message_count == 2)
    assert bodies(channel, queue) == ["2:3", "0:1"]


def test_age_counts_at_the_head(channel, prioritized):
    queue = prioritized()
    publish(channel, queue, 1, expiration="100")
    publish(channel, queue, 5)
    channel.connection.sleep(0.5)
    assert channel.queue_declare(queue, passive=True).method.message_count == 2
    tag, body = take(channel, queue, 1)[0]
    assert body == "0:5"
    wait_for(lambda: channel.queue_declare(queue, passive=True).method.message_count == 0)
    channel.basic_ack(tag)


def test_purge_and_reject_publish(channel, prioritized):
    queue = prioritized(max_length=5, overflow="reject-publish")
    channel.confirm_delivery()
    publish(channel, queue, 1, 2, 3, 4, 5)
    with pytest.raises(pika.exceptions.NackError):
        publish(channel, queue, 9)
    assert channel.queue_purge(queue).method.message_count == 5
    publish(channel, queue, 1, 2)
    assert bodies(channel, queue) == ["1:2", "0:1"]


def test_consumers_get_the_highest(channel, prioritized):
    queue = prioritized()
    priorities = [i * 7 % 10 for i in range(200)]
    publish(channel, queue, *priorities)
    channel.basic_qos(prefetch_count=10)
    got = []
    for method, _, body in channel.consume(queue, inactivity_timeout=10):
        got.append(body.decode())
        channel.basic_ack(method.delivery_tag)
        if len(got) == 200:
            break
    channel.cancel()
    assert got == in_order(priorities, classic_level(9))


@WORKERS
@pytest.mark.parametrize("arguments, level", [
    ({"x-max-priority": 9}, classic_level(9)),
    pytest.param({"x-queue-type": "quorum"}, quorum_level, marks=sluice_only)])
@pytest.mark.parametrize("kill", [True, False])
def test_a_restart_keeps_them(own_broker, workers, arguments, level, kill):
    broker = own_broker(settings=with_workers(workers))
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True, arguments=arguments)
    publish(channel, "q", *MANY)
    first = take(channel, "q", 3)
    channel.basic_ack(first[0][0])
    if kill:
        broker.kill()
    else:
        broker.stop()
    broker.start()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    expected = in_order(MANY, level)
    assert [b for _, b in first] == expected[:3]
    got = {}
    for _ in expected:
        method, _, body = channel.basic_get("q")
        if method:
            got[body.decode()] = method.redelivered
    assert list(got) in (expected[1:], expected)  # the acknowledgement may have been lost
    assert got[expected[1]] and got[expected[2]]
    if not kill:
        assert not got[expected[-1]]
    publish(channel, "q", 0, 9)
    assert bodies(channel, "q") == ["1:9", "0:0"]
    connection.close()


@pytest.mark.parametrize("arguments, why", [
    ({"x-max-priority": 256}, "max_value_exceeded"),
    ({"x-max-priority": -1}, "value_negative"),
    ({"x-max-priority": "many"}, "x-max-priority"),
    pytest.param({"x-max-priority": 5, "x-queue-type": "quorum"}, "x-max-priority",
                 marks=sluice_only),
    pytest.param({"x-max-priority": 5, "x-queue-type": "stream"}, "x-max-priority",
                 marks=sluice_only)])
def test_what_it_may_be(connect, name, arguments, why):
    assert why in fails(406, connect().channel().queue_declare, name(), durable=True,
                        arguments=arguments)


def test_0_is_none(channel, prioritized):
    queue = prioritized(most=0)
    publish(channel, queue, 1, 5, 3)
    assert bodies(channel, queue) == ["0:1", "1:5", "2:3"]


def test_declared_again(connect, channel, prioritized):
    queue = prioritized(most=5)
    channel.queue_declare(queue, durable=True, arguments={"x-max-priority": 5})
    for other in ({"x-max-priority": 6}, {}):
        assert "x-max-priority" in fails(406, connect().channel().queue_declare, queue,
                                         durable=True, arguments=other)


def test_kombu(broker, name):
    """As Celery declares its queues with task_queue_max_priority."""
    queue = kombu.Queue(name(), max_priority=10, durable=True)
    with kombu.Connection(f"amqp://guest:guest@127.0.0.1:{broker.port}//") as connection:
        bound = queue(connection.default_channel)
        bound.declare()
        producer = connection.Producer(serializer="json")
        for i, priority in enumerate([0, 3, 9, 3]):
            producer.publish({"i": i}, routing_key=queue.name, priority=priority)
        got = [bound.get(no_ack=True) for _ in range(4)]
        assert [m.payload["i"] for m in got] == [2, 1, 3, 0]
        assert [m.properties["priority"] for m in got] == [9, 3, 3, 0]
        bound.delete()


def test_py_amqp(broker, name):
    with amqp.Connection(f"127.0.0.1:{broker.port}", "guest", "guest") as connection:
        channel, queue = connection.channel(), name()
        channel.queue_declare(queue, arguments={"x-max-priority": 3}, auto_delete=False)
        for i in range(6):
            channel.basic_publish(amqp.Message(str(i), priority=i), routing_key=queue)
        assert [channel.basic_get(queue, no_ack=True).body for _ in range(6)] == [
            "3", "4", "5", "2", "1", "0"]
        channel.queue_delete(queue)


@WORKERS
def test_consumers_of_higher_priority_come_first(own_broker, workers):
    """While one of them has room, the others wait: also when it has room again."""
    port = own_broker(settings=with_workers(workers)).port
    made, seen = [], []
    publisher = pika_connection(port).channel()
    publisher.queue_declare("q")
    for which, priority in (("low", -1), ("none", None), ("high", 10), ("same", 10)):
        connection = pika_connection(port)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=2)
        arguments = {} if priority is None else {"x-priority": priority}
        channel.basic_consume("q", lambda _c, m, _p, b, w=which: seen.append((w, m.delivery_tag)),
                              arguments=arguments)
        made.append((which, connection, channel))

    def look():
        for _, connection, _ in made:
            connection.process_data_events(0)
        return len(seen)

    look()
    for count in range(1, 9):
        publisher.basic_publish("", "q", b"m")
        wait_for(lambda: look() == count)
    who = [which for which, _ in seen]
    assert set(who[:4]) == {"high", "same"} and who[4:] == ["none", "none", "low", "low"]
    high = next(channel for which, _, channel in made if which == "high")
    low = next(channel for which, _, channel in made if which == "low")
    low.basic_ack(2, multiple=True)
    high.basic_ack(1)
    low.connection.process_data_events(0.2)
    high.connection.process_data_events(0.2)
    for count, wanted in ((9, "high"), (10, "low")):
        publisher.basic_publish("", "q", b"m")
        wait_for(lambda: look() == count)
        assert seen[-1][0] == wanted
    for _, connection, _ in made:
        connection.close()
