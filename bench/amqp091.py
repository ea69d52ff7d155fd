"""Just enough AMQP 0-9-1 for the scripts beside this file: frames are made by hand, so that a
hundred thousand requests go out as one piece of bytes."""

import socket
import struct

GREETING = b"AMQP\0\0\x09\x01"


def short(text):
    text = text.encode()
    return bytes([len(text)]) + text


def method(channel, klass, number, arguments=b""):
    payload = struct.pack(">HH", klass, number) + arguments
    return struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce"


def log_in(user, password):
    """All that a client has to say until its first channel is open, before it hears anything."""
    answer = b"\0" + user.encode() + b"\0" + password.encode()
    start_ok = (struct.pack(">I", 0) + short("PLAIN") + struct.pack(">I", len(answer)) + answer +
                short("en_US"))
    return (GREETING + method(0, 10, 11, start_ok) +
            method(0, 10, 31, struct.pack(">HIH", 16, 131072, 0)) +
            method(0, 10, 40, short("/") + b"\0\0") + method(1, 20, 10, b"\0"))


def declare(channel, queue, durable):
    return method(channel, 50, 10, b"\0\0" + short(queue) + bytes([2 if durable else 0]) +
                  struct.pack(">I", 0))


def purge(channel, queue):
    return method(channel, 50, 30, b"\0\0" + short(queue) + b"\0")


def consume(channel, queue):
    return method(channel, 60, 20, b"\0\0" + short(queue) + short("") + b"\0" +
                  struct.pack(">I", 0))


def prefetch(channel, count):
    return method(channel, 60, 10, struct.pack(">IHB", 0, count, 0))


def ack_up_to(channel, tag):
    return method(channel, 60, 80, struct.pack(">QB", tag, 1))


class Frames:
    """What has come, cut into frames."""

    def __init__(self):
        self.bytes = bytearray()

    def add(self, received):
        """(class, number) of each method among them; headers and bodies go by."""
        found = []
        at = 0
        self.bytes += received
        while len(self.bytes) - at >= 8:
            kind, _, size = struct.unpack_from(">BHI", self.bytes, at)
            if len(self.bytes) - at < size + 8:
                break
            if kind == 1:
                found.append(struct.unpack_from(">HH", self.bytes, at + 7))
            at += size + 8
        del self.bytes[:at]
        return found


class Connection:
    """Blocking; with channel 1 open after the constructor."""

    def __init__(self, port, user="guest", password="guest"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self.frames = Frames()
        self.socket.sendall(log_in(user, password))
        self.await_method((20, 11))

    def await_method(self, wanted, count=1):
        while count > 0:
            received = self.socket.recv(1 << 20)
            if not received:
                raise RuntimeError("the broker has closed the connection")
            for found in self.frames.add(received):
                count -= found == wanted
                if found in ((10, 50), (20, 40)):
                    raise RuntimeError("the broker has closed: %r" % bytes(received[-200:]))

    def skip_method(self):
        """One frame, and nothing behind it."""
        head = self.receive(7)
        self.receive(struct.unpack_from(">I", head, 3)[0] + 1)

    def receive(self, size):
        received = b""
        while len(received) < size:
            received += self.socket.recv(size - len(received))
        return received

    def take(self, count, every):
        """So many deliveries, all of the same size, acknowledged by `every` at once."""
        received = bytearray()
        while len(received) < 3 or self.size_of_delivery(received) is None:
            received += self.socket.recv(1 << 20)
        size = self.size_of_delivery(received)
        bytes_so_far, acknowledged = len(received), 0
        while acknowledged < count:
            taken = bytes_so_far // size
            due = taken if taken >= count else taken - taken % every
            if due > acknowledged:
                self.socket.sendall(ack_up_to(1, due))
                acknowledged = due
            if acknowledged < count:
                bytes_so_far += len(self.socket.recv(1 << 20))
        assert bytes_so_far == count * size, "deliveries of several sizes"

    @staticmethod
    def size_of_delivery(received):
        """Of the method, the header and the body that stand at the beginning; None: not all there."""
        at = 0
        for _ in range(3):
            if len(received) < at + 7:
                return None
            at += struct.unpack_from(">I", received, at + 3)[0] + 8
        return at if len(received) >= at else None

    def close(self):
        self.socket.close()
