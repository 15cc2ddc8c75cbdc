"""The default data: four groups of real text that come with every Python.

`code` is the standard library's modules without docstrings, `tests` its test package, `docs` the
docstrings and help topics, `headers` the C headers. Files are read, never imported. What an
installation adds or generates (packages, build settings, character tables) is left out, so that one
Python version gives the same bytes wherever it is installed.
"""

import ast
import functools
import hashlib
import inspect
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jlab.data.formats import Bad

MINIMUM_BYTES = 100_000  # below this (a stripped installation) a group has too little to learn from
_EXTRACTION = 1  # part of the fingerprint: raise it when the extracted text changes

_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "encodings"}
_TEST_FOLDERS = {"test", "tests", "idle_test"}
_GENERATED = ("_sysconfigdata", "pyconfig")  # written by the build, different on each machine
_TOPICS = Path("pydoc_data", "topics.py")
_SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class StdlibSource:
    """One of the four groups: `files` under `root`, each turned into texts by `extract`."""

    kind: str
    root: Path
    files: tuple[Path, ...]  # relative to `root`, sorted
    extract: Callable[[Path, Path], list[str]] = field(compare=False)  # of root and file
    streamed: ClassVar[bool] = False

    def fingerprint(self) -> str:
        """SHA-256 over the relative names and bytes of all files."""
        digest = hashlib.sha256(f"stdlib {self.kind} {_EXTRACTION}".encode())
        for name in self.files:
            content = hashlib.sha256((self.root / name).read_bytes()).digest()
            digest.update(name.as_posix().encode() + b"\0" + content)
        return digest.hexdigest()

    def size(self) -> int:
        """Bytes of all files, before extraction."""
        return sum((self.root / name).stat().st_size for name in self.files)

    def documents(self, bad: Bad) -> Iterator[str]:
        """Yield the texts file by file; files that are not UTF-8 or do not parse have none."""
        texts = (text for name in self.files for text in self.extract(self.root, name))
        return (text for text in texts if text.strip())


def stdlib_sources(
    library: Path | None = None, include: Path | None = None
) -> tuple[dict[str, StdlibSource], list[str]]:
    """The groups that this Python has, and a note for each that it lacks.

    Args:
      library: folder of the standard library; None: the running Python's.
      include: folder of the C headers; None: the running Python's.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    include = include or Path(sysconfig.get_path("include"))
    python = _files_below(library, ".py")
    modules = tuple(p for p in python if not _TEST_FOLDERS & set(p.parts))
    tests = tuple(p for p in python if p.parts[0] == "test")
    parts = functools.cache(_split_module)  # `code` and `docs` come from the same parsed module
    found = {
        "code": StdlibSource("code", library, modules, lambda *file: parts(*file)[0]),
        "tests": StdlibSource("tests", library, tests, _whole),
        "docs": StdlibSource("docs", library, modules, lambda *file: parts(*file)[1]),
        "headers": StdlibSource("headers", include, _headers(include), _whole),
    }
    sizes = {name: source.size() for name, source in found.items()}
    notes = [
        f"stdlib group {name!r} is left out: its files in {found[name].root} hold {size:,} bytes,"
        f" under {MINIMUM_BYTES:,}"
        for name, size in sizes.items()
        if size < MINIMUM_BYTES
    ]
    return {name: found[name] for name in found if sizes[name] >= MINIMUM_BYTES}, notes


def _files_below(root: Path, suffix: str) -> list[Path]:
    found = []
    for here, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in _SKIPPED and not f.startswith("config-")]
        names = [f for f in files if f.endswith(suffix) and not f.startswith(_GENERATED)]
        found.extend(Path(here, name).relative_to(root) for name in names)
    return sorted(found, key=Path.as_posix)


def _headers(include: Path) -> tuple[Path, ...]:
    """Python's own headers; other packages install theirs in folders of their own beside them."""
    own = {"cpython", "internal"}
    found = _files_below(include, ".h")
    return tuple(p for p in found if len(p.parts) == 1 or p.parts[0] in own)


def _whole(root: Path, name: Path) -> list[str]:
    return [_read(root / name)]


def _read(path: Path) -> str:
    """The file's text with plain newlines; empty where it is not UTF-8 (some tests are not)."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split_module(root: Path, name: Path) -> tuple[list[str], list[str]]:
    """A module's code without its docstrings, and its documentation without the code."""
    text = _read(root / name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's strings
            tree = ast.parse(text)
    except SyntaxError:
        return [], []
    if name == _TOPICS:
        return [], _help_topics(tree)
    module = ".".join(part for part in name.with_suffix("").parts if part != "__init__")
    documented = [(label, node) for label, node in _scopes(tree, module) if _docstring(node)]
    code = _without_docstrings(text, [node for _, node in documented])
    docs = [f"{label}\n\n{inspect.cleandoc(_docstring(node))}" for label, node in documented]
    return [code], ["\n\n".join(docs)]


def _help_topics(tree: ast.Module) -> list[str]:
    tables = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    values = [value for table in tables for value in table.values]
    return [value.value for value in values if isinstance(value, ast.Constant)]


def _scopes(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Everything that may have a docstring, in source order, with its dotted name."""
    if isinstance(node, _SCOPES):
        name = name if isinstance(node, ast.Module) else f"{name}.{node.name}"
        yield name, node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from _scopes(child, name)


def _docstring(node: ast.AST) -> str:
    return ast.get_docstring(node, clean=False) or ""


def _without_docstrings(text: str, scopes: list[ast.AST]) -> str:
    lines = text.encode().split(b"\n")  # ast counts columns in bytes
    for scope in reversed(scopes):  # from the end, so that earlier positions stay right
        doc = scope.body[0]
        first, last = doc.lineno - 1, doc.end_lineno - 1
        before, after = lines[first][: doc.col_offset], lines[last][doc.end_col_offset :]
        alone = not before.strip() and not after.strip()
        # A body needs one statement, and what shares the line must stay where it is.
        kept = [] if alone and len(scope.body) > 1 else [before + b"pass" + after]
        lines[first : last + 1] = kept
    return b"\n".join(lines).decode()
