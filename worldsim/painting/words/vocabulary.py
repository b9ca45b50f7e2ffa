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
    _share("brick, brickwork, bricked, brickwall, clay, adobe, terracotta", "brick"),
    _share(
        "stone, stonework, stony, masonry, concrete, cement, stucco, plaster, plastered, "
        "sandstone, limestone, slate, cobblestone, cobbled, flagstone, paved",
        "stone",
    ),
    _share(
        "rock, rocky, craggy, cliff, cliffside, boulder, ashen, granite, basalt, obsidian, gravel, "
        "volcanic",
        "rock",
    ),
    _share(
        "metal, metallic, steel, iron, bronze, silver, copper, brass, tin, aluminium, aluminum, "
        "chrome, girder, pipe, piping, tube, duct, grate, grating, grille",
        "metal",
    ),
    _share(
        "tech, high tech, technical, technology, computer, console, machine, machinery, circuit, "
        "electronic, screen, monitor, terminal, server, sci fi, cyberpunk",
        "tech",
    ),
    _share("panel, panelled, paneled, panelling, paneling, cladding", "panel"),
    _share(
        "wood, wooden, timber, plank, board, log, rafter, oak, pine, mahogany, bamboo, crate, "
        "wood panel, wooden panel, wood panelling, wood paneling",
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
    _share(
        "garden, meadow, lawn, field, park, forest, jungle, woodland, rainforest, glade, "
        "clearing, orchard, vineyard, farm, prairie, steppe, savanna, moor, heath",
        "nature",
        sky=PLAIN,
    ),
    _share("swamp, marsh, bog, wetland", "nature", sky=PLAIN, water=PLAIN),
)
"""Kinds of floors."""
WATERS = _share(
    "pool, pond, lake, sea, ocean, lagoon, river, stream, creek, brook, canal, channel, reservoir, "
    "puddle, moat, flooded, submerged, underwater",
    "water",
)
"""Words that ask for water unless another liquid stands beside them, as in "a pool of lava"."""
MOISTURES = (
    Term("damp, moist, wet, humid, soggy, dank, leaky, leaking", hints={"water": SOME}),
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
    _share("outdoors, outdoor, outside, open air, roofless, exterior", "sky", openness=LIT),
    Term("indoors, indoor, inside, interior", {"sky": NONE}),
    Term("underground", {"sky": NONE}, {"light": DIM}),
)
LIT_TERMS = (
    Term("lit, well lit, illuminated, lighted, neon, fluorescent", {"light": LIT}),
    Term("light", {"light": LIT}, absent={"light": 0.02}),
)
"""Words that support another word for light beside them, as in "dim light"."""
LIGHTS = (
    *LIT_TERMS,
    Term("pitch dark, pitch black, lightless", {"light": 0.02}),
    Term(
        "dark, darkness, gloomy, gloom, shadowy, shadow, unlit, murky, night, midnight, moonlit, "
        "moonlight, starlit, starlight, poorly lit, badly lit",
        {"light": DARK},
    ),
    Term(
        "dim, dimly lit, dimly, low light, faint light, little light, half lit, softly lit, dusky, "
        "dusk, dawn, twilight, evening, sunset, sunrise, shady, candlelit, torchlit",
        {"light": DIM},
    ),
    Term(
        "bright, brightly lit, brilliant, sunny, sunlit, sunlight, sunshine, daylight, midday, "
        "noon, dazzling, blinding, glaring, brightly",
        {"light": BRIGHT},
    ),
)
SIZES = (
    Term("cramped, tiny, miniature, confined, claustrophobic", {"openness": TINY}),
    Term("narrow, small, tight, compact, enclosed, cosy, cozy, snug", {"openness": NARROW}),
    Term("medium, medium sized, mid sized, middle sized, average", {"openness": MIDDLE}),
    Term("open, wide, large, big, spacious, roomy, airy, broad, grand, great", {"openness": WIDE}),
    Term("open ground, open terrain, open country", {"openness": WIDE}, {"sky": PLAIN}),
    Term(
        "huge, vast, enormous, immense, gigantic, giant, massive, colossal, endless, infinite, "
        "wide open",
        {"openness": HUGE},
    ),
)
PLACES = (
    Term("hall, gallery", hints={"openness": 0.7, "sky": NONE}),
    Term(
        "room, chamber, vault, kitchen, bedroom, bathroom, toilet, dining, living, office, lobby, "
        "foyer, lounge, studio, gym, shop, store, bank, bakery, supermarket, mall, school, "
        "hospital, hotel, motel, restaurant, cafe, club, theatre, theater, cinema, museum, house, "
        "home, villa, mansion, manor, apartment, building, workshop, barracks, armory, armoury, "
        "guardroom",
        hints={"sky": NONE},
    ),
    Term("alcove, niche, recess, nook, closet, pantry", hints={"openness": NARROW, "sky": NONE}),
    Term(
        "library, study, cabin, hut, barn, attic, loft, pub, tavern, inn, cottage, farmhouse, "
        "shed, stable, mill, windmill, watermill",
        hints={"wood": PLAIN, "sky": NONE},
    ),
    Term("prison, jail, cell", hints={"stone": PLAIN, "sky": NONE, "openness": 0.2}),
    Term("bunker, garage, hangar, submarine, spaceship", hints={"metal": PLAIN, "sky": NONE}),
    Term(
        "corridor, hallway, passage, passageway, tunnel, aisle",
        hints={"openness": 0.2, "sky": NONE},
    ),
    Term("cave, cavern, grotto, mine", hints={"rock": PLAIN, "sky": NONE}),
    Term(
        "canyon, gorge, ravine, valley, mountain, quarry, crater",
        hints={"rock": PLAIN, "sky": PLAIN},
    ),
    Term("volcano", hints={"rock": PLAIN, "lava": PLAIN, "sky": PLAIN}),
    Term(
        "base, station, facility, installation, laboratory, lab, complex, control room, "
        "engine room, reactor, airport, spaceport, subway, metro",
        hints={"tech": PLAIN},
    ),
    Term(
        "factory, plant, refinery, foundry, boiler room, pump room",
        hints={"metal": PLAIN, "tech": SOME},
    ),
    Term("forge, smithy, furnace", hints={"brick": PLAIN, "hot": SOME, "sky": NONE}),
    Term("warehouse, storeroom, storage, depot", hints={"wood": PLAIN}),
    Term(
        "dungeon, crypt, tomb, cellar, basement, catacomb",
        hints={"stone": PLAIN, "sky": NONE, "light": DIM},
    ),
    Term(
        "castle, fortress, keep, tower, fort, ruin, monastery, abbey, cloister, pyramid, mausoleum",
        hints={"stone": PLAIN},
    ),
    Term("graveyard, cemetery", hints={"stone": PLAIN, "nature": PLAIN, "sky": PLAIN}),
    Term("labyrinth, maze", hints={"openness": 0.2}),
    Term(
        "temple, church, chapel, cathedral, shrine, palace, mosque, synagogue",
        hints={"marble": PLAIN},
    ),
    Term("sewer, drain", hints={"slime": PLAIN, "sky": NONE}),
    Term("hell, inferno, hellish, infernal, demonic", hints={"hot": PLAIN, "flesh": SOME}),
    Term(
        "courtyard, yard, court, plaza, arena, stadium, market, patio, terrace, rooftop, harbour, "
        "harbor, dock, pier, crossroad, road, path, camp",
        hints={"sky": PLAIN, "openness": 0.7},
    ),
    Term(
        "desert, beach, shore, coast, island, hill, hilltop, plateau",
        hints={"sky": PLAIN, "openness": WIDE},
    ),
    Term("greenhouse, conservatory", hints={"nature": PLAIN, "light": LIT}),
    Term(
        "street, alley, lane, city, town, village, downtown, suburb, slum, skyscraper",
        hints={"brick": PLAIN, "sky": PLAIN},
    ),
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
    "dirty, clean, quiet, silent, eerie, spooky, beautiful, strange, empty, rotten, rotting, "
    "mouldy, moldy, decayed, decaying, crumbling, cracked, broken, damaged, destroyed, burnt, "
    "burned, charred, sooty, polished, shiny, gleaming, reflective, dull, matte, smooth, rough, "
    "coarse, filthy, grimy, greasy, slippery, sticky, smelly, stinking, reeking, spotless, tidy, "
    "neat, messy, cluttered, crowded, bare, sparse, painted, gilded, vaulted, domed, arched, "
    "circular, oval, rectangular, triangular, octagonal, winding, twisting, straight, sloping, "
    "slanted, uneven"
)
THINGS = (
    "window, glass, curtain, carpet, rug, tile, tiled, mirror, picture, painting, table, desk, "
    "chair, bench, sofa, couch, bed, shelf, bookshelf, book, cupboard, barrel, box, chest, oven, "
    "stove, sink, lamp, lantern, torch, candle, chandelier, fireplace, column, pillar, arch, beam, "
    "statue, fountain, altar, throne, bridge, balcony, railing, fence, ladder, lift, elevator, "
    "sign, poster, graffiti, tree, bush, flower, leaf, leaves, vine, root, sand, snow, ice, cloud, "
    "sun, moon, star, rain, fog, mist, smoke, steam, dust, person, people, monster, animal, car, "
    "entrance, exit, entry, archway, portal, threshold, ramp, slope, shaft, hole, pit, trench, "
    "ditch, gap, vent, skylight, wallpaper, tapestry, leather, fabric, cloth, plastic, rubber, "
    "crystal, cobweb, cable, wire, fan, cage, bar, chain, hook, spike, blade, rack, locker, "
    "cabinet, counter, tank, aquarium, well, hedge, ivy, fern, mushroom, trunk, stump, ship, boat, "
    "train, railway, platform, deck"
)
FEELINGS = (
    "warm, cold, cool, fresh, friendly, pleasant, comfortable, homely, lovely, pretty, ugly, "
    "scary, creepy, haunted, mysterious, lonely, peaceful, calm, modern, new, medieval, gothic, "
    "futuristic, alien, fancy, simple, plain, rich, poor, foggy, misty, smoky, dusty, sandy, "
    "snowy, icy, stormy, deep, steep, flat, frozen, freezing, chilly, steamy, hazy, cloudy, "
    "overcast, rainy, stuffy, stale, soft, harsh, inviting, welcoming, cheerful, rustic, elegant, "
    "luxurious, opulent, ornate, bleak, dreary, sinister, ominous, foreboding, cursed, unholy, "
    "holy, sacred, religious, magical, enchanted, fantasy, steampunk, victorian, baroque, roman, "
    "greek, egyptian, japanese, industrial, commercial, residential, military, clinical, sterile, "
    "rural, urban, suburban, normal, ordinary, typical, regular, nice, good, bad, realistic, "
    "photorealistic, detailed, photo, photograph, image, render, torture, clear, stagnant, "
    "bubbling, flowing, sunken"
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
    "middle, centre, center, background, surface, texture, one, s, d, still, see, seen, quality"
)
"""Words without content."""
