"""Policies: set over the management API, by rabbitmqadmin and sluicectl; what they do to queues that
are there, to those that come, and after a restart."""

import base64
import json
import subprocess
import threading
import time
import urllib.parse

import pika
import pytest

import brokers
from conftest import pika_connection
from helpers import get_all, ready, wait_for
from test_management import RABBITMQADMIN, ask, ctl, managed  # noqa: F401  managed: a fixture

pytestmark = pytest.mark.sluice_only

PERSISTENT = pika.BasicProperties(delivery_mode=2)


@pytest.fixture(params=["1", "4"])
def broker(request, managed):  # noqa: F811
    return managed(workers=request.param)


@pytest.fixture
def channel(broker):
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    if connection.is_open:
        connection.close()


def put(broker, name, pattern, definition, kind="policies", expected=201, **more):
    body = {"pattern": pattern, "definition": definition, **more}
    status, answer = ask(broker, f"{kind}/%2F/{urllib.parse.quote(name, safe='')}", method="PUT",
                         body=json.dumps(body).encode())
    assert status == expected, (status, answer)
    return answer


def clear(broker, name, kind="policies", expected=204):
    status, answer = ask(broker, f"{kind}/%2F/{name}", method="DELETE")
    assert status == expected, (status, answer)
    return answer


def queue_of(broker, name):
    return ask(broker, f"queues/%2F/{name}")[1]


def publish(channel, queue, *bodies):
    for body in bodies:
        channel.basic_publish("", queue, body.encode(), PERSISTENT)


# ---- each key, on queues that are there ----

def test_lengths(broker, channel):
    channel.queue_declare("q", durable=True)
    channel.queue_declare("other", durable=True)
    for queue in ("q", "other"):
        publish(channel, queue, *"abcdef")
    put(broker, "p", "^q$", {"max-length": 4})
    wait_for(lambda: ready(channel, "q") == 4)
    assert ready(channel, "other") == 6
    put(broker, "p", "^q$", {"max-length-bytes": 2}, expected=204)
    wait_for(lambda: ready(channel, "q") == 2)
    put(broker, "p", "^q$", {"max-length": 3, "overflow": "reject-publish"}, expected=204)
    publish(channel, "q", "g")
    with pytest.raises(pika.exceptions.NackError):
        publish(channel, "q", "h")
    clear(broker, "p")
    publish(channel, "q", "i", "j")
    assert get_all(channel, "q") == ["e", "f", "g", "i", "j"]


def test_times_to_live(broker, channel):
    channel.queue_declare("q", durable=True)
    publish(channel, "q", "a", "b")
    put(broker, "p", "q", {"message-ttl": 300})
    wait_for(lambda: ready(channel, "q") == 0)
    put(broker, "p", "q", {"message-ttl": 3600000}, expected=204)
    publish(channel, "q", "c")
    time.sleep(0.5)
    clear(broker, "p")
    assert get_all(channel, "q") == ["c"]


def test_a_queue_expires(broker, channel):
    channel.queue_declare("q", durable=True)
    channel.queue_declare("stays", durable=True)
    put(broker, "p", "^q$", {"expires": 300})
    wait_for(lambda: ask(broker, "queues/%2F/q")[0] == 404)
    channel.queue_declare("q", durable=True)
    clear(broker, "p")
    time.sleep(0.6)
    assert queue_of(broker, "q")["name"] == "q" and queue_of(broker, "stays")["name"] == "stays"


def test_dead_letters(broker, channel):
    for queue in ("q", "grave", "other-grave"):
        channel.queue_declare(queue, durable=True)
    publish(channel, "q", *"abcd")

    def reject():
        method, _, _ = channel.basic_get("q")
        channel.basic_reject(method.delivery_tag, requeue=False)

    put(broker, "p", "^q$", {"dead-letter-exchange": "", "dead-letter-routing-key": "grave"})
    reject()
    wait_for(lambda: get_all(channel, "grave") == ["a"])
    put(broker, "p", "^q$", {"dead-letter-exchange": "", "dead-letter-routing-key": "other-grave"},
        expected=204)
    reject()
    wait_for(lambda: get_all(channel, "other-grave") == ["b"])
    clear(broker, "p")
    reject()
    assert get_all(channel, "q") == ["d"]
    assert get_all(channel, "grave") == get_all(channel, "other-grave") == []


def test_delivery_limit(broker, channel):
    channel.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_declare("classic", durable=True)
    put(broker, "p", "", {"delivery-limit": 1})
    assert queue_of(broker, "q")["policy"] == "p"
    assert queue_of(broker, "classic")["policy"] is None  # which has no delivery limit
    publish(channel, "q", "a")
    for _ in range(2):
        method, _, body = channel.basic_get("q")
        assert body == b"a"
        channel.basic_reject(method.delivery_tag, requeue=True)
    assert get_all(channel, "q") == []
    put(broker, "p", "", {"delivery-limit": -1}, expected=204)
    publish(channel, "q", "b")
    for _ in range(30):
        method, _, body = channel.basic_get("q")
        assert body == b"b"
        channel.basic_reject(method.delivery_tag, requeue=True)


def test_alternate_exchange(broker, channel):
    channel.exchange_declare("main")
    channel.exchange_declare("side", "fanout")
    channel.queue_declare("q")
    channel.queue_bind("q", "side")
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("main", "nobody", b"a", mandatory=True)
    put(broker, "p", "^main$", {"alternate-exchange": "side"}, **{"apply-to": "exchanges"})
    channel.basic_publish("main", "nobody", b"b", mandatory=True)
    clear(broker, "p")
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("main", "nobody", b"c", mandatory=True)
    assert get_all(channel, "q") == ["b"]


# ---- which one acts ----

def test_arguments_and_operators(broker, channel):
    channel.queue_declare("q", arguments={"x-max-length": 5, "x-overflow": "drop-head"})
    put(broker, "low", "q", {"max-length": 1, "message-ttl": 1}, priority=-1)
    put(broker, "high", "q", {"max-length": 8, "overflow": "reject-publish"}, priority=7)
    publish(channel, "q", *"abcdefg")
    assert get_all(channel, "q") == list("cdefg")
    put(broker, "op", "", {"max-length": 3}, kind="operator-policies")
    publish(channel, "q", *"abcdefg")
    assert get_all(channel, "q") == list("efg")
    queue = queue_of(broker, "q")
    assert (queue["policy"], queue["operator_policy"]) == ("high", "op")
    assert queue["effective_policy_definition"] == {"max-length": 3, "overflow": "reject-publish"}
    assert queue["arguments"] == {"x-max-length": 5, "x-overflow": "drop-head"}
    clear(broker, "high")
    clear(broker, "low")
    clear(broker, "op", kind="operator-policies")
    queue = queue_of(broker, "q")
    assert (queue["policy"], queue["operator_policy"]) == (None, None)
    assert queue["effective_policy_definition"] == {}


def test_what_is_declared_later_and_restarts(broker, channel):
    put(broker, "p", "^q", {"max-length": 2})
    put(broker, "gone", "^r", {"max-length": 2})
    channel.queue_declare("q", durable=True)
    channel.queue_declare("r", durable=True)
    clear(broker, "gone")
    for queue in ("q", "r"):
        publish(channel, queue, *"abcd")
    assert (ready(channel, "q"), ready(channel, "r")) == (2, 4)
    for how in (broker.kill, broker.stop):
        channel.connection.close()
        how()
        broker.start()
        channel = pika_connection(broker.port).channel()
        channel.confirm_delivery()
        assert (ready(channel, "q"), ready(channel, "r")) == (2, 4)
        assert queue_of(broker, "q")["policy"] == "p"
        assert queue_of(broker, "r")["policy"] is None
        publish(channel, "q", "e")
        wait_for(lambda: ready(channel, "q") == 2)
        assert ask(broker, "policies")[1] == [
            {"vhost": "/", "name": "p", "pattern": "^q", "apply-to": "all",
             "definition": {"max-length": 2}, "priority": 0}]
    channel.connection.close()


def test_many_queues_while_messages_pass(broker, channel):
    """Whoever has set a policy finds it in force on each of many queues; others go on meanwhile."""
    count = 3000
    for i in range(count):
        channel.queue_declare(f"many-{i}")
    channel.queue_declare("busy")
    stop, failures, passed = threading.Event(), [], []

    def pass_messages():
        try:
            connection = pika_connection(broker.port)
            own = connection.channel()
            own.confirm_delivery()
            while not stop.is_set():
                own.basic_publish("", "busy", b"m")
                passed.append(own.basic_get("busy", auto_ack=True)[2])
            connection.close()
        except Exception as error:  # noqa: BLE001  told below
            failures.append(error)

    thread = threading.Thread(target=pass_messages)
    thread.start()
    for n in range(1, 6):
        put(broker, "p", "^many-", {"max-length": n}, expected=201 if n == 1 else 204)
        status, queues = ask(broker, "queues")
        many = [q for q in queues if q["name"] != "busy"]
        assert len(many) == count
        assert all(q["effective_policy_definition"] == {"max-length": n} for q in many)
    stop.set()
    thread.join()
    assert not failures and len(passed) > 20 and None not in passed


# ---- the API ----

def test_lists_and_single_ones(broker):
    put(broker, "a b/c", "^x", {"max-length": 1}, priority=3, **{"apply-to": "queues"})
    put(broker, "op", "", {"expires": 5}, kind="operator-policies")
    one = {"vhost": "/", "name": "a b/c", "pattern": "^x", "apply-to": "queues",
           "definition": {"max-length": 1}, "priority": 3}
    assert ask(broker, "policies") == ask(broker, "policies/%2F") == (200, [one])
    assert ask(broker, "policies/%2F/a%20b%2Fc") == (200, one)
    other = {"vhost": "/", "name": "op", "pattern": "", "apply-to": "all",
             "definition": {"expires": 5}, "priority": 0}
    assert ask(broker, "operator-policies") == ask(broker, "operator-policies/%2F") == (200, [other])
    assert ask(broker, "operator-policies/%2F/op") == (200, other)
    for path in ("policies/%2F/op", "operator-policies/%2F/a%20b%2Fc", "policies/nowhere",
                 "policies/nowhere/p"):
        assert ask(broker, path)[0] == 404, path
    clear(broker, "op", expected=404)
    assert ask(broker, "policies/%2F/x", method="POST", body=b"{}")[0] == 405


@pytest.mark.parametrize("body, reason", [
    ({"pattern": "q"}, "[{key_missing,definition}]"),
    ({"definition": {"max-length": 1}}, "[{key_missing,pattern}]"),
    ({"pattern": "(", "definition": {"max-length": 1}}, "pattern should be regular expression"),
    ({"pattern": 1, "definition": {"max-length": 1}}, "pattern should be a text, actually was 1"),
    ({"pattern": "q", "definition": {}}, "no policy provided"),
    ({"pattern": "q", "definition": []}, "definition should be a dictionary, actually was []"),
    ({"pattern": "q", "definition": {"max-length": -1}}, "-1 is not a valid maximum length"),
    ({"pattern": "q", "definition": {"max-length": "1"}}, '<<"1">> is not a valid maximum length'),
    ({"pattern": "q", "definition": {"max-length": 1.5}}, "1.5 is not a valid maximum length"),
    ({"pattern": "q", "definition": {"max-length": [1]}}, "is not a valid maximum length"),
    ({"pattern": "q", "definition": {"overflow": "x"}}, '<<"x">> is not a valid overflow value'),
    ({"pattern": "q", "definition": {"ha-mode": "all"}},
     '[{<<"ha-mode">>,<<"all">>}] are not recognised policy settings'),
    ({"pattern": "q", "definition": {"max-age": "1D"}}, "does nothing in sluice yet"),
    ({"pattern": "q", "definition": {"max-length": 1}, "priority": "x"},
     'priority should be a number, actually was "x"'),
    ({"pattern": "q", "definition": {"max-length": 1}, "apply-to": "things"},
     "apply-to 'things' unrecognised"),
])
def test_what_is_refused(shared_managed, body, reason):
    status, answer = ask(shared_managed, "policies/%2F/p", method="PUT",
                         body=json.dumps(body).encode())
    assert (status, answer["error"]) == (400, "bad_request"), answer
    assert reason in answer["reason"]
    assert ask(shared_managed, "policies/%2F/p")[0] == 404


@pytest.fixture(scope="module")
def shared_managed():
    port = brokers.free_port()
    broker = brokers.make(settings={"management.tcp.port": port, "management.tcp.ip": "127.0.0.1"})
    broker.start()
    broker.management = port
    yield broker
    broker.kill()
    broker.remove()


def test_operators_have_fewer_keys(shared_managed):
    answer = put(shared_managed, "p", "", {"dead-letter-exchange": "x"}, kind="operator-policies",
                 expected=400)
    assert "are not recognised policy settings" in answer["reason"]


def test_who_may(managed):  # noqa: F811
    def login(tags):
        broker = managed(default_user="ann", default_pass="secret",
                         **{f"default_user_tags.{tag}": "true" for tag in tags},
                         **({} if "administrator" in tags
                            else {"default_user_tags.administrator": "false"}))
        user = "Basic " + base64.b64encode(b"ann:secret").decode()
        body = json.dumps({"pattern": "q", "definition": {"max-length": 1}}).encode()

        def status(path, method="GET"):
            return ask(broker, path, method=method, user=user,
                       body=body if method == "PUT" else None)[0]
        return status

    maker = login(["policymaker"])
    assert maker("policies/%2F/p", "PUT") == 201 and maker("policies/%2F/p") == 200
    assert maker("operator-policies/%2F/p", "PUT") == maker("operator-policies/%2F/p") == 401
    assert maker("operator-policies") == 200
    assert maker("policies/%2F/p", "DELETE") == 204
    looker = login(["monitoring"])
    assert looker("policies/%2F/p", "PUT") == looker("policies/%2F/p", "DELETE") == 401
    assert looker("policies") == 200


def test_a_pattern_that_burns(broker, channel):
    put(broker, "p", "^(a+)+$", {"max-length": 1})
    began = time.monotonic()
    channel.queue_declare("a" * 100 + "b")
    channel.queue_declare("a" * 100)
    assert time.monotonic() - began < 5
    assert queue_of(broker, "a" * 100)["policy"] == "p"
    assert queue_of(broker, "a" * 100 + "b")["policy"] is None


# ---- tools ----

@pytest.mark.skipif(not RABBITMQADMIN, reason="Debian's rabbitmq-server, which has it, is not there")
def test_rabbitmqadmin(broker, channel, tmp_path):
    channel.queue_declare("q")
    with open(RABBITMQADMIN[0]) as template:
        text = template.read().replace("@RABBITMQ_VERSION@", "3.10.8").replace("{{version}}", "3")
    script = tmp_path / "rabbitmqadmin"
    script.write_text(text)

    def admin(*arguments):
        result = subprocess.run(["/usr/bin/python3", str(script), "-P", str(broker.management),
                                 *arguments], capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, result
        return result.stdout

    admin("declare", "policy", "name=p", "pattern=^q", 'definition={"max-length":2}', "priority=4",
          "apply-to=queues")
    admin("declare", "operator_policy", "name=o", "pattern=^q", 'definition={"max-length":1}')
    listed = json.loads(admin("-f", "raw_json", "list", "policies"))
    assert [p["name"] for p in listed] == ["p"] and listed[0]["priority"] == 4
    assert [p["name"] for p in json.loads(admin("-f", "raw_json", "list", "operator_policies"))] \
        == ["o"]
    assert queue_of(broker, "q")["effective_policy_definition"] == {"max-length": 1}
    admin("delete", "policy", "name=p")
    admin("delete", "operator_policy", "name=o")
    assert ask(broker, "policies")[1] == ask(broker, "operator-policies")[1] == []


def test_sluicectl(broker, channel):
    port = ["--port", str(broker.management)]
    channel.queue_declare("q")
    done = ctl("policy", "set", "p", "^q$", '{"max-length": 2, "overflow": "drop-head"}',
               "--priority", "-3", "--apply-to", "queues", *port)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert ctl("policy", "set", "--operator", "o", "", '{"max-length": 1}', *port).returncode == 0
    assert queue_of(broker, "q")["effective_policy_definition"] == {"max-length": 1,
                                                                   "overflow": "drop-head"}
    lines = [line.split() for line in ctl("list", "policies", *port).stdout.splitlines()]
    assert lines == [["VHOST", "NAME", "PATTERN", "APPLY-TO", "PRIORITY", "DEFINITION"],
                     ["/", "p", "^q$", "queues", "-3", '{"max-length":2,"overflow":"drop-head"}']]
    listed = json.loads(ctl("list", "policies", "--operator", "--json", *port).stdout)
    assert [p["name"] for p in listed] == ["o"]
    assert ctl("policy", "clear", "p", *port).returncode == 0
    assert ctl("policy", "clear", "o", "--operator", *port).returncode == 0
    again = ctl("policy", "clear", "p", *port)
    assert again.returncode == 1 and "no policy 'p' in vhost '/'" in again.stderr
    wrong = ctl("policy", "set", "p", "q", "{", *port)
    assert wrong.returncode == 1 and "the definition is no JSON object" in wrong.stderr
    wrong = ctl("policy", "set", "p", "q", '{"max-lenght": 1}', *port)
    assert wrong.returncode == 1 and "are not recognised policy settings" in wrong.stderr
    assert ctl("policy", "set", "p", "q", "{}", "--priority", "high", *port).returncode == 2
    assert ctl("policy", "set", "p", "q", *port).returncode == 2
