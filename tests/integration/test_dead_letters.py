"""What becomes of messages that die: where they go, and the history they carry."""

import time

import kombu
import pika
import pytest

from conftest import IS_RABBITMQ, pika_connection, sluice_only
from helpers import get_all, ready, wait_for

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def declare(channel, queue, exchange=None, key=None, durable=False, **arguments):
    arguments = {"x-" + k.replace("_", "-"): v for k, v in arguments.items()}
    if exchange is not None:
        arguments["x-dead-letter-exchange"] = exchange
    if key is not None:
        arguments["x-dead-letter-routing-key"] = key
    channel.queue_declare(queue, durable=durable, exclusive=not durable, arguments=arguments)
    return queue


@pytest.fixture
def sure(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def letter(channel, queue, timeout=5):
    """The next message there: method, properties, body."""
    return wait_for(lambda: (got := channel.basic_get(queue, auto_ack=True))[0] and got, timeout)


def history(properties):
    """All headers, without times; those of RabbitMQ 4 alone are added where 3.10 has none."""
    headers = dict(properties.headers)
    for death in headers["x-death"]:
        assert abs(death.pop("time").timestamp() - time.time()) < 100
    if IS_RABBITMQ:
        newest = headers["x-death"][0]
        headers.update({"x-last-death-" + key: newest[key]
                        for key in ("queue", "reason", "exchange")})
    return headers


def death(queue, reason, key, exchange="", count=1, **more):
    return {"count": count, "reason": reason, "queue": queue, "exchange": exchange,
            "routing-keys": [key] if isinstance(key, str) else key, **more}


def told(deaths, first=None, **headers):
    """The headers that these deaths make."""
    first, last = first or deaths[-1], deaths[0]
    return {**headers, "x-death": deaths,
            **{"x-first-death-" + key: first[key] for key in ("queue", "reason", "exchange")},
            **{"x-last-death-" + key: last[key] for key in ("queue", "reason", "exchange")}}


# ---- the reasons ----

def test_rejected(sure, name):
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave)
    properties = pika.BasicProperties(headers={"mine": 1}, message_id="id", delivery_mode=2,
                                      content_type="text/plain", priority=3, timestamp=1)
    for reject in (lambda tag: sure.basic_reject(tag, requeue=False),
                   lambda tag: sure.basic_nack(tag, requeue=False),
                   lambda tag: sure.basic_nack(tag, requeue=False, multiple=True)):
        sure.basic_publish("", queue, b"body", properties)
        reject(sure.basic_get(queue)[0].delivery_tag)
        method, got, body = letter(sure, grave)
        assert (method.exchange, method.routing_key, method.redelivered) == ("", grave, False)
        assert body == b"body"
        assert history(got) == told([death(queue, "rejected", queue)], mine=1)
        assert (got.message_id, got.content_type, got.priority, got.timestamp, got.delivery_mode) \
            == ("id", "text/plain", 3, 1, 2)
    assert ready(sure, queue) == 0


def test_expired_by_queue(sure, name):
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave, message_ttl=200)
    sure.basic_publish("", queue, b"body")
    assert history(letter(sure, grave)[1]) == told([death(queue, "expired", queue)])


def test_expired_by_message_lives_on_without_its_time(sure, name):
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave)
    sure.basic_publish("", queue, b"body", pika.BasicProperties(expiration="200"))
    time.sleep(0.5)
    _, got, _ = letter(sure, grave)
    assert got.expiration is None
    assert history(got) == told([death(queue, "expired", queue, **{"original-expiration": "200"})])


@pytest.mark.parametrize("limit", [{"max_length": 2}, {"max_length_bytes": 2}])
def test_over_a_limit(sure, name, limit):
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave, **limit)
    for i in range(5):
        sure.basic_publish("", queue, str(i).encode())
    for i in range(3):
        _, got, body = letter(sure, grave)
        assert body.decode() == str(i)
        assert history(got) == told([death(queue, "maxlen", queue)])
    assert get_all(sure, queue) == ["3", "4"]


def test_refused(sure, name):
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave, max_length=1, overflow="reject-publish-dlx")
    sure.basic_publish("", queue, b"0")
    with pytest.raises(pika.exceptions.NackError):
        sure.basic_publish("", queue, b"1")
    _, got, body = letter(sure, grave)
    assert body == b"1"
    assert history(got) == told([death(queue, "maxlen", queue)])
    assert get_all(sure, queue) == ["0"]


def test_refused_without_burying(sure, name):
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave, max_length=1, overflow="reject-publish")
    sure.basic_publish("", queue, b"0")
    with pytest.raises(pika.exceptions.NackError):
        sure.basic_publish("", queue, b"1")
    sure.basic_reject(sure.basic_get(queue)[0].delivery_tag, requeue=False)
    assert letter(sure, grave)[2] == b"0"  # and the other never came before
    assert ready(sure, grave) == 0


def test_returned_too_often(sure, name):
    grave, queue = declare(sure, name("grave")), name()
    sure.queue_declare(queue, durable=True, arguments={
        "x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": grave})
    sure.basic_publish("", queue, b"poison")
    for count in range(3):
        method, _, _ = wait_for(lambda: (got := sure.basic_get(queue))[0] and got)
        assert method.redelivered == (count > 0)
        sure.basic_reject(method.delivery_tag, requeue=True)
    _, got, _ = letter(sure, grave)
    headers = history(got)
    headers.pop("x-delivery-count", None)
    assert headers == told([death(queue, "delivery_limit", queue)])
    sure.queue_delete(queue)


# ---- where they go ----

def test_the_key_stays_unless_the_queue_has_another(sure, name):
    exchange, queue, other = name("x"), name(), name()
    sure.exchange_declare(exchange, "topic", auto_delete=True)
    grave = declare(sure, name("grave"))
    sure.queue_bind(grave, exchange, "#")
    declare(sure, queue, exchange)
    declare(sure, other, exchange, "another")
    for each in (queue, other):
        sure.queue_bind(each, "amq.direct", "first")
    headers = {"CC": ["second"], "BCC": ["third"]}
    sure.basic_publish("amq.direct", "first", b"m", pika.BasicProperties(headers=headers))
    for each, key, left in ((queue, "first", {"CC": ["second"]}), (other, "another", {})):
        sure.basic_reject(sure.basic_get(each)[0].delivery_tag, requeue=False)
        method, got, _ = letter(sure, grave)
        assert (method.exchange, method.routing_key) == (exchange, key)
        assert history(got) == told(
            [death(each, "rejected", ["first", "second"], "amq.direct")], **left)
        assert ready(sure, grave) == 0


def test_many_queues_of_a_topic_exchange(connect, sure, name):
    """They are of several connections, so that they live on several workers."""
    exchange, queue = name("x"), name()
    sure.exchange_declare(exchange, "topic", auto_delete=True)
    graves = []
    for i in range(8):
        channel = connect().channel()
        graves.append((channel, declare(channel, name(f"grave-{i}"))))
        channel.queue_bind(graves[-1][1], exchange, "dead.*" if i % 2 else "#")
    declare(sure, queue, exchange, "dead.letter", message_ttl=100)
    for i in range(50):
        sure.basic_publish("", queue, str(i).encode())
    for channel, grave in graves:
        wait_for(lambda: ready(channel, grave) == 50)
        for i in range(50):
            _, got, body = letter(channel, grave)
            assert int(body) == i
            assert history(got) == told([death(queue, "expired", queue)])
    assert ready(sure, queue) == 0


def test_nobody_wants_them(sure, name):
    """No exchange, or none that leads on: they are gone, and the queue goes on."""
    for exchange in (name("missing"), "amq.fanout"):
        queue = declare(sure, name(), exchange, max_length=1)
        for i in range(3):
            sure.basic_publish("", queue, str(i).encode(), mandatory=True)
        wait_for(lambda: ready(sure, queue) == 1)
        sure.basic_reject(sure.basic_get(queue)[0].delivery_tag, requeue=False)
        sure.basic_publish("", queue, b"3")
        assert get_all(sure, queue) == ["3"]


def test_an_exchange_that_comes_later(sure, name):
    exchange, queue, grave = name("x"), name(), declare(sure, name("grave"))
    declare(sure, queue, exchange, max_length=1)
    for body in (b"0", b"1"):
        sure.basic_publish("", queue, body)
    time.sleep(0.2)
    sure.exchange_declare(exchange, "fanout", auto_delete=True)
    sure.queue_bind(grave, exchange)
    sure.basic_publish("", queue, b"2")
    assert letter(sure, grave)[2] == b"1"
    assert ready(sure, grave) == 0


def test_internal_and_alternate_exchanges(sure, name):
    internal, alternate, queue = name("x"), name("x"), name()
    grave = declare(sure, name("grave"))
    sure.exchange_declare(alternate, "fanout")
    sure.exchange_declare(internal, "direct", internal=True,
                          arguments={"alternate-exchange": alternate})
    sure.queue_bind(grave, alternate)
    declare(sure, queue, internal, max_length=0)
    sure.basic_publish("", queue, b"m", pika.BasicProperties(user_id="guest"))
    method, got, _ = letter(sure, grave)
    assert (method.exchange, method.routing_key, got.user_id) == (internal, queue, "guest")
    for exchange in (internal, alternate):
        sure.exchange_delete(exchange)


def test_purged_and_deleted_messages_do_not_die(sure, name):
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave)
    sure.basic_publish("", queue, b"0")
    sure.queue_purge(queue)
    sure.basic_publish("", queue, b"1")
    sure.queue_delete(queue)
    time.sleep(0.2)
    assert ready(sure, grave) == 0


def test_a_full_queue_refuses_dead_letters_too(sure, name):
    grave = declare(sure, name("grave"), max_length=1, overflow="reject-publish")
    queue = declare(sure, name(), "", grave, max_length=1)
    for i in range(4):
        sure.basic_publish("", queue, str(i).encode())
    time.sleep(0.2)
    assert get_all(sure, grave) == ["0"]
    assert get_all(sure, queue) == ["3"]


# ---- more than one death ----

def test_dying_in_several_queues(sure, name):
    third, second, first = name("third"), name("second"), name("first")
    declare(sure, third)
    declare(sure, second, "", third, message_ttl=100)
    declare(sure, first, "", second)
    sure.basic_publish("", first, b"m", pika.BasicProperties(expiration="50"))
    _, got, _ = letter(sure, third)
    old = death(first, "expired", first, **{"original-expiration": "50"})
    assert history(got) == told([death(second, "expired", second), old])


def test_a_circle_of_expiry_ends(sure, name):
    """What would come round by itself for ever is dropped, where it would come for the second
    time."""
    queue, other = name(), name()
    declare(sure, queue, "", other, message_ttl=100)
    declare(sure, other, "", queue, message_ttl=100)
    sure.basic_publish("", queue, b"m")
    wait_for(lambda: ready(sure, queue) + ready(sure, other) == 0, 5)
    time.sleep(0.5)
    assert ready(sure, queue) + ready(sure, other) == 0
    alone = name()
    declare(sure, alone, "", alone, max_length=1)
    for body in (b"0", b"1"):
        sure.basic_publish("", alone, body)
    wait_for(lambda: ready(sure, alone) == 1)
    assert get_all(sure, alone) == ["1"]


def test_retry_by_a_queue_that_waits(sure, name):
    """The way that thousands of programs retry: reject, wait in a queue without consumers, again."""
    work, wait = name("work"), name("wait")
    declare(sure, work, "", wait)
    declare(sure, wait, "", work, message_ttl=100)
    sure.basic_publish("", work, b"task")
    for turn in range(1, 4):
        method, properties, _ = wait_for(lambda: (got := sure.basic_get(work))[0] and got)
        if turn > 1:
            deaths = [death(wait, "expired", wait, count=turn - 1),
                      death(work, "rejected", work, count=turn - 1)]
            assert history(properties) == told(deaths)
        sure.basic_reject(method.delivery_tag, requeue=False)
    wait_for(lambda: ready(sure, work) == 1)


def test_a_history_that_a_client_made_up(sure, name):
    """RabbitMQ 3 believed it."""
    grave, queue = declare(sure, name("grave")), name()
    declare(sure, queue, "", grave, message_ttl=50)
    made_up = {"x-death": [{"queue": grave, "reason": "expired", "count": 7}], "mine": 1}
    sure.basic_publish("", queue, b"m", pika.BasicProperties(headers=made_up))
    if IS_RABBITMQ:
        return
    assert history(letter(sure, grave)[1]) == told([death(queue, "expired", queue)], mine=1)


def test_kombu_retries(broker, name):
    """With kombu's objects, as Celery's users write it: an exchange for each of the two."""
    with kombu.Connection(f"amqp://guest:guest@127.0.0.1:{broker.port}//") as connection:
        work_exchange = kombu.Exchange(name("work"), "direct", durable=False, auto_delete=True)
        retry_exchange = kombu.Exchange(name("retry"), "direct", durable=False, auto_delete=True)
        work = kombu.Queue(name("work"), work_exchange, "task", exclusive=True, queue_arguments={
            "x-dead-letter-exchange": retry_exchange.name})
        retry = kombu.Queue(name("retry"), retry_exchange, "task", exclusive=True,
                            message_ttl=0.1, queue_arguments={
                                "x-dead-letter-exchange": work_exchange.name})
        channel = connection.channel()
        for queue in (work, retry):
            queue(channel).declare()
        counts = []

        def on_message(body, message):
            deaths = message.headers.get("x-death", [])
            counts.append([d["count"] for d in deaths])
            assert body == {"number": 1}
            message.ack() if len(counts) == 4 else message.reject()

        with kombu.Consumer(channel, [work], callbacks=[on_message]):
            kombu.Producer(channel).publish({"number": 1}, exchange=work_exchange,
                                            routing_key="task")
            while len(counts) < 4:
                connection.drain_events(timeout=5)
        assert counts == [[], [1, 1], [2, 2], [3, 3]]


# ---- through a crash ----

def graves_of(broker, count):
    """Queues of several connections, so that they come to live on all workers."""
    for i in range(count):
        connection = pika_connection(broker.port)
        connection.channel().queue_declare(f"grave-{i}", durable=True)
        connection.channel().queue_bind(f"grave-{i}", "amq.fanout")
        connection.close()
    return [f"grave-{i}" for i in range(count)]


@sluice_only
@pytest.mark.parametrize("workers", [1, 4])
def test_a_kill_between_loses_none_and_doubles_none(own_broker, workers):
    """Each message is in its queue or in all graves, whenever the process dies."""
    broker = own_broker(settings={"workers": workers})
    graves = graves_of(broker, 4)
    channel = pika_connection(broker.port).channel()
    channel.confirm_delivery()
    declare(channel, "q", "amq.fanout", durable=True, message_ttl=1500)
    for i in range(400):
        channel.basic_publish("", "q", str(i).encode(), PERSISTENT)
    began = time.monotonic()
    observer = pika_connection(broker.port).channel()
    while time.monotonic() < began + 10 and ready(observer, graves[0]) == 0:
        pass  # the first have died, the others are about to
    broker.kill()
    broker.start()
    channel = pika_connection(broker.port).channel()
    wait_for(lambda: ready(channel, "q") == 0 and
             all(ready(channel, grave) == 400 for grave in graves), 20)
    broker.kill()
    broker.start()
    channel = pika_connection(broker.port).channel()
    for grave in graves:
        assert sorted(map(int, get_all(channel, grave))) == list(range(400))
    assert ready(channel, "q") == 0


@sluice_only
def test_what_was_rejected_before_a_kill(own_broker):
    broker = own_broker()
    channel = pika_connection(broker.port).channel()
    channel.confirm_delivery()
    channel.queue_declare("grave", durable=True)
    declare(channel, "q", "", "grave", durable=True)
    for i in range(100):
        channel.basic_publish("", "q", str(i).encode(), PERSISTENT)
    for _ in range(50):
        channel.basic_reject(channel.basic_get("q")[0].delivery_tag, requeue=False)
    wait_for(lambda: ready(channel, "grave") > 20)
    broker.kill()
    broker.start()
    channel = pika_connection(broker.port).channel()
    dead, alive = get_all(channel, "grave"), get_all(channel, "q")
    assert len(dead) > 20
    assert sorted(map(int, dead + alive)) == list(range(100))
    assert [int(body) for body in alive] == sorted(map(int, alive))
