"""A made-up table of one's own, as awkward as real ones: python tests/tickets.py > tickets.csv

1,500 support tickets: text (quotes, line breaks, four scripts, emoji), label (bug, billing or
praise: 60, 30, 10 %), tags (none, one or several), customer.
"""
import csv
import random
import sys

ABOUT = {
    'bug': [
        'The app crashes when I open “settings”', 'It says "error 500", then nothing',
        'Login fails\nafter the update', 'Die App stürzt beim Start ab 😡',
        'Seit dem Update geht nichts mehr', 'Приложение не открывается', 'アプリが起動しません',
        'Search finds nothing,\n\nnot even "home"', 'The export button does nothing'],
    'billing': [
        'I was charged twice', 'Where is my refund?',
        'The invoice shows 1,200.00 instead of 120.00 €', 'Bitte die Rechnung als PDF',
        'Ich wurde doppelt belastet', 'Верните деньги за подписку', '請求書が届きません',
        'Please cancel my subscription 💳'],
    'praise': [
        'Love it ❤️', 'Best app ever, thank you!', 'Danke, läuft wunderbar 🎉',
        'Спасибо, всё отлично', '最高のアプリ'],
}
ADDED = {
    'urgent': ['ASAP please', 'Dringend!', 'Это срочно', '急いでください'],
    'mobile': ['on my phone', 'Android 📱', 'iPhone'],
    'europe': ['VAT id attached', 'GDPR', 'Grüße aus Köln'],
}
OPENING = ['Hello,\n', 'Hi team, ', 'Hallo! ', 'Здравствуйте. ', '', '', '']


def tickets(n=1500, seed=0):
    """Yield rows (text, label, tags, customer); one label in twenty is wrong, as it happens."""
    rng = random.Random(seed)
    for _ in range(n):
        label = rng.choices(list(ABOUT), (60, 30, 10))[0]
        tags = sorted(rng.sample(list(ADDED), rng.choice([0, 0, 1, 1, 2])))
        parts = rng.sample(ABOUT[label], rng.choice([1, 2]))
        parts += [rng.choice(ADDED[tag]) for tag in tags]
        text = rng.choice(OPENING) + '. '.join(parts) + f' (#{rng.randrange(10 ** 6)})'
        if rng.random() >= 0.95:
            label = rng.choice(list(ABOUT))
        yield text, label, ';'.join(tags), f'c{rng.randrange(400)}'


if __name__ == '__main__':
    sys.stdout.reconfigure(encoding='utf-8', newline='')
    csv.writer(sys.stdout).writerows([('text', 'label', 'tags', 'customer'), *tickets()])
