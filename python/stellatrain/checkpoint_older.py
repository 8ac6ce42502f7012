"""Checkpoints of formats 2 and 3, read as if they were of format 4.

latest.json held one `extra` for all members of a machine, in format 2 as plain JSON. The model file held all
parameters of the model by their names; those that the optimizer trained beside it were nowhere but among the
engine's weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stellatrain import extra
from stellatrain.checkpoint_tensors import EXTRA, PARAMETER, Tensors, model_keys, parameters
from stellatrain.errors import error

if TYPE_CHECKING:
    from stellatrain.run import Run


def complete(
    run: Run, latest: dict[str, Any], path: Path, consensus: Tensors, own: Tensors, model: Tensors
) -> None:
    """Adds to the tensors of the files what format 4 has in them, as far as it is there.

    path: of latest.json, for the Error("io") if its `extra` is damaged. The engine's arrays are checked.
    """
    given = latest["extra"]
    if latest["format"] == 3:
        try:
            given = extra.from_json(given)
        except ValueError as cause:
            raise error("io", f"{path} is damaged: of 'extra', {cause}") from cause
    own[EXTRA] = extra.to_tensor(given)
    keys = model_keys(run.model)
    for name, parameter in parameters(run).items():
        if name in model:
            (model if name in keys else consensus)[keys.get(name, PARAMETER + name)] = model[name]
        elif (weights := consensus.get(f"weights.{name}")) is not None and name not in keys:
            consensus[PARAMETER + name] = weights.view(parameter.shape)
