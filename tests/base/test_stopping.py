"""The end of a process that was told to stop: its workers go with it, and nobody starts others."""

import subprocess
import sys
from pathlib import Path

NURSE = """
import multiprocessing, threading, time
from wsi_pipeline import stopping

def work(word, gate):
    word.set()
    gate.wait()

def nurse(context, word, gate):  # as Dask's: a worker that is gone is started anew
    while True:
        worker = context.Process(target=work, args=(word, gate))
        worker.start()
        worker.join()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    word, gate = context.Event(), context.Event()
    threading.Thread(target=nurse, args=(context, word, gate), daemon=True).start()
    word.wait()
    print("at work", flush=True)
    stopping.end(143)
"""


def test_workers_that_are_ended_are_not_started_anew(tmp_path: Path) -> None:
    script = tmp_path / "nurse.py"
    script.write_text(NURSE)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (143, "at work\n", "")
