"""Looking at messages of a queue without touching them, taking and publishing them, over HTTP."""

import base64
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import time
import urllib.parse

import pika
import pytest

import brokers
import helpers
from conftest import pika_connection
from test_management import RABBITMQADMIN, ask, ctl, managed  # noqa: F401

pytestmark = pytest.mark.sluice_only

WORKERS = pytest.mark.parametrize("workers", ["1", "4"])


def browse(broker, queue, **parameters):
    query = urllib.parse.urlencode({name.replace("__", "."): value for name, value in parameters.items()})
    status, answer = ask(broker, f"queues/%2f/{queue}/messages?{query}")
    assert status == 200, answer
    return answer


def numbers(answer):
    return [int(message["payload"]) for message in answer["messages"]]


def fill(broker, queue, count, **properties):
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    for n in range(count):
        channel.basic_publish("", queue, str(n).encode(), pika.BasicProperties(
            delivery_mode=2, headers={"n": n, "kind": "even" if n % 2 == 0 else "odd"},
            message_id=f"id-{n}", **properties))
    return connection


@WORKERS
def test_pages(managed, workers):
    """All of them, by cursors, on each worker's connection, in memory and after a restart."""
    broker = managed(workers=workers)
    fill(broker, "q", 300).close()
    for end in (lambda: None, lambda: (broker.stop(), broker.start())):
        end()
        for _ in range(4):
            seen, at = [], 1
            while at is not None:
                answer = browse(broker, "q", **{"from": at, "limit": 70})
                assert len(answer["messages"]) <= 70
                seen += numbers(answer)
                positions = [message["position"] for message in answer["messages"]]
                assert positions == sorted(set(positions)) and all(p >= at for p in positions)
                at = answer["next"]
            assert seen == list(range(300))
    channel = pika_connection(broker.port).channel()
    for n in range(300):
        method, _, body = channel.basic_get("q", auto_ack=True)
        assert (int(body), method.redelivered) == (n, False)


@WORKERS
def test_states(managed, workers):
    broker = managed(workers=workers)
    connection = fill(broker, "q", 10)
    channel = connection.channel()
    got = [channel.basic_get("q")[0].delivery_tag for _ in range(4)]
    channel.basic_nack(got[1])
    channel.basic_ack(got[3])
    helpers.wait_for(lambda: len(browse(broker, "q")["messages"]) == 9)
    assert numbers(browse(broker, "q", state="ready")) == [1, 4, 5, 6, 7, 8, 9]
    assert numbers(browse(broker, "q", state="leased")) == [0, 2]
    everything = browse(broker, "q")["messages"]
    assert [m["state"] for m in everything[:4]] == ["leased", "ready", "leased", "ready"]
    assert [m["redelivered"] for m in everything[:4]] == [False, True, False, False]
    assert browse(broker, "q", limit=3)["next"] == everything[2]["position"] + 1
    assert browse(broker, "q", **{"from": everything[8]["position"] + 1}) == {
        "messages": [], "next": None, "unreadable": 0}


@WORKERS
def test_filters(managed, workers):
    broker = managed(workers=workers)
    connection = fill(broker, "q", 20)
    time.sleep(0.05)
    between = int(time.time() * 1000)
    time.sleep(0.05)
    connection.channel().basic_publish("amq.fanout", "k", b"nobody")
    channel = connection.channel()
    channel.queue_bind("q", "amq.fanout")
    channel.confirm_delivery()
    channel.basic_publish("amq.fanout", "some.key", b"99", pika.BasicProperties(
        headers={"flag": True, "text": "a b&c=d"}))
    assert numbers(browse(broker, "q", header__kind="odd")) == list(range(1, 20, 2))
    assert numbers(browse(broker, "q", header__kind="odd", header__n=7)) == [7]
    assert numbers(browse(broker, "q", property__message_id="id-3")) == [3]
    assert numbers(browse(broker, "q", exchange="amq.fanout")) == [99]
    assert numbers(browse(broker, "q", routing_key="some.key")) == [99]
    assert numbers(browse(broker, "q", header__text="a b&c=d", header__flag="true")) == [99]
    assert numbers(browse(broker, "q", since=between)) == [99]
    assert numbers(browse(broker, "q", until=between)) == list(range(20))
    assert numbers(browse(broker, "q", death__queue="q")) == []
    whole = browse(broker, "q", header__n=7)["messages"][0]
    assert abs(whole.pop("arrived_at") - time.time() * 1000) < 60000
    assert whole == {
        "position": 8, "state": "ready", "redelivered": False, "returns": 0, "exchange": "",
        "routing_key": "q", "payload": "7", "payload_encoding": "string", "payload_bytes": 1,
        "properties": {"delivery_mode": 2, "message_id": "id-7",
                       "headers": {"n": 7, "kind": "odd"}}}


def test_payloads(managed):
    broker = managed()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare("q")
    channel.confirm_delivery()
    for body in (b"\xff\x00binary", "grün".encode(), b"x" * 100000, b""):
        channel.basic_publish("", "q", body)
    shown = browse(broker, "q")["messages"]
    assert (shown[0]["payload"], shown[0]["payload_encoding"]) == (
        base64.b64encode(b"\xff\x00binary").decode(), "base64")
    assert (shown[1]["payload"], shown[1]["payload_encoding"]) == ("grün", "string")
    assert (len(shown[2]["payload"]), shown[2]["payload_bytes"]) == (50000, 100000)
    assert (shown[3]["payload"], shown[3]["payload_bytes"]) == ("", 0)
    assert browse(broker, "q", truncate=3, encoding="base64", limit=3)["messages"][2]["payload"] == "eHh4"
    connection.close()


def test_what_is_refused(managed):
    broker = managed()
    fill(broker, "q", 1).close()
    for query in ("limit=0", "limit=1001", "from=x", "state=dead", "nothing=1", "header.=1",
                  "encoding=hex", "truncate=-1", "since=%zz", "from=99999999999999999999"):
        status, answer = ask(broker, f"queues/%2f/q/messages?{query}")
        assert (status, answer["error"]) == (400, "bad_request"), query
    assert ask(broker, "queues/%2f/none/messages")[0] == 404
    assert ask(broker, "queues/none/q/messages")[0] in (401, 404)
    own = pika_connection(broker.port)
    own.channel().queue_declare("mine", exclusive=True)
    assert ask(broker, "queues/%2f/mine/messages")[0] == 400


# ---- taking ----

def take(broker, queue, count=5, ackmode="ack_requeue_true", encoding="auto", **more):
    body = {"count": count, "ackmode": ackmode, "encoding": encoding, **more}
    return ask(broker, f"queues/%2f/{queue}/get", "POST", json.dumps(body).encode())


@WORKERS
def test_get(managed, workers):
    broker = managed(workers=workers)
    connection = fill(broker, "q", 50)
    channel = connection.channel()
    channel.queue_declare("dead")
    channel.queue_declare("mortal", arguments={"x-dead-letter-exchange": "",
                                               "x-dead-letter-routing-key": "dead"})
    status, got = take(broker, "q", 3)
    assert (status, [m["payload"] for m in got]) == (200, ["0", "1", "2"])
    assert [m["message_count"] for m in got] == [49, 48, 47]
    assert [m["redelivered"] for m in got] == [False] * 3
    assert got[0]["properties"] == {"delivery_mode": 2, "message_id": "id-0",
                                    "headers": {"n": 0, "kind": "even"}}
    assert (got[0]["exchange"], got[0]["routing_key"], got[0]["payload_bytes"]) == ("", "q", 1)
    got = take(broker, "q", 4, "reject_requeue_true")[1]
    assert [(m["payload"], m["redelivered"]) for m in got] == [
        ("0", True), ("1", True), ("2", True), ("3", False)]
    assert [m["payload"] for m in take(broker, "q", 2, "ack_requeue_false")[1]] == ["0", "1"]
    assert [m["payload"] for m in take(broker, "q", 100, "ack_requeue_false")[1]] == [
        str(n) for n in range(2, 50)]
    assert take(broker, "q") == (200, [])
    channel.basic_publish("", "mortal", b"dies")
    helpers.wait_for(lambda: take(broker, "mortal", 1, "reject_requeue_false")[1] != [])
    helpers.wait_for(lambda: [m["payload"] for m in take(broker, "dead")[1]] == ["dies"])


def test_get_is_refused(managed):
    broker = managed()
    fill(broker, "q", 1).close()
    assert take(broker, "none")[0] == 404
    assert take(broker, "q", encoding="hex")[0] == 400
    assert take(broker, "q", ackmode="none")[0] == 400
    assert take(broker, "q", count=0)[0] == 400
    assert take(broker, "q", count="x")[0] == 400
    assert take(broker, "q", truncate=-1)[0] == 400
    assert ask(broker, "queues/%2f/q/get", "POST", b"{}")[0] == 400
    assert take(broker, "q", count="1", truncate=0)[1][0]["payload"] == ""


def test_get_whose_client_goes(managed):
    """What it was given is in the queue again."""
    broker = managed()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare("q")
    for n in range(100):
        channel.basic_publish("", "q", bytes(200000))
    body = json.dumps({"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"})
    import socket
    with socket.create_connection(("127.0.0.1", broker.management)) as peer:
        peer.sendall(("POST /api/queues/%2f/q/get HTTP/1.1\r\nHost: x\r\nAuthorization: Basic "
                      f"Z3Vlc3Q6Z3Vlc3Q=\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
        peer.recv(1000)
        helpers.wait_for(lambda: ask(broker, "queues/%2f/q")[1]["messages_unacknowledged"] > 0)
    helpers.wait_for(lambda: ask(broker, "queues/%2f/q")[1]["messages_ready"] == 100)
    connection.close()


# ---- publishing ----

def publish(broker, exchange, **body):
    return ask(broker, f"exchanges/%2f/{exchange}/publish", "POST", json.dumps(body).encode())


@WORKERS
def test_publish(managed, workers):
    broker = managed(workers=workers)
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    # 2.0: pika reads a double as an integer
    properties = {"delivery_mode": 2, "message_id": "m", "priority": 3, "timestamp": 1700000000,
                  "headers": {"n": 1, "f": 2.0, "t": True, "none": None, "list": [1, "two", [3]],
                              "table": {"a": {"b": "c"}}}}
    assert publish(broker, "amq.default", routing_key="q", payload="text",
                   payload_encoding="string", properties=properties) == (200, {"routed": True})
    assert publish(broker, "amq.topic", routing_key="q", payload="text",
                   payload_encoding="string", properties={}) == (200, {"routed": False})
    assert publish(broker, "amq.default", routing_key="q", payload=base64.b64encode(b"\xff").decode(),
                   payload_encoding="base64", properties=[]) == (200, {"routed": True})
    broker.kill()
    broker.start()
    channel = pika_connection(broker.port).channel()
    _, got, body = channel.basic_get("q", auto_ack=True)
    assert (body, got.delivery_mode, got.message_id, got.priority, got.timestamp) == (
        b"text", 2, "m", 3, 1700000000)
    assert got.headers == properties["headers"]
    assert channel.basic_get("q") == (None, None, None)  # the other was transient


def test_publish_is_refused(managed):
    broker = managed()
    good = {"routing_key": "q", "payload": "x", "payload_encoding": "string", "properties": {}}
    assert publish(broker, "none", **good)[0] == 404
    for change in ({"payload": 1}, {"payload_encoding": "hex"}, {"routing_key": "k" * 256},
                   {"properties": {"none": 1}}, {"properties": {"priority": 256}},
                   {"properties": {"headers": []}}, {"properties": {"expiration": "x"}},
                   {"properties": {"user_id": "other"}}, {"properties": {"headers": {"BCC": ["a"]}}},
                   {"properties": {"headers": {"x": "y" * 140000}}},
                   {"payload": "=", "payload_encoding": "base64"}):
        assert publish(broker, "amq.fanout", **{**good, **change})[0] == 400, change
    deep = "[" * 100 + "]" * 100
    assert ask(broker, "exchanges/%2f/amq.fanout/publish", "POST",
               json.dumps({**good, "properties": {"headers": {"x": "@"}}}).replace('"@"', deep).encode())[0] == 400
    assert publish(broker, "amq.fanout", routing_key="q", payload="x") == (200, {"routed": False})


def test_large_publish(managed):
    broker = managed()
    connection = pika_connection(broker.port)
    connection.channel().queue_declare("q")
    body = bytes(range(256)) * 40000
    assert publish(broker, "amq.default", routing_key="q", payload=base64.b64encode(body).decode(),
                   payload_encoding="base64") == (200, {"routed": True})
    assert base64.b64decode(take(broker, "q", 1)[1][0]["payload"]) == body
    assert publish(broker, "amq.default", routing_key="q", payload="x" * (16 * 1024 * 1024 + 1))[0] == 400
    connection.close()


# ---- who may ----

def test_permissions(managed):
    broker = managed()
    fill(broker, "q", 1).close()
    assert ask(broker, "queues/%2f/q/messages", user=None)[0] == 401
    assert ask(broker, "queues/%2f/q/get", "POST", b"{}", user="Basic " + base64.b64encode(b"a:b").decode())[0] == 401


@pytest.mark.skipif(not RABBITMQADMIN, reason="Debian's rabbitmq-server, which has it, is not there")
def test_rabbitmqadmin_gets_and_publishes(managed, tmp_path):
    broker = managed()
    connection = pika_connection(broker.port)
    connection.channel().queue_declare("q")
    with open(RABBITMQADMIN[0]) as template:
        text = template.read().replace("@RABBITMQ_VERSION@", "3.10.8").replace("{{version}}", "3")
    script = tmp_path / "rabbitmqadmin"
    script.write_text(text)

    def admin(*arguments):
        result = subprocess.run(["/usr/bin/python3", str(script), "-P", str(broker.management),
                                 *arguments], capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, result
        return result.stdout

    assert "Message published" in admin("publish", "routing_key=q", "payload=hello")
    assert "NOT routed" in admin("publish", "routing_key=none", "payload=hello")
    assert "hello" in admin("get", "queue=q", "ackmode=ack_requeue_true")
    assert "hello" in admin("get", "queue=q", "ackmode=ack_requeue_false")
    assert "hello" not in admin("get", "queue=q")
    connection.close()


# ---- sluicectl ----

def test_sluicectl(managed):
    broker = managed()
    port = ["--port", str(broker.management)]

    def run(*arguments):
        result = ctl(*arguments, *port)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    connection = pika_connection(broker.port)
    connection.channel().queue_declare("a queue/1", durable=True)
    for n in range(5):
        run("publish", "a queue/1", f"hello {n}", "--header", f"n={n}", "--header", "x=a=b")
    run("publish", "a queue/1", "esc\x1b[31m")
    lines = run("queue", "browse", "a queue/1").splitlines()
    assert lines[0].split() == ["POSITION", "STATE", "ARRIVED", "BYTES", "EXCHANGE", "KEY", "PAYLOAD"]
    assert lines[1].split()[:2] == ["1", "ready"] and lines[1].endswith("a queue/1  hello 0")
    assert "\x1b" not in lines[6] and len(lines) == 7
    shown = json.loads(run("queue", "browse", "a queue/1", "--json", "--where", "header.n=3",
                           "--where", "header.x=a=b", "--since", "1h", "--state", "ready"))
    assert [message["payload"] for message in shown] == ["hello 3"]
    assert json.loads(run("queue", "browse", "a queue/1", "--json", "--until", "1h")) == []
    assert [m["position"] for m in json.loads(run("queue", "browse", "a queue/1", "--json", "--from",
                                                  "3", "--limit", "2"))] == [3, 4]
    assert "hello 0" in run("queue", "get", "a queue/1")
    got = json.loads(run("queue", "get", "a queue/1", "--limit", "9", "--ackmode",
                         "ack_requeue_false", "--json"))
    assert len(got) == 6 and run("queue", "browse", "a queue/1").count("\n") == 1
    for arguments, text in ((("queue", "browse", "none"), "no queue 'none'"),
                            (("queue", "browse", "a queue/1", "--limit", "0"), "no number"),
                            (("queue", "browse", "a queue/1", "--since", "1y"), "no time"),
                            (("queue", "browse", "a queue/1", "--where", "x"), "no condition"),
                            (("queue", "browse", "a queue/1", "--where", "x=1"), "refuses"),
                            (("publish", "nowhere", "x"), "no queue wanted it"),
                            (("publish", "q", "x", "--exchange", "none"), "no exchange 'none'")):
        result = ctl(*arguments, *port)
        assert result.returncode == 1 and text in result.stderr, result
    connection.close()


def test_sluicectl_pages(managed):
    """More than the API gives at once."""
    broker = managed()
    fill(broker, "q", 2500).close()
    shown = json.loads(ctl("queue", "browse", "q", "--limit", "2400", "--json", "--port",
                           str(broker.management)).stdout)
    assert [int(message["payload"]) for message in shown] == list(range(2400))


def test_sluicectl_fits_a_narrow_terminal(managed):
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip("no terminal can be opened here: %s" % error)
    broker = managed()
    fill(broker, "q", 10).close()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    subprocess.run([os.path.join(brokers.BUILD, "sluicectl"), "queue", "browse", "q", "--limit", "5",
                    "--port", str(broker.management)], stdout=theirs, timeout=60, check=True)
    os.close(theirs)
    lines = os.read(ours, 10000).decode().splitlines()
    os.close(ours)
    assert len(lines) == 6 and all(len(line) <= 40 for line in lines)
