"""The table of a study's cells: what is done, running, failed and missing, and the time that is left."""

from collections.abc import Sequence

from mixlm.reports.metrics import duration, read
from mixlm.sweeps.folder import StudyFolder
from mixlm.sweeps.states import DONE, FAILED, MISSING, RUNNING, state_in

ORDER = (DONE, RUNNING, FAILED, MISSING)


def status_lines(folder: StudyFolder) -> list[str]:
    """A line for each cell (its state, its last step and loss), then the counts and the time left."""
    study = folder.content()
    names = [*study.get("stems", []), *(each["cell"] for each in study["cells"])]
    states = {name: state_in(folder, name) for name in names}
    width = max(map(len, states), default=0)
    lines = [f"{name:<{width}}  {state:<7}  {_told(folder, name, state)}".rstrip() for name, state in states.items()]
    return [*lines, "", counts(folder, states)]


def counts(folder: StudyFolder, states: dict[str, str]) -> str:
    """The number of cells in each state, and the time that the missing ones take if they take as long as the others."""
    found = [f"{list(states.values()).count(state)} {state}" for state in ORDER if state in states.values()]
    took = [seconds for name, state in states.items() if state == DONE and (seconds := _seconds(folder, name))]
    waiting = sum(state in (MISSING, RUNNING) for state in states.values())
    if took and waiting:
        found.append(f"about {duration(waiting * sum(took) / len(took))} left in one process")
    versions = {folder.record(name).get("version") for name in states} - {None}
    if len(versions) > 1:
        found.append(f"cells of different versions of mixlm ({', '.join(sorted(map(str, versions)))})")
    return f"{folder}: {', '.join(found)}."


def failures(folder: StudyFolder, cells: Sequence[str]) -> str | None:
    """The sentence that names which of these cells failed; None where none did."""
    failed = [cell for cell in cells if folder.record(cell).get("error")]
    if not failed:
        return None
    first = f"{failed[0]}: {folder.record(failed[0])['error'].rstrip('.')}"
    return f"{len(failed)} of {len(cells)} cells failed ({first})"


def _told(folder: StudyFolder, name: str, state: str) -> str:
    if state == FAILED:
        return str(folder.record(name)["error"])
    lines = read(folder.run(name).path)
    if not lines:
        return ""
    seconds = _seconds(folder, name)
    took = f"  in {duration(seconds)}" if state == DONE and seconds else ""
    return f"step {lines[-1]['step']}  loss {float(lines[-1]['loss']):.4f}{took}"


def _seconds(folder: StudyFolder, name: str) -> float | None:
    return folder.record(name).get("seconds")
