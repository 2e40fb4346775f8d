"""Reads what a page would make of some HTML: which elements there are, and what stands between them."""

from html.parser import HTMLParser

OURS = {
    "div": {"class", "role"}, "span": {"class", "style"}, "p": {"class"}, "b": {"class"}, "code": set(),
    "ul": {"class"}, "li": {"class", "title"}, "details": {"class"}, "summary": {"class"},
}  # fmt: skip


class Reading(HTMLParser):
    """`strange` are elements and attributes that this project never writes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.strange, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        known = OURS.get(tag)
        if known is None or not {name for name, _ in attrs} <= known:
            self.strange.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.strange.append(("comment", data))

    handle_decl = handle_pi = unknown_decl = handle_comment
