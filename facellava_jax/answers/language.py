"""Whether an answer is in English. In other languages nothing is read, not even words that are English too ("fake").

They are told by their common words, of the languages in OTHERS alone, and by their script. An answer without a word of
these ("Emosi: neutral"), or in another language in Latin letters (Czech, Finnish, Hungarian ...), is read as English.
"""

from collections.abc import Mapping
from functools import cache

from .words import compile_pattern

# Common words of each language's stop word list (snowballstem.org; of Polish, Turkish, Indonesian and Vietnamese, which
# have none there, github.com/stopwords-iso), and what its answers say of faces. Left out is what is English too (in,
# on, no, a, an, do, me, er, um, y for yes), and "au", which is an action unit here.
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
        "el la los las una uno un es en con que del se está unos unas parece años rostro persona muestra hombre "
        "mujer muy sin"
    ),
    "Italian": (
        "il lo la gli una è di che con nel nella della del sono viso sembra anni persona mostra volto uomo donna"
    ),
    "Portuguese": "uma é em não com da na os ao rosto parece anos pessoa mostra homem mulher",
    "Dutch": (
        "het een van niet op met en de zijn er dit deze voor maar ook wordt heeft gezicht lijkt jaar ziet toont vrouw "
        "geen"
    ),
    "Swedish": "och att det som på är av för med inte en ett hon jag ut ser år ungefär ansiktet ansikte kvinna mannen",
    "Danish": "og det som på af med ikke en et hun jeg ser år omkring ansigtet ansigt kvinde manden",
    "Norwegian": "og det som på av med ikke en et hun jeg ser år omtrent ansiktet ansikt kvinne mannen",
    "Polish": "jest nie się że jak ale lat osoba około twarz wygląda kobieta mężczyzna wideo",
    "Turkish": "bir ve bu için ile çok değil gibi olarak daha yaş\u0131nda kişi yüz kad\u0131n erkek görünüyor",
    "Indonesian": "yang dan di ini itu dengan untuk tidak adalah dari berusia tahun orang wajah sekitar wanita pria",
    "Vietnamese": "và của là có không được trong với cho một người này khoảng tuổi khuôn mặt phụ nữ đàn ông",
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
