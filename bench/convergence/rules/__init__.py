"""The rules by name, and how a run spells one: "local", or with options "diloco:outer_lr=0.4,wire=bf16"."""

from __future__ import annotations

from collections.abc import Callable

from bench.convergence.rules.dense import Dense
from bench.convergence.rules.diloco import DiLoCo
from bench.convergence.rules.local import Local
from bench.convergence.rules.powersgd import PowerSGD
from bench.convergence.rules.rule import Rule, Setting
from bench.convergence.rules.sparse import Sparse
from bench.convergence.rules.sparseloco import SparseLoCo
from bench.convergence.rules.streaming_diloco import StreamingDiLoCo

DENSE = "dense"
UNCOMPRESSED = "local-uncompressed"  # local-first's ceiling
WITHOUT_BUDGET = (DENSE, UNCOMPRESSED)

RULES: dict[str, tuple[Callable[..., Rule], dict]] = {
    DENSE: (Dense, {}),
    UNCOMPRESSED: (Local, {"bits": 32, "delay": 0, "part": 1}),
    "local": (Local, {}),
    "sparse": (Sparse, {}),
    "sparse-int4": (Sparse, {"bits": 4}),
    "powersgd": (PowerSGD, {}),
    "diloco": (DiLoCo, {}),
    "diloco-bf16": (DiLoCo, {"wire": "bf16"}),
    "streaming-diloco": (StreamingDiLoCo, {}),
    "sparseloco": (SparseLoCo, {}),
}


def make(spelling: str, setting: Setting) -> Rule:
    """Returns the rule that `spelling` names, with its options over the rule's defaults."""
    name, _, options = spelling.partition(":")
    if name not in RULES:
        raise ValueError(f"there is no rule {name}; there are {', '.join(RULES)}")
    kind, defaults = RULES[name]
    given = dict(option.split("=") for option in options.split(",") if option)
    return kind(setting, **(defaults | {key: _value(text) for key, text in given.items()}))


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
