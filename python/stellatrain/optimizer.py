"""The optimizer that distribute() returns: torch's face, the engine behind it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from stellatrain import _core, forks
from stellatrain.bridge import ParameterBridge
from stellatrain.errors import STEP_IN_CONSENSUS, error, number, shown
from stellatrain.optimizer_state import export_state, import_state
from stellatrain.settings import MOMENTS, group_settings, kind_of

# With what torch reads them as where they are missing.
_LATER_SETTINGS = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}


class DistributedOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose step() hands gradients to the engine and takes finished updates from it.

    param_groups are those of the optimizer that was distributed, the same dictionaries: schedulers made for
    either work. Gradients in .grad are this member's own, so clipping is per member. With staleness s the
    parameters hold update t - s when step() number t returns.
    """

    # GradScaler leaves unscaling and skipping to step(): a member that finds inf contributes nothing to the
    # iteration, so that nobody waits for a step that it skips.
    _step_supports_amp_scaling = True
    holds_own_weights = False  # the parameters are the consensus weights

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        engine: _core.Engine,
        bridges: list[ParameterBridge],
    ):
        self._kind = kind_of(optimizer)
        self._origin = optimizer  # schedulers made before distribute() look at it
        self._engine: _core.Engine | None = None
        self._over = ""  # why there is no engine
        self._remembered: dict[str, Any] | None = None  # of the engine, after finish()
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._bridges = bridges
        self._stepped = False  # step() was called
        self.in_consensus = False
        self._known = {bridge.parameter for bridge in bridges}
        self._engine = engine
        if optimizer.state:
            import_state(engine, bridges, optimizer.state)
        # Or a script that goes on with the old one trains each member alone, and nobody would say so.
        self._allow = weakref.finalize(self, optimizer.register_step_pre_hook(_refuse_step).remove)
        self._allow.atexit = False
        forks.forget_in_child(self)

    def step(
        self, closure: Callable[[], torch.Tensor] | None = None, *, samples: float = 1
    ) -> torch.Tensor | None:
        """Contributes the gradients in .grad, and writes the newest due update into the parameters.

        samples: weight of this member's (mean) gradient among all members' in this iteration; pass the batch
        size where it differs between members or steps.

        Raises Error("nonfinite") that names the parameter if a gradient holds NaN or infinity; this member
        then contributes nothing to the iteration, the others go on.
        """
        if self.in_consensus:
            raise error("invalid_argument", STEP_IN_CONSENSUS)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        samples = number(samples, "samples")
        skip = samples == 0 or (found_inf is not None and bool(found_inf))
        gradients = [] if skip else self._gradients()
        addresses = self._addresses()
        self._stepped = True
        try:
            self.engine.step(
                gradients,
                addresses,
                self._settings(),
                samples,
                1.0 if scale is None or skip else 1.0 / float(scale),
                skip,
            )
        finally:  # also when this member's gradient was not finite: the others' update is there
            self._weights_written()
        self._origin._opt_called = True  # or its schedulers warn that they step before the optimizer
        return loss

    @property
    def engine(self) -> _core.Engine:
        """The engine behind this optimizer, until the run ends."""
        if self._engine is None:
            raise error("cancelled", self._over)
        return self._engine

    @property
    def bridges(self) -> list[ParameterBridge]:
        """The parameters that the engine trains, by its index."""
        return self._bridges

    @property
    def kind(self) -> _core.OptimizerKind:
        """Which of torch's optimizers it is to the engine."""
        return self._kind

    @property
    def name(self) -> str:
        """Of the optimizer, for checkpoints."""
        return self._kind.name

    @property
    def place(self) -> int:
        """In the run, the same on all members: how many iterations have begun."""
        return self.iteration

    def come_together(self, session: _core.Session, what: str) -> None:
        """For save() and load(): all members are at the same iteration anyway."""

    def check_settings(self, group: dict[str, Any]) -> None:
        """Raises for settings that the engine cannot use."""
        group_settings(self._kind, group).validate()

    def difference(self, here: dict[str, Any], there: dict[str, Any]) -> str | None:
        """In what settings of a param_group differ that must not; KeyError for one that is not there."""
        return group_settings(self._kind, here).first_difference(group_settings(self._kind, there))

    def own_tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of this member beside the engine's arrays: nothing."""
        return {}

    def check_own(self, own: dict[str, torch.Tensor], path: Path) -> None:
        """Of those, before anything is changed."""

    def fill_own(self, own: dict[str, torch.Tensor]) -> None:
        """The reverse of own_tensors()."""

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of the moments that the engine may come to hold."""
        return MOMENTS[self._kind]

    def drain(self, level: _core.Level) -> None:
        """Contributes nothing, until all members have come to `level`; takes the others' updates."""
        self.engine.drain(level, self._addresses(), self._settings())
        self._weights_written()

    def end_epoch(self) -> None:
        """Contributes nothing, until all members' epochs have ended."""
        self.drain(_core.Level.epoch_ended)

    @contextlib.contextmanager
    def consensus_weights(self) -> Iterator[None]:
        """The parameters hold the consensus weights anyway, once what is under way is in them. Collective."""
        self.drain(_core.Level.epoch_ended)
        self.in_consensus = True
        try:
            yield
        finally:
            self.in_consensus = False

    def stats(self) -> dict[str, float]:
        """Counters since the start: iterations, bytes on the wire, seconds by stage (docs/stats.md)."""
        if self._remembered is not None:
            return dict(self._remembered["stats"])
        stats = self.engine.stats()
        return {name: getattr(stats, name) for name in dir(stats) if not name.startswith("_")}

    @property
    def iteration(self) -> int:
        """How many steps have begun, empty ones at the end of an epoch and in finish() included."""
        return self.engine.iteration if self._remembered is None else self._remembered["iteration"]

    def digest(self) -> int:
        """A 64-bit digest of the consensus weights, equal on all members. Waits for what is under way."""
        return self.engine.digest() if self._remembered is None else self._remembered["digest"]

    def set_density(self, density: float) -> None:
        """From now on this member sends so large a share of the parameters; members may differ."""
        self.engine.set_density(number(density, "density"))

    def restore_parameters(self) -> None:
        """Puts back what somebody else than the engine changed in the parameters."""
        self.engine.restore(self._addresses())
        self._weights_written()

    def parameters_written(self) -> None:
        """Somebody else than the engine wrote the parameters: looks at them anew."""
        self._addresses(refresh=True)

    def state_loaded(self, iteration: int) -> None:
        """The engine's arrays and the parameters were filled from a checkpoint: goes on after `iteration`.

        Collective; parameters_written() comes before.
        """
        self.engine.state_loaded(iteration, self._addresses())

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the engine's moments in it: copies. Waits for what is under way."""
        self.state.update(export_state(self.engine, self._bridges))
        exported = super().state_dict()
        self.state.clear()
        return exported

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. Every member must load the same state at the same iteration.

        What it refuses changes nothing.
        """
        engine = self.engine  # before anything is changed
        if not _is_state(state_dict):
            raise error(
                "invalid_argument",
                f"load_state_dict: {shown(state_dict)} is not what state_dict() of an optimizer returns, "
                "an object 'state' and a list 'param_groups'",
            )
        groups = self.param_groups
        super().load_state_dict(state_dict)
        for group in self.param_groups:  # older torches had fewer settings
            for name, default in _LATER_SETTINGS.items():
                if name in groups[0]:
                    group.setdefault(name, default)
            if "decoupled_weight_decay" in groups[0]:  # what makes AdamW of torch's Adam
                group.setdefault("decoupled_weight_decay", groups[0]["decoupled_weight_decay"])
        # Not what torch made of the state: it casts moments and step counts to the parameters' type.
        self.state.clear()
        try:
            self._check_loaded_settings()
            import_state(engine, self._bridges, self._saved_by_parameter(state_dict))
        except Exception:
            self.param_groups = groups
            raise
        self._origin.param_groups = self.param_groups

    def _check_loaded_settings(self) -> None:
        try:
            self._settings()
        except KeyError as missing:
            raise error(
                "invalid_argument",
                f"load_state_dict: the param_groups there have no {missing}: they are not those of a "
                f"torch.optim.{type(self._origin).__name__}",
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        raise error(
            "invalid_argument",
            "a distributed optimizer cannot be copied or pickled: its engine is connected to the other "
            "members; use state_dict(), or stellatrain.save()",
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only before distribute()."""
        if self._engine is not None:
            raise error(
                "invalid_argument",
                "add_param_group after distribute() is not supported: all members agreed on the parameters; "
                "add the group to the optimizer first",
            )
        super().add_param_group(param_group)

    def remember(self) -> None:
        """What stats(), iteration and digest() tell once the engine is gone."""
        self._remembered = {"stats": self.stats(), "iteration": self.iteration, "digest": self.digest()}

    def close(self, why: str) -> None:
        """Gives the engine up; every later call that needs it raises Error("cancelled") with `why`."""
        self._engine, self._over = None, why
        self._allow()  # the model is the script's alone now

    def forget(self) -> None:
        """This process was forked from the member: what it holds is the parent's."""
        self._allow()
        if self._engine is not None:
            self._engine, self._over = None, forks.NO_MEMBER

    def _gradients(self) -> list[tuple[int, _core.GradientType]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or parameter.numel() == 0:
                    continue
                if parameter not in self._known:
                    raise error(
                        "invalid_argument",
                        f"a parameter of shape {tuple(parameter.shape)} that was frozen at distribute() has "
                        "a gradient now; unfreeze parameters before distribute()",
                    )
        return [bridge.gradient() for bridge in self._bridges]

    def _saved_by_parameter(self, state_dict: dict[str, Any]) -> dict[torch.Tensor, dict[str, Any]]:
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        state = state_dict["state"]
        return {parameter: state.get(key, {}) for key, parameter in zip(saved, parameters, strict=True)}

    def _addresses(self, refresh: bool = False) -> list[int]:
        return [bridge.weights_address(refresh) for bridge in self._bridges]

    def _settings(self) -> list[_core.GroupSettings]:
        return [group_settings(self._kind, group) for group in self.param_groups]

    def _weights_written(self) -> None:
        for bridge in self._bridges:
            bridge.weights_written()


def _is_state(state_dict: Any) -> bool:
    return (
        isinstance(state_dict, Mapping)
        and isinstance(state_dict.get("state"), Mapping)
        and isinstance(state_dict.get("param_groups"), list | tuple)
    )


def _refuse_step(*_: Any) -> None:
    raise error(
        "invalid_argument",
        "step() of the optimizer that was given to distribute() would train this member alone; use "
        "the one that it returned: model, optimizer = stellatrain.distribute(model, optimizer)",
    )
