"""Does the network hide behind the compute? Steps/s at 100 Mbps against steps/s without any network.

usage: python -m bench.hiding [--parameters 10 60] [--pairs 5] [--steps 30] [--wan 100mbit]
                              [--density D] [--out build/hiding]

The GPU is a stand-in: a trainer whose compute is a timed wait, so that two cores measure the engine and not
their own contention. Everything else is real: gradients recorded from a byte-level GPT on real text, engine,
optimizer (AdamW), TLS connections, and a link of --wan for each of four members.

Each member process trains the same model in three ways: with an engine that is connected to the other members
("network"), with one that trains alone ("none"), and with torch's fused AdamW and no engine at all ("torch").
Segments of --steps steps take turns, all members together, so those of one round see the same machine. The
ratios of a round are steps/s with the network over those without it, and over torch's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = 4
RECORDED_STEPS = 4
MODES = ("network", "none", "torch")
STAGES = ("step_copy", "step_wait", "step_publish", "contribute", "merge", "apply")  # of optimizer.stats()
GOODPUT = 0.957  # what TCP carries of a shaped link's rate (docs/lab.md)
WARM_UP = 5  # steps of a segment that do not count: the first one finds the pipeline empty


@dataclass(frozen=True)
class Size:
    """A model, and the share that each member sends: what 100 Mbit/s carry in 0.3 s."""

    width: int
    layers: int
    heads: int
    density: float


SIZES = {10: Size(320, 8, 5, 0.035), 60: Size(768, 8, 12, 0.006)}


def main() -> int:
    args = _options()
    if args.trainer:
        return _train(args)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for millions in args.parameters:
        recording = args.out / f"gradients-{millions}m.pt"
        if not recording.exists():
            print(f"recording gradients of a {millions} M parameter GPT on real text", flush=True)
            _record(SIZES[millions], recording)
        rows.append(_measure(millions, recording, args))
        print(_table(rows), flush=True)
    (args.out / "hiding.json").write_text(json.dumps(rows, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parameters", type=int, nargs="+", default=[10, 60], choices=SIZES, help="millions")
    add("--pairs", type=int, default=5, help="rounds of segments")
    add("--density", type=float, help="instead of the one that the link carries")
    add("--steps", type=int, default=30, help="of a segment, after its warm-up")
    add("--compute", type=float, default=0.3, help="seconds of a step's stand-in compute")
    add("--wan", default="100mbit", help="each member's link")
    add("--out", type=Path, default=ROOT / "build/hiding")
    add("--trainer", type=Path, help=argparse.SUPPRESS)  # the recording: this process is a member
    return parser.parse_args()


def _record(size: Size, path: Path) -> None:
    """Real gradients: RECORDED_STEPS steps of AdamW on real text, one gradient per step."""
    sys.path.insert(0, str(ROOT / "examples/gpt"))
    import data
    from model import GPT

    torch.manual_seed(0)
    training, _ = data.load(64)
    net = GPT(64, size.width, size.layers, size.heads)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    steps = []
    for step in range(RECORDED_STEPS):
        x, y = training[step * 997]
        optimizer.zero_grad()
        net(x[None], y[None]).backward()
        steps.append([p.grad.clone() for p in net.parameters()])
        optimizer.step()
    torch.save({"weights": [p.detach().clone() for p in net.parameters()], "gradients": steps}, path)


class Recorded(torch.nn.Module):
    """The recorded model's parameters, with its gradients in turn in place of a backward pass."""

    def __init__(self, recording: dict, first: int):
        super().__init__()
        self.weights = torch.nn.ParameterList(weight.clone() for weight in recording["weights"])
        self._gradients = recording["gradients"]
        self._next = first

    def compute(self, seconds: float) -> None:
        """The stand-in for forward and backward: takes that long, leaves gradients, costs no CPU."""
        time.sleep(seconds)
        for parameter, gradient in zip(self.weights, self._gradients[self._next], strict=True):
            parameter.grad = gradient
        self._next = (self._next + 1) % len(self._gradients)


def _train(args: argparse.Namespace) -> int:
    """One member: segments of each mode take turns; rank 0 writes the figures."""
    import stellatrain as stella
    from stellatrain.environment import Membership

    recording = torch.load(args.trainer, mmap=True)  # members share its pages
    run = stella.init()
    alone = stella.Run(Membership())
    options = {"rule": "sparse", "density": args.density, "staleness": 1, "wire": "bf16"}
    trainers = {}
    for mode in MODES:
        model = Recorded(recording, first=run.rank)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        if mode != "torch":
            owner = run if mode == "network" else alone
            model, optimizer = owner.distribute(model, optimizer, **options)
        trainers[mode] = model, optimizer
    figures = []
    for pair in range(args.pairs):
        for mode in MODES if pair % 2 == 0 else reversed(MODES):
            run.session.all_gather("segment", b"")
            figures.append({"pair": pair, "mode": mode, **_segment(*trainers[mode], args)})
    everybody = run.session.all_gather("figures", json.dumps(figures).encode())
    if run.rank == 0:
        (args.out / "segments.json").write_text(json.dumps([json.loads(raw) for raw in everybody]))
    stella.finish()
    alone.finish()
    return 0


def _segment(model: Recorded, optimizer: torch.optim.Optimizer, args: argparse.Namespace) -> dict:
    """Steps/s of one segment, and where a step's time went, in milliseconds."""
    for _ in range(WARM_UP):
        model.compute(args.compute)
        optimizer.step()
    stats = getattr(optimizer, "stats", lambda: dict.fromkeys((*STAGES, "bytes_sent"), 0))
    before, begin = stats(), time.perf_counter()
    for _ in range(args.steps):
        model.compute(args.compute)
        optimizer.step()
    seconds, after = time.perf_counter() - begin, stats()
    where = {stage: 1000 * (after[stage] - before[stage]) / args.steps for stage in STAGES}
    sent = (after["bytes_sent"] - before["bytes_sent"]) / args.steps
    return {"steps_per_second": args.steps / seconds, "bytes_per_step": sent, **where}


def _measure(millions: int, recording: Path, args: argparse.Namespace) -> dict:
    from stellatrain.lab import Lab

    size = SIZES[millions]
    density = args.density or size.density
    command = [
        sys.executable,
        "-m",
        "bench.hiding",
        "--trainer",
        str(recording),
        "--density",
        str(density),
    ]
    for name in ("pairs", "steps", "compute", "out"):
        command += [f"--{name}", str(getattr(args, name))]
    with Lab(clusters=MEMBERS, members=1, wan=args.wan, lan="none") as lab:
        status = lab.run(
            command, {"OMP_NUM_THREADS": "1", "STELLA_THREADS": "1"}, timeout=1800, log_dir=args.out
        )
    if status != 0:
        raise SystemExit(f"a member failed with status {status}; see {args.out}/*.log")
    members = json.loads((args.out / "segments.json").read_text())
    return _summary(millions, density, members, args)


def _summary(millions: int, density: float, members: list[list[dict]], args: argparse.Namespace) -> dict:
    """The slowest member of each segment is what counts: the others wait for it."""

    def rates(mode: str) -> list[float]:
        by_pair: dict[int, list[float]] = {}
        for member in members:
            for figure in member:
                if figure["mode"] == mode:
                    by_pair.setdefault(figure["pair"], []).append(figure["steps_per_second"])
        return [min(by_pair[pair]) for pair in sorted(by_pair)]

    def mean(mode: str, key: str) -> float:
        return statistics.mean(f[key] for member in members for f in member if f["mode"] == mode)

    by_mode = {mode: rates(mode) for mode in MODES}
    return {
        "millions": millions,
        "density": density,
        "wan": args.wan,
        "compute_seconds": args.compute,
        "steps_per_second": by_mode,
        "ideal_steps_per_second": 1 / args.compute,
        "bytes_per_step": mean("network", "bytes_per_step"),
        "milliseconds": {
            mode: {stage: mean(mode, stage) for stage in STAGES} for mode in ("network", "none")
        },
    }


def _table(rows: list[dict]) -> str:
    lines = [
        "",
        "| parameters | density | MB sent per step | steps/s: network | none | torch "
        "| network / none | network / torch | the link alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rates = row["steps_per_second"]
        middle = " | ".join(f"{statistics.median(rates[mode]):.3f}" for mode in MODES)
        ratios = " | ".join(_spread(rates["network"], rates[other]) for other in MODES[1:])
        setting = f"{row['millions']} M | {row['density']:.1%} | {row['bytes_per_step'] / 1e6:.2f}"
        lines.append(f"| {setting} | {middle} | {ratios} | {_alone(row)} |")
    lines += [
        "",
        "| parameters | mode | copy | wait | publish | contribute | merge | apply | (ms per step, CPU ms) |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for mode, where in row["milliseconds"].items():
            cells = " | ".join(f"{value:.1f}" for value in where.values())
            lines.append(f"| {row['millions']} M | {mode} | {cells} | |")
    return "\n".join(lines)


def _alone(row: dict) -> str:
    """The steps/s that the line would allow, if nothing else took time."""
    from stellatrain.lab.rate import parse_rate

    rate = parse_rate(row["wan"], "--wan").bits_per_second
    return "any" if rate is None else f"{GOODPUT * rate / (8 * row['bytes_per_step']):.2f}"


def _spread(ours: list[float], theirs: list[float]) -> str:
    """The ratios of all rounds: median (least-largest)."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"


if __name__ == "__main__":
    sys.exit(main())
