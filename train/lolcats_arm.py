"""One kind of attention in place of softmax: both steps, the control, and what came of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from jlab.data import Batch, Groups, MixtureLoader, evaluation_batches
from jlab.linearize import (
    LinearizedKind,
    join_maps,
    layer_report,
    linearize,
    split_maps,
    transfer_step,
    tuning_step,
    with_trained,
    without_linear,
    without_window,
)
from jlab.mixing import static
from jlab.nn import TransferConfig, TransformerConfig, flops_per_token, lora_init
from jlab.training.language import GroupLosses, make_evaluate
from jlab.training.mesh import batch_rows, shard_params
from jlab.training.partial import LossOf, Stage, StageConfig, train_part
from jlab.training.run import Run
from train.lolcats_blocks import Cut, transfer_by_block
from train.lolcats_config import Config, TuneStage
from train.lolcats_export import export

_REPORTED = 16  # windows per group behind the report of layers, which looks at all pairs of tokens


class Base(NamedTuple):
    """The softmax model that all kinds start from, and what they are trained and judged on."""

    config: Config
    model: TransformerConfig
    params: PyTree
    groups: Groups
    proportions: Float[np.ndarray, "m"]
    mesh: Mesh
    resume_command: str

    def judge(
        self, model: TransformerConfig, variables: PyTree, split: str = "test"
    ) -> list[float]:
        """Loss of every group, in nats."""
        config = self.config
        windows = config.test_windows if split == "test" else config.eval_windows
        return self._evaluate(model, split, windows)(variables).loss.tolist()

    def linearized(self, kind: LinearizedKind) -> tuple[TransformerConfig, PyTree]:
        """The base with other attention: its weights, and maps that are not trained yet."""
        settings = self.config.swap.settings()
        model, params = linearize(self.model, self.params, kind, **settings)
        return model, shard_params(params, self.mesh)

    def stage(
        self, config: StageConfig, model: TransformerConfig, loss_of: LossOf, frozen: PyTree
    ) -> Stage:
        """What a part of `model` is trained on; it is judged by the whole model's next tokens."""
        document_mask = self.config.data.document_mask
        seed = self.config.seed
        evaluate = self._evaluate(
            replace(model, transfer=None), "validation", self.config.eval_windows
        )
        return Stage(
            config=config,
            loss_of=loss_of,
            loader=MixtureLoader(self.groups.train, config.batch_size, seed, document_mask),
            mixer=static(self.proportions),
            names=self.groups.names,
            mesh=self.mesh,
            evaluate=lambda trained: evaluate(with_trained(frozen, trained)),
            flops_per_token=3 * flops_per_token(model, self.config.data.length),
            seed=seed,
        )

    def batches(self, split: str, windows: int) -> list[Batch]:
        """The first so many windows of every group, in batches of the second step's size."""
        size, mask = self.config.tune.batch_size, self.config.data.document_mask
        return list(evaluation_batches(getattr(self.groups, split), size, windows, mask))

    def _evaluate(
        self, model: TransformerConfig, split: str, windows: int
    ) -> Callable[[PyTree], GroupLosses]:
        rows = batch_rows(self.config.tune.batch_size, self.mesh)
        batches, m = self.batches(split, windows), len(self.groups.names)
        return make_evaluate(model, batches, m, self.mesh, rows, variables=lambda given: given)


def linearized_arm(base: Base, kind: LinearizedKind, out: Run) -> dict[str, Any]:
    """Transfer, low-rank updates, the control; test losses of all on the way."""
    config = base.config
    model, params = base.linearized(kind)
    tuned_model = replace(model, lora=config.tune.lora)
    maps, frozen = split_maps(params)
    learned = transferred(base, model, maps, frozen, out.child("transfer"))
    models = {
        "swapped": (model, {"params": params}),
        "transferred": (model, {"params": join_maps(learned, frozen)}),
    }
    tuned = tuned_from(base, tuned_model, config.tune, learned, frozen, out.child("tuned"))
    models["tuned"] = (tuned_model, tuned)
    if config.control:
        alone = out.child("alone")
        start = (base, tuned_model, config.together, maps, frozen, alone)
        models["alone"] = (tuned_model, tuned_from(*start))
    found: dict[str, Any] = {name: base.judge(*one) for name, one in models.items()}
    for name in ("tuned", "alone"):
        if name in models:
            found |= _switched_off(base, name, *models[name])
    for name in config.export:
        if name in models:
            export(config, base.groups.tokenizer, *models[name], out.path / "models" / name)
    shown = base.batches("test", _REPORTED)
    found["layers"] = {
        name: layer_report(model, models[name][1]["params"], shown)
        for name in ("swapped", "transferred")
    }
    return found


def transferred(
    base: Base, model: TransformerConfig, maps: PyTree, frozen: PyTree, out: Run
) -> PyTree:
    """Step 1: maps and window factors that read what softmax attention reads."""
    stage = base.config.transfer
    m = len(base.groups.names)
    loss_of = transfer_step(model, m, stage.loss)
    given = base.stage(stage, model, loss_of, frozen)
    if not stage.block:
        return train_part(given, {"maps": maps}, frozen, out, base.resume_command)["maps"]
    taught = replace(model, transfer=TransferConfig(weights=stage.loss.xent_factor != 0))
    cut = Cut(taught, join_maps(maps, frozen), stage.block)
    return transfer_by_block(cut, stage.loss, given, out, base.resume_command)


def tuned_from(
    base: Base, model: TransformerConfig, stage: TuneStage, maps: PyTree, frozen: PyTree, out: Run
) -> dict[str, PyTree]:
    """Step 2, or the control: variables of the model after next-token training."""
    params = join_maps(maps, frozen)
    lora = lora_init(model, params, jax.random.key(base.config.seed))
    trained = {"lora": shard_params(lora, base.mesh)}
    rest = params
    if stage.train_maps:
        trained, rest = trained | {"maps": maps}, frozen
    loss_of = tuning_step(model, len(base.groups.names))
    given = base.stage(stage, model, loss_of, rest)
    return with_trained(rest, train_part(given, trained, rest, out, base.resume_command))


def _switched_off(
    base: Base, name: str, model: TransformerConfig, variables: PyTree
) -> dict[str, list[float]]:
    """Test losses with one branch of the attention switched off."""
    if not any(layer.hybrid for layer in model.pattern):
        return {}
    return {
        f"{name}_without_linear": base.judge(without_linear(model), variables),
        f"{name}_without_window": base.judge(without_window(model), variables),
    }
