"""One member's part in a run: who it is, its connections, its model and engine."""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stellatrain import _core, buffers, checkpoint, forks, rendezvous
from stellatrain.agreement import agree
from stellatrain.averaging import mean
from stellatrain.bridge import ParameterBridge
from stellatrain.environment import Membership, checked, membership, tuned, warn_of_misspelt_variables
from stellatrain.errors import error, sentence_of, shown, whole
from stellatrain.local_optimizer import LocalOptimizer
from stellatrain.optimizer import DistributedOptimizer
from stellatrain.optimizer_state import share_state
from stellatrain.settings import group_settings, kind_of

# What is sent by default.
_WIRES = {"sparse": "fp32", "local": "auto"}


class Run:
    """A member of a run, connected to the others. One thread may use it; several may live in one process."""

    def __init__(self, who: Membership | None = None):
        """Joins the run. Without arguments the environment says who this member is."""
        warn_of_misspelt_variables()
        self.who = checked(who) if who is not None else membership()
        self.model: torch.nn.Module | None = None
        self.optimizer: DistributedOptimizer | LocalOptimizer | None = None
        self._loaders: list[weakref.ref[Any]] = []
        self._epochs_to_come: list[int] = []
        self._over = ""  # why there is no session
        self._finishing = False  # or failed at it
        self._session: _core.Session | None = forks.of_this_process(_core.Session(_session_options(self.who)))
        forks.forget_in_child(self)
        try:
            rendezvous.join(self._session, self.who)
        except BaseException as failure:
            self.close(sentence_of(failure))
            raise

    @property
    def rank(self) -> int:
        return self.who.rank

    @property
    def world_size(self) -> int:
        return self.who.world_size

    @property
    def session(self) -> _core.Session:
        if self._session is None:
            raise error("cancelled", self._over)
        return self._session

    def members(self) -> list[_core.Member]:
        """Everybody, by rank: name, cluster, hostname, address."""
        return self.session.members

    def describe(self, rank: int) -> str:
        """ "member 2 (c1m0, 10.77.1.1:29400)": how sentences name a member.

        Raises Error("invalid_argument") for what is no member's rank.
        """
        last = self.world_size - 1
        if whole(rank, "rank", 0) > last:
            raise error("invalid_argument", f"rank is {rank}; this run has members 0 to {last}")
        return self.session.describe(rank)

    def distribute(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        rule: str = "local",
        density: float | None = None,
        staleness: int | None = None,
        wire: str | None = None,
        selector: str | None = None,
        block: int | None = None,
        bucket_mib: float = 4,
        threads: int = 0,
        step_timeout: float = 1800,
        max_drift: float = 120,
        pull: float | None = 0,
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """Puts the engine behind `optimizer`; everybody starts from member 0's weights and buffers.

        Collective. Returns the same model, and an optimizer to use in place of yours. Each option is also an
        environment variable, STELLA_<NAME>, which wins.

        rule: "local": your optimizer, of any kind, steps at once, and is returned as it is; the members tell
            each other piece by piece what they learned, and no step waits for the network. Or "sparse", the
            papers': gradients, error feedback, a sparse optimizer on the CPU, which begins with member 0's
            moments (docs/rules.md).
        density: share of the parameters that this member sends per iteration, above 0 to 1 (1: all of them);
            0.01 by default. One member alone: 1, as there is nobody to send to.
        staleness: 0 waits for each exchange; 1, the default, lets it take the whole next iteration. One
            member alone: 0. So it trains as torch does.
        wire: values on the network: "fp32" (the default of "sparse"), "bf16", or codes of 8, 4, 2 or 1 bits,
            "int8", "int4", "int2", "int1", or the "signs" of the largest values, one for each block. What is
            left out goes with a later iteration. "auto", the default of "local": signs, or 8 bits where the
            link carries that.
        selector: how blocks are chosen: "blocks" (largest, the default), "threshold" (the paper's), "random".
        block: elements that are chosen and sent together, 16 (the default), 32 or 64: larger ones cost fewer
            bytes for ids and for the steps of codes, and choose less finely.
        bucket_mib: unit of pipelining, in MiB of fp32.
        threads: CPU threads of the engine; 0: one per core, at most 4.
        step_timeout: seconds that a connected member may contribute nothing, or let the others wait in
            distribute(), save(), load() or finish(), before the run ends.
        max_drift: seconds without a round, after which a step of "local" waits for the other members.
        pull: share, 0 to 1, of what a member of "local" that tells signs shows beside everybody's weights,
            and has not told, that is hidden from its own model with each round, and told all the same. None:
            as much as pays in runs of thousands of steps (docs/rules.md).

        density, staleness, selector and block are for "sparse", max_drift and pull for "local";
        bucket_mib is the first fragment of "local".

        Raises Error("mismatch") that names the first parameter, buffer or setting in which members differ,
        Error("invalid_argument") for options or optimizers that are not supported.
        """
        _check_model(model)
        if self.optimizer is not None:
            raise error(
                "invalid_argument",
                "this run trains a model already; a second model needs a Run of its own, at another port "
                "(docs/environment.md)",
            )
        rule = tuned("rule", str, rule)
        options = _core.EngineOptions()
        options.rule = rule
        options.wire = tuned("wire", str, _WIRES[rule] if wire is None else wire)
        options.bucket_bytes = int(tuned("bucket_mib", float, bucket_mib) * 2**20)
        options.threads = tuned("threads", int, threads)
        options.step_timeout_seconds = tuned("step_timeout", float, step_timeout)
        options.max_drift_seconds = tuned("max_drift", float, max_drift)
        if rule == "local":
            _refuse_options_of_sparse(density=density, staleness=staleness, selector=selector, block=block)
        if pull is not None or os.environ.get("STELLA_PULL"):
            options.pull = tuned("pull", float, pull)
        if options.pull and (rule != "local" or options.wire not in ("auto", "signs")):
            raise error(
                "configuration" if os.environ.get("STELLA_PULL") else "invalid_argument",
                f"pull is {options.pull:g} (argument or STELLA_PULL), which is for rule='local' with "
                f"wire='auto' or 'signs'; here they are '{rule}' and '{options.wire}'",
            )
        if rule == "local":
            return self._distribute_local(model, optimizer, options)
        if options.wire == "auto":
            raise error(
                "configuration" if os.environ.get("STELLA_WIRE") else "invalid_argument",
                "wire is 'auto' (argument or STELLA_WIRE), which is for rule='local'; under rule='sparse' "
                "it must be fp32, bf16, int8, int4, int2, int1 or signs",
            )
        alone = self.world_size == 1
        options.density = tuned("density", float, (1.0 if alone else 0.01) if density is None else density)
        options.staleness = tuned("staleness", int, (0 if alone else 1) if staleness is None else staleness)
        options.selector = tuned("selector", str, "blocks" if selector is None else selector)
        options.block = tuned("block", int, 16 if block is None else block)
        kind = kind_of(optimizer)
        bridges, specs = _parameters(model, optimizer)
        _refuse_max_norm(model)
        settings = [group_settings(kind, group) for group in optimizer.param_groups]
        engine = self._start(model, bridges, specs, settings, options)
        distributed = DistributedOptimizer(optimizer, engine, bridges)
        try:
            if any(self.session.all_gather("optimizer state", b"there" if optimizer.state else b"")):
                share_state(self.session, engine)
        except BaseException as failure:
            distributed.close(f"distribute() failed: {sentence_of(failure)}")
            raise
        self.model, self.optimizer = model, distributed
        return model, distributed

    def _distribute_local(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, options: _core.EngineOptions
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise error("invalid_argument", f"optimizer is {shown(optimizer)}; it must be one of torch's")
        bridges, specs = _parameters(model, optimizer)
        for spec in specs:
            if spec.dtype != "float32":
                raise error(
                    "invalid_argument",
                    f"parameter '{spec.name}' is {spec.dtype}; rule='local' needs float32 parameters "
                    "(torch.autocast computes in 16 bits with them); rule='sparse' takes 16-bit parameters",
                )
        engine = self._start(model, bridges, specs, [], options)
        self.model, self.optimizer = model, LocalOptimizer(optimizer, engine, bridges)
        return model, optimizer

    def _start(
        self,
        model: torch.nn.Module,
        bridges: list[ParameterBridge],
        specs: list[_core.TensorSpec],
        settings: list[_core.GroupSettings],
        options: _core.EngineOptions,
    ) -> _core.Engine:
        """The engine; the model holds member 0's values."""
        addresses = [bridge.weights_address() for bridge in bridges]
        engine = forks.of_this_process(self.session.distribute(specs, settings, options, addresses))
        for bridge in bridges:
            bridge.weights_written()
        trained = {bridge.parameter for bridge in bridges}
        frozen = [(name, each) for name, each in model.named_parameters() if each not in trained]
        untrained = buffers.described("frozen parameter", frozen)
        untrained |= buffers.described("buffer", model.named_buffers())
        agree(self, "distribute", untrained, "every member needs the same model")
        for name, tensor in [*frozen, *model.named_buffers()]:
            if tensor.numel() > 0:
                buffers.broadcast(self.session, name, tensor)
        return engine

    @contextlib.contextmanager
    def consensus(self) -> Iterator[None]:
        """Inside, the model holds what all members agree on: to evaluate it, or to save it. Collective.

        Under rule="local" those are the consensus weights, in place of this member's own, which come back
        behind; under "sparse" the model holds them anyway. Floating-point buffers are averaged over the
        members, others are member 0's; they come back, too. Nobody may step inside, save, load or finish.

        Raises Error("mismatch") where some members go in while others step: evaluate on all, each its part.
        """
        if self.optimizer is None:
            raise error("invalid_argument", "call distribute() first")
        self._leave_consensus_before("another consensus")
        self.session.all_gather("consensus", b"")  # all are here, or those who step instead are told
        with self.optimizer.consensus_weights():
            own = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
            try:
                buffers.assign(self.model, buffers.averaged(self))
                yield
            finally:
                buffers.assign(self.model, own)

    def _leave_consensus_before(self, call: str) -> None:
        if self.optimizer is not None and self.optimizer.in_consensus:
            raise error(
                "invalid_argument",
                f"leave `with consensus()` before {call}(): inside, the model does not hold what is this "
                "member's own",
            )

    def stats(self) -> dict[str, float]:
        """Counters since the start: steps, bytes on the wire, seconds by stage (docs/stats.md)."""
        if self.optimizer is None:
            raise error("invalid_argument", "call distribute() first")
        return self.optimizer.stats()

    def digest(self) -> int:
        """A 64-bit digest of the consensus weights.

        "sparse" waits for what is under way; it is equal on all members. Under "local", it is inside
        consensus() and after finish().
        """
        if self.optimizer is None:
            raise error("invalid_argument", "call distribute() first")
        return self.optimizer.digest()

    def save(self, directory: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint that load() resumes exactly. Collective. See stellatrain.checkpoint."""
        self._leave_consensus_before("save")
        checkpoint.save(self, directory, extra)

    def load(self, directory: str | Path, missing_ok: bool = False) -> dict[str, Any] | None:
        """Continues from the last checkpoint in `directory`; returns this member's `extra`. Collective.

        missing_ok: return None, with nothing changed, if no member has a checkpoint there.
        """
        self._leave_consensus_before("load")
        return checkpoint.load(self, directory, missing_ok)

    def add_loader(self, loader: Any) -> None:
        """`loader` deals out training data: from now on checkpoints hold its `epoch`."""
        self._loaders.append(weakref.ref(loader))
        if self._epochs_to_come:
            loader.set_epoch(self._epochs_to_come.pop(0))

    def loader_epochs(self) -> list[int]:
        """The epochs of the loaders that exist, in the order in which they were made."""
        return [loader.epoch for loader in self._living_loaders()]

    def set_loader_epochs(self, epochs: list[int]) -> None:
        """The same in a run that resumes; loaders that are not made yet get theirs when they are."""
        loaders = self._living_loaders()
        for loader, epoch in zip(loaders, epochs, strict=False):
            loader.set_epoch(epoch)
        self._epochs_to_come = epochs[len(loaders) :]

    def _living_loaders(self) -> list[Any]:
        self._loaders = [known for known in self._loaders if known() is not None]
        return [loader for known in self._loaders if (loader := known()) is not None]

    def mean(self, value: float, samples: float = 1) -> float:
        """The mean of every member's `value`, the same number on all of them. Collective.

        For what is to be decided alike everywhere from what each member saw: a validation loss for
        ReduceLROnPlateau, "is this the best model so far?", early stopping.

        samples: how many samples this member's mean is of, 1e-9 to 1e12; 0 counts for nothing.

        Raises Error("invalid_argument") on every member, naming whose argument it was: all stay in step.
        """
        return mean(self, value, samples)

    def finish(self) -> None:
        """Applies the last updates; all members end with equal weights and buffers. Collective, once.

        The engine's memory is free again; the optimizer still tells stats(), iteration and digest().
        """
        self._leave_consensus_before("finish")
        self._finishing = True
        if self.optimizer is not None:
            self.optimizer.drain(_core.Level.finished)
            buffers.assign(self.model, buffers.averaged(self))
        self.session.leave()
        if self.optimizer is not None:
            self.optimizer.remember()
        self._end("the run is over: finish() was called")

    def _ends_unfinished(self) -> bool:
        """Whether it has trained with others, and nobody called finish() or close()."""
        trained = self.optimizer is not None and self.optimizer._stepped
        return trained and self.world_size > 1 and self._session is not None and not self._finishing

    def close(self, reason: str | None = None) -> None:
        """Ends this member's part. Without finish() before, the others end with an error that names it."""
        try:
            if self._session is not None and reason is not None:
                self._session.abort(reason)  # before the engine goes, which knows no reason
        finally:
            self._end(f"the run is over: it was closed{'' if reason is None else f' ({reason})'}")

    def _end(self, why: str) -> None:
        if self._session is None:  # it has ended, or this process was forked from the member's
            return
        if self.optimizer is not None:
            self.optimizer.close(why)
        self._session, self._over = None, why  # last: until then close() still has something to do

    def forget(self) -> None:
        """This process was forked from the member: what it holds is the parent's. Tells nobody."""
        if self._session is not None:
            self._session, self._over = None, forks.NO_MEMBER

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: Any) -> None:
        self.close(None if value is None else sentence_of(value))


def _session_options(who: Membership) -> _core.SessionOptions:
    options = _core.SessionOptions()
    options.rank = who.rank
    options.world_size = who.world_size
    options.name = who.name
    options.cluster = who.cluster
    options.host = who.host
    options.port = who.port
    options.secret_file = who.secret_file
    options.secret = who.secret
    options.join_timeout_seconds = who.join_timeout
    options.peer_timeout_seconds = who.peer_timeout
    return options


def _refuse_options_of_sparse(**given: object) -> None:
    for name, value in given.items():
        variable = f"STELLA_{name.upper()}"
        if os.environ.get(variable):
            said, code = f"{variable} is '{os.environ[variable]}'", "configuration"
        elif value is not None:
            said, code = f"{name} is {value!r}", "invalid_argument"
        else:
            continue
        raise error(
            code,
            f"{said}, which is for rule='sparse'; the rule here is 'local', as it is unless rule= or "
            "STELLA_RULE says otherwise: leave this out, or choose 'sparse'",
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise error("invalid_argument", f"model is {shown(model)}; it must be a torch.nn.Module")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise error(
                "invalid_argument",
                f"'{name}' has no shape yet: the model is lazy; run a batch through it before distribute()",
            )
        if tensor.is_meta:
            raise error(
                "invalid_argument",
                f"'{name}' is on the device 'meta' and has no values; give it some first: "
                "model.to_empty(device=...), then its initialisation",
            )


def _refuse_max_norm(model: torch.nn.Module) -> None:
    """Its forward pass writes the weights, trained or frozen: the engine's, or those all have alike."""
    for name, module in model.named_modules():
        embeds = isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag))
        if embeds and module.max_norm is not None:
            raise error(
                "invalid_argument",
                f"the embedding '{name}' has max_norm, with which it changes its weights in each forward "
                "pass, unseen by the others: leave max_norm out"
                + (", or take rule='local'" if module.weight.requires_grad else ""),
            )


def _parameters(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[ParameterBridge], list[_core.TensorSpec]]:
    """What the engine trains: the optimizer's parameters that need gradients, in the model's order."""
    group_of = {
        parameter: index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    names = {parameter: name for name, parameter in model.named_parameters()}
    left = [
        name for parameter, name in names.items() if parameter.requires_grad and parameter not in group_of
    ]
    stray = [parameter for parameter in group_of if parameter not in names]
    ordered = [*names, *stray]
    bridges, specs = [], []
    for parameter in ordered:
        if parameter not in group_of or not parameter.requires_grad or parameter.numel() == 0:
            continue
        if not parameter.is_floating_point():
            raise error("invalid_argument", f"a parameter of dtype {parameter.dtype} cannot be trained")
        name = names.get(parameter, f"group{group_of[parameter]}.parameter{len(bridges)}")
        spec = _core.TensorSpec()
        spec.name = name
        spec.shape = list(parameter.shape)
        spec.dtype = str(parameter.dtype).removeprefix("torch.")
        spec.group = group_of[parameter]
        bridges.append(ParameterBridge(name, parameter))
        specs.append(spec)
    if names.keys().isdisjoint(group_of):
        raise error(
            "invalid_argument",
            "the optimizer holds no parameter of the model: it was made for another one, or the model was "
            "replaced after that (moved, compiled, copied); make it from model.parameters()",
        )
    if not bridges:
        raise error(
            "invalid_argument",
            "the optimizer holds no parameter that could be trained: all are frozen (requires_grad=False) "
            "or empty",
        )
    if left:
        warnings.warn(
            f"stellatrain: the optimizer does not hold '{left[0]}' ({len(left)} such parameters), which "
            "needs gradients: if something else trains it, every member has its own; else freeze it "
            "(requires_grad=False)",
            stacklevel=4,
        )
    return bridges, specs
