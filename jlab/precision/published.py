"""Fitted constants that papers print, for N and D as plain counts and losses in nats per token."""

from collections.abc import Mapping

PUBLISHED: Mapping[str, float] = {
    "A": 4.299e3,
    "alpha": 0.4965,
    "B": 1.806e4,
    "beta": 0.4965,  # tied to alpha in the fit
    "E": 2.7648,
    "gamma_w": 2.6745,
    "n_w": 0.3037,
    "gamma_a": 2.2102,
    "n_a": 1.4072,
    "gamma_kv": 0.9578,
    "n_kv": 2.4185,
    "C_T": 0.0598,
    "gamma_D": 0.5068,
    "gamma_N": 0.3439,
    "gamma_post": 0.5907,
    "b": 1.1277,
}
"""Kumar, Ankner et al. (arXiv 2411.04330), Appendix K, Table 2, where activations are called "i".

C_w, C_a and C_kv of the robustification are not published, and neither are intervals.
"""

PUBLISHED_FLOAT: Mapping[str, float] = {
    **{name: PUBLISHED[name] for name in ("A", "alpha", "B", "beta", "E")},
    "gamma_w": 2.8111,
    "n_w": 0.1240,
}
"""Their Appendix N: weights alone in floating-point formats of 3 to 12 bits, 140 runs."""

FLOAT_TYPE: Mapping[str, float] = {
    "n": 69.2343,
    "alpha": 0.2368,
    "d": 68973.0621,
    "beta": 0.5162,
    "epsilon": 1.9061,
    "gamma": 11334.5197,
    "delta": 3.1926,
    "nu": 2.9543,
}
"""Sun et al. (arXiv 2501.02423), from a secondary source: compare with the paper before quoting."""
