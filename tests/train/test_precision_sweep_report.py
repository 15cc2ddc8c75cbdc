"""What a sweep's tables say, and what they leave open."""

import numpy as np

from train.precision_sweep_report import text

COSTS = {"int3": 0.4, "int4": 0.05}  # of rounding, at the larger D; a tenth of it at the smaller


def rows(seeds, spread=0.01):
    made = []
    for seed in seeds:
        noise = spread * np.random.default_rng(seed).normal(size=40)
        for i, (N, D) in enumerate((N, D) for N in (1000, 4000) for D in (10_000, 40_000)):
            for j, (weights, excess) in enumerate([(None, 0.0), ("int4", 0.2), ("int6", 0.05)]):
                low = {"format_weights": weights, "Pw": weights and float(weights[3:])}
                rest = dict.fromkeys(("format_activations", "format_kv", "Pa", "Pkv"))
                run = f"{N}-{D}-{weights}-{seed}"
                loss = 3 - 0.2 * (D > 20_000) + excess + noise[3 * i + j]
                base = {"run": run, "seed": seed, "N": N, "D": D, **low, **rest}
                made.append(
                    base | {"method": None, "format_post": None, "Ppost": None, "loss": loss}
                )
                for name, cost in COSTS.items():
                    if float(name[3:]) < (low["Pw"] or 99):
                        added = cost * (1 if D > 20_000 else 0.1) * (0.5 if weights else 1)
                        post = {"method": "rtn", "format_post": name, "Ppost": float(name[3:])}
                        made.append(base | post | {"loss": loss + added})
    return made


def table_row(said: str, start: str) -> str:
    (line,) = (line for line in said.splitlines() if line.replace(" ", "").startswith(start))
    return line


def test_verdicts_follow_from_three_seeds():
    said = text(rows((0, 1, 2)))
    # int3 rises by 0.36 where the loss falls by 0.2, int4 by 0.045.
    line = said[said.index("more data") :].splitlines()[4]
    assert line.count("(hurts)") == 1
    assert line.count("(helps)") == 1
    assert "| 2.00" in said, "each bit halves 0.2 to 0.05"
    assert "less" in table_row(said, "|4,000|40,000|int4/-/-")


def test_one_seed_gives_numbers_and_no_verdicts():
    said = text(rows((0,)))
    for word in ("(hurts)", "(helps)", " less |", " more |"):
        assert word not in said
    assert "(unclear)" in said


def test_runs_without_a_loss_are_named():
    made = rows((0, 1))
    lost = made[0]["run"]
    kept = [row | {"loss": None} if row["run"] == lost else row for row in made]
    kept = [row for row in kept if row["loss"] or row["method"] is None]
    said = text(kept)
    assert f"1 runs have no loss (not done, or not finite): {lost}" in said
    assert "nan" not in said
