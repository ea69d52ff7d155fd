"""Publishing: properties, confirms, mandatory returns, large and empty bodies, user-id."""

import os

import pika
import pytest

from helpers import get_all

Properties = pika.BasicProperties


def test_every_property_comes_back(channel, queue):
    sent = Properties(
        content_type="application/json", content_encoding="gzip", delivery_mode=2, priority=7,
        correlation_id="c-1", reply_to="r", expiration="60000", message_id="m-1",
        timestamp=1_700_000_000, type="t", user_id="guest", app_id="app", cluster_id="cl",
        headers={"text": "żółw", "int": -5, "big": 2**40, "true": True, "none": None,
                 "list": [1, "two", {"three": 3}], "table": {"in": {"in": {"deep": "x"}}},
                 "bytes": b"\x00\xff"})
    channel.basic_publish("", queue, b"body", sent)
    method, got, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"body" and not method.redelivered
    for name in ("content_type", "content_encoding", "delivery_mode", "priority", "correlation_id",
                 "reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id",
                 "cluster_id"):
        assert getattr(got, name) == getattr(sent, name), name
    assert got.headers == {**sent.headers, "bytes": got.headers["bytes"]}


def test_no_property_is_no_property(channel, queue):
    channel.basic_publish("", queue, b"")
    _, got, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"" and got.headers is None and got.delivery_mode is None


@pytest.mark.parametrize("size", [0, 1, 131064, 131065, 262128, 262129, 1_000_000, 16_000_000])
def test_bodies(connect, size):
    channel = connect().channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    body = os.urandom(size)
    channel.basic_publish("", queue, body)
    assert channel.basic_get(queue, auto_ack=True)[2] == body


@pytest.mark.parametrize("frame_max", [4096, 8192, 131072])
def test_smaller_frames(connect, frame_max):
    connection = connect(frame_max=frame_max)
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    body = os.urandom(100_000)
    channel.basic_publish("", queue, body)
    assert channel.basic_get(queue, auto_ack=True)[2] == body


def test_confirms_with_pika(channel, queue):
    channel.confirm_delivery()
    for i in range(10):
        channel.basic_publish("", queue, str(i).encode(), Properties(delivery_mode=2))
    assert get_all(channel, queue) == [str(i) for i in range(10)]


def acknowledged_up_to(connection, last):
    """Receives confirms until `last` is confirmed; returns those confirmed, in order."""
    done = set()
    while len(done) < last:
        message = connection.next("basic.ack")
        tag = message.delivery_tag
        done |= set(range(1, tag + 1)) - done if message.multiple else {tag}
    assert done == set(range(1, last + 1))


def test_confirms_of_every_kind_of_publish(raw, name):
    """Persistent to durable, transient, unroutable: all are confirmed, each once."""
    connection, queue = raw(), name()
    connection.open(1)
    connection.call(1, "queue.declare", queue=queue, durable=True)
    connection.call(1, "confirm.select")
    for i in range(300):
        connection.publish(1, routing_key=[queue, "nowhere-at-all"][i % 3 == 2], body=b"m",
                           delivery_mode=1 + i % 2)
    acknowledged_up_to(connection, 300)
    assert connection.call(1, "queue.delete", queue=queue).messages == 200


def test_confirm_numbers_start_with_select(raw, name):
    connection = raw()
    connection.open(1)
    connection.publish(1, routing_key="nowhere-at-all")
    connection.call(1, "confirm.select")
    connection.call(1, "confirm.select")
    connection.publish(1, routing_key="nowhere-at-all")
    assert connection.next("basic.ack").delivery_tag == 1


def test_mandatory_is_returned_before_its_confirm(raw):
    connection = raw()
    connection.open(1)
    connection.call(1, "confirm.select")
    connection.publish(1, "amq.direct", "nowhere-at-all", b"back", mandatory=True,
                       headers={"h": 1}, message_id="m")
    returned = connection.next()
    assert returned.name == "basic.return"
    assert (returned.code, returned.text) == (312, "NO_ROUTE")
    assert (returned.exchange, returned.routing_key) == ("amq.direct", "nowhere-at-all")
    assert returned.body == b"back"
    assert returned.properties == {"headers": {"h": 1}, "message_id": "m"}
    assert connection.next().name == "basic.ack"


def test_mandatory_that_is_routed_is_not_returned(channel, queue):
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"m", mandatory=True)
    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        channel.basic_publish("", "nowhere-at-all", b"m", mandatory=True)
    assert caught.value.messages[0].body == b"m"


def test_not_mandatory_is_dropped(channel):
    channel.confirm_delivery()
    channel.basic_publish("", "nowhere-at-all", b"m")


def test_user_id_must_be_true(channel, queue):
    channel.basic_publish("", queue, b"m", Properties(user_id="guest"))
    assert get_all(channel, queue) == ["m"]
    channel.basic_publish("", queue, b"m", Properties(user_id="root"))
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        channel.queue_declare(queue, exclusive=True)
    assert caught.value.reply_code == 406
    assert "user_id property set to 'root' but authenticated user was 'guest'" in \
        caught.value.reply_text


def test_order_is_kept(raw, name):
    connection = raw()
    connection.open(1)
    queue = connection.call(1, "queue.declare", exclusive=True).queue
    connection.call(1, "basic.consume", queue=queue, no_ack=True)
    for i in range(5000):
        connection.publish(1, routing_key=queue, body=str(i).encode(), delivery_mode=1 + i % 2)
    assert [int(connection.next("basic.deliver").body) for _ in range(5000)] == list(range(5000))


def test_frames_of_channels_may_be_mixed(raw):
    import raw_amqp
    connection = raw()
    queues = {}
    for channel in (1, 2):
        connection.open(channel)
        queues[channel] = connection.call(channel, "queue.declare", exclusive=True).queue
    body = {1: b"a" * 300_000, 2: b"b" * 300_000}
    out = [[raw_amqp.frame(raw_amqp.METHOD, c, raw_amqp.method("basic.publish",
                                                               routing_key=queues[c])),
            raw_amqp.frame(raw_amqp.CONTENT_HEADER, c, raw_amqp.content_header(300_000))] +
           [raw_amqp.frame(raw_amqp.BODY, c, body[c][at:at + 100_000])
            for at in range(0, 300_000, 100_000)] for c in (1, 2)]
    for first, second in zip(*out):
        connection.send(first)
        connection.send(second)
    for channel in (1, 2):
        assert connection.call(channel, "basic.get", queue=queues[channel],
                               no_ack=True).body == body[channel]
