"""Hybrid attention with a branch switched off is the other branch alone, by its definition."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.linearize import split_maps, without_linear, without_window
from jlab.nn import LayerConfig, LinearizedLayer if False else LayerConfig  # noqa
