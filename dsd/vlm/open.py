"""Open any vision-language model by name: `open_vlm(name).ask(question, images)`.

`pocket` is the bundled model; a folder or hub id runs on this machine (`dsd.vlm.local`); an address, such as
`http://host/v1`, is used over HTTP (`dsd.vlm.http`). Callers write the questions.
"""

from dataclasses import fields

from dsd.files.hub import LoadError
from dsd.vlm.base import VLM, Request, VLMError

__all__ = ["VLM", "LoadError", "Request", "VLMError", "open_vlm"]


def open_vlm(name: str, **options: object) -> VLM:
    """Open a model: `pocket`, a folder, a hub id, or an OpenAI-compatible server, as `http://host/v1`.

    The options are those of `dsd.vlm.local.LocalOptions` or `dsd.vlm.http.HTTPOptions`; None means the
    default. Raise LoadError (a ValueError) for an unknown option and for a model that cannot be opened.
    """
    # Imported here, because HTTP needs neither torch nor transformers, which take seconds to import.
    if "://" in name:  # any scheme: the error for a bad address must not quote a password
        from dsd.vlm.http import HTTPOptions as Options
        from dsd.vlm.http import open_http as open_model
    else:
        from dsd.vlm.local import LocalOptions as Options
        from dsd.vlm.local import open_local as open_model
    values = {option: value for option, value in options.items() if value is not None}
    names = [field.name for field in fields(Options)]
    if unknown := sorted(values.keys() - names):
        raise LoadError(f"{name!r} has no option {', '.join(unknown)}; it has {', '.join(names)}")
    return open_model(name, Options(**values))
