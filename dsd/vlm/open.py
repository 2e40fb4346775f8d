"""Open any vision-language model by name: `open_vlm(name).ask(question, images)`.

`pocket` is the bundled model; a folder or hub id runs on this machine (`dsd.vlm.local`); an address, such as
`http://host/v1`, is used over HTTP (`dsd.vlm.http`). Callers write the questions.
"""

from dataclasses import fields

from dsd.files.hub import LoadError
from dsd.vlm.base import VLM, Request, VLMError, VLMOptions

__all__ = ["VLM", "LoadError", "Request", "VLMError", "open_vlm"]


def open_vlm(name: str, **options: object) -> VLM:
    """Open a model: `pocket`, a folder, a hub id, or an OpenAI-compatible server, as `http://host/v1`.

    The options are those of `dsd.vlm.local.LocalOptions` or `dsd.vlm.http.HTTPOptions`; None means the
    default. Raise LoadError (a ValueError) for an unknown option and for a model that cannot be opened.
    """
    # Imported here, because HTTP needs neither torch nor transformers, which take seconds to import.
    if "://" in name:  # any scheme: the error for a bad address must not quote a password
        from dsd.vlm.http import HTTPOptions, open_http

        return open_http(name, _parse_options(name, options, HTTPOptions))
    from dsd.vlm.local import LocalOptions, open_local

    return open_local(name, _parse_options(name, options, LocalOptions))


def _parse_options(name: str, options: dict[str, object], kind: type[VLMOptions]) -> VLMOptions:
    values = {option: value for option, value in options.items() if value is not None}
    names = [field.name for field in fields(kind)]
    if unknown := sorted(values.keys() - names):
        raise LoadError(f"{name!r} has no option {', '.join(unknown)}; it has {', '.join(names)}")
    return kind(**values)
