"""Every method's errors, byte by byte: the reply code, whether channel or connection closes, and
the class and method that are named. What is asked for here is what RabbitMQ answers."""

import struct

import pytest

import raw_amqp
from raw_amqp import BODY, CONTENT_HEADER, METHOD, frame, method

# name, code, closes (1: the channel, 0: the connection), arguments
REFUSED = [
    ("exchange.declare", 404, 1, dict(exchange="nx", type="direct", passive=True)),
    ("exchange.declare", 403, 1, dict(exchange="amq.new", type="direct")),
    ("exchange.declare", 403, 1, dict(exchange="", type="direct")),
    ("exchange.declare", 406, 1, dict(exchange="amq.direct", type="fanout", durable=True)),
    ("exchange.declare", 406, 1, dict(exchange="amq.direct", type="direct")),
    ("exchange.delete", 403, 1, dict(exchange="amq.direct")),
    ("exchange.delete", 403, 1, dict(exchange="")),
    ("exchange.bind", 404, 1, dict(destination="nx", source="amq.direct")),
    ("exchange.bind", 404, 1, dict(destination="amq.direct", source="nx")),
    ("exchange.bind", 403, 1, dict(destination="", source="amq.direct")),
    ("exchange.unbind", 403, 1, dict(destination="", source="amq.direct")),
    ("queue.declare", 404, 1, dict(queue="nq", passive=True)),
    ("queue.declare", 403, 1, dict(queue="amq.new")),
    ("queue.declare", 406, 1, dict(queue="nq", arguments={"x-expires": 0})),
    ("queue.bind", 404, 1, dict(queue="nq", exchange="amq.direct")),
    ("queue.bind", 404, 1, dict(queue="", exchange="amq.direct")),
    ("queue.unbind", 403, 1, dict(queue="nq", exchange="")),
    ("queue.purge", 404, 1, dict(queue="nq")),
    ("queue.purge", 404, 1, dict(queue="")),
    ("queue.delete", 404, 1, dict(queue="")),
    ("basic.qos", 540, 0, dict(prefetch_size=10)),
    ("basic.consume", 404, 1, dict(queue="nq")),
    ("basic.consume", 404, 1, dict(queue="")),
    ("basic.get", 404, 1, dict(queue="nq")),
    ("basic.ack", 406, 1, dict(delivery_tag=1)),
    ("basic.ack", 406, 1, dict(delivery_tag=2**63)),
    ("basic.ack", 406, 1, dict(delivery_tag=5, multiple=True)),
    ("basic.nack", 406, 1, dict(delivery_tag=1)),
    ("basic.reject", 406, 1, dict(delivery_tag=1)),
    ("basic.recover", 540, 0, dict(requeue=False)),
    ("basic.recover-async", 540, 0, dict(requeue=False)),
    ("channel.flow", 540, 0, dict(active=False)),
    ("tx.commit", 406, 1, {}),
    ("tx.rollback", 406, 1, {}),
    # A client does not send these at all.
    ("queue.declare-ok", 503, 0, {}),
    ("connection.open", 503, 0, {}),
]


@pytest.mark.parametrize("method_name,code,closes,arguments", REFUSED,
                         ids=[f"{r[0]}-{r[1]}-{i}" for i, r in enumerate(REFUSED)])
def test_refused(raw, method_name, code, closes, arguments):
    connection = raw()
    connection.open(1)
    connection.send_method(1, method_name, **arguments)
    refusal = connection.refusal()
    assert (refusal.code, refusal.channel) == (code, closes), refusal
    class_id, method_id, _ = raw_amqp.BY_NAME[method_name]
    assert (refusal.class_id, refusal.method_id) == (class_id, method_id)
    if closes:
        connection.open(1)
        connection.call(1, "queue.declare", exclusive=True)
    else:
        assert connection.is_closed()


WORDS = {403: "ACCESS_REFUSED", 404: "NOT_FOUND", 405: "RESOURCE_LOCKED", 406: "PRECONDITION_FAILED",
         501: "FRAME_ERROR", 502: "SYNTAX_ERROR", 503: "COMMAND_INVALID", 504: "CHANNEL_ERROR",
         505: "UNEXPECTED_FRAME", 530: "NOT_ALLOWED", 540: "NOT_IMPLEMENTED"}


def ends_with(connection, code, class_id=0, method_id=0):
    """The connection closes with that code, and its text begins with the code's name."""
    refusal = connection.refusal()
    assert refusal.channel == 0, refusal
    assert (refusal.code, refusal.class_id, refusal.method_id) == (code, class_id, method_id), refusal
    assert refusal.text.startswith(f"{WORDS[code]} - "), refusal.text
    assert connection.is_closed()
    return refusal


def test_method_on_a_channel_that_was_never_opened(raw):
    connection = raw()
    connection.send_method(5, "queue.declare")
    refusal = ends_with(connection, 504, 50, 10)
    assert "expected 'channel.open'" in refusal.text


def test_method_on_a_closed_channel(raw):
    connection = raw()
    connection.open(1)
    connection.call(1, "channel.close", code=200)
    connection.send_method(1, "basic.get", queue="q")
    ends_with(connection, 504, 60, 70)


def test_channel_opened_twice(raw):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "channel.open")
    refusal = ends_with(connection, 504, 20, 10)
    assert "second 'channel.open' seen" in refusal.text


def test_channel_number_over_the_limit(raw):
    connection = raw(channel_max=10)
    for channel in range(1, 11):
        connection.open(channel)
    connection.send_method(11, "channel.open")
    ends_with(connection, 530)


def test_connection_method_on_a_channel(raw):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "connection.close")
    assert connection.refusal().code in (503, 504)


def test_channel_method_on_channel_zero(raw):
    connection = raw()
    connection.send_method(0, "queue.declare")
    ends_with(connection, 504, 50, 10)


def breaks(connection, broker, *codes):
    """What is no AMQP at all ends the connection. RabbitMQ may drop it without a word; we say why."""
    try:
        refusal = connection.refusal()
        assert refusal.code in codes and refusal.channel == 0, refusal
        assert broker.name == "rabbitmq" or \
            len(refusal.text) > len(WORDS[refusal.code]) + 3
    except raw_amqp.Closed:
        assert broker.name == "rabbitmq"


def test_unknown_method(raw, broker):
    connection = raw()
    connection.open(1)
    connection.send(frame(METHOD, 1, struct.pack(">HH", 50, 99)))
    breaks(connection, broker, 501, 502, 503, 540)


def test_unknown_class(raw, broker):
    connection = raw()
    connection.open(1)
    connection.send(frame(METHOD, 1, struct.pack(">HH", 99, 10)))
    breaks(connection, broker, 501, 502, 503, 540)


def test_method_cut_short(raw, broker):
    connection = raw()
    connection.open(1)
    connection.send(frame(METHOD, 1, method("queue.declare", queue="abc")[:8]))
    breaks(connection, broker, 501, 502)


def test_frame_without_its_end(raw):
    connection = raw()
    connection.open(1)
    connection.send(frame(METHOD, 1, method("basic.qos"), end=0))
    ends_with(connection, 501)


def test_unknown_frame_type(raw):
    connection = raw()
    connection.open(1)
    connection.send(frame(7, 1, b"x"))
    ends_with(connection, 501)


def test_oversized_frame(raw):
    connection = raw(frame_max=4096)
    connection.open(1)
    connection.send(struct.pack(">BHI", BODY, 1, 4096 + 1))
    ends_with(connection, 501)


def test_largest_frame_is_taken(raw):
    connection = raw(frame_max=4096)
    connection.open(1)
    queue = connection.call(1, "queue.declare", exclusive=True).queue
    connection.publish(1, routing_key=queue, body=b"x" * (4096 - 8))
    assert len(connection.call(1, "basic.get", queue=queue, no_ack=True).body) == 4096 - 8


def test_content_without_a_method(raw):
    for kind in (CONTENT_HEADER, BODY):
        connection = raw()
        connection.open(1)
        connection.send(frame(kind, 1, b"x" * 14))
        ends_with(connection, 505)


def test_method_where_content_belongs(raw):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "basic.publish", routing_key="q")
    connection.send_method(1, "basic.qos")
    refusal = connection.refusal()
    assert (refusal.code, refusal.channel) == (505, 0)


@pytest.mark.sluice_only
def test_body_longer_than_announced(raw):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "basic.publish", routing_key="q")
    connection.send(frame(CONTENT_HEADER, 1, raw_amqp.content_header(10)) +
                    frame(BODY, 1, b"x" * 11))
    assert "body" in ends_with(connection, 501, 60, 40).text


def test_header_of_another_class(raw):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "basic.publish", routing_key="q")
    connection.send(frame(CONTENT_HEADER, 1, raw_amqp.content_header(0, class_id=50)))
    assert connection.refusal().code == 505


def test_immediate_is_not_done(raw):
    connection = raw()
    connection.open(1)
    connection.publish(1, routing_key="q", immediate=True)
    refusal = connection.refusal()
    assert (refusal.code, refusal.channel, refusal.class_id, refusal.method_id) == (540, 0, 60, 40)


def test_publish_to_nothing(raw):
    connection = raw()
    connection.open(1)
    connection.publish(1, "nx", "k", b"body")
    refusal = connection.refusal()
    assert (refusal.code, refusal.channel, refusal.class_id, refusal.method_id) == (404, 1, 60, 40)


def test_what_comes_for_a_channel_that_is_closing_is_dropped(raw):
    """Until close-ok the peer may not yet know; its frames are no error."""
    connection = raw()
    connection.open(1)
    connection.publish(1, "nx", "k", b"body")
    for _ in range(20):
        connection.publish(1, "nx", "k", b"body")
    refusal = connection.refusal()
    assert refusal.code == 404
    connection.open(1)
    connection.call(1, "queue.declare", exclusive=True)


def test_errors_of_one_channel_leave_the_others(raw):
    connection = raw()
    connection.open(1)
    connection.open(2)
    queue = connection.call(2, "queue.declare", exclusive=True).queue
    connection.send_method(1, "basic.get", queue="nq")
    assert connection.refusal().channel == 1
    connection.publish(2, routing_key=queue, body=b"m")
    assert connection.call(2, "basic.get", queue=queue, no_ack=True).body == b"m"


def test_wrong_exchange_type(raw, broker):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "exchange.declare", exchange="x", type="nonsense")
    refusal = connection.refusal()
    assert (refusal.code, refusal.class_id, refusal.method_id) == \
        ((503 if broker.name == "rabbitmq" else 406), 40, 10)
    assert "nonsense" in refusal.text


def test_property_flags_without_end(raw, broker):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "basic.publish", routing_key="q")
    connection.send(frame(CONTENT_HEADER, 1, struct.pack(">HHQ", 60, 0, 0) + b"\xff\xff" * 20))
    breaks(connection, broker, 501, 502, *[541] * (broker.name == "rabbitmq"))


# ---- tables


def nested_table(depth):
    inside = b""
    for _ in range(depth):
        inside = raw_amqp.short_string("t") + b"F" + raw_amqp.long_string(inside)
    return inside


def test_table_nested_a_thousand_deep(raw):
    """RabbitMQ takes it; we refuse what nobody means, and neither is harmed."""
    connection = raw()
    connection.open(1)
    connection.send_method(1, "queue.declare", exclusive=True, arguments=nested_table(1000))
    try:
        connection.next("queue.declare-ok")
        assert raw is not None
    except raw_amqp.Refused as refusal:
        assert refusal.code == 502
        assert "deep" in refusal.text


def test_table_nested_a_little(raw):
    connection = raw()
    connection.open(1)
    queue = connection.call(1, "queue.declare", exclusive=True).queue
    connection.publish(1, routing_key=queue, headers=nested_table(20))
    headers = connection.call(1, "basic.get", queue=queue, no_ack=True).properties["headers"]
    for _ in range(19):
        headers = headers["t"]
    assert headers == {"t": {}}


BROKEN_TABLES = {
    "size past the end": b"\x01a" + b"S" + struct.pack(">I", 100) + b"x",
    "unknown type": b"\x01a" + b"?" + b"xxxx",
    "name past the end": b"\xffa",
    "no value": b"\x01a",
    "array past its end": b"\x01a" + b"A" + struct.pack(">I", 4) + b"S" + struct.pack(">I", 9)[:3],
}


@pytest.mark.parametrize("what", BROKEN_TABLES)
def test_broken_table(raw, broker, what):
    connection = raw()
    connection.open(1)
    connection.send_method(1, "queue.declare", exclusive=True, arguments=BROKEN_TABLES[what])
    breaks(connection, broker, 501, 502)


def test_every_type_of_field(raw):
    """What a client can put in headers comes back as it was."""
    table = b"".join(raw_amqp.short_string(kind) + kind.encode() + value for kind, value in [
        ("t", b"\x01"), ("b", b"\xff"), ("B", b"\xff"), ("s", b"\xff\xfe"), ("u", b"\xff\xfe"),
        ("I", b"\xff\xff\xff\xfe"), ("i", b"\xff\xff\xff\xfe"), ("l", b"\xff" * 8),
        ("f", struct.pack(">f", 1.5)), ("d", struct.pack(">d", -2.25)), ("D", b"\x02\x00\x00\x00\x07"),
        ("S", b"\x00\x00\x00\x03a\x00b"), ("x", b"\x00\x00\x00\x02\x00\xff"),
        ("A", b"\x00\x00\x00\x03t\x01V"), ("T", b"\x00" * 7 + b"\x05"), ("V", b""),
        ("F", b"\x00\x00\x00\x00")])
    connection = raw()
    connection.open(1)
    queue = connection.call(1, "queue.declare", exclusive=True).queue
    connection.publish(1, routing_key=queue, headers=table)
    got = connection.call(1, "basic.get", queue=queue, no_ack=True).properties["headers"]
    assert got == {"t": True, "b": -1, "B": 255, "s": -2, "u": 65534, "I": -2, "i": 2**32 - 2,
                   "l": -1, "f": 1.5, "d": -2.25, "D": (2, 7), "S": "a\0b", "x": b"\x00\xff",
                   "A": [True, None], "T": 5, "V": None, "F": {}}


# ---- the handshake


def test_wrong_protocol_header(raw):
    for header in (b"AMQP\x00\x00\x08\x00", b"AMQP\x01\x01\x00\x0a", b"AMQP\x00\x01\x00\x00"):
        connection = raw(handshake=False)
        connection.send(header)
        assert connection.socket.recv(100) == raw_amqp.HEADER
        assert connection.is_closed()


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00\x00",
                                   b"\x00" * 64])
def test_not_amqp_at_all(raw, first):
    connection = raw(handshake=False)
    connection.send(first)
    connection.socket.settimeout(12)
    assert connection.is_closed()


def test_header_in_pieces(raw):
    import time
    connection = raw(handshake=False)
    for byte in raw_amqp.HEADER:
        connection.send(bytes([byte]))
        time.sleep(0.005)
    assert connection.receive()[1].name == "connection.start"


def test_start_tells_who_is_there(raw):
    connection = raw()
    properties = connection.server_properties
    assert properties["product"] == "RabbitMQ"
    assert properties["capabilities"] == {capability: True for capability in (
        "publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
        "connection.blocked", "consumer_priorities", "authentication_failure_close",
        "per_consumer_qos", "direct_reply_to")}
    assert set(properties) >= {"version", "platform", "cluster_name", "copyright", "information"}
    tune = connection.tune
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131072, 60)


def test_mechanisms(raw):
    connection = raw(handshake=False)
    message = connection.start()
    assert {b"PLAIN", b"AMQPLAIN"} <= set(message.mechanisms.split())
    assert message.locales == b"en_US"
    assert (message.major, message.minor) == (0, 9)


def test_amqplain(raw):
    login = b"\x05LOGINS" + raw_amqp.long_string("guest") + b"\x08PASSWORDS" + \
        raw_amqp.long_string("guest")
    raw(mechanism="AMQPLAIN", response=login).open(1)


def test_wrong_password(raw):
    connection = raw(handshake=False)
    with pytest.raises(raw_amqp.Refused) as caught:
        connection.handshake(password="wrong")
    assert (caught.value.code, caught.value.class_id, caught.value.method_id) == (403, 0, 0)
    assert caught.value.text.startswith("ACCESS_REFUSED - Login was refused using authentication "
                                        "mechanism PLAIN.")


def test_wrong_password_without_the_capability(raw):
    connection = raw(handshake=False)
    with pytest.raises(raw_amqp.Closed):
        connection.handshake(password="wrong", capabilities={})


def test_unknown_user(raw):
    with pytest.raises(raw_amqp.Refused) as caught:
        raw(handshake=False).handshake(user="nobody")
    assert caught.value.code == 403


def test_unknown_mechanism(raw):
    connection = raw(handshake=False)
    with pytest.raises((raw_amqp.Refused, raw_amqp.Closed)):
        connection.handshake(mechanism="KERBEROS")


@pytest.mark.parametrize("response", [b"", b"\0guest", b"guest", b"\0\0"])
def test_broken_sasl_response(raw, response):
    with pytest.raises((raw_amqp.Refused, raw_amqp.Closed)):
        raw(handshake=False).handshake(response=response)


def test_unknown_vhost(raw):
    with pytest.raises(raw_amqp.Refused) as caught:
        raw(handshake=False).handshake(vhost="nowhere")
    assert (caught.value.code, caught.value.class_id, caught.value.method_id) == (530, 10, 40)
    assert "vhost nowhere not found" in caught.value.text


def test_tune_above_the_offer(raw):
    for wish in ({"frame_max": 131073}, {"channel_max": 2048}, {"channel_max": 0}):
        connection = raw(handshake=False)
        with pytest.raises((raw_amqp.Refused, raw_amqp.Closed)):
            connection.handshake(**wish)
            assert connection.is_closed()


def test_frame_max_too_small(raw):
    with pytest.raises((raw_amqp.Refused, raw_amqp.Closed)):
        raw(handshake=False).handshake(frame_max=4095)


def test_method_before_login(raw):
    connection = raw(handshake=False)
    connection.start()
    connection.send_method(0, "connection.open", vhost="/")
    assert connection.is_closed()


def test_update_secret(raw):
    connection = raw()
    try:
        connection.call(0, "connection.update-secret", secret=b"new", reason="because")
    except raw_amqp.Refused as refusal:
        assert refusal.code == 530 or refusal.code == 541


def test_close_is_answered(raw):
    connection = raw()
    connection.open(1)
    connection.send_method(0, "connection.close", code=200, text="bye")
    assert connection.next().name == "connection.close-ok"


# ---- heartbeats


def test_heartbeats_come(raw):
    connection = raw(heartbeat=1, timeout=5)
    kind, channel, payload = connection.receive_frame()
    assert (kind, channel, payload) == (raw_amqp.HEARTBEAT, 0, b"")


def test_silence_ends_the_connection(raw):
    connection = raw(heartbeat=1, timeout=6)
    assert connection.is_closed()


def test_heartbeats_keep_it_open(raw):
    import time
    connection = raw(heartbeat=1, timeout=6)
    for _ in range(8):
        connection.send(frame(raw_amqp.HEARTBEAT, 0, b""))
        time.sleep(0.5)
    connection.open(1)
