"""Parts of the sandbox by themselves: plain values as bytes, control groups, filters, layers."""

import contextlib
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.jobs import ATTACKS, LAYERS, LEVELS, Limits, active_layers, level, refusal, run
from jlab.jobs.box import candidate, cgroup, keeper, seccomp, watch

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
KEYS = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner), max_leaves=3)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=12,
)


def kinds(value):
    """The types of a value and of all in it, in a form that `==` tells apart."""
    if isinstance(value, dict):
        return dict, [(kinds(key), kinds(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [kinds(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(kinds(item)) for item in value)
    return type(value)


@given(PLAIN)
def test_a_plain_value_is_the_same_after_encoding_and_decoding(value):
    back = candidate.decode(candidate.encode(value))
    assert back == value
    assert kinds(back) == kinds(value)


@given(st.binary(max_size=60))
def test_any_bytes_decode_to_a_plain_value_or_are_refused(data):
    check_decoding(data)


@given(PLAIN, st.data())
def test_a_damaged_value_decodes_to_a_plain_value_or_is_refused(value, data):
    damaged = bytearray(candidate.encode(value))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    check_decoding(bytes(damaged))


def check_decoding(data: bytes):
    with contextlib.suppress(ValueError, TypeError, IndexError, RecursionError):
        candidate.encode(candidate.decode(data))


@pytest.mark.parametrize("value", [object(), print, iter([]), [1, {2: object()}], range(3), Path()])
def test_what_is_not_plain_cannot_leave_its_process(value):
    with pytest.raises(TypeError, match=r"a value of type \w+ cannot leave its process"):
        candidate.encode(value)


def test_a_frame_longer_than_allowed_is_not_read():
    read, write = os.pipe()
    candidate.send(write, candidate.encode("x" * 100))
    with pytest.raises(ValueError, match="an answer of 105 bytes; at most 100 are taken"):
        candidate.receive(read, 100)
    os.close(write)
    os.close(read)


def test_a_frame_that_ends_early_is_the_programs_end():
    read, write = os.pipe()
    os.write(write, b"%016x" % 9 + b"l9:")
    os.close(write)
    with pytest.raises(EOFError, match="the program has ended"):
        candidate.receive(read, 100)
    os.close(read)


HYBRID = """cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\ntmpfs /tmp tmpfs rw 0 0\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "expected"),
    [
        ("", "", []),
        (
            "0::/user.slice/a:b.scope\n",
            UNIFIED,
            [(2, "/sys/fs/cgroup/user.slice/a:b.scope"), (2, "/sys/fs/cgroup/user.slice")],
        ),
        ("8:pids:/p\n4:memory:/m/n\n2:cpu,cpuacct:/\n", HYBRID, [(1, "/sys/fs/cgroup/memory/m/n")]),
        (
            "4:memory:/m\n0::/u\n",
            HYBRID,
            [(2, "/sys/fs/cgroup/unified/u"), (2, "/sys/fs/cgroup/unified")],
        ),
        ("4:memory:/m\n8:pids:/\n", UNIFIED, []),
    ],
)
def test_groups_are_made_below_or_beside_ones_own(groups, mounts, expected):
    places = cgroup.find_places(groups, mounts)
    assert [(p.version, str(next(iter(p.parents.values())))) for p in places] == expected


def test_a_folder_that_is_no_control_group_is_left_as_it_was(tmp_path, monkeypatch):
    place = cgroup.Place(2, {"": tmp_path}, {"": tmp_path})
    monkeypatch.setattr(cgroup, "_places", lambda: [place])
    assert cgroup.enter_group(1 << 30, 8) is None
    assert list(tmp_path.iterdir()) == []


def test_a_group_holds_its_limits_in_either_version(tmp_path, monkeypatch):
    """On a kernel that has made the group's files, which a plain folder stands for here."""
    make = os.mkdir

    def mkdir(name, dir_fd):
        make(name, dir_fd=dir_fd)
        for file in ("memory.max", "memory.swap.max", "memory.events", "pids.max", "cgroup.procs"):
            (tmp_path / name / file).touch()
        (tmp_path / name / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")

    monkeypatch.setattr(os, "mkdir", mkdir)
    place = cgroup.Place(2, {"": tmp_path}, {"": tmp_path})
    monkeypatch.setattr(cgroup, "_places", lambda: [place])
    group = cgroup.enter_group(1 << 30, 8)
    files = {path.name: path.read_text() for path in (tmp_path / group.name).iterdir()}
    assert files["memory.max"] == str(1 << 30)
    assert (files["memory.swap.max"], files["pids.max"], files["cgroup.procs"]) == ("0", "8", "0")
    assert cgroup.kills_for_memory(group) == 2


def test_the_filter_jumps_within_itself_and_names_every_call():
    for column, machine in seccomp.MACHINES.values():
        code = seccomp.make_filter(seccomp.CALLS, column, machine)
        steps = list(struct.iter_unpack("=HBBI", code))
        for at, (kind, if_true, if_false, _) in enumerate(steps):
            if kind in (seccomp.EQUAL, seccomp.AT_LEAST, seccomp.ANY_BIT):
                assert at + 1 + max(if_true, if_false) < len(steps)
        compared = {value for kind, *_, value in steps if kind == seccomp.EQUAL}
        assert compared >= {numbers[column] for numbers in seccomp.CALLS.values()}
        assert compared >= {numbers[column] for numbers, *_ in seccomp.FLAGS.values()}
        assert steps[-1] == (seccomp.RETURN, 0, 0, seccomp.ALLOW)


@pytest.mark.skipif("seccomp" not in active_layers(), reason="no layer seccomp here")
def test_memory_may_be_mapped_as_private_only():
    """Shared pages are a process's no more after MADV_DONTNEED, and take memory all the same."""
    source = """
import mmap
zero = open("/dev/zero", "r+b")
for number, kind in ((-1, 0x21), (-1, 0x23), (zero.fileno(), 0x01), (-1, 0x22)):
    try:
        mmap.mmap(number, 4096, kind)
        print("mapped")
    except PermissionError:
        print("refused")
"""
    assert run(source, require="none").stdout.split() == ["refused"] * 3 + ["mapped"]


def test_memory_is_that_of_a_process_and_all_below_it():
    proc = watch.open_processes()
    if proc is None:
        pytest.skip("this kernel does not tell which children a process has")
    me = os.getpid()
    assert next(watch.descendants(proc, me)) == me
    resident = watch.memory_of(proc, me, limit=1 << 60)
    # What is divided among those that share it is not more than the sum.
    assert 0 < watch.memory_of(proc, me, limit=0) <= resident
    assert watch.memory_of(proc, 1 << 30, limit=0) == 0, "a process that has ended holds nothing"
    os.close(proc)


def test_the_keepers_limits_are_those_of_the_sandbox():
    assert keeper.Limits._fields == tuple(Limits.__dataclass_fields__)


def test_levels_grow_and_the_highest_contains_every_attack():
    assert level([]) == "none"
    for lower, higher in zip(LEVELS, list(LEVELS)[1:], strict=False):
        assert set(LEVELS[lower]) < set(LEVELS[higher]) <= set(LAYERS)
        assert level(LEVELS[higher]) == higher
    for name in ("namespace", "container"):
        assert refusal(ATTACKS, LEVELS[name]) is None
    assert level([*LEVELS["namespace"], "uid"]) == "namespace"


def test_what_lacks_a_layer_is_refused_in_one_line_that_names_it():
    poor = ("rlimits", "no_new_privs", "watch", "uid", "seccomp")
    assert refusal("rlimit", poor) is None
    assert refusal(["time", "memory", "network"], poor) is None
    assert refusal("namespace", poor) == (
        "the sandbox refuses level 'namespace': no layer pid, ipc, net, mount here; active: "
        "rlimits, no_new_privs, watch, uid, seccomp"
    )
    assert refusal(["time", "disk"], poor).startswith("the sandbox refuses 'disk': no layer mount")
    assert "no layer net+mount or seccomp here; active: none" in refusal(["network"], [])


def test_a_program_is_run_or_refused_by_the_layers_that_are_there():
    layers = active_layers()
    assert set(layers) <= set(LAYERS)
    for require in LEVELS:
        if refusal(require, layers):
            with pytest.raises(PermissionError, match=f"refuses level '{require}'"):
                run("print(1)", require=require)
        else:
            assert run("print(1)", require=require).layers == layers
