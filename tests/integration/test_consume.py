"""Consuming: acknowledgement in all its forms, prefetch, cancelling, direct reply-to."""

import threading
import time

import pika
import pytest

from helpers import fails, get_all, ready, wait_for

Properties = pika.BasicProperties


def fill(channel, queue, count, start=0):
    for i in range(start, start + count):
        channel.basic_publish("", queue, str(i).encode())


@pytest.fixture
def consumer(raw, name):
    """A raw connection with channel 1 and an exclusive queue; publish() and bodies() on it."""
    connection = raw(timeout=3)
    connection.open(1)
    connection.queue = connection.call(1, "queue.declare", exclusive=True).queue

    def put(*bodies, channel=1):
        for body in bodies:
            connection.publish(channel, routing_key=connection.queue, body=str(body).encode())

    def deliveries(count, channel=None):
        return [connection.next("basic.deliver", channel=channel) for _ in range(count)]

    def nothing_more(channel=1):
        """Given a moment, no delivery has come before the answer to this."""
        time.sleep(0.03)
        connection.call(channel, "channel.flow", active=True)
        return not any(m.name == "basic.deliver" for _, m in connection.later)

    connection.put, connection.deliveries = put, deliveries
    connection.nothing_more = nothing_more
    return connection


def consume(connection, channel=1, **options):
    return connection.call(channel, "basic.consume", queue=connection.queue, **options).consumer_tag


def bodies(deliveries):
    return [int(d.body) for d in deliveries]


def test_get_and_its_counts(channel, queue):
    assert channel.basic_get(queue) == (None, None, None)
    fill(channel, queue, 3)
    method, _, body = channel.basic_get(queue)
    assert (body, method.message_count, method.delivery_tag) == (b"0", 2, 1)
    assert (method.exchange, method.routing_key, method.redelivered) == ("", queue, False)


def test_consume(consumer):
    consumer.put(0, 1, 2)
    tag = consume(consumer)
    assert tag.startswith("amq.ctag-")
    got = consumer.deliveries(3)
    assert bodies(got) == [0, 1, 2]
    assert [d.delivery_tag for d in got] == [1, 2, 3]
    assert all(d.consumer_tag == tag and d.routing_key == consumer.queue for d in got)


def test_ack_one_and_multiple(consumer):
    consumer.put(*range(5))
    consume(consumer, consumer_tag="t")
    consumer.deliveries(5)
    consumer.send_method(1, "basic.ack", delivery_tag=2)
    consumer.send_method(1, "basic.ack", delivery_tag=4, multiple=True)
    consumer.call(1, "basic.cancel", consumer_tag="t")
    consumer.call(1, "basic.recover", requeue=True)
    got = consumer.call(1, "basic.get", queue=consumer.queue)
    assert (got.body, got.redelivered, got.messages) == (b"4", True, 0)


def test_ack_zero_multiple_is_all(consumer):
    consumer.put(*range(5))
    consume(consumer)
    consumer.deliveries(5)
    consumer.send_method(1, "basic.ack", delivery_tag=0, multiple=True)
    consumer.call(1, "basic.recover", requeue=True)
    assert consumer.nothing_more()


@pytest.mark.parametrize("name_of_method", ["basic.ack", "basic.nack", "basic.reject"])
def test_unknown_delivery_tag(raw, name_of_method):
    connection = raw()
    connection.open(1)
    connection.send_method(1, name_of_method, delivery_tag=7)
    refusal = connection.refusal()
    assert (refusal.code, refusal.channel) == (406, 1)
    assert refusal.text == "PRECONDITION_FAILED - unknown delivery tag 7"


def test_ack_twice(consumer):
    consumer.put(0)
    consume(consumer)
    consumer.deliveries(1)
    consumer.send_method(1, "basic.ack", delivery_tag=1)
    consumer.send_method(1, "basic.ack", delivery_tag=1)
    assert consumer.refusal().code == 406


def test_tags_belong_to_their_channel(consumer):
    consumer.put(0)
    consume(consumer)
    consumer.deliveries(1)
    consumer.open(2)
    consumer.send_method(2, "basic.ack", delivery_tag=1)
    refusal = consumer.refusal()
    assert (refusal.code, refusal.channel) == (406, 2)


def test_reject_requeues_where_it_was(consumer):
    consumer.put(0, 1, 2)
    consumer.call(1, "basic.qos", prefetch_count=1)
    first = consumer.call(1, "basic.get", queue=consumer.queue)
    consumer.send_method(1, "basic.reject", delivery_tag=first.delivery_tag, requeue=True)
    again = [consumer.call(1, "basic.get", queue=consumer.queue) for _ in range(3)]
    assert [(m.body, m.redelivered) for m in again] == [(b"0", True), (b"1", False), (b"2", False)]


def test_reject_without_requeue_drops(consumer):
    consumer.put(0, 1)
    tag = consumer.call(1, "basic.get", queue=consumer.queue).delivery_tag
    consumer.send_method(1, "basic.reject", delivery_tag=tag, requeue=False)
    assert consumer.call(1, "basic.get", queue=consumer.queue).body == b"1"
    assert consumer.call(1, "queue.declare", queue=consumer.queue, passive=True).messages == 0


def test_nack_multiple(consumer):
    consumer.put(*range(6))
    tags = [consumer.call(1, "basic.get", queue=consumer.queue).delivery_tag for _ in range(6)]
    consumer.send_method(1, "basic.nack", delivery_tag=tags[1], multiple=True, requeue=False)
    consumer.send_method(1, "basic.nack", delivery_tag=tags[4], multiple=True, requeue=True)
    got = [consumer.call(1, "basic.get", queue=consumer.queue) for _ in range(3)]
    assert [(int(m.body), m.redelivered) for m in got] == [(2, True), (3, True), (4, True)]


def test_recover_redelivers(consumer):
    consumer.put(0, 1)
    consume(consumer)
    assert not any(d.redelivered for d in consumer.deliveries(2))
    consumer.call(1, "basic.recover", requeue=True)
    got = consumer.deliveries(2)
    assert bodies(got) == [0, 1] and all(d.redelivered for d in got)
    assert [d.delivery_tag for d in got] == [3, 4]
    consumer.send_method(1, "basic.recover-async", requeue=True)
    assert bodies(consumer.deliveries(2)) == [0, 1]


def test_recover_without_requeue_is_not_done(consumer):
    consumer.send_method(1, "basic.recover", requeue=False)
    refusal = consumer.refusal()
    assert (refusal.code, refusal.channel) == (540, 0)


def test_closing_a_channel_returns_its_messages_in_order(consumer):
    consumer.open(2)
    consumer.put(*range(4))
    consume(consumer, channel=2)
    consumer.deliveries(4)
    consumer.send_method(2, "basic.ack", delivery_tag=1)
    consumer.call(2, "channel.close", code=200)
    got = [consumer.call(1, "basic.get", queue=consumer.queue) for _ in range(3)]
    assert [(int(m.body), m.redelivered) for m in got] == [(1, True), (2, True), (3, True)]


def test_losing_a_connection_returns_its_messages(connect, raw, name):
    queue, channel = name(), connect().channel()
    channel.queue_declare(queue)
    fill(channel, queue, 3)
    lost = raw()
    lost.open(1)
    lost.call(1, "basic.consume", queue=queue)
    for _ in range(3):
        lost.next("basic.deliver")
    lost.close_socket()
    wait_for(lambda: ready(channel, queue) == 3)
    assert channel.basic_get(queue)[0].redelivered
    channel.queue_delete(queue)


# ---- prefetch


def test_prefetch_per_consumer(consumer):
    consumer.call(1, "basic.qos", prefetch_count=2)
    consume(consumer, consumer_tag="a")
    consume(consumer, consumer_tag="b")
    consumer.put(*range(10))
    got = consumer.deliveries(4)
    assert consumer.nothing_more()
    by_tag = {tag: [d for d in got if d.consumer_tag == tag] for tag in "ab"}
    assert len(by_tag["a"]) == len(by_tag["b"]) == 2
    consumer.send_method(1, "basic.ack", delivery_tag=by_tag["a"][0].delivery_tag)
    assert consumer.deliveries(1)[0].consumer_tag == "a"
    assert consumer.nothing_more()


def test_prefetch_of_the_channel(consumer):
    consumer.call(1, "basic.qos", prefetch_count=3, global_=True)
    consume(consumer, consumer_tag="a")
    consume(consumer, consumer_tag="b")
    consumer.put(*range(10))
    got = consumer.deliveries(3)
    assert consumer.nothing_more()
    consumer.send_method(1, "basic.ack", delivery_tag=got[-1].delivery_tag, multiple=True)
    consumer.deliveries(3)
    assert consumer.nothing_more()


def test_prefetch_of_channel_and_consumer(consumer):
    """In this order: a limit per consumer lifts that of the channel."""
    consumer.call(1, "basic.qos", prefetch_count=2, global_=False)
    consumer.call(1, "basic.qos", prefetch_count=3, global_=True)
    consume(consumer, consumer_tag="a")
    consumer.put(*range(10))
    consumer.deliveries(2)
    assert consumer.nothing_more()
    consume(consumer, consumer_tag="b")
    consumer.deliveries(1)
    assert consumer.nothing_more()


def test_prefetch_counts_for_consumers_that_come_later(consumer):
    consume(consumer, consumer_tag="a")
    consumer.call(1, "basic.qos", prefetch_count=1)
    consumer.put(*range(5))
    consumer.deliveries(5)
    consume(consumer, consumer_tag="b")
    consumer.call(1, "basic.cancel", consumer_tag="a")
    consumer.put(*range(5))
    consumer.deliveries(1)
    assert consumer.nothing_more()


def test_prefetch_does_not_hold_back_no_ack(consumer):
    consumer.call(1, "basic.qos", prefetch_count=1)
    consume(consumer, no_ack=True)
    consumer.put(*range(100))
    assert bodies(consumer.deliveries(100)) == list(range(100))


def test_prefetch_raised_on_the_channel(consumer):
    consumer.call(1, "basic.qos", prefetch_count=1, global_=True)
    consume(consumer)
    consumer.put(*range(5))
    consumer.deliveries(1)
    assert consumer.nothing_more()
    consumer.call(1, "basic.qos", prefetch_count=4, global_=True)
    consumer.deliveries(3)
    assert consumer.nothing_more()


def test_prefetch_size_is_not_done(consumer):
    consumer.send_method(1, "basic.qos", prefetch_size=1)
    refusal = consumer.refusal()
    assert (refusal.code, refusal.class_id, refusal.method_id) == (540, 60, 10)


def test_prefetch_shares_a_queue(consumer):
    for channel in (2, 3):
        consumer.open(channel)
        consumer.call(channel, "basic.qos", prefetch_count=5)
        consume(consumer, channel=channel)
    consumer.put(*range(10))
    assert len(consumer.deliveries(5, channel=2)) == len(consumer.deliveries(5, channel=3)) == 5


# ---- consumers


def test_cancel(consumer):
    consume(consumer, consumer_tag="t", no_ack=True)
    assert consumer.call(1, "basic.cancel", consumer_tag="t").consumer_tag == "t"
    consumer.put(0)
    assert consumer.nothing_more()
    consumer.call(1, "basic.cancel", consumer_tag="never there")


def test_cancel_keeps_what_was_delivered(consumer):
    consumer.put(0)
    consume(consumer, consumer_tag="t")
    tag = consumer.deliveries(1)[0].delivery_tag
    consumer.call(1, "basic.cancel", consumer_tag="t")
    assert consumer.call(1, "basic.get", queue=consumer.queue).name == "basic.get-empty"
    consumer.send_method(1, "basic.ack", delivery_tag=tag)
    assert consumer.nothing_more()


def test_tag_in_use(consumer):
    consume(consumer, consumer_tag="t")
    consumer.send_method(1, "basic.consume", queue=consumer.queue, consumer_tag="t")
    refusal = consumer.refusal()
    assert (refusal.code, refusal.channel) == (530, 0)
    assert "attempt to reuse consumer tag 't'" in refusal.text


def test_cancel_is_told_when_the_queue_goes(consumer, connect, name):
    queue, channel = name(), connect().channel()
    channel.queue_declare(queue)
    consumer.call(1, "basic.consume", queue=queue, consumer_tag="t")
    channel.queue_delete(queue)
    assert consumer.next("basic.cancel").consumer_tag == "t"
    assert consumer.nothing_more()


def test_cancel_is_not_told_to_who_cannot_know(raw, connect, name):
    queue, channel = name(), connect().channel()
    channel.queue_declare(queue)
    old = raw(capabilities={}, timeout=3)
    old.open(1)
    old.call(1, "basic.consume", queue=queue, consumer_tag="t")
    channel.queue_delete(queue)
    old.send_method(1, "channel.flow", active=True)
    assert old.next().name == "channel.flow-ok"


def test_cancel_is_told_to_pika(connect, name):
    connection, queue = connect(), name()
    channel = connection.channel()
    channel.queue_declare(queue)
    told = []
    channel.add_on_cancel_callback(told.append)
    channel.basic_consume(queue, lambda *_: None, consumer_tag="mine")
    connect().channel().queue_delete(queue)
    wait_for(lambda: connection.process_data_events(0.05) or told)
    assert told[0].method.consumer_tag == "mine"


def test_exclusive_consumer(connect, name):
    queue, channel = name(), connect().channel()
    channel.queue_declare(queue)
    channel.basic_consume(queue, lambda *_: None, exclusive=True)
    text = fails(403, connect().channel().basic_consume, queue, lambda *_: None)
    assert "exclusive" in text
    other = name()
    channel.queue_declare(other)
    channel.basic_consume(other, lambda *_: None)
    assert "exclusive" in fails(403, connect().channel().basic_consume, other, lambda *_: None,
                                exclusive=True)
    channel.queue_delete(queue)
    channel.queue_delete(other)


def test_consume_from_nothing(connect, name):
    assert "no queue" in fails(404, connect().channel().basic_consume, name(), lambda *_: None)
    assert "no queue" in fails(404, connect().channel().basic_get, name())


def test_priority_of_consumers(consumer):
    consumer.call(1, "basic.qos", prefetch_count=2)
    consume(consumer, consumer_tag="low")
    consume(consumer, consumer_tag="high", arguments={"x-priority": 10})
    consumer.put(*range(4))
    got = consumer.deliveries(4)
    assert [d.consumer_tag for d in got[:2]] == ["high", "high"]
    assert {d.consumer_tag for d in got[2:]} == {"low"}


def test_consumers_take_turns(consumer):
    for tag in "abc":
        consume(consumer, consumer_tag=tag, no_ack=True)
    consumer.put(*range(30))
    counts = [d.consumer_tag for d in consumer.deliveries(30)]
    assert all(counts.count(tag) >= 5 for tag in "abc"), counts


def test_channel_flow_of_the_client(consumer):
    """RabbitMQ refuses to stop its deliveries so; so do we."""
    consumer.send_method(1, "channel.flow", active=False)
    assert consumer.refusal().code == 540


# ---- direct reply-to


def test_direct_reply_to(connect, name):
    queue = name()
    server = connect()
    server_channel = server.channel()
    server_channel.queue_declare(queue, auto_delete=True)

    client = connect().channel()
    answers = []
    client.basic_consume("amq.rabbitmq.reply-to", lambda *a: answers.append(a), auto_ack=True)
    for i in range(3):
        client.basic_publish("", queue, b"question %d" % i,
                             Properties(reply_to="amq.rabbitmq.reply-to", correlation_id=str(i)))
    for i in range(3):
        method, properties, body = wait_for(
            lambda: (lambda got: got if got[0] else None)(
                server_channel.basic_get(queue, auto_ack=True)))
        assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
        server_channel.basic_publish("", properties.reply_to, b"answer to " + body,
                                     Properties(correlation_id=properties.correlation_id))
    wait_for(lambda: client.connection.process_data_events(0.05) or len(answers) == 3)
    assert [(p.correlation_id, b) for _, _, p, b in answers] == \
        [(str(i), b"answer to question %d" % i) for i in range(3)]
    # Whether the asker still waits can be asked.
    server_channel.queue_declare(properties.reply_to, passive=True)
    client.close()
    server_channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        server_channel.basic_publish("", properties.reply_to, b"late", mandatory=True)


def test_direct_reply_to_has_rules(connect):
    channel = connect().channel()
    text = fails(406, channel.basic_consume, "amq.rabbitmq.reply-to", lambda *_: None)
    assert "reply consumer cannot acknowledge" in text
    channel = connect().channel()
    channel.basic_publish("", "q", b"", Properties(reply_to="amq.rabbitmq.reply-to"))
    text = fails(406, channel.queue_declare, "", exclusive=True)
    assert "fast reply consumer does not exist" in text
    channel = connect().channel()
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    text = fails(406, channel.basic_consume, "amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    assert "reply consumer already set" in text


def test_threads_share_the_work(broker, connect, name):
    """Four consumers and two producers, each with a connection: everything arrives once."""
    from conftest import pika_connection
    queue, got, lock, count = name(), [], threading.Lock(), 2000
    setup = connect().channel()
    setup.queue_declare(queue, durable=True)

    def consume_some():
        connection = pika_connection(broker.port)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=20)
        for method, _, body in channel.consume(queue, inactivity_timeout=2):
            if method is None:
                break
            with lock:
                got.append(int(body))
            channel.basic_ack(method.delivery_tag)
        connection.close()

    def produce(start):
        connection = pika_connection(broker.port)
        channel = connection.channel()
        for i in range(start, count, 2):
            channel.basic_publish("", queue, str(i).encode(), Properties(delivery_mode=2))
        connection.close()

    threads = [threading.Thread(target=consume_some) for _ in range(4)] + \
              [threading.Thread(target=produce, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(count))
    assert setup.queue_delete(queue).method.message_count == 0
