"""One model trained at chosen precisions, then quantised: "Scaling Laws for Precision".

The paper (Kumar, Ankner et al., ICLR 2025, arXiv 2411.04330) finds that rounding the weights after
training costs the more loss the more tokens the model has read, and the less the more bits are
kept. `python -m train precision` trains a small model, in low precision with
`--model.precision.weights int4` and the like, and quantises its checkpoints along the way.
`python -m train precision_sweep` trains the grid that the law is fitted to.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from jlab.data import Groups, load_groups
from jlab.data.groups import Progress
from jlab.mixing import stratified
from jlab.nn import count_params
from jlab.training.config import check_least
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_model import check_fit, train_language_model, with_vocabulary
from jlab.training.language_state import params_at
from jlab.training.report import skipped_note
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal
from train.precision_post import PostConfig, PostTraining, check_groups
from train.precision_report import plots, text


@dataclass(frozen=True)
class Config(LanguageModelConfig):
    """A language model, the precision it is trained in (`model.precision`), and what comes after.

    `test_windows` counts the validation windows per group that losses are measured on.
    """

    post: PostConfig = field(default_factory=PostConfig)
    halvings: int = 4
    """The states after all, half, a quarter ... of the steps are quantised: so often is halved.
    `loop.checkpoint_every` and `loop.keep` follow from it."""

    def __post_init__(self):
        super().__post_init__()
        check_least(self, {"halvings": 0})
        if self.loop.steps % 2**self.halvings:
            raise ValueError(
                f"loop.steps must be a multiple of 2^halvings = {2**self.halvings}; got"
                f" {self.loop.steps}"
            )

    @property
    def states(self) -> tuple[int, ...]:
        """Steps whose states are quantised, ascending."""
        return tuple(self.loop.steps // 2**i for i in range(self.halvings, -1, -1))


def prepare(config: Config, tell: Progress) -> Groups:
    """Read the groups, and refuse what does not fit them."""
    check_groups(config.model, config.post)
    groups = load_groups(config.data, tell)
    check_fit(config, groups, stratified())
    for remark in groups.remarks():
        tell(remark, 0)
    return groups


def run(config: Config, groups: Groups, out: Run, resume_command: str) -> dict[str, Any]:
    """Train, then quantise the states."""
    every = config.states[0]
    # Checkpoints that an interrupt adds must not push out those of the states.
    loop = replace(config.loop, checkpoint_every=every, keep=max(2, config.loop.steps))
    model = with_vocabulary(replace(config.language_model(), loop=loop), groups)
    train_language_model(model, stratified(), out, groups, resume_command)
    post = PostTraining(model, groups, config.post)
    found: dict[str, Any] = {
        "N": count_params(model.model, tables=False),
        "groups": list(groups.names),
        "states": [],
    }
    for step in config.states:
        part = out.child(f"quantised/step-{step}")
        state = part.result()
        if state is None:
            with stop_on_signal() as stop:
                if stop():
                    raise Interrupted(f"stopped before the state of step {step} was quantised")
            out.say(f"{out.title} quantising the state of step {step}")
            state = post.measure(params_at(model, out.path, step, len(groups.names)))
            part.write_result(state)
        found["states"].append({"D": step * config.batch_size * config.data.length, **state})
        out.write_json("so_far.json", found)  # for the plots of a run that is stopped
    return found


def runs_per_seed(config: Config, groups: Groups) -> int:
    """Training runs that one seed takes."""
    return 1


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """What each format costs at each state, and the plots."""
    found = {seed: part.result() or _so_far(part) for seed, part in parts.items()}
    found = {seed: result for seed, result in found.items() if result}
    curves = {f"seed {seed}": part.rows() for seed, part in parts.items() if part.started()}
    if not curves:
        return "Nothing was trained.\n"
    plots(out, curves, list(found.values()))
    if not found:
        return "Stopped before a state was quantised; the plots show the run so far.\n"
    return text(config, list(found.values())) + skipped_note(curves.values())


def _so_far(part: Run) -> dict | None:
    path = part.path / "so_far.json"
    return json.loads(path.read_text()) if path.exists() else None
