"""tx: what is published and acknowledged happens together, or not at all."""

import pytest


@pytest.fixture
def tx(raw):
    """A raw connection: channel 1 in tx mode, channel 2 not, and a queue."""
    connection = raw(timeout=5)
    connection.open(1)
    connection.open(2)
    connection.queue = connection.call(2, "queue.declare", exclusive=True).queue
    connection.call(1, "tx.select")
    connection.ready = lambda: connection.call(2, "queue.declare", queue=connection.queue,
                                               passive=True).messages
    return connection


def test_commit_publishes(tx):
    for i in range(5):
        tx.publish(1, routing_key=tx.queue, body=str(i).encode())
    assert tx.ready() == 0
    tx.call(1, "tx.commit")
    assert tx.ready() == 5
    assert [tx.call(2, "basic.get", queue=tx.queue, no_ack=True).body for _ in range(5)] == \
        [b"0", b"1", b"2", b"3", b"4"]


def test_rollback_forgets(tx):
    tx.publish(1, routing_key=tx.queue, body=b"m")
    tx.call(1, "tx.rollback")
    tx.call(1, "tx.commit")
    assert tx.ready() == 0


def test_acks_wait_for_the_commit(tx):
    tx.publish(2, routing_key=tx.queue, body=b"m")
    assert tx.ready() == 1
    got = tx.call(1, "basic.get", queue=tx.queue)
    tx.send_method(1, "basic.ack", delivery_tag=got.delivery_tag)
    tx.call(1, "tx.rollback")
    # After the rollback the message is still out, and can be settled anew.
    assert tx.ready() == 0
    tx.call(1, "basic.recover", requeue=True)
    assert tx.ready() == 1
    got = tx.call(1, "basic.get", queue=tx.queue)
    assert got.redelivered
    tx.send_method(1, "basic.ack", delivery_tag=got.delivery_tag)
    tx.call(1, "tx.commit")
    tx.call(1, "basic.recover", requeue=True)
    assert tx.ready() == 0


def test_rejects_wait_for_the_commit(tx):
    tx.publish(2, routing_key=tx.queue, body=b"m")
    assert tx.ready() == 1
    got = tx.call(1, "basic.get", queue=tx.queue)
    tx.send_method(1, "basic.reject", delivery_tag=got.delivery_tag, requeue=True)
    assert tx.ready() == 0
    tx.call(1, "tx.commit")
    assert tx.ready() == 1


def test_closing_rolls_back(tx):
    tx.publish(1, routing_key=tx.queue, body=b"m")
    tx.call(1, "channel.close", code=200)
    assert tx.ready() == 0


def test_mandatory_comes_back_at_the_commit(tx):
    tx.publish(1, routing_key="nowhere-at-all", body=b"m", mandatory=True)
    tx.send_method(1, "tx.commit")
    assert tx.next().name == "basic.return"
    assert tx.next().name == "tx.commit-ok"


def test_persistent_to_durable(tx, name):
    queue = name()
    tx.call(2, "queue.declare", queue=queue, durable=True)
    for i in range(100):
        tx.publish(1, routing_key=queue, body=str(i).encode(), delivery_mode=2)
    tx.call(1, "tx.commit")
    assert tx.call(2, "queue.delete", queue=queue).messages == 100


def test_publish_to_no_exchange(tx, name):
    tx.publish(1, exchange=name("x"), routing_key="k")
    refusal = tx.refusal()
    assert (refusal.code, refusal.channel, refusal.class_id, refusal.method_id) == (404, 1, 60, 40)


@pytest.mark.parametrize("method_name", ["tx.commit", "tx.rollback"])
def test_without_select(raw, method_name):
    connection = raw()
    connection.open(1)
    connection.send_method(1, method_name)
    refusal = connection.refusal()
    assert (refusal.code, refusal.channel) == (406, 1)
    assert refusal.text == "PRECONDITION_FAILED - channel is not transactional"


def test_confirms_and_transactions_exclude_each_other(raw):
    connection = raw()
    connection.open(1)
    connection.call(1, "tx.select")
    connection.call(1, "tx.select")
    connection.send_method(1, "confirm.select")
    refusal = connection.refusal()
    assert (refusal.code, refusal.text) == \
        (406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode")
    connection.open(1)
    connection.call(1, "confirm.select")
    connection.send_method(1, "tx.select")
    refusal = connection.refusal()
    assert (refusal.code, refusal.text) == \
        (406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode")
