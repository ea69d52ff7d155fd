#!/usr/bin/python3
"""Kills the broker at random moments and looks at what is left.

    tests/crash/crash.py [--rounds N] [--seed N] [--build DIR] [--workers N] [--forget]
                         [--skip-sync data|directory] [--encrypt]

A round starts a broker in an empty directory and, a few times over, publishes with confirms and
consumes with acknowledgements, kills it, starts it again and checks each queue. Round i of --seed N
is round 0 of --seed N+i, which is how a failed one is replayed.

What is promised (docs/compatibility.md):

 1. A confirmed message is there until it is acknowledged.
 2. An acknowledgement is durable once a later publish to the same queue on the same channel is
    confirmed: that message does not come back. Without that it may, marked as redelivered.
 3. No message is there twice, none that was never published, each has the bytes it was sent with.
 4. What is there is in the order in which it was published.
 5. What had been delivered comes back as redelivered.
 6. Queues, exchanges and bindings whose declaration was answered are there.

Without --workers a round has 1 worker, or 4, or another number in each life, by its seed.

--forget puts forget_unsynced.so under the broker: everything it did not sync is lost, as in a power
cut, and some of that survives torn or out of order. --skip-sync makes syncs of files, or of
directories, do nothing: then the rounds must fail, or they would prove nothing; so a failure counts
as passed.

--encrypt gives the broker keys, another one for each life and some while it runs; then nothing that
clients named is on the disk, whenever it was killed.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/integration"))

import brokers  # noqa: E402
import raw_amqp  # noqa: E402

WINDOW_MAX = 300
LIVES = (2, 4)


class Broken(Exception):
    """A promise that was not kept."""


def body_of(thread, number, size):
    """Its number, and bytes that follow from it."""
    start = struct.pack(">II", thread, number)
    filler = struct.pack(">I", zlib.crc32(start))
    return start + (filler * (size // 4 + 1))[:size]


class QueueState:
    def __init__(self, name):
        self.name = name
        self.delivered = set()       # numbers that a client has seen
        self.acknowledged = {}       # number -> how many publishes had been sent before
        self.gone = set()            # numbers whose acknowledgement is durable


class Traffic:
    """One channel that publishes to an exchange and consumes from the queues bound to it."""

    def __init__(self, thread, seed):
        self.random = random.Random(seed)
        self.thread = thread
        self.exchange = f"exchange-{thread}"
        self.queues = [QueueState(f"queue-{thread}-{i}") for i in range(self.random.choice([1, 1, 2]))]
        self.sizes = {}              # number -> size of its body
        self.confirmed = set()
        self.is_declared = False
        self.failure = None

    # ---- the workload

    def declare(self, connection):
        """Before the broker has answered nothing is promised."""
        connection.call(1, "exchange.declare", exchange=self.exchange, type="fanout", durable=True)
        for queue in self.queues:
            connection.call(1, "queue.declare", queue=queue.name, durable=True)
            connection.call(1, "queue.bind", queue=queue.name, exchange=self.exchange)
        self.is_declared = True

    def run(self, port):
        try:
            with raw_amqp.Connection(port, timeout=30) as connection:
                connection.open(1)
                if not self.is_declared:
                    self.declare(connection)
                connection.call(1, "confirm.select")
                connection.call(1, "basic.qos", prefetch_count=self.random.choice([0, 50, 500]))
                for queue in self.queues:
                    connection.call(1, "basic.consume", queue=queue.name, consumer_tag=queue.name)
                self.publish_and_consume(connection)
        except (raw_amqp.Closed, ConnectionError, BrokenPipeError):
            pass
        except Exception as failure:  # whatever else is a finding, told by the main thread
            self.failure = failure

    def publish_and_consume(self, connection):
        numbers = {}                 # this channel's publish sequence -> number
        base = len(self.sizes)
        sent, confirmed = 0, 0
        acknowledge = self.random.choice([0.0, 0.3, 0.9, 1.0])
        window = self.random.randrange(1, WINDOW_MAX)
        large = self.random.choice([0, 0, 0.002])
        while True:
            burst = self.random.randrange(1, 50)
            while burst > 0 and sent - confirmed < window:
                number = base + sent
                size = 300_000 if self.random.random() < large else self.random.randrange(0, 3000)
                self.sizes[number] = size
                sent += 1
                burst -= 1
                numbers[sent] = number
                connection.publish(1, self.exchange, "", body_of(self.thread, number, size),
                                   delivery_mode=2)
            confirmed = self.receive_some(connection, numbers, confirmed, acknowledge, sent)

    def receive_some(self, connection, numbers, confirmed, acknowledge, sent):
        """At least one thing, and then what is there already."""
        while True:
            _, message = connection.receive()
            if message.name == "basic.ack":
                first = confirmed + 1 if message.multiple else message.delivery_tag
                for sequence in range(first, message.delivery_tag + 1):
                    self.confirm(numbers[sequence], sent)
                confirmed = max(confirmed, message.delivery_tag)
            elif message.name == "basic.deliver":
                self.deliver(connection, message, acknowledge)
            elif message.name not in ("connection.blocked", "connection.unblocked"):
                raise Broken(f"{message.name} {message.arguments}")
            if len(connection.input) < 8:
                return confirmed

    def confirm(self, number, sent):
        self.confirmed.add(number)
        for queue in self.queues:
            done = [n for n, before in queue.acknowledged.items() if before <= number]
            for n in done:
                queue.gone.add(n)
                del queue.acknowledged[n]

    def deliver(self, connection, message, acknowledge):
        queue = next(q for q in self.queues if q.name == message.consumer_tag)
        number = self.check_body(message)
        if number in queue.gone:
            raise Broken(f"{queue.name}: {number} was acknowledged for good and is delivered")
        queue.delivered.add(number)
        if self.random.random() < acknowledge:
            # It counts with the confirm of a publish that is made after this.
            queue.acknowledged[number] = len(self.sizes)
            connection.send_method(1, "basic.ack", delivery_tag=message.delivery_tag)

    def check_body(self, message):
        thread, number = struct.unpack(">II", message.body[:8])
        if thread != self.thread or number not in self.sizes:
            raise Broken(f"a message that was never published here: {message.body[:16]!r}")
        if message.body != body_of(thread, number, self.sizes[number]):
            raise Broken(f"message {number} has other bytes than were sent")
        return number

    # ---- the check, after a restart

    def check(self, port):
        if not self.is_declared:
            return
        for queue in self.queues:
            self.check_queue(port, queue)
        self.check_topology(port)

    def check_queue(self, port, queue):
        with raw_amqp.Connection(port, timeout=30) as connection:
            connection.open(1)
            count = connection.call(1, "queue.declare", queue=queue.name, passive=True).messages
            connection.call(1, "basic.consume", queue=queue.name)
            present = []
            for _ in range(count):
                message = connection.next("basic.deliver")
                number = self.check_body(message)
                if number in queue.delivered and not message.redelivered:
                    raise Broken(f"{queue.name}: {number} was delivered before, and is not marked")
                present.append(number)
        if len(set(present)) != len(present):
            twice = sorted({n for n in present if present.count(n) > 1})
            raise Broken(f"{queue.name}: twice there: {twice[:20]}")
        if present != sorted(present):
            raise Broken(f"{queue.name}: out of order: {present[:50]}")
        back = queue.gone & set(present)
        if back:
            raise Broken(f"{queue.name}: acknowledged and back: {sorted(back)[:20]}")
        lost = self.confirmed - queue.gone - set(queue.acknowledged) - set(present)
        if lost:
            raise Broken(f"{queue.name}: confirmed and lost: {sorted(lost)[:20]} "
                         f"({len(lost)} of {len(self.confirmed)})")
        # What is not there now, for whatever allowed reason, must stay away.
        queue.gone |= set(self.sizes) - set(present)
        queue.acknowledged.clear()
        queue.delivered |= set(present)

    def check_topology(self, port):
        with raw_amqp.Connection(port, timeout=30) as connection:
            connection.open(1)
            connection.call(1, "exchange.declare", exchange=self.exchange, type="fanout",
                            durable=True)
            for queue in self.queues:
                connection.call(1, "queue.declare", queue=queue.name, durable=True)


# ---- forgetting

def undo_journal(directory):
    """Takes back what was done to names and not followed by a sync of the directory."""
    path = os.path.join(directory, "journal")
    if not os.path.exists(path):
        return
    with open(path) as file:
        lines = file.read().splitlines()
    for line in reversed(lines):
        what, a, b, undo = line.split("\t")
        if what == "create" and os.path.exists(a):
            os.unlink(a)
        elif what == "unlink" and undo != "-":
            os.rename(undo, a)
        elif what == "rename" and os.path.exists(b) and not os.path.exists(a):
            os.rename(b, a)
            if undo != "-":
                os.rename(undo, b)
    os.unlink(path)


def forgetful(options, seed, directory):
    journal = os.path.join(directory, "journal")
    os.mkdir(journal)
    library = os.path.join(ROOT, options.build, "tests/crash/libforget_unsynced.so")
    if not os.path.exists(library):
        raise SystemExit(f"{library} is not built")
    environment = {"LD_PRELOAD": library, "SLUICE_FORGET_DIRECTORY": os.path.join(directory, "data"),
                   "SLUICE_FORGET_JOURNAL": journal, "SLUICE_FORGET_SEED": str(seed)}
    if options.skip_sync:
        environment["SLUICE_FORGET_SKIP"] = options.skip_sync
    return environment, journal


# ---- encryption

class Keys:
    """A key file with the newest key first, and all that were there before."""

    def __init__(self, directory, seed):
        self.random = random.Random(seed)
        self.path = os.path.join(directory, "keys")
        self.lines = []

    def add(self):
        key = self.random.getrandbits(256).to_bytes(32, "big").hex()
        self.lines.insert(0, f"{len(self.lines) + 1} {key}\n")
        with open(self.path + ".new", "w",
                  opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.writelines(self.lines)
        os.rename(self.path + ".new", self.path)

    def check(self, data):
        for folder, _, names in os.walk(data):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    if b"exchange-" in file.read():
                        raise Broken(f"{name}: an exchange's name, in the clear")


# ---- a round

def play(options, seed):
    chance = random.Random(seed)
    directory = tempfile.mkdtemp(prefix="sluice-crash-")
    environment, journal = forgetful(options, seed, directory) if options.forget else ({}, None)
    # Small segments and frequent checkpoints, so that their edges are met, too.
    settings = {"log.console.level": "info"}
    workers = options.workers or chance.choice([1, 4, None])
    broker = brokers.Sluice(directory=directory, environment=environment, settings=settings)
    traffic = [Traffic(i, chance.random()) for i in range(chance.randrange(1, 4))]
    keys = Keys(directory, seed) if options.encrypt else None
    kept = False
    try:
        broker.settings["workers"] = workers or 3
        if keys:
            keys.add()
            broker.settings["encryption.key_file"] = keys.path
        broker.start()
        for life in range(chance.randrange(*LIVES)):
            live(broker, traffic, chance, keys)
            if keys:
                keys.check(broker.data)
                keys.add()
            if journal:
                undo_journal(journal)
            broker.settings["workers"] = workers or chance.randrange(1, 6)
            broker.start()
            for each in traffic:
                each.check(broker.port)
        return sum(len(each.confirmed) for each in traffic)
    except (Broken, brokers.StartFailed, raw_amqp.Refused, raw_amqp.Closed, socket.timeout,
            ConnectionError, AssertionError) as failure:
        kept = not options.skip_sync
        raise Broken(f"{type(failure).__name__}: {failure}\n"
                     f"   log: {broker.log()[-1500:]}\n   kept: {directory}" if kept
                     else str(failure)) from failure
    finally:
        broker.kill()
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def live(broker, traffic, chance, keys):
    threads = [threading.Thread(target=each.run, args=(broker.port,)) for each in traffic]
    for thread in threads:
        thread.start()
    left = chance.choice([0.05, 0.2, 0.6]) * (0.5 + chance.random())
    if keys and keys.random.random() < 0.7:
        early = left * keys.random.random()
        time.sleep(early)
        left -= early
        keys.add()
        broker.process.send_signal(signal.SIGHUP)
    time.sleep(left)
    status = broker.process.poll()
    broker.kill()
    for thread in threads:
        thread.join()
    if status is not None:
        raise Broken(f"the broker ended by itself with {status}")
    for each in traffic:
        if each.failure:
            raise Broken(f"{type(each.failure).__name__}: {each.failure}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1_000_000_000))
    parser.add_argument("--build", default="build")
    parser.add_argument("--workers", type=int, help="always that many")
    parser.add_argument("--forget", action="store_true", help="lose what was not synced")
    parser.add_argument("--skip-sync", choices=["data", "directory"],
                        help="with --forget: such syncs do nothing, and the rounds must fail")
    parser.add_argument("--encrypt", action="store_true", help="with keys, which change")
    options = parser.parse_args()
    brokers.BUILD = os.path.join(ROOT, options.build)

    what = ("what was not synced is lost" if options.forget else "kill -9") + \
        (f", syncs of {options.skip_sync} do nothing" if options.skip_sync else "") + \
        (", encrypted" if options.encrypt else "")
    passed, failed, confirmed = 0, 0, 0
    for i in range(options.rounds):
        seed = options.seed + i
        try:
            confirmed += play(options, seed)
            passed += 1
        except Broken as failure:
            failed += 1
            if not options.skip_sync:
                print(f"   seed {seed}: {failure}")
                print(f"   again: tests/crash/crash.py --rounds 1 --seed {seed}"
                      f"{' --forget' if options.forget else ''}"
                      f"{' --encrypt' if options.encrypt else ''}", flush=True)
    if options.skip_sync:
        print(f"   {what}: {failed} of {options.rounds} rounds noticed it")
        passed, failed = (1, 0) if failed else (0, 1)
    else:
        print(f"   {what}: {options.rounds} rounds from seed {options.seed}, "
              f"{confirmed} messages confirmed")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
