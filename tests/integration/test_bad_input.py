"""What goes wrong outside: a configuration typo, a directory that is not ours, no descriptors left.
Each is told by its cause, and harms nobody else. (Bad bytes from clients are in test_errors.py.)"""

import os
import re
import resource
import shutil
import socket
import subprocess
import time

import pytest

import brokers
import raw_amqp
from conftest import pika_connection
from helpers import wait_for

pytestmark = pytest.mark.sluice_only
SLUICE = os.path.join(brokers.BUILD, "sluice")


def run(*arguments, timeout=20):
    return subprocess.run([SLUICE, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=timeout)


def fails_with(*patterns, arguments):
    result = run(*arguments)
    assert result.returncode not in (0, -6, -11), result.stdout
    for pattern in patterns:
        assert re.search(pattern, result.stdout), result.stdout
    return result.stdout


def test_help_and_version():
    text = run("--help").stdout
    for option in ("--config", "--data-dir", "--set", "--port-offset", "--help", "--version"):
        assert option in text
    assert "vm_memory_high_watermark" in run("--list-settings").stdout
    assert re.fullmatch(r"sluice \d+\.\d+\.\d+\n", run("--version").stdout)


def test_wrong_options(tmp_path):
    fails_with("--nonsense", arguments=["--nonsense", str(tmp_path)])
    fails_with("--data-dir", arguments=["--data-dir"])
    fails_with("arguments", arguments=["--data-dir", str(tmp_path), "extra"])
    fails_with("--port-offset", arguments=["--data-dir", str(tmp_path), "--port-offset", "many"])


# ---- configuration

@pytest.fixture
def config(tmp_path):
    def write(text, name="rabbitmq.conf"):
        path = tmp_path / name
        path.write_text(text)
        return ["--data-dir", str(tmp_path / "data"), "--config", str(path)]
    return write


@pytest.mark.parametrize("text,line,cause", [
    ("# fine\nlisteners.tpc.1 = 5672\n", 2, "listeners.tpc.1"),
    ("heartbeat = 60\n\nheartbeat 30\n", 3, "="),
    ("heartbeat = soon\n", 1, "heartbeat"),
    ("heartbeat = -1\n", 1, "heartbeat"),
    ("channel_max = 70000\n", 1, "channel_max"),
    ("frame_max = 100\n", 1, "frame_max"),
    ("listeners.tcp.1 = 127.0.0.1:99999\n", 1, "99999"),
    ("vm_memory_high_watermark.relative = lots\n", 1, "vm_memory_high_watermark.relative"),
    ("log.console.level = loud\n", 1, "loud"),
    ("default_pass = encrypted:AbC=\n", 1, "encrypted"),
    ("default_pass = 'unfinished\n", 1, "quote"),
    ("default_user = $(NO_SUCH_VARIABLE_HERE)\n", 1, "NO_SUCH_VARIABLE_HERE"),
])
def test_configuration_error_names_its_line(config, text, line, cause):
    output = fails_with(rf"rabbitmq\.conf:{line}: ", arguments=config(text))
    assert cause in output


def test_configuration_that_is_not_there(tmp_path):
    fails_with("nowhere.conf", arguments=["--data-dir", str(tmp_path), "--config",
                                          str(tmp_path / "nowhere.conf")])


def test_set_error_says_where(tmp_path):
    fails_with("--set", "no_such_key", arguments=["--data-dir", str(tmp_path), "--set",
                                                  "no_such_key=1"])
    fails_with("--set", arguments=["--data-dir", str(tmp_path), "--set", "heartbeat"])


def test_operators_own_file_works(own_broker, tmp_path):
    """Keys of RabbitMQ that have no meaning here are a warning, and the rest is honoured."""
    broker = own_broker(start=False)
    (tmp_path / "10-main.conf").write_text(
        f"## an operator's file\nlisteners.tcp.default = {broker.port}\n"
        "  heartbeat   =  33   # seconds\n"
        "cluster_partition_handling = pause_minority\n"
        "cluster_formation.peer_discovery_backend = classic_config\n"
        "default_user = $(SLUICE_TEST_USER)\ndefault_pass = 'pass#word'\n")
    (tmp_path / "20-more.conf").write_text("heartbeat = 44\n")
    (tmp_path / "ignored.txt").write_text("nonsense\n")
    broker.environment["SLUICE_TEST_USER"] = "operator"
    broker.settings = {"listeners.tcp.default": broker.port}
    command = broker.command() + ["--config", str(tmp_path)]
    broker.command = lambda: command
    broker.start()
    with raw_amqp.Connection(broker.port, user="operator", password="pass#word") as connection:
        assert connection.tune.heartbeat == 44
    with pytest.raises(raw_amqp.Refused):
        raw_amqp.Connection(broker.port)
    for key in ("cluster_partition_handling", "cluster_formation.peer_discovery_backend"):
        assert re.search(rf"warning.*{re.escape(key)}", broker.log()), broker.log()


def test_port_offset(own_broker):
    broker = own_broker(start=False)
    while not 5672 <= broker.port <= 65535 - 15692 + 5672:  # that of the metrics must exist
        broker.port = brokers.free_port()
    offset = broker.port - 5672
    broker.settings = {"listeners.tcp.none": "none"}
    broker.command = lambda: [SLUICE, "--data-dir", broker.data, "--port-offset", str(offset)]
    broker.start()
    raw_amqp.Connection(broker.port).close()
    for port in (15672, 15692):
        assert f"port {port + offset}" in broker.log()


# ---- data directories

def test_directory_held_by_another(own_broker):
    broker = own_broker()
    output = fails_with("held|use", str(broker.pid), arguments=[
        "--data-dir", broker.data, "--set", f"listeners.tcp.1=127.0.0.1:{brokers.free_port()}",
        "--set", "management.tcp.port=none", "--set", "prometheus.tcp.port=none"])
    assert broker.data in output
    pika_connection(broker.port).close()


def segment_files(directory):
    return sorted(os.path.join(path, name) for path, _, names in os.walk(directory)
                  for name in names if name not in ("lock", "pid"))


def test_directory_of_another_version(own_broker):
    """The eighth byte of meta is the format's version; one we do not know is left alone."""
    broker = own_broker()
    channel = pika_connection(broker.port).channel()
    channel.queue_declare("q", durable=True)
    assert broker.stop() == 0
    meta = os.path.join(broker.data, "meta")
    if not os.path.exists(meta):
        meta = next(p for p in segment_files(broker.data) if os.path.basename(p) == "meta")
    before = {p: open(p, "rb").read() for p in segment_files(broker.data)}
    with open(meta, "r+b") as file:
        data = bytearray(file.read())
        data[7] ^= 0x40
        file.seek(0)
        file.write(data)
    broker.spawn()
    assert broker.process.wait(timeout=20) not in (0, -6, -11)
    assert re.search(r"version|format", broker.log()), broker.log()
    for path, content in before.items():
        if path != meta:
            assert open(path, "rb").read() == content, f"{path} was touched"


def test_directory_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    fails_with(str(file), arguments=["--data-dir", str(file)])
    fails_with(str(file), arguments=["--data-dir", str(file / "below")])


def test_corruption_is_reported_and_not_served(own_broker):
    """Bytes flipped in what was durable: the message is not delivered in another form."""
    broker = own_broker()
    body = b"precious-" * 1000
    channel = pika_connection(broker.port).channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    for i in range(50):
        channel.basic_publish("", "q", body, pika_persistent())
    assert broker.stop() == 0
    damaged = 0
    for path in segment_files(broker.data):
        with open(path, "r+b") as file:
            data = file.read()
            at = data.find(body)
            if at >= 0:
                file.seek(at + 100)
                file.write(b"X")
                damaged += 1
    assert damaged == 1
    broker.start()
    channel = pika_connection(broker.port).channel()
    got = []
    while True:
        method, _, content = channel.basic_get("q", auto_ack=True)
        if method is None:
            break
        got.append(content)
    assert all(content == body for content in got)
    assert len(got) < 50
    wait_for(lambda: re.search(r"(?i)corrupt|checksum", broker.log()))


def pika_persistent():
    import pika
    return pika.BasicProperties(delivery_mode=2)


def test_torn_tail_is_cut_and_told(own_broker):
    broker = own_broker()
    channel = pika_connection(broker.port).channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    for i in range(20):
        channel.basic_publish("", "q", b"m", pika_persistent())
    broker.kill()
    newest = max((p for p in segment_files(broker.data) if os.path.basename(p) != "meta"),
                 key=os.path.getmtime)
    with open(newest, "rb") as file:
        content = file.read().rstrip(b"\0")
    with open(newest, "r+b") as file:
        file.seek((len(content) + 4095) // 4096 * 4096)
        file.write(os.urandom(3000))
    broker.start()
    assert pika_connection(broker.port).channel().queue_declare(
        "q", passive=True).method.message_count == 20


# ---- the system says no

def test_port_in_use(own_broker, tmp_path):
    broker = own_broker()
    fails_with(str(broker.port), "(?i)in use", arguments=[
        "--data-dir", str(tmp_path / "data"), "--set", f"listeners.tcp.1=127.0.0.1:{broker.port}",
        "--set", "management.tcp.port=none", "--set", "prometheus.tcp.port=none"])
    pika_connection(broker.port).close()


def test_no_descriptors_left(own_broker):
    """Connections beyond what the system allows are refused and told; those that are there, and the
    log, go on."""
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    broker = own_broker(limits=few)
    first = raw_amqp.Connection(broker.port)
    first.open(1)
    first.call(1, "queue.declare", queue="q", durable=True)
    crowd = []
    for _ in range(100):
        try:
            crowd.append(socket.create_connection(("127.0.0.1", broker.port), timeout=1))
        except OSError:
            break
    time.sleep(0.5)
    first.call(1, "confirm.select")
    for _ in range(100):
        first.publish(1, routing_key="q", body=os.urandom(100_000), delivery_mode=2)
    confirmed = 0
    while confirmed < 100:
        confirmed = first.next("basic.ack").delivery_tag
    assert re.search(r"(?i)descriptor|too many open files|connection limit", broker.log()), \
        broker.log()[-2000:]
    assert len(broker.log()) < 100_000, "it is told once, not in a loop"
    for each in crowd:
        each.close()

    def one_more():
        try:
            return raw_amqp.Connection(broker.port, timeout=2)
        except (raw_amqp.Closed, OSError):
            return None
    wait_for(one_more).close()
    first.close()


def test_full_disk(own_broker, tmp_path):
    """On a small file system, though one with room for the segments that the idle shards of four
    workers have ready: publishers are held back or refused, consumers drain it."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(mount)],
            stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        broker = own_broker(directory=str(mount), settings={"disk_free_limit.absolute": "1MB"})
        connection = raw_amqp.Connection(broker.port, timeout=5)
        connection.open(1)
        connection.call(1, "queue.declare", queue="q", durable=True)
        connection.call(1, "confirm.select")
        accepted, told = 0, False
        try:
            for i in range(2000):
                connection.publish(1, routing_key="q", body=os.urandom(100_000), delivery_mode=2)
                message = connection.next("basic.ack", "basic.nack", "connection.blocked")
                accepted += message.name == "basic.ack"
                if message.name != "basic.ack":
                    told = True
                    break
        except (socket.timeout, raw_amqp.Refused):
            told = True
        assert told and accepted > 10
        connection.close_socket()
        with raw_amqp.Connection(broker.port, timeout=5) as consumer:
            consumer.open(1)
            consumer.call(1, "basic.qos", prefetch_count=10)
            consumer.call(1, "basic.consume", queue="q")
            for _ in range(accepted):
                delivery = consumer.next("basic.deliver")
                consumer.send_method(1, "basic.ack", delivery_tag=delivery.delivery_tag)
        broker.stop()
    finally:
        broker.kill()
        subprocess.run(["umount", "-l", str(mount)], check=False)


def test_garbage_harms_nobody(broker, connect):
    """A thousand connections of random bytes beside one that works."""
    import random
    random.seed(7)
    channel = connect().channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    for i in range(300):
        with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as garbage:
            start = raw_amqp.HEADER if i % 2 else b""
            try:
                garbage.sendall(start + random.randbytes(random.randrange(1, 3000)))
                if i % 3 == 0:
                    garbage.settimeout(0.05)
                    garbage.recv(100)
            except (OSError, socket.timeout):
                pass
    channel.basic_publish("", queue, b"m")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"m"


def test_random_methods_harm_nobody(broker, connect):
    """Logged in, and then random frames of random methods: only that connection ends."""
    import random
    random.seed(11)
    channel = connect().channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    for i in range(200):
        with raw_amqp.Connection(broker.port, timeout=0.2) as connection:
            connection.open(1)
            data = b""
            for _ in range(random.randrange(1, 6)):
                class_id, method_id, _, _ = random.choice(raw_amqp.METHODS)
                payload = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big") + \
                    random.randbytes(random.randrange(0, 60))
                data += raw_amqp.frame(random.choice([1, 1, 1, 2, 3, 8]), random.choice([0, 1, 1, 2]),
                                       payload)
            try:
                connection.send(data)
                connection.fill()
            except (raw_amqp.Closed, OSError, socket.timeout):
                pass
    channel.basic_publish("", queue, b"m")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"m"


def test_term_and_int_stop_it(own_broker):
    import signal
    for number in (signal.SIGTERM, signal.SIGINT):
        broker = own_broker()
        broker.process.send_signal(number)
        assert broker.process.wait(timeout=20) == 0, broker.log()
        shutil.rmtree(broker.data)
