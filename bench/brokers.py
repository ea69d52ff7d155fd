"""Starts and stops the brokers that are measured, each in a fresh directory, on free loopback ports,
pinned to a core. Nothing here touches an installation: RabbitMQ runs privately with its own node
name, port mapper, data and log directories."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("SLUICE_BUILD", os.path.join(ROOT, "build"))
BENCH = os.path.join(BUILD, "sluice-bench")
SLUICE = os.path.join(BUILD, "sluice")

# Several brokers on one machine would want the same ports of the management API and of metrics.
NO_OPERATORS = ["--set", "management.tcp.port=none", "--set", "prometheus.tcp.port=none"]
RABBITMQ_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers_amqp(port):
    """Does the broker send connection.start?"""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"AMQP\0\0\x09\x01")
            head = connection.recv(11)
            return len(head) == 11 and head[0] == 1 and head[7:11] == b"\0\x0a\0\x0a"
    except OSError:
        return False


def pin(core, command):
    return command if core is None else ["taskset", "-c", str(core), *command]


def cores():
    """(the broker's, the generator's), or (None, None) with one core alone."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[-1]) if len(available) > 1 else (None, None)


def family(pid):
    """The process and its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, encoding="utf-8", errors="replace") as stat:
                    parents[int(name)] = int(stat.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def memory_kib(pid):
    """(RSS, PSS) of the process and its descendants."""
    resident = proportional = 0
    for member in family(pid):
        try:
            with open("/proc/%d/smaps_rollup" % member, encoding="utf-8") as rollup:
                text = rollup.read()
        except OSError:
            continue
        resident += int(re.search(r"^Rss:\s+(\d+)", text, re.M).group(1))
        proportional += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))
    return resident, proportional


class Broker:
    """Running after the constructor; `ready_s` is how long it took to answer AMQP."""

    name = None

    def __init__(self, directory, core):
        self.directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        self.core = core
        self.port = free_port()
        self.output = open(os.path.join(directory, "output"), "wb")
        began = time.monotonic()
        self.process = self.start()
        self.pid = self.process.pid
        while not answers_amqp(self.port):
            if self.process.poll() is not None or time.monotonic() - began > START_TIMEOUT_S:
                text = self.text()
                self.stop()
                raise RuntimeError("%s did not start:\n%s" % (self.name, text[-2000:]))
            time.sleep(0.001)
        self.ready_s = time.monotonic() - began

    def start(self):
        raise NotImplementedError

    def spawn(self, command, **more):
        return subprocess.Popen(pin(self.core, command), stdin=subprocess.DEVNULL,
                                stdout=self.output, stderr=subprocess.STDOUT,
                                start_new_session=True, **more)

    def text(self):
        with open(self.output.name, encoding="utf-8", errors="replace") as text:
            return text.read()

    @property
    def uri(self):
        return "amqp://guest:guest@127.0.0.1:%d/" % self.port

    def stop(self):
        members = family(self.process.pid)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for member in members:
                os.kill(member, signal.SIGKILL)
            self.process.wait()
        self.output.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Null(Broker):
    name = "null server"

    def start(self):
        return self.spawn([BENCH, "--null-server", str(self.port)])

    @staticmethod
    def version():
        return subprocess.run([BENCH, "--version"], stdout=subprocess.PIPE, text=True,
                              check=True).stdout.strip()


class Sluice(Broker):
    name = "sluice"

    def start(self):
        data = os.path.join(self.directory, "data")
        return self.spawn([SLUICE, "--data-dir", data, "--set",
                           "listeners.tcp.1=127.0.0.1:%d" % self.port, *NO_OPERATORS])

    @staticmethod
    def version():
        return subprocess.run([SLUICE, "--version"], stdout=subprocess.PIPE, text=True,
                              check=True).stdout.strip()


class Rabbit(Broker):
    """As Debian ships it, default configuration, without plugins."""

    name = "RabbitMQ"

    def start(self):
        at = lambda name: os.path.join(self.directory, name)
        os.mkdir(at("home"))
        with open(at("plugins"), "w", encoding="utf-8") as plugins:
            plugins.write("[].\n")
        with open(at("rabbitmq.conf"), "w", encoding="utf-8") as conf:
            conf.write("listeners.tcp.1 = 127.0.0.1:%d\n" % self.port)
        mapper_port = free_port()
        environment = dict(
            os.environ, HOME=at("home"), ERL_EPMD_PORT=str(mapper_port),
            ERL_EPMD_ADDRESS="127.0.0.1", RABBITMQ_NODENAME="bench-%d@localhost" % self.port,
            RABBITMQ_NODE_PORT=str(self.port), RABBITMQ_DIST_PORT=str(free_port()),
            RABBITMQ_MNESIA_BASE=at("mnesia"), RABBITMQ_LOG_BASE=at("log"),
            RABBITMQ_ENABLED_PLUGINS_FILE=at("plugins"), RABBITMQ_CONFIG_FILE=at("rabbitmq.conf"),
            RABBITMQ_CONF_ENV_FILE=at("none"), RABBITMQ_PID_FILE=at("pid"))
        self.mapper = subprocess.Popen(["epmd", "-port", str(mapper_port), "-address",
                                        "127.0.0.1"], env=environment, stdin=subprocess.DEVNULL,
                                       stdout=self.output, stderr=subprocess.STDOUT)
        while not self.mapper_listens(mapper_port):
            time.sleep(0.001)
        return self.spawn([RABBITMQ_SERVER], env=environment)

    @staticmethod
    def mapper_listens(port):
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    def stop(self):
        # the script is a shell that waits for the emulator: stop that one, by its pid
        for member in family(self.process.pid):
            try:
                with open("/proc/%d/comm" % member, encoding="utf-8") as comm:
                    if comm.read().strip() == "beam.smp":
                        os.kill(member, signal.SIGTERM)
            except OSError:
                continue
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        super().stop()
        self.mapper.terminate()
        self.mapper.wait()

    @staticmethod
    def version():
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"],
                              stdout=subprocess.PIPE, text=True, check=True)
        return "RabbitMQ " + done.stdout.strip()
