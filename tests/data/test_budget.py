"""Memory for decoding is shared by all threads of a process."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from ironclip.data import images
from ironclip.data.budget import Budget
from ironclip.data.images import decode_into


def test_large_pictures_wait_for_each_other_and_small_ones_do_not(tmp_path, paint, monkeypatch):
    budget = Budget(100)
    held, most = 0, 0

    def hold(size):
        nonlocal held, most
        with budget.take(size):
            with lock:
                held += size
                most = max(most, held)
            time.sleep(0.005)
            with lock:
                held -= size

    lock = threading.Lock()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, [60, 30, 60, 10, 500, 60, 30] * 3))
    assert most == 500  # what is larger than everything goes alone
    assert budget.taken == 0

    seen = []
    monkeypatch.setattr("ironclip.data.images.MEMORY", Budget(10**9))
    monkeypatch.setattr("ironclip.data.images.SMALL", 10)
    size = decode_into(paint(tmp_path / "a.png"), lambda image: seen.append(images.MEMORY.taken) or image.size)
    assert size == (20, 16)
    assert seen[0] >= 20 * 16 * 15
    assert images.MEMORY.taken == 0
