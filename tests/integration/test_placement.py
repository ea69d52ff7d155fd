"""Where a queue lives: with the worker of whoever declares it, or with each in turn."""

import os
import re
import subprocess

import pika
import pytest

from brokers import BUILD
from conftest import pika_connection

pytestmark = pytest.mark.sluice_only

WORKERS = 3
QUEUES = 9


def queues_with_messages(broker, shard):
    """The ids of queues that have a message record in the shard's log."""
    directory = os.path.join(broker.data, f"shard-{shard}")
    dump = subprocess.run([os.path.join(BUILD, "sluicectl"), "log-dump", directory], check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    return set(re.findall(r"queue (\d+) sequence", dump))


@pytest.mark.parametrize("locator, spread", [("balanced", [3, 3, 3]), ("client-local", [0, 0, 9])])
def test_where_new_queues_live(own_broker, locator, spread):
    broker = own_broker(settings={"workers": WORKERS, "queue_leader_locator": locator})
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    for number in range(QUEUES):
        channel.queue_declare(f"place-{number}", durable=True)
        channel.basic_publish("", f"place-{number}", b"x",
                              pika.BasicProperties(delivery_mode=2))
    connection.close()
    broker.stop()
    counts = [len(queues_with_messages(broker, shard)) for shard in range(1, WORKERS + 1)]
    assert sorted(counts) == spread
