# SPDX-License-Identifier: MIT-0
"""tools/check_rooms.py: it finds each fault that a tree can have, and prints the order of a tree that has none."""
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / "tools" / "check_rooms.py"

SOUND = {
    "native/ring.h": "",
    "native/ring.c": '#include "ring.h"\n',
    "native/flow.h": "#include <stdint.h>\n",
    "native/flow.c": '#include "flow.h"\n',
    "native/tunnel.h": '#include "ring.h"\n',
    "native/tunnel.c": '#include "tunnel.h"\n#include "flow.h"\n',
    "bench/floor.c": '#include "../native/flow.h"\n\nint main(void)\n{\n}\n',
    "bench/run.py": "import chart\n",
    "bench/chart.py": "import sys\n",
    "gwlbtun/__init__.py": '__version__ = "1"\n',
    "gwlbtun/geneve.py": "from . import __version__\n",
    "gwlbtun/trace.py": "from .geneve import parse\n",
    "gwlbtun/daemon.py": "from gwlbtun import trace\nimport gwlbtun.geneve\n",
    "tests/unit/test_geneve.py": "import pytest\n",
}


@pytest.fixture
def check(tmp_path):
    """Checks the sound tree with these files changed or added; the exit status and the lines printed."""
    def run(**changes):
        for name, text in {**SOUND, **changes}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, CHECK, tmp_path], stdout=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout.splitlines()
    return run


def test_a_sound_tree_is_shown_from_the_ground_up(check):
    assert check() == (0, [
        "C, from the ground up:",
        "  0: native/flow native/ring",
        "  1: bench/floor native/tunnel",
        "Python, from the ground up:",
        "  0: bench/chart gwlbtun/__init__",
        "  1: bench/run gwlbtun/geneve",
        "  2: gwlbtun/trace",
        "  3: gwlbtun/daemon",
    ])


def lines(number):
    return "\n" * number


@pytest.mark.parametrize("name, most", [
    ("native/big.h", 500), ("native/deeper/big.h", 500), ("bench/big.h", 500), ("tests/native/big.h", 500),
    ("gwlbtun/big.py", 300), ("bench/big.py", 300), ("tools/big.py", 300), ("tests/unit/big.py", 500), ("tests/big.py", 500),
    ("tests/support/big.py", 500),
])
def test_a_file_may_be_so_long_and_no_longer(check, name, most):
    assert check(**{name: lines(most)})[0] == 0
    assert check(**{name: lines(most + 1)}) == (
        1, [f"{name}: {most + 1} lines; at most {most} are allowed, so split it"])


@pytest.mark.parametrize("name, text, faulty", [
    ("native/lone.c", "", True),
    ("native/lone.c", "int main(void)\n{\n}\n", True),
    ("bench/lone.c", "", True),
    ("bench/lone.c", "int main(void)\n{\n}\n", False),
    ("bench/lone.c", "int main(int argc, char **argv)\n{\n}\n", False),
    ("tests/native/lone.c", "static int domain(void)\n{\n}\n", True),
    ("tests/native/lone.c", "int main(void)\n{\n}\n", False),
])
def test_a_c_file_that_is_no_program_needs_a_header(check, name, text, faulty):
    status, printed = check(**{name: text})
    assert (status, printed) == (1, [f"{name}: has no header of its own name"]) if faulty else status == 0


@pytest.mark.parametrize("changes, circle", [
    ({"native/ring.h": '#include "tunnel.h"\n'}, "native/ring -> native/tunnel -> native/ring"),
    # A source file closes the circle: neither header includes the other.
    ({"native/flow.c": '#include "flow.h"\n  #  include "tunnel.h"\n'}, "native/flow -> native/tunnel -> native/flow"),
    ({"native/ring.c": '#include "../bench/floor.h"\n', "bench/floor.h": '#include "../native/tunnel.h"\n'},
     "bench/floor -> native/tunnel -> native/ring -> bench/floor"),
    ({"gwlbtun/geneve.py": "from .trace import text\n"}, "gwlbtun/geneve -> gwlbtun/trace -> gwlbtun/geneve"),
    ({"gwlbtun/geneve.py": "from . import daemon\n"}, "gwlbtun/daemon -> gwlbtun/geneve -> gwlbtun/daemon"),
    ({"gwlbtun/geneve.py": "try:\n    import gwlbtun.trace as log\nexcept ImportError:\n    pass\n"},
     "gwlbtun/geneve -> gwlbtun/trace -> gwlbtun/geneve"),
    ({"gwlbtun/__init__.py": "from .geneve import parse\n"}, "gwlbtun/__init__ -> gwlbtun/geneve -> gwlbtun/__init__"),
    ({"bench/chart.py": "import run\n"}, "bench/chart -> bench/run -> bench/chart"),
    ({"tests/support/lab.py": "import gwlb\n", "tests/support/gwlb.py": "from lab import ENI\n"},
     "tests/support/gwlb -> tests/support/lab -> tests/support/gwlb"),
])
def test_a_circle_is_told_with_all_its_rooms(check, changes, circle):
    assert check(**changes) == (1, [f"{circle.split()[0]}: is in a circle: {circle}"])


@pytest.mark.parametrize("late", [
    "def look():\n    from .trace import text\n",
    "class Look:\n    def look(self):\n        from .trace import text\n",
    "if TYPE_CHECKING:\n    from .trace import text\n",
    "# from .trace import text\n",
])
def test_an_import_that_runs_later_makes_no_circle(check, late):
    assert check(**{"gwlbtun/geneve.py": late})[0] == 0


def test_two_circles_are_two_faults(check):
    status, printed = check(**{"native/ring.h": '#include "tunnel.h"\n', "native/flow.h": '#include "tunnel.h"\n'})
    assert status == 1
    assert [line.partition(": is in a circle")[0] for line in printed] == ["native/flow", "native/tunnel"]


def test_every_fault_has_a_line(check):
    status, printed = check(**{"native/lone.c": lines(501), "tests/unit/test_big.py": lines(501),
                               "bench/chart.py": "import run\n"})
    assert status == 1
    assert [line.partition(":")[0] for line in printed] == [
        "native/lone.c", "tests/unit/test_big.py", "native/lone.c", "bench/chart"]


def test_a_file_that_the_map_does_not_name(check):
    status, lines = check(**{"docs/ARCHITECTURE.md": "`native/ring.[ch]`, `flow.[ch]`, `tunnel.[ch]`, `gwlbtun/__init__.py`, "
                                                     "`trace.py`, `daemon.py`, `gwlbtun/demo/`",
                             "gwlbtun/demo/host.py": "", "gwlbtun/show.py": ""})
    assert status == 1
    assert lines == ["gwlbtun/geneve.py: is not in the table of rooms in docs/ARCHITECTURE.md",
                     "gwlbtun/show.py: is not in the table of rooms in docs/ARCHITECTURE.md"]
