"""The report of an evaluation: `report.json` and one page that needs nothing else."""

import html
import json
import os
from dataclasses import dataclass, field
from importlib import resources

import netdiff_ray
from netdiff_ray.evaluate.pictures import Picture, header_spans
from netdiff_ray.evaluate.report_section import table
from netdiff_ray.evaluate.verdict import grade, verdict
from netdiff_ray.storage.store import open_store

FORMAT = "netdiff-evaluation"
FORMAT_VERSION = 1
SECTIONS = {
    "fidelity": "Fidelity: how far are the distributions apart?",
    "utility": "Utility: can it replace real traffic for training?",
    "augmentation": "Augmentation: what does it add to the real training flows?",
    "baseline": "Baseline: what does the model add to its plans and their repair?",
    "conversation": "Conversation: does it do what hosts and a path do?",
    "scene": "Scene: do its hosts do what hosts of a network do together?",
    "dpi": "Recognition: what do other tools take it for?",
    "discrimination": "Discrimination: can a classifier tell it from real traffic?",
    "coverage": "Coverage: is it as varied?",
    "privacy": "Privacy: does it give away what the model was trained on?",
    "compliance": "Compliance: is it valid traffic?",
}
_WORDS = {
    "jsd": ("Jensen-Shannon divergence", "of packet bits; 0 is the same"),
    "jsd_floor": ("its floor", "real flows against themselves"),
    "tvd": ("total variation distance", "of packet bits; 0 is the same"),
    "hellinger": ("Hellinger distance", "of packet bits; 0 is the same"),
    "repair_distance": ("repair distance", "share of drawn bits corrected"),
    "tstr": ("trained on synthetic", "balanced accuracy on real flows"),
    "trtr": ("trained on real", "balanced accuracy on real flows"),
    "ratio": ("ratio", "of the worst view; 1 is as good as real"),
    "ratio_error": ("its error", "that chance alone may make, by the flows tested"),
    "gain_10": ("gain at 10 real flows", "of adding synthetic ones, in the worst view"),
    "gain_10_error": ("its error", "that chance alone may make"),
    "gain": ("gain", "of adding all synthetic flows to the real ones, in the worst view"),
    "gain_error": ("its error", "that chance alone may make"),
    "rare_recall_gain": ("recognised more", "share of the labels that have synthetic flows"),
    "random_ratio": ("ratio of random bits", "under the same plans and repair"),
    "model_adds": ("what the model adds", "to that ratio"),
    "gap_closed": ("gap closed", "by the model, of what random bits lack; 1 is best"),
    "drawn_ratio": ("ratio before repair", "of the bits as they were drawn"),
    "random_jsd": ("divergence of random bits", "of packet bits, after the same repair"),
    "random_difference": ("largest difference of random bits", "of a share of conversations"),
    "largest_difference": ("largest difference", "of a share of conversations; 0 is the same"),
    "largest_difference_floor": ("its floor", "two halves of the real flows"),
    "differing_shares": ("shares that differ", "beyond the floor of real flows; must be 0"),
    "compared_shares": ("shares compared", "over labels and measures"),
    "scene_difference": ("farthest measure of the scene", "from real; 0 is the same"),
    "scene_difference_floor": ("its floor", "halves of the real clients or of time"),
    "measures_beyond": ("measures that differ", "by 0.1 beyond their floors"),
    "scene_measures": ("measures compared", "of all hosts together"),
    "recognised_ratio": ("recognised", "as often as real flows; of the label with the least"),
    "protocol_difference": ("difference of protocols", "that tshark finds, of a label's flows"),
    "accuracy": ("told from real", "accuracy; 0.5 is perfect"),
    "accuracy_floor": ("its floor", "real flows against real ones"),
    "beyond_floor": ("beyond the floor", "0 is perfect"),
    "precision": ("precision", "synthetic flows like real ones"),
    "recall": ("recall", "real flows like synthetic ones"),
    "density": ("density", "how densely; 1 is as real ones"),
    "coverage": ("coverage", "real flows with one near"),
    "duplicates": ("duplicates", "share of exact ones"),
    "closer_to_train": ("closer to training flows", "than to held-out; its floor is ideal"),
    "closer_to_train_floor": ("its floor", "half of the training flows against the other"),
    "mia_auc": ("membership inference", "area under the curve; its floor is ideal"),
    "mia_auc_floor": ("its floor", "half of the training flows against the other"),
    "copies": ("copies", "share of flows that are training flows"),
    "sequences": ("sequences of training flows", "same sizes and directions"),
    "sequences_floor": ("its floor", "held-out flows"),
    "attribute_gain": ("attribute inference", "ports and addresses guessed beyond held-out flows"),
    "addresses": ("training addresses", "in the output; must be 0"),
    "valid_packets": ("valid packets", "share; 1 is best"),
    "valid_flows": ("valid flows", "share; 1 is best"),
    "tshark_errors": ("tshark errors", "expert items of severity error"),
}
_CARDS = (
    ("fidelity", "jsd"), ("utility", "ratio"), ("conversation", "largest_difference"),
    ("discrimination", "accuracy"), ("coverage", "coverage"), ("privacy", "mia_auc"),
    ("dpi", "recognised_ratio"), ("compliance", "valid_flows"),
)  # fmt: skip
_ROWS_SHOWN = 8
_MADE_OF = "made-of.json"
_NONE = "&ndash;"


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of an evaluation."""

    sections: dict[str, dict]
    """By name, those of SECTIONS that there are; each as `section` or `not_available` makes it."""
    sources: dict[str, dict]
    """real, synthetic and others: flows, packets, labels, notes."""
    settings: dict
    made: dict
    """When and with what it was made."""
    notes: list[str]
    against: dict | None = None
    """The main figures beside those of another report, as `compare` makes it."""
    pictures: list[Picture] = field(default_factory=list)

    @property
    def verdict(self) -> dict:
        """What the figures mean, in words."""
        return verdict(self.sections)

    def as_dict(self) -> dict:
        """Return the content of report.json, which report.schema.json describes."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "netdiff_ray": netdiff_ray.__version__,
            "made": self.made,
            "settings": self.settings,
            "verdict": self.verdict,
            "against": self.against,
            "sides": self.sources,
            "notes": self.notes,
            **self.sections,
        }

    def as_html(self) -> str:
        """Return the page."""
        style = resources.files(__package__).joinpath("report.css").read_text()
        sections = [_section(name, self.sections[name], self.pictures) for name in self.sections]
        if self.against:
            sections.insert(0, _comparison(self.against))
        rasters = [p for p in self.pictures if p.is_raster]
        if rasters:
            sections.append(_raster_section(rasters))
        return _PAGE.format(
            style=style,
            verdict=_verdict(self.verdict),
            sources=_sources(self.sources),
            contents=_contents(self.sections, bool(self.against), bool(rasters)),
            notes=_list(self.notes),
            cards="".join(_card(self.sections, *keys) for keys in _CARDS),
            sections="".join(sections),
            settings=html.escape(", ".join(f"{k} {v}" for k, v in self.settings.items())),
            made=_made(self.made),
        )

    def write(self, folder: str | os.PathLike, made_of: dict | None = None) -> None:
        """Write report.json and report.html into a folder, local or on an object store.

        Args:
            made_of: what decides the report, written last, for `read_report`.

        Raises:
            StorageError: the folder cannot be written.
        """
        store = open_store(folder)
        store.delete(_MADE_OF)
        content = json.dumps(self.as_dict(), indent=1, allow_nan=False)
        store.put("report.json", content.encode())
        store.put("report.html", self.as_html().encode())
        if made_of is not None:
            store.put(_MADE_OF, json.dumps(made_of, indent=1).encode())


def read_report(folder: str | os.PathLike, made_of: dict) -> Report | None:
    """Return the report in a folder, without its pictures; None unless made of `made_of`."""
    store = open_store(folder)
    content, origin = store.get("report.json"), store.get(_MADE_OF)
    if not content or not origin or json.loads(origin) != made_of or not store.get("report.html"):
        return None
    values = json.loads(content)
    return Report(
        sections={name: values[name] for name in SECTIONS if name in values},
        sources=values["sides"], settings=values["settings"], made=values["made"],
        notes=values["notes"], against=values["against"],
    )  # fmt: skip


def headline_table(sections: dict[str, dict]) -> str:
    """Return the main figures of all sections, with their meaning, as text for a terminal."""
    rows = [
        (f"{name}.{key}", "-" if value is None else _number(value), ", ".join(_WORDS[key]))
        for name, section in sections.items()
        for key, value in section["headline"].items()
    ]
    names, values = (max(len(row[k]) for row in rows) for k in (0, 1))
    return "\n".join(f"{name:{names}}  {value:>{values}}  {words}" for name, value, words in rows)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of synthetic traffic</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1>Evaluation of synthetic traffic</h1>
{verdict}
{sources}
{notes}
</header>
<nav class="cards" aria-label="Main figures">{cards}</nav>
<nav class="contents" aria-label="Contents">{contents}</nav>
<main>{sections}</main>
<footer>{made}; {settings}. The same figures stand in report.json.</footer>
</body>
</html>
"""


def _card(sections: dict, name: str, key: str) -> str:
    section = sections.get(name)
    if section is None:
        return ""
    value = section["headline"].get(key)
    title, meaning = _WORDS[key]
    if not section["available"]:
        meaning = "not available"
    graded = grade(name, key, section["headline"]) or ""
    return (
        f'<a class="card {graded}" href="#{name}"><span class="part">{name}</span>'
        f"<b>{_cell(value)}</b><span>{html.escape(title)}</span>"
        f"<small>{html.escape(meaning)}</small></a>"
    )


def _section(name: str, section: dict, pictures: list[Picture]) -> str:
    title = html.escape(SECTIONS.get(name, name))
    if not section["available"]:
        reason = html.escape(section["reason"] or "")
        return (
            f'<section id="{name}"><h2>{title}</h2>'
            f'<p class="missing">Not available: {reason}.</p></section>'
        )
    figures = []
    for key, value in section["headline"].items():
        words, meaning = _WORDS.get(key, (key, ""))
        figures.append(
            f'<div class="{grade(name, key, section["headline"]) or ""}">'
            f"<dt>{html.escape(words)}</dt><dd>{_cell(value)}</dd>"
            f"<small>{html.escape(meaning)}</small></div>"
        )
    shown = [p for p in pictures if p.section == name and not p.is_raster]
    images = "".join(_figure(p) for p in shown if not p.folded)
    folded = "".join(_folded(f, shown) for f in dict.fromkeys(p.folded for p in shown if p.folded))
    tables = "".join(_table(t) for t in section["tables"])
    return (
        f'<section id="{name}"><h2>{title}</h2><dl>{"".join(figures)}</dl>'
        f'{_list(section["notes"])}<div class="figures">{images}</div>{folded}{tables}</section>'
    )


def _verdict(content: dict) -> str:
    """Return the verdict and its reasons, worst first."""
    reasons = "".join(
        f'<li class="{reason["grade"]}"><a href="#{reason["section"]}">{reason["section"]}</a>: '
        f"{html.escape(reason['words'])}</li>"
        for reason in content["reasons"]
    )
    return (
        f'<div class="verdict {content["grade"] or ""}"><p>{html.escape(content["words"])}</p>'
        f"<ul>{reasons}</ul></div>"
    )


def _contents(sections: dict, is_compared: bool, has_rasters: bool) -> str:
    names = [*["against"] * is_compared, *sections, *["rasters"] * has_rasters]
    return " ".join(f'<a href="#{name}">{name}</a>' for name in names)


def _comparison(against: dict) -> str:
    """Return the section that sets this report beside another."""
    rows = [
        [f"{section}: {key.replace('_', ' ')}", *values]
        for section, key, *values in against["rows"]
    ]
    made = against["made"].get("date")
    date = f", made {html.escape(made)}" if made else ""
    content = table("Main figures", ["figure", "this", "that", "difference", "is"], rows)
    return (
        '<section id="against"><h2>Against another report</h2>'
        f"<p>That is <code>{html.escape(against['report'])}</code>{date}. Better and worse are "
        f"steps of the colours.</p>{_table(content, folded=False)}</section>"
    )


def _made(made: dict) -> str:
    """Return date, adapter, seed and versions as text."""
    words = [f"Made {made['date']}"]
    if made.get("adapter"):
        words.append(f"adapter {made['adapter'][:16]}")
    if made.get("seed") is not None:
        words.append(f"seed {made['seed']}")
    words += [f"{name} {version}" for name, version in made["versions"].items()]
    return html.escape(", ".join(words))


def _raster_section(rasters: list[Picture]) -> str:
    spans = "".join(
        f'<span style="width:{share:.2%}">{header}</span>' for header, share in header_spans()
    )
    spans = f'<div class="spans" aria-hidden="true">{spans}</div>'
    headers = ", ".join(header for header, _ in header_spans())
    return (
        '<section id="rasters"><h2>Rasters: real beside synthetic</h2><p>A row is a packet, a '
        "column a header bit: red is 1, green 0, blue vacant. Three flows each, of which the first "
        f"packets are shown. Columns, from left to right: {headers}.</p>"
        f'<div class="pairs">{spans}{spans}{"".join(_figure(p) for p in rasters)}</div></section>'
    )


def _folded(heading: str, pictures: list[Picture]) -> str:
    """Return the pictures that are folded under a heading."""
    figures = "".join(_figure(p) for p in pictures if p.folded == heading)
    return (
        f"<details><summary>{html.escape(heading)}</summary>"
        f'<div class="figures">{figures}</div></details>'
    )


def _figure(picture: Picture) -> str:
    kind = ' class="raster"' if picture.is_raster else ""
    return (
        f"<figure{kind}><figcaption>{html.escape(picture.title)}</figcaption>"
        f'<img src="{picture.uri}" alt="{html.escape(picture.alt, quote=True)}"></figure>'
    )


def _table(table: dict, folded: bool = True) -> str:
    """Return a table that scrolls by itself, folded if it is long and may be."""
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in table["columns"])
    rows = [
        "<tr>"
        + f'<th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td>{_cell(value)}</td>" for value in row[1:])
        + "</tr>"
        for row in table["rows"]
    ]
    title = html.escape(table["title"])
    note = f"<p>{html.escape(table['note'])}</p>" if table.get("note") else ""
    body = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    if folded and len(rows) > _ROWS_SHOWN:
        return f"<details><summary>{title} ({len(rows)} rows)</summary>{note}{body}</details>"
    return f"<h3>{title}</h3>{note}{body}"


def _sources(sources: dict) -> str:
    rows = []
    for name, source in sources.items():
        uri = f" from <code>{html.escape(source['source'])}</code>" if source["source"] else ""
        rows.append(
            f"<li><b>{html.escape(name)}</b>: {source['flows']:,} flows, "
            f"{source['packets']:,} packets, {len(source['labels'])} labels{uri}"
            f"{_list(source['notes'])}</li>"
        )
    return f'<ul class="sides">{"".join(rows)}</ul>'


def _list(notes: list[str]) -> str:
    if not notes:
        return ""
    return '<ul class="notes">' + "".join(f"<li>{html.escape(n)}</li>" for n in notes) + "</ul>"


def _cell(value) -> str:
    """Return the text of a value: numbers to three digits, intervals, a dash for None."""
    if value is None:
        return _NONE
    if isinstance(value, list | tuple):
        low, high = (_cell(v) for v in value)
        return f'<span class="interval">{low} to {high}</span>' if low != _NONE else _NONE
    if isinstance(value, bool | str):
        return html.escape(str(value))
    return _number(value)


def _number(value: float) -> str:
    """Return a number to three digits, but not 1 for what falls short of it."""
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0.9995 <= value < 1:
        return f"{value:.6f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1e}"
