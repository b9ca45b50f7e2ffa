"""The closed vocabulary of prompts: words, and the attributes of a place that they ask for.

An amount in [0, 1] says how much of an attribute a word asks for, relative to real places. For
``light`` and ``openness``, which every place has, it is a quantile: a place of amount 0.1 is darker
than 90% of all places. For other attributes, 0 is absence, and a larger amount is a quantile of the
places that show the attribute.
:meth:`worldsim.painting.words.attributes.AttributePrior.values` converts amounts to attribute
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NONE, SOME, PLAIN, MUCH = 0.0, 0.25, 0.7, 0.95
"""Amounts of "no brick", "some brick", "brick" and "mostly brick"."""
SCALES = ("light", "openness")
"""Attributes that every place has. Words ask for a quantile of all places."""
DARK, DIM, LIT, BRIGHT = 0.08, 0.25, 0.75, 0.92
TINY, NARROW, MIDDLE, WIDE, HUGE = 0.04, 0.15, 0.5, 0.85, 0.97


@dataclass(frozen=True)
class Term:
    """An entry of the vocabulary.

    words: spellings, separated by commas. Plurals of the last word need not be listed.
    says: amounts that the term asks for.
    hints: amounts that apply unless another term says something about the attribute.
    absent: amounts that the negated term asks for; None if it cannot be negated.
    """

    words: str
    says: Mapping[str, float] = field(default_factory=dict)
    hints: Mapping[str, float] = field(default_factory=dict)
    absent: Mapping[str, float] | None = None

    @property
    def spellings(self) -> tuple[str, ...]:
        """All spellings."""
        return tuple(word.strip() for word in self.words.split(","))


def _share(words: str, attribute: str, **hints: float) -> Term:
    """Return a term for an attribute that a place may lack."""
    return Term(words, {attribute: PLAIN}, hints, {attribute: NONE})


STRIKING = ("water", "lava", "slime", "blood", "hot", "flesh", "slimy")
"""Attributes that change the look of a whole place, so that nobody expects them unasked."""
MATERIALS = (
    _share("brick, brickwork, bricked", "brick"),
    _share("stone, stonework, stony, masonry, concrete, cement, stucco", "stone"),
    _share("rock, rocky, craggy, cliff, boulder, ashen", "rock"),
    _share("metal, metallic, steel, iron, bronze, silver, girder, pipe, piping", "metal"),
    _share(
        "tech, high tech, technical, technology, computer, console, machine, machinery, circuit, "
        "electronic",
        "tech",
    ),
    _share("panel, panelled, paneled, panelling, paneling, cladding", "panel"),
    _share(
        "wood, wooden, timber, plank, crate, wood panel, wooden panel, wood panelling, "
        "wood paneling",
        "wood",
    ),
    _share("marble, marbled", "marble"),
    _share("flesh, fleshy, skin, skull, bone, bony", "flesh"),
    _share("hot, hot rock, fire, fiery, flame, flaming, burning, blazing, glowing", "hot"),
    _share("slimy, dripping, oozing, waterfall, slimefall, bloodfall", "slimy"),
    _share("door, doorway, gate, gateway", "door"),
)
"""Families of wall textures."""
FLOORS = (
    _share("water, watery", "water"),
    _share("lava, magma, molten, molten rock", "lava"),
    _share(
        "slime, nukage, acid, acidic, toxic, toxic waste, nuclear waste, radioactive, sludge, goo, "
        "poison, poisonous",
        "slime",
    ),
    _share("blood, bloody, gore, gory", "blood"),
    _share(
        "nature, natural, grass, grassy, dirt, earth, earthen, mud, muddy, soil, moss, mossy",
        "nature",
    ),
    _share("garden, meadow, lawn, field, park, forest, jungle", "nature", sky=PLAIN),
)
"""Kinds of floors."""
WATERS = _share("pool, pond, lake, sea, river, stream, puddle, moat, flooded", "water")
"""Words that ask for water unless another liquid stands beside them, as in "a pool of lava"."""
MOISTURES = (
    Term("damp, moist, wet, humid, soggy", hints={"water": SOME}),
    Term("dry, arid", hints={"water": NONE}),
)
STAIRS = (
    _share(
        "stair, staircase, stairway, stairwell, step, stepped, flight of stairs, flight of steps",
        "stairs",
    ),
)
SKIES = (
    _share("sky, open sky", "sky"),
    _share("outdoors, outdoor, outside, open air, roofless", "sky", openness=LIT),
    Term("indoors, indoor, inside, interior", {"sky": NONE}),
    Term("underground", {"sky": NONE}, {"light": DIM}),
)
LIT_TERMS = (
    Term("lit, well lit, illuminated, lighted", {"light": LIT}),
    Term("light", {"light": LIT}, absent={"light": 0.02}),
)
"""Words that support another word for light beside them, as in "dim light"."""
LIGHTS = (
    *LIT_TERMS,
    Term("pitch dark, pitch black, lightless", {"light": 0.02}),
    Term(
        "dark, darkness, gloomy, gloom, shadowy, shadow, unlit, murky, night, moonlit, poorly lit, "
        "badly lit",
        {"light": DARK},
    ),
    Term(
        "dim, dimly lit, dimly, low light, faint light, little light, dusky, dusk, twilight, "
        "shady, candlelit, torchlit",
        {"light": DIM},
    ),
    Term(
        "bright, brightly lit, brilliant, sunny, sunlit, sunlight, daylight, brightly",
        {"light": BRIGHT},
    ),
)
SIZES = (
    Term("cramped, tiny, confined, claustrophobic", {"openness": TINY}),
    Term("narrow, small, tight, compact, enclosed, cosy, cozy, snug", {"openness": NARROW}),
    Term("open, wide, large, big, spacious, roomy, airy, broad, grand, great", {"openness": WIDE}),
    Term("open ground, open terrain, open country", {"openness": WIDE}, {"sky": PLAIN}),
    Term("huge, vast, enormous, immense, gigantic, giant, wide open", {"openness": HUGE}),
)
PLACES = (
    Term("hall, gallery", hints={"openness": 0.7, "sky": NONE}),
    Term(
        "room, chamber, vault, kitchen, bedroom, bathroom, office, lobby, lounge, shop, school, "
        "hospital, house, home, building",
        hints={"sky": NONE},
    ),
    Term(
        "library, study, cabin, hut, barn, attic, pub, tavern", hints={"wood": PLAIN, "sky": NONE}
    ),
    Term("prison, jail, cell", hints={"stone": PLAIN, "sky": NONE, "openness": 0.2}),
    Term("bunker, garage, hangar, submarine, spaceship", hints={"metal": PLAIN, "sky": NONE}),
    Term(
        "corridor, hallway, passage, passageway, tunnel, aisle",
        hints={"openness": 0.2, "sky": NONE},
    ),
    Term("cave, cavern, grotto, mine", hints={"rock": PLAIN, "sky": NONE}),
    Term("canyon, gorge, ravine, valley, mountain", hints={"rock": PLAIN, "sky": PLAIN}),
    Term("base, station, facility, installation, laboratory, lab, complex", hints={"tech": PLAIN}),
    Term("factory, plant, refinery, foundry", hints={"metal": PLAIN, "tech": SOME}),
    Term("warehouse, storeroom, depot", hints={"wood": PLAIN}),
    Term(
        "dungeon, crypt, tomb, cellar, basement, catacomb",
        hints={"stone": PLAIN, "sky": NONE, "light": DIM},
    ),
    Term("castle, fortress, keep, tower, fort", hints={"stone": PLAIN}),
    Term("temple, church, chapel, cathedral, shrine, palace", hints={"marble": PLAIN}),
    Term("sewer, drain", hints={"slime": PLAIN, "sky": NONE}),
    Term("hell, inferno, hellish, infernal", hints={"hot": PLAIN, "flesh": SOME}),
    Term("courtyard, yard, court, plaza, arena", hints={"sky": PLAIN, "openness": 0.7}),
    Term("street, alley, city, town, village", hints={"brick": PLAIN, "sky": PLAIN}),
)
"""Kinds of places. Their amounts are hints: "a corridor under the sky" has a sky."""
GROUPS: Mapping[str, tuple[Term, ...]] = {
    "walls": MATERIALS,
    "floors": (*FLOORS, WATERS, *MOISTURES),
    "stairs": STAIRS,
    "sky": SKIES,
    "light": LIGHTS,
    "size": SIZES,
    "kinds of places": PLACES,
}
"""All terms by subject."""


def attributes() -> tuple[str, ...]:
    """Return the attributes that terms ask for, in the order of the vocabulary."""
    terms = [term for group in GROUPS.values() for term in group]
    return tuple(dict.fromkeys(name for term in terms for name in term.says))


NEGATIONS = "no, not, without, never, neither, lacking, free of, devoid of, instead of, rather than"
"""They reach over "or" and "nor": "no lava or slime"."""
QUANTITIES: Mapping[float, str] = {
    SOME: "some, a little, little, a bit of, a few, few, partly, partially, a hint of, hints of, "
    "a trace of, traces of, patches of, a touch of, occasional",
    MUCH: "mostly, mainly, largely, all, entirely, completely, full of, filled with, lots of, "
    "a lot of, plenty of, much, many, covered in, covered with, dominated by, surrounded by",
}
"""They reach over "and" and "or": "some brick and stone". They change ``light`` and ``openness``
only as adverbs, directly before the word: "mostly dark"."""
DEGREES: Mapping[float, str] = {
    SOME: "slightly, somewhat, a bit, barely, moderately",
    MUCH: "very, extremely, really, too, incredibly, highly",
}
"""They reach the next word alone: "very dark brick"."""
ADVERBS = ("partly", "partially", "mostly", "mainly", "largely", "entirely", "completely")
"""Quantities that also change an adjective directly behind them."""

COLOURS = (
    "red, reddish, orange, yellow, yellowish, green, greenish, blue, bluish, purple, violet, pink, "
    "brown, brownish, black, white, grey, gray, gold, golden, crimson, scarlet, turquoise, cyan, "
    "magenta, beige, tan, colourful, colorful, coloured, colored"
)
QUALITIES = (
    "tall, high, low, long, short, old, ancient, ruined, abandoned, round, square, curved, rusty, "
    "dirty, clean, quiet, silent, eerie, spooky, beautiful, strange, empty"
)
THINGS = (
    "window, glass, curtain, carpet, rug, tile, tiled, mirror, picture, painting, table, desk, "
    "chair, bench, sofa, couch, bed, shelf, bookshelf, book, cupboard, barrel, box, chest, oven, "
    "stove, sink, lamp, lantern, torch, candle, chandelier, fireplace, column, pillar, arch, beam, "
    "statue, fountain, altar, throne, bridge, balcony, railing, fence, ladder, lift, elevator, "
    "sign, poster, graffiti, tree, bush, flower, leaf, leaves, vine, root, sand, snow, ice, cloud, "
    "sun, moon, star, rain, fog, mist, smoke, dust, person, people, monster, animal, car"
)
FEELINGS = (
    "warm, cold, cool, fresh, friendly, pleasant, comfortable, homely, lovely, pretty, ugly, "
    "scary, creepy, haunted, mysterious, lonely, peaceful, calm, modern, new, medieval, gothic, "
    "futuristic, alien, fancy, simple, plain, rich, poor, foggy, misty, smoky, dusty, sandy, "
    "snowy, icy, stormy, deep, steep, flat"
)
"""Like COLOURS, QUALITIES and THINGS, these are understood but ask for nothing that a painter has
an attribute for. They are reported with the result."""
STOP_WORDS = (
    "a, an, the, this, that, these, those, it, its, i, me, my, we, our, you, your, of, in, on, at, "
    "by, to, into, from, under, underneath, below, beneath, over, above, near, next, beside, "
    "between, among, behind, around, along, through, across, towards, with, and, or, but, yet, "
    "while, as, like, for, is, are, be, being, was, there, here, where, which, who, has, have, "
    "having, had, made, built, lined, filled, covered, surrounded, leads, leading, lead, opens, "
    "opening, runs, running, lies, lying, stands, standing, fills, covers, show, shows, showing, "
    "make, paint, draw, generate, create, give, want, please, then, nor, just, only, both, each, "
    "every, more, less, quite, rather, fairly, also, place, area, space, scene, view, location, "
    "spot, part, side, wall, walled, floor, floored, ground, terrain, ceiling, roof, corner, "
    "middle, centre, center, background, surface, texture, one, s"
)
"""Words without content."""
