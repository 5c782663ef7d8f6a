"""What it takes to classify a year of web news: arithmetic on measured rates, and a simulation of the machines.

    python benchmarks/scale.py

Rates are read from ``benchmarks/measured/predict_speed.json``, which ``predict_speed.py`` wrote; all that is assumed and
not measured is a field of ``Assumed``. The tables stand between marks in docs/scale.md and are written anew.

The simulation: machines take parts of the input from one queue. A part takes its rows over the rate, times a drawn
slowness of its machine (log-normal) and of the part. Machines are lost at random; a lost machine's part goes back to the
queue once the loss is noticed, and a new machine takes its place. Where a part is late, an idle machine may try it again, and the
first to end counts.
"""

import argparse
import heapq
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

BEGIN, END = "<!-- scale.py: begin -->", "<!-- scale.py: end -->"
HERE = Path(__file__).parent
VARIANTS = {"newslora onnx-int8": "8-bit graph", "newslora onnx": "float32 graph", "newslora adapter": "adapter"}


@dataclass(frozen=True)
class Assumed:
    """What is not measured here.

    Attributes:
        articles: To classify.
        tokens: Read of each; a machine's rate is taken to fall in proportion.
        hours: In which it is to be done.
        part: Rows a part: a file, and the unit that is repeated.
        bytes_in: Compressed bytes an article on the store, text and id.
        bytes_out: Compressed bytes a result.
        dollars: A machine of two cores, an hour.
        start: Seconds from asking for a machine to its first row.
        notice: Seconds until a lost machine is noticed.
        lost: Machines lost, a machine and hour (spot machines).
        slow: Spread of the machines' and the parts' speeds (standard deviation of the logarithm).
    """

    articles: int = 10**9
    tokens: int = 128
    hours: float = 24.0
    part: int = 100_000
    bytes_in: int = 1200
    bytes_out: int = 24
    dollars: float = 0.05
    start: float = 90.0
    notice: float = 60.0
    lost: float = 0.02
    slow: float = 0.15


@dataclass
class Outcome:
    """How a simulated run went: hours, machine hours, share of them lost, and machines lost."""

    hours: float = 0.0
    machine_hours: float = 0.0
    wasted: float = 0.0
    lost: int = 0


def rates(file: Path, tokens: int) -> dict[str, float]:
    """Return rows a second by variant, from those measured, for articles of so many tokens."""
    measured = json.loads(file.read_text(encoding="utf-8"))
    share = measured["options"]["tokens_per_row"] / tokens
    return {row["variant"]: share * row["rows_per_second"] for row in measured["table"] if row["variant"] in VARIANTS}


def simulate(rate: float, machines: int, assumed: Assumed, *, again: bool = True, seed: int = 0) -> Outcome:
    """Run the machines until every part is done.

    Args:
        rate: Rows a second of one machine.
        machines: Kept running.
        assumed: The rest.
        again: Whether idle machines try late parts a second time.
        seed: Of every draw.
    """
    draw = random.Random(seed)
    parts = -(-assumed.articles // assumed.part)
    queue, done, running = list(range(parts))[::-1], set[int](), dict[int, float]()
    free = [(assumed.start, machine) for machine in range(machines)]
    speed = {machine: draw.lognormvariate(0, assumed.slow) for machine in range(machines)}
    back: list[tuple[float, int]] = []
    ends: list[tuple[float, int]] = []
    outcome, useful, end = Outcome(), 0.0, 0.0
    heapq.heapify(free)
    while len(done) < parts:
        now, machine = heapq.heappop(free)
        while back and back[0][0] <= now:
            queue.append(heapq.heappop(back)[1])
        while ends and ends[0][0] <= now:
            time, ended = heapq.heappop(ends)
            if ended not in done:  # else a second try of it was quicker
                done.add(ended)
                del running[ended]
                end = time
        part = _next(queue, running, now, again)
        if part is None:
            waits = [time for time in (*running.values(), *(time for time, _ in back)) if time > now]
            if waits:
                heapq.heappush(free, (min(waits), machine))
            continue
        seconds = assumed.part / rate * speed[machine] * draw.lognormvariate(0, assumed.slow)
        alive = draw.expovariate(assumed.lost / 3600) if assumed.lost else float("inf")
        if alive < seconds:
            outcome.lost += 1
            speed[machine] = draw.lognormvariate(0, assumed.slow)
            heapq.heappush(free, (now + alive + assumed.notice + assumed.start, machine))
            if part not in running:
                heapq.heappush(back, (now + alive + assumed.notice, part))
            continue
        until = min(now + seconds, running.get(part, float("inf")))
        useful += 0.0 if part in running else seconds
        running[part] = until
        heapq.heappush(ends, (until, part))
        heapq.heappush(free, (until, machine))
    outcome.hours = end / 3600
    outcome.machine_hours = machines * outcome.hours
    outcome.wasted = 1 - useful / 3600 / outcome.machine_hours
    return outcome


def _next(queue: list[int], running: dict[int, float], now: float, again: bool) -> int | None:
    if queue:
        return queue.pop()
    late = [part for part, until in running.items() if until > now]
    return max(late, key=lambda part: running[part]) if again and late else None


def machines_for(rate: float, assumed: Assumed) -> int:
    """Return how many machines do the work in time if nothing goes wrong."""
    return -(-assumed.articles // int(rate * 3600 * assumed.hours))


def arithmetic(measured: dict[str, float], assumed: Assumed) -> list[str]:
    """Return a Markdown table of cost and time by form."""
    lines = ["| form | rows/s a machine | machine hours | machines | dollars |", "|---|---:|---:|---:|---:|"]
    for variant, name in VARIANTS.items():
        hours = assumed.articles / measured[variant] / 3600
        count = machines_for(measured[variant], assumed)
        lines.append(f"| {name} | {measured[variant]:.0f} | {hours:,.0f} | {count} | {hours * assumed.dollars:,.0f} |")
    return lines


def storage(rate: float, assumed: Assumed) -> list[str]:
    """Return what moves and lies where."""
    machines = machines_for(rate, assumed)
    parts = -(-assumed.articles // assumed.part)
    return [
        f"- {parts:,} parts of {assumed.part:,} rows, {assumed.part / rate / 60:.1f} minutes each on one machine",
        f"- {assumed.articles * assumed.bytes_in / 1e12:.2f} TB read, {assumed.articles * assumed.bytes_out / 1e9:.0f} GB "
        f"written; {rate * assumed.bytes_in / 1e6:.2f} MB/s a machine, {machines * rate * assumed.bytes_in / 1e6:.0f} MB/s "
        f"for all {machines}",
    ]


def scenarios(rate: float, assumed: Assumed) -> list[str]:
    """Return a Markdown table of simulated runs."""
    count = machines_for(rate, assumed)
    cases = {
        "nothing goes wrong": (count, replace(assumed, lost=0.0, slow=0.0), True),
        "slow machines and parts": (count, replace(assumed, lost=0.0), True),
        "and machines lost": (count, assumed, True),
        "late parts not tried again": (count, assumed, False),
        "five times as many lost": (count, replace(assumed, lost=5 * assumed.lost), True),
        "parts ten times as large": (count, replace(assumed, part=10 * assumed.part), True),
        "ten times the machines": (10 * count, assumed, True),
        "a hundred times the machines": (100 * count, assumed, True),
        "the same, parts a tenth": (100 * count, replace(assumed, part=assumed.part // 10), True),
    }
    lines = [
        "| case | machines | hours | machine hours | of them wasted | machines lost |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, (machines, case, again) in cases.items():
        found = simulate(rate, machines, case, again=again)
        lines.append(
            f"| {name} | {machines:,} | {found.hours:.2f} | {found.machine_hours:,.0f} | {found.wasted:.1%} | {found.lost:,} |"
        )
    return lines


def text(measured: dict[str, float], assumed: Assumed) -> str:
    """Return what stands between the marks."""
    rate = measured["newslora onnx-int8"]
    fields = ", ".join(f"{name} {value:,}" for name, value in vars(assumed).items())
    parts = (arithmetic(measured, assumed), storage(rate, assumed), scenarios(rate, assumed))
    return "\n\n".join([BEGIN, f"Assumed: {fields}.", *("\n".join(part) for part in parts), END])


def main() -> None:
    """Write the document's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=Path, default=HERE / "measured" / "predict_speed.json")
    parser.add_argument("--document", type=Path, default=HERE.parent / "docs" / "scale.md")
    options = parser.parse_args()
    before, _, rest = options.document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    options.document.write_text(
        before + text(rates(options.rates, Assumed.tokens), Assumed()) + after, encoding="utf-8"
    )


if __name__ == "__main__":
    main()
