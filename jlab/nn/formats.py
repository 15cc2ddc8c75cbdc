"""Number formats: what values a quantised number can take, and how many of them share a scale.

`IntFormat(bits)` are evenly spaced values, `FloatFormat(exponent, mantissa)` those of a small
floating-point type, `BlockFormat(element)` either of the two with one scale per few numbers.
`parse_format("int4")` and `str(format)` go between formats and their names, as configs hold them.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

import ml_dtypes
import numpy as np

IntGrid = Literal["absmax_sym", "full_sym", "gptq_sym", "asym", "awq_asym"]
FloatCodes = Literal["all", "fn", "ieee"]

MAX_BITS = 16  # of an integer format; its codes are exact in float32


@dataclass(frozen=True)
class IntFormat:
    """Integers of a few bits; `grid` says how a range of numbers is laid on them.

    With m = max|x|, l = min x, h = max x:

    - `absmax_sym`: m becomes 2^(bits-1) - 1, and -2^(bits-1) is never used. The paper's grid.
    - `full_sym`: m becomes 2^(bits-1) - 1/2, so that all codes are used and the greatest number is
      cut by half a step. The grid of qwix and of torchao's symmetric mapping.
    - `gptq_sym`: the same step, in unsigned codes about 2^(bits-1); but numbers none of which is
      negative get a step of h / (2^bits - 1), and those above half of h are cut. GPTQ's grid.
    - `asym`: [min(l, 0), max(h, 0)] becomes all codes, with a whole zero point. GPTQ's grid.
    - `awq_asym`: the step is that of [l, h] for all codes, but 0 stays among them: of numbers that
      are all on one side of 0 and far from it the farthest are cut. AWQ's grid.

    Sources: Kumar et al. 2024, arXiv 2411.04330, Appendix D.1; the released code of GPTQ and AWQ.
    """

    bits: int
    grid: IntGrid = "absmax_sym"

    def __post_init__(self):
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        # One bit leaves no number besides 0 to a grid about 0.
        if not whole or not 2 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be a whole number in 2..{MAX_BITS}; got {self.bits!r}")
        if self.grid not in get_args(IntGrid):
            raise ValueError(f"grid must be one of {', '.join(get_args(IntGrid))}; got {self.grid}")

    @property
    def lowest(self) -> int:
        """Least code."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Greatest code."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def signed(self) -> bool:
        """Whether codes are signed, with 0 for 0; otherwise they begin at 0."""
        return self.grid in ("absmax_sym", "full_sym")

    def __str__(self) -> str:
        return f"int{self.bits}" + ("" if self.grid == "absmax_sym" else f":{self.grid}")


# What hardware and its libraries mean by a name without a suffix.
_USUAL_CODES = {(4, 3): "fn", (5, 2): "ieee", (3, 4): "ieee"}
_ML_DTYPES = {
    (2, 1, "all"): "float4_e2m1fn",
    (2, 3, "all"): "float6_e2m3fn",
    (3, 2, "all"): "float6_e3m2fn",
    (4, 3, "fn"): "float8_e4m3fn",
    (4, 3, "ieee"): "float8_e4m3",
    (3, 4, "ieee"): "float8_e3m4",
    (5, 2, "ieee"): "float8_e5m2",
    (8, 7, "ieee"): "bfloat16",
}


@dataclass(frozen=True)
class FloatFormat:
    """Floating point of 1 sign, `exponent` and `mantissa` bits: eXmY, with subnormal numbers.

    The exponent's bias is 2^(exponent-1) - 1. `codes` says which codes are numbers: `all` of them,
    all but the greatest (`fn`), or all but those with the greatest exponent (`ieee`). By default
    e4m3 is `fn` (greatest number 448), e5m2 and e3m4 are `ieee`, any other `all`.

    Source: Kumar et al. 2024, arXiv 2411.04330, Appendix D.2; Micikevicius et al. 2022,
    arXiv 2209.05433; OCP Microscaling Formats 1.0.
    """

    exponent: int
    mantissa: int
    codes: FloatCodes | None = None

    def __post_init__(self):
        for name, low, high in (("exponent", 1, 8), ("mantissa", 0, 10)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number in {low}..{high}; got {value!r}")
        if self.exponent + self.mantissa < 2:
            raise ValueError("exponent + mantissa must be at least 2; got e1m0")
        if self.codes is None:
            usual = _USUAL_CODES.get((self.exponent, self.mantissa), "all")
            object.__setattr__(self, "codes", usual)
        if self.codes not in get_args(FloatCodes):
            allowed = ", ".join(get_args(FloatCodes))
            raise ValueError(f"codes must be one of {allowed}; got {self.codes!r}")
        if self.exponent == 1 and self.codes == "ieee":
            raise ValueError("codes must be all or fn where exponent is 1; got ieee")
        if self.mantissa == 0 and self.codes == "fn":
            raise ValueError("codes must be all or ieee where mantissa is 0; got fn")

    @property
    def bits(self) -> int:
        """Bits of a number, its sign included."""
        return 1 + self.exponent + self.mantissa

    @property
    def least_exponent(self) -> int:
        """Exponent of the least normal number, which the subnormal ones share: 1 - bias."""
        return 2 - 2 ** (self.exponent - 1)

    @property
    def max(self) -> float:
        """The greatest number."""
        e = 2**self.exponent - (2 if self.codes == "ieee" else 1)
        m = 2**self.mantissa - (2 if self.codes == "fn" else 1)
        top = 2.0 ** (max(e, 1) - 1 + self.least_exponent)
        return (e > 0) * top + m * 2.0**-self.mantissa * top

    @property
    def dtype(self) -> np.dtype | None:
        """The type of `ml_dtypes` with these numbers; None if it has none."""
        name = _ML_DTYPES.get((self.exponent, self.mantissa, self.codes))
        return None if name is None else np.dtype(getattr(ml_dtypes, name))

    def __str__(self) -> str:
        usual = self.codes == _USUAL_CODES.get((self.exponent, self.mantissa), "all")
        return f"e{self.exponent}m{self.mantissa}" + ("" if usual else f":{self.codes}")


@dataclass(frozen=True)
class BlockFormat:
    """Numbers of `element` in blocks of `size` neighbours that share a scale.

    `scale=None`: powers of two, the scales of the OCP formats MXFP8, MXFP6, MXFP4 and MXINT8. A
    float format: scales of that format, themselves scaled by one float32 number for the whole
    tensor, as in NVFP4 (e2m1 in blocks of 16 with scales e4m3).

    Source: OCP Microscaling Formats (MX) Specification 1.0, Sections 5 and 6.3.
    """

    element: IntFormat | FloatFormat
    size: int = 32
    scale: FloatFormat | None = None

    def __post_init__(self):
        if isinstance(self.element, IntFormat) and self.element.grid != "absmax_sym":
            raise ValueError(f"element must have the grid absmax_sym; got {self.element.grid}")
        if not self.size >= 1:
            raise ValueError(f"size must be at least 1; got {self.size}")

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return self.element.bits

    def __str__(self) -> str:
        return next((name for name, known in NAMED.items() if known == self), repr(self))


Format = IntFormat | FloatFormat | BlockFormat

NAMED: dict[str, Format] = {
    "fp4": FloatFormat(2, 1),
    "fp6": FloatFormat(3, 2),
    "fp8": FloatFormat(4, 3),
    "mxfp4": BlockFormat(FloatFormat(2, 1)),
    "mxfp6": BlockFormat(FloatFormat(3, 2)),
    "mxfp8": BlockFormat(FloatFormat(4, 3)),
    "mxint8": BlockFormat(IntFormat(8)),
    "nvfp4": BlockFormat(FloatFormat(2, 1), size=16, scale=FloatFormat(4, 3)),
}


def parse_format(name: str) -> Format:
    """The format of a name: `int4`, `int4:asym`, `e2m1`, `e4m3:ieee`, `fp8`, `mxfp4`, `nvfp4`.

    Raises:
      ValueError: no such format.

    Example:
      >>> parse_format("e4m3").max, str(parse_format("int3:asym"))
      (448.0, 'int3:asym')
    """
    if name in NAMED:
        return NAMED[name]
    if found := re.fullmatch(r"int(\d+)(?::(\w+))?", name):
        return IntFormat(int(found[1]), *found.groups()[1:] if found[2] else ())
    if found := re.fullmatch(r"e(\d+)m(\d+)(?::(\w+))?", name):
        return FloatFormat(int(found[1]), int(found[2]), found[3])
    known = ", ".join(NAMED)
    raise ValueError(
        f"format must be intB with B in 2..{MAX_BITS} (int4, int4:asym), eXmY (e2m1), or one of"
        f" {known}; got {name!r}"
    )
