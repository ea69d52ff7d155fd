"""Who may log in, from where, and do what."""

import socket

import pytest

import raw_amqp
from conftest import IS_RABBITMQ


def address_of_this_machine():
    """One that is not loopback, without a packet being sent; None when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            return s.getsockname()[0]
        except OSError:
            return None


def test_default_user_of_the_configuration(own_broker):
    broker = own_broker(settings={"default_user": "admin", "default_pass": "s3cret"})
    raw_amqp.Connection(broker.port, user="admin", password="s3cret").close()
    for user, password in (("admin", "wrong"), ("guest", "guest"), ("admin", "")):
        with pytest.raises((raw_amqp.Refused, raw_amqp.Closed)):
            raw_amqp.Connection(broker.port, user=user, password=password)


def test_the_user_stays_when_the_configuration_changes(own_broker):
    """default_user makes the first user of a new node; later it changes nothing."""
    broker = own_broker(settings={"default_user": "first", "default_pass": "one"})
    broker.restart(default_user="second", default_pass="two")
    raw_amqp.Connection(broker.port, user="first", password="one").close()
    with pytest.raises(raw_amqp.Refused):
        raw_amqp.Connection(broker.port, user="second", password="two")


def test_default_vhost_of_the_configuration(own_broker):
    broker = own_broker(settings={"default_vhost": "mine"})
    raw_amqp.Connection(broker.port, vhost="mine").close()
    with pytest.raises(raw_amqp.Refused) as caught:
        raw_amqp.Connection(broker.port, vhost="/")
    assert caught.value.code == 530


@pytest.mark.skipif(IS_RABBITMQ, reason="its fixture listens on loopback only")
def test_guest_only_from_loopback(own_broker):
    address = address_of_this_machine()
    if address is None or address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    broker = own_broker(start=False)
    broker.settings = {"listeners.tcp.1": str(broker.port)}
    broker.start()
    raw_amqp.Connection(broker.port).close()
    with pytest.raises(raw_amqp.Refused) as caught:
        raw_amqp.Connection(broker.port, host=address)
    assert caught.value.code == 403
    broker.restart(loopback_users="none")
    raw_amqp.Connection(broker.port, host=address).close()


PERMISSIONS = {"default_permissions.configure": "^c-.*", "default_permissions.write": "^(w-.*|amq.default)$",
               "default_permissions.read": "^r-.*"}


@pytest.fixture
def limited(own_broker):
    """A connection of a user who may configure c-*, write w-*, read r-*; and objects of all kinds."""
    broker = own_broker(settings={"default_user": "limited", "default_pass": "p", **PERMISSIONS})
    connection = raw_amqp.Connection(broker.port, user="limited", password="p")
    connection.open(1)
    yield connection
    connection.close_socket()


DENIED = [
    # What is asked for, and which of the three permissions on which object is lacking.
    ("queue.declare", dict(queue="w-q"), "configure", "w-q"),
    ("queue.delete", dict(queue="c-q-absent"), None, None),
    ("exchange.declare", dict(exchange="w-x", type="direct"), "configure", "w-x"),
    ("queue.bind", dict(queue="c-q", exchange="amq.direct", routing_key="k"), "write", "c-q"),
    ("queue.purge", dict(queue="c-q"), "read", "c-q"),
    ("basic.get", dict(queue="c-q"), "read", "c-q"),
    ("basic.consume", dict(queue="c-q"), "read", "c-q"),
    ("exchange.bind", dict(destination="amq.direct", source="amq.topic"), "write", "amq.direct"),
    ("exchange.delete", dict(exchange="w-x"), "configure", "w-x"),
    ("queue.declare", dict(queue="c-other", arguments={"x-dead-letter-exchange": "nx"}), "read",
     "c-other"),
    ("exchange.declare", dict(exchange="c-x", type="direct",
                              arguments={"alternate-exchange": "nx"}), "read", "c-x"),
]


@pytest.mark.parametrize("method_name,arguments,permission,thing", DENIED,
                         ids=[f"{d[0]}-{i}" for i, d in enumerate(DENIED)])
def test_permissions(limited, method_name, arguments, permission, thing):
    limited.call(1, "queue.declare", queue="c-q")
    limited.send_method(1, method_name, **arguments)
    if permission is None:
        limited.next(method_name + "-ok")
        return
    refusal = limited.refusal()
    assert (refusal.code, refusal.channel) == (403, 1), refusal
    kind = "exchange" if thing.startswith(("amq.", "c-x", "w-x")) else "queue"
    if IS_RABBITMQ:
        assert f"access to {kind} '{thing}' in vhost '/' refused for user 'limited'" in refusal.text
    else:
        assert f"{permission} access to {kind} '{thing}' in vhost '/' refused for user 'limited'" \
            in refusal.text


def test_permission_to_publish(limited):
    limited.call(1, "queue.declare", queue="c-q")
    limited.publish(1, "amq.direct", "k", b"m")
    refusal = limited.refusal()
    assert (refusal.code, refusal.class_id, refusal.method_id) == (403, 60, 40)
    limited.open(1)
    limited.publish(1, "", "c-q", b"m")
    assert limited.call(1, "queue.declare", queue="c-q", passive=True).messages == 1


def test_server_named_queues_need_the_permission_too(limited):
    limited.send_method(1, "queue.declare", exclusive=True)
    assert limited.refusal().code == 403
