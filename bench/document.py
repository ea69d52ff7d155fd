"""Tables in docs/performance.md, each between markers of its name; and what they say of the
machine."""

import os
import re

import brokers

PATH = os.path.join(brokers.ROOT, "docs", "performance.md")


def first(path, pattern):
    with open(path, encoding="utf-8") as file:
        found = re.search(pattern, file.read(), re.M)
    return found.group(1).strip() if found else "?"


def machine():
    memory = int(first("/proc/meminfo", r"^MemTotal:\s+(\d+)")) / 1048576
    return "%s, %d cores, %.0f GiB, Linux %s, %s" % (
        first("/proc/cpuinfo", r"^model name\s*:(.*)$"), os.cpu_count(), memory,
        os.uname().release, first("/etc/os-release", r'^PRETTY_NAME="(.*)"$'))


def replace(name, text):
    begin, end = "<!-- %s: begin -->" % name, "<!-- %s: end -->" % name
    with open(PATH, encoding="utf-8") as file:
        before, found, rest = file.read().partition(begin)
    if not found:
        raise RuntimeError("%s has no place for %s" % (PATH, name))
    with open(PATH, "w", encoding="utf-8") as file:
        file.write(before + begin + "\n" + text + end + rest.partition(end)[2])
