"""Evaluate a run: `python -m evals NAME [--field value ...]`."""

import sys

from jlab.cli import choose, guarded, listing, load, parse_config

EVALS = {
    "perplexity": "perplexity and bits per byte of every group, for a run folder",
    "mixing_laws": "mixing laws fitted to a table of runs, judged, and their best mixture",
    "precision_law": "precision laws fitted to a table of runs: forms compared, best bits, plans",
    "linearized": "linearized models beside their base: perplexity, branches, layers, decoding",
    "quantized": "a model after RTN, GPTQ or AWQ at several precisions: perplexity, bytes, errors",
    "reconstruction": "VQ-VAEs of a run: errors, use of codes, rFID, what the rotation trick does",
    "coverage": "coverage of repeated samples, its law and forecast, of a run or a table",
    "gsm8k": "repeated samples of GSM8K problems: coverage, its law, majority vote",
    "humaneval": "repeated samples of HumanEval tasks, run in the sandbox: coverage and its law",
}


def main() -> int:
    """Entry point of `python -m evals` and `jlab-eval`."""
    return guarded(_main)


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(listing("python -m evals", EVALS, "NAME"))
        return 0
    name = choose(arguments[0], EVALS, "NAME")
    module = load(f"evals.{name}")
    rest = arguments[1:]
    # One leading word is the evaluation's subject: `perplexity RUN` is `perplexity --run RUN`.
    if rest and not rest[0].startswith("-"):
        rest = [f"--{module.SUBJECT}", *rest]
    if hasattr(module, "prepare"):  # it samples from a model, into a run folder
        return load("evals.sampled").main(module, name, rest)
    config = parse_config(module.Config(), rest, f"python -m evals {name}")
    return module.run(config)


if __name__ == "__main__":
    sys.exit(main())
