"""Notes about data, of which each listener hears each once: the runs of a study read the same text."""

from collections.abc import Callable
from weakref import WeakKeyDictionary

_heard: WeakKeyDictionary[Callable[[str], object], set[str]] = WeakKeyDictionary()


def note(log: Callable[[str], object], text: str) -> None:
    """Tells `log` what is so of the data, unless it was told before; nothing where `text` is empty.

    What happens, such as that text is being tokenised, is no note: it is told whenever it happens.
    """
    try:
        heard = _heard.setdefault(log, set())
    except TypeError:  # a listener that cannot be looked up hears it each time
        heard = set()
    if text and text not in heard:
        heard.add(text)
        log(text)
