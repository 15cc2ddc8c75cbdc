"""Repeated sampling: how many problems are solved when each may be tried k times.

A model that solves a problem with probability p per try solves it with 1 - (1 - p)^k in k tries.
Over tasks of mixed difficulty the share of problems solved at least once, the coverage, grows over
four orders of magnitude of k, close to exp(a k^b). Whether that is worth anything without a checker
is up to the selector: the majority of the samples is often wrong where a few of them are right.

    >>> import numpy as np
    >>> random = np.random.default_rng(0)
    >>> n, c = 10_000, random.binomial(10_000, random.beta(0.2, 2.0, 128))  # correct of n samples
    >>> ks = k_grid(n)
    >>> coverage = coverage_curve(n, c, ks)
    >>> law = fit_coverage_law(ks, coverage)
    >>> round(float(coverage[0]), 2), round(float(coverage[-1]), 2), round(float(law.b), 2)
    (0.1, 0.88, -0.34)
    >>> samples = [["3", "4", "4"], ["1", "1", "8"]]
    >>> answers = np.stack([answer_classes(answer) for answer in samples])
    >>> majority_vote(answers)  # classes are numbered as they appear
    Array([1, 0], dtype=int32)

Source: Brown et al., "Large Language Monkeys: Scaling Inference Compute with Repeated Sampling",
arXiv 2407.21787. Which grader gave the c belongs in every report: see `jlab.sampling.graders`.
"""

from jlab.nn.generate import Sample, generate, stream
from jlab.nn.next_token import SamplingConfig
from jlab.sampling.classes import answer_classes
from jlab.sampling.cost import (
    Contender,
    Cost,
    Matched,
    ModelSize,
    api_price,
    inference_cost,
    inference_flops,
    match_budgets,
    model_size,
)
from jlab.sampling.coverage import (
    coverage_curve,
    coverage_interval,
    k_grid,
    pass_at_k,
    problem_curves,
)
from jlab.sampling.exact import answer_probability, exact_curves
from jlab.sampling.execution import Executed, grade_programs
from jlab.sampling.forecast import BetaLaw, fit_beta
from jlab.sampling.graders import Equivalence, Graded, Grader, code, grade, gsm8k, lean, math
from jlab.sampling.grading import grade_samples
from jlab.sampling.job import Problem, draw_samples, samples_of
from jlab.sampling.law import (
    CoverageLaw,
    LawError,
    bootstrap_coverage_law,
    fit_coverage_law,
    law_error,
)
from jlab.sampling.overlay import Overlay, family_overlay
from jlab.sampling.select import best_of_n, majority_vote, oracle, weighted_vote
from jlab.sampling.select_curves import (
    SelectionCurve,
    best_of_n_curve,
    best_of_n_mean,
    majority_curve,
    majority_limit,
    random_orders,
    weighted_curve,
)
from jlab.sampling.study import CoverageStudy, study_coverage, verdict
from jlab.sampling.subset import Subset, gsm8k_subset

__all__ = [
    "BetaLaw",
    "Contender",
    "Cost",
    "CoverageLaw",
    "CoverageStudy",
    "Equivalence",
    "Executed",
    "Graded",
    "Grader",
    "LawError",
    "Matched",
    "ModelSize",
    "Overlay",
    "Problem",
    "Sample",
    "SamplingConfig",
    "SelectionCurve",
    "Subset",
    "answer_classes",
    "answer_probability",
    "api_price",
    "best_of_n",
    "best_of_n_curve",
    "best_of_n_mean",
    "bootstrap_coverage_law",
    "code",
    "coverage_curve",
    "coverage_interval",
    "draw_samples",
    "exact_curves",
    "family_overlay",
    "fit_beta",
    "fit_coverage_law",
    "generate",
    "grade",
    "grade_programs",
    "grade_samples",
    "gsm8k",
    "gsm8k_subset",
    "inference_cost",
    "inference_flops",
    "k_grid",
    "law_error",
    "lean",
    "majority_curve",
    "majority_limit",
    "majority_vote",
    "match_budgets",
    "math",
    "model_size",
    "oracle",
    "pass_at_k",
    "problem_curves",
    "random_orders",
    "samples_of",
    "stream",
    "study_coverage",
    "verdict",
    "weighted_curve",
    "weighted_vote",
]
