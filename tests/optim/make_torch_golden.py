"""Writes torch_golden.hpp: trajectories of torch's own optimizers, for torch_test.cpp.

usage: python tests/optim/make_torch_golden.py > tests/optim/torch_golden.hpp

Weights and gradients follow integer formulas that are exact in fp32 and that torch_test.cpp repeats.
"""

import torch

NUMEL = 48
STEPS = 20
RECORDED = (1, 2, 5, 20)

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
CASES = [
    (SGD, dict(lr=0.1)),
    (SGD, dict(lr=0.1, weight_decay=0.01, maximize=True)),
    (SGD, dict(lr=0.05, momentum=0.9)),
    (SGD, dict(lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.001)),
    (SGD, dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.001)),
    (ADAM, dict(lr=0.01)),
    (ADAM, dict(lr=0.01, betas=(0.3, 0.99), eps=1e-6, weight_decay=0.1)),
    (ADAM, dict(lr=0.01, amsgrad=True, maximize=True)),
    (ADAMW, dict(lr=0.01, weight_decay=0.1)),
    (ADAMW, dict(lr=0.01, betas=(0.0, 0.9), weight_decay=0.1, amsgrad=True)),
]


def weight(i: int) -> float:
    return ((i * 37 + 11) % 97 - 48) / 64


def gradient(i: int, t: int) -> float:
    return ((i * 7919 + t * 104729 + i * t * 31) % 2001 - 1000) / 1024


def trajectory(kind: type, options: dict) -> list[list[float]]:
    parameter = torch.nn.Parameter(torch.tensor([weight(i) for i in range(NUMEL)]))
    optimizer = kind([parameter], foreach=False, **options)
    recorded = []
    for t in range(1, STEPS + 1):
        parameter.grad = torch.tensor([gradient(i, t) for i in range(NUMEL)])
        optimizer.step()
        if t in RECORDED:
            recorded.append(parameter.detach().tolist())
    return recorded


def settings(kind: type, options: dict) -> str:
    fields = {"kind": "OptimizerKind::" + kind.__name__.lower()} | options
    if "betas" in fields:
        fields["beta1"], fields["beta2"] = fields.pop("betas")
    order = [
        "kind",
        "lr",
        "weight_decay",
        "momentum",
        "dampening",
        "beta1",
        "beta2",
        "eps",
        "nesterov",
        "amsgrad",
        "maximize",
    ]
    return ", ".join(
        f".{name} = {str(fields[name]).replace('True', 'true')}" for name in order if name in fields
    )


def main() -> None:
    print(f"// Written by make_torch_golden.py with torch {torch.__version__}; not to be edited.")
    print('#pragma once\n\n#include <array>\n#include <vector>\n\n#include "stella/optimizer_settings.hpp"\n')
    print("namespace stella::testing {\n")
    print(f"inline constexpr int kGoldenNumel = {NUMEL};")
    print(f"inline constexpr std::array kGoldenSteps = {{{', '.join(map(str, RECORDED))}}};\n")
    print(
        "struct Golden {\n  GroupSettings settings;\n"
        "  std::vector<std::vector<float>> weights;  // after each of kGoldenSteps\n};\n"
    )
    print("// clang-format off")
    print("inline const std::vector<Golden> kGolden = {")
    for kind, options in CASES:
        print(f"    {{{{{settings(kind, options)}}},")
        print(
            "     {"
            + ",\n      ".join(
                "{"
                + ", ".join(
                    f"{w:.9g}f" if "." in f"{w:.9g}" or "e" in f"{w:.9g}" else f"{w:.1f}f" for w in weights
                )
                + "}"
                for weights in trajectory(kind, options)
            )
            + "}},"
        )
    print("};")
    print("// clang-format on\n\n}  // namespace stella::testing")


main()
