"""LoLCATs: a pretrained transformer with linear attention, by attention transfer and then LoRA.

Zhang et al. 2024 (arXiv 2410.10254). Softmax attention is replaced by attention that is linear in
learned features, hybrid with softmax over a near window. Step 1 trains the features alone, so that
every layer reads what softmax read; step 2 trains low-rank updates of the projections. The control
trains both together from the start for as many steps. Half of the windows say their text twice:
there a model with a short window is good only if its linear branch carries the first half.

`python -m train lolcats` trains a base of 0.3 M parameters on the default text first; `--base`
takes a Llama, Mistral, Qwen2 or Pythia checkpoint, or a run of `python -m train lm`.
`python -m evals linearized RUN` then measures decoding, and the controls with intervals.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from jlab.cli import UsageError
from jlab.data import REPEATS, Groups, load_groups, load_instructions, with_repeats
from jlab.data.groups import Progress
from jlab.linearize import split_maps
from jlab.mixing import static
from jlab.nn import TransformerConfig, count_params, flops_per_token
from jlab.nn.lora import lora_paths
from jlab.training.estimate import estimate
from jlab.training.language_model import check_fit, train_language_model, with_vocabulary
from jlab.training.mesh import batch_rows, make_mesh
from jlab.training.pretrained import Model, check_model, load_model
from jlab.training.run import Run
from train.lolcats_arm import Base, linearized_arm
from train.lolcats_config import Config
from train.lolcats_export import check_export
from train.lolcats_memory import (
    Need,
    abstract_linearized,
    initial_shapes,
    memory_needs,
    memory_table,
)
from train.lolcats_report import plots, text

__all__ = ["Config"]


class Inputs(NamedTuple):
    """What `prepare` has read."""

    base: Model | None  # None: it is trained here
    model: TransformerConfig  # the base's
    groups: Groups  # of both steps, text said twice included
    pretraining: Groups | None  # of a base that is trained here
    needs: list[Need]  # of memory


def prepare(config: Config, tell: Progress) -> Inputs:
    """Read base and text, refuse what does not fit together, and say what memory it takes."""
    mesh = make_mesh(config.mesh)
    for stage in (config.transfer, config.tune):
        batch_rows(stage.batch_size, mesh, stage.accumulate)
    base = _read_base(config, tell) if config.base else None
    pretraining, groups = _read_groups(config, base, tell)
    if base is None:
        model = with_vocabulary(config.language_model(), pretraining).model
        check_fit(config.language_model(), pretraining, static(shares(config, pretraining)))
        params = initial_shapes(model)
    else:
        model, params = base.config, base.variables["params"]
    _check(config, model, params)
    for remark in groups.remarks():
        tell(remark, 0)
    needs = memory_needs(config, model, params, len(groups.names))
    tell(memory_table(needs), 0)
    return Inputs(base, model, groups, pretraining, needs)


def run(config: Config, inputs: Inputs, out: Run, resume_command: str) -> dict[str, Any]:
    """Train the base if there is none; then, of each kind of attention, both steps and control."""
    if inputs.base is None:
        params, mesh = pretrained(config, inputs.pretraining, out.child("base"), resume_command)
    else:
        params, mesh = inputs.base.variables["params"], inputs.base.mesh
    p = shares(config, inputs.groups)
    base = Base(config, inputs.model, params, inputs.groups, p, mesh, resume_command)
    found = {
        "groups": list(inputs.groups.names),
        "base": base.judge(inputs.model, {"params": params}),
        "base_validation": base.judge(inputs.model, {"params": params}, "validation"),
        "arms": {},
    }
    for kind in config.swap.attention:
        part = out.child(kind)
        if part.result() is None:
            part.write_result(linearized_arm(base, kind, part))
        found["arms"][kind] = part.result()
        out.write_json("so_far.json", found)  # for the plots of a run that is stopped
    return found


def pretrained(
    config: Config, groups: Groups, out: Run, resume_command: str
) -> tuple[PyTree, Mesh]:
    """A base trained on text, and the mesh that it lies on."""
    mixer = static(shares(config, groups))
    trained = train_language_model(config.language_model(), mixer, out, groups, resume_command)
    return trained.params, trained.mesh


def shares(config: Config, groups: Groups) -> Float[np.ndarray, "m"]:
    """Equal shares of the groups of text beside the share of text said twice."""
    texts = len(groups.names) - (REPEATS in groups.names)
    p = np.full(len(groups.names), (1 - config.recall) / texts)
    if REPEATS in groups.names:
        p[-1] = config.recall
    return p


def cost(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Of the base, where it is trained here, of both steps, and the memory of each way to train."""
    length, tune = config.data.length, config.tune
    steps = {
        "transfer": (config.transfer, config.transfer.loop.steps),
        "tune": (tune, tune.loop.steps),
        "control": (tune, config.control * config.together.loop.steps),
    }
    kinds = len(config.swap.attention)
    tokens = {name: kinds * n * stage.batch_size * length for name, (stage, n) in steps.items()}
    per_token = 3 * flops_per_token(inputs.model, length)
    return {
        "base": estimate(config.language_model()) if inputs.base is None else None,
        "parameters": count_params(inputs.model),
        "tokens": tokens,
        "train_flops": {name: n * per_token for name, n in tokens.items()},
        "memory": [need._asdict() for need in inputs.needs],
    }


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """Perplexities of all variants, controls and layers over the seeds; and the plots."""
    done = {seed: part.result() for seed, part in parts.items() if part.result()}
    plots(config, parts, done, out)
    return text(config, parts, done)


def _read_base(config: Config, tell: Progress) -> Model:
    try:
        check_model(config.base, config.revision)
        tell(f"reading {config.base}", 0)
        return load_model(config.base, config.revision, config.model.dtype, config.mesh)
    except (UsageError, FileNotFoundError, ValueError) as error:
        raise ValueError(f"base: {error}") from error


def _read_groups(
    config: Config, base: Model | None, tell: Progress
) -> tuple[Groups | None, Groups]:
    """What a base is trained on here, and what both steps are."""
    tokenizer = base.tokenizer if base else None
    instructed, length = bool(config.instructions.path), config.data.length
    text = None
    if base is None or not instructed:
        text = load_groups(config.data, tell, tokenizer)
        text = with_repeats(text) if config.recall else text
    if not instructed:
        return (text if base is None else None), text
    given = tokenizer or text.tokenizer
    try:
        groups = load_instructions(config.instructions, given, length, tell)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"instructions: {error}") from error
    return text, with_repeats(groups) if config.recall else groups


def _check(config: Config, base: TransformerConfig, params: PyTree) -> None:
    """Refuse what does not fit the base; nothing is computed."""
    for layer in base.pattern:
        if layer.attention != "softmax":
            raise ValueError(f"the base must be softmax throughout; got {layer.attention}")
        if layer.window is not None and layer.window < config.data.length:
            raise ValueError(
                f"data.length must be at most {layer.window}, the attention window of the base, or"
                f" transfer would teach what the base does not do; got {config.data.length}"
            )
    for kind in config.swap.attention:
        model, shapes = abstract_linearized(config, base, params, kind)
        lora_paths(replace(model, lora=config.tune.lora), shapes, config.tune.lora)
        check_export(config, model)
        if not split_maps(shapes)[0]:
            raise ValueError(f"swap.feature_map.learned must not be none with {kind} attention")
    period = 1 if model.repeats == 1 else len(model.pattern)
    if config.transfer.block % period:
        raise ValueError(
            f"transfer.block must be a multiple of the {period} layers of the pattern, or 0; got"
            f" {config.transfer.block}"
        )
    if not 0 <= config.transfer.block <= base.layers:
        raise ValueError(
            f"transfer.block must be at most the model's {base.layers} layers; got"
            f" {config.transfer.block}"
        )
