"""amqp-tools: librabbitmq, the client in C, as shell scripts use it."""

import shutil
import subprocess

import pytest

from helpers import get_all, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("amqp-publish"), reason="amqp-tools not installed")


@pytest.fixture
def tool(broker):
    def run(name, *arguments, text=None, check=True):
        result = subprocess.run([name, f"--url=amqp://guest:guest@127.0.0.1:{broker.port}/%2F",
                                 *arguments], input=text, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, timeout=30)
        assert not check or result.returncode == 0, result.stderr
        return result
    return run


def test_declare_publish_get_delete(tool, name):
    queue = name()
    assert tool("amqp-declare-queue", "-q", queue, "-d").stdout.strip() == queue
    tool("amqp-publish", "-r", queue, "-b", "from the shell", "-p", "-C", "text/plain")
    assert tool("amqp-get", "-q", queue).stdout == "from the shell"
    assert tool("amqp-get", "-q", queue, check=False).returncode == 2
    tool("amqp-publish", "-r", queue, "-b", "left")
    assert tool("amqp-delete-queue", "-q", queue).stdout.strip() == "1"


def test_publish_lines(tool, channel, queue):
    tool("amqp-publish", "-r", queue, "-l", text="one\ntwo\nthree\n")
    wait_for(lambda: channel.queue_declare(queue, passive=True).method.message_count == 3)
    assert [line.rstrip() for line in get_all(channel, queue)] == ["one", "two", "three"]


def test_consume(tool, channel, name):
    queue = name()
    channel.queue_declare(queue, durable=True)
    for i in range(3):
        channel.basic_publish("", queue, f"message {i}\n".encode())
    result = tool("amqp-consume", "-q", queue, "-c", "3", "cat")
    assert result.stdout.splitlines() == ["message 0", "message 1", "message 2"]
    channel.queue_delete(queue)


def test_consume_with_binding(broker, tool, channel):
    process = subprocess.Popen(
        ["amqp-consume", f"--url=amqp://guest:guest@127.0.0.1:{broker.port}/%2F", "-e", "amq.topic",
         "-r", "shell.#", "-c", "1", "cat"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)
    try:
        # It prints the name of its queue only when it has one; publish until it has got something.
        def done():
            channel.basic_publish("amq.topic", "shell.a", b"bound")
            return process.poll() is not None
        wait_for(done, timeout=10, interval=0.1)
        assert process.stdout.read() == "bound"
    finally:
        process.kill()
        process.wait()


def test_errors_are_told(tool, name):
    result = tool("amqp-get", "-q", name(), check=False)
    assert result.returncode != 0 and "NOT_FOUND" in result.stderr
