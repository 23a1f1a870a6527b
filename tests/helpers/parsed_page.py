"""An HTML page as its elements, for tests to look into."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = ("meta", "br", "img", "link", "input")


class Page(HTMLParser):
    """Elements with their attributes, text by the tag around it, and whether all tags are closed."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(source)
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of_class(self, name: str) -> list[dict[str, str]]:
        """Attributes of the elements of a class."""
        return [attrs for _, attrs in self.elements if name in attrs.get("class", "").split()]

    def text(self, tag: str | None = None) -> str:
        """All text, or that directly inside one kind of tag."""
        return " ".join(data for inside, data in self.texts if tag in (None, inside) and data.strip())
