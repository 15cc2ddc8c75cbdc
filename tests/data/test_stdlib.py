"""The default groups: code without docstrings, tests, docs, headers."""

import ast
import warnings
from pathlib import Path

import pytest

from jlab.data import DataConfig, load_groups
from jlab.data.stdlib import StdlibSource, _split_module, stdlib_sources

PAD = "x = 1\n" * 20_000  # enough bytes for a group to count


@pytest.fixture
def python(tmp_path):
    """The folders of a small Python: library and headers."""
    files = {
        "lib/a.py": '"""About a."""\n' + PAD,
        "lib/pkg/__init__.py": "def f():\n    'About f.'\n    return 1\n",
        "lib/pydoc_data/topics.py": f"topics = {{'if': 'How if works.', 'pad': {PAD!r}}}\n",
        "lib/test/test_a.py": PAD,
        "lib/pkg/tests/test_b.py": "inner = 1\n",
        "lib/site-packages/other.py": "installed = 1\n",
        "lib/_sysconfigdata_x.py": "built = 1\n",
        "lib/latin.py": "name = 'é'\n",
        "include/Python.h": "#define PY\r\n" * 20_000,
        "include/pyconfig.h": "#define HERE\n",
        "include/other/other.h": "#define OTHER\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    return tmp_path / "lib", tmp_path / "include"


def documents(python):
    found, notes = stdlib_sources(*python)
    return {name: list(source.documents(pytest.fail)) for name, source in found.items()}, notes


def test_each_group_has_its_own_texts_and_nothing_installed_or_generated(python):
    texts, notes = documents(python)
    assert texts == {
        "code": [PAD, "def f():\n    return 1\n"],
        "tests": [PAD],
        "docs": ["a\n\nAbout a.", "pkg.f\n\nAbout f.", "How if works.", PAD],
        "headers": ["#define PY\n" * 20_000],
    }
    assert notes == []


def test_the_fingerprint_does_not_depend_on_the_place(python, tmp_path):
    before = stdlib_sources(*python)[0]
    (tmp_path / "moved").mkdir()
    moved = [folder.rename(tmp_path / "moved" / folder.name) for folder in python]
    after = stdlib_sources(*moved)[0]
    marks = {name: source.fingerprint() for name, source in after.items()}
    for folder in moved:
        folder.rename(tmp_path / folder.name)
    assert marks == {name: source.fingerprint() for name, source in before.items()}


def test_fresh_python_without_tests_still_works(python, tmp_path, monkeypatch):
    """A Python without its test folder or headers trains on the groups that it has."""
    library, include = python
    (library / "test" / "test_a.py").unlink()
    (include / "Python.h").unlink()
    lines = "".join(f"def f{n}(): 'Says {n} and a little more.'; return {n}\n" for n in range(20))
    for n in range(100):
        (library / f"m{n}.py").write_text(f"n = {n}\n" + lines)
    monkeypatch.setattr("jlab.data.stdlib.MINIMUM_BYTES", 1000)
    paths = {"stdlib": str(library), "include": str(include)}
    monkeypatch.setattr("sysconfig.get_path", paths.__getitem__)
    config = DataConfig(tokenizer="bytes", length=16, cache_dir=str(tmp_path / "cache"))
    groups = load_groups(config)
    assert groups.names == ("code", "docs")
    assert [note.split(":")[0] for note in groups.notes] == [
        "stdlib group 'tests' is left out",
        "stdlib group 'headers' is left out",
    ]


def test_a_python_with_no_group_at_all_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / name))
    with pytest.raises(ValueError, match="groups: none of the default groups is here: stdlib"):
        load_groups(DataConfig(cache_dir=str(tmp_path / "cache")))


def split(tmp_path, source):
    (tmp_path / "m.py").write_text(source)
    return _split_module(tmp_path, Path("m.py"))


DOCSTRINGS = {
    "only statement": ("def f():\n    '''Doc.'''\n", "def f():\n    pass\n"),
    "one line": ("def f(): 'Doc.'\n", "def f(): pass\n"),
    "shared line": ("def f(): 'Doc.'; return 1\n", "def f(): pass; return 1\n"),
    "many lines": (
        "class A:\n    '''Doc.\n\n    More.\n    '''\n    x = 1\n",
        "class A:\n    x = 1\n",
    ),
    "not a docstring": ("x = 'text'\n'loose'\n", "x = 'text'\n'loose'\n"),
    "after accents": ("def f(é='é'): 'é.'; return 1\n", "def f(é='é'): pass; return 1\n"),
    "in parentheses": ("def f():\n    ('Doc.')\n    return 1\n", "def f():\n    return 1\n"),
    "nested": (
        "if x:\n  class A:\n    'A.'\n    def f(self):\n      'f.'\n      return 1\n",
        "if x:\n  class A:\n    def f(self):\n      return 1\n",
    ),
}


@pytest.mark.parametrize(("before", "after"), DOCSTRINGS.values(), ids=DOCSTRINGS)
def test_docstrings_are_cut_out_and_the_code_stays(tmp_path, before, after):
    assert split(tmp_path, before)[0] == [after]


def test_docs_carry_dotted_names_in_the_order_of_the_source(tmp_path):
    source = "'''Top.'''\nclass A:\n    '''A.'''\n    async def f(self):\n        '''f.'''\n"
    assert split(tmp_path, source)[1] == ["m\n\nTop.\n\nm.A\n\nA.\n\nm.A.f\n\nf."]


def test_a_module_that_does_not_parse_has_no_text(tmp_path):
    assert split(tmp_path, "print 'Python 2'\n") == ([], [])


def _bare(text):
    """The syntax tree without docstrings and without the `pass` that may stand for one."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node):
                node.body[0] = ast.Pass()
            node.body = [s for s in node.body if not isinstance(s, ast.Pass)]
    return ast.dump(tree)


def test_real_modules_keep_their_syntax_tree():
    code = stdlib_sources()[0]["code"]
    chosen = code.files[::12]  # each module takes milliseconds; every twelfth of some 600
    some = StdlibSource("code", code.root, chosen, code.extract)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the library's strings
        for name in some.files:
            for text in code.extract(code.root, name):
                assert _bare(text) == _bare((code.root / name).read_text("utf-8-sig")), name
