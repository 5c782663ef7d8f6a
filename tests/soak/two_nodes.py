"""Two network namespaces with their own addresses train as two nodes; their link is cut, and ``--resume`` ends alike.

    python -m tests.soak.two_nodes     # as root: it makes two namespaces and a link between them, and removes them

Each node is started by ``torchrun`` as on two machines that share a disk. A run that nothing interrupts is made across the link.
Then the link goes down in the middle of another: both sides must end by themselves with one line that says why, within
``newslora.training.processes.TIMEOUT`` and a minute. The link comes back, and ``--resume`` must end with equal bytes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from tests.soak.ledger import RESULTS
from tests.soak.training import outcome, settings

from newslora.training.processes import TIMEOUT

NODES = ("newslora-a", "newslora-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
LINKS = ("newslora-va", "newslora-vb")
PORT = 29577


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def connect() -> None:
    """Make the two namespaces and the link between them."""
    for node in NODES:
        ip("netns", "add", node)
    ip("link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1])
    for node, link, address in zip(NODES, LINKS, ADDRESSES, strict=True):
        ip("link", "set", link, "netns", node)
        ip("-n", node, "addr", "add", f"{address}/24", "dev", link)
        ip("-n", node, "link", "set", link, "up")
        ip("-n", node, "link", "set", "lo", "up")


def disconnect() -> None:
    """Remove the namespaces, and the link with them."""
    for node in NODES:
        subprocess.run(["ip", "netns", "del", node], check=False)


def start(config: Path, run: Path, log: Path, *words: str) -> list[subprocess.Popen[bytes]]:
    """Start both nodes; each writes what it says to a file of its own."""
    nodes = []
    for rank, (node, link) in enumerate(zip(NODES, LINKS, strict=True)):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        launcher += ["--node-rank", str(rank), "--master-addr", ADDRESSES[0], "--master-port", str(PORT)]
        command = ["ip", "netns", "exec", node, *launcher, "-m", "newslora.cli.main", "train", str(config)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": link}
        with (log.parent / f"{log.name}-{rank}").open("wb") as file:
            command += ["--output", str(run), *words]
            nodes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    return nodes


def ended(nodes: list[subprocess.Popen[bytes]], seconds: float) -> list[tuple[int | None, float]]:
    """Return each node's status (None: it had to be killed) and how long it took to leave."""
    begun, found = time.monotonic(), []
    for node in nodes:
        try:
            status: int | None = node.wait(max(1.0, seconds - (time.monotonic() - begun)))
        except subprocess.TimeoutExpired:
            node.kill()
            status = None
        found.append((status, round(time.monotonic() - begun, 1)))
    return found


def cut(config: Path, run: Path, place: Path) -> dict[str, Any]:
    """Cut the link after the first checkpoint, and tell how each side left."""
    nodes = start(config, run, place / "cut")
    while not (run / "checkpoints" / "last").exists():
        if any(node.poll() is not None for node in nodes):
            sys.exit((place / "cut-0").read_text())
        time.sleep(0.01)
    ip("-n", NODES[1], "link", "set", LINKS[1], "down")
    sides = ended(nodes, TIMEOUT.total_seconds() + 60)
    logs = [(place / f"cut-{rank}").read_text(errors="replace").splitlines() for rank in range(2)]
    words = [[line for line in lines if line.startswith("error: ")] or lines[-20:] for lines in logs]
    ip("-n", NODES[1], "link", "set", LINKS[1], "up")
    return {"left": sides, "said": words}


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["NEWSLORA_CACHE"] = str(place / "cache")
        config = place / "settings.yaml"
        config.write_text(yaml.safe_dump(settings(place, "two").model_dump(mode="json")))
        connect()
        try:
            whole = ended(start(config, place / "whole", place / "first"), 300)
            result = {"whole": whole, **cut(config, place / "run", place)}
            result["resumed"] = ended(start(config, place / "run", place / "again", "--resume"), 300)
        finally:
            disconnect()
        result["equal"] = outcome(place / "whole") == outcome(place / "run")
    left = [status for status, _ in result["left"]]
    result["ok"] = result["equal"] and all(left) and all(len(said) == 1 for said in result["said"])
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "two_nodes.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
