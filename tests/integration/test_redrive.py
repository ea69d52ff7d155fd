"""Dead letters go back to where they died: over HTTP and with sluicectl."""

import json
import os
import signal
import subprocess
import time

import pika
import pytest

import brokers
import helpers
from conftest import pika_connection
from test_browse import browse, numbers
from test_management import ask, ctl, managed  # noqa: F401

pytestmark = pytest.mark.sluice_only

WORKERS = pytest.mark.parametrize("workers", ["1", "4"])


def kill_messages(broker, count, queue="work", dead="dead", exchange="", **properties):
    """So many dead letters of the queue, each with its number."""
    connection = pika_connection(broker.port)
    channel = connection.channel()
    channel.queue_declare(dead, durable=True)
    channel.queue_declare(queue, durable=True, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    channel.confirm_delivery()
    before = counts(broker, dead)
    if exchange:
        channel.queue_bind(queue, exchange, "#")
    for n in range(count):
        channel.basic_publish(exchange, "a.key" if exchange else queue, str(n).encode(),
                              pika.BasicProperties(delivery_mode=2, headers={"n": n, "odd": n % 2 == 1},
                                                   **properties))
    for _ in range(count):
        method, _, _ = channel.basic_get(queue)
        channel.basic_reject(method.delivery_tag, requeue=False)
    helpers.wait_for(lambda: counts(broker, dead) == before + count)
    return connection


def counts(broker, queue):
    return ask(broker, f"queues/%2f/{queue}")[1]["messages_ready"]


def redrive(broker, source, **body):
    status, answer = ask(broker, f"queues/%2f/{source}/redrive", "POST", json.dumps(body).encode())
    assert status == 201, answer
    return answer["id"]


def finish(broker, number):
    def is_over():
        found = ask(broker, f"redrives/{number}")[1]
        return found if found["state"] != "running" else None
    helpers.wait_for(is_over)
    return is_over()


@WORKERS
def test_back_to_the_queues(managed, workers):
    """To several queues at once, with another connection on each worker; then they die again."""
    broker = managed(workers=workers)
    kill_messages(broker, 100, "work", exchange="amq.topic")
    kill_messages(broker, 50, "other").close()
    facts = finish(broker, redrive(broker, "dead"))
    assert abs(facts["started_at"] - time.time() * 1000) < 60000
    assert facts.pop("started_at") <= facts.pop("ended_at")
    assert sorted((t["name"], t["matched"], t["moved"]) for t in facts.pop("targets")) == [
        ("other", 50, 50), ("work", 100, 100)]
    assert facts.pop("id") >= 0
    assert facts == {"vhost": "/", "queue": "dead", "to": "origin", "preview": False, "state": "done",
                     "rate": 0, "limit": 0, "total": 150, "looked": 150, "skipped": 0,
                     "matched": 150, "moved": 150, "refused": 0}
    assert counts(broker, "dead") == 0
    connection = pika_connection(broker.port)
    channel = connection.channel()
    for n in range(100):
        method, properties, body = channel.basic_get("work")
        assert (int(body), method.exchange, method.routing_key, method.redelivered) == (
            n, "amq.topic", "a.key", False)
        assert properties.headers["n"] == n and properties.delivery_mode == 2
        death, = properties.headers["x-death"]
        assert (death["queue"], death["reason"], death["count"], death["exchange"]) == (
            "work", "rejected", 1, "amq.topic")
        channel.basic_reject(method.delivery_tag, requeue=False)
    helpers.wait_for(lambda: counts(broker, "dead") == 100)
    death, = browse(broker, "dead")["messages"][0]["properties"]["headers"]["x-death"]
    assert (death["count"], death["routing-keys"]) == (2, ["a.key"])
    broker.kill()
    broker.start()
    assert ask(broker, "redrives") == (200, [])  # forgotten
    assert (counts(broker, "dead"), counts(broker, "other")) == (100, 50)


@WORKERS
def test_filters_and_preview(managed, workers):
    broker = managed(workers=workers)
    kill_messages(broker, 20, "work")
    kill_messages(broker, 10, "other").close()
    facts = finish(broker, redrive(broker, "dead", preview=True, where={"header.odd": True}))
    assert sorted((t["name"], t["matched"]) for t in facts["targets"]) == [("other", 5), ("work", 10)]
    assert (facts["matched"], facts["moved"], counts(broker, "dead")) == (15, 0, 30)
    facts = finish(broker, redrive(broker, "dead", where={"death.queue": "work", "header.odd": "true"}))
    assert facts["moved"] == 10
    assert numbers(browse(broker, "work")) == list(range(1, 20, 2))
    assert finish(broker, redrive(broker, "dead", where={"header.n": 4}, limit=1))["moved"] == 1
    assert finish(broker, redrive(broker, "dead", where={"death.reason": "expired"}))["matched"] == 0
    assert finish(broker, redrive(broker, "dead", since=int(time.time() * 1000) + 10000))["looked"] == 19


@WORKERS
def test_to_other_places(managed, workers):
    broker = managed(workers=workers)
    connection = kill_messages(broker, 30)
    channel = connection.channel()
    channel.queue_declare("a", durable=True)
    channel.queue_declare("b", durable=True)
    channel.queue_bind("b", "amq.direct", "k")
    facts = finish(broker, redrive(broker, "dead", queue="a", limit=10))
    assert (facts["to"], facts["target"], facts["moved"]) == ("queue", "a", 10)
    assert numbers(browse(broker, "a")) == list(range(10))
    facts = finish(broker, redrive(broker, "dead", exchange="amq.direct", routing_key="k", limit=10))
    assert facts["moved"] == 10 and numbers(browse(broker, "b")) == list(range(10, 20))
    assert browse(broker, "b")["messages"][0]["routing_key"] == "k"
    facts = finish(broker, redrive(broker, "dead", exchange="amq.direct"))
    assert (facts["refused"], facts["problem"]) == (10, "no queue wants it")
    assert counts(broker, "dead") == 10
    facts = finish(broker, redrive(broker, "dead", exchange="amq.default"))
    assert facts["moved"] == 10 and numbers(browse(broker, "work")) == list(range(20, 30))


def test_what_is_refused(managed):
    broker = managed()
    kill_messages(broker, 1).close()
    for body in ({"queue": 1}, {"queue": "a", "exchange": "b"}, {"routing_key": "k"}, {"rate": -1},
                 {"limit": "x"}, {"where": []}, {"where": {"x": 1}}, {"where": {"header.x": [1]}},
                 {"preview": 1}, {"since": 1.5}, {"queue": "dead"}, {"queue": "a\0b"}):
        status, answer = ask(broker, "queues/%2f/dead/redrive", "POST", json.dumps(body).encode())
        assert status == 400, (body, answer)
    for path, body in (("none", {}), ("dead", {"queue": "none"}), ("dead", {"exchange": "none"})):
        assert ask(broker, f"queues/%2f/{path}/redrive", "POST", json.dumps(body).encode())[0] == 404
    assert ask(broker, "redrives/7")[0] == ask(broker, "redrives/x")[0] == 404
    assert ask(broker, "redrives/7", "DELETE")[0] == 404
    assert counts(broker, "dead") == 1


@WORKERS
def test_rate_and_cancel(managed, workers):
    broker = managed(workers=workers)
    kill_messages(broker, 200).close()
    number = redrive(broker, "dead", rate=50)
    time.sleep(1)
    running = ask(broker, f"redrives/{number}")[1]
    assert running["state"] == "running" and 30 <= running["moved"] <= 75
    assert [job["id"] for job in ask(broker, "redrives")[1]] == [number]
    assert ask(broker, f"redrives/{number}", "DELETE") == (204, None)
    facts = finish(broker, number)
    assert facts["state"] == "cancelled"
    assert (counts(broker, "work"), counts(broker, "dead")) == (facts["moved"], 200 - facts["moved"])
    assert ask(broker, f"redrives/{number}", "DELETE")[0] == 204
    assert ask(broker, f"redrives/{number}")[0] == 404


def test_killed_meanwhile(managed):
    """Each is in one of the two queues, once."""
    broker = managed()
    kill_messages(broker, 300).close()
    for rate in (0, 400, 0, 800):
        redrive(broker, "dead", rate=rate)
        time.sleep(0.05)
        broker.kill()
        broker.start()
        there = numbers(browse(broker, "work", limit=1000)) + numbers(browse(broker, "dead", limit=1000))
        assert sorted(there) == list(range(300))


def test_sluicectl(managed):
    broker = managed()
    port = ["--port", str(broker.management)]
    kill_messages(broker, 30).close()

    def run(*arguments):
        result = ctl(*arguments, *port)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    assert run("queue", "redrive", "dead", "--preview").splitlines()[1:] == [
        "work         30", "30 messages would be moved; 30 of 30 looked at"]
    assert "done: 10 messages moved, 0 refused" in run("queue", "redrive", "dead", "--limit", "10")
    facts = json.loads(run("queue", "redrive", "dead", "--where", "header.n=20", "--json"))
    assert facts["moved"] == 1 and numbers(browse(broker, "work")) == [*range(10), 20]
    number = run("queue", "redrive", "dead", "--rate", "2", "--background").strip()
    listed = run("list", "redrives").splitlines()
    assert listed[0].split()[:5] == ["ID", "VHOST", "QUEUE", "TO", "STATE"] and len(listed) == 5
    assert listed[-1].split()[:5] == [number, "/", "dead", "origin", "running"]
    run("redrive", "cancel", number)
    helpers.wait_for(lambda: ask(broker, f"redrives/{number}")[1]["state"] == "cancelled")
    run("redrive", "cancel", number)
    assert len(json.loads(run("list", "redrives", "--json"))) == 3
    result = ctl("queue", "redrive", "dead", "--exchange", "amq.direct", "--key", "k", *port)
    assert result.returncode == 1 and "no queue wants it" in result.stderr
    for arguments, what in ((("queue", "redrive", "none"), "no queue 'none'"),
                            (("queue", "redrive", "dead", "--rate", "x"), "no number"),
                            (("queue", "redrive", "dead", "--to-queue", "dead"), "into itself"),
                            (("redrive", "cancel", "77"), "Not Found")):
        result = ctl(*arguments, *port)
        assert result.returncode == 1 and what in result.stderr, result


def test_sluicectl_interrupted(managed):
    broker = managed()
    kill_messages(broker, 50).close()
    with subprocess.Popen([os.path.join(brokers.BUILD, "sluicectl"), "queue", "redrive", "dead", "--rate",
                           "10", "--port", str(broker.management)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        helpers.wait_for(lambda: counts(broker, "work") > 2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert process.returncode == 1 and "cancelled" in error and out.splitlines()[0].split() == [
        "TARGET", "MATCHED", "MOVED"]
    assert counts(broker, "work") + counts(broker, "dead") == 50 and counts(broker, "dead") > 0
