"""Plots of a precision law: loss against bits, degradation, iso-loss curves, the best precision.

`out` is the `Run` that keeps the plots.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jlab.precision.law import PARTS
from jlab.precision.scaling_law import ScalingLaw
from jlab.precision.table import Table
from jlab.training.plots import COLORS, figure

PART_NAMES = {"w": "weights", "a": "activations", "kv": "KV cache"}
_FINE = 120  # points of a curve
_SIZES = 6  # lines in a panel
Curve = Callable[[Float[np.ndarray, "points"]], Float[np.ndarray, "points"]]


def bits_plot(out, law: ScalingLaw, table: Table, parts: Sequence[str]) -> None:
    """`loss_vs_bits.png`: runs with one part in low precision, a panel per part, with the law.

    For every size the longest runs that have all of these bits are shown.

    Args:
        out: keeps the plot.
        law: fitted to the table.
        table: the runs.
        parts: to show.
    """
    with figure(len(parts), size=(3.6, 3.4), sharey=True) as (made, axes):
        for axis, part in zip(axes[0], parts, strict=True):
            for color, (N, D, P, loss) in zip(COLORS, _alone(table, part), strict=False):
                bits = np.linspace(P.min(), max(P[np.isfinite(P)].max(initial=4), 8), _FINE)
                axis.plot(bits, law.loss(N, D, **{f"P{part}": bits}), c=color, lw=1.2)
                label = f"N {count_text(N)}, D {count_text(D)}"
                axis.plot(P[np.isfinite(P)], loss[np.isfinite(P)], "o", c=color, ms=4, label=label)
                for full in loss[np.isinf(P)]:
                    axis.axhline(full, c=color, lw=0.8, ls=":")
            axis.set(title=PART_NAMES[part], xlabel=f"bits of the {PART_NAMES[part]} in training")
        axes[0, 0].set_ylabel("loss (dotted: not quantised)")
        axes[0, 0].legend(fontsize=7)
        out.plot("loss_vs_bits", made)


def degradation_plot(out, law: ScalingLaw, table: Table, method: str) -> None:
    """`degradation.png`: what quantising adds to models that were trained without, against D/N.

    Args:
        out: keeps the plot.
        law: fitted to the table.
        table: the runs.
        method: of quantisation.
    """
    rows, rise = table.degradation(method)
    full = np.all([np.isinf(rows.Pw), np.isinf(rows.Pa), np.isinf(rows.Pkv)], axis=0) & (rise > 0)
    rows, rise = rows.rows(full), rise[full]
    bits = np.unique(rows.Ppost)[:5]
    if not len(bits):
        return
    sizes = np.unique(rows.N)[:_SIZES]
    with figure(len(bits), size=(2.9, 3.2), sharey=True) as (made, axes):
        for axis, P in zip(axes[0], bits, strict=True):
            for color, N in zip(COLORS, sizes, strict=False):
                its = (rows.Ppost == P) & (rows.N == N)
                axis.loglog(
                    rows.D[its] / N, rise[its], "o", c=color, ms=4, label=f"N {count_text(N)}"
                )
                D = np.geomspace(table.D.min(), table.D.max(), _FINE)
                axis.loglog(D / N, law.degradation(N, D, P), c=color, lw=1.2)
            axis.set(title=f"to {P:g} bits", xlabel="tokens per parameter in training")
        axes[0, 0].set_ylabel("rise of the loss after quantisation (nats)")
        axes[0, 0].legend(fontsize=7)
        out.plot("degradation", made)


def isoloss_plot(out, law: ScalingLaw, N: float, D: float, parts: Sequence[str]) -> None:
    """`isoloss.png`: equal losses over bits and parameters, and over bits and tokens.

    Args:
        out: keeps the plot.
        law: any.
        N: parameters of the second panel.
        D: tokens of the first.
        parts: that have the bits.
    """
    bits = np.linspace(2, 16, 200)
    factors = np.geomspace(1 / 30, 30, 160)
    with figure(2, size=(4.4, 3.6)) as (made, axes):
        panels = (
            (N * factors, D, "parameters N", f"D {count_text(D)}"),
            (N, D * factors, "tokens D", f"N {count_text(N)}"),
        )
        for axis, (sizes, tokens, label, fixed) in zip(axes[0], panels, strict=True):
            along = sizes if np.ndim(sizes) else tokens
            grid = np.broadcast_to(bits[None, :], (len(along), len(bits)))
            x = {f"P{part}": grid for part in parts}
            rows = [np.reshape(value, (-1, 1)) for value in (sizes, tokens)]
            loss = law.loss(*rows, **x)
            levels = np.quantile(loss[np.isfinite(loss)], np.linspace(0.02, 0.9, 12))
            drawn = axis.contour(bits, along, loss, levels, cmap="viridis")
            axis.clabel(drawn, fontsize=6, fmt="%.3f")
            axis.set(yscale="log", xlabel=f"bits in training ({', '.join(parts)})", ylabel=label)
            axis.set_title(f"equal loss, {fixed}", fontsize=9)
        out.plot("isoloss", made)


def optimum_plot(
    out, C: Float[np.ndarray, "points"], curves: Mapping[str, tuple[np.ndarray, ...]]
) -> None:
    """`optimum.png`: the best bits in training over compute.

    Args:
        out: keeps the plot.
        C: budgets.
        curves: by label the bits at each budget, and low and high end or nothing.
    """
    with figure(size=(5.4, 3.6)) as (made, axes):
        axis = axes[0, 0]
        for color, (label, (P, *ends)) in zip(COLORS, curves.items(), strict=False):
            axis.plot(C, P, c=color, lw=1.6, label=label)
            if ends:
                axis.fill_between(C, *ends, color=color, alpha=0.18, lw=0)
        axis.set(xscale="log", xlabel="compute C = (6/16) N D P", ylabel="best bits in training")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
        out.plot("optimum", made)


def count_text(count: float) -> str:
    """`30M` of 30,000,000: three digits of a number of parameters or tokens."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{letter}" if count < 1e15 else f"{count:.3g}"
    return f"{count:.3g}"


def _alone(table: Table, part: str) -> list[tuple[float, float, np.ndarray, np.ndarray]]:
    """Per size N, D, bits and losses of runs in which no other part is low."""
    others = [getattr(table, f"P{other}") for other in PARTS if other != part]
    rows = table.rows(table.trained & np.isinf(others).all(0))
    P, found = getattr(rows, f"P{part}"), []
    for N in np.unique(rows.N):
        tokens = np.unique(rows.D[(rows.N == N) & np.isfinite(P)])
        counts = [np.isfinite(P[(rows.N == N) & (rows.D == D)]).sum() for D in tokens]
        if counts:
            D = tokens[np.flatnonzero(np.array(counts) == max(counts))[-1]]
            its = (rows.N == N) & (rows.D == D)
            found.append((float(N), float(D), P[its], rows.loss[its]))
    return found[:_SIZES]
