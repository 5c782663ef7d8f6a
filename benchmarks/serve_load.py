"""What `newslora serve` bears: adapters mixed in one batch, its greatest rate, twice that, and adapters that come and go.

Run on a quiet machine, with the rows of a table as requests:

    python benchmarks/serve_load.py RUN --data test.csv --output serve_load.json

RUN is a trained run. Fifteen more adapters with other labels, all-linear at rank 16, are made on its backbone with random
weights, for how fast and how exact they are does not depend on training. Everything stays on loopback, and client and
server share the machine's cores. `--parts` chooses among throughput, load, changes.
"""

import argparse
import asyncio
import json
import math
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ADAPTERS, RANK = 16, 16
REPEATS = 7
SECONDS = 60
IDLE_SECONDS = 20
PAUSE_SECONDS = 0.5


def make_runs(run: Path, folder: Path) -> list[Path]:
    """Copy the run and make fifteen adapters on its backbone, with two to six labels."""
    import torch

    from newslora.data.cleaning import Cleaner
    from newslora.model.about import read_about
    from newslora.model.classifier import build_model
    from newslora.training.run_folder import RunFolder

    config = RunFolder.open(run).config()
    names = read_about(run / "adapter").names
    shutil.copytree(run / "adapter", folder / "adapter-0" / "adapter")
    for number in range(1, ADAPTERS):
        lora = config.lora.model_copy(update={"targets": ("all-linear",), "r": RANK, "budget": 10**9})
        model = build_model(
            config.model_copy(update={"lora": lora}), tuple(f"{number}-{i}" for i in range(2 + number % 5))
        )
        with torch.no_grad():
            for parameter in model.trainable_parameters():
                parameter.normal_(std=0.02)
        target = folder / f"adapter-{number}" / "adapter"
        target.mkdir(parents=True)
        Cleaner().save(target / "cleaner.json")
        model.save_adapter(target)
    print(f"adapters made on {config.model.backbone}; the run's own labels are {', '.join(names)}", flush=True)
    return [folder / f"adapter-{number}" for number in range(ADAPTERS)]


# Throughput and exactness, in this process.


def throughput(runs: list[Path], texts: list[str], folder: Path) -> dict[str, Any]:
    """Run the same rows through one merged model, one adapter, and sixteen in turn, in the server's batches."""
    from newslora.inference.export import export_run
    from newslora.serving.engine import answer
    from newslora.serving.library import Library
    from newslora.serving.limits import Limits, estimate_tokens

    export_run(runs[0], "merged", folder / "merged")
    shared, merged = Library(runs), Library([folder / "merged"])
    models = {
        "merged": [merged.get(None)],
        "one adapter": [shared.get("adapter-0")],
        "sixteen adapters": shared.models(),
    }
    batches: list[list[str]] = [[]]
    tokens = 0
    for text in texts:
        tokens += estimate_tokens(text, 128)
        if tokens > Limits().batch_tokens:
            batches.append([])
            tokens = 0
        batches[-1].append(text)
    rates: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(REPEATS):
        for name, served in models.items():
            started = time.perf_counter()
            for batch in batches:
                answer([(served[i % len(served)], text) for i, text in enumerate(batch)])
            rates[name].append(len(texts) / (time.perf_counter() - started))
    medians = {name: sorted(values)[REPEATS // 2] for name, values in rates.items()}
    share = medians["sixteen adapters"] / medians["merged"]
    return {
        "texts": len(texts),
        "texts_per_second": medians,
        "share_of_merged": share,
        "exact_to": exactness(runs, texts),
    }


def exactness(runs: list[Path], texts: list[str]) -> float:
    """Return the greatest difference of logits between a mixed batch and each adapter served alone."""
    import numpy as np

    from newslora.data.encoding import encode
    from newslora.inference.classifier import NewsClassifier
    from newslora.model.shared import SharedBackbone

    shared = SharedBackbone(runs[0] / "adapter")
    adapters = [shared.load(run / "adapter") for run in runs]
    shares = [texts[number : 10 * ADAPTERS : ADAPTERS] for number in range(ADAPTERS)]
    encoded = [
        encode(s, a.model.tokenizer, a.model.max_length, cache=False) for s, a in zip(shares, adapters, strict=True)
    ]
    mixed = shared.logits(list(zip(adapters, encoded, strict=True)))
    alone = [NewsClassifier.load(run).logits(share) for run, share in zip(runs, shares, strict=True)]
    return max(float(np.abs(one - other).max()) for one, other in zip(mixed, alone, strict=True))


# A server in a process of its own, and a client that costs little.


@dataclass
class Server:
    """The server's process."""

    process: subprocess.Popen[str]
    port: int

    def memory(self) -> float:
        """Return its resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@asynccontextmanager
async def serving(*words: object) -> AsyncIterator[Server]:
    """Start ``newslora serve``, and end it by SIGTERM."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
    command = [sys.executable, "-m", "newslora.cli.main", "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, stderr=log, text=True)
    port = 0
    while not port:
        await asyncio.sleep(0.2)
        log.seek(0)
        lines = [json.loads(line) for line in log.read().splitlines() if line.endswith("}")]
        port = next((line["port"] for line in lines if line["event"] == "serving"), 0)
        if process.poll() is not None:
            raise SystemExit("the server did not start")
    try:
        yield Server(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        log.close()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Client:
    """HTTP over kept connections, one request on each at a time."""

    port: int
    idle: list[tuple[float, Connection]] = field(default_factory=list)

    def _fresh(self) -> Connection | None:
        """Return a kept connection that the server, which waits 30 s, has no cause to close; nothing is asked twice."""
        since, connection = self.idle.pop() if self.idle else (-math.inf, None)
        if connection is not None and time.perf_counter() - since > IDLE_SECONDS:
            connection[1].close()
            return None
        return connection

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Return the status and the parsed answer."""
        reader, writer = self._fresh() or await asyncio.open_connection("127.0.0.1", self.port)
        content = b"" if body is None else json.dumps(body).encode()
        fields = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        answer = await reader.readexactly(int(fields.get("content-length", 0)))
        if fields.get("connection") == "close":
            writer.close()
        else:
            self.idle.append((time.perf_counter(), (reader, writer)))
        return int(head.split()[1]), json.loads(answer) if answer else None


Ask = Callable[[Client, int], Any]


def one_text(texts: list[str]) -> Ask:
    """Return what sends request number so-and-so: one text, to one of the sixteen adapters."""

    async def ask(client: Client, number: int) -> int:
        body = {"texts": texts[number % len(texts)], "adapter": f"adapter-{number % ADAPTERS}"}
        return (await client.ask("POST", "/v1/classify", body))[0]

    return ask


@dataclass
class Tally:
    """How requests at a fixed rate went."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of those answered by 200
    ended: list[tuple[float, float]] = field(default_factory=list)  # (when sent, seconds taken), answered by 200
    memory: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Return a quantile of the answers' seconds."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf


async def at_rate(server: Server, ask: Ask, rate: float, seconds: float) -> Tally:
    """Send requests at a fixed rate, whether the earlier ones are answered or not, and wait for all answers."""
    client, tally, begun = Client(server.port), Tally(), time.perf_counter()

    async def one(number: int) -> None:
        started = time.perf_counter()
        try:
            status = str(await ask(client, number))
        except (OSError, EOFError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        tally.statuses[status] += 1
        if status == "200":
            tally.seconds.append(time.perf_counter() - started)
            tally.ended.append((started - begun, tally.seconds[-1]))

    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number)))
        if number % max(1, int(rate)) == 0:
            tally.memory.append(server.memory())
    await asyncio.gather(*tasks)
    return tally


async def saturated(server: Server, ask: Ask, seconds: float) -> float:
    """Return the requests answered a second when 64 always wait."""
    client, done, end = Client(server.port), Counter[int](), time.perf_counter() + seconds

    async def keep_asking(start: int) -> None:
        number = start
        while time.perf_counter() < end:
            done[await ask(client, number)] += 1
            number += 64

    await asyncio.gather(*(keep_asking(start) for start in range(64)))
    return done[200] / seconds


async def load(runs: list[Path], texts: list[str]) -> dict[str, Any]:
    """Find the greatest rate that is borne, double it for a minute, and see how soon all is well again."""
    ask = one_text(texts)
    async with serving(*runs) as server:
        await saturated(server, ask, 5)
        capacity = await saturated(server, ask, 15)
        for share in (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5):
            rate = share * capacity
            steady = await at_rate(server, ask, rate, 20)
            print(f"{rate:.0f}/s: {dict(steady.statuses)}, p99 {steady.quantile(0.99):.3f} s", flush=True)
            if set(steady.statuses) == {"200"} and steady.quantile(0.99) < 1:
                break
        sustained = await at_rate(server, ask, rate, SECONDS)
        double = await at_rate(server, ask, 2 * rate, SECONDS)
        drained = time.perf_counter()
        after = await at_rate(server, ask, rate, 15)
        bound = 2 * sustained.quantile(0.99)
        slow = [sent for sent, taken in after.ended if taken > bound]
        metrics_left = time.perf_counter() - drained
    return {
        "closed_loop_per_second": capacity,
        "sustained_per_second": rate,
        "sustained": {f"p{int(100 * q)}_ms": 1000 * sustained.quantile(q) for q in (0.5, 0.95, 0.99)}
        | sustained.statuses,
        "double": {"rate": 2 * rate, **double.statuses, "p99_ms_of_accepted": 1000 * double.quantile(0.99)},
        "memory_mib": {
            "sustained_means_of_thirds": thirds(sustained.memory),
            "double_means_of_thirds": thirds(double.memory),
            "greatest": max(double.memory),
        },
        "after": {**after.statuses, "seconds_until_as_before": max(slow, default=0.0), "watched_seconds": metrics_left},
    }


def thirds(values: list[float]) -> list[float]:
    """Return the means of a list's first, middle and last third."""
    size = len(values) // 3
    return [statistics.mean(values[i * size : (i + 1) * size]) for i in range(3)]


async def changes(runs: list[Path], texts: list[str], shelf: Path) -> dict[str, Any]:
    """Check 10,000 answers while adapters are added, renewed and removed."""
    from newslora.inference.classifier import NewsClassifier

    fixed, moving = runs[:12], runs[12:]
    shelf.mkdir()
    for run in (*fixed[8:], *moving):
        shutil.copytree(run, shelf / run.name)
    sample = texts[:200]
    expected = {run.name: NewsClassifier.load(run).predict(sample) for run in runs}
    told: Counter[str] = Counter()
    left = iter(range(10_000))

    async def check(client: Client, draw: random.Random) -> None:
        for _ in left:
            run, i = draw.choice(runs), draw.randrange(len(sample))
            status, answer = await client.ask("POST", "/v1/classify", {"texts": sample[i], "adapter": run.name})
            gone = status == 404 and run in moving
            told["gone" if gone else "failed" if status != 200 else rightness(answer, expected[run.name][i])] += 1

    async def move(client: Client) -> int:
        rounds = 0
        while told.total() < 10_000:
            name = moving[rounds % len(moving)].name
            renewed = fixed[8 + rounds % 4].name
            statuses = [
                (await client.ask("DELETE", f"/v1/adapters/{name}"))[0],
                (await client.ask("POST", "/v1/adapters", {"name": name}))[0],
                (await client.ask("POST", "/v1/adapters", {"name": renewed}))[0],
                (await client.ask("POST", "/v1/adapters/rescan"))[0],
            ]
            if statuses != [204, 201, 201, 200]:
                raise SystemExit(f"changing adapters failed: {statuses}")
            rounds += 1
            await asyncio.sleep(PAUSE_SECONDS)  # or the changes would take most of the processor
        return rounds

    async with serving(*fixed[:8], "--adapters", shelf) as server:
        client = Client(server.port)
        askers = [check(client, random.Random(seed)) for seed in range(32)]
        rounds, *_ = await asyncio.gather(move(Client(server.port)), *askers)
    return {"answers": dict(told), "rounds_of_remove_add_renew_rescan": rounds}


def rightness(answer: Any, expected: dict[str, Any]) -> str:
    """Say whether an answer is what the adapter gives alone, to 1e-4."""
    [result] = answer["results"]
    scores = {entry["label"]: entry["score"] for entry in result["scores"]}
    same = scores.keys() == expected["scores"].keys()
    return "right" if same and all(abs(scores[k] - v) <= 1e-4 for k, v in expected["scores"].items()) else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="table whose rows are the requests")
    parser.add_argument("--rows", type=int, default=1000, help="rows used (default %(default)s)")
    parser.add_argument("--parts", default="throughput,load,changes")
    parser.add_argument("--output", type=Path, default=Path("serve_load.json"))
    options = parser.parse_args()
    from newslora.config import RunConfig
    from newslora.data.sources import read_table
    from newslora.model.memory import keep_memory

    keep_memory()
    texts = read_table(options.data, RunConfig().data, need_label=False).texts[: options.rows]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = make_runs(options.run, folder)
        parts: dict[str, Callable[[], Any]] = {
            "throughput": lambda: throughput(runs, texts, folder),
            "load": lambda: asyncio.run(load(runs, texts)),
            "changes": lambda: asyncio.run(changes(runs, texts, folder / "shelf")),
        }
        for part in options.parts.split(","):
            results[part] = parts[part]()
            print(json.dumps({part: results[part]}, indent=2), flush=True)
            options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
