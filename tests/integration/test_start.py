"""Starting: nowhere to listen, and what makes it impossible."""

import os
import socket
import subprocess
import time

import pytest

from brokers import BUILD, StartFailed

pytestmark = pytest.mark.sluice_only


def listening_ports(pid):
    """Of the process's own sockets, from /proc."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as file:
            for line in file.readlines()[1:]:
                words = line.split()
                if words[3] == "0A" and words[9] in inodes:
                    ports.add(int(words[1].rsplit(":", 1)[1], 16))
    return ports


def test_no_listener(own_broker):
    broker = own_broker()
    assert broker.port in listening_ports(broker.pid)
    broker.stop()
    ready = broker.log().count("is ready")
    broker.settings["listeners.tcp"] = "none"
    broker.spawn()
    deadline = time.monotonic() + 20
    while broker.log().count("is ready") == ready and time.monotonic() < deadline:
        assert broker.process.poll() is None, broker.log()
        time.sleep(0.01)
    assert broker.log().count("is ready") == ready + 1
    assert listening_ports(broker.pid) == set()
    assert broker.stop() == 0


def test_the_port_is_taken(own_broker):
    broker = own_broker()
    broker.stop()
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", broker.port))
        s.listen()
        broker.spawn()
        assert broker.process.wait(20) == 1
    assert str(broker.port) in broker.log()


def test_the_directory_is_in_use(own_broker):
    broker = own_broker()
    result = subprocess.run(
        [os.path.join(BUILD, "sluice"), "--data-dir", broker.data, "--set", "listeners.tcp=none",
         "--set", "management.tcp.port=none", "--set", "prometheus.tcp.port=none"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert f"is in use by process {broker.pid}" in result.stderr


def test_the_directory_cannot_be_made(own_broker):
    broker = own_broker()
    broker.stop()
    broker.data = os.path.join(broker.directory, "log.txt", "data")
    with pytest.raises(StartFailed):
        broker.start()
    assert broker.process.returncode == 1


def test_metadata_of_another_version(own_broker):
    broker = own_broker()
    broker.stop()
    path = os.path.join(broker.data, "shard-1", "meta")
    with open(path, "rb") as file:
        before = file.read()
    changed = before[:7] + b"9" + before[8:]
    with open(path, "wb") as file:
        file.write(changed)
    for _ in range(2):
        with pytest.raises(StartFailed, match="of a version that this program does not know"):
            broker.start()
        assert broker.process.returncode == 1
        with open(path, "rb") as file:
            assert file.read() == changed
    with open(path, "wb") as file:
        file.write(before)
    broker.start()
    assert broker.stop() == 0
