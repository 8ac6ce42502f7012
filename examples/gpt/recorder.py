"""What a run writes down: a JSON line for each step, and one for the validation loss."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Subset

_VALIDATION_WINDOWS = 256  # of all members together, evenly spaced over the validation text


class Recorder:
    """Keeps the clock of training, which starts with the recorder, and the log of one member.

    Lines of the log: {"seconds", "step", "loss", "bytes_out", "bytes_in"} after each step, bytes
    since the start and on the wire of eth0 (0 where there is none); {"stages"}, with seconds of the
    engine's stages since the start (docs/stats.md); {"validation_loss"}, in nats over this
    member's share of the validation windows, {"windows": how many that are}.
    """

    def __init__(self, path: Path | None, rank: int) -> None:
        self._file = open(str(path).format(rank=rank), "w") if path else None  # noqa: SIM115
        self._rank = rank
        self._bytes = wire_bytes()
        self._start = time.monotonic()

    def seconds(self) -> float:
        """Returns the seconds since training started."""
        return time.monotonic() - self._start

    def step(self, step: int, loss: float) -> None:
        """Records that step `step`, counted from 0, is done."""
        out, back = (now - start for now, start in zip(wire_bytes(), self._bytes, strict=True))
        seconds = round(self.seconds(), 4)
        self._write(seconds=seconds, step=step, loss=loss, bytes_out=out, bytes_in=back)
        if self._rank == 0 and step % 10 == 0:
            print(f"step {step:5}  loss {loss:.3f}  {seconds:7.1f} s", flush=True)

    def stages(self, stats: dict[str, float]) -> None:
        """Records where the engine's time went: `stats` of an optimizer that StellaTrain distributed."""
        names = ("step_copy", "step_wait", "step_publish", "contribute", "merge", "apply")
        self._write(stages={name: stats[name] for name in names})

    def validate(self, model: torch.nn.Module, windows: Dataset, world_size: int) -> None:
        """Records the loss of `model` on this member's share of the validation windows."""
        stride = max(1, len(windows) // _VALIDATION_WINDOWS)
        share = range(0, len(windows), stride)[:_VALIDATION_WINDOWS][self._rank :: world_size]
        model.eval()
        with torch.no_grad():
            batches = DataLoader(Subset(windows, share), batch_size=8)
            total = sum(model(x, y).item() * len(x) for x, y in batches)
        self._write(validation_loss=total / len(share), windows=len(share))
        if self._rank == 0:
            print(f"validation loss {total / len(share):.3f}", flush=True)

    def _write(self, **record: float | dict[str, float]) -> None:
        if self._file:
            print(json.dumps(record), file=self._file, flush=True)


def wire_bytes(interface: str = "eth0") -> tuple[int, int]:
    """Returns the bytes that `interface` has sent and received, (0, 0) if there is none."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == interface:
            fields = counts.split()
            return int(fields[8]), int(fields[0])
    return 0, 0
