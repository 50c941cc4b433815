"""Never two at once, whoever comes, waits and goes, and nothing is left behind."""

import threading
import time

from mixlm.data.store.file_lock import exclusive


def test_never_two_at_once_however_many_come_and_go(tmp_path):
    inside, crowds, rounds = 0, [], 25
    waited: list[str] = []

    def work():
        nonlocal inside
        for _ in range(rounds):
            with exclusive(tmp_path / "deeper" / ".lock", lambda: waited.append("waiting")):
                inside += 1
                crowds.append(inside)
                time.sleep(0.001)  # long enough for the others to come
                crowds.append(inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert crowds == [1] * (2 * 6 * rounds)
    assert 0 < len(waited) <= 6 * rounds
    assert list((tmp_path / "deeper").iterdir()) == []


def test_a_failure_inside_lets_go(tmp_path):
    for _ in range(2):
        try:
            with exclusive(tmp_path / ".lock", lambda: None):
                raise ValueError
        except ValueError:
            pass
    assert list(tmp_path.iterdir()) == []
