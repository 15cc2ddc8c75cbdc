"""What the sweep trains, unit by unit; each is kept as it ends, so that none is done twice."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from jlab.data import Groups
from jlab.mixing import (
    AioliConfig,
    Mixer,
    aioli,
    dirichlet_samples,
    learn_graph,
    simplex_cover,
    stratified,
)
from jlab.training.branch import Branches, branch, sweep
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_model import train_language_model, with_vocabulary
from jlab.training.loop import NonFiniteLoss
from jlab.training.observe import observe_at
from jlab.training.probe import learn_at
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.stacked import fitting_runs
from jlab.training.start import restore_start
from train.sweep_laws import fidelity
from train.sweep_matrices import at_checkpoint


def break_steps(config: Any) -> list[int]:
    """Steps whose checkpoints are branched."""
    part = config.loop.steps // (config.breaks + 1)
    return [part * (k + 1) for k in range(config.breaks)]


def cover(config: Any, m: int) -> Float[np.ndarray, "n m"]:
    """The mixtures, the same for every checkpoint and seed."""
    p = simplex_cover(dirichlet_samples(0, m, config.mixtures, config.cover_alpha), config.mixtures)
    return p / p.sum(1, keepdims=True)


def probe_settings(config: Any, m: int) -> AioliConfig:
    """Aioli, as far as its estimate of the matrix goes."""
    return AioliConfig(
        update_steps=m * config.sweeps * config.probe_steps,
        sweeps=config.sweeps,
        probe_steps=config.probe_steps,
        one_hot_factor=config.one_hot_factor,
    )


@dataclass(frozen=True)
class Study:
    """One seed of the sweep."""

    config: Any  # of the recipe
    groups: Groups
    out: Run
    resume_command: str

    def path(self) -> dict:
        """The stratified run, with a checkpoint at every break and at the end."""

        def train() -> dict:
            part = self.out.child("path")
            model = train_language_model(
                self._model, stratified(), part, self.groups, self.resume_command
            )
            losses = model.evaluate("validation", self.config.eval_windows).loss
            curve = [
                [row["step"], [row[f"eval/loss/{name}"] for name in self.groups.names]]
                for row in part.rows()
                if "eval/loss" in row
            ]
            return {"losses": losses.tolist(), "curve": curve}

        kept = self._kept("path", train)
        return {name: kept[name] for name in ("losses", "curve")}

    def graph(self) -> list[list[float]]:
        """Skill-It's graph of one full run per group, trained on that group alone."""
        runs = self._runs("one-hot", np.eye(len(self.groups.names)), self._sweep)
        return learn_graph(runs["before"][0], runs["after"]).tolist()

    def static(self) -> dict:
        """Final losses of full runs on the cover, and the laws of them."""
        p = cover(self.config, len(self.groups.names))
        after = self._runs("static", p, self._sweep)["after"]
        return {"after": after.tolist(), "laws": fidelity(p, after)}

    def at_break(self, step: int) -> dict:
        """Branches of a checkpoint, the law fitted to them, and each method's matrix there."""
        config, m, here = self.config, len(self.groups.names), f"break-{step}"
        start = cache(partial(restore_start, self.out.path / "path", step))  # if it is needed

        def branches(p: np.ndarray, tell: Callable) -> Branches:
            return branch(start(), p, config.branch_steps, tell=tell)

        def probes() -> dict:
            learned = learn_at(start(), self._aioli)
            return {"matrix": learned.matrix.tolist(), "steps": learned.steps}

        def observed() -> dict:
            seen = observe_at(start(), self._reference, config.observed_batches)
            return {name: values.tolist() for name, values in seen._asdict().items()}

        p, graph = cover(config, m), np.array(self.graph())
        runs = self._runs(f"{here}/branches", p, branches)
        probed = self._kept(f"{here}/probes", probes)["matrix"]
        seen = self._kept(f"{here}/observed", observed)
        return {"step": step, **at_checkpoint(config, runs, p, graph, np.array(probed), seen)}

    @property
    def _model(self) -> LanguageModelConfig:
        """Of the path and of the full runs; one config, so that they share their programs."""
        config = self.config.language_model()
        every = config.loop.steps // (self.config.breaks + 1)
        # Checkpoints that an interrupt adds must not push out those of the breaks.
        loop = replace(config.loop, checkpoint_every=every, keep=max(2, config.loop.steps))
        return with_vocabulary(replace(config, loop=loop), self.groups)

    @cached_property
    def _aioli(self) -> Mixer:
        """Made once: a mixer's functions are compiled once however often it is used."""
        return aioli(probe_settings(self.config, len(self.groups.names)))

    @cached_property
    def _reference(self) -> PyTree:
        """Parameters at the end of the path, DoReMi's reference."""
        return restore_start(self.out.path / "path", self.config.loop.steps).train.params

    def _sweep(self, p: np.ndarray, tell: Callable) -> Branches:
        return sweep(self._model, self.groups, p, tell=tell)

    def _runs(
        self, name: str, p: Float[np.ndarray, "n m"], train: Callable
    ) -> dict[str, Float[np.ndarray, "n m"]]:
        """Losses before and after runs on mixtures `p`; what one program trains is kept at once."""
        parts = []
        programs = -(-len(p) // fitting_runs(self._model, p.shape[1]))
        for runs in np.array_split(np.arange(len(p)), programs):
            unit = f"{name}/runs-{runs[0]}-{runs[-1]}"
            make = partial(self._finite, name, p[runs], train)
            parts.append(self._kept(unit, make))
        joined = {key: [part[key] for part in parts] for key in ("before", "after")}
        return {key: np.concatenate(losses) for key, losses in joined.items()}

    def _finite(self, name: str, p: np.ndarray, train: Callable) -> dict:
        trained = train(p, lambda line: self.out.say(f"{self.out.title} {name}: {line}"))
        ends = np.isfinite(trained.losses).all((0, 2))
        fine = ends & ((trained.skipped == 0) | (self.config.loop.nonfinite == "skip"))
        if not fine.all():
            bad = int(np.argmin(fine))
            raise NonFiniteLoss(
                f"{name}: the run on mixture {np.round(p[bad], 3).tolist()} left out"
                f" {trained.skipped[bad]} steps that were not finite, and ended at losses"
                f" {trained.after[bad].round(3).tolist()}"
            )
        return {"before": trained.before.tolist(), "after": trained.after.tolist()}

    def _kept(self, name: str, make: Callable[[], dict]) -> dict:
        """The unit's result, made if it is not there yet."""
        part = self.out.child(name)
        result = part.result()
        if result is None:
            with stop_on_signal() as stop:
                if stop():
                    raise Interrupted(f"stopped before {name}")
            self.out.say(f"{self.out.title} {name}")
            result = make()
            part.write_result(result)
        return result
