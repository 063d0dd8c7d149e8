"""Every panel on a desk, in the dark and on a phone: something is drawn, nothing sticks out, no third of it is blank."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from sparsek.lab import PANELS
from tests.lab.chromium import DESK, PHONE

pytestmark = pytest.mark.browser

SCREENS = {"desk": (DESK, False), "dark": (DESK, True), "phone": (PHONE, False), "phone, dark": (PHONE, True)}
OUTSIDE = """[...document.querySelectorAll('#%s *')].filter((e) => {
  const r = e.getBoundingClientRect();
  return r.width > 0 && (r.left < -1 || r.right > innerWidth + 1) && !e.closest('.table') && getComputedStyle(e).visibility === 'visible';
}).map((e) => `${e.tagName} ${e.textContent.slice(0, 40)} ${e.getBoundingClientRect().right}`)"""


def pixels(png):
    """(height, width, 3) in 0..1."""
    return np.asarray(imread(BytesIO(png), format="png"))[..., :3]


@pytest.fixture(scope="module", params=SCREENS)
def view(chromium, laboratory, request):
    """The page, opened once on each screen."""
    size, dark = SCREENS[request.param]
    chromium.errors.clear()
    chromium.screen(size, dark=dark)
    chromium.open(laboratory)
    yield chromium, size, dark
    assert chromium.errors == []


def test_nothing_sticks_out(view):
    tab, size, _ = view
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert {panel: found for panel in PANELS if (found := tab.evaluate(OUTSIDE % panel))} == {}


HIDDEN = """[...document.querySelectorAll('[data-value]')].filter((e) => {
  const r = e.getBoundingClientRect();
  return getComputedStyle(e).visibility === 'hidden' || (r.width > 0 && (r.left < -1 || r.right > innerWidth + 1));
}).map((e) => e.dataset.testid)"""
CUT = """[...document.querySelectorAll('svg text')].filter((e) => {
  const r = e.getBoundingClientRect();
  return r.width > 0 && (r.left < 0 || r.right > innerWidth);
}).map((e) => e.textContent)"""
FAINT = """(() => {
  const pixel = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    const channels = [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255);
    const [r, g, b] = channels.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll('main *')].filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
    && !e.closest('.cell, .slot, .segment, .button, .card, option, title, [class~="faint"]')).filter((e) => {
    const style = getComputedStyle(e);
    const own = light(e instanceof SVGElement ? style.fill : style.color);
    return (Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05) < 4.5;
  }).map((e) => `${e.closest('section')?.id} ${e.getAttribute('class')} ${e.textContent}`);
})()"""


def test_every_number_can_be_read(view):
    """On a phone, too, none is left out or waits beyond the edge, and no label is cut."""
    tab, *_ = view
    assert tab.evaluate(HIDDEN) == []
    assert tab.evaluate(CUT) == []


def test_text_stands_out_from_the_paper(view):
    """By 4.5 to 1, as WCAG 2.2 asks of text; what stands in coloured cells is not compared with the paper."""
    tab, *_ = view
    assert tab.evaluate(FAINT) == []


def test_arrows_pass_beneath_the_numbers(view):
    tab, *_ = view
    above, below = ("'.map .cell .number'", "'.map .overlay'")
    depth = "Number(getComputedStyle(document.querySelector(%s)).zIndex)"
    assert tab.evaluate(depth % above) > tab.evaluate(depth % below)


@pytest.mark.parametrize("panel", PANELS)
def test_panel(view, panel):
    tab, _, dark = view
    picture = pixels(tab.picture(f"#{panel}"))
    paper = picture[2, 2]
    assert (paper.mean() < 0.2) == dark
    ink = np.abs(picture - paper).max(-1) > 0.1
    assert 0.01 < ink.mean() < 0.6
    assert len(np.unique((picture * 255).astype(int).reshape(-1, 3), axis=0)) > 60
    for band in np.array_split(ink, 3):
        assert band.any(), "a third of the panel is blank"


def test_blank_would_be_seen():
    blank = np.full((300, 200, 3), 0.98)
    assert not (np.abs(blank - blank[2, 2]).max(-1) > 0.1).mean() > 0.01
