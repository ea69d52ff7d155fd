"""Several workers: what is promised whatever their number, and data directories that meet another
number of them."""

import os
import resource
import shutil
import signal
import subprocess

import pika
import pytest

import brokers
import raw_amqp
from conftest import pika_connection
from helpers import get_all

pytestmark = pytest.mark.sluice_only

PERSISTENT = pika.BasicProperties(delivery_mode=2)
QUEUES = 9


def fill(broker, first):
    """Queues of several connections, so that they come to live on all workers."""
    for i in range(QUEUES):
        connection = pika_connection(broker.port)
        channel = connection.channel()
        channel.queue_declare(f"q{i}", durable=True)
        channel.queue_bind(f"q{i}", "amq.fanout")
        connection.close()
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    for i in range(QUEUES):
        channel.basic_publish("", f"q{i}", f"{first}.{i}".encode(), PERSISTENT)
    channel.basic_publish("amq.fanout", "", f"{first}.all".encode(), PERSISTENT)
    connection.close()


def shards_of(broker):
    return sorted(name for name in os.listdir(broker.data) if name.startswith("shard-"))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_another_number_of_workers_keeps_everything(own_broker, end):
    broker = own_broker(settings={"workers": 4})
    expected = [[] for _ in range(QUEUES)]
    for life, workers in enumerate([1, 3, 6, 2, 4]):
        fill(broker, life)
        for i, messages in enumerate(expected):
            messages += [f"{life}.{i}", f"{life}.all"]
        getattr(broker, end)()
        broker.settings["workers"] = workers
        broker.start()
        connections = [pika_connection(broker.port) for _ in range(workers)]
        for i, messages in enumerate(expected):
            for connection in connections:
                count = connection.channel().queue_declare(f"q{i}", passive=True)
                assert count.method.message_count == len(messages)
        channel = connections[0].channel()
        for i, messages in enumerate(expected):
            method, _, body = channel.basic_get(f"q{i}")
            assert body.decode() == messages[0]
            channel.basic_nack(method.delivery_tag, requeue=True)
        for connection in connections:
            connection.close()
        assert len(shards_of(broker)) == (4 if life < 2 else 6)
    channel = pika_connection(broker.port).channel()
    for i, messages in enumerate(expected):
        assert get_all(channel, f"q{i}") == messages


def test_a_missing_shard_is_named(own_broker):
    broker = own_broker(settings={"workers": 3})
    fill(broker, 0)
    broker.stop()
    away = os.path.join(broker.directory, "away")
    for shard, named in ((1, "shard-1"), (2, "shard-2")):
        path = os.path.join(broker.data, f"shard-{shard}")
        os.rename(path, away)
        with pytest.raises(brokers.StartFailed, match=f"{named} is missing"):
            broker.start()
        assert not os.path.exists(path)
        assert broker.process.returncode == 1
        os.rename(away, path)


def test_the_last_shard_missing_is_noticed(own_broker):
    """Nothing but the catalog knows that it was there."""
    broker = own_broker(settings={"workers": 4})
    fill(broker, 0)
    broker.stop()
    shutil.rmtree(os.path.join(broker.data, "shard-4"))
    for workers in (1, 2, 4, 5, 3):  # who would host it differs
        broker.settings["workers"] = workers
        with pytest.raises(brokers.StartFailed, match="shard-4 is missing: it has the messages"):
            broker.start()
        assert broker.process.returncode == 1


def test_the_layout_before_shards_is_refused(own_broker):
    broker = own_broker(settings={"workers": 1})
    broker.stop()
    old = os.path.join(broker.data, "shard-1")
    for name in os.listdir(old):
        os.rename(os.path.join(old, name), os.path.join(broker.data, name))
    os.rmdir(old)
    with pytest.raises(brokers.StartFailed, match="before there were shards"):
        broker.start()
    assert broker.process.returncode == 1
    assert shards_of(broker) == []


def test_connections_are_limited_in_all(own_broker):
    broker = own_broker(settings={"workers": 4, "max_connections": 5})
    opened = [raw_amqp.Connection(broker.port) for _ in range(5)]
    for connection in opened:
        connection.open(1)
    with pytest.raises((raw_amqp.Closed, raw_amqp.Refused, ConnectionError)):
        raw_amqp.Connection(broker.port).open(1)
    opened.pop().close()
    raw_amqp.Connection(broker.port).open(1)


def test_a_log_is_dumped_by_shards(own_broker):
    broker = own_broker(settings={"workers": 2})
    fill(broker, 0)
    broker.stop()
    ctl = os.path.join(brokers.BUILD, "sluicectl")
    whole = subprocess.run([ctl, "log-dump", broker.data], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    parts = [subprocess.run([ctl, "log-dump", os.path.join(broker.data, shard)],
                            capture_output=True, text=True) for shard in shards_of(broker)]
    assert [part.returncode for part in parts] == [0, 0]
    assert whole.stdout == "".join(f"shard {i}\n{part.stdout}"
                                   for i, part in enumerate(parts, 1))
    assert all("message" in part.stdout for part in parts)


def test_workers_have_threads(own_broker):
    broker = own_broker(settings={"workers": 3})
    assert "workers: 3, shards: 3" in broker.log()
    assert broker.stop() == 0


def test_the_table_of_descriptors_is_large_from_the_start(own_broker):
    """Growing it would stop a worker for milliseconds while many connect."""
    broker = own_broker(settings={"workers": 2})
    limit, _ = resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
    with open(f"/proc/{broker.process.pid}/status", encoding="ascii") as status:
        size = next(int(line.split()[1]) for line in status if line.startswith("FDSize:"))
    assert size >= min(limit, 65536)


def test_number_of_workers_is_checked(own_broker):
    for value in ("0", "65", "few"):
        broker = own_broker(start=False, settings={"workers": value})
        with pytest.raises(brokers.StartFailed, match="workers"):
            broker.start()
        assert broker.process.returncode == 2


def test_stop_while_clients_leave(own_broker):
    """Queues go with their owners and consumers, on all workers, while the logs are closed."""
    broker = own_broker(settings={"workers": 4})
    for life in range(8):
        connections = [raw_amqp.Connection(broker.port) for _ in range(8)]
        for i, connection in enumerate(connections):
            connection.open(1)
            connection.call(1, "queue.declare", queue=f"own-{i}", exclusive=True)
            connection.call(1, "queue.declare", queue=f"auto-{i}", durable=True, auto_delete=True)
            connection.call(1, "exchange.declare", exchange=f"e-{i}", type="fanout", durable=True,
                            auto_delete=True)
            connection.call(1, "queue.bind", queue=f"auto-{i}", exchange=f"e-{i}")
        for i, connection in enumerate(connections):
            for other in (1, 3):
                connection.call(1, "basic.consume", queue=f"auto-{(i + other) % 8}")
            connection.publish(1, f"e-{i}", "", b"m" * 1000, delivery_mode=2)
        broker.process.send_signal(signal.SIGTERM)
        for connection in connections:
            connection.close_socket()
        assert broker.stop() == 0, broker.log()
        assert [line for line in broker.log().splitlines()
                if "[error]" in line and "] channel:" not in line] == []
        broker.start()
        with raw_amqp.Connection(broker.port) as connection:
            names = [f"{kind}-{i}" for i in range(8) for kind in ("auto", "own")]
            for number, name in enumerate(names, 1):
                connection.open(number)
                with pytest.raises(raw_amqp.Refused, match="no queue"):
                    connection.call(number, "queue.declare", queue=name, passive=True)
