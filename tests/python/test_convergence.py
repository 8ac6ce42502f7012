"""The benchmark of convergence: its runs, its journal, its plans and its report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from bench.convergence import plans, rules, summary
from bench.convergence.__main__ import main
from bench.convergence.configuration import Configuration
from bench.convergence.journal import Journal
from bench.convergence.members import Members
from bench.convergence.plans import Cell
from bench.convergence.tasks import load
from bench.convergence.tasks.resnet import ResNet
from bench.convergence.tasks.synthetic import SyntheticTask
from bench.convergence.tasks.task import streams
from bench.convergence.tasks.vit import ViT
from bench.convergence.training import train
from torch import nn

RUN = Configuration("synthetic", "local:bits=1,part=1", 0.05, lr=0.02, seed=0, members=3, steps=40)
CELL = Cell("synthetic", "local", 0.05, members=3, steps=40)


def line(run: Configuration, loss: float | None) -> dict:
    curve = [[0, 2.0], [run.steps // 2, 1.5], [run.steps, loss or 9.0]]
    outcome = {"curve": curve, "loss": loss, "accuracy": None, "diverged": None if loss else run.steps}
    return run.as_dict() | outcome | {"egress_share": run.budget or 1.0}


def smoke(out: Path) -> list[str]:
    return [
        "--out",
        str(out),
        "--plan",
        "smoke",
        "--tasks",
        "synthetic",
        "--budgets",
        "0.05",
        "--steps",
        "10",
    ]


def test_a_run_learns_and_says_what_it_cost() -> None:
    result = train(RUN)
    assert result["diverged"] is None
    assert result["loss"] == result["curve"][-1][1] < 0.7 * result["curve"][0][1]
    assert result["accuracy"] > 0.5
    assert 0.045 < result["egress_share"] <= 0.05
    assert [step for step, _ in result["curve"]] == list(range(0, 41, 2))


def test_a_run_is_reproducible() -> None:
    first, second = train(RUN), train(RUN)
    assert first["curve"] == second["curve"]


def test_a_diverging_run_is_a_row_and_not_a_crash() -> None:
    run = dataclasses.replace(RUN, rule="sparse", lr=1e30)
    result = train(run)
    assert result["diverged"] and result["loss"] is None
    json.dumps(result, allow_nan=False)
    rows = summary.tables([result])[0].rows
    assert rows[0].loss is None and rows[0].diverged == 1


def test_members_draw_other_samples_and_all_rules_the_same_ones() -> None:
    task = SyntheticTask()
    first, second = (task.batch(source)[0] for source in streams(0, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, task.batch(streams(0, 4)[0])[0])


def test_batch_norm_is_averaged_over_members() -> None:
    task = SyntheticTask()
    members = Members(task.model(), 2)
    members.compute(task, [task.batch(source) for source in streams(0, 2)])
    norms = [net[1] for net in members._models]
    assert not torch.equal(norms[0].running_mean, norms[1].running_mean)
    consensus = members.consensus(members.weights[0])
    mean = (norms[0].running_mean + norms[1].running_mean) / 2
    torch.testing.assert_close(consensus[1].running_mean, mean)
    assert consensus[1].num_batches_tracked == 1 and not consensus.training


def test_members_share_one_tensor() -> None:
    task = SyntheticTask()
    members = Members(task.model(), 2)
    members.weights[1] = 0.0
    assert not any(parameter.any() for parameter in members._models[1].parameters())
    assert all(parameter.is_contiguous() for parameter in members._models[1].parameters())


@pytest.mark.parametrize("net", [ResNet(), ViT()])
def test_image_models_give_logits(net: nn.Module) -> None:
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_an_unknown_task_or_rule_is_named() -> None:
    with pytest.raises(ValueError, match="there is no task nonsense"):
        load("nonsense")
    with pytest.raises(ValueError, match="there is no rule nonsense"):
        rules.make("nonsense", None)


def test_a_torn_last_line_is_run_again_and_the_rest_is_not(tmp_path: Path) -> None:
    two = [*smoke(tmp_path), "--rules", "dense", "local"]
    main(two)
    journal = tmp_path / "runs.jsonl"
    whole = journal.read_bytes()
    assert whole.count(b"\n") == 2
    journal.write_bytes(whole[:-40])
    main(two)
    finished = Journal(journal).read()
    assert [run["rule"] for run in finished] == ["dense", "local"]
    assert journal.read_bytes().startswith(whole[:-40] + b"\n")
    main(two)
    assert len(Journal(journal).read()) == 2


def test_all_rules_run_and_the_report_has_a_row_for_each(tmp_path: Path, capsys) -> None:
    main([*smoke(tmp_path), "--members", "2"])
    main(["--out", str(tmp_path), "--report"])
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {rule} |" in text for rule in plans.COMPARED)
    assert "synthetic, 2 members, 10 steps, budget 5.00% of DDP's egress" in text
    assert (tmp_path / "synthetic-2m-10s-0.05.png").stat().st_size > 0
    assert (tmp_path / "synthetic-2m-10s-egress.png").stat().st_size > 0


def test_no_time_means_no_run(tmp_path: Path) -> None:
    main([*smoke(tmp_path), "--minutes", "0"])
    assert not (tmp_path / "runs.jsonl").exists()


def test_a_sweep_goes_on_beyond_an_edge() -> None:
    best, tried, finished = 0.08, [], []
    while run := plans.next_of_sweep(CELL, plans.first_rates(0.01), finished, seed=0):
        tried.append(run.lr)
        finished.append(line(run, 1 + abs(run.lr - best)))
    assert tried == [0.01, 0.005, 0.02, 0.04, 0.08, 0.16]
    assert plans.best_lr(CELL, finished, 0) == best


def test_a_sweep_that_diverges_looks_lower_and_ends() -> None:
    finished = []
    while run := plans.next_of_sweep(CELL, plans.first_rates(0.01), finished, seed=0):
        finished.append(line(run, None))
    assert len(finished) == 8 and plans.best_lr(CELL, finished, 0) is None


def test_confirm_runs_the_other_seeds_at_the_best_rate() -> None:
    finished = [line(CELL.at(lr, 0), loss) for lr, loss in ((0.1, 1.2), (0.2, 1.0), (0.4, 1.1))]
    runs = []
    while run := plans.confirm([CELL], finished, [0, 1, 2]):
        runs.append((run.lr, run.seed))
        finished.append(line(run, 1.0))
    assert runs == [(0.2, 1), (0.2, 2)]


def test_other_member_counts_start_at_the_known_best() -> None:
    finished = [line(CELL.at(lr, 0), loss) for lr, loss in ((0.1, 1.2), (0.2, 1.0), (0.4, 1.1))]
    wanted = dataclasses.replace(CELL, members=8)
    run = plans.members([wanted], finished, seed=0, known=3)
    assert run == wanted.at(0.2, 0)
    finished.append(line(run, 1.0))
    assert plans.members([wanted], finished, seed=0, known=3) == wanted.at(0.4, 0)


def test_rules_without_a_budget_have_one_cell() -> None:
    found = list(plans.cells(["gpt"], ["dense", "local"], [0.02, 0.005], [4], {"gpt": 600}))
    assert [(cell.rule, cell.budget) for cell in found] == [
        ("dense", None),
        ("local", 0.02),
        ("local", 0.005),
    ]
    assert [cell.budget for cell in found if cell.matches(["local", "0.02"])] == [0.02]


def test_the_table_compares_with_dense_and_with_the_ceiling() -> None:
    dense = dataclasses.replace(CELL, rule="dense", budget=None)
    ceiling = dataclasses.replace(CELL, rule="local-uncompressed", budget=None)
    finished = [line(dense.at(0.1, 0), 1.0), line(ceiling.at(0.1, 0), 1.2), line(CELL.at(0.1, 0), 1.25)]
    table = summary.tables(finished)[0]
    local = table.row("local")
    assert [row.cell.rule for row in table.rows] == ["dense", "local-uncompressed", "local"]
    assert summary.gap(local, table.row("dense")) == pytest.approx(0.25)
    assert summary.gap(local, table.row("local-uncompressed")) == pytest.approx(0.05 / 1.2)
    assert summary.convergence_speed(local, table.row("dense")) == pytest.approx(0.75)  # dense: 1.5 to 1.0
    assert local.edge and local.rates == 1
