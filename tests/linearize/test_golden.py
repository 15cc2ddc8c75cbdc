"""Formulas of LoLCATs against the released code, case by case."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.linearize import (
    HybridState,
    LinearState,
    adapter_map,
    feature_map,
    hybrid_attention,
    identity_maps,
    linear_attention,
    pack_released,
    released_attention,
    released_masks,
)
from jlab.nn import LayerConfig, RopeConfig, cross_entropy
from jlab.nn.rope import rope_table, rotate
from jlab.nn.transfer import Linearized, output_error, weight_error, weights
from pallas_kernels import attention
from tests.linearize.reference import cases, close, get, has, precision, tokens_first

pytestmark = pytest.mark.golden

KINDS = {
    "softmax_full": "hedgehog",
    "softmax_half": "hedgehog_half",
    "exp_full": "exp",
    "exp_half": "exp_half",
    "pos_elu": "elu",
    "relu": "relu",
}
WINDOWS = {"tk": "terrace", "sw": "sliding"}
DTYPES = {"f32": np.float32, "f64": np.float64}


def arrays(bits, *names):
    return [jnp.asarray(tokens_first(x), DTYPES[bits]) for x in get(*names)]


def plain(bits, *names):
    return [jnp.asarray(x, DTYPES[bits]) for x in get(*names)]


@pytest.mark.parametrize(
    ("name", "bare", "bits"), cases("fm0_y_(" + "|".join(KINDS) + ")(|_nomlp)_(f32|f64)")
)
def test_feature_maps(name, bare, bits):
    with precision(bits):
        (x,), (w, y) = arrays(bits, "fm0_x"), get("fm0_W", f"fm0_y_{name}{bare}_{bits}")
        w = None if bare else jnp.asarray(w, DTYPES[bits])
        close(feature_map(x, w, KINDS[name]), tokens_first(y), bits)


@pytest.mark.parametrize("bits", cases("fm0_y_t2r_headbias_(f32|f64)"))
def test_the_map_of_t2r(bits):
    with precision(bits):
        (x,), (w, bias) = arrays(bits, "fm0_x"), plain(bits, "fm0_W", "fm0_bias_head")
        (y,) = get(f"fm0_y_t2r_headbias_{bits}")
        close(feature_map(x, w, "relu", bias=bias.ravel()), tokens_first(y), bits)


@pytest.mark.parametrize("bits", cases("fm0_y_skip_softmax_full_(f64)"))
def test_a_map_with_skip(bits):
    with precision(bits):
        (x,), (w,) = arrays(bits, "fm0_x"), plain(bits, "fm0_W_skip")
        (y,) = get(f"fm0_y_skip_softmax_full_{bits}")
        close(feature_map(x, w, skip=True), tokens_first(y), bits)


@pytest.mark.parametrize("bits", cases("fm0_y_adapter_softmax_full_(f64)"))
def test_the_adapter(bits):
    with precision(bits):
        names = ("layer0", "bias0", "layer1", "bias1")
        w_in, bias_in, w_out, bias_out = plain(bits, *(f"fm0_adapter_{name}" for name in names))
        (x,), (y,) = arrays(bits, "fm0_x"), get(f"fm0_y_adapter_softmax_full_{bits}")
        found = adapter_map(x, w_in, bias_in[0, :, 0], w_out, bias_out[0, :, 0])
        close(found, tokens_first(y), bits)


@pytest.mark.parametrize("name", cases("fm0_(W_identity_init)"))
def test_the_start_of_the_maps(name):
    (w,) = get(f"fm0_{name}")
    np.testing.assert_array_equal(identity_maps(*w.shape), w)


@pytest.mark.parametrize(("name", "bits"), cases("lin0_y_(quad|lin|quad_tail)_(f32|f64)"))
@pytest.mark.parametrize("form", ["chunked", "quadratic", "recurrent"])
def test_linear_attention(name, bits, form):
    with precision(bits):
        phi_q, phi_k, v = arrays(bits, "lin0_fq", "lin0_fk", "lin0_v")
        y = tokens_first(get(f"lin0_y_{name}_{bits}")[0])
        close(linear_attention(phi_q, phi_k, v, form)[:, -y.shape[1] :], y, bits)


@pytest.mark.parametrize("bits", cases("lin0_y_decode_(f32|f64)"))
@pytest.mark.parametrize("form", ["chunked", "quadratic", "recurrent"])
def test_linear_attention_from_a_state(bits, form):
    with precision(bits):
        phi_q, phi_k, v = arrays(bits, "lin0_fq", "lin0_fk", "lin0_v")
        y = tokens_first(get(f"lin0_y_decode_{bits}")[0])
        half = v.shape[1] - y.shape[1]
        first, rest = (
            [x[:, part] for x in (phi_q, phi_k, v)] for part in (slice(half), slice(half, None))
        )
        _, state = linear_attention(*first, form, return_state=True)
        found, end = linear_attention(*rest, form, initial_state=state, return_state=True)
        close(found, y, bits)
        for name, value in (("half", state), ("end", end)):
            kv, k_sum = get(f"lin0_kv_state_{name}_{bits}", f"lin0_k_state_{name}_{bits}")
            close(value.kv, kv, bits)
            close(value.k_sum, k_sum[:, :, 0], bits)


@pytest.mark.parametrize("bits", cases("lin0_y_softmax_(f32|f64)"))
def test_the_teacher(bits):
    with precision(bits):
        q, k, v = arrays(bits, "lin0_q", "lin0_k", "lin0_v")
        y, a = get(f"lin0_y_softmax_{bits}", f"lin0_a_softmax_{bits}")
        close(attention(q, k, v, causal=True), tokens_first(y), bits)
        phi_q, phi_k = arrays(bits, "lin0_fq", "lin0_fk")
        layer = LayerConfig(heads=2, kv_heads=2, head_dim=q.shape[-1] + 1, attention="linear")
        x = Linearized(q, k, phi_q, phi_k, None, None)
        teacher, student = weights(x, layer, None, jnp.arange(q.shape[1]))
        close(teacher, a, bits)
        close(student, get(f"lin0_a_quad_{bits}")[0], bits)


def hybrid_inputs(case, bits):
    q, k, v, phi_q, phi_k = arrays(bits, *(f"{case}_{x}" for x in ("q", "k", "v", "fq", "fk")))
    raw, kv, k_sum = plain(
        bits, *(f"{case}_{x}" for x in ("window_factors_raw", "kv_state", "k_state"))
    )
    state = LinearState(kv, k_sum[:, :, 0])
    return (
        (q, k, v, phi_q, phi_k),
        jax.nn.sigmoid(raw).ravel(),
        state,
        int(get(f"{case}_window")[0]),
    )


@pytest.mark.parametrize(("case", "kind"), cases(r"(hyb\d+)_(tk|sw)_mask_window_raw"))
def test_the_released_masks(case, kind):
    near, linear = get(f"{case}_{kind}_mask_window_raw", f"{case}_{kind}_mask_linear_raw")
    found = released_masks(len(near), int(get(f"{case}_window")[0]), WINDOWS[kind])
    np.testing.assert_array_equal(found[0], near != 0)
    np.testing.assert_array_equal(found[1], linear != 0)


@pytest.mark.parametrize(
    ("case", "kind", "name", "bits"), cases(r"(hyb\d+)_(tk|sw)_(y|y_affine|y_state)_(f32|f64)")
)
def test_released_hybrid_attention(case, kind, name, bits):
    with precision(bits):
        x, g, state, window = hybrid_inputs(case, bits)
        rest = 1 - g if name == "y_affine" else jnp.ones_like(g)
        state = state if name == "y_state" else None
        y, a, _ = released_attention(*x, g, rest, window=window, kind=WINDOWS[kind], state=state)
        close(y, tokens_first(get(f"{case}_{kind}_{name}_{bits}")[0]), bits)
        if name == "y":
            close(a, get(f"{case}_{kind}_a_{bits}")[0], bits)


@pytest.mark.parametrize(
    ("case", "kind", "name", "bits"), cases(r"(hyb\d+)_(tk|sw)_(y|y_affine|y_state)_(f32|f64)")
)
def test_hybrid_attention_where_the_release_is_right(case, kind, name, bits):
    with precision(bits):
        x, g, state, window = hybrid_inputs(case, bits)
        length = x[0].shape[1]
        if kind == "tk" and (length % window or length <= window):
            pytest.skip("the released terrace counts from the end")
        rest = 1 - g if name == "y_affine" else jnp.ones_like(g)
        begun = None
        if name == "y_state":
            slots = window * (2 if kind == "tk" else 1)
            kept = [jnp.zeros((1, slots, *a.shape[2:]), a.dtype) for a in (x[1], x[2], x[4])]
            begun = HybridState(*state, *kept, jnp.zeros((1,), jnp.int32))
        y = hybrid_attention(*x, g, rest, window=window, kind=WINDOWS[kind], initial_state=begun)
        close(y, tokens_first(get(f"{case}_{kind}_{name}_{bits}")[0]), bits)


class Layer:
    """The reference's one attention layer."""

    def __init__(self, case, kind, bits):
        names = ("q_proj", "k_proj", "v_proj", "o_proj", "x", "fmap_q", "fmap_k")
        wq, wk, wv, self.w_out, x, self.map_q, self.map_k = plain(
            bits, *(f"{case}_{n}" for n in names)
        )
        heads, dim, _ = self.map_q.shape
        self.raw = plain(bits, f"{case}_window_factors")[0].ravel()
        theta, window, affine, prefill = get(
            *(f"{case}_{n}" for n in ("theta", "window", "affine", "prefill_len"))
        )
        self.affine, self.prefill = bool(affine), int(prefill)
        attention_kind = {"tk": "hybrid_terrace", "sw": "hybrid_sliding", "linear": "linear"}[kind]
        kv_heads = wk.shape[0] // dim
        self.layer = LayerConfig(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=dim,
            attention=attention_kind,
            window=None if kind == "linear" else int(window),
        )
        cos, sin = rope_table(RopeConfig(float(theta)), dim, jnp.arange(x.shape[1])[None], x.dtype)
        q, k, v = ((x @ w.T).reshape(*x.shape[:2], -1, dim) for w in (wq, wk, wv))
        self.q = rotate(q, cos, sin)
        self.k = jnp.repeat(rotate(k, cos, sin), heads // kv_heads, axis=2)
        self.v = jnp.repeat(v, heads // kv_heads, axis=2)
        self.taught = attention(self.q, self.k, self.v, causal=True)

    def factors(self, raw):
        g = jax.nn.sigmoid(raw)
        return g, 1 - g if self.affine else jnp.ones_like(g)

    def features(self, map_q, map_k):
        return feature_map(self.q, map_q), feature_map(self.k, map_k)

    def read(self, map_q, map_k, raw):
        phi_q, phi_k = self.features(map_q, map_k)
        if self.layer.attention == "linear":
            x = Linearized(self.q, self.k, phi_q, phi_k, None, None)
            return linear_attention(phi_q, phi_k, self.v), x
        x = Linearized(self.q, self.k, phi_q, phi_k, *self.factors(raw))
        kind = self.layer.attention.removeprefix("hybrid_")
        arrays = (self.q, self.k, self.v, phi_q, phi_k, *self.factors(raw))
        return hybrid_attention(*arrays, window=self.layer.window, kind=kind), x

    def loss(self, maps, xent_factor):
        y, x = self.read(*maps)
        # Two rows at a time: the blocks must add up.
        found = output_error(y, self.taught, None) | weight_error(x, self.layer, None, rows=6)
        return 1000 * found["mse"] + xent_factor * found["xent"], (y, found)

    def out(self, y):
        return y.reshape(*y.shape[:2], -1) @ self.w_out.T


@pytest.mark.parametrize(
    ("case", "kind", "name", "bits"),
    cases(r"(layer\d+)_(linear|tk|sw)_(mse1000|mse1000_xent1)_loss_(f32|f64)"),
)
def test_transfer_of_one_layer(case, kind, name, bits):
    with precision(bits):
        layer = Layer(case, kind, bits)
        maps = (layer.map_q, layer.map_k, layer.raw)
        of = jax.jit(jax.value_and_grad(layer.loss, has_aux=True), static_argnums=1)
        (loss, (y, found)), gradients = of(maps, int(name.endswith("xent1")))
        close(y, tokens_first(get(f"{case}_{kind}_y_pred_{bits}")[0]), bits)
        close(layer.taught, tokens_first(get(f"{case}_y_true_{bits}")[0]), bits)
        for value, key in ((loss, f"{name}_loss"), (found["mse"], "mse"), (found["xent"], "xent")):
            close(value, get(f"{case}_{kind}_{key}_{bits}")[0], bits)
        for value, key in zip(gradients, ("fmap_q", "fmap_k", "window_factors"), strict=True):
            key = f"{case}_{kind}_{name}_grad_{key}_{bits}"
            if has(key):
                close(value, get(key)[0].reshape(value.shape), bits)


@pytest.mark.parametrize(
    ("case", "kind", "bits"), cases(r"(layer\d+)_(linear|tk|sw)_layer_out_(f32|f64)")
)
def test_one_layer(case, kind, bits):
    with precision(bits):
        layer = Layer(case, kind, bits)
        y, x = layer.read(layer.map_q, layer.map_k, layer.raw)
        close(layer.out(y), get(f"{case}_{kind}_layer_out_{bits}")[0], bits)
        close(layer.out(layer.taught), get(f"{case}_layer_out_softmax_{bits}")[0], bits)
        teacher, student = weights(x, layer.layer, None, jnp.arange(y.shape[1]))
        close(teacher, get(f"{case}_a_true_{bits}")[0], bits)
        if has(f"{case}_{kind}_a_pred_{bits}"):
            close(student, get(f"{case}_{kind}_a_pred_{bits}")[0], bits)


@pytest.mark.parametrize(
    ("case", "kind", "bits"), cases(r"(layer\d+)_(linear|tk|sw)_layer_out_cached_(f32|f64)")
)
def test_decoding_with_one_layer(case, kind, bits):
    """The terrace decodes as released: prompt under its own masks, then a sliding window."""
    with precision(bits):
        layer = Layer(case, kind, bits)
        phi = layer.features(layer.map_q, layer.map_k)
        parts = [
            [x[:, part] for x in (layer.q, layer.k, layer.v, *phi)]
            for part in (slice(layer.prefill), slice(layer.prefill, None))
        ]
        if kind == "linear":
            y1, state = linear_attention(*parts[0][3:], parts[0][2], return_state=True)
            y2, _ = linear_attention(
                *parts[1][3:], parts[1][2], initial_state=state, return_state=True
            )
            close(state.kv, get(f"{case}_linear_prefill_kv_state_{bits}")[0], bits)
            close(state.k_sum, get(f"{case}_linear_prefill_k_state_{bits}")[0][:, :, 0], bits)
        else:
            factors, window = layer.factors(layer.raw), layer.layer.window
            y1, _, _ = released_attention(*parts[0], *factors, window=window, kind=WINDOWS[kind])
            settings = {"window": window, "kind": "sliding", "return_state": True}
            _, state = hybrid_attention(*parts[0], *factors, **settings)
            y2, end = hybrid_attention(*parts[1], *factors, initial_state=state, **settings)
            cache = tokens_first(get(f"{case}_{kind}_prefill_k_cache_{bits}")[0])
            # The release keeps one key more, and folds it before it reads.
            close(state.keys[:, : window - 1], cache[:, 1:], bits)
            oldest = parts[1][4][:, -window], parts[1][2][:, -window]
            folded = jnp.einsum("bhf,bhp->bhfp", *oldest, precision="highest")
            names = (f"{case}_{kind}_end_decode_{x}_state_{bits}" for x in ("kv", "k"))
            kv, k_sum = get(*names)
            close(end.kv - folded, kv, bits)
            close(end.k_sum - oldest[0], k_sum[:, :, 0], bits)
        y = jnp.concatenate([y1, y2], axis=1)
        close(layer.out(y), get(f"{case}_{kind}_layer_out_cached_{bits}")[0], bits)


@pytest.mark.parametrize(
    ("case", "kind", "bits"), cases(r"(layer\d+)_(tk|sw)_layer_out_2chunk_(f32|f64)")
)
def test_a_prompt_in_two_chunks_as_released(case, kind, bits):
    with precision(bits):
        layer = Layer(case, kind, bits)
        phi, factors = layer.features(layer.map_q, layer.map_k), layer.factors(layer.raw)
        state, read = None, []
        for part in (slice(layer.prefill), slice(layer.prefill, None)):
            chunk = [x[:, part] for x in (layer.q, layer.k, layer.v, *phi)]
            y, _, state = released_attention(
                *chunk, *factors, window=layer.layer.window, kind=WINDOWS[kind], state=state
            )
            read.append(y)
        out = layer.out(jnp.concatenate(read, axis=1))
        close(out, get(f"{case}_{kind}_layer_out_2chunk_{bits}")[0], bits)
        kv, k_sum = get(*(f"{case}_{kind}_2chunk_{x}_state_{bits}" for x in ("kv", "k")))
        close(state[0], kv, bits)
        close(state[1], k_sum[:, :, 0], bits)


@pytest.mark.parametrize(
    ("case", "scaling", "bits"), cases(r"(rope\d+)_(plain|linear4|dynamic2)_q_rot_(f32|f64)")
)
def test_rotary_embedding(case, scaling, bits):
    with precision(bits):
        (q,), (theta, pos) = arrays(bits, f"{case}_q"), get(f"{case}_theta", f"{case}_pos")
        rope = {
            "plain": RopeConfig(float(theta)),
            "linear4": RopeConfig(float(theta), scaling="linear", factor=4.0),
            "dynamic2": RopeConfig(float(theta), scaling="dynamic", factor=2.0, original_length=64),
        }[scaling]
        cos, sin = rope_table(rope, q.shape[-1], jnp.asarray(pos), q.dtype)
        for value, name in ((cos, "cos"), (sin, "sin")):
            value = jnp.concatenate([value[0], value[0]], axis=-1)
            close(value, get(f"{case}_{scaling}_{name}_{bits}")[0], bits)
        close(rotate(q, cos, sin), tokens_first(get(f"{case}_{scaling}_q_rot_{bits}")[0]), bits)


@pytest.mark.parametrize("case", cases(r"(loss\d+)_lm_loss_f64"))
def test_the_loss_of_step_two(case):
    with precision("f64"):
        logits, labels, loss, ppl = get(
            *(f"{case}_{x}" for x in ("logits", "labels", "lm_loss_f64", "ppl"))
        )
        labels, logits = jnp.asarray(labels[:, 1:]), jnp.asarray(logits[:, :-1])
        losses = cross_entropy(logits, jnp.maximum(labels, 0))
        learned = labels >= 0
        found = jnp.where(learned, losses, 0).sum() / learned.sum()
        close(found, loss)
        close(jnp.exp(found), ppl)


@pytest.mark.parametrize("case", cases(r"(pack\d+)_chunk"))
def test_packing(case):
    chunk, lengths, tokens, labels = get(
        *(
            f"{case}_{x}"
            for x in ("chunk", "sample_prompt_answer_lens", "packed_input_ids", "packed_labels")
        )
    )
    borders = np.cumsum([0, *lengths.ravel()])
    spans = [list(range(a, b)) for a, b in itertools.pairwise(borders)]
    found = list(pack_released(zip(spans[::2], spans[1::2], strict=True), int(chunk)))
    np.testing.assert_array_equal([window for window, _ in found], tokens)
    np.testing.assert_array_equal(
        [np.where(learned, window, -100) for window, learned in found], labels
    )
