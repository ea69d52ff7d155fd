"""Messages that are not to be given out before a time: the header x-delay, and exchanges of the type
x-delayed-message, as RabbitMQ's plugin has them."""

import json
import time

import pika
import pytest

from conftest import pika_connection
from helpers import fails, get_all, ready, wait_for
from test_browse import browse
from test_management import ask, managed  # noqa: F401

pytestmark = pytest.mark.sluice_only

WORKERS = pytest.mark.parametrize("workers", ["1", "4"])


def delay(ms, headers=None, **properties):
    return pika.BasicProperties(delivery_mode=2, headers={"x-delay": ms, **(headers or {})}, **properties)


def confirmed(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def listen(channel, queue):
    """What comes, as (body, seconds after now, properties, method)."""
    came, start = [], time.monotonic()

    def on_message(_channel, method, properties, body):
        came.append((body.decode(), time.monotonic() - start, properties, method))

    channel.basic_consume(queue, on_message, auto_ack=True)
    return came


def wait_here(connection, condition, timeout=10):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        connection.process_data_events(0.005)


@WORKERS
def test_each_comes_when_it_is_due(own_broker, workers):
    """The exact times are the simulation's business, which has a clock of its own."""
    connection = pika_connection(own_broker(settings={"workers": workers}).port)
    channel = confirmed(connection)
    for n in range(4):  # with four workers, one with each
        queue = channel.queue_declare(f"q{n}", durable=True).method.queue
        came = listen(channel, queue)
        for ms in (600, 0, 300, -1000, 2**32, "100"):
            channel.basic_publish("", queue, str(ms).encode(), delay(ms))
        wait_here(connection, lambda: len(came) == 6)
        assert [body for body, *_ in came] == ["0", "-1000", str(2**32), "100", "300", "600"]
        for body, at, _, method in came[3:]:
            assert int(body) / 1000 - 0.02 <= at < int(body) / 1000 + 0.25
            assert not method.redelivered
    connection.close()


def test_the_header_says_that_it_was_obeyed(channel, connection, queue):
    """Negative, as in RabbitMQ: so who publishes it again as it came does not wait again."""
    came = listen(channel, queue)
    channel.basic_publish("", queue, b"once", delay(50, {"other": "kept"}))
    wait_here(connection, lambda: came)
    headers = came[0][2].headers
    assert headers == {"x-delay": -50, "other": "kept"}
    channel.basic_publish("", queue, b"again", pika.BasicProperties(headers=headers))
    wait_here(connection, lambda: len(came) == 2, timeout=2)
    assert came[1][2].headers["x-delay"] == -50


@pytest.mark.parametrize("kind, bind, key", [
    ("direct", {"routing_key": "k"}, "k"), ("fanout", {}, "whatever"), ("topic", {"routing_key": "a.#"}, "a.b"),
    ("headers", {"arguments": {"x-match": "any", "h": 1}}, "")])
def test_a_delayed_exchange_routes_as_its_type(channel, connection, name, queue, kind, bind, key):
    exchange = name("x")
    arguments = {"x-delayed-type": kind}
    channel.exchange_declare(exchange, "x-delayed-message", auto_delete=True, arguments=arguments)
    channel.exchange_declare(exchange, "x-delayed-message", auto_delete=True, arguments=arguments)
    channel.queue_bind(queue, exchange, **bind)
    came = listen(channel, queue)
    channel.basic_publish(exchange, key, b"late", delay(200, {"h": 1}))
    channel.basic_publish(exchange, key, b"at once", pika.BasicProperties(headers={"h": 1}))
    wait_here(connection, lambda: len(came) == 2)
    assert [body for body, *_ in came] == ["at once", "late"]


def test_a_delayed_exchange_needs_a_type(connect, name):
    exchange = name("x")
    for arguments, text in (
            ({}, "'x-delayed-type' must be an existing exchange type"),
            ({"x-delayed-type": 7}, "'x-delayed-type' must be an existing exchange type"),
            ({"x-delayed-type": "x-delayed-message"}, "can't be used for 'x-delayed-type'")):
        text_told = fails(406, connect().channel().exchange_declare, exchange, "x-delayed-message",
                          arguments=arguments)
        assert text in text_told
    with pytest.raises((pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosedByBroker)) as caught:
        connect().channel().exchange_declare(exchange, "x-delayed-message", arguments={"x-delayed-type": "none"})
    assert "invalid exchange type 'none'" in caught.value.reply_text
    channel = connect().channel()
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    assert "received 'x-delayed-message' but current is 'direct'" in fails(
        406, channel.exchange_declare, exchange, "x-delayed-message", auto_delete=True,
        arguments={"x-delayed-type": "direct"})
    connect().channel().exchange_delete(exchange)


@WORKERS
def test_they_survive_what_may_come(own_broker, workers):
    """Killed before, and down while they are due."""
    broker = own_broker(settings={"workers": workers})
    connection = pika_connection(broker.port)
    channel = confirmed(connection)
    channel.exchange_declare("later", "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"})
    for n in range(4):
        channel.queue_declare(f"q{n}", durable=True)
        channel.queue_bind(f"q{n}", "later")
    start = time.monotonic()
    for i in range(200):
        channel.basic_publish("later", "", str(i).encode(), delay(1 if i % 2 else 2500))
    connection.close()
    broker.kill()
    broker.start()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    for n in range(4):
        wait_for(lambda: ready(channel, f"q{n}") == 100)
        assert sorted(map(int, get_all(channel, f"q{n}"))) == list(range(1, 200, 2))
    assert time.monotonic() - start < 2.4, "too slow a machine for this test"
    connection.close()
    broker.stop()
    broker.start()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    for n in range(4):
        came = []
        wait_for(lambda: came.extend(get_all(channel, f"q{n}")) or len(came) == 100)
        assert sorted(map(int, came)) == list(range(0, 200, 2))
        assert time.monotonic() - start >= 2.4
    connection.close()


def test_a_transaction_may_publish_some(channel, connection, queue):
    came = listen(connection.channel(), queue)
    channel.tx_select()
    channel.basic_publish("", queue, b"late", delay(300))
    channel.basic_publish("", queue, b"now", delay(0))
    channel.tx_commit()
    wait_here(connection, lambda: len(came) == 2)
    assert [body for body, *_ in came] == ["now", "late"]
    assert came[1][1] >= 0.28


def test_its_time_to_live_begins_when_it_is_due(channel, connection, queue):
    channel.basic_publish("", queue, b"x", delay(300, expiration="300"))
    time.sleep(0.45)
    assert ready(channel, queue) == 1
    wait_for(lambda: ready(channel, queue) == 0)


def test_dead_letters_do_not_wait(channel, connection, name, queue):
    short = channel.queue_declare(name("short"), exclusive=True, arguments={
        "x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}).method.queue
    came = listen(channel, queue)
    channel.basic_publish("", short, b"x", delay(200))
    wait_here(connection, lambda: came)
    assert came[0][2].headers["x-death"][0]["reason"] == "expired"
    assert 0.18 <= came[0][1] < 1


@WORKERS
def test_operators_see_them(managed, workers):
    broker = managed(workers=workers)
    connection = pika_connection(broker.port)
    channel = confirmed(connection)
    channel.queue_declare("q", durable=True)
    before = int(time.time() * 1000)
    for ms in (0, 3600000, 7200000):
        channel.basic_publish("", "q", str(ms).encode(), delay(ms))
    for broker_now in (broker, broker.restart()):
        _, found = ask(broker_now, "queues/%2f/q")
        assert (found["messages"], found["messages_ready"], found["messages_delayed"]) == (1, 1, 2)
        seen = browse(broker_now, "q")["messages"]
        assert [message["state"] for message in seen] == ["ready", "delayed", "delayed"]
        assert -5 <= seen[1]["due_at"] - before - 3600000 < 60000
        assert len(browse(broker_now, "q", state="delayed")["messages"]) == 2
        assert len(browse(broker_now, "q", state="ready")["messages"]) == 1
        assert browse(broker_now, "q", state="leased")["messages"] == []
        _, overview = ask(broker_now, "overview")
        assert overview["queue_totals"]["messages_delayed"] == 2
    connection = pika_connection(broker.port)
    channel = connection.channel()
    assert "not empty" in fails(406, lambda: (get_all(channel, "q"), channel.queue_delete("q", if_empty=True)))
    channel = connection.channel()
    assert channel.queue_purge("q").method.message_count == 2
    channel.queue_delete("q", if_empty=True)
    connection.close()


def test_the_api_publishes_some(managed):
    broker = managed()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare("q")
    status, _ = ask(broker, "exchanges/%2f/amq.default/publish", method="POST", body=json.dumps({
        "routing_key": "q", "payload": "x", "payload_encoding": "string",
        "properties": {"headers": {"x-delay": 400}}}).encode())
    assert status == 200
    assert ready(channel, "q") == 0
    wait_for(lambda: ready(channel, "q") == 1)
    _, properties, _ = channel.basic_get("q", auto_ack=True)
    # the API's integers have 64 bits, which pika reads as unsigned
    assert properties.headers["x-delay"] in (-400, 2**64 - 400)
    connection.close()
