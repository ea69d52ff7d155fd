"""Where connections come to live in a broker with several workers.

The broker gives each connection to the worker with the fewest. So a few connections that do nothing,
all of them with one worker, send those that come next to the other."""

import time

import amqp091


def established(port):
    """Connections to that port of 127.0.0.1, as the system counts them."""
    wanted = "0100007F:%04X" % port
    with open("/proc/net/tcp", encoding="utf-8") as table:
        return sum(fields[2] == wanted and fields[3] == "01"
                   for fields in (line.split() for line in table))


def await_established(port, count):
    deadline = time.monotonic() + 60
    while established(port) < count:
        if time.monotonic() > deadline:
            raise RuntimeError("there are no %d connections" % count)
        time.sleep(0.005)


class Weights:
    """Idle connections in pairs: one of each pair is with the one worker of two, the other with the
    other, since each goes where there are fewer."""

    PAIRS = 8

    def __init__(self, broker):
        self.sides = ([], [])
        for i in range(2 * self.PAIRS):
            self.sides[i % 2].append(amqp091.Connection(broker.port))
        time.sleep(0.2)

    def lift(self, side, rest=0):
        """Leaves so many there: the next connections go to that side."""
        while len(self.sides[side]) > rest:
            self.sides[side].pop().close()
        time.sleep(0.5)  # until the broker has seen them close

    def close(self):
        for side in (0, 1):
            self.lift(side)
