"""One vocabulary for the text of several sources."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mixlm.data.sources.base import Source, digest
from mixlm.data.vocabulary import Vocabulary, VocabularySpec


@dataclass(frozen=True)
class SharedVocabulary:
    """A vocabulary for several sources, trained on the text of all of them in proportion to its size."""

    vocabulary: VocabularySpec
    sources: tuple[Source, ...]

    def fingerprint(self, text_fingerprint: str) -> str:
        """SHA-256 over the vocabulary and the text of all sources; that of one alone does not matter."""
        del text_fingerprint
        return self.vocabulary.fingerprint(self._text)

    def load(
        self,
        documents: Callable[[], Iterable[str]],
        text_fingerprint: str,
        cache_dir: Path,
        log: Callable[[str], object],
    ) -> Vocabulary:
        """The vocabulary, trained on the train splits of all sources if it has to be."""
        del documents, text_fingerprint
        return self.vocabulary.load(self._documents, self._text, cache_dir, log)

    @cached_property
    def _text(self) -> str:
        return digest([source.fingerprint() for source in self.sources])

    def _documents(self) -> Iterator[str]:
        return itertools.chain.from_iterable(source.documents("train") for source in self.sources)
