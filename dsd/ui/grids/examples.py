"""Subjects with four places each, to start from in the Grids tab."""

from dsd.grids.recipes import CRITTERS, IDENTITY

EXAMPLES = {  # recipe -> subjects with their places
    CRITTERS.name: (
        ("red round striped critter with long ears", ("beach blue hat", "forest", "snow red scarf", "space")),
        ("teal boxy spotted critter with no ears", (
            "city", "sea", "room yellow balloon", "desert moonlight left",
        )),
        ("purple tall plain critter with pointy ears", (
            "forest white flag", "beach sunset right", "city", "snow",
        )),
        ("yellow pointy striped critter with round ears", ("room", "desert red hat", "space", "sea")),
    ),
    IDENTITY.name: (
        ("small ginger kitten with a white chin and a blue collar", (
            "on a sandy beach at noon", "in deep snow on a clear morning", "on a velvet sofa beside a lamp",
            "under neon signs on a wet street",
        )),
        ("round wooden robot with a brass key in its back", (
            "in a pine forest, sunbeams between the trunks", "on a kitchen table in the morning sun",
            "on a rooftop at night, city lights below", "in a field of sunflowers",
        )),
        ("green ceramic teapot shaped like a frog", (
            "on a mossy tree trunk in the rain", "on a library shelf between old books",
            "at a market stall heaped with fruit", "beside a campfire under the stars",
        )),
    ),
}  # fmt: skip
