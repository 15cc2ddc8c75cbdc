"""The wheel, installed into a fresh environment, run from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("jlab", "train", "evals", "configs", "pallas_kernels")
LEFTOVERS = ("build", "dist", "runs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    # Built from a copy: building in place leaves files behind that the next wheel would hold.
    for path in ROOT.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in LEFTOVERS:
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / path.name, ignore=ignore)
        elif path.is_file():
            shutil.copy(path, source / path.name)
    flags = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "-q"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(source), "-w", str(folder), *flags],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_holds_the_packages_and_neither_tests_nor_benchmarks(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    packages = {name for name in tops if not name.endswith(".dist-info")}
    assert packages == {p.name for p in ROOT.iterdir() if p.name in PACKAGES}
    assert "tests" not in tops
    assert "benchmarks" not in tops


def test_trains_from_an_empty_folder(wheel, tmp_path):
    """Dependencies come from the environment of the tests; jlab itself only from the wheel."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    inside = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    install = ["--python", str(python), "install", "--no-deps", "-q", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    # Paths named in a .pth file are searched after the environment's own, and an editable
    # install of jlab in them is not seen, because their .pth files are not read.
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (inside / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    empty = tmp_path / "empty"
    empty.mkdir()
    run = subprocess.run(
        [environment / "bin" / "jlab-train", "lm", "--size", "tiny", "--loop.steps", "2"],
        cwd=empty,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "average" in run.stdout
    where = "import jlab; print(jlab.__file__)"
    found = subprocess.run([python, "-c", where], cwd=empty, capture_output=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(environment)
