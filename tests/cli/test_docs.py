"""Every command and Python block of the documents runs, every example of a docstring too.

Blocks of one document run in their order in one temporary folder, by these rules:

- a block fenced as `bash` is given to bash, which stops at the first line that fails; `python` is
  the one that runs the tests; blocks fenced as `python` share one namespace;
- `python -m train PRESET ...` without `--size` and `--resume` gets `--size tiny`;
- `make TARGET`, `git clone` with the `cd` that follows it, and `pip install` are not run: the
  target, and the files and extras that pip is to install, must exist;
- a comment `<!-- not run: REASON -->` right above a block leaves it out; it must give the reason;
- other fences (`text`, `json`) hold nothing to run, and every fence says what it is.
"""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import jlab
import pallas_kernels
from tests.cli.commands import ROOT, environment

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "pallas_kernels/*.md")
    for path in ROOT.glob(pattern)
)
# Their blocks train and fit for longer than a fast test may take.
LONG = ("docs/mixing.md", "docs/mixing_laws.md", "docs/sampling.md")
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.M | re.S)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Block(NamedTuple):
    line: int  # of the opening fence in the document, from 1
    language: str
    text: str
    reason: str | None  # why it is not run


def blocks(document: str) -> list[Block]:
    text = (ROOT / document).read_text()
    found = []
    for match in FENCE.finditer(text):
        above = text[: match.start()].rstrip(" ").rpartition("\n\n")[2].strip()
        reason = re.fullmatch(r"<!-- not run:(.*)-->", above)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, match[2], match[3], reason[1].strip() if reason else None))
    return found


def modules() -> list[str]:
    found = [
        module.name
        for package in (jlab, pallas_kernels)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return ["jlab", "pallas_kernels", *found]


@pytest.mark.parametrize(
    "document",
    [pytest.param(d, marks=[pytest.mark.slow] * (d in LONG)) for d in DOCUMENTS],
)
def test_every_block_of_a_document_runs(document, tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(document):
        if block.reason is not None:
            continue
        if block.language == "bash":
            _run_bash(_script(block.text), tmp_path, cache)
        elif block.language == "python":
            code = compile(block.text, f"{document}:{block.line}", "exec")
            exec(code, namespace)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_fence_has_a_language_and_every_exception_a_reason(document):
    for block in blocks(document):
        assert block.language, f"{document}:{block.line}"
        assert block.reason != "", f"{document}:{block.line}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_within_the_repository_leads_somewhere(document):
    text = FENCE.sub("", (ROOT / document).read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document}: {target}"
        assert not anchor or anchor in _anchors(file), f"{document}: {target}"


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0
    if re.fullmatch(r"jlab\.\w+|pallas_kernels", name) and hasattr(module, "__path__"):
        assert ">>>" in module.__doc__, "the contents of a subpackage open with an example"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("python -m train lm  # a comment", "python -m train lm --size tiny"),
        ("python -m train lm --size 10M", "python -m train lm --size 10M"),
        ("python -m train lm --resume", "python -m train lm --resume"),
        ("python -m train", "python -m train"),
        ("python -m train lm \\\n  --seed 1", "python -m train lm --seed 1 --size tiny"),
        ("git clone REPOSITORY jlab && cd jlab\nmake demo", ""),
        ("pip install '.[test]' -c constraints.txt", ""),
    ],
)
def test_the_rules_of_this_runner(text, script):
    assert _script(text) == script


@pytest.mark.parametrize(
    "text", ["make nothing", "pip install '.[nothing]'", "pip install . -c nothing.txt"]
)
def test_what_is_not_run_must_exist(text):
    with pytest.raises(AssertionError, match="nothing"):
        _script(text)


def _script(text: str) -> str:
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    commands = [part for line in lines for part in _commands(line)]
    return "\n".join(command for command in map(_rewritten, commands) if command)


def _commands(line: str) -> list[str]:
    line = re.sub(r"(^|\s)#.*", "", line).strip()
    parts = [part.strip() for part in line.split("&&")]
    return [part for part in parts if part and not (part.startswith("cd ") and "git clone" in line)]


def _rewritten(command: str) -> str:
    words = command.split()
    if words[0] == "make":
        for target in words[1:]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), command
        return ""
    if words[:2] == ["pip", "install"] or words[1:4] == ["-m", "pip", "install"]:
        _check_install(command)
        return ""
    if words[:2] == ["git", "clone"]:
        return ""
    trains = words[:3] == ["python", "-m", "train"] and len(words) > 3 and words[3][0] != "-"
    if trains and not {"--size", "--resume"} & set(words):
        return f"{command} --size tiny"
    return command


def _check_install(command: str) -> None:
    for extra in re.findall(r"\[([\w,-]+)\]", command):
        assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), command
    for name in re.findall(r"(?:-c|-r) +(\S+)", command):
        assert (ROOT / name).exists(), command


def _run_bash(script: str, folder: Path, cache: Path) -> None:
    variables = environment(cache)
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"


def _anchors(file: Path) -> set[str]:
    heads = re.findall(r"^#+ +(.*)$", FENCE.sub("", file.read_text()), re.M)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in plain}
