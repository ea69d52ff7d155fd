"""Starts brokers for tests: sluice, or RabbitMQ for the same tests as the measure of truth.

Each has its own ports, directories and process; it is ended by its process id and nothing else.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("SLUICE_TEST_BUILD", "build"))
WORKERS = os.environ.get("SLUICE_TEST_WORKERS", "4")

# Several brokers on one machine would want the same ports; tests of these services say which.
NO_OPERATORS = {"management.tcp.port": "none", "prometheus.tcp.port": "none"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class StartFailed(Exception):
    pass


class Broker:
    """settings: keys of rabbitmq.conf. limits: called in the child before it becomes the broker."""

    start_timeout_s = 20

    def __init__(self, settings=None, directory=None, limits=None, environment=None):
        self.settings = dict(settings or {})
        self.owns_directory = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix="sluice-test-")
        self.data = os.path.join(self.directory, "data")
        self.log_path = os.path.join(self.directory, "log.txt")
        self.limits = limits
        self.environment = dict(os.environ, **(environment or {}))
        self.port = free_port()
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def wait_until_ready(self):
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartFailed(f"ended with {self.process.returncode}:\n{self.log()}")
            if self.is_ready():
                return self
            time.sleep(0.01)
        self.kill()
        raise StartFailed(f"not ready after {self.start_timeout_s} s:\n{self.log()}")

    def kill(self):
        """As a power cut would, as far as the process goes."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process:
            self.process.wait()

    def stop(self, timeout=30):
        """The exit status; a broker that does not end in time is killed, and that is an error."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"did not stop on TERM:\n{self.log()}") from None
        return self.process.returncode

    def restart(self, **settings):
        self.stop()
        self.settings.update(settings)
        return self.start()

    def remove(self):
        if self.owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)


class Sluice(Broker):
    name = "sluice"

    def command(self):
        command = [os.path.join(BUILD, "sluice"), "--data-dir", self.data]
        if not any(key.startswith("listeners.tcp") for key in self.settings):
            command += ["--set", f"listeners.tcp.1=127.0.0.1:{self.port}"]
        for key, value in {"workers": WORKERS, **NO_OPERATORS, **self.settings}.items():
            command += ["--set", f"{key}={value}"]
        return command

    def spawn(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=self.environment,
                                            preexec_fn=self.limits, start_new_session=True)
        return self

    def start(self):
        return self.spawn().wait_until_ready()


class RabbitMQ(Broker):
    name = "rabbitmq"
    start_timeout_s = 90  # on a machine that does something else, too

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.node = f"sluice-test-{os.getpid()}-{self.port}@localhost"
        self.epmd_port = free_port()
        config = os.path.join(self.directory, "rabbitmq.conf")
        self.environment.update({
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": "",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": self.data,
            "RABBITMQ_LOG_BASE": os.path.join(self.directory, "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": os.path.join(self.directory, "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": os.path.join(self.directory, "plugins"),
            "RABBITMQ_CONFIG_FILE": config,
            "RABBITMQ_CONF_ENV_FILE": os.path.join(self.directory, "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": os.path.join(self.directory, "none.config"),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": self.directory,
        })
        self.config = config
        self.starts = 0
        self.epmd = None

    def is_ready(self):
        return self.log().count("Server startup complete") == self.starts

    def start(self):
        with open(os.path.join(self.directory, "plugins"), "w") as file:
            file.write("[].\n")
        with open(self.config, "w") as file:
            settings = {"listeners.tcp.1": f"127.0.0.1:{self.port}", **self.settings}
            for key, value in settings.items():
                file.write(f"{key} = {value}\n")
        self.starts += 1
        if self.epmd is None:  # Erlang would leave one running.
            self.epmd = subprocess.Popen(["epmd"], env=self.environment, stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(["/usr/lib/rabbitmq/bin/rabbitmq-server"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment, preexec_fn=self.limits,
                                            start_new_session=True)
        self.wait_until_ready()
        return self

    def kill(self):
        super().kill()
        if self.epmd:
            self.epmd.kill()
            self.epmd.wait()
            self.epmd = None


def make(**options):
    if os.environ.get("SLUICE_TEST_BROKER") == "rabbitmq":
        return RabbitMQ(**options)
    return Sluice(**options)
