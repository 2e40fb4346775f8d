"""The pocket family's own knowledge: the drawn world, and what it makes of a stranger's picture."""

from PIL import Image


def warning(picture: Image.Image) -> str | None:
    """A plain word where a picture, of any size and mode, is unlike the drawn world; else None."""
    from dsd.model import canvas
    from dsd.pocket import scorer  # both only when asked: a picture of FLUX never needs them

    network = scorer.load()
    seen = canvas.fit(picture, network.size, network.size)
    if network.read([seen])[0].strangeness <= network.strange.item():
        return None
    return (
        "This picture is unlike the drawn critters that the pocket model knows, so expect a poor likeness. "
        "It still runs; for photographs, start the app with FLUX."
    )
