"""What the compiler says of a kernel: its assembler's account, and what its assembly contains.

Two texts per kernel are read: the PTX that was assembled, and the lines of `ptxas -v`. Spills are
taken from the line of the function's properties; the warning that announces them is a repetition.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

_PROPERTIES = re.compile(r"Function properties for (\S+)\n\s*(\d+) bytes stack frame")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads\n")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SERIALIZED = re.compile(
    r"wgmma\.mma_async instructions are serialized due to (.+?) in (?:the )?function '"
)
_SHARED = re.compile(r"dynamic_shared_memory_size %c(\d+)")


class Kernel(NamedTuple):
    """One GPU kernel. None stands for what the compiler does not tell of this kind of kernel."""

    name: str
    registers: int | None
    """Per thread at the launch; with register reallocation an average."""
    reallocated: tuple[int, ...]
    """Register counts that groups of threads change to, ascending: producers, then consumers."""
    spill_stores: int | None
    """Bytes per thread written to memory for want of registers."""
    spill_loads: int | None
    shared_bytes: int
    """Dynamic shared memory of one block."""
    wgmma: int | None
    """Tensor-core instructions of a warpgroup in the code, not executions."""
    tma: int | None
    """Bulk tensor copies in the code, either way."""
    serialized: str | None
    """Why the assembler made tensor-core instructions wait for one another, if it did."""

    @property
    def spills(self) -> bool:
        """Whether it keeps something in memory for want of registers."""
        return bool(self.spill_stores or self.spill_loads)


class Report(NamedTuple):
    """What became of one case with one implementation."""

    name: str
    seconds: float
    kernels: tuple[Kernel, ...] = ()
    error: str | None = None
    """Why it does not compile, in one line."""

    @property
    def passed(self) -> bool:
        """Compiled, and no kernel spills."""
        return self.error is None and not any(k.spills for k in self.kernels)

    def line(self) -> str:
        """One line of JSON, the inverse of `read_line`."""
        return json.dumps(self._asdict() | {"kernels": [k._asdict() for k in self.kernels]})


def read_line(line: str) -> Report:
    """The report that `Report.line` wrote."""
    fields = json.loads(line)
    kernels = (Kernel(**k) for k in fields.pop("kernels"))
    pairs = (k._replace(reallocated=tuple(k.reallocated)) for k in kernels)
    return Report(**fields, kernels=tuple(pairs))


def read_dumps(folder: Path) -> tuple[Kernel, ...]:
    """The Mosaic kernels that were compiled while MOSAIC_GPU_DUMP_TO named this folder."""
    found = sorted(folder.glob("*.ptxas"), key=lambda path: path.stat().st_mtime_ns)
    return tuple(
        read_kernel(
            ptxas=path.read_text(),
            ptx=path.with_suffix(".ptx").read_text(),
            shared_bytes=_shared(path.with_suffix(".mlir-passes.log")),
        )
        for path in found
    )


def read_kernel(ptxas: str, ptx: str, shared_bytes: int) -> Kernel:
    """One kernel from its assembler's account and its assembly.

    Raises:
      ValueError: where the account names no function, or more than one.
    """
    functions = _PROPERTIES.findall(ptxas)
    if len(functions) != 1:
        names = [name for name, _ in functions]
        raise ValueError(f"the account of ptxas must be of one kernel; it is of {names}")
    stores, loads = _SPILLS.search(ptxas[ptxas.index("Function properties") :]).groups()
    serialized = _SERIALIZED.search(ptxas)
    return Kernel(
        name=functions[0][0].removesuffix("_mosaic_gpu_kernel"),
        registers=int(_REGISTERS.search(ptxas).group(1)),
        reallocated=tuple(sorted({int(n) for n in re.findall(r"setmaxnreg\S+\s+(\d+)", ptx)})),
        spill_stores=int(stores),
        spill_loads=int(loads),
        shared_bytes=shared_bytes,
        wgmma=ptx.count("wgmma.mma_async"),
        tma=ptx.count("cp.async.bulk.tensor"),
        serialized=serialized and serialized.group(1),
    )


def _shared(log: Path) -> int:
    """Dynamic shared memory of the launch, from the first pass that wrote it as a number."""
    with log.open() as lines:
        sizes = (_SHARED.search(line) for line in lines if "dynamic_shared_memory_size" in line)
        return int(next(size for size in sizes if size).group(1))
