"""Attacks are contained and counted as failed, or refused where the layer that it takes is missing.

They are tried in the system as it is, and in poorer ones: without root, without namespaces (as in
most containers), without both, and without filters of system calls, so that the layers behind
those that stop an attack first are tried too.
"""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jlab.jobs import refusal
from tests.jobs.attack_all import LIMITS, NOT_TAKEN, ORDINARY
from tests.jobs.attacks import ATTACKS

ROOT = Path(__file__).parents[2]
LEFT_TO_LAYERS = ("forks_without_end", "leaves_its_session")  # what ends these differs by system
SLOW = [name for name, attack in ATTACKS.items() if "timeout" in attack.statuses]
QUICK = [name for name in ATTACKS if name not in SLOW or name in LEFT_TO_LAYERS]
# Those that some layer must stop; what tries to pass by force fails the same way everywhere.
LAYERED = [name for name in QUICK if set(ATTACKS[name].needs) - {"time", "tracing"}]
LAYERED += ["traces_its_parent", "looks_into_its_parent", "equals_everything", "prints_passed"]
# What is taken away -> layers that cannot be there then.
LACKING = {
    "root": {"uid"},
    "namespaces": {"user", "pid", "ipc", "net", "mount"},
    "root,namespaces": {"uid", "user", "pid", "ipc", "net", "mount"},
    "filters": {"seccomp"},
}


class Scene:
    """What the attacks are aimed at, and what became of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o777)
        for name, mode in (("kept", 0o666), ("private", 0o600)):
            (folder / name).write_text(name)
            (folder / name).chmod(mode)
        self.process = subprocess.Popen(["sleep", "1000"])
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "socket"))
        self.unix.listen()
        (folder / "socket").chmod(0o777)
        self.files = sorted(os.listdir(folder))
        self.before = set(Path(tempfile.gettempdir()).glob("jlab-*"))

    def harm(self) -> list[str]:
        """What is no longer as it was, in words."""
        found = [] if self.process.poll() is None else ["the process was ended"]
        if sorted(os.listdir(self.folder)) != self.files:
            found.append(f"the folder holds {sorted(os.listdir(self.folder))}")
        for name in ("kept", "private"):
            if (self.folder / name).read_text() != name:
                found.append(f"{name} was changed")
        heard, _, _ = select.select([self.tcp, self.udp, self.unix], [], [], 0)
        found += [f"something came to {server}" for server in heard]
        found += [
            f"{folder}/written"
            for folder in ("/usr", "/var/tmp", "/dev/shm")
            if Path(folder, "written").exists()
        ]
        # Of supervisors that have ended; one that was killed before this test is not its matter.
        for path in set(Path(tempfile.gettempdir()).glob("jlab-*")) - self.before:
            if not Path("/proc", path.name.split("-")[1]).exists():
                found.append(f"{path} was left")
        return found + [f"process {number} was left" for number in strays()]

    def close(self):
        self.process.kill()
        self.process.wait()
        for server in (self.tcp, self.udp, self.unix):
            server.close()


def strays() -> list[int]:
    """Programs of sandboxes whose supervisor has ended: they have no test above them any more."""
    parents, found = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            # The second field of `stat` is in brackets and may hold anything.
            parents[int(process.name)] = int(
                (process / "stat").read_text().rsplit(")")[-1].split()[1]
            )
        except OSError:  # it has ended
            continue
        if b"serve(sys.argv[1])" in words or b"jlab.jobs.box.supervisor" in words:
            found.append(int(process.name))
    return [number for number in found if not has_living_root(number, parents)]


def has_living_root(number: int, parents: dict[int, int]) -> bool:
    """Whether a process belongs to a Python of some test, this one's or another worker's."""
    while number > 1:
        try:
            words = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            return True  # ended since: it was not left
        if b"pytest" in words or b"attack_all" in words:
            return True
        number = parents.get(number, 0)
    return False


def interpreter(changes: str) -> str:
    """A Python that the user whom programs become can start, which root's own may not be."""
    own = os.path.realpath(sys._base_executable)
    if os.getuid() != 0 or changes in ("", "filters"):
        return own
    for python in (own, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        words = [python, "-c", "import jlab.jobs.results, sys; assert sys.version_info >= (3, 11)"]
        if python and run_quietly(words, user=ORDINARY):
            return python
    pytest.skip("this Python or this checkout is not readable for a user that is not root")


def run_quietly(words: list[str], user: int) -> bool:
    try:
        done = subprocess.run(words, cwd=ROOT, user=user, extra_groups=[], capture_output=True)
    except PermissionError:
        return False
    return done.returncode == 0


@pytest.fixture(scope="module")
def attacked():
    """The layers, how each attack ended and what harm was done, by what was taken away before."""
    known = {}

    def attack(changes: str, names: list[str]) -> dict:
        if (changes, *names) not in known:
            known[changes, *names] = attack_apart(changes, names)
        return known[changes, *names]

    return attack


def attack_apart(changes: str, names: list[str]) -> dict:
    python = interpreter(changes)
    # Not below pytest's own folders, which are closed to other users.
    with tempfile.TemporaryDirectory(prefix="scene-") as folder:
        Path(folder).chmod(0o755)
        scene = Scene(Path(folder, "victim"))
        try:
            words = [changes, str(scene.folder), str(scene.process.pid), str(scene.port), *names]
            done = subprocess.run(
                [python, "-m", "tests.jobs.attack_all", *words],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            if done.returncode == NOT_TAKEN:
                pytest.skip(f"this system cannot be made poorer: {done.stdout.strip()}")
            assert done.returncode == 0, done.stderr
            return {**json.loads(done.stdout), "harm": scene.harm()}
        finally:
            scene.close()


def problem(found: dict, name: str) -> str | None:
    """What is wrong with how an attack ended, in words."""
    attack, ended = ATTACKS[name], found["attacks"][name]
    reason = refusal(attack.needs, found["layers"])
    if reason or "refused" in ended:
        return None if ended.get("refused") == reason else f"{name}: not refused: {ended}"
    # Its supervisor looks every 20 ms; a second more is for a busy machine.
    in_time = ended["seconds"] < LIMITS.seconds + 1
    small = len(ended["stdout"]) + len(ended["stderr"]) <= 2 * LIMITS.output
    right = ended["status"] in attack.statuses and ended["layers"] == found["layers"]
    return None if in_time and small and right else f"{name}: {ended}"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_contained_or_refused(attacked, name):
    assert problem(attacked("", list(ATTACKS)), name) is None


def test_the_attacks_do_no_harm_and_leave_nothing(attacked):
    assert attacked("", list(ATTACKS))["harm"] == []


@pytest.mark.parametrize("changes", LACKING)
def test_in_a_poorer_system_attacks_are_contained_or_refused(attacked, changes):
    check_all(attacked(changes, LAYERED), LAYERED, LACKING[changes])


@pytest.mark.slow
@pytest.mark.parametrize("changes", LACKING)
def test_in_a_poorer_system_every_attack_is_contained_or_refused(attacked, changes):
    check_all(attacked(changes, list(ATTACKS)), list(ATTACKS), LACKING[changes])


def check_all(found: dict, names: list[str], lacking: set[str]):
    assert not lacking & set(found["layers"])
    assert [text for name in names if (text := problem(found, name))] == []
    assert found["harm"] == []


def test_without_namespaces_what_needs_them_is_refused(attacked):
    found = attacked("root,namespaces", LAYERED)
    refused = {name for name, ended in found["attacks"].items() if "refused" in ended}
    assert refused >= {"fills_the_disk", "deletes_files", "kills_its_parent", "leaves_its_session"}
    reason = found["attacks"]["deletes_files"]["refused"]
    assert reason.startswith("the sandbox refuses 'files': no layer mount here; active: rlimits, ")
    assert "prints_passed" not in refused
