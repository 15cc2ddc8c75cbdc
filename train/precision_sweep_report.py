"""What a precision sweep shows, before any law: tables with verdicts from the seeds' spread."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jlab.stats import mean_interval
from jlab.training.report import markdown_table, mean_and_spread
from train.precision_units import SHORT

Rows = Sequence[Mapping[str, Any]]
SURE = 2.0  # standard errors beyond which a difference counts


def text(rows: Rows) -> str:
    """All tables: cost of rounding afterwards, of low precision in training, and of both."""
    parts = [_lost(rows), after_training(rows), in_training(rows), both(rows)]
    return "\n".join(part for part in parts if part)


def _lost(rows: Rows) -> str:
    lost = sorted(row["run"] for row in rows if row["method"] is None and row["loss"] is None)
    if not lost:
        return ""
    return f"{len(lost)} runs have no loss (not done, or not finite): {', '.join(lost[:8])}" + (
        " ...\n" if len(lost) > 8 else "\n"
    )


def trained(rows: Rows) -> dict[tuple, dict[int, float]]:
    """Losses of the trained models by seed, by (N, D, format of weights, activations, kv)."""
    found: dict[tuple, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["method"] is None and row["loss"] is not None:
            found[_cell(row)][row["seed"]] = row["loss"]
    return found


def costs(rows: Rows) -> dict[tuple, dict[int, float]]:
    """What rounding adds by seed, by the cell of the trained model, method and format."""
    before, found = trained(rows), defaultdict(dict)
    for row in rows:
        if row["method"] is not None and row["loss"] is not None:
            cell, seed = _cell(row), row["seed"]
            key = (*cell, row["method"], row["format_post"])
            found[key][seed] = row["loss"] - before[cell][seed]
    return found


def _cell(row: Mapping[str, Any]) -> tuple:
    return (row["N"], row["D"], *(row[f"format_{part}"] for part in SHORT))


FULL = (None, None, None)


def after_training(rows: Rows) -> str:
    """Cost of each format by N and D at full precision, and whether more data hurts."""
    before, cost = trained(rows), costs(rows)
    kinds = kinds_of(rows, FULL)
    cells = sorted(cell for cell in before if cell[2:] == FULL)
    if not kinds or not cells:
        return ""
    table = []
    for N, D, *_ in cells:
        values = [cost.get((N, D, *FULL, *kind), {}) for kind in kinds]
        shown = [mean_and_spread(list(v.values())) if v else "" for v in values]
        loss = mean_and_spread(list(before[N, D, *FULL].values()))
        table.append([f"{N:,}", f"{D:,}", f"{D / N:.0f}", loss, *shown])
    head = ["N", "D", "D / N", "loss", *(" ".join(kind) for kind in kinds)]
    said = [
        "## Rounding after training at full precision\n",
        "Loss in nats per token, and what rounding the weights adds to it; ± over seeds.\n",
        markdown_table(head, table),
        "Slope of log(cost) in log(D), by size; the paper's law has one slope, 0.51.\n",
        markdown_table(
            ["N", *(" ".join(kind) for kind in kinds)],
            [[f"{N:,}", *(_slope(cost, N, kind) for kind in kinds)] for N in _sizes(cells)],
        ),
        "Loss after rounding at the largest D, less the least at any smaller D: above 0, more data"
        " hurts.\n",
        markdown_table(
            ["N", *(" ".join(kind) for kind in kinds)],
            [[f"{N:,}", *(_hurts(before, cost, N, kind) for kind in kinds)] for N in _sizes(cells)],
        ),
    ]
    return "\n".join(said)


def _sizes(cells: Sequence[tuple]) -> list[int]:
    return sorted({cell[0] for cell in cells})


def _slope(cost: dict, N: int, kind: tuple) -> str:
    points = [
        (key[1], np.mean(list(values.values())))
        for key, values in cost.items()
        if key[0] == N and key[2:5] == FULL and key[5:] == kind
    ]
    points = [(D, mean) for D, mean in points if mean > 0]
    if len(points) < 2:
        return "-"
    D, mean = np.log(np.array(points)).T
    return f"{np.polyfit(D, mean, 1)[0]:.2f}"


def _hurts(before: dict, cost: dict, N: int, kind: tuple) -> str:
    """Difference by seed between the largest D and that D at which the mean is least."""
    left: dict[int, dict[int, float]] = {}
    for (size, D, *formats), losses in before.items():
        added = cost.get((size, D, *formats, *kind), {})
        if size == N and tuple(formats) == FULL and added:
            left[D] = {seed: losses[seed] + added[seed] for seed in added}
    if len(left) < 2:
        return "-"
    *smaller, largest = sorted(left)
    best = min(smaller, key=lambda D: np.mean(list(left[D].values())))
    seeds = sorted(set(left[best]) & set(left[largest]))
    if not seeds:
        return "-"
    return _judged([left[largest][seed] - left[best][seed] for seed in seeds], "hurts", "helps")


def _judged(values: Sequence[float], above: str, below: str) -> str:
    """Mean ± spread, and on which side of 0 it is."""
    return f"{mean_and_spread(values)} ({_word(values, above, below) or 'unclear'})"


def _word(values: Sequence[float], above: str, below: str) -> str:
    """The side of 0 that the mean is on; empty if its 95 % interval, by Student's t, has both."""
    interval = mean_interval(np.asarray(values))
    if not interval.excludes_zero:
        return ""
    return above if interval.mean > 0 else below


def in_training(rows: Rows) -> str:
    """Excess loss of each part in low precision, and how it falls with bits."""
    before = trained(rows)
    bits = {row[f"format_{part}"]: row[short] for row in rows for part, short in SHORT.items()}
    table, falls = [], []
    for place, part in enumerate(SHORT):
        cells = sorted({cell[:2] for cell in before if _only(cell, place)})
        formats = sorted({cell[2 + place] for cell in before if _only(cell, place)}, key=bits.get)
        for N, D in cells:
            full, excess = before.get((N, D, *FULL), {}), {}
            for name in formats:
                low = before.get((N, D, *(name if i == place else None for i in range(3))), {})
                seeds = sorted(set(low) & set(full))
                if seeds:
                    excess[name] = [low[seed] - full[seed] for seed in seeds]
            shown = [f"{name} {mean_and_spread(values)}" for name, values in excess.items()]
            table.append([part, f"{N:,}", f"{D:,}", ", ".join(shown)])
            falls.append([part, f"{N:,}", f"{D:,}", *_decay(excess, bits)])
    combined = [cell for cell in before if sum(x is not None for x in cell[2:]) > 1]
    for cell in sorted(combined, key=str):
        full = before.get((*cell[:2], *FULL), {})
        seeds = sorted(set(before[cell]) & set(full))
        if seeds:
            joined = "/".join(name or "-" for name in cell[2:])
            spread = mean_and_spread([before[cell][s] - full[s] for s in seeds])
            table.append(["several", f"{cell[0]:,}", f"{cell[1]:,}", f"{joined} {spread}"])
    if not table:
        return ""
    return "\n".join(
        [
            "## Low precision in training\n",
            "Loss above that of full precision, nats per token; ± over seeds.\n",
            markdown_table(["part", "N", "D", "excess by format"], table),
            "If excess falls exponentially, each bit divides it by the same factor: of a line"
            " through log(excess),\nover the formats whose excess is above twice its standard"
            " error.\n",
            markdown_table(["part", "N", "D", "factor per bit", "R²", "formats"], falls),
        ]
    )


def _only(cell: tuple, place: int) -> bool:
    """Whether one part alone is in low precision."""
    return [x is not None for x in cell[2:]] == [i == place for i in range(3)]


def _decay(excess: dict[str, list[float]], bits: Mapping) -> list[str]:
    sure = {
        name: float(np.mean(values))
        for name, values in excess.items()
        if np.mean(values)
        > SURE * (np.std(values, ddof=1) if len(values) > 1 else 0) / np.sqrt(len(values))
    }
    if len(sure) < 2:
        return ["-", "-", " ".join(sure)]
    P, y = np.array([bits[name] for name in sure]), np.log(list(sure.values()))
    slope, start = np.polyfit(P, y, 1)
    residual = y - start - slope * P
    r2 = 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum() if len(sure) > 2 else np.nan
    return [f"{np.exp(-slope):.2f}", "-" if np.isnan(r2) else f"{r2:.2f}", " ".join(sure)]


def both(rows: Rows) -> str:
    """Cost of rounding models that were trained in fewer bits: less than at full precision?"""
    cost = costs(rows)
    kinds = kinds_of(rows, FULL)
    table = []
    for cell in sorted({key[:5] for key in cost}, key=_in_order):
        shown = [_beside(cost, cell, kind) for kind in kinds]
        if cell[2:] != FULL and any(shown):
            trained_in = "/".join(name or "-" for name in cell[2:])
            table.append([f"{cell[0]:,}", f"{cell[1]:,}", trained_in, *shown])
    if not table:
        return ""
    head = ["N", "D", "trained in (w/a/kv)", *(" ".join(kind) for kind in kinds)]
    return "\n".join(
        [
            "## Both: does training in low precision make rounding cheaper?\n",
            "Cost of rounding, and whether it is more or less than of the model trained at full"
            " precision on the\nsame data with the same seed; unmarked where the seeds do not"
            " tell.\n",
            markdown_table(head, table),
        ]
    )


def _beside(cost: dict, cell: tuple, kind: tuple) -> str:
    """Mean cost of a cell, judged against full precision seed by seed."""
    plain, here = cost.get((*cell[:2], *FULL, *kind), {}), cost.get((*cell, *kind), {})
    seeds = sorted(set(plain) & set(here))
    if not seeds:
        return ""
    word = _word([here[seed] - plain[seed] for seed in seeds], "more", "less")
    return f"{np.mean([here[seed] for seed in seeds]):.3f} {word}".strip()


def _in_order(cell: tuple) -> tuple:
    return (*cell[:2], *(name or "" for name in cell[2:]))


def kinds_of(rows: Rows, formats: tuple) -> list[tuple[str, str]]:
    """Methods and formats that models of such formats were rounded by, in order of bits."""
    bits = {row["format_post"]: row["Ppost"] for row in rows if row["method"]}
    kinds = {key[5:] for key in costs(rows) if key[2:5] == formats}
    return sorted(kinds, key=lambda kind: (kind[0], bits[kind[1]]))
