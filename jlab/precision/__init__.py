"""Precision: what training and serving in few bits does to a language model's loss.

Trained in P bits a model acts as if it had fewer parameters, N_eff = N (1 - exp(-P/gamma + n)) per
part that is quantised; quantised after training it loses more the longer it was trained, so that
tokens can hurt. One law says how to divide a budget among parameters, tokens and bits:

    >>> law = ScalingLaw(PUBLISHED)
    >>> law.loss(220e6, 26e9).round(3), law.loss(220e6, 26e9, Pw=8, Pa=8, Pkv=8).round(3)
    (np.float64(3.197), np.float64(3.227))
    >>> f"{critical_tokens(220e6, 4):.2g} tokens, then quantising to 4 bits makes more of them hurt"
    '5.7e+10 tokens, then quantising to 4 bits makes more of them hurt'
    >>> N, D, P = compute_optimal(1e21)
    >>> f"{N:.2g} parameters, {D:.2g} tokens, {P:.1f} bits"
    '5.3e+09 parameters, 7.1e+10 tokens, 7.0 bits'

Number formats (`IntFormat(4)`, `FloatFormat(2, 1)`, `parse_format("mxfp4")`) round anything; in
`TransformerConfig.precision` they are what a model trains in, and `rtn`, `gptq` and `awq` round
kernels `[inputs, outputs]` afterwards, `quantize_model` all of a model's:

    >>> import jax, jax.numpy as jnp
    >>> kernel = jax.random.normal(jax.random.key(0), (32, 8))
    >>> x = jax.random.normal(jax.random.key(2), (99, 32)) @ jax.random.normal(
    ...     jax.random.key(1), (32, 32)
    ... )
    >>> errors = []
    >>> for method in (rtn, gptq):
    ...     rounded, q, _ = method(kernel, x, IntFormat(3), group_size=16)
    ...     errors.append(float(jnp.square(x @ (rounded - kernel)).mean()))
    >>> q.codes.dtype.name, q.step.shape, errors[1] < errors[0]
    ('int8', (2, 8), True)

Source: Kumar, Ankner et al., "Scaling Laws for Precision", ICLR 2025 (arXiv 2411.04330).
"""

from jlab.nn.config import PrecisionConfig
from jlab.nn.formats import BlockFormat, FloatFormat, IntFormat, parse_format
from jlab.nn.quant import fake_quant, round_to
from jlab.nn.quantized import Quantized, cast_steps, dequantize
from jlab.precision.awq import awq
from jlab.precision.calibration import Moments, add_rows, moments_init, output_errors
from jlab.precision.fit_degradation import fit_degradation
from jlab.precision.fit_law import Fitted, bootstrap_law, fit
from jlab.precision.float_law import float_type_loss
from jlab.precision.gptq import gptq
from jlab.precision.held_out import HeldOut, held_out
from jlab.precision.law import (
    chinchilla,
    critical_tokens,
    effective_parameters,
    empirical_effective_parameters,
    fraction,
    ptq_degradation,
    robustification,
)
from jlab.precision.law_forms import FORMS, Form, Inputs
from jlab.precision.model import QuantizedModel, quantize_model, rounded_already
from jlab.precision.optimum import (
    Allocation,
    compute_optimal,
    joint_fraction,
    optimal_precision,
    optimal_precision_fixed_params,
    optimal_size,
    tokens_of_loss,
)
from jlab.precision.plan import Planned, plan
from jlab.precision.published import FLOAT_TYPE, PUBLISHED, PUBLISHED_FLOAT
from jlab.precision.report import MapReport
from jlab.precision.rtn import rtn
from jlab.precision.scaling_law import ScalingLaw
from jlab.precision.size import Size, model_size
from jlab.precision.table import Table, read_table
from jlab.precision.write_table import write_table

__all__ = [
    "FLOAT_TYPE",
    "FORMS",
    "PUBLISHED",
    "PUBLISHED_FLOAT",
    "Allocation",
    "BlockFormat",
    "Fitted",
    "FloatFormat",
    "Form",
    "HeldOut",
    "Inputs",
    "IntFormat",
    "MapReport",
    "Moments",
    "Planned",
    "PrecisionConfig",
    "Quantized",
    "QuantizedModel",
    "ScalingLaw",
    "Size",
    "Table",
    "add_rows",
    "awq",
    "bootstrap_law",
    "cast_steps",
    "chinchilla",
    "compute_optimal",
    "critical_tokens",
    "dequantize",
    "effective_parameters",
    "empirical_effective_parameters",
    "fake_quant",
    "fit",
    "fit_degradation",
    "float_type_loss",
    "fraction",
    "gptq",
    "held_out",
    "joint_fraction",
    "model_size",
    "moments_init",
    "optimal_precision",
    "optimal_precision_fixed_params",
    "optimal_size",
    "output_errors",
    "parse_format",
    "plan",
    "ptq_degradation",
    "quantize_model",
    "read_table",
    "robustification",
    "round_to",
    "rounded_already",
    "rtn",
    "tokens_of_loss",
    "write_table",
]
