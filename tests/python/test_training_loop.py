"""What users write in a torch training loop works as they know it."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import run_members
from training import EXACT, SPARSE, Training, adamw, flat, loss_of, mlp, plain_loop, sgd, vectors

from stellatrain.run import Run


def test_gradients_accumulate_over_several_backwards() -> None:
    def train(net, optimizer, batches):
        for first, second in zip(batches[::2], batches[1::2], strict=True):
            (loss_of(net, first) / 2).backward()
            (loss_of(net, second) / 2).backward()
            optimizer.step()
            optimizer.zero_grad()

    Training(train).check()


def test_zero_grad_may_keep_the_gradients_and_fill_them_with_zeros() -> None:
    def train(net, optimizer, batches):
        for batch in batches:
            optimizer.zero_grad(set_to_none=False)
            loss_of(net, batch).backward()
            optimizer.step()

    Training(train, optimizer=sgd).check()


def test_a_closure_is_called_and_its_loss_returned() -> None:
    losses = []

    def train(net, optimizer, batches):
        for batch in batches:

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = loss_of(net, batch)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure))

    Training(train).check()
    assert all(isinstance(loss, torch.Tensor) for loss in losses)


def test_clipping_acts_on_each_members_own_gradient() -> None:
    def clipped(net, batch, limit=0.3):
        net.zero_grad()
        loss_of(net, batch).backward()
        return torch.nn.utils.clip_grad_norm_(net.parameters(), limit)

    training = Training(optimizer=sgd)
    norms = []

    def train(net, optimizer, batches):
        for batch in batches:
            norms.append(clipped(net, batch))
            optimizer.step()

    def reference():
        """The mean of the members' clipped gradients, by plain torch."""
        net = mlp()
        optimizer = sgd(net)
        for batches in zip(training.share(0), training.share(1), strict=True):
            gradients = []
            for batch in batches:
                clipped(net, batch)
                gradients.append([parameter.grad.clone() for parameter in net.parameters()])
            for parameter, *both in zip(net.parameters(), *gradients, strict=True):
                parameter.grad = sum(both) / 2
            optimizer.step()
        return net

    training.train = train
    expected = flat(reference())
    for net in training.check_members_agree(**EXACT):
        assert torch.allclose(flat(net), expected, atol=1e-5)
    assert max(norms) > 0.3
    training.check_members_agree(**SPARSE)


def test_steps_are_weighted_by_the_samples_that_are_passed() -> None:
    """Unequal batches of 1 and 3 rows are the union batch of 4."""

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, sgd(net), **EXACT, rule="sparse")
        rows = slice(0, 1) if run.rank == 0 else slice(1, 4)
        for x, y in vectors(10, 4):
            optimizer.zero_grad()
            loss_of(net, (x[rows], y[rows])).backward()
            optimizer.step(samples=len(x[rows]))
        run.finish()
        return flat(net)

    expected = mlp()
    plain_loop(expected, sgd(expected), vectors(10, 4))
    nets = [mlp(), mlp()]
    for weights in run_members(2, member):
        assert torch.allclose(weights, flat(expected), atol=1e-5)


def scaled_loop(net, optimizer, batches):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for batch in batches:
        optimizer.zero_grad()
        scaler.scale(loss_of(net, batch)).backward()
        scaler.step(optimizer)
        scaler.update()


def test_grad_scaler_scales_and_unscales() -> None:
    Training(scaled_loop).check()


def test_grad_scaler_may_unscale_first_to_clip() -> None:
    def train(net, optimizer, batches):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for batch in batches:
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1e6)
            scaler.step(optimizer)
            scaler.update()

    Training(train).check()


@pytest.mark.parametrize("options", [EXACT, SPARSE], ids=["exact", "sparse"])
def test_inf_on_one_member_skips_its_part_and_halves_only_its_scale(options: dict) -> None:
    training = Training()
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, sgd(net), **options, rule="sparse")
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step, batch in enumerate(training.share(run.rank)):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            if (run.rank, step) == (1, 3):
                net[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        run.finish()
        return flat(net), scaler.get_scale()

    (first, scale), (second, halved) = run_members(2, member)
    assert torch.equal(first, second)
    assert bool(torch.isfinite(first).all())
    assert (scale, halved) == (1024.0, 512.0)


def test_bf16_autocast_trains_fp32_parameters() -> None:
    def train(net, optimizer, batches):
        for x, y in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = net(x)
            torch.nn.functional.mse_loss(output.float(), y).backward()
            optimizer.step()

    training = Training(train, optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.05))
    training.check(tolerance=2e-3)  # sums of bf16 products depend on the batch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_parameters_follow_fp32_weights(dtype: torch.dtype) -> None:
    """Updates far below the spacing of 16-bit numbers still add up."""
    tiny = 2.0**-14

    def member(run: Run):
        net = torch.nn.Linear(20, 1, bias=False).to(dtype)
        torch.nn.init.ones_(net.weight)
        _, optimizer = run.distribute(net, torch.optim.SGD(net.parameters(), lr=tiny), **EXACT, rule="sparse")
        for _ in range(256):
            net.weight.grad = torch.ones_like(net.weight)
            optimizer.step()
        run.finish()
        return net.weight.detach().clone()

    first, second = run_members(2, member)
    assert first.dtype is dtype
    assert torch.equal(first, second)
    assert torch.equal(first, torch.full_like(first, 1 - 256 * tiny))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_models_train_at_low_density_too(dtype: torch.dtype) -> None:
    def train(net, optimizer, batches):
        plain_loop(net, optimizer, [(x.to(dtype), y) for x, y in batches])

    Training(train, model=lambda: mlp().to(dtype)).check_members_agree(**SPARSE)


SCHEDULERS = {
    "StepLR": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.3),
    "LambdaLR": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t)),
    "OneCycleLR": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=20),
}


@pytest.mark.parametrize("optimizer", [adamw, sgd])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_made_after_distribute_is_followed(name: str, optimizer) -> None:
    def train(net, optimizer, batches):
        scheduler = SCHEDULERS[name](optimizer)
        for batch in batches:
            plain_loop(net, optimizer, [batch])
            scheduler.step()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Training(train, optimizer=optimizer).check()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_made_before_distribute_is_followed_without_warnings(name: str) -> None:
    """Also when load_state_dict replaced the param_groups in between."""
    training = Training()
    nets = [mlp(), mlp()]

    def loop(net, optimizer, scheduler, batches):
        for batch in batches:
            plain_loop(net, optimizer, [batch])
            scheduler.step()

    def member(run: Run):
        net = nets[run.rank]
        mine = adamw(net)
        scheduler = SCHEDULERS[name](mine)
        _, optimizer = run.distribute(net, mine, **EXACT, rule="sparse")
        share = training.share(run.rank)
        loop(net, optimizer, scheduler, share[:6])
        optimizer.load_state_dict(optimizer.state_dict())
        loop(net, optimizer, scheduler, share[6:])
        rate = optimizer.param_groups[0]["lr"]
        run.finish()
        return flat(net), rate

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run_members(2, member)
    net = mlp()
    reference = adamw(net)
    loop(net, reference, SCHEDULERS[name](reference), training.batches(12, 8))
    for weights, rate in results:
        assert rate == pytest.approx(reference.param_groups[0]["lr"])
        assert torch.allclose(weights, flat(net), atol=1e-4)


def test_every_param_group_has_its_own_settings() -> None:
    def optimizer(net):
        groups = [
            {"params": [net[0].weight], "lr": 0.1, "momentum": 0.9},
            {"params": [net[2].weight], "weight_decay": 0.1},
            {"params": [net[0].bias, net[2].bias], "lr": 0.0},
        ]
        return torch.optim.SGD(groups, lr=0.01)

    training = Training(optimizer=optimizer)
    training.check()
    assert torch.equal(training.on_members(**SPARSE)[0][0].bias, mlp()[0].bias)


def test_step_hooks_are_called() -> None:
    calls = []

    def train(net, optimizer, batches):
        optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: calls.append("before"))
        optimizer.register_step_post_hook(lambda optimizer, args, kwargs: calls.append("after"))
        plain_loop(net, optimizer, batches[:1])

    Training(train, world_size=1, steps=1).check_members_agree(**EXACT)
    assert calls == ["before", "after"]


def test_evaluation_between_steps_disturbs_nothing_and_hangs_nobody() -> None:
    def train(net, optimizer, batches):
        for number, batch in enumerate(batches):
            plain_loop(net, optimizer, [batch])
            if number % 3 == 0:
                net.eval()
                with torch.no_grad():
                    loss_of(net, batch)
                net.train()
            loss_of(net, batch)  # a forward with a graph that nobody walks back

    Training(train).check()


def test_members_may_evaluate_unequally_often() -> None:
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        for batch in vectors(6, 4):
            plain_loop(net, optimizer, [batch])
            if run.rank == 1:
                for _ in range(5):
                    loss_of(net, batch)
        run.finish()
        return flat(net)

    first, second = run_members(2, member)
    assert torch.equal(first, second)
