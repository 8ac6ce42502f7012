"""The kernels against the memory bus, and against what else a user would take (docs/benchmarks/kernels.md).

usage: python -m bench.kernel_table [--rounds 5] [--deepspeed PYTHON] [--check]

`make bench-kernels` builds what it needs; ROUNDS and DEEPSPEED are its names for the two. Takes 6 GB of
memory and some eight minutes for each round.

Runs build/release/bench/kernels/kernels_bench and bench.kernel_rivals in turns, one
process at a time, on one thread and on two, and prints tables of medians over the rounds; the spread of a
ratio is its smallest and largest value over the rounds. PYTHON is an interpreter that has deepspeed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

BENCH = Path(__file__).parents[1] / "build/release/bench/kernels/kernels_bench"
MILLION = 2**20
SIZES = (1, 2, 4, 16, 64, 256)  # millions of parameters; the first is one bucket, for one thread
DENSITIES = (10, 50, 100, 250, 500, 750, 900, 1000)  # in 1/1000
FIGURE_12 = (500, 250, 100, 50, 10)
CODINGS = ("fp32", "bf16", "8 bits", "4 bits", "2 bits", "1 bit")
THREADS = (1, 2)
MOST_ROUNDS = 100  # half a day

Key = tuple[str, int]  # row, threads


class Measured:
    """Seconds for each row, by round."""

    def __init__(self) -> None:
        self.rounds: dict[Key, list[float]] = defaultdict(list)

    def add(self, row: str, threads: int, seconds: float) -> None:
        self.rounds[row, threads].append(seconds)

    def of(self, row: str, threads: int) -> float:
        return statistics.median(self.rounds[row, threads])

    def has(self, row: str, threads: int) -> bool:
        return (row, threads) in self.rounds

    def ratio(self, row: str, other: str, threads: int, factor: float = 1) -> str:
        """How much longer `row` takes than `other`, times factor: median and spread over the rounds."""
        pairs = zip(self.rounds[row, threads], self.rounds[other, threads], strict=True)
        ratios = [factor * one / two for one, two in pairs]
        digits = 0 if statistics.median(ratios) >= 20 else 1 if statistics.median(ratios) >= 5 else 2
        low, middle, high = (
            f"{value:.{digits}f}" for value in (min(ratios), statistics.median(ratios), max(ratios))
        )
        return f"{middle} ({low}-{high})"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deepspeed", metavar="PYTHON")
    parser.add_argument("--check", action="store_true", help="only look whether the arguments are good")
    args = parser.parse_args(arguments)
    if not 1 <= args.rounds <= MOST_ROUNDS:
        parser.error(
            f"--rounds is {args.rounds}; it must be 1 to {MOST_ROUNDS}: a round takes some eight minutes"
        )
    if args.deepspeed is not None:
        check_deepspeed(parser, args.deepspeed)
    if args.check:
        return
    if not BENCH.exists():
        sys.exit(f"{BENCH} is not there: `make bench-kernels` builds it")
    measured = Measured()
    print(f"{args.rounds} rounds of some eight minutes each", file=sys.stderr)
    for number in range(args.rounds):
        for threads in THREADS:
            print(f"round {number + 1} of {args.rounds}, threads: {threads}", file=sys.stderr)
            one_round(measured, threads, args.deepspeed)
    for table in (passes, dense_adamw, sparse_adamw, densities, figure_12, top_k, codings, merging):
        print("\n".join(table(measured)), end="\n\n")


def check_deepspeed(parser: argparse.ArgumentParser, python: str) -> None:
    """Before minutes are spent: DeepSpeed's own import takes seconds."""
    try:
        script = "import deepspeed; print(deepspeed.__version__)"
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    except OSError as cause:
        parser.error(f"--deepspeed is {python}, which cannot be run: {cause.strerror}")
    if done.returncode != 0:
        why = (done.stderr.strip() or "no reason given").splitlines()[-1]
        parser.error(f"--deepspeed is {python}, which cannot import deepspeed: {why}")
    if not done.stdout.strip():
        parser.error(f"--deepspeed is {python}, which is no Python: it prints nothing")


def one_round(measured: Measured, threads: int, deepspeed: str | None) -> None:
    ours(measured, threads, "read|copy|add_in_place|accumulate_score_select|dense_adamw|dense_sgd_momentum")
    rivals(measured, threads, sys.executable, ["topk-64", "sgd-fused-64", "sgd-default-64"])
    if deepspeed:
        rivals(measured, threads, deepspeed, ["deepspeed-64"])
    for size in SIZES[threads - 1 :]:
        rivals(measured, threads, sys.executable, [f"adamw-fused-{size}", f"adamw-default-{size}"])
        ours(measured, threads, f"sparse_step/adamw/{size}/")
    ours(measured, threads, "sparse_step/sgd|sgd_by_elements")
    if threads == 1:
        ours(measured, threads, "encode|decode|copy_cached|copy_blocks|merge_and_step", anywhere=True)


def ours(measured: Measured, threads: int, names: str, anywhere: bool = False) -> None:
    """Adds the benchmarks whose name begins like one of `names`, with that many threads."""
    ending = "" if anywhere else f".*/threads:{threads}$"
    output = run([str(BENCH), f"--benchmark_filter=^({names}){ending}", "--benchmark_format=json"])
    for row in json.loads(output)["benchmarks"]:
        measured.add(row["name"].split("/real_time")[0], threads, seconds_of(row))


def seconds_of(row: dict) -> float:
    """Of one parameter for benchmarks that count them, of one byte for those that count bytes."""
    return 1 / (row["items_per_second"] if "items_per_second" in row else row["bytes_per_second"])


def rivals(measured: Measured, threads: int, python: str, rows: list[str]) -> None:
    output = run([python, "-m", "bench.kernel_rivals", "--threads", str(threads), *rows], threads)
    for row, seconds in json.loads(output.splitlines()[-1]).items():
        measured.add(row, threads, seconds / (int(row.rpartition("-")[2]) * MILLION))


def run(command: list[str], threads: int = 1) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def on_each(make: Callable[[int], Iterable[object]]) -> list[object]:
    return [cell for threads in THREADS for cell in make(threads)]


def passes(measured: Measured) -> list[str]:
    """Bandwidth of passes over 64 M parameters, against `r += g` in the same round."""
    plain = "add_in_place"
    rows = []
    for name, row, parameter_bytes in (
        ("read", "read", 4),
        ("copy", "copy", 8),
        ("r += g", plain, 12),
        ("accumulate + score + select, 1 %", "accumulate_score_select/10", 12),
        ("dense SGD with momentum", "dense_sgd_momentum", 20),
        ("dense AdamW", "dense_adamw", 28),
    ):

        def cells(threads: int, row: str = row, size: int = parameter_bytes) -> Iterable[str]:
            seconds = measured.of(row, threads)
            # Bandwidth here over bandwidth there: bytes and seconds the other way round.
            share = measured.ratio(plain, row, threads, size / 12)
            return f"{seconds * 1e9:.2f}", f"{size / seconds / 1e9:.1f}", share

        rows.append([name, parameter_bytes, *on_each(cells)])
    head = ["pass", "bytes"]
    for threads in THREADS:
        head += [f"ns, {threads} thread{'s' * (threads > 1)}", "GB/s", "of r += g's bandwidth"]
    return table(head, rows)


def dense_adamw(measured: Measured) -> list[str]:
    names = {
        "here": "dense_adamw",
        "DeepSpeed CPUAdam": "deepspeed-64",
        "torch fused=True": "adamw-fused-64",
        "torch default": "adamw-default-64",
    }
    rows = []
    for name, row in names.items():
        if measured.has(row, 1):
            rows.append(
                [
                    f"AdamW, 64 M parameters: {name}",
                    *on_each(
                        lambda threads, row=row: (
                            f"{measured.of(row, threads) * 1e9:.2f}",
                            measured.ratio(row, "dense_adamw", threads),
                        )
                    ),
                ]
            )
    return table(["", "ns, 1 thread", "over here", "ns, 2 threads", "over here"], rows)


def sparse_adamw(measured: Measured) -> list[str]:
    rows = []
    for size in SIZES:
        own = f"sparse_step/adamw/{size}/10"

        def cells(threads: int, own: str = own, size: int = size) -> Iterable[str]:
            if not measured.has(own, threads):
                yield from ("", "", "")
                return
            yield f"{measured.of(own, threads) * size * MILLION * 1e3:.2f}"
            for rival in ("fused", "default"):
                yield measured.ratio(f"adamw-{rival}-{size}", own, threads)

        rows.append([f"{size} M", *on_each(cells)])
    columns = ("ms", "fused over it", "default over it")
    return table(["AdamW, 1 %", *(f"{what}, {n}" for n in THREADS for what in columns)], rows)


def densities(measured: Measured) -> list[str]:
    rows = []
    for density in DENSITIES:
        own = f"sparse_step/adamw/64/{density}"

        def cells(threads: int, own: str = own) -> Iterable[str]:
            yield f"{measured.of(own, threads) * 64 * MILLION * 1e3:.1f}"
            yield measured.ratio("dense_adamw", own, threads)

        rows.append([f"{density / 10:g} %", *on_each(cells)])
    return table(
        ["AdamW, 64 M"] + [f"{what}, {n}" for n in THREADS for what in ("ms", "dense over it")], rows
    )


def figure_12(measured: Measured) -> list[str]:
    def milliseconds(row: str) -> list[object]:
        return on_each(lambda threads: [f"{measured.of(row, threads) * 64 * MILLION * 1e3:.1f}"])

    rows = []
    for density in FIGURE_12:
        rows.append([f"{100 - density / 10:g} %, blocks", *milliseconds(f"sparse_step/sgd/64/{density}")])
        rows.append([f"{100 - density / 10:g} %, elements", *milliseconds(f"sgd_by_elements/64/{density}")])
    rows.append(["0 %, blocks", *milliseconds("sparse_step/sgd/64/1000")])
    rows.append(["dense here", *milliseconds("dense_sgd_momentum")])
    rows.append(["torch fused=True", *milliseconds("sgd-fused-64")])
    rows.append(["torch default", *milliseconds("sgd-default-64")])
    return table(["SGD with momentum, 64 M, compressed by", "ms, 1 thread", "ms, 2 threads"], rows)


def top_k(measured: Measured) -> list[str]:
    own = "accumulate_score_select/10"
    rows = [
        [
            "1 % of 64 M values",
            f"{measured.of(own, 1) * 64 * MILLION * 1e3:.1f}",
            f"{measured.of('topk-64', 1) * 64 * MILLION * 1e3:.0f}",
            measured.ratio("topk-64", own, 1),
        ]
    ]
    return table(["one thread", "ms, accumulate + score + select", "ms, torch's abs and topk", "ratio"], rows)


def codings(measured: Measured) -> list[str]:
    """GB/s; for wide values also the share of memcpy's speed in one piece, and block by block."""
    rows = []
    for coding, name in enumerate(CODINGS):
        cells: list[object] = []
        for density in (10, 100, 1000):
            yardsticks = [f"copy_cached/{MILLION * density // 1000 * 4}", f"copy_blocks/{density}"]
            for way in ("encode", "decode"):
                row = f"{way}/{density}/{coding}"
                cell = [f"{1 / measured.of(row, 1) / 1e9:.1f}"]
                if coding < 2:
                    against = yardsticks if way == "encode" else yardsticks[:1]
                    cell += [measured.ratio(yardstick, row, 1) for yardstick in against]
                cells.append(", ".join(cell))
        rows.append([name, *cells])
    columns = [f"{way} {share} %" for share in (1, 10, 100) for way in ("encode", "decode")]
    head = "GB/s of fp32, one thread; wide values: also the share of memcpy's speed in one piece, by blocks"
    return table([head, *columns], rows)


def merging(measured: Measured) -> list[str]:
    rows = []
    for size in (1, 4, 16, 64, 256):
        rows.append([f"{size} M", "10 K", f"{measured.of(f'merge_and_step/{size}/10', 1) * 1e9:.2f}"])
    for sent in (20, 40, 80, 160, 320, 640):
        rows.append(["64 M", f"{sent} K", f"{measured.of(f'merge_and_step/64/{sent}', 1) * 1e9:.2f}"])
    return table(
        ["bucket", "parameters sent by each of 4 members", "ns per received parameter, one thread"], rows
    )


if __name__ == "__main__":
    main()
