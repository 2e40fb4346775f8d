"""Opens a vision-language model by name: `open_vlm(name).ask(question, images)`, whichever kind it is.

`pocket` is the embedded one; a folder or hub id runs on this machine (`dsd.vlm.local`); an address, such as
`http://host/v1`, is asked over HTTP (`dsd.vlm.http`). What is asked is not known here.
"""

import inspect
from collections.abc import Callable

from dsd.files.hub import LoadError
from dsd.vlm.base import VLM, Request, VLMError

__all__ = ["VLM", "LoadError", "Request", "VLMError", "open_vlm"]


def open_vlm(name: str, **options: object) -> VLM:
    """Open `pocket`, a folder, a hub id, or the address of an OpenAI-compatible server (`http://host/v1`).

    Options of a model on this machine are those of `dsd.vlm.local.open_local`: batch, max_tokens,
    temperature, device, dtype. Options of a server are those of `dsd.vlm.http.open_http`: model, key (the
    name of the variable that holds it), max_tokens, temperature, in_flight, timeout, retries, patience,
    budget. None stands for the default. LoadError (a ValueError) for an option that the model does not have,
    and for a model that cannot be opened.
    """
    opener = _opener(name)
    known = [p.name for p in inspect.signature(opener).parameters.values() if p.kind is p.KEYWORD_ONLY]
    given = {option: value for option, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(known))
    if unknown:
        known = [option for option in known if option not in ("clock", "sleep")]  # those are for tests
        raise LoadError(f"{name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return opener(name, **given)


def _opener(name: str) -> Callable[..., VLM]:
    # Imported here: asking a server needs neither torch nor transformers, which take seconds to arrive.
    if name.startswith(("http://", "https://")):
        from dsd.vlm.http import open_http

        return open_http
    from dsd.vlm.local import open_local

    return open_local
