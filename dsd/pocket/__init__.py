"""The pocket family: the drawn world, and a warning for images that are unlike it."""

from PIL import Image


def warning(image: Image.Image) -> str | None:
    """Return a warning if the image, of any size and mode, is unlike the drawn world, else None."""
    from dsd.model import canvas
    from dsd.pocket import scorer  # imported late: FLUX images never need them

    network = scorer.load()
    seen = canvas.fit(image, network.size, network.size)
    if network.read([seen])[0].strangeness <= network.strange.item():
        return None
    return (
        "This image is unlike the drawn critters that the pocket model knows, so expect a poor likeness. "
        "It still runs; for photographs, start the app with FLUX."
    )
