"""Declaring, deleting, purging; exclusive, auto-delete, expiring and server-named queues."""

import time

import pika
import pytest

from helpers import fails, get_all, ready, wait_for


def is_there(connection, queue):
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
        channel.close()
        return True
    except pika.exceptions.ChannelClosedByBroker as closed:
        assert closed.reply_code == 404
        return False


def test_server_named(channel):
    a = channel.queue_declare("", exclusive=True).method.queue
    b = channel.queue_declare("", exclusive=True).method.queue
    assert a.startswith("amq.gen-") and b.startswith("amq.gen-") and a != b
    channel.basic_publish("", b, b"m")
    assert get_all(channel, b) == ["m"]


def test_last_declared_queue_is_meant_by_an_empty_name(raw, name):
    connection = raw()
    connection.open(1)
    connection.open(2)
    queue = connection.call(1, "queue.declare", exclusive=True).queue
    connection.publish(1, routing_key=queue, body=b"m")
    assert connection.call(1, "basic.get", no_ack=True).body == b"m"
    connection.send_method(2, "basic.get")
    refusal = connection.refusal()
    assert (refusal.code, refusal.class_id, refusal.method_id) == (404, 60, 70)
    assert "no previously declared queue" in refusal.text


def test_declare_tells_counts(channel, queue):
    for _ in range(3):
        channel.basic_publish("", queue, b"m")
    channel.basic_get(queue)
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    method = channel.queue_declare(queue, exclusive=True).method
    assert (method.queue, method.message_count, method.consumer_count) == (queue, 2, 0)
    channel.basic_consume(queue, lambda *_: None)
    assert channel.queue_declare(queue, exclusive=True).method.consumer_count == 1


def test_redeclare_with_other_properties(connect, name):
    queue = name()
    setup = connect().channel()
    arguments = {"x-expires": 60000, "mine": "kept"}
    setup.queue_declare(queue, durable=True, arguments=arguments)
    setup.queue_declare(queue, durable=True, arguments=dict(reversed(arguments.items())))
    for options, what in (({}, "durable"),
                          ({"durable": True, "auto_delete": True}, "auto_delete"),
                          ({"durable": True}, "x-expires"),
                          ({"durable": True, "arguments": {**arguments, "x-expires": 1}}, "x-expires")):
        text = fails(406, connect().channel().queue_declare, queue, **options)
        assert f"inequivalent arg '{what}' for queue '{queue}' in vhost '/'" in text
    text = fails(405, connect().channel().queue_declare, queue, durable=True, exclusive=True)
    assert "cannot obtain exclusive access to locked queue" in text
    setup.queue_delete(queue)


@pytest.mark.parametrize("arguments", [
    {"x-expires": 0}, {"x-expires": -1}, {"x-expires": "soon"}, {"x-message-ttl": -1},
    {"x-max-length": -1}, {"x-max-length": "x"}, {"x-overflow": "sideways"},
    {"x-max-priority": -1}, {"x-dead-letter-exchange": 1}, {"x-queue-type": "heap"},
])
def test_wrong_arguments(channel, name, arguments):
    text = fails(406, channel.queue_declare, name(), arguments=arguments)
    assert next(iter(arguments)) in text or "type" in text


def test_exclusive(connect, name):
    mine, other = connect(), connect()
    queue = name()
    mine.channel().queue_declare(queue, exclusive=True)
    for call in (lambda c: c.queue_declare(queue, exclusive=True),
                 lambda c: c.queue_declare(queue, passive=True),
                 lambda c: c.queue_delete(queue),
                 lambda c: c.queue_purge(queue),
                 lambda c: c.queue_bind(queue, "amq.direct", "k"),
                 lambda c: c.basic_get(queue),
                 lambda c: c.basic_consume(queue, lambda *_: None)):
        text = fails(405, call, other.channel())
        assert f"cannot obtain exclusive access to locked queue '{queue}' in vhost '/'" in text
    other.channel().basic_publish("", queue, b"anyone may send")
    channel = mine.channel()
    wait_for(lambda: ready(channel, queue) == 1)
    mine.close()
    wait_for(lambda: not is_there(other, queue))


def test_auto_delete_with_last_consumer(connect, name):
    connection = connect()
    channel, queue = connection.channel(), name()
    channel.queue_declare(queue, auto_delete=True)
    assert is_there(connection, queue)
    a = channel.basic_consume(queue, lambda *_: None)
    b = channel.basic_consume(queue, lambda *_: None)
    channel.basic_cancel(a)
    assert is_there(connection, queue)
    channel.basic_cancel(b)
    wait_for(lambda: not is_there(connection, queue))


def test_auto_delete_with_last_connection(connect, name):
    queue, observer, consumer = name(), connect(), connect()
    channel = consumer.channel()
    channel.queue_declare(queue, auto_delete=True)
    channel.basic_consume(queue, lambda *_: None)
    consumer.close()
    wait_for(lambda: not is_there(observer, queue))


def test_expires(connect, name):
    connection, queue = connect(), name()
    channel = connection.channel()
    channel.queue_declare(queue, arguments={"x-expires": 400})
    consumer = channel.basic_consume(queue, lambda *_: None)
    connection.sleep(0.8)
    channel.basic_cancel(consumer)
    method = channel.basic_get(queue)[0]
    assert method is None
    connection.sleep(0.2)
    channel.basic_get(queue)
    connection.sleep(0.3)
    channel.basic_get(queue)
    connection.sleep(0.7)
    assert not is_there(connection, queue)


def test_purge_leaves_what_is_out(channel, queue):
    for i in range(5):
        channel.basic_publish("", queue, str(i).encode())
    method, _, _ = channel.basic_get(queue)
    assert channel.queue_purge(queue).method.message_count == 4
    assert ready(channel, queue) == 0
    channel.basic_nack(method.delivery_tag, requeue=True)
    wait_for(lambda: ready(channel, queue) == 1)
    assert get_all(channel, queue) == ["0"]


def test_delete_conditions(connect, name):
    queue, channel = name(), connect().channel()
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"m")
    wait_for(lambda: ready(channel, queue) == 1)
    assert "not empty" in fails(406, connect().channel().queue_delete, queue, if_empty=True)
    consumer = channel.basic_consume(queue, lambda *_: None, auto_ack=True)
    assert "in use" in fails(406, connect().channel().queue_delete, queue, if_unused=True)
    channel.basic_cancel(consumer)
    channel.queue_delete(queue, if_unused=True, if_empty=True)


def test_delete_tells_how_many_and_of_nothing_is_done(channel, name):
    queue = name()
    channel.queue_declare(queue)
    for _ in range(3):
        channel.basic_publish("", queue, b"m")
    assert channel.queue_delete(queue).method.message_count == 3
    assert channel.queue_delete(queue).method.message_count == 0


def test_a_new_queue_of_the_same_name_is_empty(channel, name):
    queue = name()
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"old")
    channel.queue_delete(queue)
    channel.queue_declare(queue)
    assert ready(channel, queue) == 0
    channel.queue_delete(queue)


def test_passive(connect, name):
    queue = name()
    text = fails(404, connect().channel().queue_declare, queue, passive=True)
    assert text == f"NOT_FOUND - no queue '{queue}' in vhost '/'"
    channel = connect().channel()
    channel.queue_declare(queue, auto_delete=True)
    channel.queue_declare(queue, passive=True, durable=True)
    channel.queue_delete(queue)


def test_purge_of_nothing(channel, name):
    assert "no queue" in fails(404, channel.queue_purge, name())


def test_no_wait(raw, name):
    queue, exchange = name(), name("x")
    connection = raw()
    connection.open(1)
    connection.send_method(1, "queue.declare", queue=queue, exclusive=True, no_wait=True)
    connection.send_method(1, "exchange.declare", exchange=exchange, type="fanout", no_wait=True)
    connection.send_method(1, "queue.bind", queue=queue, exchange=exchange, no_wait=True)
    connection.publish(1, exchange, body=b"m")
    connection.send_method(1, "confirm.select", no_wait=True)
    connection.send_method(1, "basic.consume", queue=queue, consumer_tag="tag", no_ack=True,
                           no_wait=True)
    assert connection.next().name == "basic.deliver"
    connection.send_method(1, "basic.cancel", consumer_tag="tag", no_wait=True)
    connection.send_method(1, "queue.purge", queue=queue, no_wait=True)
    connection.send_method(1, "exchange.delete", exchange=exchange, no_wait=True)
    connection.send_method(1, "queue.delete", queue=queue, no_wait=True)
    # Nothing but the answer to this comes: the rest was not to be answered.
    connection.send_method(1, "channel.flow", active=True)
    assert connection.next().name == "channel.flow-ok"


def test_names_are_bytes_of_utf8(channel):
    queue = "żółw-日本-" + "x" * 200
    assert channel.queue_declare(queue, exclusive=True).method.queue == queue
    channel.basic_publish("", queue, b"m")
    assert get_all(channel, queue) == ["m"]
