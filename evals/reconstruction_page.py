"""The tables of `python -m evals reconstruction`, from its summary."""

from collections.abc import Mapping
from typing import Any

from jlab.training.report import markdown_table

_SCORES = {
    "mse": ("MSE", "{:.4f}"),
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "lpips": ("LPIPS", "{:.3f}"),
    "error": ("error", "{:.4g}"),
    "relative_error": ("relative error", "{:.4f}"),
}
_WIDTH = 2048  # features of InceptionV3: with fewer images its covariance has no full rank


def page(title: str, summary: Mapping[str, Any]) -> str:
    """The text of `summary.md`."""
    images = ", ".join(f"{n} of {name}" for name, n in summary["images"].items())
    blocks = [
        f"# Reconstruction: {title}\n",
        f"Images of the split {summary['split']}: {images}. In brackets 95 % bootstrap intervals"
        " over images. Pixels are in [-1, 1] for MSE; error is |e - q|^2 summed over channels, the"
        " mean over tokens, and relative error its share of |e|^2: an error can be smaller because"
        " the latents are.\n",
        _models(summary),
        *_groups(summary),
        *_use(summary),
        *_sets(summary),
        *_landscape(summary),
    ]
    return "\n".join(blocks)


def _models(summary: Mapping[str, Any]) -> str:
    names = [name for name in _SCORES if any(name in x["scores"] for x in summary["models"])]
    head = ["model", "codes", "gradient", *(_SCORES[name][0] for name in names)]
    rows = [
        [
            x["label"],
            f"{x['codes']} {x['kind']}",
            x["gradient"],
            *(_said(name, x["scores"].get(name)) for name in names),
        ]
        for x in summary["models"]
    ]
    return markdown_table(head, rows)


def _said(name: str, score: Mapping[str, float | None] | None) -> str:
    if score is None:
        return "-"
    shown = [_number(_SCORES[name][1], score[field]) for field in ("value", "low", "high")]
    return "{} [{}, {}]".format(*shown)


def _number(form: str, value: float | None) -> str:
    return "not finite" if value is None else form.format(value)


def _groups(summary: Mapping[str, Any]) -> list[str]:
    if len(summary["images"]) == 1:
        return []
    names = ("mse", "psnr", "ssim")
    rows = [
        [x["label"], group, *(_said(name, found[name]) for name in names)]
        for x in summary["models"]
        for group, found in x["groups"].items()
    ]
    head = ["model", "group", *(_SCORES[name][0] for name in names)]
    return ["## Groups of images\n", markdown_table(head, rows)]


def _use(summary: Mapping[str, Any]) -> list[str]:
    errors = any("error" in one for x in summary["models"] for one in x["use"])
    head = ["model", "place", "usage", "perplexity", "dead codes", "usage by 256 images", "tokens"]
    rows = [
        [
            x["label"],
            one["place"],
            f"{one['usage']:.1%}",
            f"{one['perplexity']:.1f}",
            f"{one['dead']} of {x['codes']}",
            f"{one['usage_256']:.1%}",
            f"{one['tokens']} ({one['tokens_256']})",
            *([_number("{:.4g}", one["error"]) if "error" in one else "-"] if errors else []),
        ]
        for x in summary["models"]
        for one in x["use"]
    ]
    first = summary["models"][0]["use"][0]
    parts = "group" if first["parts"] == 1 else "groups"
    text = (
        "Usage, perplexity and dead codes over all tokens of these images; usage by 256 images is"
        f" the paper's, the mean over {first['parts']} consecutive {parts} of 256 images (fewer"
        " where there are not as many; what is left over is left out) of the share of codes used"
        " in it. In brackets the tokens of one such group: a usage grows with them.\n"
    )
    if errors:
        head, text = [*head, "error"], f"{text[:-1]} error is |e - q|^2 that a level leaves.\n"
    return ["## Codes\n", text, markdown_table(head, rows)]


def _sets(summary: Mapping[str, Any]) -> list[str]:
    missing = [
        f"{what} not measured: give {flag}."
        for name, what, flag in (
            ("features", "rFID and inception score were", "`--features FILE.safetensors`"),
            ("perceptual", "LPIPS was", "`--perceptual FILE.safetensors`"),
        )
        if not summary[name]
    ]
    note = [" ".join(missing) + "\n"] if missing else []
    if not summary["features"]:
        return ["## As a trained network sees them\n", *note]
    rows = [
        [
            x["label"],
            _number("{:.3f}", x["sets"].get("frechet")),
            *(
                f"{x['sets'][kind]['inception']:.3f} ± {x['sets'][kind]['deviation']:.3f}"
                for kind in ("reconstruction", "original")
            ),
        ]
        for x in summary["models"]
    ]
    total = sum(summary["images"].values())
    splits = summary["models"][0]["sets"]["original"]["splits"]
    text = (
        f"Over {total} images; inception scores over {splits} splits, with the deviation between"
        " them.\n"
    )
    if total < _WIDTH:
        text = (
            f"{text[:-1]} The covariance of {_WIDTH} features needs more images than these: the"
            " distance is too large, and comparable only on the same images.\n"
        )
    head = ["model", "rFID", "inception score", "of the images themselves"]
    return ["## As a trained network sees them\n", text, markdown_table(head, rows), *note]


def _landscape(summary: Mapping[str, Any]) -> list[str]:
    from evals.reconstruction_landscape_page import landscape_page

    return landscape_page(summary)
