"""Whether an answer is in English. In other languages nothing is read, not even words that are English too ("fake")."""

from collections.abc import Mapping
from functools import cache

from .words import compile_pattern

# Common words of each language's stop word list (snowballstem.org), and what its answers say of faces. Left out is what
# is English too (in, on, no, a, an, do, me, er, um), and "au", which is an action unit here.
ENGLISH = (
    "the of and with this that are it they their his her he she be been appears looks seems has have had but to or "
    "from which there these those its not by for i you can cannot"
)
OTHERS: Mapping[str, str] = {
    "German": (
        "der die das und ist nicht ein eine einen einer keine kein auf mit im sieht zeigt es sie ich auch sind wird "
        "wurde zu den dem des von vom sich sehr etwa gesicht frau mann"
    ),
    "French": (
        "le la les une est et dans pas ce cette il elle avec sur du des qui que aux ans visage semble environ femme "
        "homme l'image l'homme n'est c'est"
    ),
    "Spanish": (
        "el la los las una uno un es y en con que del se está unos unas parece años rostro persona muestra hombre "
        "mujer muy sin"
    ),
    "Italian": (
        "il lo la gli una è di che con nel nella della del sono viso sembra anni persona mostra volto uomo donna"
    ),
    "Portuguese": "uma é em não com da na os ao rosto parece anos pessoa mostra homem mulher",
    "Dutch": "het een van niet op met en de zijn er gezicht lijkt jaar ziet toont vrouw geen",
}
WORD = r"[^\W\d_]+(?:'[^\W\d_]+)?"
# Letters of the Latin script, with their accents.
LATIN = r"[a-z\u00c0-\u024f]"


@cache
def _languages() -> tuple[frozenset[str], frozenset[str]]:
    """English words, and those of all others."""
    return frozenset(ENGLISH.split()), frozenset(" ".join(OTHERS.values()).split())


def is_english(text: str) -> bool:
    """Whether others have no more words than English in a plain text, and other scripts a fifth of its letters."""
    words = compile_pattern(WORD).findall(text)
    english, foreign = (sum(word in language for word in words) for language in _languages())
    letters = "".join(words)
    return foreign <= english and len(compile_pattern(LATIN).findall(letters)) >= 0.8 * len(letters)
