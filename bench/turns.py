"""What a broker that was built with -Dturn_trace=true says of its long turns (src/loop/turn_trace.h)."""

import functools
import subprocess


@functools.lru_cache(maxsize=None)
def name(program, offset):
    """The function at an offset in the program, with its file."""
    told = subprocess.run(["addr2line", "-f", "-s", "-e", program, offset], stdout=subprocess.PIPE,
                          text=True, check=True).stdout.split()
    return "%s (%s)" % (told[0], told[1].split(":")[0])


def parse(program, line):
    """(CPU ms, elapsed ms, [(function, ms, calls)])"""
    head, *parts = line.split("; ")
    _, cpu, _, elapsed, _, _ = head.split()
    words = [part.split() for part in parts]
    return (int(cpu) / 1000, int(elapsed) / 1000,
            [(name(program, w[0]), int(w[1]) / 1000, int(w[2][1:])) for w in words])


def told(program, text):
    return [parse(program, line) for line in text.splitlines() if line.startswith("turn: ")]


BINS_MS = (0.25, 0.5, 1)


def summary(turns):
    """How many turns were longer than each of BINS_MS; then one line for each callback that took most
    of a turn: the same of those turns, and what the longest of them did."""
    causes = {}
    for cpu, _, parts in turns:
        causes.setdefault(parts[0][0] if parts else "?", []).append((cpu, parts))
    lines = ["    turns over %s ms of CPU: %s" % (
        ", ".join("%g" % ms for ms in BINS_MS),
        ", ".join("%d" % sum(cpu > ms for cpu, _, _ in turns) for ms in BINS_MS))]
    for _, of in sorted(causes.items(), key=lambda item: -len(item[1])):
        longest = max(of)
        lines.append("    %s; up to %.2f ms: %s" % (
            " ".join("%5d" % sum(cpu > ms for cpu, _ in of) for ms in BINS_MS), longest[0],
            ", ".join("%s %.2f ms x%d" % part for part in longest[1])))
    return "\n".join(lines)
