"""Open any vision-language model by name: `open_vlm(name).ask(question, images)`.

`pocket` is the bundled model; a folder or hub id runs on this machine (`dsd.vlm.local`); an address, such as
`http://host/v1`, is used over HTTP (`dsd.vlm.http`). The questions are defined elsewhere.
"""

import inspect
from collections.abc import Callable

from dsd.files.hub import LoadError
from dsd.vlm.base import VLM, Request, VLMError

__all__ = ["VLM", "LoadError", "Request", "VLMError", "open_vlm"]


def open_vlm(name: str, **options: object) -> VLM:
    """Open `pocket`, a folder, a hub id, or the address of an OpenAI-compatible server (`http://host/v1`).

    A local model takes the options of `dsd.vlm.local.open_local`: batch, max_tokens, temperature, device,
    dtype. A server takes those of `dsd.vlm.http.open_http`: model, key (the name of the variable that holds
    it), max_tokens, temperature, in_flight, timeout, retries, patience, budget. None means the default. Raise
    LoadError (a ValueError) for an unknown option and for a model that cannot be opened.
    """
    opener = _opener(name)
    known = [p.name for p in inspect.signature(opener).parameters.values() if p.kind is p.KEYWORD_ONLY]
    given = {option: value for option, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(known))
    if unknown:
        known = [option for option in known if option not in ("clock", "sleep")]  # only for tests
        raise LoadError(f"{name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return opener(name, **given)


def _opener(name: str) -> Callable[..., VLM]:
    # Imported here: a server needs neither torch nor transformers, which take seconds to import.
    if "://" in name:  # one with another scheme too: its error must not quote a password
        from dsd.vlm.http import open_http

        return open_http
    from dsd.vlm.local import open_local

    return open_local
