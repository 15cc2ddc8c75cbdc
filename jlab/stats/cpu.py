"""Keep XLA on CPUs from handing products and sums to YNNPACK, unless the user has chosen.

With it jaxlib 0.10.2 to 0.11.2 compile some programs so that they read memory before it is
written: of `exp(x) @ v + q @ zeros` most came out as garbage (tests/test_cpu_products.py). Training
steps take 0 to 10 % longer without. XLA reads the flags when jax first computes something. What is
built on `pallas_kernels` has the same from there.
"""

import os

import jax

_FLAGS = os.environ.get("XLA_FLAGS", "")
# XLA ends the process over a flag that it does not know.
if jax.__version_info__ >= (0, 10, 1) and "ynn_fusion" not in _FLAGS:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_experimental_ynn_fusion_type=".strip()
