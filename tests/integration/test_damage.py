"""Data directories that were damaged: what a start says, and what it leaves alone."""

import glob
import os
import subprocess

import pika
import pytest

from brokers import BUILD, StartFailed
from conftest import pika_connection
from helpers import get_all

pytestmark = pytest.mark.sluice_only

REPORT = "damage that nobody has accepted yet"


def fill(broker, bodies):
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", "q", body, pika.BasicProperties(delivery_mode=2))
    connection.close()


def contents(directory):
    """Every file but the lock, which says who held it last."""
    found = {}
    for path in glob.glob(os.path.join(directory, "**"), recursive=True):
        if os.path.isfile(path) and os.path.basename(path) != "lock":
            with open(path, "rb") as file:
                found[path] = file.read()
    return found


def segments_with(broker, what):
    return [path for path, data in contents(broker.data).items()
            if "segment-" in path and what in data]


def overwrite(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def accept_damage(broker):
    return subprocess.run([os.path.join(BUILD, "sluicectl"), "accept-damage", broker.data],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def test_a_refused_start_leaves_everything_as_it_was(own_broker):
    broker = own_broker()
    fill(broker, [b"m" * 100])
    broker.stop()
    for path in segments_with(broker, b""):
        overwrite(path, 512, b"\0" * (os.path.getsize(path) - 512))
    before = contents(broker.data)
    for _ in range(3):
        with pytest.raises(StartFailed, match="the catalog cannot be read"):
            broker.start()
        assert broker.process.returncode == 1
        assert contents(broker.data) == before


def test_damage_is_reported_until_it_is_accepted(own_broker):
    broker = own_broker()
    fill(broker, [b"damaged" * 50, b"whole"])
    broker.stop()
    assert accept_damage(broker).returncode == 1  # there is none
    (path,) = segments_with(broker, b"damaged" * 50)
    overwrite(path, contents(broker.data)[path].index(b"damaged" * 50), b"D")
    for _ in range(2):
        broker.start()
        broker.stop()
    assert REPORT in broker.log()
    result = accept_damage(broker)
    assert result.returncode == 0, result.stdout + result.stderr
    reports = broker.log().count(REPORT)
    broker.start()
    connection = pika_connection(broker.port)
    assert get_all(connection.channel(), "q")[-1] == "whole"
    connection.close()
    broker.stop()
    assert broker.log().count(REPORT) == reports
