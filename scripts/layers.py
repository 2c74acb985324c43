"""Checks that the rooms of filter/ only look down, and that no two files import each other, by whatever way round.

The table is the order of the rooms. A room may import from those that its line names; none of the features may import another.
What tests import is no matter of it.
"""

import pathlib
import re
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

BASE = {"base"}
HTTP = BASE | {"http"}
STORE = HTTP | {"store"}
# What every feature stands on.
GROUND = STORE | {"host", "metric", "event", "cx"}
FEATURES = {"breaker", "concurrency", "throttle", "retry", "outlier", "fallback"}
SEATS = GROUND | FEATURES | {"seats"}

ENGINE = {
    "base": set(),
    "metric": set(),
    "http": BASE,
    "host": HTTP,
    "memory_host": HTTP | {"host"},
    "store": HTTP,
    "event": {"metric"},
    "cx": STORE | {"metric", "event"},
    **{feature: GROUND for feature in FEATURES},
    "seats": GROUND | FEATURES,
    "observe": GROUND | FEATURES,
    "request": SEATS | {"observe"},
    "attempt": SEATS | {"observe"},
}
POLICY = {
    "authority": set(),
    "glob": set(),
    "percent": set(),
    "document": {"glob", "percent"},
    "config": {"document", "authority", "glob", "percent"},
    "seat": {"config"},
}
CRATES = {"filter/engine/src": ENGINE, "filter/policy/src": POLICY, "filter/src": None}


def code(file):
    """The text without comments, strings and the tests at its end."""
    text = file.read_text(encoding="utf-8")
    text = re.split(r"^#\[cfg\(test\)\]", text, maxsplit=1, flags=re.M)[0]
    text = re.sub(r"//[^\n]*", "", text)
    # What a room's page only shows it does not use.
    text = re.sub(r"^pub use [^;]*;", "", text, flags=re.M)
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', text)


def paths(text):
    """Every path below crate:: or super::, those in braces one by one."""
    for match in re.finditer(r"\b((?:crate|super|self)(?:::\w+)*)(?:::\{([^{}]*)\})?", text):
        head, group = match.group(1).split("::"), match.group(2)
        if group is None:
            yield head
        else:
            for item in group.split(","):
                item = re.sub(r"\bas\b.*", "", item).strip()
                if item:
                    yield head + ([] if item == "self" else item.split("::"))


class Crate:
    def __init__(self, root, source):
        self.source = root / source
        self.files = {}
        for file in sorted(self.source.rglob("*.rs")):
            place = file.relative_to(self.source).with_suffix("").parts
            if "tests" not in place:
                self.files[place[:-1] if place[-1] in ("mod", "lib") else place] = file

    def imports(self, module):
        """The modules of the crate that one imports from, as paths."""
        for head in paths(code(self.files[module])):
            at = list(module)
            if head[0] == "crate":
                at = []
            rest = head[1:]
            if head[0] == "super":
                at = at[:-1]
                while rest[:1] == ["super"]:
                    at, rest = at[:-1], rest[1:]
            target = tuple(at)
            for name in rest:
                if target + (name,) not in self.files:
                    break
                target += (name,)
            if target and target != module and target in self.files:
                yield target


def circles(graph):
    """The sets of files that import each other (Tarjan's strongly connected components)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            ring = []
            while True:
                ring.append(stack.pop())
                if ring[-1] == node:
                    break
            if len(ring) > 1:
                found.append(sorted(ring))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def check(root, source, rooms):
    crate, errors = Crate(root, source), []
    graph = {}
    for module in crate.files:
        graph[module] = sorted(set(crate.imports(module)))
        if rooms is None or not module:
            continue
        if module[0] not in rooms:
            errors.append(f"{source}: the room {module[0]} has no line in scripts/layers.py")
            continue
        for target in graph[module]:
            if target[0] != module[0] and target[0] not in rooms[module[0]]:
                file = crate.files[module].relative_to(root)
                errors.append(f"{file}: {module[0]} may not import from {target[0]}")
    for ring in circles(graph):
        names = ", ".join(str(crate.files[module].relative_to(root)) for module in ring)
        errors.append(f"these files import each other: {names}")
    return errors


def check_all(root):
    return [error for source, rooms in CRATES.items() for error in check(root, source, rooms)]


# What must be refused: a file, a line for its beginning, and what is said of it.
PLANTED = [
    ("filter/engine/src/breaker/key.rs", "use crate::retry::Denial;", "breaker may not import from retry"),
    ("filter/engine/src/retry/budget.rs", "use crate::{breaker, cx};", "retry may not import from breaker"),
    ("filter/engine/src/store/slot.rs", "use crate::outlier::hosts::Hosts;", "store may not import from outlier"),
    ("filter/engine/src/request/life.rs", "use crate::attempt::AttemptPolicy;", "request may not import from attempt"),
    ("filter/engine/src/attempt/hedges.rs", "use super::life::Attempt;", "import each other"),
    ("filter/src/hostcalls.rs", "use crate::root::Root;", "import each other"),
]


def prove():
    """Whether each of the faults above is found in a copy of the sources."""
    for file, line, expected in PLANTED:
        with tempfile.TemporaryDirectory() as copy:
            root = pathlib.Path(copy)
            shutil.copytree(ROOT / "filter", root / "filter")
            planted = root / file
            planted.write_text(line + "\n" + planted.read_text(encoding="utf-8"), encoding="utf-8")
            if not any(expected in error for error in check_all(root)):
                yield f"'{line}' in {file} was not found"


def main():
    errors = check_all(ROOT) or list(prove())
    for error in errors:
        print(f"layers: {error}", file=sys.stderr)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
