"""Pictures at the end of a VQ-VAE's run."""

import jax
import numpy as np

from jlab.data import image_evaluation_batches
from jlab.training.run import Run
from jlab.vq.evaluate import model_variables
from jlab.vq.make import make_quantizer
from jlab.vq.plots import reconstruction_plot, usage_plot
from jlab.vq.training import TrainedVQVAE

_SHOWN = 12  # images in the picture
_COUNTED = 1024  # images whose codes are counted


def model_plots(out: Run, trained: TrainedVQVAE) -> None:
    """`reconstructions.png` and `codes.png`, of validation images."""
    model, size = trained.model, trained.config.batch_size
    variables = model_variables(trained.state.params, trained.state.extras)
    apply = jax.jit(model.apply)
    shown, codes, left = [], [], _COUNTED
    for batch in image_evaluation_batches(trained.images.validation, size, _COUNTED):
        found = apply(variables, batch.images, batch.mask > 0)
        real = batch.mask > 0
        shown.append((batch.images[real], np.asarray(found.images, np.float32)[real]))
        codes.append(np.asarray(found.quantized.ids)[real])
        left -= real.sum()
        if left <= 0:
            break
    images, reconstructed = (np.concatenate(part) for part in zip(*shown, strict=True))
    some = np.linspace(0, len(images) - 1, min(_SHOWN, len(images))).astype(int)
    reconstruction_plot(out, images[some], reconstructed[some])
    usage_plot(out, counts_of(trained, np.concatenate(codes)))


def counts_of(trained: TrainedVQVAE, ids: np.ndarray) -> dict[str, np.ndarray]:
    """How often each code was chosen, by level or group of the ids."""
    config = trained.config.model
    quantizer = make_quantizer(config.quantizer, config.network.dim)
    flat = ids.reshape(-1, int(np.prod(quantizer.places)))
    return {
        label: np.bincount(column[column >= 0], minlength=quantizer.size)
        for label, column in zip(config.quantizer.place_names, flat.T, strict=True)
    }
