"""The summary of `python -m evals precision_law` as a page of Markdown tables."""

from jlab.precision.law_plots import count_text
from jlab.training.report import markdown_table

_FORMS = """\
R² of the losses of trained models, and of what quantising them after training adds. Forms speak of
different runs: compare those with equally many. Held-out runs are predicted by fits that have not
seen them.
"""
_LOOSE = """\
Not determined by these runs, though what they predict may be: {names}. Trust the values of f at
the bits that were trained, not single constants."""
_F = """\
A part trained in so many bits leaves this share of the parameters; "-": training diverges there, by
the law.
"""
_CRITICAL = """\
Trained on more tokens than these without quantisation, a model is worse after quantisation to so
many bits. Beyond the longest runs of the table this extrapolates.
"""
_PLANS = """\
The lowest loss for each way to serve: as trained, or with weights quantised to `post` bits. C is
(6/16) N D P with all parts in P bits; `spent` is the share of it that helps a model that will be
quantised; `served` is the bits of weights per token.
"""


def page(summary: dict) -> str:
    """Tables of the forms and of what each law answers.

    Args:
      summary: `evals.precision_report.summary_of`.
    """
    table = summary["table"]
    name = "the paper's constants" if table is None else table["name"]
    blocks = [f"# Precision laws of {name}\n"]
    if table is not None:
        blocks += [_what(table), "## Forms\n", _forms(summary), _FORMS]
        blocks += [f"Not fitted: {form}: {why}.\n" for form, why in summary["refused"].items()]
    laws = summary["laws"]
    if "paper" in laws:
        blocks.append("The paper does not publish C_w, C_a and C_kv: 1 stands for them.\n")
    if "fit" in laws:
        blocks += [*_fit_notes(summary), *_law(laws["fit"], laws.get("paper"))]
    elif "paper" in laws:
        blocks += _law(laws["paper"], None)
    if table is not None and summary["samples"] and summary["asked"]:
        blocks.append(
            f"Intervals are the central 95 % of {summary['samples']} refits to resampled runs; "
            "what the form gets wrong is not in them.\n"
        )
    return "\n".join(blocks)


def _what(table: dict) -> str:
    sizes, tokens = len(table["N"]), len(table["D"])
    said = f"{table['finished']} finished runs of {sizes} sizes and {tokens} numbers of tokens, "
    said += f"{table['quantised']} quantisations after training.\n"
    for key, what in (("missing", "Without a loss"), ("empty_cells", "Cells without a run")):
        if table[key]:
            shown = ", ".join(table[key][:10])
            more = f" and {len(table[key]) - 10} more" if len(table[key]) > 10 else ""
            said += f"{what} ({len(table[key])}): {shown}{more}.\n"
    return said


def _forms(summary: dict) -> str:
    head = ["form", "numbers", "runs", "R²", "held-out R²"]
    head += ["rise: numbers", "rows", "R²", "held-out R²"]
    rows = []
    for name, its in summary["forms"].items():
        held = its["held_out"] or {"r2": None, "rise_r2": None}
        row = [name, its["parameters"], its["runs"], _text(its["r2"], ".4f")]
        row.append(_text(held["r2"], ".4f"))
        if its["rise_parameters"]:
            row += [its["rise_parameters"], its["quantised"], _text(its["rise_r2"], ".4f")]
            row.append(_text(held["rise_r2"], ".4f"))
        else:
            row += ["-"] * 4
        rows.append(row)
    return markdown_table(head, rows)


def _fit_notes(summary: dict) -> list[str]:
    """What to know of the form that is asked from here on."""
    its = summary["forms"][summary["asked"]]
    notes = [f"The form {summary['asked']} is asked from here on."]
    if its["rise_parameters"]:
        notes.append("C_T is C_T e^b: the two are not seen apart, and b is 0.")
        left = {why: count for why, count in its["left_out"].items() if count}
        said = ", ".join(f"{count} with {why}" for why, count in left.items())
        notes += [f"Quantised rows that say nothing of the rise: {said}."] if left else []
    if its["loose"]:
        notes.append(_LOOSE.format(names=", ".join(its["loose"])))
    return ["\n".join(notes) + "\n"]


def _law(answers: dict, paper: dict | None) -> list[str]:
    """What a law answers, with the paper's constants beside it where they are asked for."""
    blocks = ["## Constants\n", _params(answers, paper)]
    if answers["f"]:
        blocks += ["## What bits leave of the parameters\n", _fractions(answers, paper), _F]
    if answers["critical_tokens"]:
        blocks += ["## Critical tokens\n", _critical(answers), _CRITICAL]
    if answers["parts"]:
        blocks += ["## Best bits in training\n", _best(answers, paper)]
        blocks += ["## Plans\n", _plans(answers), _PLANS]
    return blocks


def _params(answers: dict, paper: dict | None) -> str:
    beside = paper["params"] if paper else {}
    rows = [
        [name, *_told(its, ".5g"), *_paper(beside.get(name), ".5g", paper)]
        for name, its in answers["params"].items()
    ]
    return markdown_table(["constant", "value", "95 % interval", *_head(paper)], rows)


def _fractions(answers: dict, paper: dict | None) -> str:
    rows = []
    for part, its in answers["f"].items():
        beside = paper["f"].get(part) if paper else None
        for i, bits in enumerate(its["bits"]):
            row = [part, f"{bits:g}", *_told(its, ".3f", i)]
            rows.append([*row, *_paper(beside, ".3f", paper, i)])
    return markdown_table(["part", "bits", "f", "95 % interval", *_head(paper)], rows)


def _head(paper: dict | None) -> list[str]:
    return ["paper"] if paper else []


def _paper(its: dict | None, form: str, paper: dict | None, *place: int) -> list[str]:
    """The cell of the paper's column, where there is one."""
    if not paper:
        return []
    return [_told(its, form, *place)[0] if its else "-"]


def _critical(answers: dict) -> str:
    its = answers["critical_tokens"]
    head = ["N", *(f"{bits:g} bits" for bits in its["bits"])]
    rows = []
    for i, N in enumerate(its["N"]):
        row = [count_text(N)]
        for j in range(len(its["bits"])):
            value, ends = _told(its, ".3g", i, j)
            row.append(value if ends == "-" else f"{value} {ends}")
        rows.append(row)
    return markdown_table(head, rows)


def _best(answers: dict, paper: dict | None) -> str:
    value, ends = _told(answers["optimal_precision"], ".2f")
    parts = ", ".join(answers["parts"])
    said = f"With N, D and P free ({parts} in P bits): P* = {value}"
    said += f" {ends}" if ends != "-" else ""
    said += ", whatever the budget." if value != "-" else ": none, fewer bits always gain."
    if paper:
        value, _ = _told(paper["optimal_precision"], ".2f")
        said += f" The paper's constants ({', '.join(paper['parts'])}): {value}."
    head = ["C", "N", "D", "P", f"P of N = {count_text(answers['params_given'])}", "95 % interval"]
    rows = []
    for i, row in enumerate(answers["optimal"]):
        cells = [f"{row['C']:.3g}", *(_count(row[name]) for name in ("N", "D"))]
        cells.append(_text(row["P"], ".2f"))
        rows.append([*cells, *_told(answers["fixed"], ".2f", i)])
    return f"{said}\n\n{markdown_table(head, rows)}"


def _plans(answers: dict) -> str:
    head = ["C", "post", "loss", "N", "D", "P", "spent", "served"]
    rows = []
    for row in answers["plans"]:
        post = "as trained" if row["Ppost"] is None else f"{row['Ppost']:g}"
        cells = [_text(row["loss"], ".4f"), *(_count(row[name]) for name in ("N", "D"))]
        cells += [_text(row["P"], ".2f"), _text(row["spent"], ".0%"), _text(row["served"], ".3g")]
        rows.append([f"{row['C']:.3g}", post, *cells])
    return markdown_table(head, rows)


def _told(its: dict, form: str, *place: int) -> tuple[str, str]:
    """A value and its interval, from arrays where a place is given."""
    found = {}
    for name, value in its.items():
        if name in ("value", "low", "high"):
            for i in place:
                value = None if value is None else value[i]
            found[name] = _text(value, form)
    ends = "-" if "-" in (found["low"], found["high"]) else f"[{found['low']}, {found['high']}]"
    return found["value"], ends


def _count(value: float | None) -> str:
    return "-" if value is None else count_text(value)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
