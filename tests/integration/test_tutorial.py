"""The two programs that `make run` shows, against the default port; and sluicectl."""

import os
import socket
import subprocess
import sys
import time

import pytest

import brokers

HERE = os.path.dirname(os.path.abspath(__file__))
CTL = os.path.join(brokers.BUILD, "sluicectl")


def port_is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", port))
            return True
        except OSError:
            return False


def host():
    """localhost, as in the programs, unless this machine has no such name (no /etc/hosts)."""
    try:
        socket.getaddrinfo("localhost", 5672)
        return []
    except OSError:
        return ["127.0.0.1"]


def test_tutorial(own_broker):
    if not port_is_free(5672):
        pytest.skip("port 5672 is taken on this machine")
    broker = own_broker(start=False)
    broker.settings = {"listeners.tcp.1": "5672"}
    broker.port = 5672
    broker.start()
    consumer = subprocess.Popen([sys.executable, "-u", os.path.join(HERE, "tutorial/consumer.py"),
                                 *host()], stdout=subprocess.PIPE, text=True)
    try:
        assert consumer.stdout.readline() == " [*] Waiting for messages. To exit press CTRL+C\n"
        produced = subprocess.run([sys.executable, os.path.join(HERE, "tutorial/producer.py"),
                                   *host()], stdout=subprocess.PIPE, text=True, timeout=20)
        assert produced.stdout == " [x] Sent 'Hello DataOps!'\n"
        assert consumer.stdout.readline() == " [x] Received Hello DataOps!\n"
    finally:
        consumer.kill()
        consumer.wait()
        consumer.stdout.close()


def ctl(*arguments):
    return subprocess.run([CTL, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=20)


@pytest.mark.sluice_only
def test_ctl_help_and_version():
    text = ctl("--help").stdout
    for word in ("status", "version", "log-dump"):
        assert word in text
    assert ctl("--version").stdout.startswith("sluicectl ")
    assert ctl("no-such-command").returncode == 2
    assert ctl().returncode == 2


@pytest.mark.sluice_only
def test_ctl_status(own_broker):
    broker = own_broker()
    result = ctl("--data-dir", broker.data, "status")
    assert result.returncode == 0, result.stdout
    assert str(broker.pid) in result.stdout
    assert "RabbitMQ" in result.stdout and str(broker.port) in result.stdout
    broker.stop()
    result = ctl("--data-dir", broker.data, "status")
    assert result.returncode == 1
    assert "not running" in result.stdout


@pytest.mark.sluice_only
def test_ctl_log_dump(own_broker):
    import pika
    from conftest import pika_connection
    broker = own_broker()
    channel = pika_connection(broker.port).channel()
    channel.queue_declare("looked-at", durable=True)
    channel.confirm_delivery()
    for _ in range(3):
        channel.basic_publish("", "looked-at", b"m", pika.BasicProperties(delivery_mode=2))
    time.sleep(0.2)
    broker.stop()
    result = ctl("log-dump", broker.data)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("message") >= 3
    assert ctl("log-dump", broker.data + "/nowhere").returncode == 1
