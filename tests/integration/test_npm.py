"""Clients of Node.js: amqplib and rabbitmq-client, installed from npm's registry for the test."""

import os
import shutil
import subprocess

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = {"amqplib": "0.10.9", "rabbitmq-client": "5.0.5"}


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    directory = tmp_path_factory.mktemp("npm")
    try:
        result = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix",
             str(directory), *[f"{name}@{version}" for name, version in PACKAGES.items()]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry did not answer")
    if result.returncode != 0:
        pytest.skip("npm's registry cannot be reached: " + result.stdout.strip().split("\n")[0])
    return directory / "node_modules"


@pytest.mark.parametrize("client", PACKAGES)
def test_client(broker, modules, client):
    result = subprocess.run(
        ["node", os.path.join(HERE, "npm", f"{client}.js"),
         f"amqp://guest:guest@127.0.0.1:{broker.port}"],
        env=dict(os.environ, NODE_PATH=str(modules)), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert result.returncode == 0 and result.stdout.strip() == "ok", result.stdout
