"""The management API and the metrics, with curl, urllib, rabbitmqadmin and promtool."""

import base64
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pika
import pytest

import brokers
import helpers
import raw_amqp
from conftest import pika_connection

pytestmark = pytest.mark.sluice_only

GUEST = "Basic " + base64.b64encode(b"guest:guest").decode()


@pytest.fixture
def managed(own_broker):
    """A function that starts a broker with both services, on ports of their own; with four workers,
    whatever the others have, since what is told is gathered from all."""
    def start(**settings):
        ports = {"workers": "4",
                 "management.tcp.port": brokers.free_port(), "management.tcp.ip": "127.0.0.1",
                 "prometheus.tcp.port": brokers.free_port(), "prometheus.tcp.ip": "127.0.0.1"}
        broker = own_broker(settings={**ports, **settings})
        broker.management = ports["management.tcp.port"]
        broker.metrics = ports["prometheus.tcp.port"]
        return broker
    return start


def ask(broker, path, method="GET", body=None, user=GUEST, **headers):
    """Status, and the body as JSON if there is one."""
    request = urllib.request.Request(f"http://127.0.0.1:{broker.management}/api/{path}",
                                     data=body, method=method)
    if user:
        request.add_header("Authorization", user)
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text else None


def raw_http(port, request, more=b""):
    """What comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        s.sendall(request)
        if more:
            s.sendall(more)
        answer = b""
        while True:
            try:
                part = s.recv(65536)
            except ConnectionResetError:
                return answer
            if not part:
                return answer
            answer += part


def scrape(broker):
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}/metrics", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


def value(text, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))


def test_queues_everywhere(managed):
    broker = managed()
    connections = [pika_connection(broker.port) for _ in range(4)]
    for i, connection in enumerate(connections):
        channel = connection.channel()
        channel.queue_declare(f"q/{i}", durable=True, arguments={"x-max-length": 7})
        for _ in range(i):
            channel.basic_publish("", f"q/{i}", b"m", pika.BasicProperties(delivery_mode=2))
        channel.queue_declare(f"own-{i}", exclusive=True, auto_delete=True)
        channel.basic_consume(f"own-{i}", lambda *_: None)
    for _ in range(4):  # of each worker, since connections go to each in turn
        status, queues = ask(broker, "queues")
        assert status == 200
        by_name = {queue["name"]: queue for queue in queues}
        assert len(queues) == len(by_name) == 8
        assert sorted(by_name[f"q/{i}"]["worker"] for i in range(4)) == [0, 1, 2, 3]
        for i in range(4):
            queue = by_name[f"q/{i}"]
            assert queue["messages"] == queue["messages_ready"] == i
            assert queue["messages_unacknowledged"] == queue["consumers"] == 0
            assert (queue["durable"], queue["auto_delete"], queue["exclusive"]) == (True, False,
                                                                                   False)
            assert queue["arguments"] == {"x-max-length": 7}
            assert (queue["vhost"], queue["type"], queue["state"]) == ("/", "classic", "running")
            assert queue["shard"] == queue["worker"] + 1
            own = by_name[f"own-{i}"]
            assert (own["exclusive"], own["auto_delete"], own["consumers"]) == (True, True, 1)
            assert ask(broker, f"queues/%2F/q%2F{i}") == (200, queue)
    assert len(ask(broker, "queues/%2F")[1]) == 8
    status, overview = ask(broker, "overview")
    assert status == 200
    assert overview["object_totals"] == {"connections": 4, "consumers": 4, "exchanges": 7,
                                         "queues": 8}
    assert overview["queue_totals"]["messages"] == 6
    assert overview["message_stats"]["publish"] == 6
    assert overview["rabbitmq_version"].startswith("4.")
    for connection in connections:
        connection.close()
    assert sorted(queue["name"] for queue in ask(broker, "queues")[1]) == [
        f"q/{i}" for i in range(4)]


def test_refusals(managed):
    broker = managed()
    assert ask(broker, "whoami") == (200, {"name": "guest", "tags": ["administrator"],
                                           "is_internal_user": True})
    assert ask(broker, "whoami", user=None)[0] == 401
    wrong = "Basic " + base64.b64encode(b"guest:wrong").decode()
    assert ask(broker, "whoami", user=wrong) == (401, {"error": "not_authorised",
                                                       "reason": "Login failed"})
    assert ask(broker, "nothing")[0] == 404
    assert ask(broker, "queues/nowhere")[0] == 404
    assert ask(broker, "queues/%2F/none")[0] == 404
    assert ask(broker, "queues", method="DELETE")[0] == 405
    assert ask(broker, "whoami", body=b"x" * 100000)[0] in (405, 413)
    for request, status in [
            (b"GET / HTTP/9.9\r\n\r\n", 505),
            (b"what is this\r\n\r\n", 400),
            (b"\0\1\2\3" * 100, 400),
            (b"AMQP\0\0\x09\x01", 400),
            (b"GET /api/whoami HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            (b"GET /api/whoami HTTP/1.1\r\n" + b"X: y\r\n" * 10000 + b"\r\n", 431),
            (b"GET /api/whoami HTTP/1.1\r\nX: " + b"y" * 1000000, 431),
            (b"GET /" + b"y" * 10000 + b" HTTP/1.1\r\nConnection: close\r\n\r\n", 414),
            (b"GET /api/whoami HTTP/1.1\r\nAuthorization: " + GUEST.encode() +
             b"\r\nContent-Length: 99999999999999\r\n\r\n", 413)]:
        answer = raw_http(broker.management, request)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (request[:50], answer[:200])
    assert broker.process.poll() is None


def test_tags_and_virtual_hosts(managed):
    """A user that is not to look; and one that may look, from this address or not."""
    broker = managed(**{"default_user_tags.impersonator": "true"})
    assert ask(broker, "whoami") == (401, {"error": "not_authorised",
                                           "reason": "Not management user"})
    broker = managed(**{"default_user_tags.management": "true"})
    assert ask(broker, "whoami")[1]["tags"] == ["management"]
    assert "queue_totals" not in ask(broker, "overview")[1]  # of all virtual hosts
    assert ask(broker, "queues")[0] == 200


def test_curl(managed):
    broker = managed()
    base = f"http://127.0.0.1:{broker.management}/api/"

    def curl(*arguments):
        result = subprocess.run(["curl", "-sS", "-i", "-u", "guest:guest", *arguments],
                                capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "HTTP/1.1 200 OK" in curl("--http2", base + "whoami")  # offered, and not taken
    head = curl("-I", base + "queues")
    assert head.startswith("HTTP/1.1 200 OK") and head.endswith("chunked\n\n")
    assert curl("--http1.0", base + "queues").endswith("[]")
    # one connection for all, a body that is thrown away among them
    result = subprocess.run(
        ["curl", "-sS", "-v", "-u", "guest:guest", base + "whoami", base + "nothing",
         base + "queues"], capture_output=True, text=True, timeout=30)
    assert result.stderr.count("Connected to") == 1
    assert result.stdout.endswith("[]")
    # a long body waits for "100 Continue", which does not come
    posted = subprocess.run(["curl", "-sS", "-i", "-X", "POST", "-H", "Expect: 100-continue",
                             "-d", "@-", base + "whoami"], input="x" * 2000000,
                            capture_output=True, text=True, timeout=30)
    assert posted.stdout.startswith("HTTP/1.1 405"), posted


def test_slow_clients(managed):
    broker = managed(**{"management.tcp.request_timeout": 500, "management.tcp.idle_timeout": 1000,
                        "handshake_timeout": 500})
    with socket.create_connection(("127.0.0.1", broker.management)) as s:
        s.settimeout(10)
        began = time.monotonic()
        for byte in b"GET /api/whoami HTTP/1.1\r\n" * 10:
            try:
                s.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
            if time.monotonic() - began > 1:
                break
        assert s.recv(100).startswith(b"HTTP/1.1 408 ")
    for said in (b"", b"GET /api/whoami HTTP/1.1\r\nAuthorization: " + GUEST.encode() +
                 b"\r\nContent-Length: 5\r\n\r\n"):
        began = time.monotonic()
        assert raw_http(broker.management, said) == b""
        assert time.monotonic() - began < 5


def test_pipelining(managed):
    broker = managed()
    one = b"GET /api/whoami HTTP/1.1\r\nAuthorization: " + GUEST.encode() + b"\r\n"
    answer = raw_http(broker.management, (one + b"\r\n") * 500 + one + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 501
    assert answer.count(b'"name":"guest"') == 501


def test_operators_are_no_connections(managed):
    """Who comes to look gets in when there are too many connections, and counts for none."""
    broker = managed(max_connections=2)
    opened = [raw_amqp.Connection(broker.port) for _ in range(2)]
    for connection in opened:
        connection.open(1)
    with pytest.raises((raw_amqp.Closed, raw_amqp.Refused, ConnectionError)):
        raw_amqp.Connection(broker.port).open(1)
    assert ask(broker, "overview")[1]["object_totals"]["connections"] == 2
    assert value(scrape(broker), "rabbitmq_connections") == 2
    for connection in opened:
        connection.close()


def test_one_worker(managed):
    broker = managed(workers="1")
    connection = pika_connection(broker.port)
    channel = connection.channel()
    for i in range(3):
        channel.queue_declare(f"q{i}", durable=True)
        channel.basic_publish("", f"q{i}", b"m")
    queues = ask(broker, "queues")[1]
    assert [(q["name"], q["messages"], q["worker"], q["shard"]) for q in queues] == \
        [(f"q{i}", 1, 0, 1) for i in range(3)]
    text = scrape(broker)
    assert value(text, 'sluice_messages_published_total{worker="0"}') == 3
    assert value(text, "rabbitmq_queue_messages_ready") == 3
    moved = ctl("queue", "move", "q0", "2", "--port", str(broker.management))
    assert moved.returncode == 1 and "2" in moved.stderr
    assert ctl("rebalance", "--port", str(broker.management)).returncode == 0
    connection.close()


def test_metrics(managed):
    broker = managed()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)
    for _ in range(20):
        channel.basic_publish("", "q", b"m", pika.BasicProperties(delivery_mode=2))
    for _ in range(5):
        channel.basic_get("q")
    text = scrape(broker)
    assert value(text, "rabbitmq_queues") == 1
    assert value(text, "rabbitmq_queue_messages_ready") == 15
    assert value(text, "rabbitmq_queue_messages_unacked") == 5
    assert value(text, "rabbitmq_queue_messages") == 20
    for name, least in {"sluice_turns_total": 4, "sluice_log_syncs_total": 20,
                        "sluice_mail_letters_total": 1, "sluice_log_written_bytes_total": 1000,
                        "sluice_turns_long_total": 0, "sluice_turn_longest_seconds": 0}.items():
        assert sum(value(text, f'{name}{{worker="{i}"}}') for i in range(4)) >= least
    published = [value(text, f'sluice_messages_published_total{{worker="{i}"}}') for i in range(4)]
    assert sorted(published) == [0, 0, 0, 20]
    again = scrape(broker)
    for name in re.findall(r"^# TYPE (\S+) counter$", text, re.M):  # they only grow
        for line in re.findall(rf"^{name}(?:{{[^}}]*}})? ", text, re.M):
            assert value(again, line[:-1]) >= value(text, line[:-1])
    if not shutil.which("promtool"):
        pytest.skip("promtool is not there (Debian's package prometheus has it)")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True,
                             text=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_many_queues_stall_nobody(managed):
    """A list of many queues, over and over, while messages are sent and confirmed."""
    broker = managed()
    with raw_amqp.Connection(broker.port) as declaring:
        declaring.open(1)
        for i in range(20000):
            declaring.call(1, "queue.declare", queue=f"queue-{i}", durable=False, no_wait=False)
    stop = threading.Event()
    lists = []

    def look():
        while not stop.is_set():
            status, queues = ask(broker, "queues")
            lists.append((status, len(queues)))

    looking = threading.Thread(target=look)
    looking.start()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)
    round_trips = 0
    began = time.monotonic()
    while len(lists) < 3 and time.monotonic() - began < 60:
        channel.basic_publish("", "q", b"m")
        round_trips += 1
    stop.set()
    looking.join()
    assert set(lists) <= {(200, 20000), (200, 20001)} and len(lists) >= 3
    assert round_trips > 10 * len(lists)  # if a list were one turn, hardly more than one each
    assert value(scrape(broker), "rabbitmq_queues") == 20001


def ctl(*arguments, password=None):
    return subprocess.run([os.path.join(brokers.BUILD, "sluicectl"), *arguments],
                          input=password or "", capture_output=True, text=True, timeout=60)


def test_sluicectl_lists_queues(managed):
    broker = managed(default_user="ann", default_pass="sec:ret")
    port = ["--port", str(broker.management)]
    connection = pika_connection(broker.port, user="ann", password="sec:ret")
    channel = connection.channel()
    channel.queue_declare("one", durable=True)
    channel.queue_declare("zwei \u00fc\u001b[31m")
    channel.basic_publish("", "one", b"m")
    result = ctl("list", "queues", *port, "--username", "ann", password="sec:ret\n")
    assert result.returncode == 0, result
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["VHOST", "NAME", "TYPE", "READY", "UNACKED", "CONSUMERS", "SHARD", "WORKER"]
    assert lines[1][:6] == ["/", "one", "classic", "1", "0", "0"]
    assert "\x1b" not in result.stdout and "zwei \u00fc?[31m" in result.stdout
    assert len({len(line) for line in result.stdout.splitlines()}) == 1
    as_json = ctl(*port, "--username", "ann", "--password-stdin", "--vhost", "/", "list", "queues",
                  "--json", password="sec:ret")
    assert [queue["name"] for queue in json.loads(as_json.stdout)] == ["one", "zwei \u00fc\u001b[31m"]
    refused = ctl("list", "queues", *port, "--username", "ann", password="wrong\n")
    assert refused.returncode == 1 and "Login failed" in refused.stderr
    assert ctl("list", "queues", *port).returncode == 1  # guest is not there
    nowhere = ctl("list", "queues", *port, "--username", "ann", "--vhost", "no where/",
                  password="sec:ret\n")
    assert nowhere.returncode == 1 and "vhost 'no where/' not found" in nowhere.stderr
    assert ctl("list", "queues", "more", *port).returncode == 2
    assert ctl("list", "--port", "1").returncode == 2
    silent = ctl("list", "queues", "--port", str(brokers.free_port()))
    assert silent.returncode == 1 and "no answer from 127.0.0.1" in silent.stderr
    not_it = ctl("list", "queues", "--port", str(broker.metrics), "--username", "ann",
                 password="sec:ret\n")
    assert not_it.returncode == 1 and "Not Found" in not_it.stderr
    connection.close()


def shard_of(broker, queue):
    return ask(broker, f"queues/%2F/{queue}")[1]["shard"]


def test_a_queue_moves_while_it_is_used(managed):
    """A producer with confirms and a consumer go on: nothing is lost, nothing comes twice or out of
    order; and what was moved is there after the power has gone."""
    broker = managed()
    port = ["--port", str(broker.management)]
    producing, consuming = pika_connection(broker.port), pika_connection(broker.port)
    channel = producing.channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)
    home = shard_of(broker, "q")
    stop = threading.Event()
    sent, received, failures = [], [], []

    def produce():
        try:
            while not stop.is_set():
                channel.basic_publish("", "q", str(len(sent)).encode(),
                                      pika.BasicProperties(delivery_mode=2))
                sent.append(len(sent))
        except Exception as error:  # noqa: BLE001  told below
            failures.append(error)

    def consume():
        try:
            own = consuming.channel()
            own.basic_qos(prefetch_count=20)
            for method, _, body in own.consume("q", inactivity_timeout=1):
                if method:
                    assert not method.redelivered
                    received.append(int(body))
                    own.basic_ack(method.delivery_tag)
                elif stop.is_set():
                    break
            own.cancel()
        except Exception as error:  # noqa: BLE001  told below
            failures.append(error)

    threads = [threading.Thread(target=produce), threading.Thread(target=consume)]
    for thread in threads:
        thread.start()
    for shard in [home % 4 + 1, (home + 1) % 4 + 1, home, (home + 2) % 4 + 1]:
        before = len(received)
        result = ctl("queue", "move", "q", str(shard), *port)
        assert (result.returncode, result.stderr) == (0, ""), (result, failures)
        assert shard_of(broker, "q") == shard
        deadline = time.monotonic() + 20
        while len(received) < before + 20 and time.monotonic() < deadline and not failures:
            time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert received == sent and len(sent) > 80
    assert ask(broker, "queues/%2F/q")[1]["messages"] == 0
    # a backlog
    for i in range(300):
        channel.basic_publish("", "q", str(i).encode(), pika.BasicProperties(delivery_mode=2))
    to = shard_of(broker, "q") % 4 + 1
    assert ctl("queue", "move", "--vhost", "/", "q", str(to), *port).returncode == 0
    queue = ask(broker, "queues/%2F/q")[1]
    assert (queue["shard"], queue["messages_ready"]) == (to, 300)
    broker.kill()
    broker.start()
    queue = ask(broker, "queues/%2F/q")[1]
    assert (queue["shard"], queue["messages_ready"]) == (to, 300)
    with_all = pika_connection(broker.port)
    own = with_all.channel()
    assert [int(own.basic_get("q", auto_ack=True)[2]) for _ in range(300)] == list(range(300))
    with_all.close()


def test_moves_that_are_refused(managed):
    broker = managed()
    port = ["--port", str(broker.management)]
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    channel.queue_declare("own", exclusive=True)
    for arguments, code, words in [
            (["none", "1"], 1, "no queue 'none'"), (["q", "99"], 1, "99"), (["own", "1"], 1, "own"),
            (["q", "0"], 1, "shard"), (["q", "x"], 1, "no shard"), (["q"], 2, "missing"),
            (["q", "1", "2"], 2, "too much"), (["--vhost", "none", "q", "1"], 1, "none")]:
        result = ctl("queue", "move", *arguments, *port)
        assert result.returncode == code and words in result.stderr, result

    def action(text):
        return ask(broker, "queues/%2F/q/actions", method="POST", body=text.encode())

    for text in ("{}", "[]", "{", "1", '{"action":"sync"}', '{"action":"move"}',
                 '{"action":"move","shard":"1"}', '{"action":"move","shard":-1}',
                 '{"action":"move","shard":1e3}', '{"action":"move","shard":4294967297}', "[" * 4000):
        assert action(text)[0] == 400, text
    assert action('{"action":"move","shard":1}' + " " * 5000)[0] == 413
    assert action(f'{{"action":"move","shard":{shard_of(broker, "q")}}}') == (204, None)
    assert ask(broker, "queues/%2F/q/actions")[0] == 405
    connection.close()
    broker = managed(**{"default_user_tags.monitoring": "true"})
    assert action('{"action":"move","shard":1}') == (401, {"error": "not_authorised",
                                                           "reason": "Not administrator user"})


def counts_of(broker):
    """How many queues each shard has."""
    queues = ask(broker, "queues")[1]
    return sorted(sum(queue["shard"] == shard for queue in queues) for shard in (1, 2, 3, 4))


def test_rebalance(managed):
    """30 queues of one client, all with one worker; messages in some, and a consumer."""
    broker = managed()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    for i in range(30):
        channel.queue_declare(f"q{i}", durable=True)
        for n in range(i):
            channel.basic_publish("", f"q{i}", str(n).encode(), pika.BasicProperties(delivery_mode=2))
    leased = channel.basic_get("q29")
    assert counts_of(broker) == [0, 0, 0, 30]
    result = ctl("rebalance", "--port", str(broker.management))
    assert (result.returncode, result.stderr) == (0, "")
    helpers.wait_for(lambda: counts_of(broker) == [7, 7, 8, 8], timeout=30)
    channel.basic_ack(leased[0].delivery_tag)
    for end in (lambda: None, lambda: (broker.kill(), broker.start())):
        end()
        assert counts_of(broker) == [7, 7, 8, 8]
        by_name = {queue["name"]: queue["messages"] for queue in ask(broker, "queues")[1]}
        assert by_name.items() >= {f"q{i}": i for i in range(29)}.items()
        assert by_name["q29"] in (28, 29)  # an acknowledgement has no answer
    own = pika_connection(broker.port).channel()
    for i in range(29):
        assert [int(own.basic_get(f"q{i}", auto_ack=True)[2]) for _ in range(i)] == list(range(i))


RABBITMQADMIN = glob.glob(
    "/usr/lib/rabbitmq/lib/*/plugins/rabbitmq_management-*/priv/www/cli/rabbitmqadmin")


@pytest.mark.skipif(not RABBITMQADMIN, reason="Debian's rabbitmq-server, which has it, is not there")
def test_rabbitmqadmin(managed, tmp_path):
    broker = managed()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    for i in range(3):
        channel.queue_declare(f"q{i}")
    channel.basic_publish("", "q1", b"m")
    with open(RABBITMQADMIN[0]) as template:
        text = template.read().replace("@RABBITMQ_VERSION@", "3.10.8").replace("{{version}}", "3")
    script = tmp_path / "rabbitmqadmin"
    script.write_text(text)

    def admin(*arguments):
        result = subprocess.run(["/usr/bin/python3", str(script), "-P", str(broker.management),
                                 *arguments], capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, result
        return result.stdout

    rows = re.findall(r"^\| (q\d)\s*\| (\d+)\s*\|$", admin("list", "queues"), re.M)
    assert rows == [("q0", "0"), ("q1", "1"), ("q2", "0")]
    listed = admin("-f", "tsv", "list", "queues", "name", "messages_ready", "vhost")
    assert listed.splitlines()[1:] == ["q0\t0\t/", "q1\t1\t/", "q2\t0\t/"]
    assert "4.3" in admin("show", "overview")
    connection.close()
