"""rule="local": the script's own optimizer steps, and after each step the engine exchanges what it can."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stellatrain import _core, forks, local_state
from stellatrain.bridge import ParameterBridge
from stellatrain.checkpoint_tensors import HIDDEN
from stellatrain.errors import STEP_IN_CONSENSUS, error, number
from stellatrain.write_probe import WriteProbe


class LocalOptimizer:
    """Between a torch optimizer, which stays the script's own, and the engine.

    It hangs on the optimizer's step: when that has written the parameters, the engine adds what the others
    learned meanwhile, and takes a part of what this member learned. No step waits for the network.
    """

    holds_own_weights = True  # the parameters are this member's, not the consensus weights

    def __init__(
        self, optimizer: torch.optim.Optimizer, engine: _core.Engine, bridges: list[ParameterBridge]
    ):
        self._optimizer = optimizer
        self._engine: _core.Engine | None = engine
        self._bridges = bridges
        self._known = {bridge.parameter for bridge in bridges}
        self._over = ""  # why there is no engine
        self._remembered: dict[str, Any] | None = None  # of the engine, after finish()
        self._stepped = False
        self._samples = 1.0  # of the newest step
        self._set_aside: list[torch.Tensor] | None = None  # this member's weights, inside consensus()
        self._probe = WriteProbe(bridges)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        forks.forget_in_child(self)

    def _before_step(
        self, _: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Takes `samples`, which only this engine knows, from the arguments of the optimizer's own step."""
        if _is_inner(self._optimizer):
            return None
        if self.in_consensus:
            raise error("invalid_argument", STEP_IN_CONSENSUS)
        for bridge in self._bridges:
            local_state.check_type(bridge)
        self._check_known()
        self._samples = number(options.get("samples", 1), "samples")
        options = {name: value for name, value in options.items() if name != "samples"}
        self._probe.before_step(arguments[1:], options)  # the first is the optimizer
        return arguments, options

    def _after_step(self, *_: Any) -> None:
        if _is_inner(self._optimizer):
            return
        self._check_known()  # a closure has made the gradients only now
        self._probe.after_step(self._optimizer)
        addresses = self._addresses()
        self._stepped = True
        try:
            self.engine.step([], addresses, [], self._samples, 1.0, False)
        finally:  # also when this member's weights were not finite: what the others learned is there
            self._weights_written()

    def _check_known(self) -> None:
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter not in self._known and parameter.numel() > 0:
                    raise error(
                        "invalid_argument",
                        f"a parameter of shape {tuple(parameter.shape)} that was frozen, or not in the "
                        "optimizer, at distribute() has a gradient now: every member would train it alone; "
                        "unfreeze and add parameters before distribute()",
                    )

    @property
    def engine(self) -> _core.Engine:
        """The engine behind it, until the run ends."""
        if self._engine is None:
            raise error("cancelled", self._over)
        return self._engine

    @property
    def bridges(self) -> list[ParameterBridge]:
        """The parameters that the engine trains, by its index."""
        return self._bridges

    def drain(self, level: _core.Level) -> None:
        """Makes rounds until all members have come to `level`.

        With "finished", all that they learned has gone out, and the parameters are the consensus weights.
        """
        self.engine.drain(level, self._addresses(), [])
        self._weights_written()

    @property
    def in_consensus(self) -> bool:
        """Whether the parameters hold the consensus weights for now."""
        return self._set_aside is not None

    def end_epoch(self) -> None:
        """Nobody waits for the steps of a member whose epoch is shorter."""

    @contextlib.contextmanager
    def consensus_weights(self) -> Iterator[None]:
        """Inside, the parameters hold the consensus weights; then this member's own again. Collective."""
        self.drain(_core.Level.epoch_ended)
        self._set_aside = [bridge.parameter.detach().clone() for bridge in self._bridges]
        try:
            with torch.no_grad():
                for name, index, _, _, _, array in self.engine.state():  # one for each parameter
                    if name != "weights":
                        continue
                    parameter = self._bridges[index].parameter
                    parameter.copy_(torch.from_numpy(array).view(parameter.shape))
            yield
        finally:
            aside, self._set_aside = self._set_aside, None
            with torch.no_grad():
                for bridge, own in zip(self._bridges, aside, strict=True):
                    bridge.parameter.copy_(own)

    # --- For checkpoints, as of DistributedOptimizer:

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The script's optimizer's."""
        return self._optimizer.param_groups

    @property
    def name(self) -> str:
        """Of the optimizer, as Python names it."""
        return f"{type(self._optimizer).__module__}.{type(self._optimizer).__qualname__}"

    @property
    def place(self) -> int:
        """In the run: how many rounds are over. The same on all members once they have come together."""
        return self.engine.stats().rounds

    @property
    def moments(self) -> tuple[str, ...]:
        """The engine has none: they are the script's optimizer's."""
        return ()

    def come_together(self, session: _core.Session, what: str) -> None:
        """All members make rounds until each has called it: then their consensus weights are the same."""
        session.all_gather(what, b"")
        self.drain(_core.Level.epoch_ended)

    def check_settings(self, group: dict[str, Any]) -> None:
        """The engine uses none."""

    def difference(self, here: dict[str, Any], there: dict[str, Any]) -> str | None:
        """Members may differ in all of them."""

    def own_tensors(self) -> dict[str, torch.Tensor]:
        """This member's weights, and its optimizer's state: see stellatrain.local_state."""
        return local_state.own_tensors(self._optimizer, self._bridges)

    def check_own(self, own: dict[str, torch.Tensor], path: Path) -> None:
        """Raises Error("mismatch") for what is not of this model and optimizer."""
        local_state.check_own(self._optimizer, self._bridges, own, path)

    def fill_own(self, own: dict[str, torch.Tensor]) -> None:
        """The reverse of own_tensors()."""
        hides = any(name == HIDDEN for name, *_ in self.engine.state())
        local_state.fill_own(self._optimizer, self._bridges, own, hides)

    def restore_parameters(self) -> None:
        """As of DistributedOptimizer, but what somebody changed counts as learned here, and stays."""
        self.engine.restore(self._addresses())

    def parameters_written(self) -> None:
        """Somebody else than the engine wrote the parameters: looks at them anew."""
        self._addresses()

    def state_loaded(self, iteration: int) -> None:
        """As of DistributedOptimizer; `iteration` is a round. Collective."""
        self.engine.state_loaded(iteration, self._addresses())

    # ---

    def stats(self) -> dict[str, float]:
        """Counters since the start: steps, bytes on the wire, seconds by stage (docs/stats.md)."""
        if self._remembered is not None:
            return dict(self._remembered["stats"])
        stats = self.engine.stats()
        return {name: getattr(stats, name) for name in dir(stats) if not name.startswith("_")}

    @property
    def iteration(self) -> int:
        """How many steps this member has made."""
        return self.engine.iteration if self._remembered is None else self._remembered["iteration"]

    def digest(self) -> int:
        """A 64-bit digest of the consensus weights: in consensus() and after finish() equal everywhere."""
        return self.engine.digest() if self._remembered is None else self._remembered["digest"]

    def remember(self) -> None:
        """What stats(), iteration and digest() tell once the engine is gone."""
        self._remembered = {"stats": self.stats(), "iteration": self.iteration, "digest": self.digest()}

    def close(self, why: str) -> None:
        """Gives the engine up; the optimizer is the script's alone again."""
        self._engine, self._over = None, why
        self._detach()

    def forget(self) -> None:
        """This process was forked from the member: what it holds is the parent's."""
        self._detach()
        if self._engine is not None:
            self._engine, self._over = None, forks.NO_MEMBER

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _addresses(self) -> list[int]:
        return [bridge.weights_address(refresh=True) for bridge in self._bridges]

    def _weights_written(self) -> None:
        for bridge in self._bridges:
            bridge.weights_written()


def _is_inner(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step was called by another one of the same optimizer: super().step() runs its hooks, too.

    Counts torch's wrappers on the stack; a counter would be wrong for ever after a step that raised.
    """
    wrappers = 0
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == _WRAPPER.co_name and code.co_filename == _WRAPPER.co_filename:
            wrappers += frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return wrappers > 1


_WRAPPER = torch.optim.Optimizer.profile_hook_step(lambda self: None).__code__
