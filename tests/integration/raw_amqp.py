"""A small AMQP 0-9-1 client that does what it is told, right or wrong.

For tests that must send what no library would: a method out of order, a frame that is too long, a
table without an end. Frames and methods are plain tuples and dictionaries; nothing is checked on the
way out, everything on the way in.
"""

import socket
import struct

HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, CONTENT_HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE

# class id, method id, name, fields: o octet, s short, l long, q long long, S short string,
# L long string, T table, b bit
METHODS = [
    (10, 10, "connection.start", "major:o minor:o properties:T mechanisms:L locales:L"),
    (10, 11, "connection.start-ok", "properties:T mechanism:S response:L locale:S"),
    (10, 20, "connection.secure", "challenge:L"),
    (10, 21, "connection.secure-ok", "response:L"),
    (10, 30, "connection.tune", "channel_max:s frame_max:l heartbeat:s"),
    (10, 31, "connection.tune-ok", "channel_max:s frame_max:l heartbeat:s"),
    (10, 40, "connection.open", "vhost:S reserved1:S reserved2:b"),
    (10, 41, "connection.open-ok", "reserved1:S"),
    (10, 50, "connection.close", "code:s text:S class_id:s method_id:s"),
    (10, 51, "connection.close-ok", ""),
    (10, 60, "connection.blocked", "reason:S"),
    (10, 61, "connection.unblocked", ""),
    (10, 70, "connection.update-secret", "secret:L reason:S"),
    (10, 71, "connection.update-secret-ok", ""),
    (20, 10, "channel.open", "reserved1:S"),
    (20, 11, "channel.open-ok", "reserved1:L"),
    (20, 20, "channel.flow", "active:b"),
    (20, 21, "channel.flow-ok", "active:b"),
    (20, 40, "channel.close", "code:s text:S class_id:s method_id:s"),
    (20, 41, "channel.close-ok", ""),
    (40, 10, "exchange.declare", "reserved1:s exchange:S type:S passive:b durable:b auto_delete:b "
                                 "internal:b no_wait:b arguments:T"),
    (40, 11, "exchange.declare-ok", ""),
    (40, 20, "exchange.delete", "reserved1:s exchange:S if_unused:b no_wait:b"),
    (40, 21, "exchange.delete-ok", ""),
    (40, 30, "exchange.bind", "reserved1:s destination:S source:S routing_key:S no_wait:b "
                              "arguments:T"),
    (40, 31, "exchange.bind-ok", ""),
    (40, 40, "exchange.unbind", "reserved1:s destination:S source:S routing_key:S no_wait:b "
                                "arguments:T"),
    (40, 51, "exchange.unbind-ok", ""),
    (50, 10, "queue.declare", "reserved1:s queue:S passive:b durable:b exclusive:b auto_delete:b "
                              "no_wait:b arguments:T"),
    (50, 11, "queue.declare-ok", "queue:S messages:l consumers:l"),
    (50, 20, "queue.bind", "reserved1:s queue:S exchange:S routing_key:S no_wait:b arguments:T"),
    (50, 21, "queue.bind-ok", ""),
    (50, 30, "queue.purge", "reserved1:s queue:S no_wait:b"),
    (50, 31, "queue.purge-ok", "messages:l"),
    (50, 40, "queue.delete", "reserved1:s queue:S if_unused:b if_empty:b no_wait:b"),
    (50, 41, "queue.delete-ok", "messages:l"),
    (50, 50, "queue.unbind", "reserved1:s queue:S exchange:S routing_key:S arguments:T"),
    (50, 51, "queue.unbind-ok", ""),
    (60, 10, "basic.qos", "prefetch_size:l prefetch_count:s global_:b"),
    (60, 11, "basic.qos-ok", ""),
    (60, 20, "basic.consume", "reserved1:s queue:S consumer_tag:S no_local:b no_ack:b exclusive:b "
                              "no_wait:b arguments:T"),
    (60, 21, "basic.consume-ok", "consumer_tag:S"),
    (60, 30, "basic.cancel", "consumer_tag:S no_wait:b"),
    (60, 31, "basic.cancel-ok", "consumer_tag:S"),
    (60, 40, "basic.publish", "reserved1:s exchange:S routing_key:S mandatory:b immediate:b"),
    (60, 50, "basic.return", "code:s text:S exchange:S routing_key:S"),
    (60, 60, "basic.deliver", "consumer_tag:S delivery_tag:q redelivered:b exchange:S "
                              "routing_key:S"),
    (60, 70, "basic.get", "reserved1:s queue:S no_ack:b"),
    (60, 71, "basic.get-ok", "delivery_tag:q redelivered:b exchange:S routing_key:S messages:l"),
    (60, 72, "basic.get-empty", "reserved1:S"),
    (60, 80, "basic.ack", "delivery_tag:q multiple:b"),
    (60, 90, "basic.reject", "delivery_tag:q requeue:b"),
    (60, 100, "basic.recover-async", "requeue:b"),
    (60, 110, "basic.recover", "requeue:b"),
    (60, 111, "basic.recover-ok", ""),
    (60, 120, "basic.nack", "delivery_tag:q multiple:b requeue:b"),
    (85, 10, "confirm.select", "no_wait:b"),
    (85, 11, "confirm.select-ok", ""),
    (90, 10, "tx.select", ""),
    (90, 11, "tx.select-ok", ""),
    (90, 20, "tx.commit", ""),
    (90, 21, "tx.commit-ok", ""),
    (90, 30, "tx.rollback", ""),
    (90, 31, "tx.rollback-ok", ""),
]
BY_NAME = {}
BY_ID = {}
for class_id, method_id, method_name, field_text in METHODS:
    fields = [tuple(field.split(":")) for field in field_text.split()]
    BY_NAME[method_name] = (class_id, method_id, fields)
    BY_ID[class_id, method_id] = (method_name, fields)

# What most methods mean when a test does not say.
DEFAULTS = {"o": 0, "s": 0, "l": 0, "q": 0, "S": "", "L": b"", "T": {}, "b": False}

PROPERTIES = ["content_type:S", "content_encoding:S", "headers:T", "delivery_mode:o", "priority:o",
              "correlation_id:S", "reply_to:S", "expiration:S", "message_id:S", "timestamp:q",
              "type:S", "user_id:S", "app_id:S", "cluster_id:S"]


class Closed(Exception):
    """The peer closed the socket."""


class Refused(Exception):
    """connection.close or channel.close came: .code, .text, .class_id, .method_id, .channel"""

    def __init__(self, channel, arguments):
        super().__init__(f"{arguments['code']} {arguments['text']}")
        self.channel = channel
        self.code = arguments["code"]
        self.text = arguments["text"]
        self.class_id = arguments["class_id"]
        self.method_id = arguments["method_id"]


def short_string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return bytes([len(data)]) + data


def long_string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">I", len(data)) + data


def field_value(value):
    if isinstance(value, bool):
        return b"t" + bytes([value])
    if isinstance(value, int):
        return b"I" + struct.pack(">i", value) if -2**31 <= value < 2**31 else \
            b"l" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, (str, bytes)):
        return b"S" + long_string(value)
    if isinstance(value, dict):
        return b"F" + table(value)
    if isinstance(value, (list, tuple)):
        return b"A" + long_string(b"".join(field_value(v) for v in value))
    if value is None:
        return b"V"
    raise TypeError(type(value))


def table(fields):
    """A dictionary, or bytes that are to be taken for the inside of a table."""
    if isinstance(fields, bytes):
        return long_string(fields)
    return long_string(b"".join(short_string(k) + field_value(v) for k, v in fields.items()))


class Reader:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise ValueError("the broker's frame ends before its field does")
        self.at += size
        return self.data[self.at - size:self.at]

    def integer(self, size):
        return int.from_bytes(self.take(size), "big")

    def short_string(self):
        return self.take(self.integer(1)).decode("utf-8", "surrogateescape")

    def long_string(self):
        return self.take(self.integer(4))

    def table(self):
        inside = Reader(self.long_string())
        result = {}
        while inside.at < len(inside.data):
            name = inside.short_string()
            result[name] = inside.field_value()
        return result

    def field_value(self):
        kind = self.take(1).decode()
        if kind == "t":
            return bool(self.integer(1))
        if kind in "bBsuIilfdT":
            code = {"b": "b", "B": "B", "s": "h", "u": "H", "I": "i", "i": "I", "l": "q", "f": "f",
                    "d": "d", "T": "Q"}[kind]
            return struct.unpack(">" + code, self.take(struct.calcsize(">" + code)))[0]
        if kind == "D":
            return self.integer(1), self.integer(4)
        if kind in "Sx":
            data = self.long_string()
            return data.decode("utf-8", "surrogateescape") if kind == "S" else data
        if kind == "F":
            return self.table()
        if kind == "A":
            inside = Reader(self.long_string())
            values = []
            while inside.at < len(inside.data):
                values.append(inside.field_value())
            return values
        if kind == "V":
            return None
        raise ValueError(f"field of type {kind!r}")

    def fields(self, kinds):
        result = {}
        bits = None
        for name, kind in kinds:
            if kind == "b":
                if bits is None or bits[1] == 8:
                    bits = [self.integer(1), 0]
                result[name] = bool(bits[0] >> bits[1] & 1)
                bits[1] += 1
                continue
            bits = None
            if kind in "oslq":
                result[name] = self.integer({"o": 1, "s": 2, "l": 4, "q": 8}[kind])
            else:
                result[name] = {"S": self.short_string, "L": self.long_string,
                                "T": self.table}[kind]()
        return result


def encode_fields(kinds, values):
    out = b""
    bits = []

    def flush():
        nonlocal out
        if bits:
            out += bytes([sum(bit << i for i, bit in enumerate(bits))])
            bits.clear()

    for name, kind in kinds:
        value = values.pop(name, DEFAULTS[kind])
        if kind == "b":
            bits.append(bool(value))
            continue
        flush()
        if kind in "oslq":
            out += value.to_bytes({"o": 1, "s": 2, "l": 4, "q": 8}[kind], "big")
        else:
            out += {"S": short_string, "L": long_string, "T": table}[kind](value)
    flush()
    assert not values, f"no such field: {values}"
    return out


def frame(kind, channel, payload, end=FRAME_END):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def method(name, **values):
    class_id, method_id, kinds = BY_NAME[name]
    return struct.pack(">HH", class_id, method_id) + encode_fields(kinds, values)


def content_header(size, class_id=60, **properties):
    flags = 0
    values = b""
    for i, field in enumerate(PROPERTIES):
        name, kind = field.split(":")
        if name in properties:
            flags |= 1 << (15 - i)
            values += encode_fields([(name, kind)], {name: properties[name]})
    return struct.pack(">HHQH", class_id, 0, size, flags) + values


def decode_properties(data):
    reader = Reader(data)
    reader.take(12)
    flags = reader.integer(2)
    kinds = [tuple(field.split(":")) for i, field in enumerate(PROPERTIES) if flags >> (15 - i) & 1]
    return {name: reader.fields([(name, kind)])[name] for name, kind in kinds}


def content(channel, body=b"", frame_max=131072, **properties):
    """Header and body frames."""
    out = frame(CONTENT_HEADER, channel, content_header(len(body), **properties))
    room = frame_max - 8
    for at in range(0, len(body), room):
        out += frame(BODY, channel, body[at:at + room])
    return out


class Message:
    def __init__(self, name, arguments, properties, body):
        self.name, self.arguments, self.properties, self.body = name, arguments, properties, body

    def __getattr__(self, name):
        try:
            return self.arguments[name]
        except KeyError:
            raise AttributeError(name) from None


class Connection:
    """Blocking. receive() gives the next thing; call() sends a method and waits for its answer,
    keeping deliveries, confirms and returns that come in between for later."""

    def __init__(self, port, handshake=True, timeout=10, host="127.0.0.1", capabilities=None, **tune):
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = bytearray()
        self.later = []
        self.frame_max = 131072
        self.server_properties = {}
        if handshake:
            self.handshake(capabilities=capabilities, **tune)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close_socket()

    def close_socket(self):
        self.socket.close()

    # ---- out

    def send(self, data):
        self.socket.sendall(data)

    def send_method(self, channel, name, **values):
        self.send(frame(METHOD, channel, method(name, **values)))

    def publish(self, channel, exchange="", routing_key="", body=b"", mandatory=False, immediate=False,
                **properties):
        self.send(frame(METHOD, channel, method("basic.publish", exchange=exchange,
                                                routing_key=routing_key, mandatory=mandatory,
                                                immediate=immediate))
                  + content(channel, body, self.frame_max, **properties))

    # ---- in

    def fill(self):
        try:
            data = self.socket.recv(262144)
        except ConnectionResetError:
            raise Closed("reset") from None
        if not data:
            raise Closed("end")
        self.input += data

    def receive_frame(self):
        """(kind, channel, payload)"""
        while len(self.input) < 7:
            self.fill()
        kind, channel, size = struct.unpack(">BHI", self.input[:7])
        if kind == ord("A"):
            while len(self.input) < 8:
                self.fill()
            raise Closed(bytes(self.input[:8]))
        while len(self.input) < size + 8:
            self.fill()
        assert self.input[7 + size] == FRAME_END, "the broker's frame has no end"
        payload = bytes(self.input[7:7 + size])
        del self.input[:size + 8]
        return kind, channel, payload

    def receive(self):
        """(channel, Message), with its content where the method has one. Heartbeats are passed by."""
        kind, channel, payload = self.receive_frame()
        while kind == HEARTBEAT:
            kind, channel, payload = self.receive_frame()
        assert kind == METHOD, f"frame of type {kind} where a method belongs"
        reader = Reader(payload)
        name, kinds = BY_ID[reader.integer(2), reader.integer(2)]
        arguments = reader.fields(kinds)
        assert reader.at == len(payload), f"{name} has bytes behind its end"
        if name not in ("basic.deliver", "basic.return", "basic.get-ok"):
            return channel, Message(name, arguments, None, None)
        kind, other, header = self.receive_frame()
        assert (kind, other) == (CONTENT_HEADER, channel)
        size = int.from_bytes(header[4:12], "big")
        body = bytearray()
        while len(body) < size:
            kind, other, part = self.receive_frame()
            assert (kind, other) == (BODY, channel)
            assert len(part) + 8 <= self.frame_max
            body += part
        return channel, Message(name, arguments, decode_properties(header), bytes(body))

    ASYNCHRONOUS = ("basic.deliver", "basic.return", "basic.ack", "basic.nack", "basic.cancel",
                    "connection.blocked", "connection.unblocked", "channel.flow")

    def next(self, *names, channel=None):
        """The next message of that name (any, without names), what is kept for later first."""
        for i, (at, message) in enumerate(self.later):
            if (not names or message.name in names) and channel in (None, at):
                del self.later[i]
                return message
        while True:
            at, message = self.receive()
            if (not names or message.name in names) and channel in (None, at):
                return message
            if message.name == "connection.close":
                self.send_method(0, "connection.close-ok")
                raise Refused(0, message.arguments)
            if message.name == "channel.close":
                self.send_method(at, "channel.close-ok")
                raise Refused(at, message.arguments)
            assert message.name in self.ASYNCHRONOUS, \
                f"{message.name} where {' or '.join(names)} belongs"
            self.later.append((at, message))

    def call(self, channel, name, answer=None, **values):
        self.send_method(channel, name, **values)
        answers = [answer] if answer else [name + "-ok"]
        if name == "basic.get":
            answers = ["basic.get-ok", "basic.get-empty"]
        return self.next(*answers, channel=channel)

    def refusal(self):
        """Waits for connection.close or channel.close and answers it."""
        try:
            while True:
                at, message = self.receive()
                if message.name == "connection.close":
                    self.send_method(0, "connection.close-ok")
                    return Refused(0, message.arguments)
                if message.name == "channel.close":
                    self.send_method(at, "channel.close-ok")
                    return Refused(at, message.arguments)
        except Refused as refused:
            return refused

    def is_closed(self):
        """Waits for the end of the stream; whatever still comes is dropped."""
        try:
            while True:
                self.fill()
        except (Closed, ConnectionError):
            return True
        except socket.timeout:
            return False

    # ---- the usual

    def start(self, header=HEADER):
        self.send(header)
        _, message = self.receive()
        assert message.name == "connection.start"
        self.server_properties = message.arguments["properties"]
        return message

    def handshake(self, user="guest", password="guest", vhost="/", capabilities=None, channel_max=2047,
                  frame_max=131072, heartbeat=0, mechanism="PLAIN", response=None):
        self.start()
        if capabilities is None:
            capabilities = {"publisher_confirms": True, "consumer_cancel_notify": True,
                            "basic.nack": True, "connection.blocked": True,
                            "authentication_failure_close": True}
        if response is None:
            response = f"\0{user}\0{password}"
        self.send_method(0, "connection.start-ok", mechanism=mechanism, response=response,
                         locale="en_US", properties={"capabilities": capabilities})
        self.tune = self.next("connection.tune")
        self.frame_max = frame_max
        self.send_method(0, "connection.tune-ok", channel_max=channel_max, frame_max=frame_max,
                         heartbeat=heartbeat)
        self.call(0, "connection.open", vhost=vhost)

    def open(self, channel=1):
        self.call(channel, "channel.open")
        return channel

    def close(self):
        self.call(0, "connection.close", code=200, text="bye")
        self.close_socket()
