"""The record of the machine: peak speeds, versions, compile seconds."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jlab.training import devices
from jlab.training.devices import CompileMeter, environment, peak_flops


def test_a_cpu_has_no_known_peak():
    assert peak_flops() is None


def test_the_peak_is_that_of_all_devices_together(monkeypatch):
    kind = SimpleNamespace(device_kind="NVIDIA H200")
    monkeypatch.setattr(jax, "devices", lambda: [kind] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert peak_flops() == 4 * 989e12


def test_the_environment_is_json_and_names_versions_and_cores():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["jax"] == jax.__version__
    assert found["cores"] >= 1
    assert (found["devices"], found["processes"]) == (jax.device_count(), 1)
    assert all("/" not in found["command"][0] for _ in found["command"][:1])  # no path of a user


def test_the_commit_is_left_out_where_there_is_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


def test_compile_seconds_are_counted_from_the_start_of_the_meter():
    meter = CompileMeter()
    assert meter.totals() == {"compile_seconds": 0.0, "cache_hits": 0, "cache_misses": 0}
    jax.jit(lambda x: x * 3 + 1)(jnp.float32(2)).block_until_ready()
    assert meter.seconds > 0


@pytest.mark.parametrize(("event", "counted"), [("cache_hits", "hits"), ("cache_misses", "misses")])
def test_hits_and_misses_of_the_cache_are_told_apart(event, counted):
    meter = CompileMeter()
    jax.monitoring.record_event(f"/jax/compilation_cache/{event}")
    assert meter.totals()[event] == getattr(meter, counted) == 1
    assert sum((meter.hits, meter.misses)) == 1


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert devices.cache_folder() == tmp_path / "jlab"
