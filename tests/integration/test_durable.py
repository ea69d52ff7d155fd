"""What is there after the broker was stopped, and after it was killed."""

import random
import threading

import pika
import pytest

import raw_amqp
from conftest import IS_RABBITMQ, pika_connection
from helpers import fails, get_all, ready

PERSISTENT = pika.BasicProperties(delivery_mode=2)
TRANSIENT = pika.BasicProperties(delivery_mode=1)


@pytest.fixture(params=["stop", "kill"])
def again(request, own_broker):
    """A broker, and a function that ends it in one of two ways and starts it anew."""
    broker = own_broker()

    def restart():
        if request.param == "stop":
            assert broker.stop() == 0, broker.log()
        else:
            broker.kill()
        broker.start()
        return pika_connection(broker.port).channel()

    broker.again = restart
    return broker


def test_confirmed_messages_are_there(again):
    channel = pika_connection(again.port).channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2, headers={"h": [1, {"x": "y"}]},
                                      message_id="id", content_type="text/plain")
    for i in range(200):
        channel.basic_publish("", "q", str(i).encode(), properties)
    channel = again.again()
    assert ready(channel, "q") == 200
    method, got, body = channel.basic_get("q", auto_ack=True)
    assert (body, method.routing_key, method.exchange) == (b"0", "q", "")
    assert (got.headers, got.message_id, got.content_type, got.delivery_mode) == \
        ({"h": [1, {"x": "y"}]}, "id", "text/plain", 2)
    assert get_all(channel, "q") == [str(i) for i in range(1, 200)]
    # A later confirmed publish says that the acknowledgements are on disk, too.
    channel.confirm_delivery()
    channel.basic_publish("", "q", b"later", properties)
    channel = again.again()
    assert get_all(channel, "q") == ["later"]


def test_topology_is_there(again):
    channel = pika_connection(again.port).channel()
    channel.exchange_declare("alternate", "fanout", durable=True)
    channel.exchange_declare("x", "topic", durable=True,
                             arguments={"alternate-exchange": "alternate"})
    channel.exchange_declare("inner", "headers", durable=True, internal=True)
    channel.exchange_declare("gone", "direct")
    channel.queue_declare("q", durable=True, arguments={"x-expires": 600_000, "mine": [1, 2]})
    channel.queue_declare("rest", durable=True)
    channel.queue_declare("gone", durable=False)
    channel.queue_bind("rest", "alternate")
    channel.queue_bind("q", "x", "a.*")
    channel.queue_bind("q", "x", "removed")
    channel.queue_unbind("q", "x", "removed")
    channel.queue_bind("q", "inner", arguments={"x-match": "any", "k": 1})
    channel.exchange_bind("inner", "x", "#.b")
    channel.queue_bind("q", "gone", "k")
    channel.queue_bind("gone", "x", "a.b")
    channel = again.again()
    channel.queue_declare("q", durable=True, arguments={"mine": [1, 2], "x-expires": 600_000})
    channel.exchange_declare("x", "topic", durable=True,
                             arguments={"alternate-exchange": "alternate"})
    channel.basic_publish("x", "a.c", b"by pattern")
    channel.basic_publish("x", "x.y.b", b"by headers", pika.BasicProperties(headers={"k": 1}))
    channel.basic_publish("x", "removed", b"by the alternate")
    assert get_all(channel, "q") == ["by pattern", "by headers"]
    assert get_all(channel, "rest") == ["by the alternate"]
    assert "no queue 'gone'" in fails(404, channel.queue_declare, "gone", passive=True)
    channel = channel.connection.channel()
    assert "no exchange 'gone'" in fails(404, channel.exchange_declare, "gone", passive=True)


def test_deleted_stays_deleted(again):
    channel = pika_connection(again.port).channel()
    for name in ("q", "kept"):
        channel.queue_declare(name, durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", name, b"m", PERSISTENT)
    channel.queue_delete("q")
    channel.exchange_declare("x", "direct", durable=True)
    channel.exchange_delete("x")
    channel.queue_purge("kept")
    channel.basic_publish("", "kept", b"after", PERSISTENT)
    channel = again.again()
    assert get_all(channel, "kept") == ["after"]
    fails(404, channel.queue_declare, "q", passive=True)
    channel = channel.connection.channel()
    channel.queue_declare("q", durable=True)
    assert ready(channel, "q") == 0


def test_transient_messages_and_queues_are_gone(again):
    channel = pika_connection(again.port).channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    for i in range(10):
        channel.basic_publish("", "q", str(i).encode(), [PERSISTENT, TRANSIENT][i % 2])
    channel = again.again()
    assert get_all(channel, "q") == [str(i) for i in range(0, 10, 2)]


def test_acknowledged_stays_away(again):
    """An acknowledgement is on disk when a later publish to that queue is confirmed."""
    with raw_amqp.Connection(again.port) as connection:
        connection.open(1)
        connection.call(1, "queue.declare", queue="q", durable=True)
        connection.call(1, "confirm.select")
        for i in range(100):
            connection.publish(1, routing_key="q", body=str(i).encode(), delivery_mode=2)
        confirmed = 0
        while confirmed < 100:
            confirmed = connection.next("basic.ack").delivery_tag
        connection.call(1, "basic.consume", queue="q")
        for i in range(100):
            delivery = connection.next("basic.deliver")
            if i % 3 != 0:
                connection.send_method(1, "basic.ack", delivery_tag=delivery.delivery_tag)
        connection.publish(1, routing_key="q", body=b"last", delivery_mode=2)
        while confirmed < 101:
            confirmed = connection.next("basic.ack").delivery_tag
    channel = again.again()
    left = []
    while True:
        method, _, body = channel.basic_get("q", auto_ack=True)
        if method is None:
            break
        left.append(body.decode())
        assert method.redelivered or body == b"last"
    assert [b for b in left if b != "last"] == [str(i) for i in range(0, 100, 3)]
    assert left.count("last") == 1


def test_commit_is_durable(again):
    with raw_amqp.Connection(again.port) as connection:
        connection.open(1)
        connection.call(1, "queue.declare", queue="q", durable=True)
        connection.call(1, "tx.select")
        for i in range(50):
            connection.publish(1, routing_key="q", body=str(i).encode(), delivery_mode=2)
        connection.call(1, "tx.commit")
        for i in range(50):
            connection.publish(1, routing_key="q", body=b"never", delivery_mode=2)
        got = connection.call(1, "basic.get", queue="q")
        connection.send_method(1, "basic.ack", delivery_tag=got.delivery_tag)
        again_channel = again.again()
    assert get_all(again_channel, "q") == [str(i) for i in range(50)]


def test_fan_out_is_stored_for_each(again):
    channel = pika_connection(again.port).channel()
    for i in range(5):
        channel.queue_declare(f"q{i}", durable=True)
        channel.queue_bind(f"q{i}", "amq.fanout")
    channel.confirm_delivery()
    for i in range(20):
        channel.basic_publish("amq.fanout", "", str(i).encode(), PERSISTENT)
    assert len(get_all(channel, "q3")) == 20
    channel.basic_publish("amq.fanout", "", b"20", PERSISTENT)
    channel = again.again()
    for i in range(5):
        assert get_all(channel, f"q{i}") == [str(n) for n in range(20 if i == 3 else 0, 21)]


@pytest.mark.parametrize("size", [300_000, 5_000_000])
def test_large_bodies(again, size):
    body = bytes(range(256)) * (size // 256)
    channel = pika_connection(again.port).channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    for _ in range(3):
        channel.basic_publish("", "q", body, PERSISTENT)
    channel = again.again()
    for _ in range(3):
        assert channel.basic_get("q", auto_ack=True)[2] == body


def test_many_restarts(again):
    """Each leaves what the one before had, and adds to it."""
    channel = pika_connection(again.port).channel()
    channel.queue_declare("q", durable=True)
    for i in range(6):
        channel.confirm_delivery()
        for j in range(10):
            channel.basic_publish("", "q", f"{i}.{j}".encode(), PERSISTENT)
        method, _, body = channel.basic_get("q")
        assert body == f"{i // 10}.{i}".encode()
        channel.basic_ack(method.delivery_tag)
        channel.basic_publish("", "q", f"{i}.x".encode(), PERSISTENT)
        channel = again.again()
    assert len(get_all(channel, "q")) == 60


def test_no_sync_survives_a_kill(own_broker):
    """sync = never trusts the system's cache: a killed process has lost nothing it had written."""
    broker = own_broker(settings={} if IS_RABBITMQ else {"sync": "never"})
    channel = pika_connection(broker.port).channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    for i in range(100):
        channel.basic_publish("", "q", b"m", PERSISTENT)
    broker.kill()
    broker.start()
    assert ready(pika_connection(broker.port).channel(), "q") == 100


def test_stop_is_told_to_clients(own_broker):
    broker = own_broker()
    with raw_amqp.Connection(broker.port, timeout=10) as connection:
        connection.open(1)
        assert broker.stop() == 0
        refusal = connection.refusal()
        assert refusal.code == 320
        assert refusal.text.startswith("CONNECTION_FORCED - ")


def test_a_commit_over_many_queues_is_whole(own_broker):
    """Each transaction replaces the one message of each queue; the broker is killed in the middle."""
    broker = own_broker()
    queues = [f"q{i}" for i in range(8)]
    for queue in queues:  # From connections of their own, so that they are on several shards.
        with raw_amqp.Connection(broker.port) as connection:
            connection.open(1)
            connection.call(1, "queue.declare", queue=queue, durable=True)

    def replace(connection, number, is_first=False):
        for queue in queues:
            if not is_first:
                got = connection.call(1, "basic.get", queue=queue)
                assert got.body == str(number - 1).encode()
                connection.send_method(1, "basic.ack", delivery_tag=got.delivery_tag)
            connection.publish(1, routing_key=queue, body=str(number).encode(), delivery_mode=2)
        connection.call(1, "tx.commit")

    number = 0
    for _ in range(8):
        killer = threading.Timer(random.uniform(0.02, 0.2), broker.kill)
        with raw_amqp.Connection(broker.port) as connection:
            connection.open(1)
            connection.call(1, "tx.select")
            replace(connection, number, is_first=True)
            killer.start()
            with pytest.raises((OSError, raw_amqp.Closed)):
                while True:
                    replace(connection, number + 1)
                    number += 1
        killer.join()
        broker.start()
        channel = pika_connection(broker.port).channel()
        left = {body for queue in queues for body in [",".join(get_all(channel, queue))]}
        channel.connection.close()
        assert left in ({str(number)}, {str(number + 1)}), broker.log()
        number = int(left.pop())
    assert number > 8
