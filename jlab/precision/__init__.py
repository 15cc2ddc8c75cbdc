"""Post-training quantisation: number formats, and weights rounded to them after training.

`rtn`, `gptq` and `awq` take a kernel `[inputs, outputs]`, rows of the inputs that it will see, a
format and a group size; they give the kernel as it becomes, its codes, and what they found out.
`quantize_model` does so with all linear maps of a transformer.

>>> import jax, jax.numpy as jnp
>>> from jlab.nn.formats import IntFormat
>>> kernel = jax.random.normal(jax.random.key(0), (32, 8))
>>> mix = jax.random.normal(jax.random.key(1), (32, 32))
>>> x = jax.random.normal(jax.random.key(2), (99, 32)) @ mix
>>> errors = []
>>> for method in (rtn, gptq):
...     rounded, q, _ = method(kernel, x, IntFormat(3), group_size=16)
...     errors.append(float(jnp.square(x @ (rounded - kernel)).mean()))
>>> q.codes.dtype.name, q.step.shape, errors[1] < errors[0]
('int8', (2, 8), True)
"""

from jlab.nn.quantized import Quantized, cast_steps, dequantize
from jlab.precision.awq import awq
from jlab.precision.calibration import Moments, add_rows, moments_init, output_errors
from jlab.precision.gptq import gptq
from jlab.precision.model import QuantizedModel, quantize_model
from jlab.precision.report import MapReport
from jlab.precision.rtn import rtn
from jlab.precision.size import Size, model_size

__all__ = [
    "MapReport",
    "Moments",
    "Quantized",
    "QuantizedModel",
    "Size",
    "add_rows",
    "awq",
    "cast_steps",
    "dequantize",
    "gptq",
    "model_size",
    "moments_init",
    "output_errors",
    "quantize_model",
    "rtn",
]
