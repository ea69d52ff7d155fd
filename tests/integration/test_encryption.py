"""Encryption at rest: what is on the disk, which keys it takes, and how they are changed."""

import glob
import os
import secrets
import signal
import subprocess

import pika
import pytest

from brokers import BUILD, StartFailed, free_port
from conftest import pika_connection
from helpers import get_all, wait_for
from test_damage import contents, overwrite
from test_management import ask

pytestmark = pytest.mark.sluice_only

KEYS = {number: secrets.token_hex(32) for number in range(1, 5)}


def write_keys(broker, *numbers, keys=KEYS):
    path = os.path.join(broker.directory, "keys")
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write("# of this test\n" + "".join(f"{n} {keys[n]}\n" for n in numbers))
    return path


@pytest.fixture
def encrypted(own_broker):
    """A broker that has keys 1; not started."""
    def make(*numbers, **settings):
        broker = own_broker(start=False, settings=settings)
        os.makedirs(broker.directory, exist_ok=True)
        broker.settings["encryption.key_file"] = write_keys(broker, *numbers)
        return broker
    return make


def publish(broker, bodies, queue="q", **properties):
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties))
    connection.close()


def consume(broker, queue="q"):
    connection = pika_connection(broker.port)
    bodies = get_all(connection.channel(), queue)
    connection.close()
    return bodies


def everything(broker):
    return b"".join(contents(broker.data).values())


def fails_to_start(broker, text):
    before = contents(broker.data)
    with pytest.raises(StartFailed) as failure:
        broker.start()
    assert broker.process.returncode == 1
    told = str(failure.value).split("\n", 1)[1].splitlines()[-3:]
    assert any(text in line for line in told), told
    assert contents(broker.data) == before
    return "\n".join(told)


def test_no_plaintext_in_the_data_directory(encrypted):
    """A marker in everything that a client can name or send, in bodies of all sizes."""
    broker = encrypted(1, **{"default_user": "marker-user", "default_pass": "marker-password",
                             "default_vhost": "marker-vhost"})
    broker.start()
    parameters = pika.ConnectionParameters(
        "127.0.0.1", broker.port, "marker-vhost",
        pika.PlainCredentials("marker-user", "marker-password"))
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.exchange_declare("marker-exchange", "topic", durable=True,
                             arguments={"alternate-exchange": "marker-alternate"})
    channel.queue_declare("marker-queue", durable=True,
                          arguments={"x-dead-letter-exchange": "marker-dead"})
    channel.queue_bind("marker-queue", "marker-exchange", "marker-key.#", {"marker-a": "marker-b"})
    channel.confirm_delivery()
    bodies = [b"marker-body " * n for n in (1, 100, 6000, 30_000, 100_000)]
    for body in bodies * 3:
        channel.basic_publish("marker-exchange", "marker-key.x", body, pika.BasicProperties(
            delivery_mode=2, message_id="marker-id", headers={"marker-header": "marker-value"}))
    for _ in range(3):
        method, _, body = channel.basic_get("marker-queue")
        channel.basic_reject(method.delivery_tag, requeue=True)
    connection.close()
    assert b"marker" not in everything(broker)
    broker.kill()  # and in what a crash leaves, what the next start makes of it, a clean stop
    assert b"marker" not in everything(broker)
    broker.start()
    assert b"marker" not in everything(broker)
    connection = pika.BlockingConnection(parameters)
    got = get_all(connection.channel(), "marker-queue")
    assert [body.encode() for body in got] == bodies * 3
    connection.close()
    assert broker.stop() == 0
    assert b"marker" not in everything(broker)
    for key in KEYS.values():
        assert key not in broker.log() and bytes.fromhex(key) not in everything(broker)
    names = [os.path.basename(path) for path in contents(broker.data)]
    assert names and all(n == "meta" or n.startswith("segment-") for n in names), names


def test_without_encryption_the_marker_is_there(own_broker):
    """Or the test above would prove nothing."""
    broker = own_broker()
    publish(broker, [b"marker-body"], "marker-queue")
    broker.stop()
    assert everything(broker).count(b"marker") >= 2


def test_a_wrong_key_is_a_clear_error(encrypted):
    broker = encrypted(1).start()
    publish(broker, [b"a", b"b"])
    broker.stop()
    file = broker.settings["encryption.key_file"]
    write_keys(broker, 2)
    told = fails_to_start(broker, "is encrypted under master key 1, which was not given; "
                                  "given were: 2")
    assert broker.data in told
    write_keys(broker, 1, keys={1: KEYS[2]})
    fails_to_start(broker, "is encrypted under another master key 1 than the one that was given")
    del broker.settings["encryption.key_file"]
    fails_to_start(broker, "which was not given; given were: none")
    broker.settings["encryption.key_file"] = file
    os.unlink(file)
    fails_to_start(broker, "No such file")
    write_keys(broker, 1)
    os.chmod(file, 0o644)
    fails_to_start(broker, "others may read or change it")
    os.chmod(file, 0o600)
    with open(file, "a") as lines:
        lines.write("2 short\n")
    assert "short" not in fails_to_start(broker, "line 3: behind the number 2 there is no key")
    write_keys(broker, 1)
    broker.restart(workers=6)  # and all that was refused has cost nothing
    assert consume(broker) == ["a", "b"]


def test_keys_from_the_environment_and_from_a_command(encrypted):
    broker = encrypted(1).start()
    publish(broker, [b"a"])
    broker.stop()
    file = broker.settings.pop("encryption.key_file")
    broker.environment["BROKER_KEYS"] = f"1 {KEYS[1]}"
    broker.restart(**{"encryption.key_env": "BROKER_KEYS"})
    broker.stop()
    del broker.settings["encryption.key_env"]
    broker.restart(**{"encryption.key_command": f"cat '{file}'"})
    assert consume(broker) == ["a"]
    broker.stop()
    broker.settings["encryption.key_command"] = f"cat '{file}'; exit 3"
    fails_to_start(broker, "the key command ended with status 3")
    broker.settings["encryption.key_file"] = file
    with pytest.raises(StartFailed, match="ended with 2"):
        broker.start()


@pytest.fixture
def watched(encrypted):
    """With the management API."""
    def make(*numbers, **settings):
        port = free_port()
        broker = encrypted(*numbers, **{"management.tcp.port": str(port),
                                        "management.tcp.ip": "127.0.0.1", **settings})
        broker.management = port
        return broker
    return make


def status(broker):
    code, answer = ask(broker, "overview")
    assert code == 200
    return answer["encryption"]


def rotate(broker, *numbers):
    write_keys(broker, *numbers)
    read = broker.log().count("keys were read")
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: broker.log().count("keys were read") > read)


def test_rotation_without_downtime(watched):
    broker = watched(1).start()
    publish(broker, [b"of key 1"] * 50)
    assert status(broker)["current_key"] == 1 and status(broker)["needed_keys"] == [1]
    connection = pika_connection(broker.port)
    channel = connection.channel()
    rotate(broker, 2, 1)
    wait_for(lambda: status(broker)["needed_keys"] == [2])
    assert status(broker)["segments_behind"] == 0
    assert channel.queue_declare("q", passive=True).method.message_count == 50
    publish(broker, [b"of key 2"])
    shown = subprocess.run([os.path.join(BUILD, "sluicectl"), "--port", str(broker.management),
                            "encryption"], stdin=subprocess.DEVNULL, capture_output=True,
                           text=True, timeout=20)
    assert shown.returncode == 0 and "needed keys      2\n" in shown.stdout, shown
    rotate(broker, 2)  # the first is thrown away
    publish(broker, [b"later"])
    assert "not taken" not in broker.log()
    connection.close()
    broker.kill()
    broker.start()
    assert consume(broker)[-2:] == ["of key 2", "later"]
    broker.stop()
    write_keys(broker, 1)
    fails_to_start(broker, "is encrypted under master key 2")


def test_rotation_refuses_what_would_lose_data(watched):
    broker = watched(2, 1).start()
    publish(broker, [b"a"])
    write_keys(broker, 3)  # without the one that wraps what is there
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "key 2 is still needed" in broker.log())
    write_keys(broker, 2, keys={2: KEYS[3]})
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "key 2 is another one than it was" in broker.log())
    write_keys(broker, 2, keys={2: "no key"})
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "those from before stay" in broker.log())
    assert status(broker)["needed_keys"] == [2]
    publish(broker, [b"b"])
    write_keys(broker, 2)
    broker.restart()
    assert consume(broker) == ["a", "b"]


def test_rotation_at_a_start(watched):
    broker = watched(1).start()
    publish(broker, [b"a"])
    write_keys(broker, 2, 1)
    broker.restart()
    wait_for(lambda: status(broker)["needed_keys"] == [2])
    write_keys(broker, 2)
    broker.restart()
    assert consume(broker) == ["a"]


def test_encryption_is_switched_on_and_off(watched):
    broker = watched(1)
    file = broker.settings.pop("encryption.key_file")
    broker.start()
    publish(broker, [b"marker-plain"])
    assert status(broker)["plain_bytes"] > 0 and not status(broker)["has_keys"]
    broker.restart(**{"encryption.key_file": file})
    publish(broker, [b"marker-secret"])
    now = status(broker)
    assert now["plain_segments"] > 0 and now["encrypted_segments"] > 0
    assert b"marker-plain" in everything(broker) and b"marker-secret" not in everything(broker)
    assert consume(broker) == ["marker-plain", "marker-secret"]
    for _ in range(2):  # the plain ones go when nothing in them is needed
        broker.restart()
    wait_for(lambda: status(broker)["plain_segments"] == 0)
    assert b"marker-plain" not in everything(broker)
    publish(broker, [b"marker-still"])
    broker.restart(**{"encryption.enabled": "false"})
    publish(broker, [b"marker-open"])
    assert b"marker-open" in everything(broker) and b"marker-still" not in everything(broker)
    assert consume(broker) == ["marker-still", "marker-open"]


def test_tampering_is_found(encrypted):
    broker = encrypted(1, **{"workers": 1}).start()
    publish(broker, [b"d" * 5000])
    publish(broker, [b"whole" * 50], "other")
    broker.stop()
    (path,) = glob.glob(os.path.join(broker.data, "shard-1", "segment-*"))
    with open(path, "rb") as file:
        data = file.read()
    # the block is found by the size of its records, which is no secret
    (at,) = [at for at in range(512, len(data), 512) if data[at:at + 4] == b"SLBK"
             and 5000 < int.from_bytes(data[at + 48:at + 52], "little") < 6000]
    overwrite(path, at + 64 + 32 + 300, bytes([data[at + 64 + 32 + 300] ^ 1]))
    broker.start()
    assert "corrupt" in broker.log()
    connection = pika_connection(broker.port)
    assert get_all(connection.channel(), "other") == ["whole" * 50]
    assert get_all(connection.channel(), "q") == []
    connection.close()


def log_dump(broker, *options):
    return subprocess.run([os.path.join(BUILD, "sluicectl"), *options, "log-dump", broker.data],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def test_log_dump(encrypted):
    broker = encrypted(1).start()
    publish(broker, [b"a"], "marker-queue")
    broker.stop()
    without = log_dump(broker)
    assert without.returncode == 1 and "is encrypted under master key 1" in without.stderr
    file = broker.settings["encryption.key_file"]
    dump = log_dump(broker, "--key-file", file)
    assert dump.returncode == 0, dump.stderr
    assert "marker-queue" in dump.stdout and "BROKEN" not in dump.stdout
    assert "its data key wrapped in master key 1" in dump.stdout
    write_keys(broker, 2)
    assert "given were: 2" in log_dump(broker, "--key-file", file).stderr
