"""The word lists and regular expressions of `stages.models.offline.rules`."""

import re
from functools import lru_cache


@lru_cache(1 << 16)
def stem(word: str) -> str:
    """Stem a word: enough to make invoice, invoices and invoiced one word; not linguistics."""
    word = word.casefold()
    for suffix in ("ing", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def stems(words: str) -> tuple[str, ...]:
    split = re.sub(r"([a-z])([A-Z])", r"\1 \2", words)
    return tuple(dict.fromkeys(stem(word) for word in re.findall(r"[^\W_]+", split)))


_LABELS = (
    ("billing payment invoice finance", "bill charge invoice payment pay paid refund receipt price vat tax card debit"
     " subscription renewal rechnung abbuchung zahlung erstattung facture paiement remboursement factura cobro"),
    ("bug error technical defect incident", "error crash broken fail failed freeze froze wrong blank exception"
     " offline outage glitch unresponsive fehler absturz erreur timeout sync reboot stuck"),
    ("feature request suggestion idea", "feature wish suggestion idea roadmap would love could add"
     " option wunsch integration fonctionnalité"),
    ("shipping delivery order logistics", "ship shipment delivery delivered parcel package tracking courier"
     " warehouse damaged paket lieferung colis livraison pedido envío"),
    ("account access login user", "account login password signin locked 2fa profile email invite seat sso owner"
     " konto passwort anmelden compte passe cuenta contraseña"),
    ("positive praise happy", "great love excellent perfect happy good awesome wonderful super"
     " fantastic helpful pleased"),
    ("negative complaint unhappy", "bad terrible awful angry worst disappointed unacceptable hate broken poor useless"
     " frustrated ridiculous schlecht nul never cannot"),
    ("spam junk", "winner prize casino bitcoin viagra unsubscribe lottery seo backlinks click"),
    ("urgent", "urgent immediately asap emergency outage down critical dringend sofort"),
    ("cancellation churn cancel", "cancel close terminate leave kündigen résilier"),
    ("refund return", "refund return money back erstattung remboursement"),
)  # fmt: skip
SYNONYMS = {key: stems(words) for keys, words in _LABELS for key in stems(keys)}
ALARM = dict.fromkeys(stems("urgent outage emergency critical immediately asap dringend sofort urgence production"), 30)
ALARM |= dict.fromkeys(stems("down unacceptable blocked locked lost breach lawyer angry today overdue dead"), 20)
ALARM |= dict.fromkeys(stems("refund broken crash failed error twice wrong again waiting cannot offline missing"), 10)
ALARM |= dict.fromkeys(stems("whenever rush curious wondering minor idea suggestion someday typo cosmetic"), -20)
ALARM |= dict.fromkeys(stems("please thanks maybe love nice question would bitte danke merci"), -10)
ORDER = ["none", "low", "minor", "normal", "medium", "moderate", "high", "major", "severe", "urgent", "critical"]
SCALES = frozenset(stems("urgency priority severity score rating intensity level importance impact risk confidence"))
FALLBACKS = frozenset(stems("other neutral unknown none general misc miscellaneous undefined unclear na"))
SUMMARIES = frozenset(stems("summary title subject headline tldr abstract overview synopsis"))
SENTENCES = frozenset(stems("reason rationale explanation answer reply response comment quote issue question"))
LANGUAGE = frozenset(stems("language lang locale langue sprache"))
_STOP = {
    "en": "the and you for that this with have was are not but from they your our has been will can is it of to in on"
    " at we my be as an or if so do i a me when there what which just any all after since still please"
    " hello dear team good morning thanks kind regards whenever something",
    "de": "der die das und ist nicht ich wir sie mit für ein eine den dem auf bitte von zu haben hat seit aber oder",
    "fr": "le la les des est et vous nous je pas une un pour dans que qui sur avec mon notre bonjour merci du au",
    "es": "el los las y es no que una por con para mi nuestro hola gracias del se ha desde pero",
    "it": "il gli e non che una per con mio nostro ciao grazie di da sono ma",
}
STOP_WORDS = {code: frozenset(words.split()) for code, words in _STOP.items()}
ANY_STOP = frozenset[str]().union(*STOP_WORDS.values())
NAMES = dict(pair.split() for pair in ("english en", "german de", "french fr", "spanish es", "italian it"))
GENERIC = frozenset(map(stem, ANY_STOP)).union(stems("whether true false customer user text ticket should needs"))
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
GREETING = re.compile(r"(?i)(hi|hello|hey|dear|hallo|bonjour|hola|good (morning|afternoon))\b[\w ,]{0,24}[,.!]?$")
PROPER = re.compile(r"(?<=[a-z,] )[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)*")
KNOWN = frozenset(re.findall(
    r"\S+",
    "$ref $defs $schema definitions title description default examples deprecated discriminator type properties"
    " required additionalProperties enum const anyOf oneOf items minItems maxItems uniqueItems minLength maxLength"
    " format minimum maximum exclusiveMinimum exclusiveMaximum",
))  # fmt: skip
EMAIL = re.compile(
    r"(?i)\b[a-z0-9_]{1,40}([.+-][a-z0-9_]{1,40}){0,4}@([a-z0-9]{1,40}(-[a-z0-9]{1,40}){0,3}\.){1,4}[a-z]{2,20}\b"
)
NUMBER = re.compile(r"(?<![\w.,:/-])-?(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:[.,]\d{1,9})?(?![\w:/-]|[.,]\d)")
MONTHS = {name: n for n, name in enumerate(re.findall("...", "janfebmaraprmayjunjulaugsepoctnovdec"), 1)}
DATES = re.compile(
    r"(?<!\d)(?:(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)(?:[T ](?P<t>(?:[01]\d|2[0-3]):[0-5]\d))?"
    r"|(?P<d2>\d{1,2})[./](?P<m2>\d{1,2})[./](?P<y2>\d{4})"
    r"|(?P<d3>\d{1,2})\.? (?P<m3>[A-Za-z]{3,9}),? (?P<y3>\d{4})"
    r"|(?P<m4>[A-Za-z]{3,9}) (?P<d4>\d{1,2}),? (?P<y4>\d{4}))(?!\d)",
    re.ASCII,
)
