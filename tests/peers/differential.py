#!/usr/bin/python3
"""Sluice against RabbitMQ of the distribution: random scripts, the same to both, step by step.

    tests/peers/differential.py [--seed 1] [--count 300] [--jobs 24] [--workers 4] [--verbose]

A script is some operations, all of them made by its seed. Each is done by both brokers;
then the script waits until both are quiet, and compares what can be observed: the answer (counts,
code and text of a refusal), confirms and returns, deliveries with properties, headers and bodies, and
for each queue how many messages and consumers it has. At its end it empties the queues and compares
what was in them. A script ends at its first disagreement. It is then repeated, and what comes in
each of three runs is told; what does not was the machine's being slow, and is counted as unsteady.

Time is the same for both because nothing depends on less than half a second of it: operations are done
in the first WINDOW_S of each PHASE_S seconds, as many as there is time for, and times to live end outside of windows, also for
dead letters that expire again (three times at most, since two queues of a script have a time to live).
A script one of whose operations did not end with its window is repeated.

What no script does, or nobody compares:

- times in x-death; x-last-death-*, which 3.10 does not write (taken out of ours);
- the header x-death in what is published: 3.10 believes it, 4 does not;
- the order of a dead letter and of what is published at the same time: scripts with dead letters publish
  one message a time, every fourth one has none and publishes several;
- several messages that come back at once, and one that is over a limit of 0, where there are consumers:
  RabbitMQ looks at limits first, we at consumers;
- the order between dead letters of several queues which a channel's end kills at once;
- what a queue with reject-publish-dlx refuses of other queues' dead letters, which RabbitMQ buries again:
  one queue of every fourth script is such a one, and there no other buries;
- BCC where dead letters are: RabbitMQ's keep going by these keys, ours only by CC;
- `redelivered`, behind the refusal of a channel that had consumers: RabbitMQ may give them something that
  comes back with the channel's end;
- a message that has to expire, where it comes above others by its priority: RabbitMQ does not look at it
  until something else happens there;
- which of two things that are wrong with one operation is told;
- which of two consumers of a queue gets what (all that they get together is compared), and the order
  between queues in which one channel's deliveries come;
- quorum queues and streams: 3.10's are another thing than 4.3's; x-expires, auto-delete
  and exclusive queues, transactions, policies: each has tests of its own, or is not there yet.

Exit status 0: they agree, and at least nine of ten operations were compared. The last line is `N passed, N failed, N skipped`, of scripts.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import random
import signal
import socket
import sys
import threading
import time

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/integration"))

import brokers  # noqa: E402
import raw_amqp  # noqa: E402

RABBITMQ_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"

OPERATIONS = 40           # of a script, behind those that declare and bind
PHASE_S = 4.2
WINDOW_S = 0.9            # of a phase; the last operation begins ROOM_S before its end
ROOM_S = 0.3
TIMES_MS = (1000, 5200, 9400)
SETTLE_S = 0.02           # between two looks that have to be alike
AGREE_S = 2.0             # in which both must have come to the same
ATTEMPTS = 3
SHARE_MIN = 0.9           # of the operations, that are compared
WORK, LOOK = 1, 2         # channels
QUEUES, EXCHANGES = 5, 4
BODY_MAX = 30
QUEUES_THAT_EXPIRE = 2
KEYS = ["a", "a.b", "a.b.c", "x", "q0", "q1", ""]
PATTERNS = KEYS + ["#", "*", "a.*", "a.#", "*.b"]


class Disagreement(Exception):
    pass


class TooSlow(Exception):
    pass


# ---- what the operations are, by a seed alone ----

class Maker:
    """Makes operations: (name, parameters), the same for both brokers."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.prefix = f"d{seed}-"
        self.queues = [f"{self.prefix}q{i}" for i in range(QUEUES)]
        self.exchanges = [f"{self.prefix}x{i}" for i in range(EXCHANGES)]
        self.bodies = 0
        self.buries = seed % 4 != 0
        self.buries_refused_alone = seed % 4 == 1

    def some(self, share):
        return self.random.random() < share

    def queue(self):
        return self.random.choice(self.queues)

    def exchange(self):
        return self.random.choice(self.exchanges)

    def key(self, keys=KEYS):
        key = self.random.choice(keys)
        return self.prefix + key if key.startswith("q") else key

    def arguments(self, queue):
        r, made = self.random, {}
        if queue in self.queues[:QUEUES_THAT_EXPIRE] and self.some(0.6):
            made["x-message-ttl"] = r.choice(TIMES_MS)
        elif self.some(0.05):
            made["x-message-ttl"] = 0
        if self.some(0.35):
            made["x-max-length"] = r.randrange(1, 5)
        if self.some(0.2):
            made["x-max-length-bytes"] = r.randrange(BODY_MAX, 90)
        if self.some(0.4):
            made["x-overflow"] = r.choice(["drop-head", "reject-publish"])
        may_bury = self.buries
        if self.buries_refused_alone:
            may_bury = queue == self.queues[-1]
            if may_bury and self.some(0.8):
                made["x-overflow"] = "reject-publish-dlx"
        if may_bury and self.some(0.6):
            made["x-dead-letter-exchange"] = r.choice(["", "", self.exchange(), self.exchange(),
                                                       self.prefix + "missing", "amq.fanout"])
            if self.some(0.6):
                made["x-dead-letter-routing-key"] = r.choice([self.queue(), self.queue(), self.key()])
        if "x-message-ttl" not in made and self.some(0.5):
            made["x-max-priority"] = r.choice([1, 2, 5, 9, 255, 0])
        if self.some(0.04):
            made[r.choice(["x-message-ttl", "x-max-length", "x-max-length-bytes",
                           "x-max-priority"])] = r.choice([-1, "many"])
        if self.some(0.02):
            made["x-overflow"] = r.choice(["sideways", 1])
        if self.some(0.02):
            made = {"x-dead-letter-routing-key": self.key()}
        return made

    def declare(self, queue=None):
        queue = queue or self.queue()
        return "declare", {"queue": queue, "durable": self.some(0.5),
                           "arguments": self.arguments(queue)}

    def declare_exchange(self, exchange=None):
        arguments = {"alternate-exchange": self.exchange()} if self.some(0.2) else {}
        return "declare_exchange", {
            "exchange": exchange or self.exchange(), "durable": self.some(0.5),
            "type": self.random.choice(["direct", "fanout", "topic", "headers"]),
            "internal": self.some(0.1), "arguments": arguments}

    def bind(self):
        arguments = {}
        if self.some(0.2):
            arguments = {"x-match": self.random.choice(["all", "any"]), "h": self.random.randrange(3)}
        return "bind", {"queue": self.queue(), "exchange": self.exchange(),
                        "routing_key": self.key(PATTERNS), "arguments": arguments}

    def unbind(self):
        return "unbind", {**self.bind()[1], "arguments": {}}

    def bind_exchange(self):
        return "bind_exchange", {"destination": self.exchange(), "source": self.exchange(),
                                 "routing_key": self.key(PATTERNS)}

    def message(self, may_be_wrong):
        r, made = self.random, {}
        self.bodies += 1
        if self.some(0.5):
            made["delivery_mode"] = r.choice([1, 2])
        if self.some(0.25):
            made["expiration"] = r.choice(["0", *map(str, TIMES_MS)])
        elif may_be_wrong and self.some(0.02):
            made["expiration"] = r.choice(["soon", "-1", ""])
        if self.some(0.3):
            made["headers"] = {"h": r.randrange(3), "list": [1, "two", {"three": 3}]}
            if self.some(0.3):
                made["headers"]["CC"] = [self.key(), self.key()]
            if not self.buries and self.some(0.1):
                made["headers"]["BCC"] = [self.key()]
        for name, value in (("message_id", f"id-{self.bodies}"), ("content_type", "text/plain"),
                            ("timestamp", 1700000000),
                            ("correlation_id", "c"), ("reply_to", "r"), ("type", "t"),
                            ("app_id", "a"), ("user_id", "guest")):
            if self.some(0.15):
                made[name] = value
        if "expiration" not in made and self.some(0.5):
            made["priority"] = r.randrange(12)
        body = f"{self.bodies}-".encode().ljust(r.choice([0, 0, 10, BODY_MAX]), b".")
        return body, made

    def publish(self):
        """One to four messages: at a time, where no dead letter can come in between."""
        to_queue = self.some(0.6)
        parameters = {"exchange": "" if to_queue else self.exchange(),
                      "key": self.queue() if to_queue else self.key(), "mandatory": self.some(0.3)}
        messages = [self.message(to_queue) for _ in range(self.random.randrange(1, 5))]
        if not self.buries:
            return [("publish", {**parameters, "messages": messages})]
        return [("publish", {**parameters, "messages": [message]}) for message in messages]

    def get(self):
        return "get", {"queue": self.queue(), "no_ack": self.some(0.3)}

    def settle(self):
        how = self.random.choice(["ack", "ack", "nack", "nack", "reject", "reject"])
        return "settle", {"how": how, "requeue": self.some(0.4), "which": self.random.randrange(1000),
                          "multiple": self.some(0.25), "wrong": self.some(0.03)}

    def consume(self):
        arguments = {"x-priority": self.random.randrange(3)} if self.some(0.3) else {}
        return "consume", {"queue": self.queue(), "no_ack": self.some(0.3), "arguments": arguments,
                           "prefetch": self.random.choice([0, 1, 1, 2, 3])}

    def cancel(self):
        return "cancel", {"which": self.random.randrange(1000)}

    def purge(self):
        return "purge", {"queue": self.queue()}

    def delete(self):
        return "delete", {"queue": self.queue(), "if_empty": self.some(0.3),
                          "if_unused": self.some(0.3)}

    def delete_exchange(self):
        return "delete_exchange", {"exchange": self.exchange(), "if_unused": self.some(0.3)}

    def passive(self):
        return "passive", {"queue": self.queue()}

    def recover(self):
        return "recover", {}

    def reopen(self):
        return "reopen", {}

    def beginning(self):
        made = [self.declare(queue) for queue in self.queues]
        made += [self.declare_exchange(exchange) for exchange in self.exchanges]
        return made + [self.bind() for _ in range(6)]

    def operation(self):
        shares = ((self.publish, 30), (self.get, 14), (self.settle, 20), (self.consume, 6),
                  (self.cancel, 3), (self.declare, 6), (self.declare_exchange, 2), (self.bind, 4),
                  (self.unbind, 1), (self.bind_exchange, 1), (self.purge, 2), (self.delete, 2),
                  (self.delete_exchange, 1), (self.passive, 3), (self.recover, 1), (self.reopen, 1))
        kinds, weights = zip(*shares)
        made = self.random.choices(kinds, weights)[0]()
        return made if isinstance(made, list) else [made]

    def operations(self):
        made = []
        while len(made) < OPERATIONS:
            made += self.operation()
        return made


# ---- one broker's side of a script ----

def plain_headers(headers):
    """Without what the two are known to tell in other ways: see above."""
    made = {}
    for name, value in headers.items():
        if name.startswith("x-last-death-"):
            continue
        if name == "x-death":
            value = [{k: v for k, v in death.items() if k != "time"} for death in value]
        made[name] = value
    return made


def plain(message, is_blurred):
    properties = dict(message.properties)
    if "headers" in properties:
        properties["headers"] = plain_headers(properties["headers"])
    return (message.arguments.get("exchange"), message.arguments.get("routing_key"),
            None if is_blurred else message.arguments.get("redelivered"), properties, message.body)


def in_order(value):
    """As a text that is the same for the same value, whatever the order of its tables."""
    return json.dumps(value, sort_keys=True, default=repr)


class Side:
    def __init__(self, port):
        self.port = port
        self.connection = None
        self.consumers = {}
        self.is_blurred = False  # `redelivered` is not compared any more
        self.connect()

    def connect(self):
        if self.connection:
            self.connection.close_socket()
        self.connection = raw_amqp.Connection(self.port, timeout=20)
        self.connection.open(LOOK)
        self.open_work()

    def open_work(self):
        """The channel anew: what it held has gone back, its consumers are gone."""
        self.connection.open(WORK)
        self.connection.later = []  # of the channel before, even behind its end
        self.connection.call(WORK, "confirm.select")
        self.is_blurred |= bool(self.consumers)
        self.published = 0
        self.held = []       # (queue, body, tag)
        self.consumers = {}  # tag: (queue, no_ack)
        self.had_consumers = False
        self.told = []       # what came unasked, not compared yet

    def call(self, name, answer=None, **values):
        return self.connection.call(WORK, name, answer, **values)

    def do(self, name, parameters):
        """The answer, as something that can be compared."""
        try:
            answer = getattr(self, name)(**parameters)
            self.call("channel.flow", active=True)  # what has no answer may have a refusal
            return answer
        except raw_amqp.Refused as refused:
            if refused.channel == 0:
                self.connect()
            else:
                self.open_work()
            return ("refused", refused.channel, refused.code, refused.text)

    # ---- operations

    def declare(self, queue, durable, arguments):
        ok = self.call("queue.declare", queue=queue, durable=durable, arguments=arguments)
        return ("declared", ok.messages, ok.consumers)

    def passive(self, queue):
        ok = self.call("queue.declare", queue=queue, passive=True)
        return ("declared", ok.messages, ok.consumers)

    def declare_exchange(self, **parameters):
        return self.call("exchange.declare", **parameters).name

    def bind(self, **parameters):
        return self.call("queue.bind", **parameters).name

    def unbind(self, **parameters):
        return self.call("queue.unbind", **parameters).name

    def bind_exchange(self, **parameters):
        return self.call("exchange.bind", **parameters).name

    def delete_exchange(self, **parameters):
        return self.call("exchange.delete", **parameters).name

    def delete(self, **parameters):
        return ("deleted", self.call("queue.delete", **parameters).messages)

    def purge(self, queue):
        return ("purged", self.call("queue.purge", queue=queue).messages)

    def publish(self, exchange, key, mandatory, messages):
        first = self.published + 1
        for body, properties in messages:
            self.connection.publish(WORK, exchange, key, body, mandatory, **properties)
        self.published += len(messages)
        answers = {}
        while len(answers) < len(messages):
            confirm = self.connection.next("basic.ack", "basic.nack", channel=WORK)
            lowest = min(set(range(first, self.published + 1)) - set(answers))
            tags = range(lowest if confirm.multiple else confirm.delivery_tag,
                         confirm.delivery_tag + 1)
            answers.update({tag: confirm.name for tag in tags if tag not in answers})
        return [answers[tag] for tag in sorted(answers)]

    def get(self, queue, no_ack):
        got = self.call("basic.get", queue=queue, no_ack=no_ack)
        if got.name == "basic.get-empty":
            return "empty"
        if not no_ack:
            self.held.append((queue, got.body, got.delivery_tag))
        return ("got", got.messages, *plain(got, self.is_blurred))

    def settle(self, how, requeue, which, multiple, wrong):
        if not self.held and not wrong:
            return "nothing to settle"
        held = sorted(self.held)
        multiple = multiple and not (requeue and self.consumers)
        tag = 9999 if wrong else held[which % len(held)][2]
        if multiple and self.had_consumers:
            tag = 0  # all, since their order may be another there
        if how == "ack":
            self.connection.send_method(WORK, "basic.ack", delivery_tag=tag, multiple=multiple)
        elif how == "nack":
            self.connection.send_method(WORK, "basic.nack", delivery_tag=tag, multiple=multiple,
                                        requeue=requeue)
        else:
            multiple = False
            tag = tag or held[which % len(held)][2]
            self.connection.send_method(WORK, "basic.reject", delivery_tag=tag, requeue=requeue)
        gone = [h for h in held if h[2] == tag or (multiple and (h[2] <= tag or tag == 0))]
        self.held = [h for h in self.held if h not in gone]
        return ("settled", sorted(h[:2] for h in gone))

    def consume(self, queue, no_ack, arguments, prefetch):
        self.call("basic.qos", prefetch_count=prefetch)
        tag = f"consumer-{len(self.consumers)}-{queue}"
        if tag in self.consumers:
            return "one tag too often"
        self.consumers[tag] = (queue, no_ack)
        self.had_consumers = True
        self.call("basic.consume", queue=queue, consumer_tag=tag, no_ack=no_ack,
                  arguments=arguments)
        return "consuming"

    def cancel(self, which):
        if not self.consumers:
            return "nobody to cancel"
        tag = sorted(self.consumers)[which % len(self.consumers)]
        self.call("basic.cancel", consumer_tag=tag)
        return ("cancelled", tag)

    def recover(self):
        if self.consumers:
            return "not with consumers"
        self.call("basic.recover", requeue=True)
        self.held = []
        return "recovered"

    def reopen(self):
        for tag in list(self.consumers):
            self.call("basic.cancel", consumer_tag=tag)
        self.take_unasked()
        self.consumers = {}
        self.call("channel.close", code=200, text="bye")
        self.open_work()
        return "opened"

    # ---- looking

    def take_unasked(self):
        """Deliveries, returns and cancellations that have come: kept in self.told."""
        self.call("channel.flow", active=True)
        for at, message in self.connection.later:
            if message.name == "basic.deliver":
                queue, no_ack = self.consumers.get(message.consumer_tag, ("?", True))
                self.told.append(("delivered", queue, *plain(message, self.is_blurred)))
                if not no_ack:
                    self.held.append((queue, message.body, message.delivery_tag))
            elif message.name == "basic.return":
                self.told.append(("returned", message.code, message.text,
                                  *plain(message, self.is_blurred)))
            elif message.name == "basic.cancel":
                self.told.append(("cancelled by the broker", message.consumer_tag))
                self.consumers.pop(message.consumer_tag, None)
            else:
                raise AssertionError(message.name)
        self.connection.later = []

    def counts(self, queues):
        for queue in queues:
            self.connection.send_method(LOOK, "queue.declare", queue=queue, passive=True)
        made = []
        for _ in queues:
            ok = self.connection.next("queue.declare-ok", channel=LOOK)
            made.append((ok.queue, ok.messages, ok.consumers))
        return made

    def told_sorted(self):
        """By queue; of each queue in the order in which it came, unless several consumers share it."""
        shared = collections.Counter(queue for queue, _ in self.consumers.values())
        delivered = [each for each in self.told if each[0] == "delivered"]
        other = [each for each in self.told if each[0] != "delivered"]
        delivered.sort(key=lambda each: (each[1], in_order(each) if shared[each[1]] > 1 else ""))
        return other, delivered


# ---- both ----

class Script:
    def __init__(self, seed, ports, verbose):
        self.maker = Maker(seed)
        self.sides = [Side(port) for port in ports]
        self.there = set()  # queues
        self.compared = collections.Counter()
        self.verbose = verbose
        self.history = []

    def agree(self, what, answers):
        if answers[0] != answers[1]:
            raise Disagreement(f"{what}:\n      sluice   {answers[0]}\n      rabbitmq {answers[1]}")

    def quiesce(self):
        """Both are quiet and tell the same, or never will."""
        deadline = time.monotonic() + AGREE_S
        queues = sorted(self.there)
        before = None
        while True:
            for side in self.sides:
                side.take_unasked()
            now = [(side.counts(queues), side.told_sorted()) for side in self.sides]
            if now[0] == now[1] and now == before:
                break
            if time.monotonic() > deadline:
                self.agree("the counts", [each[0] for each in now])
                self.agree("what came unasked", [each[1] for each in now])
                raise TooSlow("not quiet")
            before = now
            time.sleep(SETTLE_S)
        for side in self.sides:
            side.told = []

    def note(self, name, parameters, answer):
        refused = isinstance(answer, tuple) and answer[0] == "refused"
        if name == "declare" and not refused:
            self.there.add(parameters["queue"])
        if name == "delete" and not refused:
            self.there.discard(parameters["queue"])
        if name == "cancel" and isinstance(answer, tuple) and not refused:
            for side in self.sides:
                side.take_unasked()
                side.consumers.pop(answer[1], None)

    def do(self, operation):
        name, parameters = operation
        self.history.append(operation)
        answers = [side.do(name, parameters) for side in self.sides]
        if self.verbose:
            print(name, parameters, answers[0], flush=True)
        self.agree(f"{name} {parameters}", answers)
        self.note(name, parameters, answers[0])
        self.quiesce()
        self.compared[name] += 1

    def phase(self, began, operations):
        """As many of them as there is time for; until the next one begins."""
        while operations and time.monotonic() < began + WINDOW_S - ROOM_S:
            self.do(operations.popleft())
            if time.monotonic() > began + WINDOW_S:
                raise TooSlow(f"{time.monotonic() - began:.2f} s for a phase's operations")
        time.sleep(max(0, began + PHASE_S - 0.1 - time.monotonic()))
        self.quiesce()
        if time.monotonic() > began + PHASE_S + ROOM_S:
            raise TooSlow("the next phase should have begun")
        time.sleep(max(0, began + PHASE_S - time.monotonic()))

    def run(self):
        for operation in self.maker.beginning():
            self.do(operation)
        operations = collections.deque(self.maker.operations())
        began = time.monotonic()
        while operations:
            self.phase(began, operations)
            began += PHASE_S
        self.empty()

    def empty(self):
        """In order, unless dead letters of several queues may have come at once."""
        self.do(("reopen", {}))
        for queue in sorted(self.there):
            parameters = {"queue": queue, "no_ack": True}
            found = [[], []]
            for side, messages in zip(self.sides, found):
                while (got := side.do("get", parameters))[0] == "got":
                    messages.append(in_order(got[2:] if self.maker.buries else got))
                messages.append(got)
            if self.maker.buries:
                found = [sorted(messages[:-1]) + messages[-1:] for messages in found]
            self.agree(f"all of {queue}", found)

    def clean(self):
        for side in self.sides:
            try:
                side.connect()
                for queue in self.maker.queues:
                    side.do("delete", {"queue": queue})
                for exchange in self.maker.exchanges:
                    side.do("delete_exchange", {"exchange": exchange})
                side.connection.close()
            except (OSError, raw_amqp.Closed, raw_amqp.Refused):
                side.connection.close_socket()


class Sums:
    def __init__(self):
        self.lock = threading.Lock()
        self.passed, self.unsteady, self.slow_runs, self.slow_scripts = 0, 0, 0, 0
        self.failed = {}
        self.compared = collections.Counter()
        self.not_compared = collections.Counter()


def run_script(seed, ports, verbose, sums):
    """Three times, unless it agrees before."""
    told, slow, script = [], 0, None
    while len(told) < ATTEMPTS and slow < 2 * ATTEMPTS:
        script = Script(seed, ports, verbose)
        try:
            script.run()
            break
        except Disagreement as disagreement:
            told.append(f"after {len(script.history)} operations: {disagreement}")
        except (TooSlow, socket.timeout):
            slow += 1
        finally:
            script.clean()
    else:
        with sums.lock:
            if len(told) == ATTEMPTS:
                sums.failed[seed] = told[-1]
            else:
                sums.slow_scripts += 1
            sums.compared += script.compared
            maker = Maker(seed)
            rest = maker.beginning() + maker.operations()
            sums.not_compared += collections.Counter(
                name for name, _ in rest[sum(script.compared.values()):])
            print(f"seed {seed}: {told[-1] if len(told) == ATTEMPTS else 'too slow'}", flush=True)
        return
    with sums.lock:
        sums.passed += 1
        sums.unsteady += len(told)
        sums.slow_runs += slow
        sums.compared += script.compared


def start(kind, settings):
    broker = kind(settings=settings)
    try:
        return broker.start()
    except BaseException:
        broker.kill()
        broker.remove()
        raise


def report(sums):
    """The share that was compared."""
    compared, missing = sum(sums.compared.values()), sum(sums.not_compared.values())
    total = compared + missing
    print(f"{total} operations, {compared} compared ({100 * compared / max(total, 1):.1f} %): " +
          ", ".join(f"{name} {count}" for name, count in sorted(sums.compared.items())))
    if missing:
        print("not compared, since they come after a disagreement or the machine was slow: " +
              ", ".join(f"{name} {count}" for name, count in sorted(sums.not_compared.items())))
    print(f"{sums.unsteady} disagreements did not come again, {sums.slow_runs} runs were too slow")
    print(f"{sums.passed} passed, {len(sums.failed)} failed, {sums.slow_scripts} skipped")
    return compared / max(total, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=24, help="scripts at a time")
    parser.add_argument("--workers", type=int, default=4, help="of sluice")
    parser.add_argument("--verbose", action="store_true", help="each operation with its answer")
    options = parser.parse_args()
    if not os.path.exists(RABBITMQ_SERVER):
        print(f"there is no {RABBITMQ_SERVER} to compare with: tools/install-packages peers")
        print(f"0 passed, 0 failed, {options.count} skipped")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without ending the brokers
    sums, running = Sums(), []
    try:
        running.append(start(brokers.Sluice, {"workers": options.workers}))
        running.append(start(brokers.RabbitMQ, {}))
        ports = [broker.port for broker in running]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for done in [pool.submit(run_script, seed, ports, options.verbose, sums)
                         for seed in range(options.seed, options.seed + options.count)]:
                done.result()
    finally:
        for broker in running:
            broker.kill()
            broker.remove()
    share = report(sums)
    return 1 if sums.failed or share < SHARE_MIN else 0


if __name__ == "__main__":
    sys.exit(main())
