"""What the two pictures of the rotation trick show, in words and numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from jlab.training.report import markdown_table

_FIELDS = {
    "error": ("error", "{:.3f}"),
    "loss": ("loss at the codes", "{:.2f}"),
    "distance": ("distance to a minimum", "{:.3f}"),
    "steps": ("steps to a tenth of the loss", "{:.0f}"),
    "used": ("codes used", "{:.1f}"),
}


def landscape_page(summary: Mapping[str, Any]) -> list[str]:
    """The section of `summary.md` on points in the plane; no trained model takes part in it."""
    return [
        "## The rotation trick in the plane\n",
        "No trained model takes part. `voronoi.png` (Section 4.3): codes and the update of each"
        " cell are fixed, points take 25 updates. Spread across the code's direction and along it,"
        " after by before; an update is outwards where it points as the code does.\n",
        _push(summary["push"]),
        "`himmelblau.png` (Appendix A.2): 256 points go down Himmelblau's function through a"
        " lookup, codes follow them by running means, 100 steps; mean ± deviation over random"
        " starts, and in how many of them the number is below straight-through's. error is"
        " |e - q|^2 in the mean over points; steps count as 101 where the loss stays above; codes"
        " that lose their points stay where they are.\n",
        _descent(summary["descent"]),
        _verdict(summary["descent"]),
    ]


def _push(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["gradient", "pushed", "spread across", "spread along"]
    return markdown_table(
        head,
        [
            [x["estimator"], x["pushed"], f"{x['tangential']:.2f}", f"{x['radial']:.2f}"]
            for x in rows
        ],
    )


def _descent(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["codes", "gradient", *(label for label, _ in _FIELDS.values())]
    return markdown_table(
        head, [[str(x["codes"]), x["estimator"], *(_said(x, f) for f in _FIELDS)] for x in rows]
    )


def _said(row: Mapping[str, Any], field: str) -> str:
    form, found = _FIELDS[field][1], row[field]
    said = f"{form.format(found['mean'])} ± {form.format(found['deviation'])}"
    if row["estimator"] == "straight-through" or field == "used":
        return said
    return f"{said} ({found['better']} of {row['seeds']})"


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """In how many starts rotation clusters tighter and comes down sooner, all settings together."""
    turned = [row for row in rows if row["estimator"] == "rotation"]
    total = sum(row["seeds"] for row in turned)
    tighter, sooner, nearer = (
        sum(row[field]["better"] for row in turned) for field in ("error", "steps", "distance")
    )
    return (
        f"The paper says that rotation clusters tighter and reaches the minima sooner. Here it has"
        f" the smaller |e - q|^2 in {tighter} of {total} starts, fewer steps in {sooner}, and codes"
        f" nearer to a minimum at the end in {nearer}. It does not say how many points and codes it"
        " took nor where they began; these starts are even over the square [-5, 5]^2.\n"
    )
