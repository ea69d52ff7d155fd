"""Queues that keep to a length, and messages that live for a time only."""

import time

import pika
import pytest

from conftest import pika_connection
from helpers import fails, get_all, ready, wait_for

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def lives(ms, **properties):
    return pika.BasicProperties(expiration=str(ms), **properties)


def publish(channel, queue, *bodies, properties=None):
    for body in bodies:
        channel.basic_publish("", queue, body.encode(), properties)


@pytest.fixture
def sure(connection):
    """A channel that waits for confirms, so that what it published is where it goes."""
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def declare(channel, name, **arguments):
    return channel.queue_declare(name(), exclusive=True, arguments={
        "x-" + key.replace("_", "-"): value for key, value in arguments.items()}).method.queue


# ---- limits ----

def test_max_length_drops_the_oldest(sure, name):
    queue = declare(sure, name, max_length=3)
    publish(sure, queue, *"01234")
    wait_for(lambda: ready(sure, queue) == 3)
    assert get_all(sure, queue) == ["2", "3", "4"]


def test_max_length_in_bytes(sure, name):
    queue = declare(sure, name, max_length_bytes=10)
    publish(sure, queue, "aaaa", "bbbb", "cc")
    assert ready(sure, queue) == 3
    publish(sure, queue, "d")
    wait_for(lambda: ready(sure, queue) == 3)
    assert get_all(sure, queue) == ["bbbb", "cc", "d"]
    publish(sure, queue, "e", "f" * 11)  # which is too long for all the room there is
    wait_for(lambda: ready(sure, queue) == 0)


def test_both_limits_hold(sure, name):
    queue = declare(sure, name, max_length=2, max_length_bytes=4)
    publish(sure, queue, "a", "b", "c")
    wait_for(lambda: ready(sure, queue) == 2)
    publish(sure, queue, "ddd")
    wait_for(lambda: ready(sure, queue) == 2)
    publish(sure, queue, "eeee")
    wait_for(lambda: ready(sure, queue) == 1)
    assert get_all(sure, queue) == ["eeee"]


def test_what_is_out_does_not_count_and_comes_back_as_the_oldest(connection, sure, name):
    queue = declare(sure, name, max_length=2)
    publish(sure, queue, "0", "1")
    other = connection.channel()
    assert [other.basic_get(queue)[2] for _ in range(2)] == [b"0", b"1"]
    publish(sure, queue, "2", "3")
    assert ready(sure, queue) == 2
    other.basic_nack(2, multiple=True, requeue=True)
    wait_for(lambda: ready(other, queue) == 2)
    assert get_all(sure, queue) == ["2", "3"]


def test_max_length_0_is_for_consumers_alone(connection, sure, name):
    queue = declare(sure, name, max_length=0)
    publish(sure, queue, "nobody is there")
    got = []
    sure.basic_consume(queue, lambda *a: got.append(a[3].decode()), auto_ack=True)
    for i in range(20):
        publish(sure, queue, str(i))
    wait_for(lambda: connection.process_data_events(0.01) or len(got) == 20)
    assert got == [str(i) for i in range(20)]


def test_a_consumer_comes_before_the_limit_even_behind_the_disk(connection, connect, name):
    """The first delivery of persistent messages waits for a sync."""
    queue, channel = name(), connection.channel()
    channel.queue_declare(queue, durable=True, arguments={"x-max-length": 1})
    got, reader = [], connect()
    reader.channel().basic_consume(queue, lambda *a: got.append(int(a[3])), auto_ack=True)
    for i in range(100):
        channel.basic_publish("", queue, str(i).encode(), PERSISTENT if i % 2 else None)
    wait_for(lambda: reader.process_data_events(0.01) or len(got) == 100)
    assert got == list(range(100))
    channel.queue_delete(queue)


def test_of_consumers_the_higher_priority_takes_before_the_limit_drops(connection, sure, name):
    queue = declare(sure, name, max_length=2)
    got = {"high": [], "low": []}
    for which, priority in (("low", 1), ("high", 5)):
        channel = connection.channel()
        channel.basic_qos(prefetch_count=2)
        channel.basic_consume(queue, lambda *a, which=which: got[which].append(a[3].decode()),
                              arguments={"x-priority": priority})
    for i in range(8):
        publish(sure, queue, str(i))
    wait_for(lambda: connection.process_data_events(0.01) or len(got["low"]) == 2)
    wait_for(lambda: ready(sure, queue) == 2)
    assert got == {"high": ["0", "1"], "low": ["2", "3"]}
    assert get_all(sure, queue) == ["6", "7"]


def test_reject_publish_refuses_what_is_too_much(connection, sure, name):
    queue = declare(sure, name, max_length=2, overflow="reject-publish")
    publish(sure, queue, "0", "1")
    for _ in range(2):
        with pytest.raises(pika.exceptions.NackError):
            publish(sure, queue, "refused")
    plain = connection.channel()
    publish(plain, queue, "refused and nobody is told")
    assert ready(plain, queue) == 2
    assert sure.basic_get(queue, auto_ack=True)[2] == b"0"
    publish(sure, queue, "2")
    assert get_all(sure, queue) == ["1", "2"]


def test_reject_publish_by_bytes(sure, name):
    queue = declare(sure, name, max_length_bytes=6, overflow="reject-publish")
    publish(sure, queue, "aaaa")
    with pytest.raises(pika.exceptions.NackError):
        publish(sure, queue, "bbb")  # with which it would be too long
    publish(sure, queue, "cc")
    with pytest.raises(pika.exceptions.NackError):
        publish(sure, queue, "d")
    publish(sure, queue, "")
    assert get_all(sure, queue) == ["aaaa", "cc", ""]


def test_a_full_queue_refuses_for_itself_alone(sure, name):
    full = declare(sure, name, max_length=1, overflow="reject-publish")
    free = [declare(sure, name) for _ in range(4)]
    exchange = name("x")
    sure.exchange_declare(exchange, "fanout", auto_delete=True)
    for queue in [full, *free]:
        sure.queue_bind(queue, exchange)
    sure.basic_publish(exchange, "", b"0")
    with pytest.raises(pika.exceptions.NackError):
        sure.basic_publish(exchange, "", b"1")
    assert get_all(sure, full) == ["0"]
    for queue in free:
        assert get_all(sure, queue) == ["0", "1"]


def test_reject_publish_where_consumers_take_at_once(connection, sure, name):
    """What they are about to get leaves room, however much comes at once."""
    queue = declare(sure, name, max_length=1, overflow="reject-publish")
    got = []
    channel = connection.channel()
    channel.basic_consume(queue, lambda *a: got.append(a[3].decode()), auto_ack=True)
    for i in range(20):
        publish(sure, queue, str(i))
    wait_for(lambda: connection.process_data_events(0.01) or len(got) == 20)
    assert got == [str(i) for i in range(20)]


def test_max_length_0_refuses_everything(connection, sure, name):
    queue = declare(sure, name, max_length=0, overflow="reject-publish")
    channel = connection.channel()
    channel.basic_consume(queue, lambda *_: None, auto_ack=True)
    with pytest.raises(pika.exceptions.NackError):
        publish(sure, queue, "somebody is there")


# ---- times to live ----

def test_message_ttl(sure, name):
    queue = declare(sure, name, message_ttl=400)
    publish(sure, queue, "0", "1")
    time.sleep(0.2)
    publish(sure, queue, "2")
    assert ready(sure, queue) == 3
    time.sleep(0.3)
    assert ready(sure, queue) == 1
    assert get_all(sure, queue) == ["2"]


def test_ttl_counts_for_what_is_ready_alone(sure, name):
    queue = declare(sure, name, message_ttl=200)
    publish(sure, queue, "0")
    method, _, _ = sure.basic_get(queue)
    time.sleep(0.4)
    sure.basic_ack(method.delivery_tag)  # which it would not know, were it gone
    publish(sure, queue, "1")
    method, _, _ = sure.basic_get(queue)
    time.sleep(0.4)
    sure.basic_nack(method.delivery_tag, requeue=True)
    wait_for(lambda: ready(sure, queue) == 0)
    assert sure.basic_get(queue)[0] is None


def test_expiration_of_a_message(sure, name):
    queue = declare(sure, name)
    publish(sure, queue, "0", properties=lives(200))
    publish(sure, queue, "1")
    time.sleep(0.4)
    method, properties, body = sure.basic_get(queue, auto_ack=True)
    assert (body, properties.expiration) == (b"1", None)
    publish(sure, queue, "2", properties=lives(60000))
    _, properties, body = sure.basic_get(queue, auto_ack=True)
    assert (body, properties.expiration) == (b"2", "60000")


def test_messages_expire_at_the_head_alone(sure, name):
    queue = declare(sure, name)
    publish(sure, queue, "0")
    publish(sure, queue, "1", properties=lives(200))
    publish(sure, queue, "2")
    time.sleep(0.4)
    assert ready(sure, queue) == 3
    assert sure.basic_get(queue, auto_ack=True)[2] == b"0"
    assert sure.basic_get(queue, auto_ack=True)[2] == b"2"
    assert ready(sure, queue) == 0


@pytest.mark.parametrize("of_queue, of_message", [(300, 60000), (60000, 300)])
def test_the_shorter_time_counts(sure, name, of_queue, of_message):
    queue = declare(sure, name, message_ttl=of_queue)
    publish(sure, queue, "0", properties=lives(of_message))
    assert ready(sure, queue) == 1
    time.sleep(0.5)
    assert ready(sure, queue) == 0


@pytest.mark.parametrize("by", ["queue", "message"])
def test_to_live_for_0_ms_is_for_consumers_that_wait(connection, sure, name, by):
    queue = declare(sure, name, **({"message_ttl": 0} if by == "queue" else {}))
    properties = lives(0) if by == "message" else None
    publish(sure, queue, "nobody is there", properties=properties)
    wait_for(lambda: ready(sure, queue) == 0)
    got = []
    sure.basic_consume(queue, lambda *a: got.append(a[3].decode()), auto_ack=True)
    for i in range(5):
        publish(sure, queue, str(i), properties=properties)
    wait_for(lambda: connection.process_data_events(0.01) or len(got) == 5)
    assert got == [str(i) for i in range(5)]


def test_to_live_for_0_ms_on_the_way_to_another_worker(connect, sure, name):
    got, consumers, queues = [], [], []
    for _ in range(4):
        consumers.append(connect())
        channel = consumers[-1].channel()
        queues.append(declare(channel, name, message_ttl=0))
        channel.basic_consume(queues[-1], lambda *a: got.append(a[3]), auto_ack=True)
    for _ in range(50):
        for queue in queues:
            publish(sure, queue, "now")
    wait_for(lambda: [each.process_data_events(0.01) for each in consumers] and len(got) == 200)


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", " 1", "1000000000000000"])
def test_an_expiration_that_is_none(connection, name, text):
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare(name(), exclusive=True).method.queue
    assert "invalid expiration" in fails(406, publish, channel, queue, "0",
                                         properties=pika.BasicProperties(expiration=text))


def test_many_expire_while_one_consumes(connection, sure, name):
    """What is read back, what is delivered and what expires come from the same head."""
    queue = declare(sure, name, message_ttl=500)
    plain = connection.channel()
    for i in range(5000):
        plain.basic_publish("", queue, str(i).encode())
    got = []
    plain.basic_qos(prefetch_count=10)
    tag = plain.basic_consume(queue, lambda c, m, p, body: (got.append(int(body)),
                                                            c.basic_ack(m.delivery_tag)))
    connection.process_data_events(0.1)
    plain.basic_cancel(tag)
    wait_for(lambda: ready(sure, queue) == 0)
    assert got == sorted(got)


# ---- through a restart ----

@pytest.mark.parametrize("end", ["stop", "kill"])
def test_limits_and_times_are_there_after_a_restart(own_broker, end):
    broker = own_broker()
    channel = pika_connection(broker.port).channel()
    channel.confirm_delivery()
    channel.queue_declare("lives", durable=True, arguments={"x-message-ttl": 2000})
    channel.queue_declare("length", durable=True, arguments={"x-max-length": 3})
    channel.queue_declare("refuses", durable=True,
                          arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_declare("expiration", durable=True)
    began = time.monotonic()
    publish(channel, "lives", "0", properties=PERSISTENT)
    publish(channel, "expiration", "0", properties=lives(2000, delivery_mode=2))
    publish(channel, "expiration", "1", properties=PERSISTENT)
    publish(channel, "length", *"01234", properties=PERSISTENT)
    publish(channel, "refuses", "0", properties=PERSISTENT)
    getattr(broker, end)()
    broker.start()
    channel = pika_connection(broker.port).channel()
    channel.confirm_delivery()
    if time.monotonic() - began < 1.5:
        assert (ready(channel, "lives"), ready(channel, "expiration")) == (1, 2)
    assert ready(channel, "length") == 3
    publish(channel, "length", "5", properties=PERSISTENT)
    wait_for(lambda: ready(channel, "length") == 3)
    assert get_all(channel, "length") == ["3", "4", "5"]
    with pytest.raises(pika.exceptions.NackError):
        publish(channel, "refuses", "1")
    # The time before the restart counts: neither begins its life anew.
    time.sleep(max(0, began + 2.3 - time.monotonic()))
    assert (ready(channel, "lives"), ready(channel, "expiration")) == (0, 1)
    assert get_all(channel, "expiration") == ["1"]
