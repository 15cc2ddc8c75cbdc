"""Models and text of `python -m evals linearized`, read: one linearized model at a time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import PyTree

from evals.linearized_plan import Entry, Plan
from jlab.data import Groups, load_groups, load_instructions, with_repeats
from jlab.linearize import linearize
from jlab.nn import TransformerConfig
from jlab.training.config import to_dict
from jlab.training.mesh import shard_params
from jlab.training.pretrained import Model, load_model
from jlab.training.run import tell_stages

if TYPE_CHECKING:
    from jax.sharding import Mesh


class Inputs(NamedTuple):
    """What all models are compared with, and on."""

    base: Model
    groups: Groups


class Subject(NamedTuple):
    """A model in memory."""

    entry: Entry
    config: TransformerConfig
    variables: dict[str, PyTree]
    mesh: "Mesh"  # that the parameters lie on
    identity: dict[str, Any]  # JSON: all that decides its losses on given windows
    decodes: bool  # whether its decoding is to be timed


def read_inputs(plan: Plan, dtype: str) -> Inputs:
    """The base, and the text as its tokenizer reads it."""
    tell = tell_stages()
    tell(f"reading {plan.base}", 0)
    base = load_model(plan.base, plan.revision, dtype)
    if plan.instructions.path:
        length = plan.data.length
        groups = load_instructions(plan.instructions, base.tokenizer, length, tell)
    else:
        groups = load_groups(plan.data, tell, base.tokenizer)
    for remark in groups.remarks():
        tell(remark, 0)
    return Inputs(base, with_repeats(groups) if plan.repeats else groups)


def subjects(plan: Plan, base: Model, dtype: str) -> Iterator[Subject]:
    """The base, then each linearized model: beside the base only one is in memory.

    Decoding is timed of the base and of the last stage of every kind, the control aside.
    """
    last = {entry.kind: entry for entry in plan.entries if entry.stage != "alone"}
    yield Subject(Entry("base", "base", "", ""), *base[:3], base.identity, decodes=True)
    for entry in plan.entries:
        decodes = last[entry.kind] == entry
        if entry.source:
            model = load_model(entry.source, None, dtype)
            yield Subject(entry, *model[:3], model.identity, decodes)
        else:
            yield _swapped(plan, entry, base, decodes)


def _swapped(plan: Plan, entry: Entry, base: Model, decodes: bool) -> Subject:
    """The base with its attention swapped, as the run began with it."""
    params = base.variables["params"]
    config, params = linearize(base.config, params, entry.kind, **plan.swap.settings())
    swap = to_dict(replace(plan.swap, attention=(entry.kind,)))
    variables = {"params": shard_params(params, base.mesh)}
    return Subject(entry, config, variables, base.mesh, base.identity | {"swap": swap}, decodes)
