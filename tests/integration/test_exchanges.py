"""Routing by each type of exchange, bindings between exchanges, alternates, copies."""

import pika
import pytest

from helpers import fails, get_all

Properties = pika.BasicProperties


def queue_on(channel, exchange, *keys, arguments=None):
    queue = channel.queue_declare("", exclusive=True).method.queue
    for key in keys:
        channel.queue_bind(queue, exchange, key, arguments=arguments)
    return queue


@pytest.fixture
def exchange(channel, name):
    made = []

    def make(kind, **options):
        made.append(name("x"))
        channel.exchange_declare(made[-1], kind, **options)
        return made[-1]

    yield make
    if channel.is_open:
        for each in made:
            channel.exchange_delete(each)


def test_default_exchange_routes_by_queue_name(channel, queue):
    channel.basic_publish("", queue, b"one")
    assert get_all(channel, queue) == ["one"]


def test_default_exchange_cannot_be_touched(connect, name):
    for call in (lambda c: c.queue_bind("q", "", "k"),
                 lambda c: c.exchange_delete(""),
                 lambda c: c.exchange_delete("amq.direct"),
                 lambda c: c.exchange_declare("", "direct")):
        channel = connect().channel()
        channel.queue_declare("q", auto_delete=True)
        assert "ACCESS_REFUSED" in fails(403, call, channel)
        again = channel.connection.channel()
        again.queue_delete("q")


def test_direct(channel, exchange):
    x = exchange("direct")
    a = queue_on(channel, x, "red", "green")
    b = queue_on(channel, x, "red")
    for key in ("red", "green", "blue"):
        channel.basic_publish(x, key, key.encode())
    assert get_all(channel, a) == ["red", "green"]
    assert get_all(channel, b) == ["red"]


def test_a_queue_bound_twice_gets_one_copy(channel, exchange):
    x = exchange("topic")
    q = queue_on(channel, x, "a.*", "*.b", "#")
    channel.basic_publish(x, "a.b", b"once")
    assert get_all(channel, q) == ["once"]


def test_fanout_ignores_keys(channel, exchange):
    x = exchange("fanout")
    queues = [queue_on(channel, x, key) for key in ("", "k", "")]
    channel.basic_publish(x, "anything", b"all")
    assert [get_all(channel, q) for q in queues] == [["all"]] * 3


TOPICS = [
    ("#", "a.b.c", True), ("#", "", True), ("*", "", False), ("*", "a", True), ("*", "a.b", False),
    ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.", True), ("a.#", "a", True),
    ("a.#", "a.b.c", True), ("#.c", "a.b.c", True), ("#.c", "c", True), ("#.c", "cc", False),
    ("a.#.c", "a.c", True), ("a.#.c", "a.b.b.c", True), ("a.#.c", "a.b.d", False),
    ("*.b.*", "a.b.c", True), ("*.b.*", "a.b", False), ("#.#", "", True), ("#.*", "", False),
    ("*.#", "", False), ("#.*.#", "a", True), ("*.*", "a", False), ("a", "a", True),
    ("a", "A", False), ("..", "..", True), ("*.*.*", "..", True), ("a*", "a*", True),
    ("a*", "ab", False), ("#a", "xa", False), ("#.a.#.a.#", "a.a", True),
    ("#.a.#.a.#", "x.a.y", False),
]


def test_topic(channel, exchange):
    x = exchange("topic")
    patterns = sorted({pattern for pattern, _, _ in TOPICS})
    queues = {pattern: queue_on(channel, x, pattern) for pattern in patterns}
    wrong = []
    for key in sorted({key for _, key, _ in TOPICS}):
        channel.basic_publish(x, key, b"m")
        got = {p: bool(get_all(channel, q)) for p, q in queues.items()}
        wrong += [(p, k, got[p]) for p, k, expected in TOPICS if k == key and got[p] != expected]
    assert wrong == []


def test_topic_after_unbind(channel, exchange):
    x = exchange("topic")
    q = queue_on(channel, x, "a.#", "a.*.c")
    channel.queue_unbind(q, x, "a.#")
    channel.basic_publish(x, "a.b", b"no")
    channel.basic_publish(x, "a.b.c", b"yes")
    assert get_all(channel, q) == ["yes"]


HEADERS = [
    # binding, message, matches
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x"}, True),
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 2}, True),
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "y"}, False),
    ({"a": 1, "b": "x"}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": "x"}, {"a": 1}, True),
    ({"x-match": "any", "a": 1, "b": "x"}, {"b": "x", "a": 2}, True),
    ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2}, False),
    ({"x-match": "all", "a": None}, {"a": "whatever"}, True),
    ({"x-match": "all", "a": None}, {"b": 1}, False),
    ({"x-match": "all"}, {"a": 1}, True),
    ({"x-match": "all"}, {}, True),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"x-match": "all", "x-a": 1, "b": 1}, {"b": 1}, True),
    ({"x-match": "all-with-x", "x-a": 1, "b": 1}, {"b": 1}, False),
    ({"x-match": "all-with-x", "x-a": 1, "b": 1}, {"b": 1, "x-a": 1}, True),
    ({"x-match": "any", "x-a": 1, "b": 1}, {"x-a": 1}, False),
    ({"x-match": "any-with-x", "x-a": 1, "b": 1}, {"x-a": 1}, True),
    ({"x-match": "all", "f": True}, {"f": True}, True),
    ({"x-match": "all", "f": True}, {"f": False}, False),
    ({"x-match": "all", "n": 5}, {"n": 5_000_000_000}, False),
    ({"x-match": "all", "n": 5}, {"n": "5"}, False),
]


def test_headers(channel, exchange):
    wrong = []
    for binding, headers, expected in HEADERS:
        x = exchange("headers")
        q = queue_on(channel, x, "", arguments=binding)
        channel.basic_publish(x, "", b"m", Properties(headers=headers))
        if bool(get_all(channel, q)) != expected:
            wrong.append((binding, headers, expected))
    assert wrong == []


def test_headers_refuses_unknown_match(channel, exchange, queue):
    x = exchange("headers")
    text = fails(406, channel.queue_bind, queue, x, "", arguments={"x-match": "some"})
    assert "x-match" in text


def test_predeclared_exchanges(connect):
    for name, kind in (("amq.direct", "direct"), ("amq.fanout", "fanout"), ("amq.topic", "topic"),
                       ("amq.headers", "headers"), ("amq.match", "headers")):
        connect().channel().exchange_declare(name, kind, durable=True)


def test_exchange_to_exchange(channel, exchange):
    source, target = exchange("direct"), exchange("topic")
    q = queue_on(channel, target, "a.#")
    channel.exchange_bind(target, source, "a.b")
    channel.basic_publish(source, "a.b", b"through")
    channel.basic_publish(source, "a.c", b"not bound")
    assert get_all(channel, q) == ["through"]
    channel.exchange_unbind(target, source, "a.b")
    channel.basic_publish(source, "a.b", b"unbound")
    assert get_all(channel, q) == []


def test_exchanges_bound_in_a_ring_end(channel, exchange):
    a, b = exchange("fanout"), exchange("fanout")
    channel.exchange_bind(a, b)
    channel.exchange_bind(b, a)
    q = queue_on(channel, b, "")
    channel.basic_publish(a, "", b"once")
    assert get_all(channel, q) == ["once"]


def test_alternate_exchange(channel, exchange):
    other = exchange("fanout")
    x = exchange("direct", arguments={"alternate-exchange": other})
    known, rest = queue_on(channel, x, "known"), queue_on(channel, other, "")
    channel.basic_publish(x, "known", b"known")
    channel.basic_publish(x, "unknown", b"unknown")
    assert get_all(channel, known) == ["known"]
    assert get_all(channel, rest) == ["unknown"]


def test_alternate_exchange_counts_as_routed(channel, exchange):
    other = exchange("fanout")
    queue_on(channel, other, "")
    x = exchange("direct", arguments={"alternate-exchange": other})
    channel.confirm_delivery()
    channel.basic_publish(x, "unknown", b"m", mandatory=True)


def test_copies(channel, exchange):
    x = exchange("direct")
    a, b, c = (queue_on(channel, x, key) for key in "abc")
    channel.basic_publish(x, "a", b"m", Properties(headers={"CC": ["b"], "BCC": ["c"], "h": 1}))
    for q in (a, b, c):
        method, properties, body = channel.basic_get(q, auto_ack=True)
        assert body == b"m"
        assert method.routing_key == "a"
        assert properties.headers == {"CC": ["b"], "h": 1}


def test_copies_of_one_queue_are_one(channel, queue):
    channel.basic_publish("", queue, b"m", Properties(headers={"CC": [queue, queue]}))
    assert get_all(channel, queue) == ["m"]


def test_internal_exchange_takes_no_publishes(channel, exchange):
    x = exchange("direct", internal=True)
    channel.basic_publish(x, "k", b"m")
    assert "internal" in fails(403, channel.queue_declare, "", exclusive=True)


def test_redeclare_with_other_properties(connect, name):
    x = name("x")
    setup = connect().channel()
    setup.exchange_declare(x, "direct")
    setup.exchange_declare(x, "direct")
    for options, what in (({"exchange_type": "topic"}, "type"), ({"durable": True}, "durable"),
                          ({"auto_delete": True}, "auto_delete"), ({"internal": True}, "internal")):
        text = fails(406, connect().channel().exchange_declare, x, **options)
        assert f"inequivalent arg '{what}'" in text
    setup.exchange_delete(x)


def test_passive_declare(connect, name):
    x = name("x")
    text = fails(404, connect().channel().exchange_declare, x, passive=True)
    assert f"no exchange '{x}' in vhost '/'" in text
    channel = connect().channel()
    channel.exchange_declare(x, "topic", durable=True)
    channel.exchange_declare(x, "direct", passive=True)
    channel.exchange_delete(x)


def test_auto_delete_exchange_goes_with_its_last_binding(connect, exchange, channel, name):
    x = name("x")
    channel.exchange_declare(x, "direct", auto_delete=True)
    q = queue_on(channel, x, "a", "b")
    channel.queue_unbind(q, x, "a")
    channel.exchange_declare(x, passive=True)
    channel.queue_unbind(q, x, "b")
    assert "no exchange" in fails(404, channel.exchange_declare, x, passive=True)


def test_delete_if_unused(connect, channel, name):
    x = name("x")
    channel.exchange_declare(x, "direct")
    q = queue_on(channel, x, "k")
    assert "in use" in fails(406, connect().channel().exchange_delete, x, if_unused=True)
    channel.queue_unbind(q, x, "k")
    channel.exchange_delete(x, if_unused=True)
    channel.exchange_delete(x)


def test_deleted_exchange_takes_its_bindings_along(channel, exchange, name):
    x = name("x")
    channel.exchange_declare(x, "direct")
    q = queue_on(channel, x, "k")
    channel.exchange_delete(x)
    channel.exchange_declare(x, "direct")
    channel.basic_publish(x, "k", b"m")
    assert get_all(channel, q) == []
    channel.exchange_delete(x)


def test_publish_to_no_exchange_closes_the_channel(channel, connect, name):
    x = name("x")
    channel.basic_publish(x, "k", b"m")
    assert f"no exchange '{x}'" in fails(404, channel.queue_declare, "", exclusive=True)


def test_reserved_names(connect, name):
    assert "reserved" in fails(403, connect().channel().exchange_declare, "amq.mine")
    assert "reserved" in fails(403, connect().channel().queue_declare, "amq.mine")


def test_bind_to_what_is_not_there(connect, name):
    channel = connect().channel()
    q = channel.queue_declare("", exclusive=True).method.queue
    assert "no exchange" in fails(404, channel.queue_bind, q, name("x"), "k")
    assert "no queue" in fails(404, connect().channel().queue_bind, name("q"), "amq.direct", "k")
    # Of two that are missing RabbitMQ names the source.
    assert "no exchange" in fails(404, connect().channel().queue_bind, name("q"), name("x"), "k")
    assert "no exchange" in fails(404, connect().channel().exchange_bind, name("x"), "amq.direct")


def test_unbind_what_is_not_bound_is_done(channel, queue):
    channel.queue_unbind(queue, "amq.direct", "never")


def test_bindings_differ_by_arguments(channel, exchange):
    x = exchange("headers")
    q = queue_on(channel, x, "", arguments={"a": 1})
    channel.queue_bind(q, x, "", arguments={"b": 1})
    channel.queue_unbind(q, x, "", arguments={"a": 1})
    channel.basic_publish(x, "", b"a", Properties(headers={"a": 1}))
    channel.basic_publish(x, "", b"b", Properties(headers={"b": 1}))
    assert get_all(channel, q) == ["b"]
