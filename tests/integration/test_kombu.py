"""py-amqp and kombu, which Celery, Airflow and OpenStack stand on."""

import socket

import amqp
import kombu
import pytest
from kombu.pools import producers


@pytest.fixture
def kombu_connection(broker):
    with kombu.Connection(f"amqp://guest:guest@127.0.0.1:{broker.port}//") as connection:
        yield connection


def test_py_amqp(broker, name):
    queue = name()
    with amqp.Connection(f"127.0.0.1:{broker.port}", "guest", "guest", confirm_publish=True) as c:
        channel = c.channel()
        channel.queue_declare(queue, durable=True, auto_delete=False)
        channel.queue_bind(queue, "amq.topic", "a.*")
        for i in range(10):
            channel.basic_publish(amqp.Message(str(i), delivery_mode=2,
                                               application_headers={"i": i, "f": 0.5}),
                                  exchange="amq.topic", routing_key="a.b")
        got = []
        channel.basic_qos(0, 3, False)
        tag = channel.basic_consume(queue, callback=lambda m: (got.append(m), m.channel.basic_ack(
            m.delivery_tag)))
        while len(got) < 10:
            c.drain_events(timeout=5)
        assert [m.body for m in got] == [str(i) for i in range(10)]
        assert [m.headers for m in got] == [{"i": i, "f": 0.5} for i in range(10)]
        channel.basic_cancel(tag)
        channel.queue_delete(queue)


def test_py_amqp_heartbeat(broker):
    with amqp.Connection(f"127.0.0.1:{broker.port}", "guest", "guest", heartbeat=2) as c:
        c.channel()
        assert c.heartbeat == 2
        for _ in range(8):
            c.heartbeat_tick(rate=4)
            try:
                c.drain_events(timeout=0.5)
            except socket.timeout:
                pass
        assert c.connected


def test_simple_queue(kombu_connection, name):
    queue = kombu_connection.SimpleQueue(name())
    for i in range(5):
        queue.put({"number": i})
    for i in range(5):
        message = queue.get(timeout=5)
        assert message.payload == {"number": i}
        message.ack()
    with pytest.raises(queue.Empty):
        queue.get(block=False)
    queue.close()
    queue.queue.delete()


@pytest.mark.parametrize("serializer,compression", [("json", None), ("yaml", "zlib"),
                                                    ("pickle", "bzip2")])
def test_producer_and_consumer(kombu_connection, name, serializer, compression):
    exchange = kombu.Exchange(name("x"), "topic", durable=False, auto_delete=True)
    queue = kombu.Queue(name(), exchange, "task.#", auto_delete=True)
    got = []

    def on_message(body, message):
        got.append(body)
        message.ack()

    with kombu_connection.Consumer(queue, callbacks=[on_message],
                                   accept=["json", "yaml", "pickle"]):
        with producers[kombu_connection].acquire(block=True) as producer:
            for i in range(20):
                producer.publish({"i": i, "text": "żółw" * 100}, exchange=exchange,
                                 routing_key=f"task.{i}", serializer=serializer,
                                 compression=compression, declare=[queue], retry=True)
        while len(got) < 20:
            kombu_connection.drain_events(timeout=5)
    assert [b["i"] for b in got] == list(range(20))


def test_mandatory_comes_back(kombu_connection):
    returned = []
    channel = kombu_connection.channel()
    producer = kombu.Producer(channel, on_return=lambda *a: returned.append(a))
    producer.publish("lost", exchange="amq.direct", routing_key="nowhere-at-all", mandatory=True)
    while not returned:
        kombu_connection.drain_events(timeout=5)
    assert returned[0][1] == 312 or returned[0][0].reply_code == 312


def test_ensure_reconnects(own_broker, name):
    broker = own_broker()
    connection = kombu.Connection(f"amqp://guest:guest@127.0.0.1:{broker.port}//")
    queue = kombu.Queue(name(), durable=True)
    queue(connection.channel()).declare()
    producer = connection.Producer()
    publish = connection.ensure(producer, producer.publish, max_retries=50, interval_start=0.1,
                                interval_step=0, interval_max=0.1)
    publish("before", routing_key=queue.name, delivery_mode=2)
    broker.restart()
    publish("after", routing_key=queue.name, delivery_mode=2)
    with connection.SimpleQueue(queue) as simple:
        assert simple.get(timeout=5).payload == "before"
        assert simple.get(timeout=5).payload == "after"
    connection.release()
