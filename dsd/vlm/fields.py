"""Reading labeled fields from what a language model writes.

Models are asked for JSON. Those that cannot be held to it answer with labeled lines, Markdown, tables, JSON
inside prose and more. `read_fields` accepts all of these and guesses nothing: a field has a value only where
the text names the field. Thinking never counts.
"""

import html
import re
from collections.abc import Iterable, Mapping

THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
CLOSED = re.compile(r"^.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
UNCLOSED = re.compile(r"<(?:think|thinking|reasoning)>.*$", re.DOTALL | re.IGNORECASE)
END_TOKEN = re.compile(r"<\|[^<>|]*\|>|</s>")
CORRECTION = re.compile(
    r"(?im)^(?:\W*(?:my |the )?"
    r"(?:final|correct|corrected|correction|revised|wait|actually|on second thought)\b[^\n]*"
    r"|[^\n]{0,60}\b(?:corrected|revised|updated|final)\b[^\n]*:\W*)$"
)
PLAIN = str.maketrans("：，；＝（）“”„‟«»‘’｜！？", ':,;=()""""""\'\'|!?')
STRING = r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'(?=\s*[,:}\]\n]|$)"
VALUE = rf"(?:{STRING}|\{{[^{{}}]*\}}|\[[^\[\]]*\]|-?\d+(?:\.\d+)?|true|false|null|none)"
MEMBER = re.compile(rf"(?P<key>{STRING}|\w+)\s*:\s*(?P<value>{VALUE})(?!\s*\|)", re.DOTALL | re.IGNORECASE)
CLOSING = re.compile(r"\W*(let me know|i hope|feel free|note\b|hope this|if you)", re.IGNORECASE)
FORMATTING = "b i em strong u p span li td answer output code h1 h2 h3".split()
SEPARATOR = r"\s*(?::|=|—|–|->|(?<=\s)-(?=\s))\s*"


def extract_text(raw: str) -> str:
    """Return the answer without thinking, tags, end tokens and needless escapes."""
    text = UNCLOSED.sub("", CLOSED.sub("", THINKING.sub("", raw.replace("\r\n", "\n"))))
    text = re.sub(r"\\boxed\{([^{}]*)\}", r"\1", END_TOKEN.sub("", text)).strip()
    if re.match(r'"\s*\{\s*\\', text) or ("\n" not in text and "\\n" in text):
        text = text.replace("\\n", "\n").replace('\\"', '"')  # it was escaped once too often
    text = re.sub(r"<(\w+)>([^<>]*)</\1>", _unwrap_element, text)
    return html.unescape(re.sub(r"</?[a-zA-Z]\w*\s*/?>", "\n", text)).strip()


def _unwrap_element(match: re.Match) -> str:
    """Return `<verdict>same</verdict>` as a labeled line, and the text alone of formatting elements."""
    name, text = match[1], match[2]
    return text if name.lower() in FORMATTING else f"\n{name}: {text.strip()}\n"


def read_fields(raw: str, labels: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return every value that an answer gives to each field, in the order of the text.

    `labels` maps the name of a field to the words by which models call it. Values are texts; objects and
    lists of JSON keep their brackets. A field with two values was answered twice.
    """
    names = {_normalize(word): field for field, words in labels.items() for word in (field, *words)}
    text = _skip_to_correction(_unfold_tables(extract_text(raw).translate(PLAIN), names), names)
    fields = _read_members(text, names) if "{" in text else {}
    return fields or max(_read_lines(text, names), _read_inline(text, names), key=len)


def _unfold_tables(text: str, names: Mapping[str, str]) -> str:
    """Return the text with a table whose header holds labels turned into labeled lines."""
    lines: list[str] = []
    header: list[str] = []
    for line in text.split("\n"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header and len(cells) == len(header) and not re.fullmatch(r"[\s|:-]*", line):
            lines += [f"{name}: {cell}" for name, cell in zip(header, cells, strict=True)]
            continue
        if len(cells) > 2 and all(_normalize(cell) in names for cell in cells):
            header = cells
        elif "|" not in line:
            header = []
        if not header:
            lines.append(line)
    return "\n".join(lines)


def _skip_to_correction(text: str, names: Mapping[str, str]) -> str:
    """Return what follows the last marked correction, if that is an answer itself."""
    for mark in reversed(list(CORRECTION.finditer(text))):
        rest = text[mark.end() :] if _read_label(mark[0], names) is None else text[mark.start() :]
        if len(_read_members(rest, names) if "{" in rest else _read_lines(rest, names)) > 1:
            return rest
    return text


def _read_members(text: str, names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the members of JSON, also of JSON with comments, single quotes, or a missing end."""
    fields: dict[str, list[str]] = {}
    text = re.sub(r"(?m)(?<=[\s,{])(?://|#)[^\n\"]*$", "", text[text.index("{") :])
    for member in MEMBER.finditer(text):
        value = member["value"]
        if value[0] in "\"'":
            value = re.sub(r"\\(.)", lambda it: {"n": "\n", "t": " "}.get(it[1], it[1]), value[1:-1]).strip()
        if field := names.get(_normalize(member["key"].strip("\"'"))):
            fields.setdefault(field, []).append(value)
    return fields


def _read_lines(text: str, names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return fields that begin a line: `verdict: same`, `- **Verdict** — same`, a heading, a table row."""
    fields: dict[str, list[str]] = {}
    field = None
    for line in text.split("\n"):
        label = _read_label(line, names)
        can_be_value = field and not fields[field][-1] and line.strip()[:1].isalpha() and ":" not in line
        if label and (label[1] or not can_be_value):
            field, value = label
            fields.setdefault(field, []).append(value)
        elif field and line.strip() and not CLOSING.match(line):
            fields[field][-1] = f"{fields[field][-1]}\n{line.strip()}".strip()
        elif field and fields[field][-1]:
            field = None  # an empty line ends a value that has begun
    return fields


def _read_label(line: str, names: Mapping[str, str]) -> tuple[str, str] | None:
    """Return (field, value) of a line that begins with a label."""
    if line.strip().startswith("|"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        scores = [cell for cell in cells[1:] if re.fullmatch(r"[*\s]*\d[*\s]*(/\s*\d[*\s]*)?", cell)]
        line = f"{cells[0]}: {(scores or cells)[-1]}" if len(cells) > 1 else cells[0]
    plain = re.sub(r"[*_`#>]+", "", line)
    number, plain = re.match(r"\s*(?:(\d+)\s*[.)-]\s*|\W+)?(.*)", plain, re.DOTALL).groups()
    first, *rest = re.split(SEPARATOR, plain, maxsplit=1)
    if field := names.get(_normalize(first)):
        return field, (rest[0].strip() if rest else "")
    return (names[number], plain.strip()) if number in names else None


def _read_inline(text: str, names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return fields of an answer in one line: `subject: a fox first: ... verdict: same`."""
    words = "|".join(re.escape(word) for word in sorted(names, key=len, reverse=True))
    parts = re.split(rf"(?i)(?<![^\s.,;|*])\**({words})\**\s*[:=]\**", text)
    fields: dict[str, list[str]] = {}
    for label, value in zip(parts[1::2], parts[2::2], strict=True):
        fields.setdefault(names[_normalize(label)], []).append(value.strip(" \n;|,"))
    return fields


def _normalize(label: str) -> str:
    """Return a label in lower case, with one space for what separates its words."""
    return re.sub(r"[\W_]+", " ", label).strip().casefold()
