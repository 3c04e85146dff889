"""HTML in which text is text: what is not `Html` is escaped."""

from html import escape

# Light and dark as the reader's system is; pictures stay on white.
STYLE = """
:root { color-scheme: light dark; --text: #1a202c; --quiet: #5a6677; --line: #dfe4ea; --page: #fff; --card: #f5f7fa;
  --accent: #2b6cb0; --paper: #c05621; }
@media (prefers-color-scheme: dark) { :root { --text: #e5e9f0; --quiet: #9aa5b5; --line: #353d4a; --page: #14181f;
  --card: #1e242d; --accent: #63a4e8; --paper: #ed9a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 0; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.quiet { color: var(--quiet); margin: 0 0 1rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 1.5rem; }
.tile { flex: 1 1 11rem; max-width: 21rem; padding: .8rem 1rem; border-radius: .6rem; background: var(--card); }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--quiet); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child, table.text th, table.text td { text-align: left; }
table.text td { overflow-wrap: anywhere; min-width: 8rem; }
table.text td:last-child { white-space: pre-wrap; min-width: 18rem; }
figure { margin: 1.5rem 0; padding: .75rem; background: #fff; border: 1px solid var(--line); border-radius: .6rem; }
figure img { display: block; max-width: 100%; margin: 0 auto; }
summary { cursor: pointer; color: var(--accent); margin: 1rem 0 .5rem; }
pre { padding: 1rem; border-radius: .6rem; background: var(--card); overflow-x: auto; font-size: .85rem; }
.scale { display: block; overflow: visible; width: 9rem; height: 1rem; margin: .25rem 0 0 auto; }
.scale .track { fill: var(--line); } .scale .interval { fill: var(--accent); opacity: .45; }
.scale .value { fill: var(--accent); } .scale .paper { stroke: var(--paper); stroke-width: 1.5; fill: none; }
"""
# Neither scripts nor anything from elsewhere, whatever an answer holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Elements without content. In drawings these must be closed.
EMPTY = {"meta", "img", "rect", "circle", "line"}


class Html(str):
    """Text that is HTML already."""


def element(tag: str, *content: str, **attributes: object) -> Html:
    """An element; `class_` and `http_equiv` are written as HTML has them."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    given = "".join(f' {names[name]}="{escape(str(value))}"' for name, value in attributes.items())
    if tag in EMPTY:
        return Html(f"<{tag}{given}/>")
    inner = "".join(part if isinstance(part, Html) else escape(part) for part in content)
    return Html(f"<{tag}{given}>{inner}</{tag}>")


def page(title: str, *content: Html) -> Html:
    """A whole document that loads nothing and runs nothing."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    return Html(
        "<!doctype html>\n" + element("html", head, element("body", element("main", *content)), lang="en") + "\n"
    )
