"""Named presets of every experiment, one file each: values of the recipe's `Config`, by size.

A file names its recipe module (`RECIPE`), its sizes (`SIZES`, the default one first) and the seeds
of each size (`SEEDS`). This table is what `python -m train` lists; it imports nothing, so that
listing is quick.
"""

PRESETS = {
    "aioli": (
        "mixture learned by Aioli from a bad start, against its controls (about 5 min on 2 cores)"
    ),
    "arithmetic": (
        "coverage of repeated samples and its law, exact and sampled (about 3 min on 2 cores)"
    ),
    "lm": "one language model on one mixture of groups; --size picks tiny, demo, 10M, 160M or 1B",
    "lolcats": (
        "linear attention in a pretrained model: transfer, LoRA, controls (about 5 min on 2 cores)"
    ),
    "mixing_compare": (
        "every mixing method side by side, extra runs counted (about 20 min on 2 cores)"
    ),
    "mixing_sweep": (
        "do mixing laws hold, and do the methods' matrices agree with them (about 8 min on 2 cores)"
    ),
    "precision": (
        "one model trained in chosen precisions, then quantised as it learns (about 1 min on 2"
        " cores)"
    ),
    "precision_sweep": (
        "the grid of sizes, tokens and bits behind the precision law (about 3 min on 2 cores)"
    ),
    "vqvae": (
        "a VQ-VAE with any estimator and codebook, the rotation trick's by default (about 1 min on"
        " 2 cores)"
    ),
    "vqvae_compare": (
        "gradient estimators and codebooks side by side, five seeds each (about 15 min on 2 cores)"
    ),
}
