"""Image metrics: values by hand, the definitions spelled out, and laws of distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.vq.image_metrics import (
    frechet_distance,
    inception_score,
    init_moments,
    mse,
    psnr,
    ssim,
    update_moments,
)


def images(seed: int, shape=(2, 13, 12, 3)) -> np.ndarray:
    return np.tanh(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def gaussian(seed: int, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A mean and a covariance."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    return rng.normal(size=d), root @ root.T


def test_mse_and_psnr_by_hand():
    """Errors 1 and 0.1 everywhere: mse 1 and 0.01, ratios 4 and 400."""
    zeros = jnp.zeros((2, 4, 4, 1))
    off = zeros.at[0].set(1.0).at[1].set(0.1)
    np.testing.assert_allclose(mse(zeros, off), 0.505, rtol=1e-6)
    # The mean of the images' decibels, not the decibels of the mean.
    want = (10 * np.log10(4) + 10 * np.log10(400)) / 2
    np.testing.assert_allclose(psnr(zeros, off), want, rtol=1e-6)
    assert psnr(off, off) == jnp.inf


def test_ssim_of_constant_images_by_hand():
    """No variance: (2 a b + c1) / (a^2 + b^2 + c1) with c1 = 0.02^2, at any size."""
    a, b = 0.5, -0.25
    want = (2 * a * b + 4e-4) / (a**2 + b**2 + 4e-4)
    for size in (1, 2, 16):
        found = jax.jit(ssim)(jnp.full((1, size, size, 2), a), jnp.full((1, size, size, 2), b))
        np.testing.assert_allclose(found, want, rtol=1e-3)  # 1e-7 of noise over c2 = 3.6e-3


@pytest.mark.parametrize(("size", "window"), [((13, 12), 11), ((11, 30), 11), ((10, 8), 7)])
def test_ssim_is_what_the_paper_says(size, window):
    """Every window on its own, in float64; below 11 pixels the largest odd window that fits."""
    x, y = images(0, (1, *size, 2)), images(1, (1, *size, 2))
    line = np.exp(-((np.arange(window) - window // 2) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for channel in range(2):
        for i in range(size[0] - window + 1):
            for j in range(size[1] - window + 1):
                p, q = (
                    z[0, i : i + window, j : j + window, channel].astype(np.float64) for z in (x, y)
                )
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                c1, c2 = 0.02**2, 0.06**2
                above = (2 * mp * mq + c1) * (2 * cov + c2)
                found.append(above / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    np.testing.assert_allclose(jax.jit(ssim)(x, y), np.mean(found), rtol=1e-4)


def test_ssim_is_one_for_equal_images_symmetric_and_falls_with_noise():
    x, noise = images(2), images(3)
    np.testing.assert_allclose(ssim(x, x), 1, rtol=1e-6)
    np.testing.assert_allclose(ssim(x, noise), ssim(noise, x), rtol=1e-6)
    values = [float(ssim(x, x + level * noise)) for level in (0.05, 0.2, 0.8)]
    assert 1 > values[0] > values[1] > values[2]


def test_bfloat16_images_are_compared_in_float32():
    x, y = jnp.asarray(images(4), jnp.bfloat16), jnp.asarray(images(5), jnp.bfloat16)
    for metric in (mse, psnr, ssim):
        assert metric(x, y).dtype == jnp.float32
        wide = metric(x.astype(jnp.float32), y.astype(jnp.float32))
        np.testing.assert_array_equal(metric(x, y), wide)


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_images_of_two_shapes_are_refused(metric):
    message = r"images must be \[batch, .* as others, \(2, 8, 8, 1\); got \(2, 8, 8, 3\)"
    with pytest.raises(ValueError, match=message):
        metric(jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 1)))


def test_frechet_distance_by_hand():
    """Diagonal covariances: (m1 - m2)^2 + (s1 - s2)^2 per dimension: 9 + 4 + 0 + 1."""
    found = frechet_distance(
        np.array([0.0, 1.0]), np.diag([9.0, 4.0]), np.array([3.0, 1.0]), np.diag([1.0, 9.0])
    )
    assert found == pytest.approx(14)


@given(st.integers(0, 100))
def test_frechet_distance_is_symmetric_unmoved_by_rotation_and_zero_to_itself(seed):
    one, other = gaussian(seed), gaussian(seed + 1)
    distance = frechet_distance(*one, *other)
    assert distance > 0
    assert distance == pytest.approx(frechet_distance(*other, *one), rel=1e-6)
    assert abs(frechet_distance(*one, *one)) < 1e-6 * np.trace(one[1])
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
    turned = [(turn @ mean, turn @ cov @ turn.T) for mean, cov in (one, other)]
    assert distance == pytest.approx(frechet_distance(*turned[0], *turned[1]), rel=1e-6)


def test_frechet_distance_of_flat_gaussians_is_real():
    """Fewer examples than features: covariances of rank 3 in 16 dimensions."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 16)), rng.normal(size=(4, 16))
    args = (x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    found = frechet_distance(*args)
    assert np.isfinite(found)
    # tr (C1 C2)^(1/2) is the sum of singular values of what the centred examples share.
    shared = np.linalg.svd((x - x.mean(0)[None]) @ (y - y.mean(0)[None]).T, compute_uv=False)
    apart = ((args[0] - args[2]) ** 2).sum()
    want = apart + np.trace(args[1]) + np.trace(args[3]) - 2 * shared.sum() / 3
    assert found == pytest.approx(want, rel=1e-6)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(0, 100))
def test_moments_do_not_depend_on_how_the_stream_is_cut(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [1e3 + rng.normal(size=(n, 3)) for n in [*sizes, 2]]
    moments = init_moments(3)
    for part in parts:
        moments = update_moments(moments, part)
    everything = np.concatenate(parts)
    assert moments.count == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(everything.T), atol=1e-9)


def test_moments_leave_what_they_start_from_alone_and_refuse_what_does_not_fit():
    first = update_moments(init_moments(2), jnp.ones((1, 2)))
    update_moments(first, jnp.zeros((3, 2)))
    np.testing.assert_array_equal(first.mean, 1)
    with pytest.raises(ValueError, match="count must be at least 2 for a covariance; got 1"):
        _ = first.covariance
    with pytest.raises(ValueError, match=r"features must be \[batch, 2\]; got \(1, 3\)"):
        update_moments(first, jnp.ones((1, 3)))


def test_inception_score_of_the_extremes():
    """Equal classes for all: 1. Each of four classes for a quarter, surely: 4."""
    assert inception_score(np.full((10, 4), 0.25), splits=2) == pytest.approx((1, 0))
    sure = np.tile(np.eye(4), (6, 1))
    assert inception_score(sure, splits=3) == pytest.approx((4, 0))
    # One split knows classes 0 and 1, the other 2 and 3: 2 each, but 4 in one.
    split = np.eye(4)
    assert inception_score(split, splits=2) == pytest.approx((2, 0))
    assert inception_score(split, splits=1) == pytest.approx((4, 0))


def test_inception_score_by_hand():
    """Rows (1, 0) and (1/2, 1/2), marginal (3/4, 1/4)."""
    kl = [np.log(4 / 3), 0.5 * np.log(2 / 3) + 0.5 * np.log(2)]
    score, spread = inception_score(np.array([[1.0, 0.0], [0.5, 0.5]]), splits=1)
    assert score == pytest.approx(np.exp(np.mean(kl)))
    assert spread == 0
    with pytest.raises(
        ValueError, match=r"splits must be in \[1, 2\], the number of images; got 3"
    ):
        inception_score(np.ones((2, 1)), splits=3)
