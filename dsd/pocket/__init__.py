"""The pocket family's own knowledge: the drawn world, and what it makes of a stranger's picture."""

from PIL import Image


def warning(picture: Image.Image) -> str | None:
    """A plain word where a picture is unlike the drawn world, else None; `picture` as the model sees it."""
    from dsd.pocket import scorer

    network = scorer.load()
    if network.read([picture])[0].strangeness <= network.strange.item():
        return None
    return (
        "This picture is unlike the drawn critters that the pocket model knows, so the result will be too. "
        "It still runs; for photographs use FLUX."
    )
