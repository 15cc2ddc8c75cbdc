"""A VQ-VAE on images, with any gradient estimator and any codebook: the rotation trick.

"Restructuring Vector Quantization with the Rotation Trick" (Fifty, Junkins et al., ICLR 2025, arXiv
2410.06424). `python -m train vqvae` trains the small auto-encoder of `docs/vq.md` on scikit-learn's
digits with the rotation trick; `--model.quantizer.estimator straight_through` is the baseline.
Expect 99 % of 256 codes used against 30 %, and a mean squared error of .056 against .068 (means of
five seeds). `python -m train vqvae_compare` trains all estimators side by side.
"""

from dataclasses import dataclass
from typing import Any

from jlab.data import Images, load_images
from jlab.data.groups import Progress
from jlab.mixing import stratified
from jlab.training.report import markdown_table, skipped_note
from jlab.training.run import Run
from jlab.vq.estimate import estimate_cost
from jlab.vq.plots import curves_plot
from jlab.vq.training import check_alone, check_fit, train_vqvae
from jlab.vq.training_config import ImageModelConfig
from train.vqvae_plots import model_plots


@dataclass(frozen=True)
class Config(ImageModelConfig):
    """A VQ-VAE and what it is trained on."""


def prepare(config: Config, tell: Progress) -> Images:
    """Read the images, and refuse what does not fit them."""
    check_alone(config)
    images = load_images(config.data, tell)
    check_fit(config, images)
    for remark in images.remarks():
        tell(remark, 0)
    return images


def cost(config: Config, images: Images) -> dict[str, Any]:
    """What a run costs, for `--dry-run`."""
    return estimate_cost(config, images)


def run(config: Config, images: Images, out: Run, resume_command: str) -> dict[str, Any]:
    """Train, score all validation images, and show reconstructions and codes."""
    trained = train_vqvae(config, stratified(), out, images, resume_command)
    scores = trained.evaluate(None if config.eval_images is None else 4 * config.eval_images)
    model_plots(out, trained)
    values = {name: _plain(x) for name, x in scores.values.items()}
    return {"groups": list(images.names), "mse": scores.loss.tolist(), **values}


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """The scores of every seed, and the curves."""
    logs = {f"seed {seed}": part.rows() for seed, part in parts.items() if part.started()}
    if not logs:
        return "Nothing was trained.\n"
    curves_plot(out, logs)
    found = {seed: result for seed, part in parts.items() if (result := part.result())}
    if not found:
        return "Stopped before the end; the plots show the run so far.\n"
    has_error = any("error" in result for result in found.values())
    return _table(found) + _note(config, has_error) + skipped_note(logs.values())


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


SHOWN = {
    "usage": "{:.1%}",
    "perplexity": "{:.1f}",
    "psnr": "{:.2f} dB",
    "ssim": "{:.3f}",
    "error": "{:.4f}",
    "relative_error": "{:.4f}",
    "cosine": "{:.3f}",
    "obtuse": "{:.1%}",
}


def _table(found: dict[int, dict]) -> str:
    names = [name for name in SHOWN if any(name in result for result in found.values())]
    groups = next(iter(found.values()))["groups"]
    head = ["seed", *(f"MSE, {group}" for group in groups), *names]
    rows = [
        [
            str(seed),
            *(f"{x:.4f}" for x in result["mse"]),
            *(_shown(name, result[name]) for name in names),
        ]
        for seed, result in found.items()
    ]
    return markdown_table(head, rows)


def _shown(name: str, value: Any) -> str:
    """A number, or those of all levels."""
    values = value if isinstance(value, list) else [value]
    return " ".join(SHOWN[name].format(x) for x in values)


def _note(config: Config, has_error: bool) -> str:
    quantizer = config.model.quantizer
    error = (
        "; error is |e - q|^2 summed over channels, the mean over tokens, and relative_error its"
        " share of |e|^2: an error can be smaller because the latents are"
    )
    return (
        f"\nValidation images; {quantizer.kind} codes, gradient: {quantizer.gradient}. Usage and"
        f" perplexity are over the codes of all these images{error if has_error else ''}. Pixels"
        " are in [-1, 1] for MSE.\n"
    )
