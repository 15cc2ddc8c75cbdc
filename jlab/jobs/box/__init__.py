"""What runs on the other side of the sandbox: plain interpreters, with nothing but the library.

A supervisor (`supervisor`) takes the layers that the system allows (`namespaces`, `cgroup`,
`seccomp`, `identity`, over the calls of `libc`). For each program it forks a keeper (`keeper`),
which watches (`watch`) a judge (`judge`), which starts the program (`candidate`) and runs its tests
against it over two pipes (`wire`).
"""
