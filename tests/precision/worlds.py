"""Sweeps of runs that never happened: a known law, with noise, as rows of a table."""

from itertools import product

import numpy as np

from jlab.precision import PUBLISHED, ScalingLaw

TRUE = ScalingLaw({**PUBLISHED, "C_w": 0.8, "C_a": 1.2, "C_kv": 1.0})
SIZES = (30e6, 60e6, 110e6, 220e6)
TOKENS = (1.5e9, 3e9, 6e9, 13e9, 26e9)
POST = (3, 4, 5, 6)


def settings(*, parts=("w", "a", "kv"), bits=(4, 5, 6, 8), joint=((5, 6, 5), (6, 5, 6), (8, 8, 8))):
    """Bits in training: none, one part low at a time, all of them low."""
    low = [
        tuple(P if x == part else np.inf for x in ("w", "a", "kv")) for part in parts for P in bits
    ]
    return [(np.inf,) * 3, *low, *joint]


def sweep(
    *,
    law: ScalingLaw = TRUE,
    sizes=SIZES,
    tokens=TOKENS,
    trained=None,
    post=POST,
    method="gptq",
    noise=0.002,
    ptq_noise=0.05,
    seed=0,
) -> list[dict]:
    """Rows: every size with every number of tokens and every setting, then quantised.

    Noise is relative: of a run's loss, and of what its quantisation adds to it.
    """
    random = np.random.default_rng(seed)
    rows = []
    for N, D, bits in product(sizes, tokens, settings() if trained is None else trained):
        loss = float(law.loss(N, D, *bits)) * np.exp(noise * random.standard_normal())
        row = {"run": f"r{len(rows)}", "seed": 0, "N": N, "D": D}
        row |= dict(zip(("Pw", "Pa", "Pkv"), bits, strict=True))
        rows.append({**row, "loss": loss})
        for P in post:
            rise = float(law.degradation(N, D, P, *bits)) if law.form in ("unified", "ptq") else 0
            rise *= np.exp(ptq_noise * random.standard_normal())
            rows.append({**row, "method": method, "Ppost": P, "loss": loss + rise})
    return rows
