"""Flow control: watermarks, slow readers, silent connections, limits."""

import os
import socket
import time

import pytest

import raw_amqp
from conftest import IS_RABBITMQ, pika_connection
from helpers import wait_for


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.sluice_only
def test_memory_watermark_blocks_publishers_and_not_consumers(own_broker):
    broker = own_broker(settings={"vm_memory_high_watermark.absolute": "32MiB"})
    publisher = raw_amqp.Connection(broker.port, timeout=10)
    publisher.open(1)
    publisher.call(1, "queue.declare", queue="q")
    publisher.socket.settimeout(1)
    sent = 0
    body = os.urandom(100_000)
    blocked = None
    # Until it is told, or the socket does not take more.
    while sent < 2000 and not blocked:
        try:
            publisher.publish(1, routing_key="q", body=body)
            sent += 1
        except socket.timeout:
            break
        if sent % 10 == 0:
            publisher.socket.setblocking(False)
            try:
                publisher.fill()
            except BlockingIOError:
                pass
            publisher.socket.settimeout(1)
            blocked = bool(publisher.input)
    publisher.socket.settimeout(10)
    message = publisher.next("connection.blocked")
    assert "memory" in message.reason
    assert resident_bytes(broker.pid) < 200 << 20

    consumer = raw_amqp.Connection(broker.port, timeout=10)
    consumer.open(1)
    consumer.call(1, "basic.consume", queue="q", no_ack=True)
    got = 0
    while True:
        try:
            consumer.socket.settimeout(1)
            consumer.next("basic.deliver")
            got += 1
        except socket.timeout:
            break
    assert got >= 100
    assert publisher.next("connection.unblocked")
    # It is read again.
    publisher.call(1, "channel.flow", active=True)
    publisher.close_socket()
    consumer.close_socket()


@pytest.mark.sluice_only
def test_disk_watermark_blocks_publishers(own_broker):
    broker = own_broker(settings={"disk_free_limit.absolute": "1000TB"})
    with raw_amqp.Connection(broker.port, timeout=10) as publisher:
        publisher.open(1)
        queue = publisher.call(1, "queue.declare", exclusive=True).queue
        publisher.publish(1, routing_key=queue, body=b"m", delivery_mode=2)
        message = publisher.next("connection.blocked")
        assert "disk" in message.reason
    # Who only consumes is not told, and works.
    with raw_amqp.Connection(broker.port, timeout=10) as consumer:
        consumer.open(1)
        queue = consumer.call(1, "queue.declare", exclusive=True).queue
        consumer.call(1, "basic.consume", queue=queue)
        assert not consumer.later


def test_a_client_without_the_capability_is_not_told(own_broker):
    broker = own_broker(settings={"disk_free_limit.absolute": "1000TB"})
    with raw_amqp.Connection(broker.port, timeout=1, capabilities={}) as publisher:
        publisher.open(1)
        publisher.publish(1, routing_key="q", body=b"m")
        with pytest.raises(socket.timeout):
            publisher.next()


def test_a_slow_reader_costs_bounded_memory(own_broker):
    """A consumer that takes everything and reads nothing: 200 MB stay in the queue, not in memory."""
    broker = own_broker()
    with raw_amqp.Connection(broker.port, timeout=60) as slow, \
            raw_amqp.Connection(broker.port, timeout=60) as publisher:
        slow.open(1)
        slow.call(1, "queue.declare", queue="q", durable=True)
        slow.call(1, "basic.consume", queue="q", no_ack=True)
        publisher.open(1)
        publisher.call(1, "confirm.select")
        before = resident_bytes(broker.pid)
        body, count = os.urandom(100_000), 2000
        confirmed = 0
        for i in range(count):
            publisher.publish(1, routing_key="q", body=body, delivery_mode=2)
            while i - confirmed > 100:
                confirmed = publisher.next("basic.ack").delivery_tag
        while confirmed < count:
            confirmed = publisher.next("basic.ack").delivery_tag
        if not IS_RABBITMQ:
            assert resident_bytes(broker.pid) - before < 120 << 20
        # And then it reads: all is there, in order of course, and whole.
        for i in range(count):
            assert slow.next("basic.deliver").body == body


@pytest.mark.sluice_only
def test_backlog_need_not_fit_in_memory(own_broker):
    broker = own_broker(settings={"vm_memory_high_watermark.absolute": "64MiB"})
    with raw_amqp.Connection(broker.port, timeout=60) as connection:
        connection.open(1)
        connection.call(1, "queue.declare", queue="q", durable=True)
        connection.call(1, "confirm.select")
        body, count, confirmed = os.urandom(100_000), 2000, 0
        for i in range(count):
            connection.publish(1, routing_key="q", body=i.to_bytes(4, "big") + body,
                               delivery_mode=2)
            while i - confirmed > 50:
                confirmed = connection.next("basic.ack").delivery_tag
        assert resident_bytes(broker.pid) < 160 << 20
        connection.call(1, "basic.qos", prefetch_count=50)
        connection.call(1, "basic.consume", queue="q")
        for i in range(count):
            delivery = connection.next("basic.deliver")
            assert delivery.body == i.to_bytes(4, "big") + body
            connection.send_method(1, "basic.ack", delivery_tag=delivery.delivery_tag)
        assert resident_bytes(broker.pid) < 160 << 20


def test_silent_connection_is_closed(own_broker):
    broker = own_broker(settings={"handshake_timeout": 1000})
    for first in (b"", b"AMQP", raw_amqp.HEADER):
        with raw_amqp.Connection(broker.port, handshake=False, timeout=8) as connection:
            connection.send(first)
            started = time.monotonic()
            assert connection.is_closed()
            assert 0.5 < time.monotonic() - started < 6
    with raw_amqp.Connection(broker.port) as connection:
        time.sleep(1.5)
        connection.open(1)


def test_message_size_limit(own_broker):
    broker = own_broker(settings={"max_message_size": 1000})
    with raw_amqp.Connection(broker.port) as connection:
        connection.open(1)
        queue = connection.call(1, "queue.declare", exclusive=True).queue
        connection.publish(1, routing_key=queue, body=b"x" * 1000)
        connection.publish(1, routing_key=queue, body=b"x" * 1001)
        refusal = connection.refusal()
        assert (refusal.code, refusal.channel) == (406, 1)
        assert "1001" in refusal.text and "1000" in refusal.text
        connection.open(1)
        assert len(connection.call(1, "basic.get", queue=queue).body) == 1000


def test_channel_limit(own_broker):
    broker = own_broker(settings={"channel_max": 5})
    with raw_amqp.Connection(broker.port, channel_max=5) as connection:
        assert connection.tune.channel_max == 5
        for channel in range(1, 6):
            connection.open(channel)
        connection.send_method(6, "channel.open")
        assert connection.refusal().code == 530


@pytest.mark.sluice_only
def test_connection_limit(own_broker):
    broker = own_broker(settings={"max_connections": 3})
    kept = [raw_amqp.Connection(broker.port) for _ in range(3)]
    with pytest.raises((raw_amqp.Closed, raw_amqp.Refused)):
        raw_amqp.Connection(broker.port)
    kept.pop().close()

    def one_more():
        try:
            return raw_amqp.Connection(broker.port)
        except (raw_amqp.Closed, raw_amqp.Refused):
            return None
    kept.append(wait_for(one_more))
    for connection in kept:
        connection.open(1)
        connection.close()


def test_many_connections_and_channels(broker):
    connections = [raw_amqp.Connection(broker.port) for _ in range(100)]
    for connection in connections:
        for channel in range(1, 11):
            connection.open(channel)
        connection.call(10, "queue.declare", exclusive=True)
    for connection in connections:
        connection.close()


def test_frame_max_of_the_configuration(own_broker):
    broker = own_broker(settings={"frame_max": 8192, "heartbeat": 17})
    with raw_amqp.Connection(broker.port, frame_max=8192) as connection:
        assert (connection.tune.frame_max, connection.tune.heartbeat) == (8192, 17)
        connection.open(1)
        queue = connection.call(1, "queue.declare", exclusive=True).queue
        connection.publish(1, routing_key=queue, body=b"x" * 100_000)
        assert len(connection.call(1, "basic.get", queue=queue).body) == 100_000


def test_connections_that_come_and_go(broker):
    """As scripts do: connect, say one thing, leave; politely or not."""
    before = resident_bytes(broker.pid)
    for i in range(300):
        connection = raw_amqp.Connection(broker.port)
        connection.open(1)
        connection.call(1, "queue.declare", exclusive=True)
        connection.publish(1, routing_key="nowhere-at-all", body=b"x" * 1000)
        if i % 2:
            connection.close()
        else:
            connection.close_socket()
    if not IS_RABBITMQ:
        assert resident_bytes(broker.pid) - before < 30 << 20
    pika_connection(broker.port).close()
