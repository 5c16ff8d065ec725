"""Write data/sample.csv: 3,000 small film reviews, so that everything runs with no download.

    python data/make_sample.py

The films, their people and the reviews are made up by the small grammar below. What is notable:
- A film has a quality that its reviews follow, and names and a story that they mention: a split should not
  cut films in two.
- One review in ten is decided by the order of its words alone: in 'The plot is weak, but the songs were
  lovely' the last clause decides, and many have a twin with the clauses exchanged and the other label.
- Denials, hedges, mixed opinions where the majority decides, near-duplicates within a film, reviews of one
  word and of three hundred, <br /> tags, typographic quotes, emoji, a few words of other languages.
- `noise` of the labels are wrong, so nobody reaches 100 %.
The same seed gives the same bytes on every Python >= 3.10.
"""
import csv
import os
import re
from pathlib import Path
from random import Random

seed = 1
n_reviews = 3000
n_films = 450  # one in five gets no review
noise = 0.04  # share of wrong labels


def split(text):
    return re.split(r' *[|\n]', text.strip())


# what one can have an opinion on, the blame that fits it and the praise that fits it
ASPECTS = {aspect: [words.split() for words in sides.split('/')] for aspect, sides in (
    line.split(':') for line in split('''
plot: predictable muddled thin far-fetched / clever gripping inventive surprising
acting: wooden stiff unconvincing overdone / subtle natural heartfelt convincing
score: shrill intrusive syrupy forgettable / haunting lush stirring memorable
dialogue: clumsy leaden stilted corny / witty sharp playful quotable
camera work: shaky jittery careless murky / graceful fluid elegant daring
ending: rushed silly abrupt pointless / satisfying bold uplifting unforgettable
pacing: sluggish uneven plodding frantic / brisk assured lively relaxed
jokes: lame crude tired laboured / fresh hilarious cheeky quick
editing: choppy messy erratic confusing / crisp rhythmic precise seamless
characters: flat shallow irritating lifeless / lovable vivid believable complex
songs: tuneless grating bland endless / catchy joyful infectious tender
villain: harmless cartoonish dull ridiculous / menacing chilling magnetic sly'''))}
GENERAL = ['weak dreadful poor awful terrible lousy tedious disappointing'.split(),
           'wonderful superb lovely brilliant excellent delightful splendid great'.split()]
FEELINGS = ['hated disliked loathed resented'.split(), 'loved liked admired enjoyed'.split()]
KIN = {word: [other for other in words if other != word]
       for sides in [GENERAL, FEELINGS, *ASPECTS.values()] for words in sides for word in words}
DENIALS = 'not ', 'never ', 'hardly ', 'not at all ', 'far from ', 'anything but '
DEGREES = '', '', '', '', 'really ', 'truly ', 'so '
VERBS = ('is', 'are'), ('was', 'were'), ('is', 'are'), ('was', 'were'), ('seemed', 'seemed'), ('felt', 'felt')
HEDGES = split('''I think|to be fair,|I admit that|if I am honest,|I would say that|I suppose|looking back,
on reflection,|most of the time|perhaps it is my age, but|I may be alone in this, but''')
CONTRASTS = split('{}, but {}|{}, yet {}|{}, but in the end {}|although {}, {}')  # the last clause decides
COMPARISONS = split('it is more {1} than {0}|it is {1}, not {0}|I found it less {0} than {1}')
FRAMES = '', 'this is ', 'all in all it is ', 'on the whole this is '

# whole sentences that blame, and that praise; what stands in braces is the film's own
VERDICTS = split('''
I want my evening back|I fell asleep before the second act|Do not bother|Not worth the ticket|Avoid it
My sister yawned, and so did I|{star} sleepwalks through it|I left annoyed|What a waste|Скучно
{title} is a long, cold bore|{director} directs with a heavy hand|I have warned all my friends|退屈でした。
{star} has never been worse|I had forgotten it by dinner|It ruined my whole week|It is hardly a masterpiece
{title} deserves to be forgotten|Shame on you, {director}|I looked at my watch every ten minutes
Nobody in our row wanted to stay|{star} looks lost in every scene|¡Qué aburrimiento!'''), split('''
I could sit through it twice|I would watch it again tomorrow|Do not miss it|Worth every penny|See it
My sister cried, and so did I|{star} carries the film with ease|I left humming|What a treat|Браво
{title} is a small wonder|{director} directs with a light hand|I have told all my friends to go|最高でした。
{star} has never been better|It stayed with me for days|It made my whole week|It is anything but a bore
{title} deserves a far larger audience|Bravo, {director}|I did not look at my watch once
Nobody in our row wanted to leave|{star} lights up every scene|¡Qué maravilla!''')
MARKS = split('👎|💤|🙄|1/10|2/10|3/10'), split('👍|🎉|❤️|8/10|9/10|10/10')
CONTEXT = split('''
We saw it on a rainy Tuesday|The train there was late|The cinema was half full|It runs for two hours or so
I was the only one there without a child|My brother knows the book by heart|Most of it was shot in winter
It is the third film by the same team|The poster shows a naïve little postman
There are subtitles in two languages|We talked about it all the way home''')
STORY = split('''
My neighbour had told me about {title}|{title} is based on a true story
{director} wrote the script together with a cousin|It is set in {place}, where it always rains
{star} plays {role} who {deed}|There is a subplot about {role2} who {deed2}
One day a stranger arrives in {place}, and nobody asks why|A scene in a café goes on for quite a while
Before long {role2} turns up with a suitcase and a goat|A storm cuts {place} off from the rest of the world
Everybody keeps a secret from {role}|In the middle there is a long dinner at which {role2} makes a speech
{star} also sings, on the roof of the town hall|A letter is lost, found — and lost again
The second half takes place on a boat, ten years later|The whole of {place} gathers for the big parade''')

TITLES = split('''{number} {thing}s in {place}|The {thing}s of {place}|The Last {thing} in {place}
Café {place}|A {thing} for {name}|{name} and the {thing}|Goodbye, {place}|{place}, {number} o’Clock''')
WORDS = {key: split(words) for key, words in {
    'number': 'Two|Three|Five|Seven|Nine|Ten|Eleven|Twelve',
    'thing': 'Teapot|Lantern|Orchard|Trombone|Umbrella|Clock|Bicycle|Weathervane|Accordion|Suitcase|Kite',
    'place': '''Oldrake|Harrowmere|Dorrowick|Lindenmoor|Marrowby|Velmouth|Tarnhollow|Quellbridge|Fenwarren
Osterquay|Brackenhythe|Zillerode|Käsewinkel|Montfleury-sur-Ouvre|Santa Pimienta''',
    'name': 'Mira|Anton|Inês|Béla|Oona|Tomasz|Zoë|Renée|Kofi|Liv|Søren|Amara|Jun|Petra|Idris|Noor',
    'family': 'Tarrowby|Velquist|Ostermoor|Quillfeather|Brandelow|Sallowick|Dunmarrow|Krestovane|Ömerdal',
    'role': '''a baker|a widow|a young doctor|a bus driver|a retired thief|a piano tuner|a tax inspector
an orphan|a beekeeper|an unlucky magician|a night porter|a village teacher|a clockmaker''',
    'deed': '''inherits a ferry|finds a letter in a piano|must sell the family farm|wakes up in the wrong town
hides a fugitive for one winter|builds a boat in a cellar|comes home after twenty years|learns to fly a kite
has to judge a pie contest|steals a clock from a museum|falls in love with a rival|loses a bet and a horse''',
    'genre': 'film|film|comedy|drama|thriller|musical|western|ghost story|romance|road movie'}.items()}


def articles(text):
    """'a awful film' -> 'an awful film'; no word above has a silent h or begins with the sound of 'you'."""
    return re.sub(r'\b([Aa])n? (\w)', lambda m: m[1] + ('n ' if m[2] in 'aeiouAEIOU' else ' ') + m[2], text)


def make_film(rng):
    """title, {slot of the sentences above: what stands there in reviews of this film}"""
    film, other = ({key: rng.choice(words) for key, words in WORDS.items()} for _ in range(2))
    title = articles(rng.choice(TITLES).format(**film))
    return title, film | {
        'title': rng.choice([f'“{title}”', f'"{title}"']), 'star': f'{film["name"]} {film["family"]}',
        'director': f'{other["name"]} {other["family"]}', 'role2': other['role'], 'deed2': other['deed']}


def fresh(rng, used, choices):
    """One of the choices that this review has not used yet, while there are such."""
    choice = rng.choice([c for c in choices if c not in used] or list(choices))
    used.add(choice)
    return choice


def clause(rng, used, good, denied=False, plain=False):
    """'the plot is so clever', 'I liked the plot' or, denied, 'the plot is never thin'"""
    aspect, side = fresh(rng, used, ASPECTS), good != denied
    if not plain and rng.random() < 0.2:
        return f'I {"never " * denied}{fresh(rng, used, FEELINGS[side])} the {aspect}'
    adjective = fresh(rng, used, (GENERAL if plain or rng.random() < 0.5 else ASPECTS[aspect])[side])
    verb = rng.choice(VERBS[:2] if denied else VERBS)[aspect.endswith('s')]
    how = '' if plain else rng.choice(DENIALS if denied else DEGREES)
    return f'the {aspect} {verb} {how}{adjective}'


def contrast(rng, used, good):
    """A sentence and its twin: the same words in another order, with the opposite verdict."""
    if rng.random() < 0.3:
        first, last = (fresh(rng, used, GENERAL[side]) for side in (not good, good))
        pattern = rng.choice(COMPARISONS)
    else:
        first, last = (clause(rng, used, side, plain=True) for side in (not good, good))
        pattern = rng.choice(CONTRASTS)
    return pattern.format(first, last), pattern.format(last, first)


def sentence(rng, used, good):
    kind, denied = rng.random(), rng.random() < (0.12, 0.04)[good]
    if kind < 0.4:
        return clause(rng, used, good, denied)
    if kind < 0.55:
        return fresh(rng, used, HEDGES) + ' ' + clause(rng, used, good, denied)
    if kind < 0.8:
        return clause(rng, used, good) + ' and ' + clause(rng, used, good)
    if kind < 0.84:
        return contrast(rng, used, good)[0]
    adjective = fresh(rng, used, GENERAL[good != denied])
    return fresh(rng, used, FRAMES) + 'not ' * denied + f'a {adjective} {{genre}}'


def write_review(rng, good, earlier, twins):
    """A review with slots. earlier: those of this film and verdict; twins: {verdict: reviews in waiting}"""
    used, kind, gap = set(), rng.random(), rng.choice([' ', ' ', ' ', '<br /><br />'])

    def some(sentences, share):
        return [s for s in sentences if rng.random() < share]

    def finish(*paragraphs):
        return gap.join(' '.join(s[0].upper() + s[1:] + '.' * (s[-1] not in '!。') for s in sentences)
                        for sentences in paragraphs if sentences)

    if kind < 0.1:  # decided by word order alone
        if twins[good] and rng.random() < 0.4:
            return twins[good].pop()
        context = some(CONTEXT + STORY, 0.04)
        texts, others = zip(*(contrast(rng, used, good) for _ in range(rng.choice([1, 1, 2]))))
        twins[not good].append(finish(context, others))
        return finish(context, texts)
    if kind < 0.12:  # very short
        one, two = fresh(rng, used, GENERAL[good]), fresh(rng, used, GENERAL[good])
        return finish([rng.choice([one, f'simply {one}', f'{one} and {two}', f'what a {one} {{genre}}',
                                   f'not {rng.choice(GENERAL[not good])}', rng.choice(VERDICTS[good])])])
    if kind < 0.16 and earlier:  # an earlier one with another word
        text = rng.choice(earlier)
        spot = rng.choice([m for m in re.finditer(r'[\w-]+', text) if m[0] in KIN] or [None])
        if spot:
            return text[:spot.start()] + rng.choice(KIN[spot[0]]) + text[spot.end():]

    share = 0.04  # of the sentences that do not judge
    if kind > 0.98:  # denials only
        opinions = [clause(rng, used, good, denied=True) for _ in range(rng.choice([1, 2]))]
    elif kind > 0.87:  # the majority decides
        opinions = [clause(rng, used, side) for side in [good] * rng.choice([2, 3, 3]) + [not good]]
    elif kind > 0.855:  # very long
        opinions, share = [sentence(rng, used, good == (i < 8)) for i in range(11)], 0.9
    else:
        opinions = [sentence(rng, used, good) for _ in range(rng.choice([1, 2, 2, 3, 3, 4]))]
    rng.shuffle(opinions)
    if rng.random() < 0.6:
        opinions.append(fresh(rng, used, VERDICTS[good]))
    mark = f' {rng.choice(MARKS[good])}' * (rng.random() < 0.08)
    return finish(some(CONTEXT, share), some(STORY, share), opinions) + mark


def main():
    rng = Random(seed)
    films, earlier, twins, rows = {}, {}, {True: [], False: []}, []
    while len(films) < n_films:
        films.update([make_film(rng)])
    titles = list(films)
    while len(rows) < n_reviews:
        i = min(rng.randrange(n_films) for _ in range(3))  # a few films have many reviews, many have few
        good = rng.random() < (0.05, 0.25, 0.5, 0.75, 0.95)[i % 5]
        known = earlier.setdefault((i, good), [])
        known.append(write_review(rng, good, known, twins))
        text = articles(known[-1].format(**films[titles[i]]))
        label = good != (rng.random() < noise)
        rows.append((text.lower() if rng.random() < 0.04 else text, ('neg', 'pos')[label], titles[i]))

    path = Path(__file__).with_name('sample.csv')
    with open(f'{path}.tmp', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows([('review', 'label', 'movie'), *rows])
    os.replace(f'{path}.tmp', path)


if __name__ == '__main__':
    main()
