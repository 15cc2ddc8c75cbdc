"""Every mixing method as a run of its own, and the proxy runs that it learns from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jlab.data import Groups
from jlab.mixing import (
    Mixer,
    aioli,
    dml,
    doge,
    doremi,
    grid_search,
    handover,
    learn_graph,
    odm,
    regmix,
    simplex_cover,
    skillit,
    skillit_static,
    static,
    stratified,
)
from jlab.mixing.cover import dirichlet_samples
from jlab.training.language_model import (
    initial_model,
    restore_language_model,
    train_language_model,
)
from jlab.training.report import test_summary
from jlab.training.run import Run


@dataclass(frozen=True)
class Study:
    """One seed of the comparison: trains each part once, and keeps what came of it."""

    config: Any  # of the recipe
    groups: Groups
    out: Run
    resume_command: str

    def train(self, name: str, mixer: Mixer, steps: int, reference: str | None = None) -> dict:
        """Train one model to its end, or take the result that is there already.

        Args:
          name: of the part, also its folder.
          mixer: its mixing method.
          steps: its length.
          reference: name of the part whose model it is compared with.
        """
        part = self.out.child(name)
        if part.result() is None:
            config = self.config.language_model()
            config = replace(config, loop=replace(config.loop, steps=steps))
            params = None
            if reference is not None:
                params = restore_language_model(self.out.path / reference).params
            model = train_language_model(
                config, mixer, part, self.groups, self.resume_command, params
            )
            validation = model.evaluate("validation", config.eval_windows)
            part.write_result(
                {
                    **test_summary(model, config.test_windows),
                    "validation_loss": validation.loss.tolist(),
                    "mixture": model.mixture.tolist(),
                    "steps": steps,
                }
            )
        return part.result()

    @cached_property
    def sweep(self) -> tuple[np.ndarray, np.ndarray]:
        """Proportions and validation losses of runs on a cover of the simplex."""
        n, m = self.config.sweep_runs, len(self.groups.names)
        # The same mixtures for every seed: seeds then differ by training alone.
        p = simplex_cover(dirichlet_samples(0, m, n, self.config.sweep_alpha), n)
        steps = proxy_steps(self.config, n)
        results = [self.train(f"sweep-{k}", static(_exact(p[k])), steps) for k in range(n)]
        return p, np.array([result["validation_loss"] for result in results])

    @cached_property
    def graph(self) -> np.ndarray:
        """Skill-It's graph of one run per group, trained on that group alone."""
        names = self.groups.names
        steps = proxy_steps(self.config, len(names))
        results = [
            self.train(f"only-{name}", static(one_hot), steps)
            for name, one_hot in zip(names, np.eye(len(names)), strict=True)
        ]
        config = self.config.language_model()
        start = initial_model(config, self.groups).evaluate("validation", config.eval_windows)
        return learn_graph(start.loss, np.array([r["validation_loss"] for r in results]))

    @cached_property
    def doremi(self) -> np.ndarray:
        """Mean weights of a DoReMi proxy; its reference is a stratified run of equal length."""
        steps = proxy_steps(self.config, 2)
        reference = "stratified" if steps == self.config.loop.steps else "doremi-reference"
        self.train(reference, stratified(), steps)
        mixer = doremi(self.config.doremi_rate)
        return np.array(self.train("doremi-proxy", mixer, steps, reference)["mixture"])

    @cached_property
    def doge(self) -> np.ndarray:
        """Mean weights of a DoGE proxy."""
        mixer = doge(self.config.doge_temperature)
        result = self.train("doge-proxy", mixer, proxy_steps(self.config, 1))
        return np.array(result["mixture"])


@dataclass(frozen=True)
class Method:
    """A row of the comparison."""

    title: str
    mixer: Callable[[Study], Mixer]  # trains the proxies that it needs
    proxies: str | None = None  # kind of its extra runs, which methods of one kind share


# How many runs a method of each kind trains besides its final one.
EXTRA_RUNS: dict[str | None, Callable[[Any, int], int]] = {
    None: lambda config, m: 0,
    "sweep": lambda config, m: config.sweep_runs,
    "one-hot": lambda config, m: m,
    "reference and proxy": lambda config, m: 2,
    "proxy": lambda config, m: 1,
}


def _regmix(study: Study) -> Mixer:
    return regmix(*study.sweep, regressor=study.config.regmix_regressor)


def _skillit(study: Study) -> Mixer:
    config = study.config
    return skillit(
        study.graph,
        learning_rate=config.skillit_rate,
        update_steps=max(1, config.loop.steps // config.skillit_rounds),
    )


def _skillit_static(study: Study) -> Mixer:
    return skillit_static(study.graph, learning_rate=study.config.skillit_static_rate)


METHODS = {
    "stratified": Method("Stratified", lambda study: stratified()),
    "grid_search": Method("Grid search", lambda study: grid_search(*study.sweep), "sweep"),
    "dml": Method("DML", lambda study: dml(*study.sweep), "sweep"),
    "regmix": Method("RegMix", _regmix, "sweep"),
    "skillit": Method("Skill-It", _skillit, "one-hot"),
    "skillit_static": Method("Skill-It, static", _skillit_static, "one-hot"),
    "doremi": Method("DoReMi", lambda study: static(_exact(study.doremi)), "reference and proxy"),
    "doge": Method("DoGE", lambda study: static(_exact(study.doge)), "proxy"),
    "odm": Method("ODM", lambda study: odm(update_steps=study.config.odm_steps)),
    "aioli": Method("Aioli", lambda study: aioli(study.config.aioli)),
}


def then_aioli(study: Study, name: str) -> Mixer:
    """The restricted setting: the method's mixture first, then Aioli."""
    config = study.config
    first = METHODS[name].mixer(study)
    return handover(first, config.aioli_from, aioli(config.aioli))


def proxy_steps(config: Any, runs: int) -> int:
    """Steps of each of a method's extra runs, which share the budget."""
    steps = config.loop.steps
    return max(1, min(steps, int(config.budget * steps / runs)))


def extra_runs(config: Any, name: str, m: int) -> int:
    """Runs that a method trains besides its final one."""
    return EXTRA_RUNS[METHODS[name].proxies](config, m)


def extra_steps(config: Any, name: str, m: int) -> int:
    """Steps of all of them."""
    runs = extra_runs(config, name, m)
    return runs * proxy_steps(config, runs) if runs else 0


def _exact(p: np.ndarray) -> np.ndarray:
    """Proportions whose sum is 1 to the last bits."""
    return p / p.sum()
