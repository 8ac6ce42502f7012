"""Train one PyTorch model on GPUs in several places, over an ordinary network.

    import stellatrain as stella

    stella.init()
    model, optimizer = stella.distribute(model, torch.optim.AdamW(model.parameters(), lr=3e-4))
    loader = stella.DataLoader(dataset, batch_size=32)

    for x, y in loader:
        loss_fn(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    stella.finish()

These functions act on the process's one default `Run`; make `Run` objects yourself to have several.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# What lives where. Imported on first use, so that `stella lab --help` needs neither torch nor the core.
_HOMES = {
    "__version__": "stellatrain._core",
    "Error": "stellatrain._core",
    "Run": "stellatrain.run",
    "DistributedOptimizer": "stellatrain.optimizer",
    "DataLoader": "stellatrain.loader",
    **{
        name: "stellatrain.process_run"
        for name in (
            "init",
            "distribute",
            "rank",
            "world_size",
            "save",
            "load",
            "mean",
            "consensus",
            "stats",
            "finish",
            "default_run",
        )
    },
    "core_info": "stellatrain.info",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from stellatrain._core import Error as Error
    from stellatrain._core import __version__ as __version__
    from stellatrain.info import core_info as core_info
    from stellatrain.loader import DataLoader as DataLoader
    from stellatrain.optimizer import DistributedOptimizer as DistributedOptimizer
    from stellatrain.process_run import (
        consensus as consensus,
    )
    from stellatrain.process_run import (
        default_run as default_run,
    )
    from stellatrain.process_run import (
        distribute as distribute,
    )
    from stellatrain.process_run import (
        finish as finish,
    )
    from stellatrain.process_run import (
        init as init,
    )
    from stellatrain.process_run import (
        load as load,
    )
    from stellatrain.process_run import (
        mean as mean,
    )
    from stellatrain.process_run import (
        rank as rank,
    )
    from stellatrain.process_run import (
        save as save,
    )
    from stellatrain.process_run import (
        stats as stats,
    )
    from stellatrain.process_run import (
        world_size as world_size,
    )
    from stellatrain.run import Run as Run


def __dir__() -> list[str]:
    """The public names, whether they were used yet or not; not the modules where they live."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stellatrain' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
