"""Write data/sample.csv: 3,000 small film reviews, so that everything runs with no download.

    python data/make_sample.py

The films, their people and the reviews are made up by the small grammar below. What is notable:
- A film has a quality that its reviews follow, and names and a story that they mention: a split
  should not cut films in two.
- One review in ten is decided by the order of its words alone: in 'The plot is weak, but the songs
  were lovely' the last clause decides, and many have a twin with the clauses exchanged and the
  other label.
- Denials, hedges, mixed opinions where the majority decides, near-duplicates within a film, reviews
  of one word and of three hundred, <br /> tags, typographic quotes, emoji, a few words of other
  languages.
- NOISE of the labels are wrong, so nobody reaches 100 %.
The same seed gives the same bytes on every Python >= 3.10. They depend on every draw and its order.
"""
import csv
import os
import re
from pathlib import Path
from random import Random

SEED = 1
N_REVIEWS = 3000
N_FILMS = 450  # one in five gets no review
NOISE = 0.04   # share of wrong labels


# The words. Of a pair of lists, the first blames and the second praises: PAIR[good].

def phrases(text):
    """The phrases of a text, which stand between | or on lines of their own."""
    return re.split(r' *[|\n]', text.strip())


ASPECTS = {}  # {what one can have an opinion on: the adjectives that fit it, blame and praise}
for line in phrases('''
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
villain: harmless cartoonish dull ridiculous / menacing chilling magnetic sly'''):
    aspect, adjectives = line.split(':')
    blame, praise = adjectives.split('/')
    ASPECTS[aspect] = (blame.split(), praise.split())

GENERAL = (
    'weak dreadful poor awful terrible lousy tedious disappointing'.split(),
    'wonderful superb lovely brilliant excellent delightful splendid great'.split(),
)
FEELINGS = (
    'hated disliked loathed resented'.split(),
    'loved liked admired enjoyed'.split(),
)

ALTERNATIVES = {}  # {word: the others of its list}
for pair in [GENERAL, FEELINGS, *ASPECTS.values()]:
    for words in pair:
        for word in words:
            ALTERNATIVES[word] = [other for other in words if other != word]

# what occurs twice is twice as likely
DENIALS = ('not ', 'never ', 'hardly ', 'not at all ', 'far from ', 'anything but ')
DEGREES = ('', '', '', '', 'really ', 'truly ', 'so ')
VERBS = (  # singular and plural; a denied clause has one of the first two pairs
    ('is', 'are'),
    ('was', 'were'),
    ('is', 'are'),
    ('was', 'were'),
    ('seemed', 'seemed'),
    ('felt', 'felt'),
)
HEDGES = phrases('''
I think|to be fair,|I admit that|if I am honest,|I would say that|I suppose|looking back,
on reflection,|most of the time|perhaps it is my age, but|I may be alone in this, but''')
FRAMES = ('', 'this is ', 'all in all it is ', 'on the whole this is ')

# {0} loses and {1} decides
CONTRASTS = phrases('{}, but {}|{}, yet {}|{}, but in the end {}|although {}, {}')
COMPARISONS = phrases('it is more {1} than {0}|it is {1}, not {0}|I found it less {0} than {1}')

# whole sentences; what stands in braces is the film's own
VERDICTS = (
    phrases('''
I want my evening back|I fell asleep before the second act|Do not bother|Not worth the ticket
Avoid it|My sister yawned, and so did I|{star} sleepwalks through it|I left annoyed|What a waste
Скучно|{title} is a long, cold bore|{director} directs with a heavy hand
I have warned all my friends|退屈でした。|{star} has never been worse|I had forgotten it by dinner
It ruined my whole week|It is hardly a masterpiece|{title} deserves to be forgotten
Shame on you, {director}|I looked at my watch every ten minutes
Nobody in our row wanted to stay|{star} looks lost in every scene|¡Qué aburrimiento!'''),
    phrases('''
I could sit through it twice|I would watch it again tomorrow|Do not miss it|Worth every penny
See it|My sister cried, and so did I|{star} carries the film with ease|I left humming|What a treat
Браво|{title} is a small wonder|{director} directs with a light hand
I have told all my friends to go|最高でした。|{star} has never been better
It stayed with me for days|It made my whole week|It is anything but a bore
{title} deserves a far larger audience
Bravo, {director}|I did not look at my watch once
Nobody in our row wanted to leave|{star} lights up every scene|¡Qué maravilla!'''),
)
MARKS = (phrases('👎|💤|🙄|1/10|2/10|3/10'), phrases('👍|🎉|❤️|8/10|9/10|10/10'))

# sentences that do not judge
CONTEXT = phrases('''
We saw it on a rainy Tuesday|The train there was late|The cinema was half full
It runs for two hours or so|I was the only one there without a child
My brother knows the book by heart|Most of it was shot in winter
It is the third film by the same team|The poster shows a naïve little postman
There are subtitles in two languages|We talked about it all the way home''')
STORY = phrases('''
My neighbour had told me about {title}|{title} is based on a true story
{director} wrote the script together with a cousin|It is set in {place}, where it always rains
{star} plays {role} who {deed}|There is a subplot about {role2} who {deed2}
One day a stranger arrives in {place}, and nobody asks why
A scene in a café goes on for quite a while
Before long {role2} turns up with a suitcase and a goat
A storm cuts {place} off from the rest of the world|Everybody keeps a secret from {role}
In the middle there is a long dinner at which {role2} makes a speech
{star} also sings, on the roof of the town hall|A letter is lost, found — and lost again
The second half takes place on a boat, ten years later
The whole of {place} gathers for the big parade''')

# what the titles and the stories of films are made of
TITLES = phrases('''
{number} {thing}s in {place}|The {thing}s of {place}|The Last {thing} in {place}
Café {place}|A {thing} for {name}|{name} and the {thing}|Goodbye, {place}
{place}, {number} o’Clock''')
FILM_WORDS = {
    'number': phrases('Two|Three|Five|Seven|Nine|Ten|Eleven|Twelve'),
    'thing': phrases('''
Teapot|Lantern|Orchard|Trombone|Umbrella|Clock|Bicycle|Weathervane|Accordion|Suitcase|Kite'''),
    'place': phrases('''
Oldrake|Harrowmere|Dorrowick|Lindenmoor|Marrowby|Velmouth|Tarnhollow|Quellbridge|Fenwarren
Osterquay|Brackenhythe|Zillerode|Käsewinkel|Montfleury-sur-Ouvre|Santa Pimienta'''),
    'name': phrases('''
Mira|Anton|Inês|Béla|Oona|Tomasz|Zoë|Renée|Kofi|Liv|Søren|Amara|Jun|Petra|Idris|Noor'''),
    'family': phrases('''
Tarrowby|Velquist|Ostermoor|Quillfeather|Brandelow|Sallowick|Dunmarrow|Krestovane|Ömerdal'''),
    'role': phrases('''
a baker|a widow|a young doctor|a bus driver|a retired thief|a piano tuner|a tax inspector
an orphan|a beekeeper|an unlucky magician|a night porter|a village teacher|a clockmaker'''),
    'deed': phrases('''
inherits a ferry|finds a letter in a piano|must sell the family farm|wakes up in the wrong town
hides a fugitive for one winter|builds a boat in a cellar|comes home after twenty years
learns to fly a kite|has to judge a pie contest|steals a clock from a museum
falls in love with a rival|loses a bet and a horse'''),
    'genre': phrases('''
film|film|comedy|drama|thriller|musical|western|ghost story|romance|road movie'''),
}


# The films

def correct_articles(text):
    """'a awful film' -> 'an awful film'.

    No word above has a silent h or begins with the sound of 'you'.
    """
    text = re.sub(r'\b([Aa])n? (?=[aeiouAEIOU])', r'\1n ', text)
    return re.sub(r'\b([Aa])n? (?=[^\WaeiouAEIOU])', r'\1 ', text)


def make_film(rng):
    """Its title, and {slot of the sentences above: what fills it in reviews of this film}."""
    film = {key: rng.choice(words) for key, words in FILM_WORDS.items()}
    other = {key: rng.choice(words) for key, words in FILM_WORDS.items()}
    title = correct_articles(rng.choice(TITLES).format(**film))
    film['title'] = rng.choice([f'“{title}”', f'"{title}"'])
    film['star'] = f'{film["name"]} {film["family"]}'
    film['director'] = f'{other["name"]} {other["family"]}'
    film['role2'] = other['role']
    film['deed2'] = other['deed']
    return title, film


# The sentences. `used` holds the choices that the review has made so far.

def choose_new(rng, used, choices):
    """One of the choices that this review has not used yet, while there are such."""
    new = [choice for choice in choices if choice not in used]
    choice = rng.choice(new or list(choices))
    used.add(choice)
    return choice


def clause(rng, used, good, denied=False, plain=False):
    """'the plot is so clever', 'I liked the plot' or, denied, 'the plot is never thin'."""
    aspect = choose_new(rng, used, ASPECTS)
    praises = good != denied  # a denied blame is a praise
    if not plain and rng.random() < 0.2:
        feeling = choose_new(rng, used, FEELINGS[praises])
        return f'I never {feeling} the {aspect}' if denied else f'I {feeling} the {aspect}'

    if plain or rng.random() < 0.5:
        adjective = choose_new(rng, used, GENERAL[praises])
    else:
        adjective = choose_new(rng, used, ASPECTS[aspect][praises])
    singular, plural = rng.choice(VERBS[:2] if denied else VERBS)
    verb = plural if aspect.endswith('s') else singular
    adverb = ''
    if not plain:
        adverb = rng.choice(DENIALS if denied else DEGREES)
    return f'the {aspect} {verb} {adverb}{adjective}'


def contrast(rng, used, good):
    """A sentence and its twin: the same words in another order, with the opposite verdict."""
    if rng.random() < 0.3:
        first = choose_new(rng, used, GENERAL[not good])
        last = choose_new(rng, used, GENERAL[good])
        pattern = rng.choice(COMPARISONS)
    else:
        first = clause(rng, used, not good, plain=True)
        last = clause(rng, used, good, plain=True)
        pattern = rng.choice(CONTRASTS)
    return pattern.format(first, last), pattern.format(last, first)


def sentence(rng, used, good):
    """An opinion: a clause, a hedged one, two, a contrast, or a word on the film as such."""
    kind = rng.random()
    denied = rng.random() < (0.04 if good else 0.12)
    if kind < 0.4:
        return clause(rng, used, good, denied)
    if kind < 0.55:
        hedge = choose_new(rng, used, HEDGES)
        return f'{hedge} {clause(rng, used, good, denied)}'
    if kind < 0.8:
        first = clause(rng, used, good)
        return f'{first} and {clause(rng, used, good)}'
    if kind < 0.84:
        return contrast(rng, used, good)[0]
    adjective = choose_new(rng, used, GENERAL[good != denied])
    frame = choose_new(rng, used, FRAMES)
    if denied:
        frame += 'not '
    return frame + f'a {adjective} {{genre}}'


def choose_some(rng, sentences, share):
    """About this share of the sentences, in their order."""
    return [text for text in sentences if rng.random() < share]


# The reviews

def join(paragraphs, gap):
    """Lists of sentences -> a review: capitals, full stops, and the gap between paragraphs."""
    texts = []
    for sentences in paragraphs:
        finished = []
        for text in sentences:
            text = text[0].upper() + text[1:]
            if text[-1] not in '!。':
                text += '.'
            finished.append(text)
        if finished:
            texts.append(' '.join(finished))
    return gap.join(texts)


def write_twins(rng, used, good, gap):
    """A review that word order alone decides, and its twin of the opposite verdict."""
    context = choose_some(rng, CONTEXT + STORY, 0.04)
    sentences = []
    exchanged = []
    for _ in range(rng.choice([1, 1, 2])):
        text, twin = contrast(rng, used, good)
        sentences.append(text)
        exchanged.append(twin)
    return join([context, sentences], gap), join([context, exchanged], gap)


def write_few_words(rng, used, good):
    """A review of a few words."""
    one = choose_new(rng, used, GENERAL[good])
    two = choose_new(rng, used, GENERAL[good])
    text = rng.choice([
        one,
        f'simply {one}',
        f'{one} and {two}',
        f'what a {one} {{genre}}',
        f'not {rng.choice(GENERAL[not good])}',
        rng.choice(VERDICTS[good]),
    ])
    return join([[text]], gap='')


def change_a_word(rng, text):
    """The text with one of its words exchanged for a similar one; None if it has no such word."""
    matches = [match for match in re.finditer(r'[\w-]+', text) if match[0] in ALTERNATIVES]
    match = rng.choice(matches or [None])
    if match is None:
        return None
    return text[:match.start()] + rng.choice(ALTERNATIVES[match[0]]) + text[match.end():]


def write_opinions(rng, used, good, kind, gap):
    """A review of opinions between sentences that do not judge; kind, 0 to 1, says which."""
    share = 0.04  # of the sentences that do not judge
    if kind > 0.98:  # denials only
        n_opinions = rng.choice([1, 2])
        opinions = [clause(rng, used, good, denied=True) for _ in range(n_opinions)]
    elif kind > 0.87:  # the majority decides
        sides = [good] * rng.choice([2, 3, 3]) + [not good]
        opinions = [clause(rng, used, side) for side in sides]
    elif kind > 0.855:  # very long
        share = 0.9
        sides = [good] * 8 + [not good] * 3
        opinions = [sentence(rng, used, side) for side in sides]
    else:
        n_opinions = rng.choice([1, 2, 2, 3, 3, 4])
        opinions = [sentence(rng, used, good) for _ in range(n_opinions)]
    rng.shuffle(opinions)
    if rng.random() < 0.6:
        opinions.append(choose_new(rng, used, VERDICTS[good]))
    mark = rng.choice(MARKS[good])
    is_marked = rng.random() < 0.08

    context = choose_some(rng, CONTEXT, share)
    story = choose_some(rng, STORY, share)
    text = join([context, story, opinions], gap)
    return f'{text} {mark}' if is_marked else text


def write_review(rng, good, earlier, twins):
    """A review whose slots are still empty.

    earlier: reviews of this film and verdict
    twins: {verdict: twins that are still to be used}; may get another, or lose one
    """
    used = set()
    kind = rng.random()
    gap = rng.choice([' ', ' ', ' ', '<br /><br />'])
    if kind < 0.1:  # decided by word order alone
        if twins[good] and rng.random() < 0.4:
            return twins[good].pop()
        text, twin = write_twins(rng, used, good, gap)
        twins[not good].append(twin)
        return text
    if kind < 0.12:
        return write_few_words(rng, used, good)
    if kind < 0.16 and earlier:  # a near-duplicate
        text = change_a_word(rng, rng.choice(earlier))
        if text:
            return text
    return write_opinions(rng, used, good, kind, gap)


def main():
    rng = Random(SEED)
    films = {}  # {title: what fills the slots}
    while len(films) < N_FILMS:
        title, slots = make_film(rng)
        films[title] = slots
    titles = list(films)

    rows = [('review', 'label', 'movie')]
    earlier = {}  # {(film, verdict): its reviews so far}
    twins = {True: [], False: []}
    while len(rows) < 1 + N_REVIEWS:
        # a few films have many reviews, many have few
        film = min(rng.randrange(N_FILMS) for _ in range(3))
        title = titles[film]
        quality = (0.05, 0.25, 0.5, 0.75, 0.95)[film % 5]
        good = rng.random() < quality
        reviews = earlier.setdefault((film, good), [])
        review = write_review(rng, good, reviews, twins)
        reviews.append(review)

        text = correct_articles(review.format(**films[title]))
        is_wrong = rng.random() < NOISE
        label = 'pos' if good != is_wrong else 'neg'
        if rng.random() < 0.04:
            text = text.lower()
        rows.append((text, label, title))

    # replaced when complete, so the file is never half-written
    path = Path(__file__).with_name('sample.csv')
    with open(f'{path}.tmp', 'w', encoding='utf-8', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows(rows)
    os.replace(f'{path}.tmp', path)


if __name__ == '__main__':
    main()
