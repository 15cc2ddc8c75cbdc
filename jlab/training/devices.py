"""What the job runs on: compilation cache, compile time, peak speeds, and a record of versions."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax

# Dense bfloat16 peak of one device in FLOP/s, from the makers' data sheets, by `device_kind`.
PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "TPU v6 lite": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v4": 275e12,
}
_RECORDED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


def peak_flops() -> float | None:
    """Peak FLOP/s of all devices of the job together; None where the kind is not known."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return peak and peak * jax.device_count()


def cache_folder() -> Path:
    """The user's cache folder of jlab: tokenised data and compiled programs."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("jlab"))


def use_compilation_cache() -> None:
    """Keep compiled programs on disk, so that the second start of a run compiles nothing."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class CompileMeter:
    """Counts compile seconds, and hits and misses of the compilation cache, from now on."""

    def __init__(self):
        self.seconds, self.hits, self.misses = 0.0, 0, 0
        jax.monitoring.register_event_listener(self._event)
        jax.monitoring.register_event_duration_secs_listener(self._duration)

    def _event(self, name: str, **_):
        self.hits += name == "/jax/compilation_cache/cache_hits"
        self.misses += name == "/jax/compilation_cache/cache_misses"

    def _duration(self, name: str, seconds: float, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            self.seconds += seconds

    def totals(self) -> dict[str, float]:
        """`compile_seconds`, `cache_hits` and `cache_misses` so far."""
        return {
            "compile_seconds": self.seconds,
            "cache_hits": self.hits,
            "cache_misses": self.misses,
        }


def environment() -> dict:
    """What a rerun must share to be bit-equal: versions, devices, visible cores; and the commit."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "versions": {name: metadata.version(name) for name in _RECORDED},
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _commit() -> str | None:
    """Git commit of the checkout around this file, `+dirty` with local changes; None outside."""

    def git(*args):
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
