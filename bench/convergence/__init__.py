"""Which update rule learns most per byte? Virtual members in one process (docs/benchmarks/convergence.md).

Read training.py first: it is one run. Then members.py (what a member is), rules/rule.py (what a rule may
do), rules/local.py (ours), plans.py (which runs) and report.py (tables of them).
"""
