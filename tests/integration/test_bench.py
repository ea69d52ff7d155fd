"""sluice-bench against its own null server: the figures add up, and its check sees what goes wrong."""

import json
import os
import re
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BENCH = os.path.join(os.environ.get("SLUICE_BUILD", os.path.join(ROOT, "build")), "sluice-bench")
TIMEOUT_S = 60


class NullServer:
    def __init__(self, *options):
        self.process = subprocess.Popen([BENCH, "--null-server", "0", *options],
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line).group(1))
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        status = self.process.wait(TIMEOUT_S)
        self.process.stdout.close()
        assert status == 0, "the null server ended with %d" % status


def run(*options):
    return subprocess.run([BENCH, *map(str, options)], capture_output=True, text=True,
                          timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)


def bench(port, *options):
    """Runs to the end and returns the exit status and the JSON."""
    done = run("--uri", "amqp://127.0.0.1:%d" % port, "--json", "-", *options)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, json.loads(done.stdout)


class Well(unittest.TestCase):
    def check(self, *options, expected=None):
        with NullServer() as server:
            status, report = bench(server.port, *options)
        self.assertEqual(status, 0, report)
        check = report["check"]
        self.assertTrue(check["ok"])
        self.assertEqual(
            [check[k] for k in ("lost", "duplicated", "reordered", "redelivered", "foreign")],
            [0] * 5)
        if expected is not None:
            self.assertEqual(check["expected"], expected)
        return report

    def test_a_number_of_messages(self):
        report = self.check("--messages", 20000, "--size", 16, expected=20000)
        measured = report["measured"]
        self.assertEqual(measured["published"], 20000)
        self.assertEqual(measured["received"], 20000)
        self.assertEqual(report["latency_us"]["count"], 20000)
        latency = report["latency_us"]
        order = [latency[k] for k in ("min", "p50", "p90", "p99", "p99.9", "max")]
        self.assertEqual(order, sorted(order))
        self.assertGreater(latency["min"], 0)
        self.assertAlmostEqual(measured["received_per_s"] * measured["seconds"], 20000, delta=1)

    def test_a_duration(self):
        report = self.check("--duration", 0.5, "--warmup", 0.2, "--size", 200)
        self.assertGreater(report["measured"]["seconds"], 0.45)
        self.assertLess(report["measured"]["seconds"], 5)
        self.assertGreater(report["measured"]["received"], 0)

    def test_confirms_and_acks(self):
        report = self.check("--messages", 30000, "--size", 1024, "--persistent", "--confirm", 100,
                            "--ack", 100, "--prefetch", 1000, expected=30000)
        self.assertEqual(report["measured"]["confirmed"], 30000)
        self.assertEqual(report["confirm_latency_us"]["count"], 30000)

    def test_many_to_many(self):
        self.check("--messages", 30001, "--producers", 3, "--consumers", 4, "--queues", 7,
                   "--threads", 2, "--size", 100, expected=30001)

    def test_consumers_share_a_queue(self):
        self.check("--messages", 30000, "--producers", 2, "--consumers", 3, "--size", 100,
                   expected=30000)

    def test_fanout(self):
        report = self.check("--messages", 5000, "--fanout", 4, "--consumers", 2, "--size", 100,
                            expected=20000)
        self.assertEqual(report["measured"]["received"], 20000)

    def test_bodies_of_many_frames(self):
        self.check("--messages", 100, "--size", 1000003, "--confirm", 5, expected=100)

    def test_rate(self):
        report = self.check("--duration", 1, "--warmup", 0, "--rate", 2000, "--size", 16)
        self.assertAlmostEqual(report["measured"]["published_per_s"], 2000, delta=200)
        self.assertGreater(report["own_lag_us"]["count"], 0)

    def test_backlog_and_memory(self):
        with NullServer() as server:
            status, report = bench(server.port, "--backlog", 20000, "--size", 1024, "--broker-pid",
                                   server.pid)
        self.assertEqual(status, 0)
        self.assertEqual(report["drain"]["received"], 20000)
        before = report["memory"]["before"]["resident_bytes"]
        self.assertGreater(report["memory"]["loaded"]["resident_bytes"] - before, 20000 * 1024)
        self.assertIsNotNone(report["measured"]["broker"])

    def test_idle_connections(self):
        with NullServer() as server:
            status, report = bench(server.port, "--producers", 0, "--consumers", 0,
                                   "--idle-connections", 50, "--broker-pid", server.pid)
        self.assertEqual(status, 0)
        self.assertEqual(report["idle"]["connections"], 50)
        self.assertGreater(report["memory"]["idle"]["resident_bytes"],
                           report["memory"]["before"]["resident_bytes"])
        self.assertIsNone(report["check"])

    def test_text_and_json_file(self):
        with tempfile.TemporaryDirectory() as directory, NullServer() as server:
            file = os.path.join(directory, "report.json")
            done = run("--uri", "amqp://127.0.0.1:%d" % server.port, "--messages", 1000, "--json",
                       file)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("check            ok: 1000 expected, 0 lost", done.stdout)
            self.assertEqual(done.stderr, "")  # no progress line: not a terminal
            with open(file, encoding="utf-8") as text:
                self.assertEqual(json.load(text)["check"]["expected"], 1000)


class Faulty(unittest.TestCase):
    """One message of many goes wrong; the check must fail, and for that reason."""

    def fault(self, kind, *options):
        with NullServer("--null-fault", kind) as server:
            status, report = bench(server.port, "--messages", 10000, "--size", 16,
                                   "--drain-timeout", 0.5, *options)
        self.assertEqual(status, 3)
        self.assertFalse(report["check"]["ok"])
        return tuple(report["check"][k] for k in ("lost", "duplicated", "reordered", "foreign"))

    def test_drop(self):
        self.assertEqual(self.fault("drop"), (1, 0, 0, 0))

    def test_drop_the_last(self):
        self.assertEqual(self.fault("drop@10000"), (1, 0, 0, 0))

    def test_duplicate(self):
        self.assertEqual(self.fault("duplicate@5000"), (0, 1, 0, 0))

    def test_reorder(self):
        self.assertEqual(self.fault("reorder"), (0, 0, 1, 0))

    def test_drop_among_many(self):
        self.assertEqual(self.fault("drop@7777", "--producers", 3, "--queues", 4, "--consumers", 2),
                         (1, 0, 0, 0))

    def test_duplicate_in_one_queue_of_a_fanout(self):
        self.assertEqual(self.fault("duplicate@7777", "--fanout", 3, "--consumers", 3),
                         (0, 1, 0, 0))

    def test_drop_when_consumers_share(self):
        self.assertEqual(self.fault("drop", "--consumers", 3), (1, 0, 0, 0))


class Refused(unittest.TestCase):
    def test_usage(self):
        for options in (["--size", "3"], ["--producers"], ["--nonsense"], ["stray"],
                        ["--ack", "10", "--prefetch", "5"], ["--null-fault", "drop"]):
            done = run(*options)
            self.assertEqual(done.returncode, 2, options)
            self.assertNotEqual(done.stderr, "")

    def test_help_and_version(self):
        self.assertIn("--null-server PORT", run("--help").stdout)
        self.assertRegex(run("--version").stdout, r"^sluice-bench \d+\.\d+\.\d+\n$")

    def test_nobody_listens(self):
        with NullServer() as server:
            port = server.port
        done = run("--uri", "amqp://127.0.0.1:%d" % port)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot connect to 127.0.0.1 port %d" % port, done.stderr)

    def test_no_such_process(self):
        with NullServer() as server:
            done = run("--uri", "amqp://127.0.0.1:%d" % server.port, "--broker-pid", 2 ** 31 - 1)
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is no process", done.stderr)

    def test_broker_goes_away(self):
        server = NullServer()
        with server:
            running = subprocess.Popen(
                [BENCH, "--uri", "amqp://127.0.0.1:%d" % server.port, "--duration", "30"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                running.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                pass
        _, text = running.communicate(timeout=TIMEOUT_S)
        self.assertEqual(running.returncode, 1)
        self.assertRegex(text, "sluice-bench: .*(broker closed|cannot (read|send))")


if __name__ == "__main__":
    unittest.main()
