"""Write tickets.csv: a week of support mail to Larkfield, a made-up seller of greenhouse sensors.

Run `python -m pipeline.demo.make_tickets`; the file is the same to the byte, which a test checks. Everything in it is
invented. It has the features of real mail: automated texts sent many times, an outage on the Thursday afternoon that
many people report, other languages, quotes and line breaks, and a few tickets with nothing in them.
"""

# ruff: noqa: E501  (one ticket text a line)

import csv
import io
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

PATH = Path(__file__).with_name("tickets.csv")
MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
PER_DAY = (345, 330, 325, 400, 310, 150, 140)
OUTAGE = MONDAY + timedelta(days=3, hours=14)
AUTOMATED, BLANK_BODIES, BLANK = 160, 8, 4


class Ticket(NamedTuple):
    created_at: datetime
    customer: str
    plan: str
    subject: str
    body: str


# A subject and a body. {…} are filled from SLOTS.
TOPICS: dict[str, tuple[tuple[str, str], ...]] = {
    "billing": (
        ("Charged twice for {month}", "Our card was charged twice for {month}: {euros} both times. Please refund one of the charges."),
        ("Invoice {invoice} has the wrong VAT number", "Invoice {invoice} still shows our old VAT number. Our accountant needs a corrected copy before {date}."),
        ("Refund not received", "You promised a refund of {euros} on {past}. It never reached our bank account."),
        ("Why did the price change?", "Our subscription renewal went from {euros} to {raised}. Nobody told us the price would change."),
        ("Payment declined", "The payment for invoice {invoice} was declined although the card is valid. Can we pay by bank transfer?"),
        ("Receipt for {month}", "Could you send a receipt for {month}? The billing page only lists the last three invoices."),
        ("Billed for {count} hubs, we own {small}", "The {month} invoice lists {count} hubs. We own {small}. Please correct invoice {invoice}."),
        ("Downgrade before renewal", "We want to go from pro to free before the renewal on {date}. Will the unused {euros} be refunded?"),
    ),
    "bug": (
        ("Dashboard shows an error", 'The dashboard shows "{error}" each time I open the {page} page. It happens in {browser} too.'),
        ("{device} goes offline every night", "{device} {serial} goes offline around {clock} every night and only comes back after a reboot."),
        ("App crashes on start", "Since the update to {version} the app crashes as soon as I open the {page} page. Reinstalling changed nothing."),
        ("Humidity reading is wrong", "{device} {serial} reports {count} % humidity in a dry room. The value is stuck there since {clock}."),
        ("Alerts arrive late", "Frost alerts for {device} {serial} arrive {count} minutes late. Last night we lost {small} trays of seedlings."),
        ("Sync failed", 'Sync stops at {count} % with "{error}". Firmware is {version}, hub {serial}.'),
        ("CSV export is blank", "The export of the {page} page gives a blank file in {browser}. Last month it was fine."),
        ("Graph freezes", "The {page} graph freezes when I zoom to {count} days. The browser tab, {browser}, has to be closed."),
    ),
    "shipping": (
        ("Where is order {order}?", "Order {order} left your warehouse on {past} and tracking has not moved since. When will the parcel arrive?"),
        ("Parcel arrived damaged", "The parcel with {small} {device} units arrived damaged: the box was wet and one housing is cracked. Order {order}."),
        ("Wrong item delivered", "We ordered {small} {device} units and got {count} mounting clips instead. Order {order}, delivered {past}."),
        ("Change the delivery address", "Please send order {order} to our {city} site instead. The courier has not picked it up yet."),
        ("Customs papers for {order}", "The courier in {city} holds order {order} because the customs form lacks a value. Can you send one?"),
        ("Delivery slot", "Can order {order} be delivered after {clock}? Nobody is at the {city} warehouse before that."),
        ("Half of order {order} is missing", "Tracking says delivered, but only {small} of {count} sensors were in the parcel."),
    ),
    "account": (
        ("Cannot sign in", "I cannot sign in: the password reset email never arrives. I checked spam. My login is {login}."),
        ("Locked out of my account", "My account {login} is locked after I changed my phone and lost the 2FA codes."),
        ("Add a seat for {first}", "Please add a seat for {first}, who joins the {city} team on {date}. The invite button is greyed out."),
        ("Change account owner", "{first} has left the company. Please make {login} the owner of our account."),
        ("Close my account", "Please close my account {login} and delete all sensor data. We have stopped growing in {city}."),
        ("SSO login loops", "Login through SSO sends {login} back to the login page, {count} users are affected."),
        ("Two profiles, one email", "I have two profiles for {login}, one from {month}. Can you merge them?"),
    ),
    "feature": (
        ("Idea: {page} export to Parquet", "It would be great to export the {page} page to Parquet. We load {count} files a week by hand."),
        ("Feature request: dark mode", "We check the {page} page at {clock}. A dark mode would be kind to our eyes."),
        ("Webhook when {device} battery is low", "Could you add a webhook when the battery of a {device} falls below {count} %? We would love that."),
        ("Support for Fahrenheit", "Our {city} site thinks in Fahrenheit. An option on the {page} page would help {count} people."),
        ("API: filter by site", "Is a site filter for the API on the roadmap? We would use it for {count} sites, {city} first."),
        ("Wish: shared notes on the {page} page", "We wish we could leave notes for {first} on the {page} page. Any plans for {month}?"),
    ),
    "other": (
        ("Are you at the {city} fair?", "Will Larkfield be at the growers' fair in {city} in {month}? {first} and I would like to say hello."),
        ("School visit", "Our class of {count} pupils in {city} is studying plants. Is there someone who could talk to us on {date}?"),
        ("Thank you, {first}", "{first} from your team spent {count} minutes on the phone with me on {past}. Wonderful, that is all."),
        ("Recycling old sensors", "Where can we recycle {count} sensors from {month}? The {city} depot does not take them."),
        ("Question about basil", "Which humidity do you recommend for basil near {city}? Ours wilts at {count} %."),
        ("Security questionnaire", "Our buyer in {city} needs a {count} item questionnaire filled in by {date}. Who can help?"),
    ),
    "foreign": (
        ("Rechnung {invoice} ist falsch", "Die Rechnung {invoice} enthält {count} Geräte, wir haben nur {small}. Bitte um Erstattung von {euros}."),
        ("Paket nicht angekommen", "Das Paket mit der Bestellung {order} ist seit dem {past} nicht angekommen. Können Sie das bitte prüfen?"),
        ("Passwort zurücksetzen", "Ich kann mich mit {login} nicht mehr anmelden. Das Passwort lässt sich nicht zurücksetzen."),
        ("Erreur dans l'application", "L'application affiche « {error} » sur la page {page} depuis la version {version}. Merci de votre aide."),
        ("Colis abîmé", "Le colis de la commande {order} est arrivé abîmé à {city}. Nous voulons un remboursement de {euros}."),
        ("Factura de {month}", "No encuentro la factura {invoice} de {month}. ¿Me la pueden enviar? Gracias."),
    ),
}  # fmt: skip
WEIGHTS = {"billing": 21, "bug": 26, "shipping": 17, "account": 14, "feature": 10, "other": 6, "foreign": 6}
SLOTS: dict[str, Sequence[str]] = {
    "month": ("August", "September", "October"),
    "date": ("2026-11-09", "14 November 2026", "2026-11-20", "November 16, 2026", "1 December 2026"),
    "past": ("2026-10-28", "30 October 2026", "October 27, 2026", "2026-11-01"),
    "page": ("alerts", "history", "climate", "sites", "billing", "battery"),
    "browser": ("Firefox", "Chrome", "Safari", "Edge"),
    "device": ("Sprig", "Sprig Mini", "Canopy Hub", "Rootline"),
    "error": ("Error 502", "Something went wrong (code 57)", "timeout after 30 s", "undefined is not a function"),
    "version": ("4.2.0", "4.2.1", "5.0.0-beta", "3.9.8"),
    "clock": ("02:10", "06:30", "09:45", "17:00", "23:55"),
    "city": ("Gdańsk", "Lyon", "Bristol", "Münster", "Aarhus", "Porto", "Sibiu", "Leeds", "Graz", "Turku"),
    "first": ("Anna", "Zoë", "Priya", "Tomáš", "Léa", "Oskar", "Maya", "Søren", "Inés", "Kwame"),
}
NAMES = (
    ("Anna", "Zoë", "Priya", "Tomáš", "Léa", "Oskar", "Maya", "Søren", "Inés", "Kwame", "Łucja", "Hugo", "Mei", "Björn", "Siân"),
    ("Krüger", "O'Brien", "Nowak", "Ødegård", "Núñez", "Patel", "Wójcik", "Martin", "Đặng", "Adeyemi", "Sjöberg", "Rossi", "Tan"),
)  # fmt: skip
COMPANIES = ("Greenhouse Nord, Ltd.", "Fern & Fields, Inc.", "Verdure SARL", "Gärtnerei Blüte", "渡辺農園", "Basil \"Bros\" Co-op")  # fmt: skip
OPENINGS = ("", "", "", "Hi team,\n", "Hello,\n\n", "Good morning,\n", "Dear support,\n", "Hi, ")
MOODS = {
    "calm": ("No rush, whenever you have time.", "It is minor, just wondering.", "Thanks for the nice product!"),
    "plain": ("", "", "", "Thanks.", "Please let me know.", "Kind regards", "Looking forward to your answer."),
    "cross": (
        "This is the third time I write.",
        "I am still waiting, and disappointed.",
        "Honestly, this is unacceptable.",
    ),
    "alarm": (
        "This is URGENT, please call me today!",
        "We are blocked, we need an answer immediately.",
        "Please treat this as critical.",
    ),
    "outage": (
        "URGENT: production is down and plants are dying!",
        "We need help immediately, this is an emergency.",
        "Please call me today, we are losing plants!",
    ),
}
_ASKING = {"calm": 15, "plain": 50, "cross": 23, "alarm": 12}
_FRIENDLY = {"calm": 45, "plain": 55}
SHARES = dict.fromkeys(TOPICS, _ASKING) | {
    "bug": {"calm": 12, "plain": 50, "cross": 20, "outage": 18},
    "feature": _FRIENDLY,
    "other": _FRIENDLY,
}
OUTAGE_TEXTS = (
    ("Everything is offline", "All {count} sensors in {city} went offline at the same time. Is there an outage?"),
    ("OUTAGE? Dashboard down", 'The dashboard only says "{error}" since this afternoon. {count} sites are blind.'),
    ("Hubs down in {city}", "Our hubs in {city} are down, hub {serial} first. Frost is forecast tonight!"),
)
MACHINE_TEXTS = (
    ("[auto] Hub offline for 15 minutes", "This is an automated message. A hub on your account has been offline for 15 minutes.\nRule: hub-offline-15"),
    ("[auto] Battery below 10 %", "This is an automated message. A Sprig sensor reports a battery below 10 %.\nRule: battery-low"),
    ("Payment failed", "Automatic notice: the payment for your subscription failed. We will try the card again in 3 days."),
    ("Out of office", "I am out of the office until 9 November and will answer when I am back."),
    ("Delivery notification", 'The parcel was handed to the courier. Status: "in transit".'),
    ("Password changed", "The password of your account was changed. If that was not you, reply to this email."),
    ("[auto] Frost alert not acknowledged", "This is an automated message. A frost alert, priority high, was not acknowledged within 30 minutes."),
    ("Weekly report", "Automated weekly report: 0 incidents, 0 rejected readings."),
)  # fmt: skip


class Dice:
    """Random draws by `Random.random` only, the one method whose sequence Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed).random

    def number(self, low: int, high: int) -> int:
        return low + int(self.draw() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[self.number(0, len(items) - 1)]

    def weighted(self, weights: dict[str, int]) -> str:
        return self.pick([name for name, weight in weights.items() for _ in range(weight)])


def main() -> None:
    PATH.write_bytes(as_csv(tickets()))


def tickets(seed: int = 2026) -> list[Ticket]:
    """Return 2,000 tickets in order of time; except for automated ones, no two are the same."""
    dice = Dice(seed)
    times = [
        MONDAY + timedelta(days=day, seconds=_second(dice)) for day, count in enumerate(PER_DAY) for _ in range(count)
    ]
    for index in range(45):
        times[sum(PER_DAY[:3]) + index] = OUTAGE + timedelta(seconds=dice.number(0, 5400))
    special = iter(_shuffled(dice, range(len(times))))
    automated = {next(special) for _ in range(AUTOMATED)}
    blank_body = {next(special) for _ in range(BLANK_BODIES)}
    blank = {next(special) for _ in range(BLANK)}
    written: set[tuple[str, str]] = set()
    result = []
    for index, time in enumerate(sorted(times)):
        subject, body = dice.pick(MACHINE_TEXTS)
        if index in blank:
            subject, body = "", ""
        elif index not in automated:
            subject, body = _new_text(dice, time, written)
            body = "" if index in blank_body else body
        result.append(
            Ticket(time, _customer(dice), dice.weighted({"free": 5, "pro": 4, "enterprise": 1}), subject, body)
        )
    return result


def as_csv(rows: Sequence[Ticket]) -> bytes:
    out = io.StringIO()
    sheet = csv.writer(out, lineterminator="\n")
    sheet.writerow(["ticket_id", "created_at", "customer", "plan", "subject", "body"])
    for number, row in enumerate(rows, 1):
        sheet.writerow([f"T-{number:06d}", row.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"), *row[1:]])
    return out.getvalue().encode()


def _second(dice: Dice) -> int:
    """Return a second of the day: most mail comes in working hours, some at any time."""
    return dice.number(7 * 3600, 19 * 3600 - 1) if dice.draw() < 0.85 else dice.number(0, 86_399)


def _shuffled(dice: Dice, items: Sequence[int]) -> list[int]:
    return [item for _, item in sorted((dice.draw(), item) for item in items)]


def _new_text(dice: Dice, time: datetime, written: set[tuple[str, str]]) -> tuple[str, str]:
    """Return a subject and a body that are not in `written`, and add them."""
    while True:
        topic = dice.weighted(WEIGHTS)
        subject, core = dice.pick(TOPICS[topic])
        mood = dice.weighted(SHARES[topic])
        if OUTAGE <= time < OUTAGE + timedelta(hours=2) and dice.draw() < 0.8:
            topic, mood = "bug", "outage"
            subject, core = dice.pick(OUTAGE_TEXTS)
        slots = _slots(dice)
        subject, body = subject.format_map(slots), core.format_map(slots)
        if topic != "foreign":
            closing = dice.pick(MOODS[mood])
            body = f"{dice.pick(OPENINGS)}{body}{dice.pick((' ', chr(10))) if closing else ''}{closing}"
        if mood in ("alarm", "outage") and dice.draw() < 0.3:
            subject = f"URGENT: {subject}"
        if (subject, body) not in written:
            written.add((subject, body))
            return subject, body


def _slots(dice: Dice) -> dict[str, str]:
    slots = {name: dice.pick(values) for name, values in SLOTS.items()}
    small, euros, cents = dice.number(2, 9), dice.number(9, 890), dice.number(0, 99)
    return slots | {
        "small": str(small),
        "count": str(small + dice.number(3, 80)),
        "euros": f"{euros}.{cents:02d} EUR",
        "raised": f"{euros + dice.number(2, 60)}.{cents:02d} EUR",
        "invoice": f"INV-{dice.number(10_000, 99_999)}",
        "order": f"L{dice.number(100_000, 999_999)}",
        "serial": f"{dice.pick('ABCDEFGH')}{dice.number(1000, 9999)}",
        "login": f"{dice.pick(('office', 'grow', 'it', 'info', 'plants'))}{dice.number(1, 99)}@customer.example",
    }


def _customer(dice: Dice) -> str:
    if dice.draw() < 0.15:
        return dice.pick(COMPANIES)
    return f"{dice.pick(NAMES[0])} {dice.pick(NAMES[1])}"


if __name__ == "__main__":
    main()
