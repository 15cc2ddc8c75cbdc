"""The table of bad inputs: what is wrong, the command line, and what its message must say.

The message names the field, the value, and what is allowed or nearest. `{f}` stands for the folder
that `write_files` fills.
"""

import json
from pathlib import Path

import pyarrow
from pyarrow import parquet

from configs.lm import SIZES
from jlab.training.config import to_dict

LM, AIOLI = "train lm --size tiny", "train aioli --size tiny"
COMPARE = "train mixing_compare --size tiny"
STATIC = f"{LM} --mixture.method static --mixture.proportions"
SCHEDULE = f"{LM} --mixture.method schedule --mixture.schedule"

NAMES = [
    ("an unknown preset", "train lmm", "'lmm'", "nearest: lm"),
    (
        "a flag in the preset's place",
        "train --size tiny",
        "'--size'",
        "known: aioli, arithmetic, lm",
    ),
    ("an unknown evaluation", "evals perplexty", "'perplexty'", "nearest: perplexity"),
    ("an unknown size", "train lm --size tinyy", "--size", "'tinyy'", "demo", "10M"),
    ("a size of another preset", "train aioli --size 10M", "--size", "'10M'", "demo"),
    ("an unknown run option", f"{LM} --resum", "--resum;", "nearest: --resume"),
    ("an unknown field", f"{LM} --batch-sise 4", "--batch-sise", "nearest: --batch-size"),
    (
        "an unknown nested field",
        f"{LM} --optimizer.lerning-rate 1",
        "--optimizer.lerning-rate",
        "nearest: --optimizer.learning-rate",
    ),
    (
        "an unknown field three levels down",
        f"{AIOLI} --model.pattern.0.rope.thta=1",
        "--model.pattern.0.rope.thta",
        "nearest: --model.pattern.0.rope.theta",
    ),
    (
        "a field without its place",
        f"{LM} --learning-rate 1",
        "--learning-rate;",
        "nearest: --mixture.aioli.learning-rate, --optimizer.learning-rate",
    ),
    (
        "a layer that the model does not have",
        f"{LM} --model.pattern.1.heads 2",
        "--model.pattern.1.heads",
        "nearest: --model.pattern.0.heads",
    ),
    ("a field like no other", f"{LM} --qqqqqqqqqq 1", "--qqqqqqqqqq", "--help lists"),
    ("a field of another preset", f"{AIOLI} --mixture.method static", "--mixture.method"),
    ("an unknown field of an evaluation", "evals perplexity {f} --limt 3", "nearest: --limit"),
    ("a word too many", f"{LM} more", "more"),
    ("a folder too many", "evals perplexity {f} {f}", "{f}"),
]
VALUES = [
    ("a word for a number", f"{LM} --optimizer.learning-rate fast", "learning-rate", "'fast'"),
    ("a fraction for a whole number", f"{LM} --batch-size 1.5", "--batch-size", "int", "'1.5'"),
    ("a word for an optional number", f"{LM} --model.vocab-size x", "vocab-size", "INT", "'x'"),
    ("no value", f"{LM} --batch-size", "--batch-size", "1 value"),
    ("a value for a switch", f"{LM} --data.document-mask maybe", "maybe"),
    ("an unknown choice", f"{LM} --data.on-error explode", "on-error", "'explode'", "'skip'"),
    ("an unknown method", f"{LM} --mixture.method aoli", "method", "'aoli'", "'aioli'"),
    ("a seed that is no number", f"{LM} --seeds a", "--seeds", "'a'", "int"),
    ("a negative seed", f"{LM} --seed -1", "seed", ">= 0", "-1"),
    ("negative seeds", f"{LM} --seeds 1 -1", "--seeds", ">= 0", "-1"),
    ("a seed twice", f"{LM} --seeds 1 1", "--seeds", "different", "1 1"),
    ("no seeds", f"{LM} --seeds", "--seeds", "at least one"),
    ("a name that is a path", f"{LM} --name ../x", "--name", "'../x'", "one folder"),
    ("a batch of nothing", f"{LM} --batch-size 0", "batch_size", ">= 1", "0"),
    ("a rate of nothing", f"{LM} --optimizer.learning-rate 0", "optimizer.learning_rate", "> 0"),
    ("a rate that is no number", f"{LM} --optimizer.learning-rate nan", "> 0", "nan"),
    ("a decay of one", f"{LM} --optimizer.b1 1", "optimizer.b1", "[0, 1)", "1.0"),
    ("a negative z-loss", f"{LM} --z-loss -1", "z_loss", ">= 0", "-1.0"),
    ("one checkpoint", f"{LM} --loop.keep 1", "loop.keep", ">= 2", "1"),
    ("no steps", f"{AIOLI} --loop.steps 0", "loop.steps", ">= 1", "0"),
    ("a share above one", f"{AIOLI} --bad-share 1.2", "bad_share", "between 0 and 1", "1.2"),
    ("a rotation above one", f"{LM} --model.pattern.0.rope.fraction 2", "rope.fraction", "(0, 1]"),
    ("a vocabulary under 257", f"{LM} --data.vocab-size 9", "vocab_size", "257", "9"),
    ("windows of nothing", f"{LM} --data.length 0", "length", "at least 1", "0"),
    ("no windows to evaluate", "evals perplexity {f} --limit 0", "limit", ">= 1", "0"),
    ("no such split", "evals perplexity {f} --split tset", "--split", "'tset'", "'test'"),
    ("no bootstrap", "evals perplexity {f} --samples 0", "samples", ">= 1", "0"),
]
COMBINATIONS = [
    ("a seed and seeds", f"{LM} --seed 1 --seeds 2", "--seed", "--seeds", "exclude"),
    ("config and resume", f"{LM} --config c --resume r", "--config", "--resume", "exclude"),
    ("slices that do not divide the batch", f"{LM} --accumulate 3", "batch_size", "= 3", "8"),
    (
        "heads that do not divide",
        f"{LM} --model.pattern.0.heads 3",
        "model.pattern.0",
        "kv_heads must be a divisor of heads = 3",
        "2",
    ),
    (
        "nothing left for training",
        f"{LM} --data.test-fraction 0.9",
        "validation_fraction + test_fraction",
        "under 1",
        "0.9",
    ),
    ("more devices than there are", f"{LM} --mesh.fsdp 64", "mesh", "64", "number of devices"),
    ("a process out of range", f"{LM} --mesh.process 3", "mesh.process", "0..0", "3"),
    ("a phase longer than the run", f"{AIOLI} --bad-steps 99", "bad_steps", "[1, loop.steps", "99"),
    ("a second prior", f"{AIOLI} --aioli.prior 1 --aioli.prior-steps 1", "aioli.prior", "none"),
    ("an average of nothing", f"{LM} --mixture.aioli.ema 0.5", "mixture.aioli: ema", "0.5"),
    ("a round too short for its probes", f"{AIOLI} --aioli.update-steps 2", "update_steps", "= 8"),
    (
        "a floor that leaves no room",
        f"{LM} --mixture.method aioli --mixture.aioli.floor 0.5",
        "floor",
        "at most 1/4",
        "0.5",
    ),
    ("proportions that nobody reads", f"{LM} --mixture.proportions 1", "proportions", "static"),
    ("a graph that nobody reads", f"{LM} --mixture.graph g.json", "mixture.graph", "skillit"),
    ("a rate that nobody reads", f"{LM} --mixture.rate 1", "mixture.rate", "doremi", "stratified"),
    (
        "settings of Aioli that nobody reads",
        f"{LM} --mixture.method odm --mixture.aioli.floor 0.2",
        "mixture.aioli is read by method aioli only",
        "odm",
    ),
    ("a z-loss of a proxy", f"{LM} --mixture.method doge --z-loss 0.1", "z_loss must be 0", "0.1"),
    ("a method twice", f"{COMPARE} --methods dml dml", "methods", "different", "dml dml"),
    ("a rate of nothing", f"{LM} --mixture.method doge --mixture.rate 0", "mixture.rate", "0.0"),
    ("a proxy without a reference", f"{LM} --mixture.method doremi", "mixture.reference", "given"),
    (
        "slices of a proxy",
        f"{LM} --mixture.method doge --accumulate 2",
        "accumulate must be 1",
        "got 2",
    ),
    ("a method that is none", f"{COMPARE} --methods dml dme", "methods", "regmix", "'dme'"),
    ("a sweep too small for its law", f"{COMPARE} --sweep-runs 4", "sweep_runs", "at least 5", "4"),
    ("a budget of nothing", f"{COMPARE} --extra-budget 0", "extra_budget", "positive", "0.0"),
    (
        "a hand-over after the end",
        f"{COMPARE} --restricted --aioli-from 12",
        "aioli_from",
        "loop.steps = 12",
    ),
    (
        "a comparison of one group",
        f"{COMPARE} --data.groups g={{f}}/long.jsonl",
        "data.groups",
        "2 groups",
    ),
    ("a static mixture without one", f"{LM} --mixture.method static", "mixture.proportions"),
    ("a negative proportion", f"{STATIC} 0.5 0.5 0.5 -0.5", "proportions", "not negative", "-0.5"),
    ("proportions over one", f"{STATIC} 0.5 0.2 0.2 0.2", "proportions", "sum to 1", "1.1"),
    ("proportions that are no numbers", f"{STATIC} nan 0.5 0.2 0.3", "proportions", "finite"),
    ("too few proportions", f"{STATIC} 0.5 0.5", "proportions", "has 2", "4 groups"),
    (
        "too many proportions",
        f"{STATIC} 0.5 0.5 --data.groups g={{f}}/long.jsonl",
        "proportions",
        "has 2",
        "1 group",
    ),
    ("a schedule without one", f"{LM} --mixture.method schedule", "mixture.schedule"),
    ("a bad group that is none", f"{AIOLI} --bad-group dcs", "bad_group", "docs", "'dcs'"),
    (
        "a mixture of one group",
        f"{AIOLI} --data.groups g={{f}}/long.jsonl",
        "data.groups",
        "2 groups",
    ),
]
FILES = [
    ("a config that is missing", f"{LM} --config {{f}}/no.json", "{f}/no.json", "does not exist"),
    ("a config that is a folder", f"{LM} --config {{f}}", "{f}", "does not exist"),
    ("a config that is not JSON", f"{LM} --config {{f}}/damaged.json", "damaged.json", "not JSON"),
    ("a config that is a list", f"{LM} --config {{f}}/list.json", "list.json", "a JSON object"),
    ("a config with an unknown key", f"{LM} --config {{f}}/key.json", "batch_sise", "batch_size"),
    (
        "a config with an unknown key far down",
        f"{AIOLI} --config {{f}}/deep.json",
        "model.pattern.0.rope.thta",
        "nearest: theta",
    ),
    ("a config with a wrong type", f"{LM} --config {{f}}/type.json", "loop.steps", "int", "'ten'"),
    ("a config with a wrong value", f"{LM} --config {{f}}/value.json", "loop.keep", ">= 2", "0"),
    (
        "a config with half a branch",
        f"{LM} --config {{f}}/branch.json",
        "model",
        "JSON object",
        "3",
    ),
    ("a config of another preset", f"{LM} --config {{f}}/other.json", "'aioli'", "'lm'"),
    ("a schedule that is missing", f"{SCHEDULE} {{f}}/no.json", "mixture.schedule", "{f}/no.json"),
    ("a schedule that is not JSON", f"{SCHEDULE} {{f}}/damaged.json", "schedule", "damaged.json"),
    ("a schedule without steps", f"{SCHEDULE} {{f}}/type.json", "schedule", "steps", "proportions"),
    ("a schedule over one", f"{SCHEDULE} {{f}}/over.json", "over.json", "sum to 1", "1.1"),
    ("a schedule that begins late", f"{SCHEDULE} {{f}}/late.json", "late.json", "start at 0", "5"),
    ("a schedule of words", f"{SCHEDULE} {{f}}/words.json", "words.json"),
    (
        "a graph that is missing",
        f"{LM} --mixture.method skillit --mixture.graph {{f}}/no.json",
        "mixture.graph",
        "{f}/no.json",
    ),
    (
        "a graph that is not JSON",
        f"{LM} --mixture.method skillit --mixture.graph {{f}}/damaged.json",
        "mixture.graph",
        "list of rows",
    ),
    (
        "a graph of other groups",
        f"{LM} --mixture.method skillit --mixture.graph {{f}}/graph.json",
        "graph",
        "4",
        "has 2",
    ),
    (
        "a reference that is no model",
        f"{LM} --mixture.method doremi --mixture.reference {{f}}/run",
        "mixture.reference",
        "{f}/run",
        "model.json",
    ),
    ("a replay of no run", f"{SCHEDULE} {{f}}", "mixture.schedule", "{f}/metrics.jsonl"),
    ("no groups", f"{LM} --data.groups", "groups", "at least one", "none"),
    ("a group without a name", f"{LM} --data.groups text", "groups", "NAME=PATH", "'text'"),
    ("a group twice", f"{LM} --data.groups stdlib code={{f}}/long.jsonl", "'code' is taken"),
    ("a group that is missing", f"{LM} --data.groups g={{f}}/no.txt", "group 'g'", "{f}/no.txt"),
    ("an empty group", f"{LM} --data.groups g={{f}}/empty.txt", "group 'g'", "empty"),
    ("an empty folder", f"{LM} --data.groups g={{f}}/none", "group 'g'", "no files"),
    (
        "a group smaller than a window",
        f"{AIOLI} --data.groups g={{f}}/short.txt",
        "group 'g'",
        "9 tokens",
        "needs 33",
    ),
    (
        "a damaged line",
        f"{LM} --data.groups g={{f}}/bad.jsonl",
        "{f}/bad.jsonl:2",
        "not valid JSON",
    ),
    (
        "a line without the field",
        f"{LM} --data.groups g={{f}}/body.jsonl",
        "body.jsonl:1",
        "'text'",
    ),
    ("a table without the field", f"{LM} --data.groups g={{f}}/t.parquet", "'text'", "'body'"),
    (
        "a damaged table",
        f"{LM} --data.groups g={{f}}/damaged.parquet",
        "damaged.parquet",
        "Parquet",
    ),
    ("no tokenizer", f"{LM} --data.tokenizer {{f}}/tokenizer.json", "{f}/tokenizer.json", "bytes"),
    ("a damaged tokenizer", f"{LM} --data.tokenizer {{f}}/key.json", "{f}/key.json", "tokenizer"),
    ("a vocabulary too small", f"{LM} --model.vocab-size 100", "model.vocab_size", "257", "100"),
    (
        "no cache",
        f"{LM} --data.cache-dir {{f}}/empty.txt",
        "cache_dir",
        "{f}/empty.txt",
    ),
    ("runs that cannot be", f"{LM} --runs-dir {{f}}/empty.txt", "--runs-dir", "{f}/empty.txt"),
]
FOLDERS = [
    ("resuming nothing", "train lm --resume", "--resume", "runs/lm"),
    ("resuming what is missing", "train lm --resume {f}/no", "--resume", "{f}/no"),
    ("resuming what is no run", "train lm --resume {f}", "{f}", "not a run folder", "config.json"),
    ("resuming another preset", "train aioli --resume {f}/run", "{f}/run", "'lm'", "'aioli'"),
    ("resuming with another size", "train lm --resume {f}/run --size demo", "size", "tiny", "demo"),
    ("resuming with other seeds", "train lm --resume {f}/run --seeds 1", "seeds", "[0]", "[1]"),
    (
        "resuming with another field",
        "train lm --resume {f}/run --optimizer.b1 0.5",
        "{f}/run belongs to another config",
        "optimizer.b1",
        "0.9 and 0.5",
    ),
    ("resuming a damaged config", "train lm --resume {f}/broken", "{f}/broken", "not JSON"),
    ("evaluating nothing", "evals perplexity", "run folder"),
    ("evaluating what is missing", "evals perplexity {f}/no", "{f}/no", "not a run folder"),
    ("evaluating what is no model", "evals perplexity {f}/run", "{f}/run", "model.json"),
]
TABLE = NAMES + VALUES + COMBINATIONS + FILES + FOLDERS


def write_files(folder: Path) -> None:
    """Files that are wrong in one way each, and the folder of a run that never trained."""
    layer = {"pattern": [{"rope": {"thta": 1}}]}
    record = {"preset": "lm", "size": "tiny", "seeds": [0], "config": to_dict(SIZES["tiny"])}
    texts = {
        "damaged.json": "{",
        "list.json": "[1]",
        "key.json": json.dumps({"batch_sise": 4}),
        "deep.json": json.dumps({"model": layer}),
        "type.json": json.dumps({"loop": {"steps": "ten"}}),
        "value.json": json.dumps({"loop": {"keep": 0}}),
        "branch.json": json.dumps({"model": 3}),
        "other.json": json.dumps({"preset": "aioli", "config": {}}),
        "over.json": json.dumps({"steps": [0], "proportions": [[0.5, 0.2, 0.2, 0.2]]}),
        "words.json": json.dumps({"steps": [0], "proportions": [["a", None]]}),
        "graph.json": "[[0.5, 0.1], [0.1, 0.5]]",
        "late.json": json.dumps({"steps": [5], "proportions": [[0.25] * 4]}),
        "empty.txt": "",
        "short.txt": "hi there",
        "long.jsonl": "".join(f'{{"text": "{n:050d}"}}\n' for n in range(100)),
        "bad.jsonl": '{"text": "fine"}\n{"text": broken}\n',
        "body.jsonl": '{"body": "fine"}\n',
        "damaged.parquet": "PAR1",
        "run/config.json": json.dumps(record),
        "broken/config.json": "{",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "none").mkdir()
    parquet.write_table(pyarrow.table({"body": ["fine"]}), folder / "t.parquet")
