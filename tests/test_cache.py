"""What is kept follows from the code behind it; workers give their results in order and end with their parent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bioface import paths
from study import cache, notebook

CHECKOUT = Path(__file__).resolve().parents[1]
CALLS_SKIN = """
from bioface import skin
from study import cache

def mean(melanin):
    print("made")
    return float(skin.reflectance(melanin, 0.04).mean())

print(cache.kept(mean, (0.1,)))
"""


def times_two(number):
    """In a worker: twice the number, and whose work it was."""
    return 2 * number, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def grow(number, kept=[]):  # noqa: B006
    """In a worker: keep more and more memory, for which loky ends it and begins another."""
    kept.append(b"x" * 200_000_000)
    time.sleep(1.2)  # it looks every second
    return number


def sleep_for_ever(folder):
    """In a worker: say who works, then do not end."""
    Path(folder, str(os.getpid())).touch()
    while True:
        time.sleep(0.1)


@pytest.mark.slow
def test_a_worker_that_grows_is_replaced_without_a_word(recwarn):
    """A notebook would show the warning, and its outputs would not be the committed ones."""
    assert cache.side_by_side(grow, [(k,) for k in range(8)]) == [*range(8)]
    assert not recwarn.list


@pytest.mark.slow
def test_another_skin_model_is_another_result(tmp_path):
    """joblib by itself sees the function only, not what it calls."""
    shutil.copytree(CHECKOUT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / "src" / "a_module.py").write_text(CALLS_SKIN)
    # the copy's lines are not to be counted as the package's
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    environment |= {"PYTHONPATH": str(tmp_path / "src"), "BIOFACE_BUILD": str(tmp_path / "build")}

    def run():
        command = [sys.executable, "-c", "import a_module"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    (_, first), again = run(), run()
    assert again == [first]
    skin = tmp_path / "src" / "bioface" / "skin.py"
    text = skin.read_text()
    assert "8.53" in text  # of the baseline of absorption
    skin.write_text(text.replace("8.53", "9.53"))
    made, other = run()
    assert made == "made" and other != first


def test_a_result_is_kept_where_the_build_folder_is_and_made_again_where_it_is_damaged(folders):
    calls = [(times_two, (number,), number) for number in (1, 2)]
    first = cache.kept(*calls[0])
    (file,) = (paths.build() / "cache").rglob("output.pkl")
    assert cache.missing(calls) == calls[1:]
    whole = file.read_bytes()
    for damage in (whole, whole[: len(whole) // 2], b"", b"no archive"):
        file.write_bytes(damage)
        assert cache.kept(*calls[0]) == first and file.read_bytes() == whole


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_results_come_in_the_order_of_the_jobs(workers, monkeypatch):
    monkeypatch.setattr(notebook, "processors", lambda: workers)
    found = cache.side_by_side(times_two, [(k,) for k in range(5)])
    assert [number for number, *_ in found] == [0, 2, 4, 6, 8]
    if workers > 1:
        assert os.getpid() not in {process for _, process, _ in found}
        assert {threads for *_, threads in found} == {"1"}
    assert cache.side_by_side(times_two, []) == []
    with pytest.raises(TypeError):  # of a worker
        cache.side_by_side(times_two, [("a", "b"), (1,)])


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path, how):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_cache; from study import cache, notebook;"
        "notebook.processors = lambda: 2; cache.side_by_side(test_cache.sleep_for_ever, [(sys.argv[2],)] * 2)"
    )
    here, seen = str(Path(__file__).parent), tmp_path / "workers"
    seen.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", code, here, str(seen)])
    limit = time.monotonic() + 120
    while len(workers := list(seen.iterdir())) < 2:
        assert time.monotonic() < limit and parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(how)
    parent.wait(10)
    time.sleep(3)
    assert not [worker.name for worker in workers if alive(worker.name)]
